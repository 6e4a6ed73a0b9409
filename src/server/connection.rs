//! One client connection: hyper's HTTP/1 under our time limits.
//!
//! hyper knows one limit for the head of a request, and counts the idle time before it too. [`TimedStream`] separates
//! the two, and adds the limit that hyper lacks: on a client that does not read its answer.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, timeout};
use tower::ServiceExt;

use crate::config::ServerSettings;

use super::error::{ApiError, Dialect, Kind};
use super::request::{REQUEST_ID, RequestId};

/// Room for one request head; hyper's default would let one connection hold 400 KiB of headers.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Most header lines in one request.
const MAX_HEADERS: usize = 64;
/// At shutdown: how long a connection without a request is listened to before it is closed. A request that was
/// already on its way is answered.
const CLOSING_GRACE: Duration = Duration::from_millis(100);
/// How long a refused client has to take its refusal.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// Just accepted; not one byte came yet.
    Fresh,
    /// No request; waiting for the first byte of the next one.
    Idle,
    /// Reading a request head.
    Head,
    /// A request is read or answered.
    Busy,
}

/// The phase of one connection, shared by its stream and its service.
#[derive(Debug)]
struct Activity(AtomicU8);

impl Activity {
    fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Relaxed);
    }

    fn is(&self, phase: Phase) -> bool {
        self.0.load(Ordering::Relaxed) == phase as u8
    }
}

/// Serves requests of one client until it leaves, breaks a limit, or the server shuts down.
///
/// When `draining` turns true, the request in progress is answered, and the connection closed.
pub(super) async fn serve(
    stream: TcpStream,
    router: Router,
    settings: &ServerSettings,
    mut draining: watch::Receiver<bool>,
) {
    // Answers are written whole; waiting to fill a packet only adds latency. Failing to set it breaks nothing.
    let _ = stream.set_nodelay(true);
    let activity = Arc::new(Activity(AtomicU8::new(Phase::Fresh as u8)));
    let stream = TimedStream::new(stream, activity.clone(), settings);
    let service = hyper::service::service_fn({
        let activity = activity.clone();
        move |request: Request<Incoming>| {
            activity.set(Phase::Busy);
            let (router, activity) = (router.clone(), activity.clone());
            async move { router.oneshot(request).await.map(|answer| idle_after(answer, activity)) }
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(settings.idle_timeout_ms))
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);

    tokio::select! {
        biased;
        ended = &mut connection => return log_end(ended),
        _ = draining.wait_for(|draining| *draining) => {}
    }
    // hyper closes at once when asked between two requests, even if half a head is read. A busy connection ends by
    // itself, because every answer now says `Connection: close`.
    loop {
        tokio::select! {
            biased;
            ended = &mut connection => return log_end(ended),
            () = tokio::time::sleep(CLOSING_GRACE) => {}
        }
        if !activity.is(Phase::Head) {
            break;
        }
    }
    connection.as_mut().graceful_shutdown();
    log_end(connection.await);
}

/// How a connection ended is the client's business: nothing to do but to tell whoever debugs.
fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// Tells a client over the cap to come back, without reading what it sends.
pub(super) async fn refuse(mut stream: TcpStream) {
    let refusal = async {
        let answer = refusal();
        let mut sent = 0;
        while sent < answer.len() {
            sent += poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, &answer[sent..])).await?;
        }
        poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await?;
        discard(&mut stream).await
    };
    let _ = timeout(REFUSAL_TIMEOUT, refusal).await;
}

/// Reads and forgets until the client closes. Closing with unread bytes would reset the connection, and the reset
/// could overtake the answer.
async fn discard(stream: &mut TcpStream) -> io::Result<()> {
    let mut bytes = [0; 1024];
    loop {
        let mut piece = ReadBuf::new(&mut bytes);
        poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut piece)).await?;
        if piece.filled().is_empty() {
            return Ok(());
        }
    }
}

/// The whole answer to a client over the cap. The path is unknown, so the body is the native one.
fn refusal() -> Vec<u8> {
    let request_id = RequestId::fresh();
    let error = ApiError::new(Kind::TooManyConnections, "too many open connections; try again later")
        .retry_after(Duration::from_secs(1));
    let answer = error.render(Dialect::Native, request_id.as_str());
    let mut head = format!("HTTP/1.1 {}\r\n{REQUEST_ID}: {}\r\n", answer.status(), request_id.as_str());
    for (name, value) in answer.headers() {
        head.extend([name.as_str(), ": ", value.to_str().unwrap_or_default(), "\r\n"]);
    }
    let body = error.body(Dialect::Native, request_id.as_str());
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    [head.into_bytes(), body].concat()
}

/// Marks the connection idle once the answer's body has been handed over.
fn idle_after(answer: Response<Body>, activity: Arc<Activity>) -> Response<AnswerBody> {
    answer.map(|body| AnswerBody { body, activity })
}

/// A response body that tells when it is done with.
struct AnswerBody {
    body: Body,
    activity: Arc<Activity>,
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.activity.set(Phase::Idle);
    }
}

/// A socket with a limit on the time a request head takes, and on how long a write may make no progress.
struct TimedStream {
    stream: TcpStream,
    activity: Arc<Activity>,
    head_timeout: Duration,
    head_limit: Pin<Box<Sleep>>,
    write_timeout: Duration,
    /// Runs while a write waits for the client.
    write_limit: Option<Pin<Box<Sleep>>>,
}

impl TimedStream {
    fn new(stream: TcpStream, activity: Arc<Activity>, settings: &ServerSettings) -> Self {
        let head_timeout = Duration::from_millis(settings.header_timeout_ms);
        TimedStream {
            stream,
            activity,
            head_timeout,
            head_limit: Box::pin(tokio::time::sleep(head_timeout)),
            write_timeout: Duration::from_millis(settings.write_timeout_ms),
            write_limit: None,
        }
    }

    /// Fails a write that has waited too long; otherwise passes `progress` on.
    fn limit_write<T>(
        mut self: Pin<&mut Self>,
        progress: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.write_limit = None;
            return progress;
        }
        let write_timeout = self.write_timeout;
        let limit = self.write_limit.get_or_insert_with(|| Box::pin(tokio::time::sleep(write_timeout)));
        ready!(limit.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answer")))
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Ready(done) => {
                let came = buf.filled().len() > before;
                if came && self.activity.is(Phase::Idle) {
                    let limit = Instant::now() + self.head_timeout;
                    self.head_limit.as_mut().reset(limit);
                }
                if came && !self.activity.is(Phase::Busy) {
                    self.activity.set(Phase::Head);
                }
                Poll::Ready(done)
            }
            Poll::Pending if self.activity.is(Phase::Fresh) || self.activity.is(Phase::Head) => {
                ready!(self.head_limit.as_mut().poll(cx));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the request head came too slowly")))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.limit_write(progress, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.limit_write(progress, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
