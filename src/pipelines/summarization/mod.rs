//! Extractive summaries: the sentences of a text that say most, by sentence vectors and word statistics.
//!
//! [`candidates`] says which sentences are embedded, [`terms`] counts words, [`select`] scores and chooses.
//! `docs/summaries.md` describes the method and what it reaches.

mod candidates;
mod select;
mod terms;

use std::sync::Arc;

use crate::text::sentences::segment;
use crate::text::{Encoding, Tokenizer};

use super::head::to_unit_length;
use super::{Pipeline, PipelineError, Prepared, Row, SequenceModel};
use candidates::Candidate;
use select::{Budget, Candidates};

/// Sentences of a summary when no budget is given.
pub const DEFAULT_SENTENCES: usize = 3;
/// Most sentences of any summary; keeps the cost of choosing linear in the text.
pub const MAX_SUMMARY_SENTENCES: usize = 500;
/// Default of [`Summarizer::max_sentences`].
pub const DEFAULT_MAX_SENTENCES: usize = 20_000;
/// A text with more bytes per token than this is cut without asking the tokenizer.
const MAX_BYTES_PER_TOKEN: usize = 16;

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
    /// At most this share of the text's sentences, above 0 and up to 1 (at least one sentence).
    pub ratio: Option<f32>,
    /// At most so many words; a character of a script without spaces counts as one.
    pub max_words: Option<usize>,
    /// At most so many characters (Unicode scalar values) in `summary`.
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

/// What `finish` needs besides the rows: the query's row comes first when there is a query, then those of the
/// candidates of each text.
pub struct SummaryState {
    texts: Vec<TextState>,
    has_query: bool,
}

/// One text of a request.
struct TextState {
    text: String,
    num_sentences: usize,
    budget: Budget,
    candidates: Vec<Candidate>,
    section_bounds: Vec<usize>,
}

impl Pipeline for Summarizer {
    type Input = String;
    type Options = SummaryOptions;
    type Output = Summary;
    type State = SummaryState;

    fn model(&self) -> &SequenceModel {
        &self.model
    }

    fn bytes(&self, input: &String) -> usize {
        input.len()
    }

    fn prepare(
        &self,
        inputs: Vec<String>,
        options: &SummaryOptions,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Prepared<SummaryState>, PipelineError> {
        options.check()?;
        if inputs.is_empty() {
            return Err(PipelineError::NoInput);
        }
        let mut sequences = Vec::new();
        if let Some(query) = &options.query {
            sequences.push(self.encode(0, query)?);
        }
        let has_query = !sequences.is_empty();
        let mut texts = Vec::with_capacity(inputs.len());
        for (index, text) in inputs.into_iter().enumerate() {
            texts.push(self.prepare_text(index, text, options, wanted, &mut sequences)?);
        }
        Ok(Prepared { sequences, state: SummaryState { texts, has_query } })
    }

    fn finish(
        &self,
        state: SummaryState,
        rows: Vec<Row>,
        options: &SummaryOptions,
    ) -> Result<Vec<Summary>, PipelineError> {
        let mut rows = rows.into_iter();
        let mut vectors = |index: usize, n: usize| -> Result<Vec<Row>, PipelineError> {
            let mut vectors: Vec<Row> = rows.by_ref().take(n).collect();
            assert_eq!(vectors.len(), n, "every prepared sequence has a row");
            for vector in &mut vectors {
                to_unit_length(vector);
                if vector.iter().any(|x| !x.is_finite()) {
                    return Err(PipelineError::NotFinite { index });
                }
            }
            Ok(vectors)
        };
        let query = vectors(0, usize::from(state.has_query))?.pop();
        let mut summaries = Vec::with_capacity(state.texts.len());
        for (index, text) in state.texts.into_iter().enumerate() {
            let vectors = vectors(index, text.candidates.len())?;
            summaries.push(text.summarize(&vectors, query.as_deref(), options));
        }
        Ok(summaries)
    }
}

impl Summarizer {
    /// Segments one text and appends one token sequence per candidate sentence.
    fn prepare_text(
        &self,
        index: usize,
        text: String,
        options: &SummaryOptions,
        wanted: &dyn Fn() -> bool,
        sequences: &mut Vec<Encoding>,
    ) -> Result<TextState, PipelineError> {
        let room = self.max_tokens.saturating_sub(self.tokenizer.special_tokens(false)).max(1);
        // Lengths no longer matter once nobody waits: the check below stops.
        let segments = segment(&text, room, |part| if wanted() { self.content_tokens(part, room) } else { 0 });
        super::check_wanted(wanted)?;
        let num_sentences = segments.len();
        if num_sentences == 0 {
            return Err(PipelineError::Empty { index });
        }
        if num_sentences > self.max_sentences {
            return Err(PipelineError::TooManySentences { index, sentences: num_sentences, limit: self.max_sentences });
        }
        let budget = options.budget(num_sentences);
        let count = if options.bounds_sentences() { budget.sentences } else { DEFAULT_SENTENCES };
        let candidates = candidates::candidates(&text, &segments, count, budget);
        let section_bounds = candidates::section_bounds(&candidates, &segments);
        for candidate in &candidates {
            super::check_wanted(wanted)?;
            sequences.push(self.encode(index, &text[candidate.range.clone()])?);
        }
        Ok(TextState { text, num_sentences, budget, candidates, section_bounds })
    }

    /// Tokens of `part` without special tokens, or an upper bound where that settles whether it fits into `room`.
    fn content_tokens(&self, part: &str, room: usize) -> usize {
        if part.len() <= room {
            return part.len();
        }
        if part.len() > room * MAX_BYTES_PER_TOKEN {
            return part.len().div_ceil(MAX_BYTES_PER_TOKEN);
        }
        let special = self.tokenizer.special_tokens(false);
        // What the tokenizer refuses here, it refuses again when the sentence is encoded, where it becomes an error.
        self.tokenizer.encode(part, None, usize::MAX).map_or(0, |encoding| encoding.len() - special)
    }

    fn encode(&self, index: usize, text: &str) -> Result<Encoding, PipelineError> {
        super::encode(&self.tokenizer, index, text, None, self.max_tokens, true)
    }
}

impl TextState {
    /// Unit vectors of the candidates and the query → the summary.
    fn summarize(self, vectors: &[Row], query: Option<&[f32]>, options: &SummaryOptions) -> Summary {
        let sentences = self.candidates.iter().map(|c| &self.text[c.range.clone()]);
        let terms = terms::tf_idf(sentences);
        let candidates = Candidates { vectors, terms: &terms, section_bounds: &self.section_bounds, query };
        let scores = select::scores(&candidates, f64::from(options.lead));
        let costs: Vec<_> = self.candidates.iter().map(|c| c.cost).collect();
        let selection = select::select(vectors, &scores, &costs, self.budget, f64::from(options.diversity));
        let mut chosen = selection.chosen;
        chosen.sort_unstable();
        let mut chars = Offsets { text: &self.text, byte: 0, chars: 0 };
        let mut sentences: Vec<SummarySentence> = chosen
            .into_iter()
            .map(|i| {
                let Candidate { index, range, .. } = &self.candidates[i];
                SummarySentence {
                    text: self.text[range.clone()].to_string(),
                    start: chars.advance_to(range.start),
                    end: chars.advance_to(range.end),
                    index: *index,
                    score: scores[i] as f32,
                }
            })
            .collect();
        let text_chars = chars.advance_to(self.text.len());
        if options.order == SentenceOrder::Score {
            sentences.sort_by(|a, b| b.score.total_cmp(&a.score));
        }
        let summary = sentences.iter().map(|s| s.text.as_str()).collect::<Vec<_>>().join(" ");
        Summary {
            compression_ratio: summary.chars().count() as f32 / text_chars as f32,
            summary,
            sentences,
            num_sentences: self.num_sentences,
            truncated: selection.truncated,
        }
    }
}

/// Byte offsets → character offsets, walking once through a text.
struct Offsets<'a> {
    text: &'a str,
    byte: usize,
    chars: usize,
}

impl Offsets<'_> {
    /// Characters before `byte`, which must not be before the last one asked.
    fn advance_to(&mut self, byte: usize) -> usize {
        self.chars += self.text[self.byte..byte].chars().count();
        self.byte = byte;
        self.chars
    }
}

impl SummaryOptions {
    /// Refuses what is out of range.
    fn check(&self) -> Result<(), PipelineError> {
        let invalid = |param, message: String| Err(PipelineError::InvalidOption { param, message });
        for (param, count) in
            [("sentences", self.sentences), ("max_words", self.max_words), ("max_chars", self.max_chars)]
        {
            if count == Some(0) {
                return invalid(param, "found 0, must be at least 1".into());
            }
        }
        if let Some(ratio) = self.ratio.filter(|ratio| !(*ratio > 0.0 && *ratio <= 1.0)) {
            return invalid("ratio", format!("found {ratio}, must be above 0 and at most 1"));
        }
        for (param, weight) in [("diversity", self.diversity), ("lead", self.lead)] {
            if !(0.0..=1.0).contains(&weight) {
                return invalid(param, format!("found {weight}, must be between 0 and 1"));
            }
        }
        if self.query.as_ref().is_some_and(|query| query.trim().is_empty()) {
            return invalid("query", "found no text; leave it out or give at least one word".into());
        }
        Ok(())
    }

    /// Whether the number of sentences is bounded by a request, or by the default because nothing else is.
    fn bounds_sentences(&self) -> bool {
        self.sentences.is_some() || self.ratio.is_some() || self.max_words.is_none() && self.max_chars.is_none()
    }

    /// The bounds for a text of `num_sentences` sentences.
    fn budget(&self, num_sentences: usize) -> Budget {
        let mut sentences = self.sentences.unwrap_or(MAX_SUMMARY_SENTENCES).min(MAX_SUMMARY_SENTENCES);
        if let Some(ratio) = self.ratio {
            // In f32, so that 0.7 of 10 is 7.
            sentences = sentences.min((ratio * num_sentences as f32).floor() as usize);
        } else if self.sentences.is_none() && self.bounds_sentences() {
            sentences = DEFAULT_SENTENCES;
        }
        Budget {
            sentences: sentences.max(1),
            words: self.max_words.unwrap_or(usize::MAX),
            chars: self.max_chars.unwrap_or(usize::MAX),
        }
    }
}

#[cfg(test)]
mod tests;
