//! The OpenAPI document, from the handlers and the types they read and write.

use utoipa::OpenApi;

use super::routes::{classify, docs, embeddings, feedback, health, metrics, models, predict, summarize};

/// Every route. A test asks each of them over a socket.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Octet",
        description = "int8 text classification, extractive summaries and embeddings.\n\n\
                       Every answer has `X-Request-Id`; a request may bring its own. `X-Request-Timeout-Ms` says how \
                       long the client waits.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    servers((url = "/")),
    paths(
        classify::classify,
        summarize::summarize,
        embeddings::embeddings,
        predict::predict,
        feedback::feedback,
        models::list,
        models::one,
        models::info,
        health::livez,
        health::readyz,
        health::health,
        metrics::metrics,
        docs::openapi,
        docs::page,
    )
)]
struct Document;

/// The document as JSON.
pub(super) fn document() -> Vec<u8> {
    serde_json::to_vec(&Document::openapi()).expect("an OpenAPI document is plain JSON")
}
