//! BERT's tokenization of a single text, without the offsets that the tokenizers crate keeps for every character: the
//! same ids in a fraction of the time. Words with other than ASCII characters go through the crate.

use tokenizers::models::ModelWrapper;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{Model, Token};

use super::Encoding;

/// Longest word that the crate tokenizes here, in bytes: without spaces a whole text is one word, whose cost only the
/// general way bounds.
const MAX_FOREIGN_WORD: usize = 512;

/// What there is to know about a tokenizer that does as BERT's: clean, split at white space and punctuation, WordPiece.
pub(super) struct BertWords {
    lowercase: bool,
    unknown: u32,
    /// Of pieces inside a word, such as `##`.
    prefix: String,
    /// A longer word is unknown.
    max_word: usize,
    /// Bytes of the longest entry of the vocabulary.
    longest_entry: usize,
    /// First bytes of added tokens, such as `[`: a text with one of them may hold an added token.
    added_starts: Vec<u8>,
    /// Ids and type ids around a single text.
    before: Vec<(u32, u32)>,
    after: Vec<(u32, u32)>,
    /// Of the text itself.
    type_id: u32,
}

impl BertWords {
    /// None when the tokenizer does anything that is not done here. `longest_entry`: bytes of the longest entry of the
    /// vocabulary.
    pub(super) fn of(tokenizer: &tokenizers::Tokenizer, longest_entry: usize) -> Option<Self> {
        let NormalizerWrapper::BertNormalizer(normalizer) = tokenizer.get_normalizer()? else { return None };
        let PreTokenizerWrapper::BertPreTokenizer(_) = tokenizer.get_pre_tokenizer()? else { return None };
        let model = word_piece(tokenizer)?;
        let added = tokenizer.get_added_tokens_decoder();
        let is_plain = |token: &tokenizers::AddedToken| !token.normalized && !token.content.is_empty();
        if !normalizer.clean_text || !added.values().all(is_plain) {
            return None;
        }
        // Where a text stands between special tokens, the post-processor tells by example.
        let word = tokenizers::Encoding::from_tokens(vec![Token::new(u32::MAX, "a".into(), (0, 1))], 0);
        let example = tokenizer.post_process(word, None, true).ok()?;
        let around: Vec<_> = example.get_ids().iter().copied().zip(example.get_type_ids().iter().copied()).collect();
        let at = around.iter().position(|(id, _)| *id == u32::MAX)?;
        Some(BertWords {
            lowercase: normalizer.lowercase,
            unknown: model.token_to_id(&model.unk_token)?,
            prefix: model.continuing_subword_prefix.clone(),
            max_word: model.max_input_chars_per_word,
            longest_entry,
            added_starts: added.values().map(|token| token.content.as_bytes()[0]).collect(),
            before: around[..at].to_vec(),
            after: around[at + 1..].to_vec(),
            type_id: around[at].1,
        })
    }

    /// At most `max_tokens` tokens of `text` with the special tokens around it, as [`super::Tokenizer::encode`] defines
    /// them; none when the text must go through the crate as a whole.
    pub(super) fn encode(&self, tokenizer: &tokenizers::Tokenizer, text: &str, max_tokens: usize) -> Option<Encoding> {
        let model = word_piece(tokenizer)?;
        if text.bytes().any(|byte| self.added_starts.contains(&byte)) {
            return None;
        }
        let room = max_tokens.saturating_sub(self.before.len() + self.after.len());
        let mut ids: Vec<u32> = self.before.iter().map(|(id, _)| *id).collect();
        let first = ids.len();
        let (mut word, mut piece) = (String::new(), String::new());
        // White space to BERT, among ASCII; what else counts as such elsewhere is removed there as a control character.
        for part in text.split([' ', '\t', '\n', '\r']) {
            if ids.len() - first > room {
                break;
            }
            if !part.is_ascii() {
                if part.len() > MAX_FOREIGN_WORD {
                    return None;
                }
                ids.extend(tokenizer.encode_fast(part, false).ok()?.get_ids());
                continue;
            }
            word.clear();
            for byte in part.bytes().filter(|byte| !byte.is_ascii_control()) {
                let character = char::from(if self.lowercase { byte.to_ascii_lowercase() } else { byte });
                if character.is_ascii_punctuation() {
                    self.pieces(model, &word, &mut piece, &mut ids);
                    word.clear();
                    self.pieces(model, character.encode_utf8(&mut [0; 4]), &mut piece, &mut ids);
                    if ids.len() - first > room {
                        break;
                    }
                } else {
                    word.push(character);
                }
            }
            self.pieces(model, &word, &mut piece, &mut ids);
        }
        let truncated = ids.len() - first > room;
        ids.truncate(first + room);
        let mut type_ids: Vec<u32> = self.before.iter().map(|(_, type_id)| *type_id).collect();
        type_ids.resize(ids.len(), self.type_id);
        ids.extend(self.after.iter().map(|(id, _)| *id));
        type_ids.extend(self.after.iter().map(|(_, type_id)| *type_id));
        Some(Encoding { ids, type_ids, truncated })
    }

    /// Appends the ids of the longest known pieces of an ASCII word, from its start on (Wu et al. 2016, as in
    /// tokenizers `models/wordpiece`); one unknown token when there is no way. `piece` is working memory.
    fn pieces(&self, model: &WordPiece, word: &str, piece: &mut String, ids: &mut Vec<u32>) {
        if word.len() > self.max_word {
            ids.push(self.unknown);
            return;
        }
        let (before, mut start) = (ids.len(), 0);
        while start < word.len() {
            piece.clear();
            if start > 0 {
                piece.push_str(&self.prefix);
            }
            let fixed = piece.len();
            piece.push_str(&word[start..]);
            let longest = piece.len().min(self.longest_entry);
            let known = (fixed + 1..=longest).rev().find_map(|end| Some((end, model.token_to_id(&piece[..end])?)));
            let Some((end, id)) = known else {
                ids.truncate(before);
                ids.push(self.unknown);
                return;
            };
            ids.push(id);
            start += end - fixed;
        }
    }
}

fn word_piece(tokenizer: &tokenizers::Tokenizer) -> Option<&WordPiece> {
    match tokenizer.get_model() {
        ModelWrapper::WordPiece(model) => Some(model),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shipped() -> (tokenizers::Tokenizer, BertWords) {
        let mut crates = tokenizers::Tokenizer::from_file("models/all-MiniLM-L6-v2/tokenizer.json").unwrap();
        crates.with_padding(None).with_truncation(None).unwrap();
        let words = BertWords::of(&crates, 18).expect("the shipped tokenizer is BERT's");
        (crates, words)
    }

    /// Ids and type ids are those of the crate; false when the text was not taken.
    fn check(tokenizer: &(tokenizers::Tokenizer, BertWords), text: &str) -> bool {
        let (crates, words) = tokenizer;
        let expected = crates.encode(text, true).unwrap();
        let Some(found) = words.encode(crates, text, usize::MAX) else { return false };
        assert_eq!(found.ids, expected.get_ids(), "{text:?}");
        assert_eq!(found.type_ids, expected.get_type_ids(), "{text:?}");
        assert!(!found.truncated);
        for max_tokens in [2, 3, found.ids.len() - 1, found.ids.len()].into_iter().filter(|n| *n >= 2) {
            let cut = words.encode(crates, text, max_tokens).expect("it was taken before");
            assert_eq!(cut.truncated, found.ids.len() > max_tokens, "{text:?} to {max_tokens}");
            assert_eq!(cut.ids.len(), found.ids.len().min(max_tokens));
            let kept = cut.ids.len() - 2;
            assert_eq!(cut.ids[..=kept], found.ids[..=kept], "{text:?} to {max_tokens}");
            assert_eq!((cut.ids.last(), cut.type_ids.len()), (found.ids.last(), cut.ids.len()));
        }
        true
    }

    #[test]
    fn real_and_odd_texts_have_the_ids_of_the_crate() {
        let tokenizer = shipped();
        let stream = std::fs::read_to_string("benches/stream.jsonl").unwrap();
        let texts = stream.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let taken = texts.filter(|row| check(&tokenizer, row["text"].as_str().unwrap())).count();
        assert!(taken > 1980, "only {taken} texts were taken");
        let long = "a".repeat(101);
        let foreign = "ß".repeat(300);
        for text in [
            "",
            " ",
            "\t\r\n",
            "a\u{b}b\u{c}c\u{1f}d\u{7f}e\0f",
            "don't... stop!!!",
            "UPPER lower",
            "naïve café ÀÉ ΣΑΣ",
            "中文 text中文",
            "e\u{301} \u{301}a",
            "\u{a0}x\u{2003}y\u{feff}z",
            "“quoted” – dash…",
            "😀 ok😀",
            "antidisestablishmentarianism zzzzqqqq",
            &long[1..],
            &long,
            "##ing ## #",
            "a\u{fffd}b",
            "İstanbul",
        ] {
            assert!(check(&tokenizer, text), "{text:?} was not taken");
        }
        for text in ["[MASK]", "a [SEP] b", "[", foreign.as_str()] {
            assert!(!check(&tokenizer, text), "{text:?} was taken");
        }
    }

    #[test]
    fn random_texts_have_the_ids_of_the_crate() {
        let tokenizer = shipped();
        let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
        proptest!(config, |(ascii in "[ -~\t\n\r\u{b}\0]{0,60}", any in "\\PC{0,40}", mixed in "([a-zA-Z' ,é́中ß\u{a0}]){0,60}")| {
            check(&tokenizer, &ascii);
            check(&tokenizer, &any);
            check(&tokenizer, &mixed);
        });
    }

    #[test]
    fn other_tokenizers_are_left_to_the_crate() {
        let (crates, _) = shipped();
        let json: serde_json::Value = serde_json::from_str(&crates.to_string(false).unwrap()).unwrap();
        let changes: [fn(&mut serde_json::Value); 4] = [
            |json| json["normalizer"] = serde_json::json!({"type": "Lowercase"}),
            |json| json["normalizer"]["clean_text"] = false.into(),
            |json| json["pre_tokenizer"] = serde_json::json!({"type": "Whitespace"}),
            |json| json["added_tokens"][0]["normalized"] = true.into(),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut json = json.clone();
            change(&mut json);
            let other = tokenizers::Tokenizer::from_bytes(json.to_string()).unwrap();
            assert!(BertWords::of(&other, 18).is_none(), "change {index}");
        }
    }
}
