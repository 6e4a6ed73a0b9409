//! `GET /livez`, `/readyz`, `/health`. None of them waits for the engine, so a busy server answers at once.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::EngineError;
use crate::server::AppState;
use crate::server::error::{ApiError, NativeErrorBody};

/// What a probe is told.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::server) struct Status {
    /// Always `ok`; the status code says the rest.
    #[schema(example = "ok")]
    pub status: &'static str,
}

const OK: Json<Status> = Json(Status { status: "ok" });

/// Is the process alive
#[utoipa::path(
    get,
    path = "/livez",
    tag = "probes",
    responses((status = 200, description = "The process answers", body = Status))
)]
pub(in crate::server) async fn livez() -> Json<Status> {
    OK
}

/// Should requests be sent here
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "probes",
    responses(
        (status = 200, description = "Requests are answered", body = Status),
        (status = 503, description = "Shutting down", body = NativeErrorBody),
    )
)]
pub(in crate::server) async fn readyz(State(app): State<AppState>) -> Result<Json<Status>, ApiError> {
    if app.is_draining() {
        return Err(EngineError::Draining.into());
    }
    Ok(OK)
}

/// The same as `/readyz`
#[utoipa::path(
    get,
    path = "/health",
    tag = "probes",
    responses(
        (status = 200, description = "Requests are answered", body = Status),
        (status = 503, description = "Shutting down", body = NativeErrorBody),
    )
)]
pub(in crate::server) async fn health(state: State<AppState>) -> Result<Json<Status>, ApiError> {
    readyz(state).await
}
