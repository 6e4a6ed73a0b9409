//! A range that leaves a fixed share of the values outside.

use super::{Histogram, Observer, Range};

/// From the `1 - p` to the `p` quantile of all values (McKinstry et al. 2018, <https://arxiv.org/abs/1809.04191>), by
/// default p = 0.9999. Quantiles are read from the histogram, linear within a bin; zero is always inside.
#[derive(Clone, Debug)]
pub struct Percentile {
    share: f64,
    histogram: Histogram,
}

impl Percentile {
    /// The quantile `p` of the upper end, in `(0.5, 1]`.
    pub fn new(share: f64) -> Self {
        Percentile { share, histogram: Histogram::default() }
    }

    /// The value that a share of all values lies below.
    fn quantile(&self, share: f64) -> f64 {
        let target = share * self.histogram.total() as f64;
        let (lo, hi) = self.histogram.ends().map_or((0.0, 0.0), |(lo, hi)| (f64::from(lo), f64::from(hi)));
        let width = self.histogram.width();
        let mut below = 0.0;
        for (middle, count) in self.histogram.bins() {
            let count = count as f64;
            if below + count >= target {
                let left = (middle / width).floor() * width;
                return (left + width * ((target - below) / count).clamp(0.0, 1.0)).clamp(lo, hi);
            }
            below += count;
        }
        hi
    }
}

impl Default for Percentile {
    fn default() -> Self {
        Percentile::new(0.9999)
    }
}

impl Observer for Percentile {
    fn observe(&mut self, values: &[f32]) {
        self.histogram.add(values);
    }

    fn range(&self) -> Option<Range> {
        self.histogram.ends()?;
        let (lo, hi) = (self.quantile(1.0 - self.share), self.quantile(self.share));
        Some(Range { lo: lo.min(0.0) as f32, hi: hi.max(0.0) as f32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        let mut rng = StdRng::seed_from_u64(5);
        let values: Vec<f32> = (0..20_000).map(|_| (rng.random::<f32>() - 0.3).powi(3) * 8.0).collect();
        let mut sorted = values.clone();
        sorted.sort_by(f32::total_cmp);
        for share in [0.9, 0.99, 0.999] {
            let mut observer = Percentile::new(share);
            values.chunks(333).for_each(|c| observer.observe(c));
            let range = observer.range().unwrap();
            let exact = |share: f64| sorted[(share * sorted.len() as f64) as usize - 1];
            let slack = observer.histogram.width() as f32 * 2.0;
            assert!((range.hi - exact(share)).abs() <= slack, "{share}: {} and {}", range.hi, exact(share));
            assert!((range.lo - exact(1.0 - share)).abs() <= slack, "{share}: {}", range.lo);
        }
    }

    #[test]
    fn one_outlier_in_many_is_left_outside() {
        let mut observer = Percentile::default();
        (0..2000).for_each(|i| observer.observe(&[(i % 100) as f32 / 100.0; 10]));
        observer.observe(&[1000.0]);
        assert!(observer.range().unwrap().hi < 2.0, "{:?}", observer.range());
    }
}
