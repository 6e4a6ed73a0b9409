//! `POST /v1/summarize`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::pipelines::{SentenceOrder, Summary, SummaryOptions, SummarySentence};
use crate::server::error::{ApiError, Kind};

use super::{TaskRequest, TextInput};

/// Summarize one text or a list of texts. Every budget that is given is a hard upper bound; without any, three
/// sentences.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"input": "A long text. It has many sentences. Only some of them matter.", "sentences": 1}))]
pub(in crate::server) struct SummarizeRequest {
    /// Which model; the default one for the task when absent.
    pub model: Option<String>,
    /// A text, or a list of texts. Long texts are never cut.
    pub input: TextInput,
    /// `extractive` (the default). `abstractive` needs a model that writes, and is refused.
    pub mode: Option<Mode>,
    /// At most so many sentences.
    pub sentences: Option<usize>,
    /// At most this share of the text's sentences, above 0 and up to 1.
    pub ratio: Option<f32>,
    /// At most so many words.
    pub max_words: Option<usize>,
    /// At most so many characters.
    pub max_chars: Option<usize>,
    /// Prefer sentences close to this text.
    pub query: Option<String>,
    /// 0 to 1: how much likeness to sentences already chosen counts against one.
    pub diversity: Option<f32>,
    /// 0 to 1: how much an early position counts; 0 for transcripts, 0.5 for news.
    pub lead: Option<f32>,
    /// Order of the chosen sentences.
    pub order: Option<Order>,
    /// How many milliseconds the client waits.
    pub timeout_ms: Option<u64>,
}

/// How a summary is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::server) enum Mode {
    /// From sentences of the text.
    Extractive,
    /// In new words.
    Abstractive,
}

/// Order of the chosen sentences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::server) enum Order {
    /// As they stand in the text.
    Document,
    /// Best first.
    Score,
}

impl TryFrom<SummarizeRequest> for TaskRequest<String, SummaryOptions> {
    type Error = ApiError;

    fn try_from(request: SummarizeRequest) -> Result<Self, ApiError> {
        if request.mode == Some(Mode::Abstractive) {
            let message = "mode: abstractive summaries need a sequence-to-sequence model (such as T5, BART or Pegasus), \
                           and none is served; use \"extractive\"";
            return Err(ApiError::new(Kind::UnsupportedTask, message).param("mode"));
        }
        let defaults = SummaryOptions::default();
        Ok(TaskRequest {
            model: request.model,
            timeout_ms: request.timeout_ms,
            characters: request.input.characters(),
            inputs: request.input.0,
            options: SummaryOptions {
                sentences: request.sentences,
                ratio: request.ratio,
                max_words: request.max_words,
                max_chars: request.max_chars,
                query: request.query,
                diversity: request.diversity.unwrap_or(defaults.diversity),
                lead: request.lead.unwrap_or(defaults.lead),
                order: match request.order {
                    None => defaults.order,
                    Some(Order::Document) => SentenceOrder::Document,
                    Some(Order::Score) => SentenceOrder::Score,
                },
            },
        })
    }
}

/// The summary of one text.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::server) struct SummarizeItem {
    /// Which input.
    pub index: usize,
    /// The chosen sentences, joined by one space.
    pub summary: String,
    /// The chosen sentences.
    pub sentences: Vec<SentenceItem>,
    /// Sentences in the whole text.
    pub num_sentences: usize,
    /// Characters of the summary divided by characters of the text.
    pub compression_ratio: f32,
    /// Whether no whole sentence fits the budget, so that the shortest good one is returned.
    pub truncated: bool,
}

/// One chosen sentence.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::server) struct SentenceItem {
    /// The sentence as it stands in the input.
    pub text: String,
    /// Offset of its first character in the input, counted in characters.
    pub start: usize,
    /// Offset after its last character.
    pub end: usize,
    /// Which sentence of the text it is, from 0.
    pub index: usize,
    /// Importance within the text, 0 to 1.
    pub score: f32,
}

impl From<SummarySentence> for SentenceItem {
    fn from(s: SummarySentence) -> Self {
        SentenceItem { text: s.text, start: s.start, end: s.end, index: s.index, score: s.score }
    }
}

impl From<(usize, Summary)> for SummarizeItem {
    fn from((index, answer): (usize, Summary)) -> Self {
        SummarizeItem {
            index,
            summary: answer.summary,
            sentences: answer.sentences.into_iter().map(Into::into).collect(),
            num_sentences: answer.num_sentences,
            compression_ratio: answer.compression_ratio,
            truncated: answer.truncated,
        }
    }
}
