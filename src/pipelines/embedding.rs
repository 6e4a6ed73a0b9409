//! Sentence vectors.

use std::sync::Arc;

use crate::text::Tokenizer;

use super::{Pipeline, PipelineError, Prepared, Row, SequenceModel};

/// Options of one embedding request.
#[derive(Clone, Debug)]
pub struct EmbedOptions {
    /// Whether an over-long text is cut (true) or refused (false).
    pub truncate: bool,
    /// Whether vectors have length 1; the model's own setting when absent.
    pub normalize: Option<bool>,
    /// Keep only the first dimensions (and normalize again); all when absent.
    pub dimensions: Option<usize>,
}

impl Default for EmbedOptions {
    fn default() -> Self {
        EmbedOptions { truncate: true, normalize: None, dimensions: None }
    }
}

/// The vector of one text.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// `[dimensions]`.
    pub vector: Vec<f32>,
    /// Tokens the model read.
    pub tokens: usize,
    /// Whether the text was cut.
    pub truncated: bool,
}

/// Embeddings with one model. Its head pools and does not normalize: normalization is an option.
pub struct Embedder {
    /// Encoder and pooling.
    pub model: SequenceModel,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Whether vectors have length 1 by default (sentence-transformers' `Normalize` module).
    pub normalize: bool,
    /// Longest input in tokens, special tokens included.
    pub max_tokens: usize,
}

/// Tokens and truncation of each input.
pub struct EmbedState {
    read: Vec<(usize, bool)>,
}

impl Pipeline for Embedder {
    type Input = String;
    type Options = EmbedOptions;
    type Output = Embedding;
    type State = EmbedState;

    fn model(&self) -> &SequenceModel {
        &self.model
    }

    fn bytes(&self, input: &String) -> usize {
        input.len()
    }

    fn prepare(
        &self,
        inputs: Vec<String>,
        options: &EmbedOptions,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Prepared<EmbedState>, PipelineError> {
        let width = self.model.encoder.spec().hidden_size;
        if let Some(d) = options.dimensions.filter(|d| *d == 0 || *d > width) {
            let message = format!("found {d}, must be between 1 and {width}");
            return Err(PipelineError::InvalidOption { param: "dimensions", message });
        }
        if inputs.is_empty() {
            return Err(PipelineError::NoInput);
        }
        let encode = |(index, text): (usize, &String)| {
            super::check_wanted(wanted)?;
            super::encode(&self.tokenizer, index, text, None, self.max_tokens, options.truncate)
        };
        let sequences = inputs.iter().enumerate().map(encode).collect::<Result<Vec<_>, _>>()?;
        let read = sequences.iter().map(|s| (s.len(), s.truncated)).collect();
        Ok(Prepared { sequences, state: EmbedState { read } })
    }

    fn finish(
        &self,
        state: EmbedState,
        rows: Vec<Row>,
        options: &EmbedOptions,
    ) -> Result<Vec<Embedding>, PipelineError> {
        let normalize = options.normalize.unwrap_or(self.normalize);
        let answers = rows.into_iter().zip(state.read).enumerate();
        answers
            .map(|(index, (mut vector, (tokens, truncated)))| {
                if vector.iter().any(|x| !x.is_finite()) {
                    return Err(PipelineError::NotFinite { index });
                }
                vector.truncate(options.dimensions.unwrap_or(usize::MAX));
                if normalize {
                    super::head::to_unit_length(&mut vector);
                }
                Ok(Embedding { vector, tokens, truncated })
            })
            .collect()
    }
}
