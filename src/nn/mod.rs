//! The candle executor: every architecture as tensors and modules, in f32.
//!
//! It is the reference that the int8 executor (`runtime`) is measured against, the f32 half of comparisons, and
//! what training builds on: every float step has a gradient. candle's fused layer norm and softmax cut gradients
//! silently, so they are not used; `fused` has operations of our own with backward passes. Serving int8 at speed is
//! the business of `runtime`, not of this folder.
//!
//! Start with [`CandleEncoder`]; [`Linear`] is the only place that chooses what a matrix product runs in.
//!
//! # Threads
//!
//! A forward pass runs inside a rayon pool that its workspace owns; rayon's global pool is never started. candle
//! itself reads `RAYON_NUM_THREADS` from the environment of the process, and a program that runs this executor should
//! be started with `RAYON_NUM_THREADS=1`, as `octet train` and a server with a shadow start themselves. When the
//! variable is unset, candle parses `/proc/cpuinfo` for each matrix product, and element-wise steps over 65 536 values
//! and more go to a process-wide pool of its own (`candle-bp-*`) that serves one caller at a time;
//! `CANDLE_NUM_THREADS=1` stops only the latter.

mod attention;
mod embedding;
mod encoder;
mod fake_quantize;
mod fused;
mod int8_op;
mod learned_step;
mod linear;
mod norm;
mod parameters;
#[cfg(test)]
mod tests;

pub use encoder::{CandleEncoder, Enters, See, Site};
pub use fused::{Dropout, Products, Relation, linear};
pub use linear::{FakeQuantized, Linear, Precision};
pub use parameters::{FakeQuantization, FakeQuantizedAs, Parameters, Stored, Trainable, input_scale, weight_scale};
