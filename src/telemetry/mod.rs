//! What the server tells about itself: logs and Prometheus metrics. A leaf: it imports nothing of ours.
//!
//! `catalogue.rs` lists every metric once. A [`RequestRecord`] follows one request through the house, and a
//! [`RequestGuard`] turns it into figures when the request ends, however it ends. `live.rs` follows accuracy: windows of time
//! that become gauges at each scrape.

mod catalogue;
mod live;
pub mod logging;
mod metrics;
mod process;
mod record;
mod statistics;
mod window;

pub use catalogue::{Definition, definitions, reference_page};
pub use live::{Bins, Comparison, Labelled, ReferenceFacts, ShadowDrop, ShadowKind};
pub use metrics::{
    ConnectionGuard, InFlightGuard, Metrics, ModelFacts, Prediction, RequestGuard, Route, TextFormat, Trigger,
};
pub use record::{Rejection, RequestRecord, Stage, Timing};
