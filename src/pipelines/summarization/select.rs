//! Which sentences of a text say most: vectors and word statistics in, indices and scores out. No model, no text.
//!
//! A sentence is scored by how central it is (its cosine with the mean vector, of embeddings and of tf-idf), where it
//! stands, and how close it is to a query. Sentences are then chosen one by one by maximal marginal relevance
//! (Carbonell & Goldstein 1998). Scoring takes `O(n d)`, choosing `k` of them `O(k n d)`.
//!
//! Every sum runs in a fixed order and only additions, multiplications, divisions and square roots are used, so the
//! same vectors give the same bits on every machine.

use super::super::head::dot;
use super::terms::{self, TermVector};

/// Weight of tf-idf centrality beside embedding centrality.
const TERM_WEIGHT: f64 = 0.5;
/// `exp(-1 / 8)`: by how much the position prior falls from one sentence to the next.
const POSITION_DECAY: f64 = 0.882_496_902_584_595_5;
/// Sentences with a higher cosine say the same.
const DUPLICATE_COSINE: f32 = 0.95;
/// Standard deviations below it are rounding errors, not differences.
const MIN_DEVIATION: f64 = 1e-6;

/// What is known of the candidate sentences of one text; all lists are as long.
pub(super) struct Candidates<'a> {
    /// Embeddings of length 1, `[n][d]`.
    pub(super) vectors: &'a [Vec<f32>],
    /// tf-idf vectors of length 1.
    pub(super) terms: &'a [TermVector],
    /// Where each section of the text starts, and `n`: `[0, n]` when it is one section.
    pub(super) section_bounds: &'a [usize],
    /// Embedding of the query, of length 1.
    pub(super) query: Option<&'a [f32]>,
}

/// What one sentence takes from the budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) words: usize,
    pub(super) chars: usize,
}

/// Hard upper bounds of a summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    /// At least 1.
    pub(super) sentences: usize,
    pub(super) words: usize,
    /// Characters, one between sentences included.
    pub(super) chars: usize,
}

impl Budget {
    /// Whether a sentence of cost `one` still fits beside `count` sentences that cost `spent` together.
    fn allows(&self, count: usize, spent: Cost, one: Cost) -> bool {
        count < self.sentences
            && one.words <= self.words.saturating_sub(spent.words)
            && one.chars.saturating_add(usize::from(count > 0)) <= self.chars.saturating_sub(spent.chars)
    }

    /// Whether a summary of one sentence of cost `one` is within bounds.
    pub(super) fn allows_alone(&self, one: Cost) -> bool {
        self.allows(0, Cost::default(), one)
    }
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selection {
    /// Candidates in the order in which they were chosen.
    pub(super) chosen: Vec<usize>,
    /// Whether no candidate was within bounds, so that the shortest one is returned.
    pub(super) truncated: bool,
}

/// Importance of each candidate, 0..1 within the text.
///
/// `z(cos(e, mean e)) + 0.5 z(cos(tfidf, mean tfidf)) + lead z(exp(-i / 8)) + z(cos(e, query))`, rescaled, where `z`
/// standardizes. Of several sections, means and positions are those of the section, position counts from its nearer
/// end, and scores are multiplied by the cosine of the section's mean with that of the text.
pub(super) fn scores(candidates: &Candidates, lead: f64) -> Vec<f64> {
    let whole = mean_direction(candidates.vectors);
    let mut scores = Vec::with_capacity(candidates.vectors.len());
    let mut section_weights = Vec::with_capacity(candidates.vectors.len());
    let several = candidates.section_bounds.len() > 2;
    for section in candidates.section_bounds.windows(2).map(|bounds| bounds[0]..bounds[1]) {
        let vectors = &candidates.vectors[section.clone()];
        let mean = mean_direction(vectors);
        let central: Vec<f64> = vectors.iter().map(|v| f64::from(dot(v, &mean))).collect();
        let lexical = terms::cosines_with_mean(&candidates.terms[section.clone()]);
        let early = position_prior(section.len(), several);
        let (central, lexical, early) = (standardized(central), standardized(lexical), standardized(early));
        for i in 0..section.len() {
            scores.push(central[i] + TERM_WEIGHT * lexical[i] + lead * early[i]);
        }
        let weight = if several { f64::from(dot(&mean, &whole)).max(0.0) } else { 1.0 };
        section_weights.resize(scores.len(), weight);
    }
    if let Some(query) = candidates.query {
        let close = standardized(candidates.vectors.iter().map(|v| f64::from(dot(v, query))).collect());
        scores.iter_mut().zip(close).for_each(|(score, close)| *score += close);
    }
    let mut scores = rescaled(scores);
    if several {
        scores.iter_mut().zip(section_weights).for_each(|(score, weight)| *score *= weight);
        scores = rescaled(scores);
    }
    scores
}

/// Chooses candidates within `budget`: again and again the one with the largest
/// `(1 - diversity) * score - diversity * max cos(e, chosen)` that still fits. Near duplicates of a chosen one are
/// never chosen. Of equals the earlier wins.
///
/// # Panics
/// When there is no candidate.
pub(super) fn select(
    vectors: &[Vec<f32>],
    scores: &[f64],
    costs: &[Cost],
    budget: Budget,
    diversity: f64,
) -> Selection {
    let mut open = vec![true; vectors.len()];
    let mut closest = vec![0.0f32; vectors.len()];
    let mut chosen: Vec<usize> = Vec::new();
    let mut spent = Cost::default();
    loop {
        let mut best: Option<(usize, f64)> = None;
        for i in 0..vectors.len() {
            if !open[i] || !budget.allows(chosen.len(), spent, costs[i]) {
                continue;
            }
            let value = (1.0 - diversity) * scores[i] - diversity * f64::from(closest[i]);
            if best.is_none_or(|(_, most)| value > most) {
                best = Some((i, value));
            }
        }
        let Some((best, _)) = best else { break };
        spent.words += costs[best].words;
        spent.chars += costs[best].chars + usize::from(!chosen.is_empty());
        open[best] = false;
        for i in 0..vectors.len() {
            if open[i] {
                let cosine = dot(&vectors[i], &vectors[best]);
                closest[i] = if chosen.is_empty() { cosine } else { closest[i].max(cosine) };
                open[i] = cosine <= DUPLICATE_COSINE;
            }
        }
        chosen.push(best);
    }
    let truncated = chosen.is_empty();
    if truncated {
        chosen.push((0..costs.len()).min_by_key(|i| costs[*i].chars).expect("a text has at least one candidate"));
    }
    Selection { chosen, truncated }
}

/// The mean of `vectors` (`[n][d]`), of length 1; zero when they cancel out.
fn mean_direction(vectors: &[Vec<f32>]) -> Vec<f32> {
    let mut sum = vec![0.0f64; vectors.first().map_or(0, Vec::len)];
    for vector in vectors {
        sum.iter_mut().zip(vector).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    let norm = sum.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
    sum.into_iter().map(|x| (x / norm) as f32).collect()
}

/// `exp(-i / 8)` for `n` positions, counted from the first or, with `both_ends`, from the nearer end.
fn position_prior(n: usize, both_ends: bool) -> Vec<f64> {
    let mut prior = Vec::with_capacity(n);
    let mut value = 1.0;
    for _ in 0..n {
        prior.push(value);
        value *= POSITION_DECAY;
    }
    if both_ends {
        for i in 0..n / 2 {
            prior[n - 1 - i] = prior[i];
        }
    }
    prior
}

/// Mean 0 and standard deviation 1; all zero when the values hardly differ.
fn standardized(mut values: Vec<f64>) -> Vec<f64> {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    values.iter_mut().for_each(|x| *x -= mean);
    let deviation = (values.iter().map(|x| x * x).sum::<f64>() / n).sqrt();
    if deviation < MIN_DEVIATION {
        values.iter_mut().for_each(|x| *x = 0.0);
    } else {
        values.iter_mut().for_each(|x| *x /= deviation);
    }
    values
}

/// From the range of the values to 0..1; all 1 when they are equal.
fn rescaled(mut values: Vec<f64>) -> Vec<f64> {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let width = high - low;
    values.iter_mut().for_each(|x| *x = if width > 0.0 { (*x - low) / width } else { 1.0 });
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Budget = Budget { sentences: usize::MAX, words: usize::MAX, chars: usize::MAX };

    fn unit(x: &[f32]) -> Vec<f32> {
        let norm = x.iter().map(|x| x * x).sum::<f32>().sqrt();
        x.iter().map(|x| x / norm).collect()
    }

    /// Scores of one section without word statistics.
    fn plain(vectors: &[Vec<f32>], lead: f64, query: Option<&[f32]>) -> Vec<f64> {
        let terms = vec![Vec::new(); vectors.len()];
        let section_bounds = [0, vectors.len()];
        scores(&Candidates { vectors, terms: &terms, section_bounds: &section_bounds, query }, lead)
    }

    #[test]
    fn central_sentences_score_highest_and_the_range_is_filled() {
        let vectors = [unit(&[1.0, 0.0]), unit(&[1.0, 1.0]), unit(&[0.9, 1.0]), unit(&[0.0, 1.0]), unit(&[-1.0, 0.2])];
        let scores = plain(&vectors, 0.0, None);
        assert_eq!(scores[4], 0.0);
        assert!(scores[1].max(scores[2]) == 1.0 && scores[1] > scores[0] && scores[2] > scores[3], "{scores:?}");
    }

    #[test]
    fn equal_sentences_score_one_each() {
        assert_eq!(plain(&vec![unit(&[1.0, 2.0]); 3], 0.0, None), [1.0; 3]);
        assert_eq!(plain(&[unit(&[1.0, 2.0])], 0.25, None), [1.0]);
        // Two vectors are as far from their mean as each other: rounding must not decide.
        assert_eq!(plain(&[unit(&[0.3, 0.7]), unit(&[0.6, -0.1])], 0.0, None), [1.0; 2]);
    }

    #[test]
    fn lead_prefers_early_sentences() {
        let vectors = vec![unit(&[1.0, 2.0]); 4];
        let scores = plain(&vectors, 0.25, None);
        assert!(scores.is_sorted_by(|a, b| a > b), "{scores:?}");
    }

    #[test]
    fn term_statistics_break_ties_between_embeddings() {
        let vectors = vec![unit(&[1.0, 2.0]); 3];
        let terms = terms::tf_idf(["alone words here", "red green blue", "red green"].into_iter());
        let scores =
            scores(&Candidates { vectors: &vectors, terms: &terms, section_bounds: &[0, 3], query: None }, 0.0);
        assert!(scores[0] == 0.0 && scores[1] > 0.0 && scores[2] > 0.0, "{scores:?}");
    }

    #[test]
    fn query_prefers_what_is_close_to_it() {
        let vectors = [unit(&[1.0, 0.1]), unit(&[1.0, 0.0]), unit(&[1.0, -0.1]), unit(&[0.2, 1.0])];
        let query = unit(&[0.0, 1.0]);
        let (without, with) = (plain(&vectors, 0.0, None), plain(&vectors, 0.0, Some(&query)));
        assert_eq!(without[3], 0.0);
        assert!(with[3] > with[2], "{with:?}");
    }

    #[test]
    fn sections_close_to_the_whole_weigh_more_and_both_their_ends_lead() {
        let mut vectors = vec![unit(&[1.0, 0.0]); 12];
        vectors.extend(vec![unit(&[0.0, 1.0]); 6]);
        let terms = vec![Vec::new(); 18];
        let section_bounds = [0, 12, 18];
        let scores =
            scores(&Candidates { vectors: &vectors, terms: &terms, section_bounds: &section_bounds, query: None }, 0.5);
        assert_eq!(scores[0], 1.0);
        assert_eq!(scores[0], scores[11]);
        assert!(scores[5] < scores[0] && scores[12] < scores[0] && scores[12] == scores[17], "{scores:?}");
    }

    #[test]
    fn choosing_weighs_score_against_similarity() {
        let vectors = [unit(&[1.0, 0.0]), unit(&[1.0, 0.4]), unit(&[0.0, 1.0])];
        let (scores, costs) = ([1.0, 0.9, 0.5], [Cost::default(); 3]);
        let two = Budget { sentences: 2, ..FREE };
        for (diversity, expected) in [(0.0, [0, 1]), (0.2, [0, 1]), (0.8, [0, 2]), (1.0, [0, 2])] {
            assert_eq!(select(&vectors, &scores, &costs, two, diversity).chosen, expected, "{diversity}");
        }
    }

    #[test]
    fn near_duplicates_are_chosen_once_and_ties_go_to_the_earlier() {
        let vectors = [unit(&[1.0, 0.0]), unit(&[1.0, 0.01]), unit(&[0.0, 1.0])];
        let selection = select(&vectors, &[0.5; 3], &[Cost::default(); 3], FREE, 0.0);
        assert_eq!(selection, Selection { chosen: vec![0, 2], truncated: false });
    }

    #[test]
    fn every_budget_is_a_hard_bound() {
        let vectors = [unit(&[1.0, 0.0, 0.0]), unit(&[0.0, 1.0, 0.0]), unit(&[0.0, 0.0, 1.0])];
        let scores = [0.2, 1.0, 0.6];
        let costs = [Cost { words: 2, chars: 10 }, Cost { words: 9, chars: 50 }, Cost { words: 4, chars: 20 }];
        let cases: [(Budget, &[usize], bool); 8] = [
            (FREE, &[1, 2, 0], false),
            (Budget { sentences: 1, ..FREE }, &[1], false),
            (Budget { words: 11, ..FREE }, &[1, 0], false),
            (Budget { words: 8, ..FREE }, &[2, 0], false),
            (Budget { chars: 71, ..FREE }, &[1, 2], false),
            (Budget { chars: 70, ..FREE }, &[1, 0], false),
            (Budget { chars: 49, words: 3, ..FREE }, &[0], false),
            (Budget { chars: 9, ..FREE }, &[0], true),
        ];
        for (budget, chosen, truncated) in cases {
            let expected = Selection { chosen: chosen.to_vec(), truncated };
            assert_eq!(select(&vectors, &scores, &costs, budget, 0.0), expected, "{budget:?}");
        }
    }
}
