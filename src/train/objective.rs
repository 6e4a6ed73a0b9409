//! Losses, and scores on dev.

use candle_core::{D, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::architectures::ProblemType;

use super::dataset::Item;
use super::{FineTuneSettings, Task, ValueScale};

/// Mean loss of a batch: cross-entropy of one class, binary cross-entropy of several, squared error of a standardized
/// number, or the sum of classes and number.
pub(super) fn loss(
    logits: &Tensor,
    items: &[&Item],
    task: &Task,
    scale: ValueScale,
    settings: &FineTuneSettings,
) -> candle_core::Result<Tensor> {
    let (count, classes) = (items.len(), task.classes());
    let mut parts = Vec::new();
    if classes > 0 {
        let targets: Vec<f32> = items.iter().flat_map(|i| &i.target).copied().collect();
        let targets = Tensor::from_vec(targets, (count, classes), &Device::Cpu)?;
        let logits = logits.narrow(1, 0, classes)?;
        parts.push(match task.problem_type {
            ProblemType::SingleLabel => {
                let smoothing = settings.label_smoothing;
                cross_entropy(&logits, &targets.affine(1.0 - smoothing, smoothing / classes as f64)?)?
            }
            _ => binary_cross_entropy(&logits, &targets)?,
        });
    }
    if task.has_value() {
        let standardized = |i: &&Item| ((i.value.unwrap_or(scale.mean) - scale.mean) / scale.deviation) as f32;
        let targets = Tensor::from_vec(items.iter().map(standardized).collect(), (count, 1), &Device::Cpu)?;
        let error = (logits.narrow(1, task.outputs() - 1, 1)? - targets)?.sqr()?.mean_all()?;
        parts.push(if classes > 0 { (error * settings.value_weight)? } else { error });
    }
    parts
        .into_iter()
        .reduce(|a, b| (a + b).expect("both are scalars"))
        .map_or_else(|| unreachable!("a task has outputs"), Ok)
}

/// `-sum(target log softmax(logits))`, mean over rows.
fn cross_entropy(logits: &Tensor, targets: &Tensor) -> candle_core::Result<Tensor> {
    let log_probabilities = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    (targets * log_probabilities)?.sum(D::Minus1)?.mean_all()?.neg()
}

/// `max(x, 0) - x t + ln(1 + e^-|x|)`, mean over all: the logarithm of the sigmoid without its overflow.
fn binary_cross_entropy(logits: &Tensor, targets: &Tensor) -> candle_core::Result<Tensor> {
    let soft = (logits.abs()?.neg()?.exp()? + 1.0)?.log()?;
    ((logits.relu()? - (logits * targets)?)? + soft)?.mean_all()
}

/// What a model is worth on dev.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DevScores {
    /// Mean loss, as in training but without dropout and smoothing.
    #[serde(deserialize_with = "super::state::or_nan")]
    pub loss: f32,
    /// One class: share of right ones. Several: subset accuracy, the share of texts that got exactly their classes, as
    /// `octet eval` measures it with thresholds of 0.5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Pearson's correlation of the number with its truth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pearson: Option<f64>,
}

impl DevScores {
    /// What epochs are compared by: accuracy, correlation, or the mean of both; negative infinity when the loss is no
    /// number.
    pub fn score(&self) -> f64 {
        if !self.loss.is_finite() {
            return f64::NEG_INFINITY;
        }
        match (self.accuracy, self.pearson) {
            (Some(accuracy), Some(pearson)) => (accuracy + pearson) / 2.0,
            (Some(score), None) | (None, Some(score)) => score,
            (None, None) => -f64::from(self.loss),
        }
    }

    /// Scores of the outputs of `items`, one row each.
    pub(super) fn of(loss: f32, rows: &[Vec<f32>], items: &[Item], task: &Task) -> Self {
        let accuracy = match task.problem_type {
            ProblemType::Regression => None,
            ProblemType::SingleLabel => {
                let right =
                    |(row, item): &(&Vec<f32>, &Item)| largest(&row[..task.classes()]) == largest(&item.classes);
                Some(rows.iter().zip(items).filter(right).count() as f64 / rows.len() as f64)
            }
            ProblemType::MultiLabel => {
                let given = |(logit, class): (&f32, &f32)| (*logit >= 0.0) == (*class > 0.5);
                let exact = |(row, item): &(&Vec<f32>, &Item)| row.iter().zip(&item.classes).all(given);
                Some(rows.iter().zip(items).filter(exact).count() as f64 / rows.len() as f64)
            }
        };
        let pearson = task.has_value().then(|| {
            let found: Vec<f64> = rows.iter().map(|row| f64::from(row[task.outputs() - 1])).collect();
            let truth: Vec<f64> = items.iter().map(|i| i.value.unwrap_or(0.0)).collect();
            correlation(&found, &truth)
        });
        // Twelve digits are read back from a checkpoint's JSON with the same bits; seventeen may not be.
        let rounded = |score: f64| (score * 1e12).round() / 1e12;
        DevScores { loss, accuracy: accuracy.map(rounded), pearson: pearson.map(rounded) }
    }
}

/// Index of the largest value; the first of equals.
fn largest(values: &[f32]) -> usize {
    (0..values.len()).rev().max_by(|a, b| values[*a].total_cmp(&values[*b])).unwrap_or(0)
}

/// Pearson's correlation; 0 when one side is constant.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let product = |x: &[f64], mean_x: f64, y: &[f64], mean_y: f64| {
        x.iter().zip(y).map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>()
    };
    let spread = (product(a, mean_a, a, mean_a) * product(b, mean_b, b, mean_b)).sqrt();
    if spread == 0.0 { 0.0 } else { product(a, mean_a, b, mean_b) / spread }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(x: candle_core::Result<Tensor>) -> f32 {
        x.unwrap().to_scalar().unwrap()
    }

    #[test]
    fn losses_equal_their_definitions() {
        let logits = Tensor::new(&[[2.0f32, -1.0], [0.5, 0.5]], &Device::Cpu).unwrap();
        let targets = Tensor::new(&[[1.0f32, 0.0], [0.25, 0.75]], &Device::Cpu).unwrap();
        let first = (1.0 + (-3.0f64).exp()).ln();
        let expected = (first + 2f64.ln()) / 2.0;
        assert!((f64::from(scalar(cross_entropy(&logits, &targets))) - expected).abs() < 1e-6);
        let one = |x: f64, t: f64| -(t * (1.0 / (1.0 + (-x).exp())).ln() + (1.0 - t) * (1.0 / (1.0 + x.exp())).ln());
        let expected = (one(2.0, 1.0) + one(-1.0, 0.0) + one(0.5, 0.25) + one(0.5, 0.75)) / 4.0;
        assert!((f64::from(scalar(binary_cross_entropy(&logits, &targets))) - expected).abs() < 1e-6);
    }

    #[test]
    fn a_huge_logit_gives_a_finite_loss() {
        let logits = Tensor::new(&[[1000.0f32, -1000.0]], &Device::Cpu).unwrap();
        let targets = Tensor::new(&[[0.0f32, 1.0]], &Device::Cpu).unwrap();
        assert_eq!(scalar(binary_cross_entropy(&logits, &targets)), 1000.0);
        assert_eq!(scalar(cross_entropy(&logits, &targets)), 2000.0);
    }

    #[test]
    fn correlation_is_that_of_pearson() {
        assert!((correlation(&[1.0, 2.0, 3.0], &[10.0, 20.0, 30.0]) - 1.0).abs() < 1e-12);
        // By hand: covariance 1, variances 2 and 2.
        assert!((correlation(&[1.0, 2.0, 3.0], &[1.0, 3.0, 2.0]) - 0.5).abs() < 1e-12);
        assert_eq!(correlation(&[1.0, 1.0], &[0.0, 5.0]), 0.0);
    }
}
