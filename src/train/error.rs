//! Why training failed.

use crate::architectures::ArchitectureError;
use crate::checkpoint::CheckpointError;
use crate::text::TokenizerError;

/// Why a model could not be trained.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Reading the encoder, or writing the result.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// An unknown family or option.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// The encoder's tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The encoder's weights are integers.
    #[error("{0} holds int8 weights; fine-tuning needs the float model it was made from (or freeze the encoder)")]
    NotFloat(String),
    /// The folder has no encoder of its own.
    #[error("{0} holds only a head on another folder's encoder; give a folder with an encoder")]
    HeadOnly(String),
    /// The examples do not say what is to be learned.
    #[error("{0}")]
    Data(String),
    /// The loss is no number any more.
    #[error(
        "the loss is {loss} at step {step}: training diverged; lower --learning-rate or --head-learning-rate, and begin anew with \
             --force (--resume would diverge again)"
    )]
    Diverged { step: usize, loss: f32 },
    /// A checkpoint that does not fit this run.
    #[error("{path}: {reason}")]
    State { path: std::path::PathBuf, reason: String },
    /// A step of the model; a bug, as all shapes are made here.
    #[error("a step of the model failed: {0}")]
    Candle(#[from] candle_core::Error),
}
