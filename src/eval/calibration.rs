//! Is a score of 0.8 right in 80 of 100 cases?

/// Bins of the expected calibration error; the usual number since Guo et al. 2017.
const BINS: usize = 15;

/// How honest the scores of a model are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calibration {
    /// Expected calibration error, 0..1: the mean over the bins, by their counts, of how far their accuracy is from
    /// their confidence.
    pub ece: f64,
    /// Mean negative log likelihood of the truth, natural logarithm.
    pub nll: f64,
    /// Brier score (Brier 1950): the mean over the texts of the squared errors of all scores, 0..2.
    pub brier: f64,
    /// By confidence, equally wide from 0 to 1.
    pub bins: Vec<Bin>,
}

/// Answers of about the same confidence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bin {
    /// How many.
    pub count: u64,
    /// Their mean confidence, 0..1.
    pub confidence: f64,
    /// Share of them that came true, 0..1.
    pub accuracy: f64,
}

/// Scores that sum to 1, `[texts][classes]`, beside the true class of each text. Confidence is the best score.
///
/// # Panics
/// When the lists differ in length.
pub fn single_label(scores: &[&[f32]], truths: &[usize]) -> Calibration {
    assert_eq!(scores.len(), truths.len(), "one truth per text");
    let (mut answers, mut nll, mut brier) = (Vec::new(), 0.0, 0.0);
    for (scores, truth) in scores.iter().zip(truths) {
        let best = super::classification::best(scores);
        answers.push((f64::from(scores[best]), best == *truth));
        nll -= log(scores[*truth]);
        brier += scores.iter().enumerate().map(|(c, s)| squared_error(*s, c == *truth)).sum::<f64>();
    }
    Calibration::new(&answers, nll, brier)
}

/// Independent scores, `[texts][labels]`, beside whether each label is true. Every score is a statement of its own:
/// the Brier score is the mean over texts and labels, 0..1.
///
/// # Panics
/// When the lists differ in length.
pub fn multi_label(scores: &[&[f32]], truths: &[&[bool]]) -> Calibration {
    assert_eq!(scores.len(), truths.len(), "one truth per text");
    let (mut answers, mut nll, mut brier) = (Vec::new(), 0.0, 0.0);
    for (score, truth) in scores.iter().copied().flatten().zip(truths.iter().copied().flatten()) {
        answers.push((f64::from(*score), *truth));
        nll -= log(if *truth { *score } else { 1.0 - *score });
        brier += squared_error(*score, *truth);
    }
    Calibration::new(&answers, nll, brier)
}

impl Calibration {
    /// From (confidence, came true) and the sums over all answers.
    fn new(answers: &[(f64, bool)], nll: f64, brier: f64) -> Self {
        let mut bins = vec![Bin::default(); BINS];
        for (confidence, right) in answers {
            // Bin m holds confidences above m / BINS up to (m + 1) / BINS.
            let bin = &mut bins[((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1];
            bin.count += 1;
            bin.confidence += confidence;
            bin.accuracy += f64::from(u8::from(*right));
        }
        for bin in bins.iter_mut().filter(|bin| bin.count > 0) {
            bin.confidence /= bin.count as f64;
            bin.accuracy /= bin.count as f64;
        }
        let n = answers.len().max(1) as f64;
        let ece = bins.iter().map(|b| b.count as f64 / n * (b.accuracy - b.confidence).abs()).sum();
        Calibration { ece, nll: nll / n, brier: brier / n, bins }
    }
}

fn squared_error(score: f32, is_true: bool) -> f64 {
    (f64::from(score) - f64::from(u8::from(is_true))).powi(2)
}

/// Natural logarithm; a score of 0 counts as the smallest f32, so that one mistake does not hide all else.
fn log(score: f32) -> f64 {
    f64::from(score.max(f32::MIN_POSITIVE)).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: confidences 0.9 (right), 0.78 (wrong) and 0.58 (right) lie in bins 14, 12 and 9 of 15, so the error is
    /// (0.1 + 0.78 + 0.42) / 3.
    #[test]
    fn the_calibration_error_is_that_by_hand() {
        let scores = [[0.9f32, 0.1], [0.22, 0.78], [0.58, 0.42]];
        let rows: Vec<&[f32]> = scores.iter().map(|s| s.as_slice()).collect();
        let found = single_label(&rows, &[0, 0, 0]);
        assert!((found.ece - 1.3 / 3.0).abs() < 1e-6, "{found:?}");
        assert!((found.nll + (0.9f64.ln() + 0.22f64.ln() + 0.58f64.ln()) / 3.0).abs() < 1e-6);
        assert!((found.brier - 2.0 * (0.01 + 0.6084 + 0.1764) / 3.0).abs() < 1e-6);
        let counts: Vec<_> = found.bins.iter().map(|b| b.count).collect();
        assert_eq!(counts, [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 1, 0]);
    }

    #[test]
    fn answers_of_one_bin_are_averaged_before_they_are_compared() {
        // Two answers at 0.75, one of them right: the bin is off by 0.25, not by the mean of 0.25 and 0.75.
        let scores = [[0.75f32, 0.25], [0.75, 0.25]];
        let rows: Vec<&[f32]> = scores.iter().map(|s| s.as_slice()).collect();
        assert!((single_label(&rows, &[0, 1]).ece - 0.25).abs() < 1e-9);
    }

    #[test]
    fn the_ends_of_the_bins_belong_to_them() {
        let found = single_label(&[&[1.0, 0.0], &[0.0, 1.0]], &[0, 0]);
        assert_eq!((found.bins[14].count, found.bins[14].accuracy), (2, 0.5));
        assert!(found.nll.is_finite(), "a score of 0 for the truth");
        assert_eq!(single_label(&[], &[]).ece, 0.0);
    }

    /// scikit-learn 1.9: `log_loss`, `brier_score_loss` over all texts and labels.
    #[test]
    fn several_labels_are_statements_of_their_own() {
        let (scores, truths) = ([[0.9f32, 0.2], [0.4, 0.7]], [[true, false], [true, true]]);
        let rows: Vec<&[f32]> = scores.iter().map(|s| s.as_slice()).collect();
        let truths: Vec<&[bool]> = truths.iter().map(|t| t.as_slice()).collect();
        let found = multi_label(&rows, &truths);
        assert!((found.nll - 0.400_367_439).abs() < 1e-6, "{found:?}");
        assert!((found.brier - (0.01 + 0.04 + 0.36 + 0.09) / 4.0).abs() < 1e-6);
        assert!((found.ece - (0.1 + 0.2 + 0.6 + 0.3) / 4.0).abs() < 1e-6);
    }
}
