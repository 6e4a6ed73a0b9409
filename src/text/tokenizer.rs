//! A Hugging Face `tokenizer.json`, with truncation done by us and never by the file.

use std::path::{Path, PathBuf};

/// One tokenized input: a text, or a pair of texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids, special tokens included, `[tokens]`.
    pub ids: Vec<u32>,
    /// Segment of each token, `[tokens]`.
    pub type_ids: Vec<u32>,
    /// Whether tokens were cut off to fit the model.
    pub truncated: bool,
}

impl Encoding {
    /// Number of tokens, special tokens included: what a batch is charged for.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// Why a tokenizer could not be loaded or a text not be tokenized.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file is missing or not a tokenizer.
    #[error("cannot load tokenizer {path}: {reason}")]
    Load { path: PathBuf, reason: String },
    /// The tokenizer refused a text.
    #[error("cannot tokenize: {0}")]
    Encode(String),
}

/// Texts → token ids. Cheap to share; safe to use from many threads.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Characters that surely fill one more token than any truncated encoding keeps; see [`Tokenizer::encode`].
    prefix_chars_per_token: usize,
}

impl Tokenizer {
    /// Reads `tokenizer.json`. Truncation and padding stored in the file are ignored: they belong to the request.
    ///
    /// # Errors
    /// [`TokenizerError::Load`] when the file cannot be read or parsed.
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        let load = |reason: String| TokenizerError::Load { path: path.to_path_buf(), reason };
        let bytes = std::fs::read(path).map_err(|e| load(e.to_string()))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes).map_err(|e| load(e.to_string()))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| load(e.to_string()))?;
        Ok(Tokenizer { inner, prefix_chars_per_token: 16 })
    }

    /// Number of ids the tokenizer can produce, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Special tokens that a single text gets (`[CLS]`, `[SEP]`: 2 for BERT).
    pub fn special_tokens(&self, pair: bool) -> usize {
        use tokenizers::PostProcessor;
        self.inner.get_post_processor().map_or(0, |p| p.added_tokens(pair))
    }

    /// Tokenizes `text` (and `pair`), keeping at most `max_tokens` tokens, special tokens included.
    ///
    /// Cuts as Hugging Face does: the longest part first. A long text is first cut to a prefix that surely
    /// holds more tokens than are kept, so that cost is bounded by `max_tokens`, not by the text.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] when the tokenizer refuses the text.
    pub fn encode(&self, text: &str, pair: Option<&str>, max_tokens: usize) -> Result<Encoding, TokenizerError> {
        let special = self.special_tokens(pair.is_some());
        let room = max_tokens.saturating_sub(special);
        let (mut first, mut cut_first) = self.encode_prefix(text, room)?;
        let mut second = None;
        let mut truncated = cut_first;
        if let Some(pair) = pair {
            let (encoded, cut) = self.encode_prefix(pair, room)?;
            truncated |= cut;
            second = Some(encoded);
        }
        let (mut keep_first, mut keep_second) = (first.len(), second.as_ref().map_or(0, |s| s.len()));
        while keep_first + keep_second > room {
            if keep_first >= keep_second { keep_first -= 1 } else { keep_second -= 1 }
        }
        if keep_first < first.len() {
            first.truncate(keep_first, 0, tokenizers::TruncationDirection::Right);
            cut_first = true;
        }
        truncated |= cut_first;
        if let Some(second) = second.as_mut().filter(|s| keep_second < s.len()) {
            second.truncate(keep_second, 0, tokenizers::TruncationDirection::Right);
            truncated = true;
        }
        let done = self.inner.post_process(first, second, true).map_err(|e| TokenizerError::Encode(e.to_string()))?;
        Ok(Encoding { ids: done.get_ids().to_vec(), type_ids: done.get_type_ids().to_vec(), truncated })
    }

    /// Tokens of `text`, or, when it is long, of a prefix that holds more than `room` tokens; and whether it was cut.
    fn encode_prefix(&self, text: &str, room: usize) -> Result<(tokenizers::Encoding, bool), TokenizerError> {
        let mut chars = room.saturating_add(1).saturating_mul(self.prefix_chars_per_token);
        loop {
            let end = text.char_indices().nth(chars).map_or(text.len(), |(i, _)| i);
            let encoded =
                self.inner.encode_fast(&text[..end], false).map_err(|e| TokenizerError::Encode(e.to_string()))?;
            if end == text.len() {
                return Ok((encoded, false));
            }
            // The last word may be cut in half; one whole word more than needed makes the kept part exact.
            let words = encoded.get_word_ids();
            let settled = words.iter().filter(|w| **w != words.last().copied().flatten()).count();
            if settled > room {
                return Ok((encoded, true));
            }
            chars = chars.saturating_mul(4);
        }
    }
}
