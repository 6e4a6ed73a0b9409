//! The accept loop and the way out: cap on connections, then readiness off, lame duck, late requests refused, drain, force.
//!
//! `axum::serve` has no header timeout, no cap and no limit on shutdown, so the loop is ours, on hyper.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use super::{AppState, connection};

/// Pause after an accept error that is not one connection's own, such as no free file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections over the cap that are told so at a time; more are closed without a word.
const MAX_REFUSALS: usize = 64;
/// After the drain limit: time to send the answers that say so.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How the way out went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Connections that were open when the listener closed.
    pub connections: usize,
    /// Of these, how many were still open when time was up.
    pub forced: usize,
    /// From the signal to the end.
    pub elapsed: Duration,
}

/// Serves `router` on `listener` until `shutdown`, then drains.
///
/// # Errors
/// When the listener cannot be taken over for the last accepts.
pub(super) async fn accept_loop(
    listener: TcpListener,
    router: Router,
    app: &AppState,
    shutdown: impl Future<Output = ()>,
) -> io::Result<ShutdownReport> {
    let settings = &app.settings.server;
    let (drain, draining) = watch::channel(false);
    let mut clients = Clients {
        tasks: JoinSet::new(),
        refusals: JoinSet::new(),
        room: Arc::new(Semaphore::new(settings.max_connections)),
        router,
        app: app.clone(),
        draining,
    };

    clients.accept_until(&listener, shutdown).await;
    let signalled = Instant::now();
    app.begin_drain();
    clients.accept_until(&listener, sleep(Duration::from_millis(settings.lame_duck_ms))).await;

    app.refuse_late();
    clients.accept_waiting(listener)?;
    let connections = clients.tasks.len();
    drain.send_replace(true);
    let limit = tokio::time::Instant::now() + Duration::from_millis(settings.drain_timeout_ms);
    tokio::select! {
        () = clients.all_gone() => {}
        () = sleep_until(limit) => {
            app.give_up();
            let _ = timeout(LAST_WORDS, clients.all_gone()).await;
        }
    }
    let forced = clients.tasks.len();
    clients.tasks.shutdown().await;
    clients.refusals.shutdown().await;
    Ok(ShutdownReport { connections, forced, elapsed: signalled.elapsed() })
}

/// Every open connection.
struct Clients {
    tasks: JoinSet<()>,
    refusals: JoinSet<()>,
    room: Arc<Semaphore>,
    router: Router,
    app: AppState,
    draining: watch::Receiver<bool>,
}

impl Clients {
    /// Accepts until `stop`.
    async fn accept_until(&mut self, listener: &TcpListener, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return,
                Some(ended) = self.tasks.join_next() => log_panic(ended),
                Some(ended) = self.refusals.join_next() => log_panic(ended),
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.welcome(stream),
                    Err(error) if is_one_connections_own(&error) => {}
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    /// Closes the listener, but first takes every connection that the kernel has already accepted: closing would
    /// reset them.
    fn accept_waiting(&mut self, listener: TcpListener) -> io::Result<()> {
        let listener = listener.into_std()?;
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            self.welcome(TcpStream::from_std(stream)?);
        }
        Ok(())
    }

    fn welcome(&mut self, stream: TcpStream) {
        match self.room.clone().try_acquire_owned() {
            Ok(place) => {
                let (router, app, draining) = (self.router.clone(), self.app.clone(), self.draining.clone());
                self.tasks.spawn(async move {
                    let _guards = (place, app.metrics.connection());
                    connection::serve(stream, router, &app.settings.server, draining).await;
                });
            }
            Err(_) => {
                self.app.metrics.connection_refused();
                if self.refusals.len() < MAX_REFUSALS {
                    self.refusals.spawn(connection::refuse(stream));
                }
            }
        }
    }

    async fn all_gone(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            log_panic(ended);
        }
    }
}

/// Errors of a connection that was gone before it was accepted; the next one may be fine.
fn is_one_connections_own(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection task panicked");
    }
}
