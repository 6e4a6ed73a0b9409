//! Every route and every layer, in one place each.

use std::any::Any;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;

use crate::telemetry::{RequestRecord, Route};

use super::AppState;
use super::auth;
use super::error::{ApiError, Kind};
use super::request;
use super::routes::{classify, docs, embeddings, feedback, health, metrics, models, predict, summarize};

/// Route label of a request that no route matches.
const UNMATCHED: &str = "_unmatched";

/// Statuses of a task's route before it is known which model is asked.
const TASK: &[u16] = &[400, 401, 404, 405, 408, 413, 415, 422, 429, 499, 500, 503];
/// Statuses of the route that takes labels.
const LABELS: &[u16] = &[200, 400, 401, 404, 405, 408, 409, 413, 415, 429, 499, 500, 503];
/// Statuses of a route that always has its answer.
const PAGE: &[u16] = &[200, 405, 499, 500];
/// Statuses of a route that says no while the server shuts down.
const PROBE: &[u16] = &[200, 405, 499, 500, 503];
/// Statuses of a route that always has its answer, for those who have the key.
const GUARDED: &[u16] = &[200, 401, 405, 499, 500];
/// Statuses of a route that may not find what is asked for.
const LOOKUP: &[u16] = &[200, 401, 404, 405, 499, 500];
/// Statuses of no route.
const NOWHERE: &[u16] = &[404, 499, 500];

/// Every route template with its task and statuses, as metrics need them.
pub const ROUTES: &[Route] = &[
    Route { path: "/v1/classify", task: Some("classify"), codes: TASK },
    Route { path: "/v1/summarize", task: Some("summarize"), codes: TASK },
    Route { path: "/v1/embeddings", task: Some("embed"), codes: TASK },
    Route { path: "/predict", task: Some("classify"), codes: TASK },
    Route { path: "/v1/feedback", task: None, codes: LABELS },
    Route { path: "/v1/models", task: None, codes: GUARDED },
    Route { path: "/v1/models/{*id}", task: None, codes: LOOKUP },
    Route { path: "/info", task: None, codes: GUARDED },
    Route { path: "/livez", task: None, codes: PAGE },
    Route { path: "/readyz", task: None, codes: PROBE },
    Route { path: "/health", task: None, codes: PROBE },
    Route { path: "/metrics", task: None, codes: PAGE },
    Route { path: "/openapi.json", task: None, codes: PAGE },
    Route { path: "/docs", task: None, codes: PAGE },
    Route { path: UNMATCHED, task: None, codes: NOWHERE },
];

/// The whole HTTP surface.
pub(super) fn router(app: AppState) -> Router {
    Router::new()
        .route("/v1/classify", post(classify::classify))
        .route("/v1/summarize", post(summarize::summarize))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/predict", post(predict::predict))
        .route("/v1/feedback", post(feedback::feedback))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/info", get(models::info))
        // Only the routes above: probes, metrics and documentation are for everybody who reaches the port.
        .route_layer(from_fn_with_state(app.clone(), auth::check))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/health", get(health::health))
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(docs::openapi))
        .route("/docs", get(docs::page))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        // Layers, innermost first; the last one sees a request first and its answer last. Limits on the head and on
        // connections stand before them (connection.rs), limits on the body behind them, where it is read (body.rs).
        //
        // A panic in a handler becomes an ordinary 500, so that everything further out treats it like one.
        .layer(CatchPanicLayer::custom(panicked))
        // Gives the id, writes error bodies with it, and puts it on every answer, those of panics and 404s included.
        .layer(from_fn_with_state(app.clone(), request::context))
        // Outermost: sees the final status, and by its `Drop` also the requests whose client went away.
        .layer(from_fn_with_state(app.clone(), measure))
        .with_state(app)
}

/// Records every request once, whatever becomes of it.
async fn measure(State(app): State<AppState>, path: Option<MatchedPath>, mut request: Request, next: Next) -> Response {
    let record = RequestRecord::new(Instant::now());
    request.extensions_mut().insert(record.clone());
    let matched = path.as_ref().map(MatchedPath::as_str);
    let route = ROUTES.iter().find(|route| Some(route.path) == matched).map_or(UNMATCHED, |route| route.path);
    let guard = app.metrics.request(route, record);
    let response = next.run(request).await;
    let status = response.status().as_u16();
    let seconds = guard.finish(status).as_secs_f64();
    let id = response.headers().get(request::REQUEST_ID).and_then(|id| id.to_str().ok());
    tracing::debug!(id, route, status, seconds, "request");
    response
}

/// A bug of ours; where it happened is in the log, written by the panic hook.
fn panicked(_: Box<dyn Any + Send>) -> Response {
    ApiError::backend("a handler panicked").into_response()
}

async fn not_found() -> ApiError {
    ApiError::new(Kind::NotFound, "no such route; GET /docs lists the routes")
}

async fn method_not_allowed() -> ApiError {
    ApiError::new(Kind::MethodNotAllowed, "this route does not answer that method; see the Allow header")
}
