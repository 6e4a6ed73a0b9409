//! The key that clients must send, when one is set.

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};

use super::AppState;
use super::error::{ApiError, Kind};

/// Lets a request through when no key is set, or when it carries the key.
pub(super) async fn check(State(app): State<AppState>, request: Request, next: Next) -> Result<Response, ApiError> {
    let key = &app.settings.server.api_key;
    if key.is_empty() || carries(request.headers(), key) {
        return Ok(next.run(request).await);
    }
    Err(ApiError::new(Kind::Unauthorized, "the key is missing or wrong; send it as \"Authorization: Bearer KEY\""))
}

/// Digests are compared instead of the keys, so that the time it takes says nothing about the key.
fn carries(headers: &HeaderMap, key: &str) -> bool {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given =
        given.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    given.is_some_and(|(_, token)| Sha256::digest(token.trim()) == Sha256::digest(key))
}
