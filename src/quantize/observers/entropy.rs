//! The range that changes the distribution of the values least.

use super::{Histogram, LEVELS, Observer, Range};

/// Candidates for each end: the end of what was seen times `FIRST/STEPS ... 1`.
const STEPS: usize = 64;
const FIRST: usize = 4;

/// Minimizes the Kullback-Leibler divergence `sum P ln(P / Q)` from the clipped distribution P, outliers put into its
/// outermost bins, to Q, which is what is inside after 256 levels: the counts of a level spread evenly over its bins
/// that are not empty (Migacz 2017, "8-bit inference with TensorRT"; here first for the upper end, then for the lower).
/// It looks at how often values occur and not at how large they are; for encoders [`Mse`](super::Mse) is the better
/// choice.
#[derive(Clone, Debug, Default)]
pub struct Entropy {
    histogram: Histogram,
}

impl Entropy {
    /// Divergence of quantization over a range that holds zero.
    fn divergence(&self, range: Range) -> f64 {
        let width = self.histogram.width();
        let place = |value: f64| (value / width).floor() as i64;
        let (first, last) = (place(f64::from(range.lo)), place(f64::from(range.hi)));
        let count = (last - first + 1) as usize;
        let (mut clipped, mut inside) = (vec![0f64; count], vec![0f64; count]);
        for (value, counted) in self.histogram.bins() {
            let bin = place(value);
            clipped[(bin.clamp(first, last) - first) as usize] += counted as f64;
            if (first..=last).contains(&bin) {
                inside[(bin - first) as usize] += counted as f64;
            }
        }
        divergence(&clipped, &requantized(&inside, &clipped))
    }
}

/// `inside` after quantization to [`LEVELS`]: each level's counts, spread evenly over its bins with a count in
/// `support`.
fn requantized(inside: &[f64], support: &[f64]) -> Vec<f64> {
    let bins = inside.len();
    let start = |level: usize| level * bins / LEVELS;
    let mut spread = vec![0f64; bins];
    for level in 0..LEVELS {
        let own = start(level)..start(level + 1);
        let filled = own.clone().filter(|bin| support[*bin] > 0.0).count().max(1) as f64;
        let share = inside[own.clone()].iter().sum::<f64>() / filled;
        own.filter(|bin| support[*bin] > 0.0).for_each(|bin| spread[bin] = share);
    }
    spread
}

/// `sum P ln(P / Q)` of two histograms, scaled to sums of 1; where P has counts and Q none, Q counts as a
/// ten-thousandth of a value.
fn divergence(p: &[f64], q: &[f64]) -> f64 {
    let (p_sum, q_sum) = (p.iter().sum::<f64>(), q.iter().sum::<f64>().max(f64::MIN_POSITIVE));
    let terms = p.iter().zip(q).filter(|(p, _)| **p > 0.0);
    terms.map(|(p, q)| (p / p_sum) * ((p / p_sum) / (q.max(1e-4) / q_sum)).ln()).sum()
}

impl Observer for Entropy {
    fn observe(&mut self, values: &[f32]) {
        self.histogram.add(values);
    }

    fn range(&self) -> Option<Range> {
        let (lo, hi) = self.histogram.ends()?;
        let full = Range { lo: lo.min(0.0), hi: hi.max(0.0) };
        if full.hi - full.lo < f32::MIN_POSITIVE {
            return Some(full);
        }
        let shares = || (FIRST..=STEPS).rev().map(|i| i as f32 / STEPS as f32);
        let best = |candidates: &mut dyn Iterator<Item = Range>| {
            let scored = candidates.map(|range| (self.divergence(range), range));
            scored.min_by(|a, b| a.0.total_cmp(&b.0)).expect("there is a candidate").1
        };
        let upper = best(&mut shares().map(|s| Range { hi: full.hi * s, ..full }));
        Some(best(&mut shares().map(|s| Range { lo: full.lo * s, ..upper })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    fn values(outliers: usize) -> Vec<f32> {
        let mut rng = StdRng::seed_from_u64(2);
        let mut gauss = || (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
        (0..30_000).map(|_| gauss()).chain((0..outliers).map(|i| 60.0 + i as f32)).collect()
    }

    fn observer(values: &[f32]) -> Entropy {
        let mut observer = Entropy::default();
        values.chunks(777).for_each(|c| observer.observe(c));
        observer
    }

    /// The formula from the values themselves, without a histogram.
    fn brute_force(values: &[f32], width: f64, first: i64, last: i64) -> f64 {
        let bin = |v: f32| (f64::from(v) / width).floor() as i64;
        let bins = (last - first + 1) as usize;
        let n = values.len() as f64;
        let kept = values.iter().filter(|v| (first..=last).contains(&bin(**v))).count() as f64;
        let p = |b: i64| values.iter().filter(|v| bin(**v).clamp(first, last) == b).count() as f64;
        let mut total = 0.0;
        for level in 0..LEVELS {
            let own: Vec<i64> =
                (level * bins / LEVELS..(level + 1) * bins / LEVELS).map(|b| first + b as i64).collect();
            let inside = values.iter().filter(|v| own.contains(&bin(**v))).count() as f64;
            let filled: Vec<f64> = own.iter().map(|b| p(*b)).filter(|p| *p > 0.0).collect();
            let q = (inside / filled.len() as f64).max(1e-4);
            total += filled.iter().map(|p| p / n * ((p / n) / (q / kept)).ln()).sum::<f64>();
        }
        total
    }

    #[test]
    fn the_divergence_is_that_of_the_values_themselves() {
        let values: Vec<f32> = values(3).into_iter().rev().step_by(37).collect();
        let observer = observer(&values);
        let width = observer.histogram.width();
        for hi in [2.0f32, 10.0, 62.0] {
            let ends = [-2.0, f64::from(hi)].map(|end| (end / width).floor() as i64);
            let exact = brute_force(&values, width, ends[0], ends[1]);
            let found = observer.divergence(Range { lo: -2.0, hi });
            assert!((found - exact).abs() < 1e-9 * exact.abs() + 1e-12, "{hi}: {found}, {exact}");
        }
    }

    #[test]
    fn rare_outliers_are_clipped_and_plain_values_are_not() {
        let range = |outliers: usize| observer(&values(outliers)).range().unwrap();
        assert!(range(3).hi < 20.0, "{:?}", range(3));
        assert!(range(0).hi > 2.5, "{:?}", range(0));
    }
}
