//! A Hugging Face `tokenizer.json`, with truncation done by us and never by the file.

use std::path::{Path, PathBuf};

use super::wordpiece::BertWords;

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

/// Characters of a first prefix for each token that is wanted; a prefix that is too short is read again, longer.
const PREFIX_CHARS_PER_TOKEN: usize = 16;

/// Texts → token ids. Cheap to share; safe to use from many threads.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The fast way for single texts, where there is one.
    words: Option<BertWords>,
    largest_id: u32,
    largest_type_id: u32,
    /// Bytes of the longest added token, such as `[MASK]`: so far back can the cut end of a text change its tokens.
    longest_added_token: usize,
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
        // Special tokens have ids of their own in the post-processor, which also sets the type ids.
        let word = || tokenizers::Encoding::from_tokens(vec![tokenizers::Token::new(0, "a".into(), (0, 1))], 0);
        let vocabulary = inner.get_vocab(true);
        let (mut largest_id, mut largest_type_id) = (vocabulary.values().copied().max().unwrap_or(0), 0);
        for second in [None, Some(word())] {
            let encoded = inner.post_process(word(), second, true).map_err(|e| load(e.to_string()))?;
            largest_id = encoded.get_ids().iter().fold(largest_id, |a, b| a.max(*b));
            largest_type_id = encoded.get_type_ids().iter().fold(largest_type_id, |a, b| a.max(*b));
        }
        let added = inner.get_added_tokens_decoder();
        let longest_added_token = added.values().map(|token| token.content.len()).max().unwrap_or(0);
        let longest_entry = vocabulary.keys().map(String::len).max().unwrap_or(0);
        let words = BertWords::of(&inner, longest_entry);
        Ok(Tokenizer { inner, words, largest_id, largest_type_id, longest_added_token })
    }

    /// Largest token id that an encoding can hold; the vocabulary may have gaps below it.
    pub fn largest_id(&self) -> u32 {
        self.largest_id
    }

    /// Largest type id that an encoding of one text or of a pair can hold.
    pub fn largest_type_id(&self) -> u32 {
        self.largest_type_id
    }

    /// Special tokens that a single text gets (`[CLS]`, `[SEP]`: 2 for BERT).
    pub fn special_tokens(&self, pair: bool) -> usize {
        use tokenizers::PostProcessor;
        self.inner.get_post_processor().map_or(0, |p| p.added_tokens(pair))
    }

    /// Tokenizes `text` (and `pair`), keeping at most `max_tokens` tokens, special tokens included.
    ///
    /// Cuts as Hugging Face does (tokenizers `utils/truncation.rs`, longest first). A long text is first cut to a prefix
    /// that surely holds more tokens than are kept, so that cost is bounded by `max_tokens`, not by the text. What is
    /// kept is the same as without that prefix, with one exception: where both texts of a pair exceed an odd number of
    /// tokens, one more is kept of the longer one, and then characters decide which that is.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] when the tokenizer refuses the text.
    pub fn encode(&self, text: &str, pair: Option<&str>, max_tokens: usize) -> Result<Encoding, TokenizerError> {
        if let (None, Some(words)) = (pair, &self.words)
            && let Some(encoding) = words.encode(&self.inner, text, max_tokens)
        {
            return Ok(encoding);
        }
        let room = max_tokens.saturating_sub(self.special_tokens(pair.is_some()));
        let (mut first, mut truncated) = self.encode_prefix(text, room)?;
        let mut second = None;
        if let Some(pair) = pair {
            let (mut encoded, cut) = self.encode_prefix(pair, room)?;
            let first_is_longer = match truncated || cut {
                true => text.chars().count() > pair.chars().count(),
                false => first.len() > encoded.len(),
            };
            let (keep_first, keep_second) = kept_of_pair(first.len(), encoded.len(), first_is_longer, room);
            truncated |= truncate(&mut first, keep_first);
            truncated |= truncate(&mut encoded, keep_second);
            second = Some(encoded);
        } else {
            truncated |= truncate(&mut first, room);
        }
        let done = self.inner.post_process(first, second, true).map_err(|e| TokenizerError::Encode(e.to_string()))?;
        Ok(Encoding { ids: done.get_ids().to_vec(), type_ids: done.get_type_ids().to_vec(), truncated })
    }

    /// Tokens of `text`, or, when it is long, of a prefix whose first `room + 1` tokens are those of `text`; and
    /// whether it was cut.
    fn encode_prefix(&self, text: &str, room: usize) -> Result<(tokenizers::Encoding, bool), TokenizerError> {
        let refused = |e: tokenizers::Error| TokenizerError::Encode(e.to_string());
        let mut chars = room.saturating_add(1).saturating_mul(PREFIX_CHARS_PER_TOKEN);
        loop {
            let Some((end, _)) = text.char_indices().nth(chars) else {
                return Ok((self.inner.encode_fast(text, false).map_err(refused)?, false));
            };
            // With offsets and word numbers, which `encode_fast` leaves out.
            let encoded = self.inner.encode(&text[..end], false).map_err(refused)?;
            if self.settled(&encoded, &text[..end]) > room {
                return Ok((encoded, true));
            }
            chars = chars.saturating_mul(4);
        }
    }

    /// How many tokens of a cut text are surely those of the whole text: the cut may go through the last word, and
    /// through an added token, which may also claim the white space before it.
    fn settled(&self, encoded: &tokenizers::Encoding, prefix: &str) -> usize {
        let safe = prefix.floor_char_boundary(prefix.len().saturating_sub(self.longest_added_token));
        let safe = prefix[..safe].trim_end().len();
        let words = encoded.get_word_ids();
        let unsafe_token = encoded.get_offsets().iter().position(|(_, end)| *end > safe);
        let unsafe_word = unsafe_token.or(words.len().checked_sub(1)).and_then(|token| words[token]);
        words.iter().position(|word| *word == unsafe_word).unwrap_or(0)
    }
}

/// How many tokens to keep of each text of a pair so that they fit into `room`: the shorter one stays whole when it
/// leaves at least as much for the longer one, else each gets half, and the longer one the odd token. Equal ones count
/// as if the second were longer.
fn kept_of_pair(first: usize, second: usize, first_is_longer: bool, room: usize) -> (usize, usize) {
    if first.saturating_add(second) <= room {
        return (first, second);
    }
    let shorter = first.min(second).min(room / 2);
    let longer = room - shorter;
    if first_is_longer { (longer, shorter) } else { (shorter, longer) }
}

/// Keeps the first `keep` tokens; true when there were more.
fn truncate(encoding: &mut tokenizers::Encoding, keep: usize) -> bool {
    let cut = encoding.len() > keep;
    encoding.truncate(keep, 0, tokenizers::TruncationDirection::Right);
    // What was cut off would go through the post-processor too.
    encoding.take_overflowing();
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::utils::truncation::{TruncationParams, truncate_encodings};

    const SHIPPED: &str = "models/all-MiniLM-L6-v2/tokenizer.json";

    struct Both {
        ours: Tokenizer,
        crates: tokenizers::Tokenizer,
    }

    /// A text and all its tokens.
    type Whole = (String, tokenizers::Encoding);

    impl Both {
        fn shipped() -> Self {
            let mut crates = tokenizers::Tokenizer::from_file(SHIPPED).unwrap();
            crates.with_padding(None).with_truncation(None).unwrap();
            Both { ours: Tokenizer::from_file(Path::new(SHIPPED)).unwrap(), crates }
        }

        fn whole(&self, text: String) -> Whole {
            let encoded = self.crates.encode(text.as_str(), false).unwrap();
            (text, encoded)
        }

        /// Compares with the truncation of the tokenizers crate, after whole tokenization.
        fn check(&self, (text, first): &Whole, pair: Option<&Whole>, max_tokens: usize) {
            let special = if pair.is_some() { 3 } else { 2 };
            let params = TruncationParams { max_length: max_tokens - special, ..TruncationParams::default() };
            let second = pair.map(|(_, second)| second.clone());
            let truncated = first.len() + second.as_ref().map_or(0, |s| s.len()) > params.max_length;
            let (mut first, mut second) = truncate_encodings(first.clone(), second, &params).unwrap();
            // What was cut off would be post-processed too, which is slow.
            [Some(&mut first), second.as_mut()].into_iter().flatten().for_each(|part| drop(part.take_overflowing()));
            let expected = self.crates.post_process(first, second, true).unwrap();
            let found = self.ours.encode(text, pair.map(|(text, _)| text.as_str()), max_tokens).unwrap();
            let what = || format!("{} and {:?} bytes in {max_tokens}", text.len(), pair.map(|(text, _)| text.len()));
            assert_eq!(found.ids, expected.get_ids(), "{}", what());
            assert_eq!(found.type_ids, expected.get_type_ids(), "{}", what());
            assert_eq!(found.truncated, truncated, "{}", what());
        }
    }

    /// So many words, some of several tokens.
    fn words(count: usize) -> String {
        let words = ["the", "quantization", "of", "weights,", "unbelievably", "fast"];
        words.iter().cycle().take(count).copied().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn pairs_are_cut_as_the_tokenizers_crate_cuts_them() {
        let both = Both::shipped();
        let texts = [0, 1, 2, 3, 4, 5, 10, 11, 40, 41, 140, 150, 700, 900].map(|count| both.whole(words(count)));
        for max_tokens in [3, 4, 5, 8, 13, 32, 33, 256] {
            for first in &texts {
                texts.iter().for_each(|second| both.check(first, Some(second), max_tokens));
            }
        }
    }

    #[test]
    fn the_prefix_of_a_long_text_gives_the_tokens_of_the_whole_text() {
        let both = Both::shipped();
        let short = both.whole("short".into());
        let long = words(20_000);
        let texts = [
            long.clone(),
            // The cut goes through a word, wherever it falls.
            "antidisestablishmentarianism ".repeat(2000),
            // One word, which becomes one unknown token; then text.
            format!("{} {long}", "x".repeat(30_000)),
            "x".repeat(30_000),
            "国家安全保障会議の報告書".repeat(2000),
            "e\u{301}te\u{301} ".repeat(4000),
            " ".repeat(20_000) + &long,
            // The cut goes through an added token.
            "[MASK]".repeat(4000),
            "a [SEP]".repeat(4000),
            "!?".repeat(9000),
        ];
        for text in texts.map(|text| both.whole(text)) {
            (3..40).chain([255, 256]).for_each(|max_tokens| both.check(&text, None, max_tokens));
            both.check(&text, Some(&short), 64);
            both.check(&short, Some(&text), 64);
        }
    }

    /// A cut prefix must be used: otherwise a request costs as much as its text is long.
    #[test]
    fn a_long_text_is_not_read_to_its_end() {
        let (encoded, cut) = Both::shipped().ours.encode_prefix(&words(100_000), 254).unwrap();
        assert!(cut && encoded.len() > 254 && encoded.len() < 5000, "{} tokens were made", encoded.len());
    }

    #[test]
    fn the_largest_ids_are_those_of_vocabulary_and_special_tokens() {
        let both = Both::shipped();
        let found = (both.ours.largest_id(), both.ours.largest_type_id());
        assert_eq!(found, (both.crates.get_vocab_size(true) as u32 - 1, 1));
        let text = std::fs::read_to_string(SHIPPED).unwrap();
        let mut file: serde_json::Value = serde_json::from_str(&text).unwrap();
        file["post_processor"]["special_tokens"]["[SEP]"]["ids"] = serde_json::json!([40_000]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, file.to_string()).unwrap();
        assert_eq!(Tokenizer::from_file(&path).unwrap().largest_id(), 40_000);
    }
}
