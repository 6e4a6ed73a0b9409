//! Observers that keep the two ends only.

use super::{Observer, Range};

/// Everything that was seen: `lo = min x`, `hi = max x` (Jacob et al. 2018, <https://arxiv.org/abs/1712.05877>).
/// Clips nothing; one outlier makes all other values coarse.
#[derive(Clone, Debug, Default)]
pub struct MinMax {
    range: Option<Range>,
}

/// An exponential moving average of each sequence's ends: `m <- (1 - c) m + c x`, starting at the first sequence (Jacob
/// et al. 2018, section 3.1; Q8BERT, Zafrir et al. 2019, <https://arxiv.org/abs/1910.06188>). One sequence with an
/// outlier moves the range a little only. Depends on the order of the sequences.
#[derive(Clone, Debug)]
pub struct Ema {
    rate: f32,
    range: Option<Range>,
}

impl Ema {
    /// Weight `c` of a new sequence, in `(0, 1]`.
    pub fn new(rate: f32) -> Self {
        Ema { rate, range: None }
    }
}

impl Default for Ema {
    /// `c = 0.01`.
    fn default() -> Self {
        Ema::new(0.01)
    }
}

impl Observer for MinMax {
    fn observe(&mut self, values: &[f32]) {
        self.range = match (self.range, ends(values)) {
            (Some(a), Some(b)) => Some(Range { lo: a.lo.min(b.lo), hi: a.hi.max(b.hi) }),
            (a, b) => a.or(b),
        };
    }

    fn range(&self) -> Option<Range> {
        self.range
    }
}

impl Observer for Ema {
    fn observe(&mut self, values: &[f32]) {
        let mix = |m: f32, x: f32| (1.0 - self.rate) * m + self.rate * x;
        self.range = match (self.range, ends(values)) {
            (Some(m), Some(x)) => Some(Range { lo: mix(m.lo, x.lo), hi: mix(m.hi, x.hi) }),
            (m, x) => m.or(x),
        };
    }

    fn range(&self) -> Option<Range> {
        self.range
    }
}

/// The least and the largest finite value.
fn ends(values: &[f32]) -> Option<Range> {
    let finite = values.iter().copied().filter(|v| v.is_finite());
    finite.fold(None, |range, v| {
        Some(range.map_or(Range { lo: v, hi: v }, |r: Range| Range { lo: r.lo.min(v), hi: r.hi.max(v) }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn min_max_is_that_of_all_slices_together() {
        let mut observer = MinMax::default();
        for slice in [&[1.0f32, -2.0][..], &[], &[f32::NAN, 5.0], &[0.0]] {
            observer.observe(slice);
        }
        assert_eq!(observer.range(), Some(Range { lo: -2.0, hi: 5.0 }));
    }

    #[test]
    fn the_moving_average_starts_at_the_first_and_follows_its_formula() {
        let mut observer = Ema::new(0.25);
        observer.observe(&[-1.0, 4.0]);
        assert_eq!(observer.range(), Some(Range { lo: -1.0, hi: 4.0 }));
        observer.observe(&[-5.0, 8.0]);
        assert_eq!(observer.range(), Some(Range { lo: -2.0, hi: 5.0 }));
        // A single outlier among a hundred sequences hardly moves it.
        let mut observer = Ema::default();
        (0..100).for_each(|i| observer.observe(&[-1.0, if i == 50 { 100.0 } else { 1.0 }]));
        let hi = observer.range().unwrap().hi;
        let expected = 1.0 + 99.0 * 0.01 * 0.99f32.powi(49);
        assert!((hi - expected).abs() < 1e-3, "{hi}, expected {expected}");
    }
}
