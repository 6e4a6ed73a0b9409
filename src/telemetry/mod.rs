//! What the server tells about itself: logs and Prometheus metrics. A leaf: it imports nothing of ours.
//!
//! `catalogue.rs` lists every metric once. A [`RequestRecord`] follows one request through the house, and a
//! [`RequestGuard`] turns it into figures when the request ends, however it ends.

mod catalogue;
pub mod logging;
mod metrics;
mod process;
mod record;

pub use catalogue::{Definition, definitions, reference_page};
pub use metrics::{ConnectionGuard, InFlightGuard, Metrics, ModelFacts, RequestGuard, Route, TextFormat, Trigger};
pub use record::{Rejection, RequestRecord, Stage, Timing};
