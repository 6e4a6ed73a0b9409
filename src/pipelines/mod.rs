//! One task, end to end, synchronous: text in, answer out.
//!
//! A [`Pipeline`] has two halves around the encoder. `prepare` turns inputs into token sequences, so that the cost
//! in tokens is known before anything waits; `finish` turns the encoder's rows into answers. Between them the server
//! batches the sequences with those of other requests; [`Pipeline::run`] runs them at once. Offline evaluation and
//! online serving call the same halves, so what was measured is what is served.
//!
//! No HTTP, no JSON, no async. Generic over the executor: a pipeline sees `dyn Encoder`.

mod classification;
mod embedding;
mod error;
mod head;
mod load;
mod model;
mod original;
mod summarization;
mod temperature;

pub use classification::{
    Classification, Classifier, ClassifyInput, ClassifyOptions, LabelScore, NamedValue, OutputActivation,
};
pub use embedding::{EmbedOptions, Embedder, Embedding};
pub use error::PipelineError;
pub use head::{Dense, Head};
pub use load::{LoadError, Loader, Precision};
pub use model::{ComponentSize, Model, ModelInfo, Score, SequenceModel, Task};
pub use original::Original;
pub use summarization::{
    DEFAULT_MAX_SENTENCES, DEFAULT_SENTENCES, MAX_SUMMARY_SENTENCES, SentenceOrder, Summarizer, Summary,
    SummaryOptions, SummarySentence,
};
pub use temperature::{sigmoid_temperature, softmax_temperature};

pub use crate::checkpoint::{Histogram, Reference};

use crate::architectures::RaggedBatch;
use crate::text::{Encoding, Tokenizer};

/// What the encoder and the head computed for one sequence: logits, or a pooled vector.
pub type Row = Vec<f32>;

/// Token sequences of one request, and what `finish` needs besides their rows.
pub struct Prepared<S> {
    /// One per row that `finish` gets, in order.
    pub sequences: Vec<Encoding>,
    /// Carried from `prepare` to `finish`.
    pub state: S,
}

/// One task over one loaded model.
pub trait Pipeline: Send + Sync + 'static {
    /// One input of a request.
    type Input: Send + 'static;
    /// Options shared by all inputs of a request.
    type Options: Clone + Send + Sync + 'static;
    /// One answer per input.
    type Output: Send + 'static;
    /// Carried from `prepare` to `finish`.
    type State: Send + 'static;

    /// The encoder and head that compute the rows.
    fn model(&self) -> &SequenceModel;

    /// Bytes of an input's texts: what preparing it costs grows with them.
    fn bytes(&self, input: &Self::Input) -> usize;

    /// Checks and tokenizes the inputs of one request. `wanted` tells whether anybody still waits for the answer; it is
    /// asked between pieces of work, so that what was given up does not hold up others.
    ///
    /// # Errors
    /// [`PipelineError`] naming the first bad input, or [`PipelineError::Unwanted`].
    fn prepare(
        &self,
        inputs: Vec<Self::Input>,
        options: &Self::Options,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Prepared<Self::State>, PipelineError>;

    /// Rows (one per prepared sequence) → one output per input.
    ///
    /// # Errors
    /// [`PipelineError::NotFinite`] when the model produced NaN or infinity.
    fn finish(
        &self,
        state: Self::State,
        rows: Vec<Row>,
        options: &Self::Options,
    ) -> Result<Vec<Self::Output>, PipelineError>;

    /// Both halves with the encoder in between, in batches of at most `max_batch_tokens` tokens.
    ///
    /// # Errors
    /// As `prepare` and `finish`.
    fn run(
        &self,
        inputs: Vec<Self::Input>,
        options: &Self::Options,
        max_batch_tokens: usize,
    ) -> Result<Vec<Self::Output>, PipelineError> {
        let Prepared { sequences, state } = self.prepare(inputs, options, &|| true)?;
        let model = self.model();
        let mut workspace = model.encoder.workspace();
        let mut rows = Vec::with_capacity(sequences.len());
        let mut batch = RaggedBatch::new();
        for sequence in &sequences {
            if !batch.is_empty() && batch.tokens() + sequence.len() > max_batch_tokens {
                rows.extend(model.rows(&batch, &mut workspace));
                batch.clear();
            }
            batch.push(&sequence.ids, &sequence.type_ids);
        }
        if !batch.is_empty() {
            rows.extend(model.rows(&batch, &mut workspace));
        }
        self.finish(state, rows, options)
    }
}

/// Stops the preparation of a request that nobody waits for.
fn check_wanted(wanted: &dyn Fn() -> bool) -> Result<(), PipelineError> {
    if wanted() { Ok(()) } else { Err(PipelineError::Unwanted) }
}

/// Tokenizes input `index` of a request, or says what is wrong with it.
fn encode(
    tokenizer: &Tokenizer,
    index: usize,
    text: &str,
    pair: Option<&str>,
    max_tokens: usize,
    truncate: bool,
) -> Result<Encoding, PipelineError> {
    if text.trim().is_empty() {
        return Err(PipelineError::Empty { index });
    }
    let limit = if truncate { max_tokens } else { usize::MAX };
    let encoding =
        tokenizer.encode(text, pair, limit).map_err(|e| PipelineError::Tokenizer { index, reason: e.to_string() })?;
    if encoding.is_empty() {
        return Err(PipelineError::Empty { index });
    }
    if encoding.len() > max_tokens {
        return Err(PipelineError::TooLong { index, tokens: encoding.len(), limit: max_tokens });
    }
    Ok(encoding)
}
