//! Requests → batches → compute threads → exactly one answer each.
//!
//! No HTTP, no JSON, no candle. Start with [`Engine`]; the policy is in `batcher.rs`, a pure function.

mod error;
mod registry;
mod request;

pub use error::EngineError;
pub use registry::Registry;
pub use request::{Answer, DrainReport, RequestContext};
