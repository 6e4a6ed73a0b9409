//! How good a model is: scores on labelled data, and agreement with its float original.

pub mod metrics;
pub mod rouge;
