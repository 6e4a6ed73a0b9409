//! Training, on CPU, through candle's automatic differentiation.
//!
//! Here: a classification head on a frozen encoder. The encoder runs once over the texts; the head trains on its
//! pooled vectors.

pub mod head;
