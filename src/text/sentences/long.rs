//! Over-long sentences → pieces that fit, cut at the strongest places that suffice.

use std::ops::Range;

use super::trim;

/// Where an over-long text is cut, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// At every line end.
    Line,
    /// After `;`.
    Semicolon,
    /// After `,`.
    Comma,
    /// At white space.
    Space,
    /// Between any two characters.
    Anywhere,
}

impl Cut {
    fn weaker(self) -> Cut {
        match self {
            Cut::Line => Cut::Semicolon,
            Cut::Semicolon => Cut::Comma,
            Cut::Comma => Cut::Space,
            Cut::Space | Cut::Anywhere => Cut::Anywhere,
        }
    }

    /// Whether a piece ends after `c`, when `next` follows.
    fn is_after(self, c: char, next: Option<char>) -> bool {
        let spaced = next.is_none_or(char::is_whitespace);
        match self {
            Cut::Line => c == '\n',
            Cut::Semicolon => c == ';' && spaced || matches!(c, '；' | '؛'),
            Cut::Comma => c == ',' && spaced || matches!(c, '，' | '、' | '،'),
            Cut::Space => c.is_whitespace(),
            Cut::Anywhere => true,
        }
    }
}

/// `range` itself when it fits, or else pieces of it of a `length` of at most `max_length`; trimmed, none empty.
pub(super) fn split(
    text: &str,
    range: Range<usize>,
    max_length: usize,
    length: &impl Fn(&str) -> usize,
) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    Splitter { text, max_length, length, pieces: &mut pieces }.split(range, Cut::Line);
    pieces
}

struct Splitter<'a, L> {
    text: &'a str,
    max_length: usize,
    length: &'a L,
    pieces: &'a mut Vec<Range<usize>>,
}

impl<L: Fn(&str) -> usize> Splitter<'_, L> {
    fn split(&mut self, range: Range<usize>, cut: Cut) {
        if (self.length)(&self.text[range.clone()]) <= self.max_length {
            self.push(range);
            return;
        }
        if cut == Cut::Anywhere {
            self.split_anywhere(range);
            return;
        }
        // Lines stay apart; weaker pieces are put together again as long as they fit.
        let mut group = range.start..range.start;
        let mut group_length = 0;
        let mut start = range.start;
        while start < range.end {
            let end = self.piece_end(start..range.end, cut);
            let length = (self.length)(&self.text[start..end]);
            if cut == Cut::Line || length > self.max_length || group_length + length > self.max_length {
                self.push(group.clone());
                group = start..start;
                group_length = 0;
            }
            if length > self.max_length {
                self.split(start..end, cut.weaker());
                group = end..end;
            } else {
                group.end = end;
                group_length += length;
            }
            start = end;
        }
        self.push(group);
    }

    /// End of the first piece of `range`.
    fn piece_end(&self, range: Range<usize>, cut: Cut) -> usize {
        let mut chars = self.text[range.clone()].char_indices().peekable();
        while let Some((i, c)) = chars.next() {
            if cut.is_after(c, chars.peek().map(|(_, next)| *next)) {
                return range.start + i + c.len_utf8();
            }
        }
        range.end
    }

    /// Runs of as many characters as surely fit, `max_length` at first.
    fn split_anywhere(&mut self, range: Range<usize>) {
        let mut start = range.start;
        while start < range.end {
            let rest = &self.text[start..range.end];
            let mut chars = self.max_length.max(1);
            let mut end = nth_char(rest, chars);
            while chars > 1 && (self.length)(&rest[..end]) > self.max_length {
                chars /= 2;
                end = nth_char(rest, chars);
            }
            self.push(start..start + end);
            start += end;
        }
    }

    fn push(&mut self, range: Range<usize>) {
        let range = trim(self.text, range);
        if !range.is_empty() {
            self.pieces.push(range);
        }
    }
}

/// Byte offset of character `n`, or the end.
fn nth_char(s: &str, n: usize) -> usize {
    s.char_indices().nth(n).map_or(s.len(), |(i, _)| i)
}
