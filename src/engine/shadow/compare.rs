//! One served row beside that of the float original.

use crate::pipelines::{Model, OutputActivation};
use crate::telemetry::{Comparison, ShadowKind};

/// By what the answers of `model` are compared.
pub(in crate::engine) fn kind(model: &Model) -> ShadowKind {
    match model.classifier.as_ref().map(|classifier| classifier.default_activation()) {
        None => ShadowKind::Vectors,
        Some(OutputActivation::None) => ShadowKind::Numbers,
        Some(OutputActivation::Softmax | OutputActivation::Sigmoid) => ShadowKind::Labels,
    }
}

/// Compares two rows of `model`, `[classes]` or `[dimensions]`; both logits become scores with the temperature and the
/// thresholds of the served model, so that the difference is what quantization did and nothing else. None when the original
/// is not finite, or another number of values.
pub(super) fn compare(model: &Model, served: &[f32], original: &[f32]) -> Option<Comparison> {
    if served.len() != original.len() || original.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let Some(classifier) = &model.classifier else {
        return Some(Comparison::Vectors { cosine_distance: 1.0 - cosine(served, original) });
    };
    let activation = classifier.default_activation();
    if activation == OutputActivation::None {
        return Some(Comparison::Numbers { error: largest_difference(served, original) });
    }
    let scores = |row| classifier.activate(row, activation);
    Some(Comparison::Labels {
        agrees: classifier.chosen(served) == classifier.chosen(original),
        logit_error: largest_difference(served, original),
        score_error: largest_difference(&scores(served), &scores(original)),
    })
}

fn largest_difference(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (f64::from(*x) - f64::from(*y)).abs()).fold(0.0, f64::max)
}

/// Cosine of the angle between two vectors, at most 1; 0 when one of them is zero.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms == 0.0 { 0.0 } else { (dot(a, b) / norms).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_and_angles() {
        assert_eq!(largest_difference(&[1.0, -2.0, 0.5], &[1.5, -4.0, 0.5]), 2.0);
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 3.0]), 0.0);
        assert_eq!(cosine(&[0.0, 0.0], &[0.0, 3.0]), 0.0);
        assert!((cosine(&[1.0, 1.0], &[1.0, 0.0]) - 0.5f64.sqrt()).abs() < 1e-12);
        assert_eq!(cosine(&[0.1, 0.2, 0.3], &[0.1, 0.2, 0.3]), 1.0);
    }
}
