//! Models as their papers describe them: `config.json` and weight names → an [`EncoderSpec`] plus a list of
//! named weights with roles. No arithmetic lives here, and no file names a precision.
//!
//! Start with [`EncoderSpec`]; [`Encoder`] is what both executors (`nn` and `runtime`) implement.

mod encoder;
mod head;
mod names;
mod ragged;

pub use encoder::{Activation, Encoder, EncoderSpec, EncoderWorkspace};
pub use head::{DenseActivation, DenseSpec, HeadSpec, Pooling, ProblemType};
pub use names::{EncoderNames, LayerNames, LinearNames, NormNames, TableName};
pub use ragged::RaggedBatch;
