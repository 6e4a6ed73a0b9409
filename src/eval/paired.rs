//! Two models on the same examples: what one of them gets right that the other does not.
//!
//! Two accuracies, each with an interval of its own, hide that both models saw the same texts. What changed is counted
//! instead, and judged by McNemar's test and Newcombe's interval.

use super::interval::{Interval, wilson};

/// How two models did on the same examples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paired {
    /// Both are right.
    pub both_right: u64,
    /// The reference is right, the model is not.
    pub lost: u64,
    /// The model is right, the reference is not.
    pub gained: u64,
    /// Neither is right.
    pub both_wrong: u64,
}

impl Paired {
    /// Counts whether each example was right: `(reference, model)`.
    pub fn count(right: impl IntoIterator<Item = (bool, bool)>) -> Self {
        let mut counts = Paired::default();
        for pair in right {
            *match pair {
                (true, true) => &mut counts.both_right,
                (true, false) => &mut counts.lost,
                (false, true) => &mut counts.gained,
                (false, false) => &mut counts.both_wrong,
            } += 1;
        }
        counts
    }

    /// Number of examples.
    pub fn total(&self) -> u64 {
        self.both_right + self.lost + self.gained + self.both_wrong
    }

    /// The model's accuracy minus the reference's, -1..1.
    pub fn difference(&self) -> f64 {
        (self.gained as f64 - self.lost as f64) / self.total().max(1) as f64
    }

    /// 95 % interval of [`Paired::difference`]: Newcombe 1998, "Improved confidence intervals for the difference
    /// between binomial proportions based on paired data", method 10: Wilson's intervals of both, joined with their
    /// correlation.
    pub fn interval(&self) -> Interval {
        let [a, b, c, d] = [self.both_right, self.gained, self.lost, self.both_wrong].map(|x| x as f64);
        let n = self.total();
        if n == 0 {
            return Interval { low: -1.0, high: 1.0 };
        }
        let (model, reference) = (wilson(self.both_right + self.gained, n), wilson(self.both_right + self.lost, n));
        let shares = ((a + b) / n as f64, (a + c) / n as f64);
        let cross = a * d - b * c;
        let cross = if cross > 0.0 { (cross - n as f64 / 2.0).max(0.0) } else { cross };
        let margins = ((a + b) * (c + d) * (a + c) * (b + d)).sqrt();
        let phi = if margins > 0.0 { cross / margins } else { 0.0 };
        // The difference is lowest where the model is low and the reference is high.
        let reach = |own: f64, other: f64| (own * own - 2.0 * phi * own * other + other * other).max(0.0).sqrt();
        Interval {
            low: self.difference() - reach(shares.0 - model.low, reference.high - shares.1),
            high: self.difference() + reach(model.high - shares.0, shares.1 - reference.low),
        }
    }

    /// McNemar's exact test (McNemar 1947; two-sided binomial): how likely flips as uneven as these are when both
    /// models are equally good, 0..1.
    pub fn mcnemar(&self) -> f64 {
        let flips = self.lost + self.gained;
        let fewer = self.lost.min(self.gained);
        // ln of the binomial's terms, one after another: C(n, k + 1) = C(n, k) (n - k) / (k + 1).
        let mut term = -(flips as f64) * std::f64::consts::LN_2;
        let mut sum = 0.0;
        for k in 0..=fewer {
            sum += term.exp();
            term += ((flips - k) as f64 / (k + 1) as f64).ln();
        }
        (2.0 * sum).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paired(both_right: u64, lost: u64, gained: u64, both_wrong: u64) -> Paired {
        Paired { both_right, lost, gained, both_wrong }
    }

    #[test]
    fn examples_are_counted_by_who_is_right() {
        let right = [(true, true), (true, false), (false, true), (false, true), (false, false)];
        let found = Paired::count(right);
        assert_eq!(found, paired(1, 1, 2, 1));
        assert!((found.difference() - 0.2).abs() < 1e-12);
    }

    /// By hand: 10 flips, 2 of them gains: 2 (C(10,0) + C(10,1) + C(10,2)) / 2^10 = 112 / 1024. The others are
    /// `scipy.stats.binomtest(min(b, c), b + c).pvalue`, scipy 1.17.
    #[test]
    fn mcnemar_is_the_exact_binomial_test() {
        let cases = [
            (8, 2, 0.109375),
            (2, 8, 0.109375),
            (15, 12, 0.701108038425446),
            (0, 6, 0.03125),
            (40, 21, 0.0204147137996349),
            (1500, 1400, 0.0659873496651846),
            (0, 0, 1.0),
            (5, 5, 1.0),
        ];
        for (lost, gained, p) in cases {
            let found = paired(100, lost, gained, 5).mcnemar();
            assert!((found - p).abs() < 1e-9 * p.max(1e-3), "{lost} and {gained}: {found}");
        }
    }

    /// The first three are examples of Newcombe's paper; all were computed by a separate program.
    #[test]
    fn intervals_are_newcombes() {
        let cases = [
            ([36, 12, 2, 0], 0.056930, 0.340428),
            ([54, 0, 0, 0], -0.066414, 0.066414),
            ([2, 97, 1, 0], 0.872116, 0.985366),
            ([20, 12, 2, 16], 0.056156, 0.329207),
            ([50, 5, 5, 40], -0.063898, 0.063898),
            ([0, 3, 4, 3], -0.522540, 0.369926),
            ([1700, 16, 20, 664], -0.006681, 0.003340),
        ];
        for (counts, low, high) in cases {
            let [both_right, gained, lost, both_wrong] = counts;
            let found = paired(both_right, lost, gained, both_wrong).interval();
            assert!((found.low - low).abs() < 1e-6 && (found.high - high).abs() < 1e-6, "{counts:?}: {found:?}");
        }
    }

    #[test]
    fn without_examples_nothing_is_known() {
        assert_eq!(
            (paired(0, 0, 0, 0).interval(), paired(0, 0, 0, 0).mcnemar()),
            (Interval { low: -1.0, high: 1.0 }, 1.0)
        );
    }
}
