//! Requests → batches → compute threads → exactly one answer each.
//!
//! No HTTP, no JSON, no candle. Start with [`Engine`]; the policy is in `batcher.rs`, a pure function.
//!
//! A request passes `prepare` (tokenizing, on tokio's blocking threads), the `queue` (bounded in tokens), a `worker`
//! (an OS thread that computes whole batches) and `finish`. Whatever happens on the way, its caller gets one answer.

mod batcher;

mod error;
mod feedback;
mod handle;
mod job;
mod queue;
mod registry;
mod request;
mod seat;
mod shadow;
mod share;
mod worker;

pub use error::EngineError;
pub use feedback::{Feedback, FeedbackError};
pub use handle::{Engine, EngineOptions};
pub use registry::Registry;
pub use request::{Answer, RequestContext};

pub use crate::telemetry::Timing;
