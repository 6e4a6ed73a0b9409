//! Octet serves int8-quantized NLP models over HTTP on ordinary CPUs.
//!
//! # Code map
//!
//! Each folder uses only folders to its left:
//!
//! `kernels → checkpoint → architectures → nn | runtime → pipelines → engine → server → cli`
//!
//! - [`kernels`]: integer GEMM and the float steps around it, on slices, per instruction set.
//! - [`checkpoint`]: model folders and hub ids → named, checked weights; and back to disk.
//! - [`architectures`]: `config.json` and weight names → an [`architectures::EncoderSpec`]. No arithmetic.
//! - [`nn`]: the candle executor (float; reference and training).
//! - [`runtime`]: the fused int8 executor that serves.
//! - [`pipelines`]: one task end to end, synchronous: classification, embeddings, summaries.
//! - [`engine`]: requests → batches → worker threads.
//! - [`server`]: HTTP and JSON, nothing else.
//! - [`cli`]: the subcommands; each composes library calls.
//!
//! [`text`], [`data`], [`config`], [`telemetry`] and [`plot`] are leaves. [`quantize`], [`train`], [`eval`]
//! and [`interchange`] stand beside the engine. `docs/architecture.md` tells the rest; `tests/integration/tidy.rs` enforces it.
#![deny(unsafe_code)]

pub mod architectures;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod data;
pub mod engine;
pub mod eval;
pub mod interchange;
pub mod kernels;
pub mod nn;
pub mod pipelines;
pub mod plot;
pub mod quantize;
pub mod runtime;
pub mod server;
pub mod telemetry;
pub mod text;
pub mod train;
