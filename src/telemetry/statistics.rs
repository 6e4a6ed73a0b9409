//! The figures that live accuracy is told in, as pure functions of counts.

/// Standard normal quantile of the two-sided 95 % interval.
const Z: f64 = 1.959_963_984_540_054;

/// What is added to every bin of [`psi`], so that an empty one does not make it infinite (Jeffreys' prior).
const PSI_PSEUDOCOUNT: f64 = 0.5;

/// Values for each bin without which [`psi`] is not told: with fewer, chance alone comes near 0.1. (Without any drift its
/// expectation is about `(bins - 1) (1 / n + 1 / m)` for `n` and `m` values.)
const PSI_VALUES_PER_BIN: u64 = 50;

/// Upper end of the two-sided 95 % Wilson score interval of a share of which `hits` of `count` were seen
/// (Wilson 1927). Nothing seen in `n` gives `3.84 / (n + 3.84)`, from `n = 14` on a little above the "rule of three"
/// `3 / n`; nothing looked at gives 1.
pub fn wilson_upper(hits: u64, count: u64) -> f64 {
    let (hits, n, z2) = (hits as f64, count as f64, Z * Z);
    if n == 0.0 {
        return 1.0;
    }
    let spread = Z * (hits * (n - hits) / n + z2 / 4.0).sqrt();
    (hits + z2 / 2.0 + spread) / (n + z2)
}

/// Population stability index `sum (a - e) ln(a / e)` of shares `a` of `live` and `e` of `reference` in the same bins, with
/// half a value added to each bin of both. 0 when they are equal; the bands 0.1 and 0.25 are convention, not statistics.
///
/// NaN when either side has fewer than 50 values for each bin.
///
/// # Panics
/// When the numbers of bins differ.
pub fn psi(live: &[u64], reference: &[u64]) -> f64 {
    assert_eq!(live.len(), reference.len(), "both sides count in the same bins");
    let enough = |counts: &[u64]| counts.iter().sum::<u64>() >= PSI_VALUES_PER_BIN * counts.len() as u64;
    if !enough(live) || !enough(reference) {
        return f64::NAN;
    }
    let shares = |counts: &[u64]| -> Vec<f64> {
        let total = counts.iter().sum::<u64>() as f64 + PSI_PSEUDOCOUNT * counts.len() as f64;
        counts.iter().map(|count| (*count as f64 + PSI_PSEUDOCOUNT) / total).collect()
    };
    let pairs = shares(live).into_iter().zip(shares(reference));
    pairs.map(|(a, e)| (a - e) * (a / e).ln()).sum()
}

/// Predictions whose confidence lies in one bin.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ConfidenceBin {
    /// How many.
    pub count: u64,
    /// How many of them were right.
    pub correct: u64,
    /// Sum of their confidences.
    pub confidence: f64,
}

/// Expected calibration error: the mean over the predictions of `|accuracy - mean confidence|` of their bin
/// (Naeini et al. 2015, Guo et al. 2017). NaN without predictions.
pub fn calibration_error(bins: &[ConfidenceBin]) -> f64 {
    let total: u64 = bins.iter().map(|bin| bin.count).sum();
    bins.iter().map(|bin| (bin.correct as f64 - bin.confidence).abs()).sum::<f64>() / total as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6, "found {found}, expected {expected}");
    }

    /// Expected values from scipy, `binomtest(hits, count).proportion_ci(0.95, method="wilson").high`.
    #[test]
    fn the_upper_end_is_wilsons() {
        near(wilson_upper(0, 3000), 0.001_278_848_7);
        near(wilson_upper(5, 100), 0.111_750_469);
        near(wilson_upper(26, 2357), 0.016_114_275);
        near(wilson_upper(7, 7), 1.0);
        assert_eq!(wilson_upper(0, 0), 1.0);
        for n in [14, 100, 10_000] {
            assert!(wilson_upper(0, n) > 3.0 / n as f64, "above the rule of three");
        }
    }

    #[test]
    fn psi_is_zero_for_equal_shares_and_grows_with_the_difference() {
        assert!(psi(&[300, 300, 400], &[3000, 3000, 4000]).abs() < 1e-5);
        // (0.5 - 0.3) ln(0.5 / 0.3) + (0.5 - 0.7) ln(0.5 / 0.7)
        assert!((psi(&[5_000_000, 5_000_000], &[3_000_000, 7_000_000]) - 0.169_459).abs() < 1e-5);
        // An empty bin counts for half a value.
        let (a, e) = (0.5f64 / 1001.0, 500.5f64 / 1001.0);
        near(psi(&[0, 1000], &[500, 500]), (a - e) * (a / e).ln() + (e - a) * ((1.0 - a) / (1.0 - e)).ln());
        assert!(psi(&[49, 50], &[500, 500]).is_nan() && psi(&[500, 500], &[49, 50]).is_nan());
        assert!(!psi(&[50, 50], &[50, 50]).is_nan());
    }

    #[test]
    fn calibration_error_weighs_bins_by_their_predictions() {
        let bin = |count, correct, confidence| ConfidenceBin { count, correct, confidence };
        // 10 at 0.75 with 5 right, 30 at 0.95 with all right: (|5 - 7.5| + |30 - 28.5|) / 40
        near(calibration_error(&[bin(10, 5, 7.5), bin(0, 0, 0.0), bin(30, 30, 28.5)]), 0.1);
        assert!(calibration_error(&[bin(0, 0, 0.0)]).is_nan());
    }
}
