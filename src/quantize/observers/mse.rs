//! The range with the least squared error.

use crate::kernels::affine::QParams;

use super::{Histogram, Observer, Range};

/// Candidates for each end: the end of what was seen times `1/STEPS, 2/STEPS, ... 1`.
const STEPS: usize = 100;

/// Minimizes `sum (x - dequantize(quantize(x)))^2` over what was seen: rounding error inside, clipping error outside
/// (Banner et al. 2018, <https://arxiv.org/abs/1810.05723>; the search over shrunken ranges is that of llm-compressor's
/// `mse` observer, here down to 1 % and for both ends). First both ends shrink together, then each alone.
#[derive(Clone, Debug, Default)]
pub struct Mse {
    histogram: Histogram,
}

impl Mse {
    /// Sum of squared errors of u8 quantization over a range; values stand in the middle of their bins.
    fn error(&self, range: Range) -> f64 {
        let params = QParams::for_range_u8(range.lo, range.hi);
        let squared = |value: f64| {
            let quantized = params.dequantize(i32::from(params.quantize_u8(value as f32)));
            (value - f64::from(quantized)).powi(2)
        };
        self.histogram.bins().map(|(value, count)| count as f64 * squared(value)).sum()
    }
}

impl Observer for Mse {
    fn observe(&mut self, values: &[f32]) {
        self.histogram.add(values);
    }

    fn range(&self) -> Option<Range> {
        let (lo, hi) = self.histogram.ends()?;
        let full = Range { lo: lo.min(0.0), hi: hi.max(0.0) };
        let shares = || (1..=STEPS).rev().map(|i| i as f32 / STEPS as f32);
        let best = |candidates: &mut dyn Iterator<Item = Range>| {
            let scored = candidates.map(|range| (self.error(range), range));
            scored.min_by(|a, b| a.0.total_cmp(&b.0)).expect("there is a candidate").1
        };
        let both = best(&mut shares().map(|s| Range { lo: full.lo * s, hi: full.hi * s }));
        let upper = best(&mut shares().map(|s| Range { hi: full.hi * s, ..both }));
        Some(best(&mut shares().map(|s| Range { lo: full.lo * s, ..upper })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    fn error_of(values: &[f32], lo: f32, hi: f32) -> f64 {
        let params = QParams::for_range_u8(lo, hi);
        let error = |v: f32| f64::from(v - params.dequantize(i32::from(params.quantize_u8(v)))).powi(2);
        values.iter().map(|v| error(*v)).sum()
    }

    /// Gaussian values, a thousandth of them scaled up: the shape of an encoder's activations.
    fn with_outliers() -> Vec<f32> {
        let mut rng = StdRng::seed_from_u64(11);
        let mut gauss = || (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
        (0..20_000).map(|i| if i % 1000 == 0 { 40.0 * gauss() } else { gauss() }).collect()
    }

    #[test]
    fn no_range_of_a_fine_grid_is_better_by_more_than_two_percent() {
        let values = with_outliers();
        let mut observer = Mse::default();
        values.chunks(500).for_each(|c| observer.observe(c));
        let range = observer.range().unwrap();
        let found = error_of(&values, range.lo, range.hi);
        let (lo, hi) = values.iter().fold((0f32, 0f32), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
        let shares = || (1..=60).map(|i| i as f32 / 60.0);
        let grid = shares().flat_map(|a| shares().map(move |b| (lo * a, hi * b)));
        let best = grid.map(|(lo, hi)| error_of(&values, lo, hi)).fold(f64::INFINITY, f64::min);
        assert!(found <= 1.02 * best, "found {found}, best {best}");
        assert!(found < error_of(&values, lo, hi), "{found} is no better than the whole range");
    }

    #[test]
    fn values_without_outliers_keep_nearly_the_whole_range() {
        let values: Vec<f32> = (0..10_000).map(|i| i as f32 / 5000.0 - 1.0).collect();
        let mut observer = Mse::default();
        observer.observe(&values);
        let range = observer.range().unwrap();
        assert!(range.lo <= -0.97 && range.hi >= 0.97, "{range:?}");
    }
}
