//! Reading a JSON request body within its limits: type, size, time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::config::ServerSettings;

use super::error::{ApiError, Kind};

/// Room for the bodies of all connections together. A limit on each alone would be multiplied by their number.
#[derive(Clone)]
pub(super) struct BodyRoom(Arc<Semaphore>);

/// The room that one body takes, given back when dropped; none for an empty body.
pub(super) type TakenRoom = Option<OwnedSemaphorePermit>;

impl BodyRoom {
    pub(super) fn new(bytes: usize) -> Self {
        BodyRoom(Arc::new(Semaphore::new((bytes / ROOM_UNIT).max(1))))
    }

    /// Makes what is `taken` enough for `bytes`.
    fn extend(&self, taken: &mut TakenRoom, bytes: usize) -> Result<(), ApiError> {
        let units = bytes.div_ceil(ROOM_UNIT) - taken.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = self.0.clone().try_acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX)).map_err(|_| {
            let message = "the bodies of other requests fill the memory set aside for them; try again later";
            ApiError::new(Kind::Overloaded, message).retry_after(Duration::from_secs(1))
        })?;
        match taken {
            Some(taken) => taken.merge(more),
            None => *taken = Some(more),
        }
        Ok(())
    }
}

/// What [`BodyRoom`] counts in, so that 32 bits are enough.
const ROOM_UNIT: usize = 1024;

/// A body that has been read.
#[derive(Debug)]
pub(super) struct ReadBody {
    pub bytes: Bytes,
    /// To be kept for as long as the body, or what was made of it, is in memory.
    pub room: TakenRoom,
}

/// Reads the whole body.
///
/// # Errors
/// 415 when it is not JSON, 413 when it is too large, 429 when all bodies together are, 408 when it comes too slowly,
/// 400 when it breaks off.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    settings: &ServerSettings,
    room: &BodyRoom,
) -> Result<ReadBody, ApiError> {
    check_type(headers)?;
    let limit = settings.max_body_bytes;
    let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    let mut reader = Reader::new(body, settings);
    // Room is taken as data comes, not as it is announced: an announcement costs a client nothing.
    let mut taken = None;
    let mut read = BytesMut::new();
    while let Some(piece) = reader.next().await? {
        if read.len() + piece.len() > limit {
            return Err(too_large(limit));
        }
        room.extend(&mut taken, read.len() + piece.len())?;
        read.extend_from_slice(&piece);
    }
    Ok(ReadBody { bytes: read.freeze(), room: taken })
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(Kind::PayloadTooLarge, format!("the body is larger than {limit} bytes; send fewer or shorter texts"))
}

/// A missing type is taken for JSON, as hosted inference APIs do, and so is the form type, which `curl -d` sends unasked;
/// a wrong one is refused.
fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let refuse = |message| Err(ApiError::new(Kind::UnsupportedMediaType, message));
    if headers.get(CONTENT_ENCODING).is_some_and(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return refuse("compressed bodies are not accepted; send the JSON as it is, without Content-Encoding");
    }
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let subtype = essence.strip_prefix("application/");
    match subtype {
        Some("json" | "x-www-form-urlencoded") => Ok(()),
        Some(subtype) if subtype.ends_with("+json") => Ok(()),
        _ => refuse("the content type is not JSON; send the header Content-Type: application/json"),
    }
}

/// A body with a limit on each pause and on the whole.
struct Reader {
    body: Body,
    pause: Duration,
    end: Instant,
}

impl Reader {
    fn new(body: Body, settings: &ServerSettings) -> Self {
        Reader {
            body,
            pause: Duration::from_millis(settings.body_idle_timeout_ms),
            end: Instant::now() + Duration::from_millis(settings.body_timeout_ms),
        }
    }

    /// The next piece of data; none at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            let limit = self.end.min(Instant::now() + self.pause);
            let frame = timeout_at(limit, self.body.frame()).await.map_err(|_| {
                let message = "the body came too slowly; send it without pauses, or send less at once";
                ApiError::new(Kind::RequestTimeout, message)
            })?;
            match frame {
                None => return Ok(None),
                Some(Err(_)) => {
                    return Err(ApiError::new(Kind::InvalidJson, "the body broke off before its announced end"));
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll};

    use axum::http::HeaderValue;
    use hyper::body::Frame;

    use super::*;

    const PIECE: usize = 16 * 1024;

    /// A body without an end, which counts what is taken from it.
    struct Endless(Arc<AtomicUsize>);

    impl hyper::body::Body for Endless {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            self.0.fetch_add(PIECE, Ordering::Relaxed);
            Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![b' '; PIECE])))))
        }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
    }

    fn room() -> BodyRoom {
        BodyRoom::new(usize::MAX >> 8)
    }

    fn settings(max_body_bytes: usize) -> ServerSettings {
        ServerSettings { max_body_bytes, ..ServerSettings::default() }
    }

    #[test]
    fn an_endless_body_is_read_to_the_limit_and_at_most_64_kib_further() {
        for limit in [0, 1, PIECE, 100_000, 1_000_000] {
            let taken = Arc::new(AtomicUsize::new(0));
            let body = Body::new(Endless(taken.clone()));
            let error =
                block_on(read(&HeaderMap::new(), body, &settings(limit), &room())).expect_err("the body has no end");
            assert_eq!(error.kind(), Kind::PayloadTooLarge);
            assert!(taken.load(Ordering::Relaxed) <= limit + 64 * 1024);
        }
    }

    #[test]
    fn an_announced_length_over_the_limit_is_refused_unread() {
        let taken = Arc::new(AtomicUsize::new(0));
        let headers = HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from_static("1001"))]);
        let refused = block_on(read(&headers, Body::new(Endless(taken.clone())), &settings(1000), &room()));
        assert_eq!(refused.expect_err("too long").kind(), Kind::PayloadTooLarge);
        assert_eq!(taken.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_body_of_exactly_the_limit_is_read() {
        let body = |bytes: usize| Body::from(vec![b'x'; bytes]);
        let read = |bytes| block_on(read(&HeaderMap::new(), body(bytes), &settings(1000), &room()));
        assert_eq!(read(1000).expect("it fits").bytes.len(), 1000);
        assert_eq!(read(1001).expect_err("it does not").kind(), Kind::PayloadTooLarge);
    }

    #[test]
    fn bodies_of_all_requests_share_their_room() {
        let room = BodyRoom::new(3000);
        let read = || block_on(read(&HeaderMap::new(), Body::from(vec![b'x'; 1000]), &settings(1000), &room));
        let first = read().expect("there is room");
        let second = read().expect("there is room");
        assert_eq!(first.bytes, second.bytes);
        assert_eq!(read().expect_err("there is none for a third").kind(), Kind::Overloaded);
        drop(first);
        assert!(read().is_ok(), "room comes back");
    }
}
