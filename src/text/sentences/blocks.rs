//! Lines → blocks: what no sentence crosses.

use std::ops::Range;

use super::{SegmentKind, stop, trim};

/// Longest line of its own that may be a heading, in characters.
const MAX_HEADING_CHARS: usize = 80;
/// Most words of a heading that carries no mark.
const MAX_HEADING_WORDS: usize = 10;

/// A run of lines that hard breaks separate from the rest.
pub(super) struct Block {
    /// Bytes of the text, without white space at both ends.
    pub(super) range: Range<usize>,
    /// What it is as a whole.
    pub(super) kind: SegmentKind,
}

/// What a line is by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineKind {
    Blank,
    /// Begins with a bullet or a number: starts a block.
    Item,
    /// Begins with `#`: is a block.
    Marked,
    /// All letters are capitals: is a block when its neighbours are not alike.
    Capitals,
    /// No letter and no digit (`-----`): is a block.
    Rule,
    Text,
}

struct Line {
    range: Range<usize>,
    kind: LineKind,
}

/// The blocks of `text`, in order; only white space lies between them.
pub(super) fn blocks(text: &str) -> Vec<Block> {
    let lines = lines(text);
    let mut blocks: Vec<Block> = Vec::new();
    // Whether the next line must start a block, and whether the last block is one text line after a blank one: such a
    // line is a heading when another blank one and more text follow.
    let (mut fresh, mut lone) = (true, false);
    for (i, line) in lines.iter().enumerate() {
        let after_blank = i == 0 || lines[i - 1].kind == LineKind::Blank;
        let alone = match line.kind {
            LineKind::Blank => {
                if lone && i + 1 < lines.len() {
                    mark_lone_heading(text, &mut blocks);
                }
                (fresh, lone) = (true, false);
                continue;
            }
            LineKind::Marked | LineKind::Rule => true,
            LineKind::Capitals => {
                let alike = |j: Option<usize>| j.and_then(|j| lines.get(j)).is_some_and(|l| l.kind == line.kind);
                !alike(i.checked_sub(1)) && !alike(Some(i + 1))
            }
            LineKind::Item | LineKind::Text => false,
        };
        if fresh || alone || line.kind == LineKind::Item {
            let heading = line.kind == LineKind::Marked || line.kind == LineKind::Capitals && alone;
            let kind = if heading { SegmentKind::Heading } else { SegmentKind::Sentence };
            blocks.push(Block { range: line.range.clone(), kind });
            lone = after_blank && line.kind == LineKind::Text;
        } else if let Some(block) = blocks.last_mut() {
            block.range.end = line.range.end;
            lone = false;
        }
        fresh = alone;
    }
    blocks
}

/// Turns the last block into a heading when it reads like one.
fn mark_lone_heading(text: &str, blocks: &mut [Block]) {
    let Some(block) = blocks.last_mut() else { return };
    let line = &text[block.range.clone()];
    let begins = line.chars().next().is_some_and(|c| c.is_alphanumeric() && !c.is_lowercase());
    let ends =
        line.chars().next_back().is_some_and(|c| stop(c).is_none() && !matches!(c, ',' | ';' | ':' | '，' | '：'));
    let short = line.chars().nth(MAX_HEADING_CHARS).is_none() && line.split_whitespace().count() <= MAX_HEADING_WORDS;
    if begins && ends && short && line.chars().any(char::is_alphabetic) {
        block.kind = SegmentKind::Heading;
    }
}

/// Lines without their white space, blank ones included.
fn lines(text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut at = 0;
    for raw in text.split_inclusive(['\n', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}']) {
        let range = trim(text, at..at + raw.len());
        let kind = kind(&text[range.clone()]);
        lines.push(Line { range, kind });
        at += raw.len();
    }
    lines
}

/// What a trimmed line is.
fn kind(line: &str) -> LineKind {
    if line.is_empty() {
        LineKind::Blank
    } else if is_item(line) {
        LineKind::Item
    } else if line.trim_start_matches('#').starts_with(' ') && line.starts_with('#') && !line.starts_with("#######") {
        LineKind::Marked
    } else if !line.chars().any(char::is_alphanumeric) && line.chars().all(|c| stop(c).is_none()) {
        LineKind::Rule
    } else if is_capitals(line) {
        LineKind::Capitals
    } else {
        LineKind::Text
    }
}

/// `- x`, `• x`, `12. x`, `12) x`, `a) x`, `(iv) x`.
fn is_item(line: &str) -> bool {
    let Some((marker, _)) = line.split_once(char::is_whitespace) else { return false };
    if matches!(marker, "-" | "*" | "+" | "•" | "‣" | "◦" | "▪" | "●" | "·" | "–" | "—") {
        return true;
    }
    let digits = |s: &str| (1..=3).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit());
    let label = |s: &str| digits(s) || (1..=4).contains(&s.len()) && s.bytes().all(|b| b"ivxIVX".contains(&b));
    let letter = |s: &str| s.len() == 1 && s.bytes().all(|b| b.is_ascii_alphabetic());
    if let Some(inner) = marker.strip_suffix(')') {
        let inner = inner.strip_prefix('(').unwrap_or(inner);
        return label(inner) || letter(inner);
    }
    marker.strip_suffix('.').is_some_and(digits)
}

/// A short line in capitals, without a stop: at least two letters, no small one.
fn is_capitals(line: &str) -> bool {
    let mut capitals = 0;
    for (i, c) in line.chars().enumerate() {
        if i == MAX_HEADING_CHARS || c.is_lowercase() || c.is_alphabetic() && !c.is_uppercase() {
            return false;
        }
        capitals += usize::from(c.is_uppercase());
    }
    capitals >= 2 && !line.ends_with(|c: char| stop(c).is_some() || matches!(c, ',' | ';'))
}
