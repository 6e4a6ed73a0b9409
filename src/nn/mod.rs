//! The candle executor: every architecture as tensors and modules, in f32.
//!
//! It is the reference that the int8 executor (`runtime`) is measured against, the f32 half of comparisons, and
//! what training builds on: every step is made of differentiable operations (candle's fused layer norm and softmax
//! cut gradients silently, so they are not used). Serving int8 at speed is the business of `runtime`, not of this
//! folder.
//!
//! Start with [`CandleEncoder`]; [`Linear`] is the only place that chooses what a matrix product runs in.
//!
//! # Threads
//!
//! A forward pass runs inside a rayon pool that its workspace owns, so rayon's global pool is never touched. candle
//! reads two variables from the environment of the process, and they have to be set there: `RAYON_NUM_THREADS`
//! says into how many tasks a matrix product is split (when unset, candle parses `/proc/cpuinfo` for each product),
//! and `CANDLE_NUM_THREADS=1` keeps element-wise steps of 65 536 elements and more off candle's process-wide
//! barrier pool, which would run the callers of different threads one after another.

mod attention;
mod embedding;
mod encoder;
mod int8_op;
mod linear;
mod norm;
mod parameters;
#[cfg(test)]
mod tests;

pub use encoder::CandleEncoder;
pub use linear::{Linear, Precision};
pub use parameters::{Parameters, Stored, Trainable};
