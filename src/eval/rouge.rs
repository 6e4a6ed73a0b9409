//! ROUGE (Lin 2004): how much of a reference text a summary repeats.
//!
//! Lower-cased, tokens are runs of `[a-z0-9]`, no stemming: the same figures as the PyPI package `rouge-score` with
//! `use_stemmer=False`. ROUGE-L is over the whole text as one sequence (its `rougeL`, not `rougeLsum`).

use std::collections::HashMap;
use std::ops::Range;

/// Precision, recall and their harmonic mean, each 0..1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RougeScore {
    /// Share of the candidate that is in the reference.
    pub precision: f64,
    /// Share of the reference that is in the candidate.
    pub recall: f64,
    /// `2 p r / (p + r)`, 0 when both are 0.
    pub f1: f64,
}

/// The three usual variants.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rouge {
    /// Single tokens.
    pub rouge1: RougeScore,
    /// Pairs of adjacent tokens.
    pub rouge2: RougeScore,
    /// Longest common subsequence.
    pub rouge_l: RougeScore,
}

/// Scores `candidate` against `reference`.
pub fn rouge(reference: &str, candidate: &str) -> Rouge {
    let (reference, candidate) = (Tokens::new(reference), Tokens::new(candidate));
    let (reference, candidate) = (reference.words(), candidate.words());
    Rouge {
        rouge1: ngrams(&reference, &candidate, 1),
        rouge2: ngrams(&reference, &candidate, 2),
        rouge_l: RougeScore::new(common_subsequence(&reference, &candidate), candidate.len(), reference.len()),
    }
}

impl RougeScore {
    fn new(matches: usize, candidate: usize, reference: usize) -> Self {
        let precision = matches as f64 / candidate.max(1) as f64;
        let recall = matches as f64 / reference.max(1) as f64;
        let f1 = if matches == 0 { 0.0 } else { 2.0 * precision * recall / (precision + recall) };
        RougeScore { precision, recall, f1 }
    }
}

/// A lower-cased text and where its tokens are.
struct Tokens {
    text: String,
    ranges: Vec<Range<usize>>,
}

impl Tokens {
    fn new(text: &str) -> Self {
        let text = text.to_lowercase();
        let is_token = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let mut ranges = Vec::new();
        let mut at = 0;
        for run in text.as_bytes().chunk_by(|a, b| is_token(a) == is_token(b)) {
            if is_token(&run[0]) {
                ranges.push(at..at + run.len());
            }
            at += run.len();
        }
        Tokens { text, ranges }
    }

    fn words(&self) -> Vec<&str> {
        self.ranges.iter().map(|range| &self.text[range.clone()]).collect()
    }
}

/// ROUGE-n: n-grams in common, each counted as often as in the text that has it less often.
fn ngrams(reference: &[&str], candidate: &[&str], n: usize) -> RougeScore {
    let mut left: HashMap<&[&str], usize> = HashMap::new();
    for gram in reference.windows(n) {
        *left.entry(gram).or_default() += 1;
    }
    let mut matches = 0;
    for gram in candidate.windows(n) {
        if let Some(count) = left.get_mut(gram).filter(|count| **count > 0) {
            *count -= 1;
            matches += 1;
        }
    }
    RougeScore::new(matches, candidate.windows(n).len(), reference.windows(n).len())
}

/// Length of the longest common subsequence, in `O(a * b)` time and `O(b)` memory.
fn common_subsequence(a: &[&str], b: &[&str]) -> usize {
    let mut row = vec![0usize; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Precision, recall and F1 of ROUGE-1, ROUGE-2 and ROUGE-L as `rouge-score` 0.1.2 computes them.
    type Expected = [[f64; 3]; 3];

    #[test]
    fn scores_equal_those_of_rouge_score() {
        #[rustfmt::skip]
        let cases: [(&str, &str, Expected); 14] = [
            ("the cat sat on the mat", "the cat sat on the mat", [[1.000000, 1.000000, 1.000000], [1.000000, 1.000000, 1.000000], [1.000000, 1.000000, 1.000000]]),
            ("the cat sat on the mat", "a cat was sitting on the mat", [[0.571429, 0.666667, 0.615385], [0.333333, 0.400000, 0.363636], [0.571429, 0.666667, 0.615385]]),
            ("Police killed the gunman.", "the gunman killed police", [[1.000000, 1.000000, 1.000000], [0.333333, 0.333333, 0.333333], [0.500000, 0.500000, 0.500000]]),
            ("", "", [[0.000000, 0.000000, 0.000000], [0.000000, 0.000000, 0.000000], [0.000000, 0.000000, 0.000000]]),
            ("a b c", "", [[0.000000, 0.000000, 0.000000], [0.000000, 0.000000, 0.000000], [0.000000, 0.000000, 0.000000]]),
            ("", "a b c", [[0.000000, 0.000000, 0.000000], [0.000000, 0.000000, 0.000000], [0.000000, 0.000000, 0.000000]]),
            ("one", "one", [[1.000000, 1.000000, 1.000000], [0.000000, 0.000000, 0.000000], [1.000000, 1.000000, 1.000000]]),
            ("one", "two", [[0.000000, 0.000000, 0.000000], [0.000000, 0.000000, 0.000000], [0.000000, 0.000000, 0.000000]]),
            ("F-1 score: 35.6/12.2 (R1/R2)", "The F1 score is 35.6 R1, and 12.2 R2", [[0.636364, 0.777778, 0.700000], [0.200000, 0.250000, 0.222222], [0.545455, 0.666667, 0.600000]]),
            ("Été à São Paulo", "été in São Paulo", [[0.800000, 1.000000, 0.888889], [0.500000, 0.666667, 0.571429], [0.800000, 1.000000, 0.888889]]),
            ("a a a b", "a b b b", [[0.500000, 0.500000, 0.500000], [0.333333, 0.333333, 0.333333], [0.500000, 0.500000, 0.500000]]),
            ("the model learns the task and the task is hard", "the task is hard , the model learns it", [[0.875000, 0.700000, 0.777778], [0.714286, 0.555556, 0.625000], [0.500000, 0.400000, 0.444444]]),
            ("don't stop_me now", "DON'T stop me, now!", [[1.000000, 1.000000, 1.000000], [1.000000, 1.000000, 1.000000], [1.000000, 1.000000, 1.000000]]),
            ("x y z w v u", "u v w z y x", [[1.000000, 1.000000, 1.000000], [0.000000, 0.000000, 0.000000], [0.166667, 0.166667, 0.166667]]),
        ];
        for (reference, candidate, expected) in cases {
            let found = rouge(reference, candidate);
            let scores = [found.rouge1, found.rouge2, found.rouge_l];
            for (variant, (score, expected)) in scores.iter().zip(expected).enumerate() {
                for (found, expected) in [score.precision, score.recall, score.f1].into_iter().zip(expected) {
                    // The table has six decimals.
                    let close = (found - expected).abs() < 1e-6;
                    assert!(close, "{reference:?} {candidate:?} variant {variant}: {found} and not {expected}");
                }
            }
        }
    }
}
