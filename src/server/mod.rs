//! HTTP and JSON, nothing else: requests become task inputs for the engine, its answers become responses.
//!
//! Read `router.rs` first: every route and layer stands there. A handler (`routes/`) parses (`body.rs`, `json.rs`,
//! `schema/`), makes one call to the engine, and answers; `error.rs` holds the whole error table. `accept.rs` and
//! `connection.rs` guard the way in and the way out.

mod accept;
mod auth;
mod body;
mod connection;
mod error;
mod json;
mod openapi;
mod request;
mod router;
mod routes;
mod schema;

use std::future::Future;
use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::net::TcpListener;

use crate::config::Settings;
use crate::engine::Engine;
use crate::telemetry::Metrics;

pub use accept::ShutdownReport;
pub use router::ROUTES;

use body::BodyRoom;

/// Serves `engine` on `listener` until `shutdown` completes, then drains: readiness off, lame duck, listener closed and
/// late requests refused, requests in progress answered, and after `server.drain_timeout_ms` the rest refused too.
///
/// # Errors
/// When the listener fails for good.
pub async fn run(
    listener: TcpListener,
    engine: Engine,
    settings: &Settings,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<ShutdownReport> {
    let app = AppState(Arc::new(App {
        engine,
        settings: settings.clone(),
        body_room: BodyRoom::new(settings.server.max_total_body_bytes),
        metrics,
        refusing: AtomicBool::new(false),
        started: routes::unix_seconds(SystemTime::now()),
        openapi: openapi::document().into(),
    }));
    accept::accept_loop(listener, router::router(app.clone()), &app, shutdown).await
}

/// What every handler can reach. Cheap to clone.
#[derive(Clone)]
struct AppState(Arc<App>);

struct App {
    engine: Engine,
    settings: Settings,
    body_room: BodyRoom,
    metrics: Arc<Metrics>,
    /// Set once, when the lame duck is over.
    refusing: AtomicBool,
    /// Seconds since 1970.
    started: u64,
    openapi: Bytes,
}

impl Deref for AppState {
    type Target = App;

    fn deref(&self) -> &App {
        &self.0
    }
}

impl AppState {
    /// Whether the shutdown has begun.
    fn is_draining(&self) -> bool {
        !self.engine.is_ready()
    }

    /// Stops being ready; from now on every answer asks its client to leave.
    fn begin_drain(&self) {
        self.engine.begin_drain();
    }

    /// Whether requests that arrive now are refused.
    fn is_refusing(&self) -> bool {
        self.refusing.load(Ordering::Relaxed)
    }

    /// Refuses requests that arrive from now on; those that have arrived are still answered.
    fn refuse_late(&self) {
        self.refusing.store(true, Ordering::Relaxed);
    }

    /// Refuses what the engine still holds.
    fn give_up(&self) {
        self.engine.close();
    }
}
