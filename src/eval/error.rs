//! Why an evaluation stopped.

use crate::architectures::ProblemType;
use crate::pipelines::PipelineError;

/// Why an evaluation stopped.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// A text the pipeline refuses.
    #[error("line {line} of the data: {source}")]
    Pipeline { line: u64, source: PipelineError },
    /// Labels the model does not have.
    #[error("the data has labels that {model} does not: {}; the model's labels are {}", .unknown.join(", "), .known.join(", "))]
    UnknownLabels { model: String, unknown: Vec<String>, known: Vec<String> },
    /// Scores for this kind of head are not defined here.
    #[error("the model has a {0:?} head; temperature and thresholds are for heads that choose labels")]
    ProblemType(ProblemType),
    /// Nothing to compare with.
    #[error("no example has a {0}; see --help for the columns that are read")]
    Missing(&'static str),
}
