//! Extractive summaries: the sentences of a text that say most, by sentence vectors and word statistics.

use std::sync::Arc;

use crate::text::Tokenizer;

use super::SequenceModel;

/// In which order the chosen sentences are returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SentenceOrder {
    /// As they stand in the text.
    #[default]
    Document,
    /// Best first.
    Score,
}

/// Options of one summary request. Every budget that is given is a hard upper bound.
#[derive(Clone, Debug)]
pub struct SummaryOptions {
    /// At most so many sentences; 3 when no budget is given at all.
    pub sentences: Option<usize>,
    /// At most this share of the text's sentences, 0..1 (at least one sentence).
    pub ratio: Option<f32>,
    /// At most so many words.
    pub max_words: Option<usize>,
    /// At most so many characters.
    pub max_chars: Option<usize>,
    /// Prefer sentences close to this text.
    pub query: Option<String>,
    /// 0..1: how much similarity to already chosen sentences counts against one.
    pub diversity: f32,
    /// 0..1: how much an early position counts. 0 for transcripts, 0.5 for news.
    pub lead: f32,
    /// Order of the answer.
    pub order: SentenceOrder,
}

impl Default for SummaryOptions {
    fn default() -> Self {
        SummaryOptions {
            sentences: None,
            ratio: None,
            max_words: None,
            max_chars: None,
            query: None,
            diversity: 0.2,
            lead: 0.25,
            order: SentenceOrder::Document,
        }
    }
}

/// One chosen sentence.
#[derive(Clone, Debug, PartialEq)]
pub struct SummarySentence {
    /// The sentence as it stands in the input.
    pub text: String,
    /// Offset of its first character in the input, counted in characters (Unicode scalar values).
    pub start: usize,
    /// Offset after its last character.
    pub end: usize,
    /// Which sentence of the text it is, from 0.
    pub index: usize,
    /// Importance within this text, 0..1.
    pub score: f32,
}

/// The answer for one text.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// The chosen sentences, joined by one space.
    pub summary: String,
    /// The chosen sentences.
    pub sentences: Vec<SummarySentence>,
    /// Sentences in the whole text.
    pub num_sentences: usize,
    /// Characters of the summary divided by characters of the text.
    pub compression_ratio: f32,
    /// Tokens the model read.
    pub tokens: usize,
    /// Whether the budget was too small for any whole sentence, so that the shortest good one is returned.
    pub truncated: bool,
}

/// Summaries with one sentence-embedding model.
pub struct Summarizer {
    /// Encoder and pooling.
    pub model: SequenceModel,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Longest sentence in tokens; longer ones are split.
    pub max_tokens: usize,
    /// Most sentences that one text may have.
    pub max_sentences: usize,
}
