//! Text → sentences, as byte ranges into the text.
//!
//! A scanner in the spirit of Unicode UAX #29 (sentence boundaries), in three steps: lines are gathered into blocks at
//! hard breaks (blank lines, bullets, headings); each block is cut after its stops; sentences that are longer than the
//! caller accepts are cut again at weaker places. No language is given or guessed: the abbreviations of six languages
//! are known at once, and scripts that are written without spaces have stops of their own.
//!
//! Time is linear in the text: every look back or ahead is bounded.

mod abbreviations;
mod blocks;
mod long;

use std::ops::Range;

use super::words::is_unspaced;
use abbreviations::Abbreviation;

/// What a [`Segment`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// A sentence, a list item, or a piece of an over-long sentence.
    Sentence,
    /// A heading: marked with `#`, or in capitals, or a short line of its own without a stop.
    Heading,
}

/// One piece of a text. Starts and ends with a character that is not white space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Bytes of the text.
    pub range: Range<usize>,
    /// What it is.
    pub kind: SegmentKind,
}

/// Cuts `text` into sentences, each of a `length` of at most `max_length` (in whatever unit `length` counts).
///
/// Segments are in order, do not overlap, and only white space lies between them. A part of a text must not be longer
/// than the whole: where it is, pieces become smaller than they need be. `length` is asked a few times for each part
/// of the text, so its cost decides whether the whole is linear. A single character is never cut.
pub fn segment(text: &str, max_length: usize, length: impl Fn(&str) -> usize) -> Vec<Segment> {
    let mut segments = Vec::new();
    let has_capitals = text.chars().any(char::is_uppercase);
    for block in blocks::blocks(text) {
        if block.kind == SegmentKind::Heading {
            let pieces = long::split(text, block.range, max_length, &length);
            segments.extend(pieces.into_iter().map(|range| Segment { range, kind: SegmentKind::Heading }));
            continue;
        }
        for sentence in (Block { text: &text[..block.range.end], has_capitals }).sentences(block.range.start) {
            let pieces = long::split(text, sentence, max_length, &length);
            segments.extend(pieces.into_iter().map(|range| Segment { range, kind: SegmentKind::Sentence }));
        }
    }
    segments
}

/// `range` without the white space at both ends.
fn trim(text: &str, range: Range<usize>) -> Range<usize> {
    let part = &text[range.clone()];
    let start = range.start + (part.len() - part.trim_start().len());
    start..start + part.trim().len()
}

/// Longest word that is looked at before or after a stop, in bytes: longer ones are no abbreviation.
const MAX_WORD_BYTES: usize = 24;

/// What a run of stops is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// One `.`: may also end an abbreviation, or stand inside a number or an address.
    Period,
    /// `..`, `...`, `…`.
    Ellipsis,
    /// `!` alone.
    Exclamation,
    /// Any run with a `?`.
    Question,
    /// A stop that needs no space after it: `。`, `।`, `؟`, ...
    Unspaced,
}

/// The stop that `c` is on its own.
fn stop(c: char) -> Option<Stop> {
    Some(match c {
        '.' => Stop::Period,
        '…' | '‥' => Stop::Ellipsis,
        '!' => Stop::Exclamation,
        '?' | '‽' => Stop::Question,
        // Chinese and Japanese; Devanagari; Arabic and Urdu; Ethiopic; Armenian; Greek question mark; Khmer; Burmese.
        '。' | '！' | '？' | '｡' | '．' | '︒' | '‼' | '⁇' | '⁈' | '⁉' => Stop::Unspaced,
        '।' | '॥' | '؟' | '۔' | '።' | '፧' | '։' | '\u{37e}' | '។' | '៕' | '။' => Stop::Unspaced,
        _ => return None,
    })
}

/// Quotes, brackets and Markdown emphasis that may stand between a stop and the space after it.
fn is_closer(c: char) -> bool {
    is_quote(c) || matches!(c, ')' | ']' | '}' | '）' | '］' | '】' | '〕' | '〉' | '》' | '*' | '_' | '`')
}

/// Quotation marks. German and French close with each other's opening guillemet, so direction says nothing.
fn is_quote(c: char) -> bool {
    matches!(c, '"' | '\'' | '”' | '’' | '“' | '‘' | '»' | '«' | '›' | '‹' | '」' | '』' | '〞' | '＂')
}

/// What may stand before the first letter of a sentence.
fn is_opener(c: char) -> bool {
    is_quote(c) || matches!(c, '(' | '[' | '{' | '„' | '‚' | '¿' | '¡' | '「' | '『' | '（' | '*' | '_' | '`')
}

/// What follows a run of stops and its closers.
struct Following<'a> {
    /// Whether white space comes first.
    spaced: bool,
    /// Whether a dash comes before the first word.
    dash: bool,
    /// The first character after white space, dashes and openers.
    first: char,
    /// The word that `first` begins, cut at [`MAX_WORD_BYTES`].
    word: &'a str,
    /// Whether the word is followed by a period.
    word_has_period: bool,
}

/// One block of a text, cut after its end.
struct Block<'a> {
    text: &'a str,
    /// Whether the whole text has capital letters; if not, a small letter may begin a sentence.
    has_capitals: bool,
}

impl Block<'_> {
    /// Sentences of the block that begins at `start`, trimmed and not empty.
    fn sentences(&self, start: usize) -> Vec<Range<usize>> {
        let mut sentences = Vec::new();
        let (mut begin, mut at) = (start, start);
        while let Some(c) = self.text[at..].chars().next() {
            let Some(mut kind) = stop(c) else {
                at += c.len_utf8();
                continue;
            };
            let stop_at = at;
            at += c.len_utf8();
            while let Some((next, next_kind)) = self.text[at..].chars().next().and_then(|c| Some((c, stop(c)?))) {
                kind = joined(kind, next_kind);
                at += next.len_utf8();
            }
            let closers_at = at;
            at = self.skip_closers(at);
            let quoted = self.text[closers_at..at].chars().any(is_quote);
            let next_at = self.text.len() - self.text[at..].trim_start().len();
            if next_at == self.text.len() {
                break;
            }
            if self.ends_sentence(kind, begin..stop_at, quoted, &self.following(at, next_at)) {
                sentences.push(begin..at);
                begin = next_at;
            }
            at = next_at;
        }
        sentences.push(begin..self.text.len());
        sentences.into_iter().map(|range| trim(self.text, range)).filter(|range| !range.is_empty()).collect()
    }

    /// Where the closers after a stop end: quotes, brackets, reference marks (`[12]`), and ` »` as French sets it.
    fn skip_closers(&self, mut at: usize) -> usize {
        loop {
            let rest = &self.text[at..];
            let mut chars = rest.chars();
            match chars.next() {
                Some(c) if is_closer(c) => at += c.len_utf8(),
                Some('[') => match rest[1..].find(|c: char| !c.is_ascii_digit()) {
                    Some(digits @ 1..=3) if rest[1 + digits..].starts_with(']') => at += digits + 2,
                    _ => return at,
                },
                Some(c @ (' ' | '\u{a0}' | '\u{202f}')) if chars.next() == Some('»') => {
                    if chars.next().is_some_and(char::is_alphanumeric) {
                        return at;
                    }
                    at += c.len_utf8() + '»'.len_utf8();
                }
                _ => return at,
            }
        }
    }

    /// Looks at what follows: white space `at..next_at`, then at least one character.
    fn following(&self, at: usize, next_at: usize) -> Following<'_> {
        let next = &self.text[next_at..];
        let is_dash = |c: char| matches!(c, '-' | '–' | '—');
        let mut dash = false;
        let mut word_at = 0;
        for (i, c) in next.char_indices().take(6) {
            word_at = i;
            if !(is_opener(c) || is_dash(c) || dash && c.is_whitespace()) {
                break;
            }
            dash |= is_dash(c);
        }
        let rest = &next[word_at..];
        let is_word = |c: char| c.is_alphanumeric() || matches!(c, '\'' | '’');
        let word_end = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len()).min(floor(rest, MAX_WORD_BYTES));
        Following {
            spaced: at < next_at,
            dash,
            first: rest.chars().next().unwrap_or(' '),
            word: &rest[..word_end],
            word_has_period: rest[word_end..].starts_with('.'),
        }
    }

    /// Whether the stop after `sentence` (the sentence so far) ends it.
    fn ends_sentence(&self, stop: Stop, sentence: Range<usize>, quoted: bool, next: &Following) -> bool {
        let before = &self.text[sentence];
        let small = next.first.is_lowercase() && self.has_capitals && !is_camel_case(next.word);
        let continues = matches!(next.first, ',' | ';' | ':' | ')' | ']' | '}' | '，' | '、' | '；' | '：' | '،');
        if continues {
            return false;
        }
        let unspaced = is_unspaced(next.first);
        match stop {
            Stop::Unspaced => {
                let number = before.chars().next_back().is_some_and(char::is_numeric) && next.first.is_numeric();
                let spoken = quoted && matches!(next.first, 'と' | 'っ' | 'な' | 'の' | 'は' | 'が' | 'を');
                !(number && !next.spaced || spoken || quoted && small)
            }
            _ if !next.spaced => unspaced && matches!(stop, Stop::Exclamation | Stop::Question),
            Stop::Question => !(small && (quoted || next.dash)),
            Stop::Exclamation | Stop::Ellipsis => !small,
            Stop::Period => !small && !matches!(next.first, '.' | '!' | '?') && !self.is_abbreviation(before, next),
        }
    }

    /// Whether the period after `before` belongs to its last word rather than ending the sentence.
    fn is_abbreviation(&self, before: &str, next: &Following) -> bool {
        let starts_sentence = abbreviations::starts_sentences(next.word) && !next.word_has_period;
        let before_number = next.first.is_numeric();
        let listed = |word: &str| {
            abbreviations::lookup(word).map(|class| match class {
                Abbreviation::Never => true,
                Abbreviation::BeforeNumber => before_number,
                Abbreviation::Usually => !starts_sentence,
                Abbreviation::OftenLast => false,
            })
        };
        let Some(word) = last_word(before) else {
            // Tokenized text has a space before each stop: "et al . ( 2019 )".
            return before.strip_suffix(' ').and_then(last_word).and_then(listed).unwrap_or(false);
        };
        let mut letters = word.chars();
        let single = letters.next().filter(|c| c.is_alphabetic() && letters.next().is_none());
        match listed(word) {
            Some(is_abbreviation) => is_abbreviation,
            None => match single {
                Some(c) if is_unspaced(c) => false,
                Some(c) if c.is_uppercase() => !starts_sentence,
                Some(_) => {
                    // "p. 5", "z. B.", "d. h."
                    let head = before[..before.len() - word.len()].trim_end();
                    let after_letter =
                        head.strip_suffix('.').and_then(last_word).is_some_and(|w| w.chars().count() == 1);
                    let before_letter = next.word.chars().count() == 1 && next.word_has_period;
                    before_number || before_letter || after_letter && !starts_sentence
                }
                None if is_dotted_acronym(word) => !starts_sentence,
                None if word.bytes().all(|b| b.is_ascii_digit()) => {
                    let is_marker = word.len() <= 3 && before.trim_start().len() == word.len();
                    is_marker || word.len() <= 2 && abbreviations::follows_ordinal(next.word)
                }
                None => false,
            },
        }
    }
}

/// What two stops in a row are together: `?!`, `...`, `!…`, `。”`.
fn joined(a: Stop, b: Stop) -> Stop {
    match (a, b) {
        (Stop::Unspaced, _) | (_, Stop::Unspaced) => Stop::Unspaced,
        (Stop::Question, _) | (_, Stop::Question) => Stop::Question,
        (Stop::Exclamation, _) | (_, Stop::Exclamation) => Stop::Exclamation,
        _ => Stop::Ellipsis,
    }
}

/// The largest character boundary of `s` that is at most `index`.
fn floor(s: &str, index: usize) -> usize {
    (0..=index.min(s.len())).rev().find(|i| s.is_char_boundary(*i)).unwrap_or(0)
}

/// The word at the end of `text`, inner periods and hyphens included; nothing when it is too long to be listed.
fn last_word(text: &str) -> Option<&str> {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '\'' | '’' | 'ª' | 'º');
    let mut start = text.len();
    for (i, _) in text.char_indices().rev().take_while(|(_, c)| is_word(*c)) {
        start = i;
        if text.len() - start > MAX_WORD_BYTES {
            return None;
        }
    }
    Some(text[start..].trim_start_matches(['.', '-', '\'', '’'])).filter(|word| !word.is_empty())
}

/// `U.S`, `Ph.D`, `a.m`: letters in groups of one or two, with periods between.
fn is_dotted_acronym(word: &str) -> bool {
    word.contains('.')
        && word.split('.').all(|p| (1..=2).contains(&p.chars().count()) && p.chars().all(char::is_alphabetic))
}

/// `iPhone`, `eBay`: begins small but is a name.
fn is_camel_case(word: &str) -> bool {
    let mut chars = word.chars();
    chars.next().is_some_and(char::is_lowercase) && chars.next().is_some_and(char::is_uppercase)
}

#[cfg(test)]
mod tests;
