//! How good a model is: scores on labelled data, and closeness to its float original.
//!
//! Everything runs through the same pipelines that serve, so what is measured is what is served.

pub mod classification;
pub mod embedding;
pub mod metrics;
pub mod rouge;
pub mod rounds;
pub mod speed;
