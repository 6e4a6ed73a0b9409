//! The fused int8 executor that serves: any [`EncoderSpec`](crate::architectures::EncoderSpec) over plain slices.
//!
//! Weights are packed once for the CPU at hand and shared by all threads; a thread owns one [`Workspace`] and
//! allocates nothing once it has grown. Activations are quantized where they are produced. No padding exists, and no
//! sequence's rows depend on another's.
//!
//! Start with [`Int8Encoder`].

mod embeddings;
mod encoder;
mod matrix;
mod team;
mod workspace;

pub use encoder::{EncoderBytes, Int8Encoder};

pub use workspace::Workspace;

/// Name of what this executor does, in `quant.json`, metrics and logs: weights in int8, activations in uint8, quantized
/// per token as they come, always with a zero point.
pub const SCHEME: &str = "w8a8-dynamic";
