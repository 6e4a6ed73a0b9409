//! Models of other programs → model folders, and back.
//!
//! [`import`] reads PyTorch state dicts and ONNX graphs of BERT-family encoders; integers and scales are kept as they
//! are, nothing is rounded a second time. Foreign files come from strangers: every reader is closed-world (what it does
//! not know, it refuses by name), bounds its memory by the size of the file, and runs nothing.

mod encoder;
mod error;
mod export;
mod flow;
mod import;
#[cfg(test)]
mod mutations;
mod onnx;
mod tensors;
mod torch;

pub use error::InterchangeError;
pub use export::{ExportFormat, export};
pub use import::{Format, ImportOptions, ImportReport, import};
