//! Why the engine did not answer, sorted by whose fault it is.

use std::time::Duration;

use crate::pipelines::{PipelineError, Task};
use crate::telemetry::Rejection;

/// Why a request got no outputs. Every accepted request gets exactly one answer: its outputs, or one of these.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EngineError {
    /// The queue has no room for the request's tokens.
    #[error("the server is at capacity; try again in {} s", .retry_after.as_secs())]
    Overloaded {
        /// When the tokens queued now will probably be done; whole seconds, at least 1.
        retry_after: Duration,
    },
    /// The server is shutting down.
    #[error("the server is shutting down; send the request to another instance")]
    Draining,
    /// The deadline passed before the answer was ready.
    #[error("the deadline passed before the answer was ready")]
    Deadline,
    /// No loaded model has this name.
    #[error("model {id:?} is not loaded; loaded models are: {}", .known.join(", "))]
    ModelNotFound {
        /// What was asked for.
        id: String,
        /// Names of the loaded models.
        known: Vec<String>,
    },
    /// The model, or without a name every model, lacks the task.
    #[error("{}", unsupported(.model, *.task, .offered))]
    UnsupportedTask {
        /// The model that was asked for, if one was named.
        model: Option<String>,
        /// What was asked for.
        task: Task,
        /// What the model offers.
        offered: Vec<Task>,
    },
    /// The inputs or options are not acceptable, or the model produced NaN or infinity.
    #[error(transparent)]
    Input(#[from] PipelineError),
    /// A bug of ours: a panic was caught while this request was computed. The reason is for the log, not the client.
    #[error("the request could not be computed; this is a fault of the server")]
    Backend {
        /// Where it happened, without any part of the input.
        reason: String,
    },
}

fn unsupported(model: &Option<String>, task: Task, offered: &[Task]) -> String {
    match model {
        Some(model) => {
            let offered: Vec<_> = offered.iter().map(|t| t.name()).collect();
            format!("model {model:?} does not offer {}; it offers: {}", task.name(), offered.join(", "))
        }
        None => format!("no loaded model offers {}", task.name()),
    }
}

impl EngineError {
    /// The reason that metrics count, when the request was refused; none when the fault is ours.
    pub fn rejection(&self) -> Option<Rejection> {
        match self {
            EngineError::Overloaded { .. } => Some(Rejection::QueueFull),
            EngineError::Draining => Some(Rejection::Draining),
            EngineError::Deadline => Some(Rejection::Deadline),
            EngineError::Input(PipelineError::TooLong { .. }) => Some(Rejection::TooLong),
            EngineError::Input(PipelineError::TooManySentences { .. }) => Some(Rejection::TooMany),
            EngineError::Input(PipelineError::NotFinite { .. } | PipelineError::Tokenizer { .. }) => None,
            EngineError::ModelNotFound { .. } | EngineError::UnsupportedTask { .. } | EngineError::Input(_) => {
                Some(Rejection::Invalid)
            }
            EngineError::Backend { .. } => None,
        }
    }
}
