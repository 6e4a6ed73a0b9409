//! `GET /metrics`.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::IntoResponse;

use crate::server::AppState;
use crate::telemetry::TextFormat;

/// Figures for Prometheus
///
/// OpenMetrics when the client accepts it, otherwise Prometheus text.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "probes",
    responses((status = 200, description = "Every metric", body = String, content_type = "text/plain"))
)]
pub(in crate::server) async fn metrics(State(app): State<AppState>, headers: HeaderMap) -> impl IntoResponse {
    let format = TextFormat::for_accept(headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()));
    ([(CONTENT_TYPE, format.content_type())], app.metrics.encode(format))
}
