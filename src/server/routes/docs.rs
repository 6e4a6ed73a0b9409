//! `GET /openapi.json` and `GET /docs`.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{Html, IntoResponse};

use crate::server::AppState;

/// This interface as OpenAPI
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "docs",
    responses((status = 200, description = "The OpenAPI document", content_type = "application/json"))
)]
pub(in crate::server) async fn openapi(State(app): State<AppState>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], app.openapi.clone())
}

/// A page to try the routes on
#[utoipa::path(
    get,
    path = "/docs",
    tag = "docs",
    responses((status = 200, description = "A web page", body = String, content_type = "text/html"))
)]
pub(in crate::server) async fn page() -> impl IntoResponse {
    Html(include_str!("../docs.html"))
}
