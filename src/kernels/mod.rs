//! Integer GEMM and the float steps around it, on plain slices.
//!
//! No tensors, files, async, globals or environment, and nothing of the other folders. Every function gives the same
//! bits on every instruction set: integer sums are exact, f32 steps have one fixed order (see `lanes`).
//! `docs/kernels.md` has the layouts, the algebra and how to add a kernel.
#![allow(unsafe_code)]

mod activation;
pub mod affine;
mod arena;
mod attention;
mod exp;
mod float_gemm;
mod gather;
mod gemm;
#[cfg(target_arch = "x86_64")]
mod gemm_bf16;
mod gemm_f32;
mod grouped;
mod isa;
mod lanes;
mod microkernel;
mod norm;
mod pack;
mod peak;
mod quantize;
pub mod reference;
mod rows;
#[cfg(test)]
mod testing;
#[cfg(target_arch = "x86_64")]
mod tiles;

pub use activation::Activation;
pub use arena::Arena;
pub use attention::AttentionScratch;
pub use float_gemm::{Factor, float_gemm};
pub use gather::Int8Rows;
pub use gemm::COLUMN_BLOCK;
pub use gemm_f32::FloatWeights;
pub use grouped::{GroupedScratch, GroupedWeights};
pub use isa::{Isa, Kernels, UnknownIsa, UnsupportedIsa};
pub use norm::LayerNorm;
pub use pack::{AlignedVec, MAX_K, PackedWeights};
pub use quantize::RowRange;
pub use rows::QuantizedRows;
