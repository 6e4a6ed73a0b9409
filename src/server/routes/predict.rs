//! `POST /predict`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use crate::server::AppState;
use crate::server::error::{ApiError, NativeErrorBody};
use crate::server::schema::predict::{PredictRequest, PredictResponse};

use super::{Admitted, Call};

/// Classify texts or pairs, as text-embeddings-inference has it
///
/// A flat list of two strings is one pair; a batch is a list of lists.
#[utoipa::path(
    post,
    path = "/predict",
    tag = "tasks",
    request_body = PredictRequest,
    responses(
        (status = 200, description = "Labels with scores, best first", body = PredictResponse),
        (status = "4XX", description = "The request cannot be answered", body = NativeErrorBody),
        (status = "5XX", description = "The server cannot answer now", body = NativeErrorBody),
    )
)]
pub(in crate::server) async fn predict(
    State(app): State<AppState>,
    call: Call<PredictRequest>,
) -> Result<Response, ApiError> {
    let (call, batch) = call.try_split(PredictRequest::into_task)?;
    let Admitted { task, context, reply } = call.admit(&app)?;
    let answer = app.engine.classify(task.model.as_deref(), task.inputs, task.options, context).await?;
    let headers = reply.headers(&answer);
    Ok((headers, Json(PredictResponse::new(answer.outputs, batch))).into_response())
}
