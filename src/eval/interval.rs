//! Intervals of confidence: how far a measured figure may be from the true one.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Two-sided 95 % quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;
/// Resamples of a bootstrap: the ends of its intervals then move by a few percent of its width.
const RESAMPLES: usize = 1000;
/// Of every bootstrap, so that the same predictions give the same interval.
const SEED: u64 = 1;

/// A figure's 95 % interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// 95 % interval of a share of `hits` in `n` (Wilson 1927); 0 to 1 without any.
///
/// # Panics
/// When there are more hits than `n`.
pub fn wilson(hits: u64, n: u64) -> Interval {
    assert!(hits <= n, "{hits} of {n}");
    if n == 0 {
        return Interval { low: 0.0, high: 1.0 };
    }
    let (share, n, z2) = (hits as f64 / n as f64, n as f64, Z * Z);
    let centre = share + z2 / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    // At the ends the exact value is 0 or 1, which rounding would miss.
    let low = if share == 0.0 { 0.0 } else { (centre - half) / scale };
    let high = if share == 1.0 { 1.0 } else { (centre + half) / scale };
    Interval { low, high }
}

/// 95 % interval of a statistic of `n` examples by the bootstrap (Efron 1979, percentile method): the statistic of
/// 1,000 samples of `n` examples drawn with replacement, from a fixed seed. `statistic` gets the drawn indices; giving
/// it the difference of two models on the same indices makes it a paired bootstrap. Samples in which the statistic is
/// not defined do not count; none when it never is.
pub fn bootstrap(n: usize, statistic: impl Fn(&[usize]) -> Option<f64>) -> Option<Interval> {
    if n == 0 {
        return None;
    }
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut drawn = vec![0; n];
    let sample = |_| {
        drawn.fill_with(|| rng.random_range(0..n));
        statistic(&drawn)
    };
    let mut found: Vec<f64> = (0..RESAMPLES).filter_map(sample).filter(|x| x.is_finite()).collect();
    found.sort_by(f64::total_cmp);
    let at = |q: f64| found.get(((found.len().max(1) - 1) as f64 * q).round() as usize).copied();
    Some(Interval { low: at(0.025)?, high: at(0.975)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `scipy.stats.binomtest(hits, n).proportion_ci(method="wilson")`, scipy 1.17.
    #[test]
    fn wilson_intervals_equal_those_of_scipy() {
        let cases = [
            (0, 10, 0.0, 0.277532799863),
            (1, 10, 0.017876213095, 0.404150026795),
            (5, 10, 0.236593090513, 0.763406909487),
            (10, 10, 0.722467200137, 1.0),
            (1727, 2400, 0.701271840479, 0.737193015900),
            (3, 3000, 0.000340147219, 0.002936143809),
        ];
        for (hits, n, low, high) in cases {
            let found = wilson(hits, n);
            assert!((found.low - low).abs() < 1e-9 && (found.high - high).abs() < 1e-9, "{hits} of {n}: {found:?}");
        }
        assert_eq!(wilson(0, 0), Interval { low: 0.0, high: 1.0 });
    }

    #[test]
    fn a_bootstrap_of_a_mean_is_near_its_normal_interval_and_repeats_itself() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 10)).collect();
        let mean = |drawn: &[usize]| Some(drawn.iter().map(|i| values[*i]).sum::<f64>() / drawn.len() as f64);
        let found = bootstrap(400, mean).unwrap();
        // Mean 4.5, standard deviation sqrt(8.25), so 1.96 standard errors are 0.2815.
        assert!((found.low - 4.2185).abs() < 0.03 && (found.high - 4.7815).abs() < 0.03, "{found:?}");
        assert_eq!(bootstrap(400, mean), Some(found));
    }

    #[test]
    fn a_statistic_that_is_never_defined_has_no_interval() {
        assert_eq!((bootstrap(5, |_| None), bootstrap(0, |_| Some(1.0))), (None, None));
    }
}
