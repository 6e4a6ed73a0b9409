//! What can be wrong with an input, in words a client may see.

/// Why a pipeline refused its inputs, or could not answer.
///
/// Everything but [`PipelineError::NotFinite`] and [`PipelineError::Tokenizer`] is the caller's to mend.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PipelineError {
    /// No input at all.
    #[error("input is an empty list; give one text, or a list with at least one text")]
    NoInput,
    /// A text without content.
    #[error("input {index} is empty; every input needs at least one character that is not white space")]
    Empty { index: usize },
    /// More tokens than the model takes, and truncation was refused.
    #[error("input {index} has {tokens} tokens, the model accepts {limit}; set \"truncate\" to true to cut it")]
    TooLong { index: usize, tokens: usize, limit: usize },
    /// More sentences in one text than a summary may rank.
    #[error("input {index} has {sentences} sentences, at most {limit} can be summarized at once; split the text")]
    TooManySentences { index: usize, sentences: usize, limit: usize },
    /// An option is out of range.
    #[error("{param}: {message}")]
    InvalidOption { param: &'static str, message: String },
    /// The tokenizer refused a text.
    #[error("input {index} could not be tokenized: {reason}")]
    Tokenizer { index: usize, reason: String },
    /// The deadline has passed, or the caller is gone.
    #[error("nobody waits for the answer any more")]
    Unwanted,
    /// The model computed NaN or infinity.
    #[error("the model produced a value that is not finite for input {index}")]
    NotFinite { index: usize },
}
