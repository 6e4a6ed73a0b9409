//! `GET /v1/models`, `GET /v1/models/{id}`, `GET /info`.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};

use crate::server::AppState;
use crate::server::error::{ApiError, Kind, OpenAiErrorBody};
use crate::server::schema::models::{Info, ModelItem, ModelList};

/// List the models
#[utoipa::path(
    get,
    path = "/v1/models",
    tag = "models",
    responses((status = 200, description = "Every model that is served", body = ModelList))
)]
pub(in crate::server) async fn list(State(app): State<AppState>) -> Json<ModelList> {
    Json(ModelList { object: "list", data: items(&app) })
}

/// One model
///
/// A name with a slash may be written as it is.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    tag = "models",
    params(("id" = String, Path, description = "Name of the model")),
    responses(
        (status = 200, description = "The model", body = ModelItem),
        (status = 404, description = "No model has this name", body = OpenAiErrorBody),
    )
)]
pub(in crate::server) async fn one(
    State(app): State<AppState>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<ModelItem>, ApiError> {
    let model = id.ok().and_then(|Path(id)| app.engine.registry().get(&id).cloned());
    let not_found = || ApiError::new(Kind::ModelNotFound, "no such model; GET /v1/models lists the models").param("id");
    Ok(Json(ModelItem::new(&*model.ok_or_else(not_found)?, app.started)))
}

/// What this server is
#[utoipa::path(
    get,
    path = "/info",
    tag = "models",
    responses((status = 200, description = "Limits, version and models", body = Info))
)]
pub(in crate::server) async fn info(State(app): State<AppState>) -> Json<Info> {
    let first = app.engine.registry().models().first().map(|model| &model.info);
    Json(Info {
        model_id: first.map(|info| info.id.clone()),
        model_sha: first.map(|info| info.version.clone()),
        model_dtype: first.map(|info| info.precision.clone()),
        max_input_length: first.map(|info| info.max_tokens),
        max_batch_tokens: app.settings.batching.max_batch_tokens,
        max_client_batch_size: app.settings.server.max_inputs,
        max_body_bytes: app.settings.server.max_body_bytes,
        max_queue_tokens: app.settings.batching.max_queue_tokens,
        version: env!("CARGO_PKG_VERSION"),
        models: items(&app),
    })
}

fn items(app: &AppState) -> Vec<ModelItem> {
    app.engine.registry().models().iter().map(|model| ModelItem::new(model, app.started)).collect()
}
