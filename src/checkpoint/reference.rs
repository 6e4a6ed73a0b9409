//! What a model read and answered when it was measured: what live traffic is compared with, to see whether it drifts.

use serde::{Deserialize, Serialize};

/// Bins of about equal counts that [`Histogram::deciles`] makes.
const DECILES: usize = 10;
/// Most inner edges that a stored histogram may have.
const MAX_EDGES: usize = 100;

/// Distributions over the inputs of one data set. Written by `octet eval --write` and `octet calibrate --write`, read when the model is served.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Data set and split, such as `vader-human/dev`.
    pub dataset: String,
    /// How often each class was predicted, in the order of the classes; absent when the model chooses no class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<u64>>,
    /// Scores of the predicted classes, 0..=1; absent like `labels`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Histogram>,
    /// Tokens of the inputs, special tokens included.
    pub tokens: Histogram,
}

/// Counts of values in bins that have no gaps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Histogram {
    /// Borders between the bins, rising; the first bin has no lower and the last no upper one.
    pub edges: Vec<f64>,
    /// One more than edges; bin `i` counts the values `x` with `edges[i - 1] < x <= edges[i]`.
    pub counts: Vec<u64>,
}

impl Reference {
    /// The distributions of a data set: for a model that chooses one of `classes` labels the index and the score of its
    /// choice for each input (nothing for other models), and the tokens of each input.
    ///
    /// # Panics
    /// When a class is not below `classes`.
    pub fn of(dataset: &str, classes: usize, predictions: &[(usize, f32)], tokens: &[usize]) -> Self {
        let mut labels = vec![0; classes];
        predictions.iter().for_each(|(class, _)| labels[*class] += 1);
        let scores: Vec<f64> = predictions.iter().map(|(_, score)| f64::from(*score)).collect();
        let tokens: Vec<f64> = tokens.iter().map(|n| *n as f64).collect();
        let chooses = !predictions.is_empty();
        Reference {
            dataset: dataset.to_string(),
            labels: chooses.then_some(labels),
            confidence: chooses.then(|| Histogram::deciles(&scores)),
            tokens: Histogram::deciles(&tokens),
        }
    }

    /// What is wrong with a reference that was read from a file.
    pub(super) fn problem(&self) -> Option<String> {
        let histograms = [("confidence", self.confidence.as_ref()), ("tokens", Some(&self.tokens))];
        let wrong = |(name, histogram): (&str, Option<&Histogram>)| Some(format!("{name} {}", histogram?.problem()?));
        histograms.into_iter().find_map(wrong)
    }
}

impl Histogram {
    /// Ten bins that hold about a tenth of the values each; fewer when values are equal.
    ///
    /// # Panics
    /// When a value is NaN.
    pub fn deciles(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(|a, b| a.partial_cmp(b).expect("values are numbers"));
        // Midway to the next larger value, so that rounding on the way through a file moves no value to another bin.
        let edge = |k: usize| {
            let value = *sorted.get((k * sorted.len()).div_ceil(DECILES).saturating_sub(1))?;
            let next = sorted.get(sorted.partition_point(|x| *x <= value))?;
            Some((value + next) / 2.0)
        };
        let mut edges: Vec<f64> = (1..DECILES).filter_map(edge).collect();
        edges.dedup();
        let mut counts = vec![0; edges.len() + 1];
        sorted.iter().for_each(|value| counts[edges.partition_point(|edge| edge < value)] += 1);
        Histogram { edges, counts }
    }

    fn problem(&self) -> Option<String> {
        let Histogram { edges, counts } = self;
        if counts.len() != edges.len() + 1 {
            return Some(format!("has {} edges and {} counts, expected one count more", edges.len(), counts.len()));
        }
        if edges.len() > MAX_EDGES {
            return Some(format!("has {} edges, at most {MAX_EDGES} are allowed", edges.len()));
        }
        let rising = edges.iter().all(|edge| edge.is_finite()) && edges.windows(2).all(|pair| pair[0] < pair[1]);
        (!rising).then(|| "has edges that do not rise".to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deciles_hold_a_tenth_each_and_equal_values_share_a_bin() {
        let even: Vec<f64> = (1..=1000).rev().map(f64::from).collect();
        let found = Histogram::deciles(&even);
        assert_eq!(found.edges, [100.5, 200.5, 300.5, 400.5, 500.5, 600.5, 700.5, 800.5, 900.5]);
        assert_eq!(found.counts, [100; 10]);

        let mostly_equal: Vec<f64> = [vec![5.0; 95], vec![7.0; 5]].concat();
        assert_eq!(Histogram::deciles(&mostly_equal), Histogram { edges: vec![6.0], counts: vec![95, 5] });
        assert_eq!(Histogram::deciles(&[3.0; 20]), Histogram { edges: vec![], counts: vec![20] });
        assert_eq!(Histogram::deciles(&[]), Histogram { edges: vec![], counts: vec![0] });
    }

    #[test]
    fn a_reference_counts_classes_scores_and_lengths() {
        let found = Reference::of("dev", 3, &[(0, 0.5), (2, 0.9), (2, 0.7)], &[4, 8, 4]);
        assert_eq!(found.labels, Some(vec![1, 0, 2]));
        assert_eq!(found.confidence.as_ref().unwrap().counts.iter().sum::<u64>(), 3);
        assert_eq!(found.tokens, Histogram { edges: vec![6.0], counts: vec![2, 1] });
        assert_eq!(found.problem(), None);
        let lengths_only = Reference::of("dev", 0, &[], &[4, 8, 4]);
        assert_eq!((lengths_only.labels, lengths_only.confidence), (None, None));
    }

    #[test]
    fn histograms_that_cannot_be_are_named() {
        let problem = |edges: &[f64], counts: &[u64]| {
            let tokens = Histogram { edges: edges.to_vec(), counts: counts.to_vec() };
            Reference { tokens, ..Reference::default() }.problem()
        };
        assert_eq!(problem(&[1.0, 2.0], &[1, 2, 3]), None);
        assert_eq!(problem(&[1.0, 2.0], &[1, 2]).unwrap(), "tokens has 2 edges and 2 counts, expected one count more");
        assert_eq!(problem(&[2.0, 2.0], &[1, 2, 3]).unwrap(), "tokens has edges that do not rise");
        let many: Vec<f64> = (0..101).map(f64::from).collect();
        assert!(problem(&many, &[0; 102]).unwrap().contains("at most 100"));
    }
}
