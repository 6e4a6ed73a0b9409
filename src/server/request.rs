//! What every request carries: an id and a deadline; and the layer that puts the id on every answer.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::header::CONNECTION;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;

use crate::telemetry::RequestRecord;

use super::AppState;
use super::error::{ApiError, Dialect, Kind};

/// In and out: the id that names a request in logs, errors and answers.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// In: how many milliseconds the client waits.
pub(super) const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");

/// Longest id taken from a client.
const MAX_ID_LEN: usize = 128;

/// Names one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestId(String);

impl RequestId {
    /// The client's own id when it is 1 to 128 visible ASCII characters, otherwise a fresh one.
    fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(REQUEST_ID).map(HeaderValue::as_bytes);
        match given {
            Some(id) if (1..=MAX_ID_LEN).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic) => {
                RequestId(String::from_utf8_lossy(id).into_owned())
            }
            _ => RequestId::fresh(),
        }
    }

    /// 32 hex digits that no other request has: a counter, hashed with keys that each process draws anew.
    pub(crate) fn fresh() -> Self {
        static KEYS: OnceLock<[RandomState; 2]> = OnceLock::new();
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let [high, low] = KEYS.get_or_init(|| [RandomState::new(), RandomState::new()]);
        RequestId(format!("{:016x}{:016x}", high.hash_one(number), low.hash_one(number)))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Gives the request its id, turns an [`ApiError`] into its body and its reason, and puts the id on the answer.
///
/// While the server drains, every answer asks the client to close the connection.
pub(super) async fn context(State(app): State<AppState>, mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    let dialect = Dialect::of(request.uri().path());
    request.extensions_mut().insert(id.clone());
    let record = request.extensions().get::<RequestRecord>().cloned();
    let span = tracing::debug_span!("request", id = id.as_str());

    let mut response = next.run(request).instrument(span.clone()).await;
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let _in_span = span.enter();
        log(&error, dialect);
        if let (Some(record), Some(reason)) = (record, error.kind().rejection()) {
            record.reject(reason);
        }
        let allow = response.headers_mut().remove(axum::http::header::ALLOW);
        response = error.render(dialect, id.as_str());
        if let Some(allow) = allow {
            response.headers_mut().insert(axum::http::header::ALLOW, allow);
        }
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, HeaderValue::from_str(id.as_str()).expect("an id is visible ASCII"));
    if app.is_draining() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Our own faults are errors in the log; the client's are for whoever debugs.
fn log(error: &ApiError, dialect: Dialect) {
    let status = error.status(dialect).as_u16();
    let (kind, cause) = (error.kind(), error.cause().unwrap_or_default());
    if kind == Kind::Backend {
        tracing::error!(status, ?kind, cause, "request failed");
    } else {
        tracing::debug!(status, ?kind, cause, "request refused");
    }
}

/// The moment after which nobody waits for the answer: the smallest of the server's limit, the header
/// `X-Request-Timeout-Ms` and the body's `timeout_ms`, counted from the arrival.
///
/// # Errors
/// 400 when a limit is 0 or not a number.
pub(super) fn deadline(
    arrived: Instant,
    headers: &HeaderMap,
    body_timeout_ms: Option<u64>,
    server_limit: Duration,
) -> Result<Instant, ApiError> {
    let mut limit = server_limit;
    if let Some(value) = headers.get(REQUEST_TIMEOUT) {
        let millis = value.to_str().ok().and_then(|text| text.parse::<u64>().ok()).filter(|millis| *millis > 0);
        let millis = millis.ok_or_else(|| bad_timeout("X-Request-Timeout-Ms"))?;
        limit = limit.min(Duration::from_millis(millis));
    }
    if let Some(millis) = body_timeout_ms {
        if millis == 0 {
            return Err(bad_timeout("timeout_ms"));
        }
        limit = limit.min(Duration::from_millis(millis));
    }
    Ok(arrived + limit)
}

fn bad_timeout(name: &str) -> ApiError {
    ApiError::new(Kind::InvalidHeader, format!("{name}: must be a whole number of milliseconds, at least 1"))
        .param(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_limit_is_the_deadline() {
        let arrived = Instant::now();
        let server = Duration::from_secs(30);
        let header = |value: &'static str| HeaderMap::from_iter([(REQUEST_TIMEOUT, HeaderValue::from_static(value))]);
        let limit = |headers, body| deadline(arrived, &headers, body, server).map(|d| (d - arrived).as_millis());
        assert_eq!(limit(HeaderMap::new(), None).ok(), Some(30_000));
        assert_eq!(limit(header("200"), None).ok(), Some(200));
        assert_eq!(limit(header("200"), Some(100)).ok(), Some(100));
        assert_eq!(limit(header("100"), Some(200)).ok(), Some(100));
        assert_eq!(limit(header("99999999999"), Some(u64::MAX)).ok(), Some(30_000));
        for (headers, body) in [
            (header("0"), None),
            (header("-1"), None),
            (header("1.5"), None),
            (header("soon"), Some(1)),
            (header("99999999999999999999999"), None),
            (HeaderMap::new(), Some(0)),
        ] {
            let error = limit(headers, body).expect_err("no such limit");
            assert_eq!(error.status(Dialect::Native), 400);
        }
    }
}
