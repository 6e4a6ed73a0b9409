//! Which sentences of a text are worth an embedding, and how a long text falls into sections.

use std::collections::HashSet;
use std::ops::Range;

use crate::text::sentences::{Segment, SegmentKind};
use crate::text::words::{self, TextSize};

use super::select::{Budget, Cost};

/// Fewest words of a candidate.
const MIN_WORDS: usize = 6;
/// Fewest characters of a candidate in a script without spaces.
const MIN_UNSPACED_CHARS: usize = 12;
/// Longest text that is scored as one section, and about as long sections are cut without headings, in candidates.
const SECTION_SENTENCES: usize = 200;
/// Shortest section that a heading ends, in candidates.
const MIN_SECTION_SENTENCES: usize = 20;

/// A sentence that may be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Which sentence of the text it is.
    pub(super) index: usize,
    /// Bytes of the text.
    pub(super) range: Range<usize>,
    /// What it takes from the budget.
    pub(super) cost: Cost,
}

/// The sentences to choose from, at least one when there is a segment; of equal sentences the first.
///
/// Those of at least 6 words, or 12 characters of a script without spaces. Shorter ones join them when there are fewer
/// than `wanted`, or when none is within `budget` and a shorter one is.
pub(super) fn candidates(text: &str, segments: &[Segment], wanted: usize, budget: Budget) -> Vec<Candidate> {
    let sizes: Vec<TextSize> = segments.iter().map(|s| words::size(&text[s.range.clone()])).collect();
    let gather = |is_candidate: &dyn Fn(&TextSize) -> bool| -> Vec<Candidate> {
        let mut seen = HashSet::new();
        let numbered = segments.iter().zip(&sizes).enumerate();
        numbered
            .filter(|(_, (segment, size))| {
                is_candidate(size) && seen.insert(words::terms(&text[segment.range.clone()]))
            })
            .map(|(index, (segment, size))| {
                let cost = Cost { words: size.words, chars: size.chars };
                Candidate { index, range: segment.range.clone(), cost }
            })
            .collect()
    };
    let has_fitting = |candidates: &[Candidate]| candidates.iter().any(|c| budget.allows_alone(c.cost));
    let long = gather(&|size| size.spaced_words >= MIN_WORDS || size.unspaced_chars >= MIN_UNSPACED_CHARS);
    if long.len() >= wanted && has_fitting(&long) {
        return long;
    }
    let spoken = gather(&|size| size.spaced_words + size.unspaced_chars > 0);
    if spoken.is_empty() {
        return gather(&|_| true);
    }
    if !long.is_empty() && long.len() >= wanted && !has_fitting(&spoken) { long } else { spoken }
}

/// Where the sections of a text start in `candidates`, and their number at the end: one section up to 200 candidates;
/// beyond, cut at headings that leave at least 20 in each, and evenly where more than 200 would remain.
pub(super) fn section_bounds(candidates: &[Candidate], segments: &[Segment]) -> Vec<usize> {
    let n = candidates.len();
    if n <= SECTION_SENTENCES {
        return vec![0, n];
    }
    let mut starts = vec![0];
    let mut next_segment = 0;
    for (i, candidate) in candidates.iter().enumerate() {
        // The candidate may be the heading itself.
        let headed = segments[next_segment..=candidate.index].iter().any(|s| s.kind == SegmentKind::Heading);
        next_segment = candidate.index + 1;
        let last = starts[starts.len() - 1];
        if headed && i - last >= MIN_SECTION_SENTENCES && n - i >= MIN_SECTION_SENTENCES {
            starts.push(i);
        }
    }
    starts.push(n);
    let mut bounds = vec![0];
    for section in starts.windows(2) {
        let length = section[1] - section[0];
        let parts = length.div_ceil(SECTION_SENTENCES);
        bounds.extend((1..=parts).map(|part| section[0] + length * part / parts));
    }
    bounds
}

#[cfg(test)]
mod tests {
    use crate::text::sentences::segment;

    use super::*;

    const FREE: Budget = Budget { sentences: usize::MAX, words: usize::MAX, chars: usize::MAX };

    fn found(text: &str, wanted: usize, budget: Budget) -> Vec<usize> {
        let segments = segment(text, 1000, |s| s.chars().count());
        candidates(text, &segments, wanted, budget).iter().map(|c| c.index).collect()
    }

    #[test]
    fn short_sentences_are_left_out_unless_they_are_needed() {
        let text = "Short one. This sentence has six whole words. Yes. 今天天气很好我们一起去公园吧。 Right? - ! -";
        assert_eq!(found(text, 2, FREE), [1, 3]);
        assert_eq!(found(text, 3, FREE), [0, 1, 2, 3, 4]);
        // Only a short one is within three words.
        assert_eq!(found(text, 2, Budget { words: 3, ..FREE }), [0, 1, 2, 3, 4]);
        // Not even a short one is within one character: the long ones are the good ones.
        assert_eq!(found(text, 2, Budget { chars: 1, ..FREE }), [1, 3]);
        assert_eq!(found("?! -- ?!", 3, FREE), [0]);
    }

    #[test]
    fn equal_sentences_are_candidates_once() {
        let text = "All of these words are here twice. Something else stands between the two. All of these \
                    words are here, twice!";
        assert_eq!(found(text, 1, FREE), [0, 1]);
    }

    #[test]
    fn only_long_texts_have_sections() {
        let text = |headings: &[usize], sentences: usize| -> String {
            let line = |i: usize| {
                let heading = if headings.contains(&i) { "\n\n# Heading\n" } else { "" };
                format!("{heading}This is sentence number {i} of the text. ")
            };
            (0..sentences).map(line).collect()
        };
        let cases: [(&[usize], &[usize]); 5] = [
            (&[50], &[0, 200]),
            (&[], &[0, 100, 201]),
            (&[50, 60, 240], &[0, 50, 250]),
            (&[10, 100], &[0, 100, 250]),
            (&[100], &[0, 100, 266, 433, 600]),
        ];
        for (headings, expected) in cases {
            let text = text(headings, expected[expected.len() - 1]);
            let segments = segment(&text, 1000, |s| s.chars().count());
            let candidates = candidates(&text, &segments, 3, FREE);
            assert_eq!(section_bounds(&candidates, &segments), expected, "{headings:?}");
        }
    }
}
