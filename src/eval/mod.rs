//! How good a model is: scores on labelled data with their intervals, what changed against another model, and how
//! honest the scores are.
//!
//! Everything runs through the same pipelines that serve, so what is measured is what is served. Several models see the
//! same texts in turn, a few at a time, so that what disturbs the machine disturbs all of them.

pub mod calibration;
pub mod classification;
pub mod correlation;
pub mod embedding;
mod error;
pub mod interval;
pub mod labels;
pub mod latency;
pub mod metrics;
pub mod multi_label;
pub mod paired;
pub mod products;
pub mod rouge;
pub mod rounds;
pub mod speed;
pub mod summaries;
pub mod valence;

pub use error::EvalError;

/// Texts that run together; progress is told after each lot.
const TEXTS_AT_ONCE: usize = 64;
const BATCH_TOKENS: usize = 4096;
