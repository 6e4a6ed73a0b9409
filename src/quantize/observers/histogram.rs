//! Counts of values in bins of equal width, in fixed memory, for a range that is not known in advance.

/// Bins there are room for.
pub const BINS: usize = 4096;

/// How often values fell into each bin `[i w, (i + 1) w)`.
///
/// The width `w` is a power of two. When a value does not fit, `w` doubles and neighbouring bins join, which moves no
/// count to a wrong place: the counts are those of a histogram that had the final width from the start, in whatever
/// order the values came.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// `log2 w`.
    exponent: i32,
    /// Index of the first bin.
    first: i64,
    counts: Vec<u64>,
    total: u64,
    lo: f32,
    hi: f32,
}

impl Histogram {
    /// Counts the finite values.
    pub fn add(&mut self, values: &[f32]) {
        let finite = || values.iter().copied().filter(|v| v.is_finite());
        let Some(start) = finite().next() else { return };
        let (lo, hi) = finite().fold((start, start), |(lo, hi), v| (lo.min(v), hi.max(v)));
        self.make_room(lo, hi);
        let width = self.width();
        for value in finite() {
            self.counts[((f64::from(value) / width).floor() as i64 - self.first) as usize] += 1;
            self.total += 1;
        }
    }

    /// Values counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The least and the largest value, exactly; none when nothing was counted.
    pub fn ends(&self) -> Option<(f32, f32)> {
        (self.total > 0).then_some((self.lo, self.hi))
    }

    /// Width of a bin.
    pub fn width(&self) -> f64 {
        f64::from(self.exponent).exp2()
    }

    /// (middle of the bin, count) of the bins that are not empty, rising. The middle is within the ends of what was
    /// seen.
    pub fn bins(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let width = self.width();
        let filled = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(move |(i, count)| {
            let middle = (self.first as f64 + i as f64 + 0.5) * width;
            (middle.clamp(f64::from(self.lo), f64::from(self.hi)), *count)
        })
    }

    /// Widens the bins until both ends have one.
    fn make_room(&mut self, lo: f32, hi: f32) {
        let (lo, hi) = if self.total == 0 { (lo, hi) } else { (self.lo.min(lo), self.hi.max(hi)) };
        (self.lo, self.hi) = (lo, hi);
        let place = |value: f32, exponent: i32| (f64::from(value) / f64::from(exponent).exp2()).floor() as i64;
        let fits = |exponent: i32| place(hi, exponent).saturating_sub(place(lo, exponent)) < BINS as i64;
        if self.counts.is_empty() {
            // The smallest power of two that fits: one below what certainly does not, then up.
            let span = f64::from(hi) - f64::from(lo);
            self.exponent = if span > 0.0 { (span / BINS as f64).log2().floor() as i32 - 1 } else { -149 };
            // Indices stay exact in f64.
            self.exponent = self.exponent.max((f64::from(lo.abs().max(hi.abs())) / 2f64.powi(50)).log2().ceil() as i32);
        }
        let old = self.exponent;
        while !fits(self.exponent) {
            self.exponent += 1;
        }
        let (first, last) = (place(lo, self.exponent), place(hi, self.exponent));
        let mut counts = vec![0u64; (last - first + 1) as usize];
        for (i, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let index = (self.first + i as i64) >> (self.exponent - old).min(63);
            counts[(index - first) as usize] += count;
        }
        (self.first, self.counts) = (first, counts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    fn shuffled_slices(seed: u64) -> Vec<Vec<f32>> {
        let mut rng = StdRng::seed_from_u64(seed);
        (0..40).map(|i| (0..50).map(|_| (rng.random::<f32>() - 0.4) * (1 + i % 7) as f32).collect()).collect()
    }

    #[test]
    fn counts_are_those_of_the_final_width_in_any_order() {
        let slices = shuffled_slices(3);
        let (mut forwards, mut backwards, mut at_once) = <[Histogram; 3]>::default().into();
        slices.iter().for_each(|s| forwards.add(s));
        slices.iter().rev().for_each(|s| backwards.add(s));
        at_once.add(&slices.concat());
        let bins = |h: &Histogram| h.bins().collect::<Vec<_>>();
        assert_eq!(bins(&forwards), bins(&at_once));
        assert_eq!(bins(&backwards), bins(&at_once));
        assert!(at_once.counts.len() <= BINS && at_once.counts.len() > BINS / 4, "{}", at_once.counts.len());
        // Brute force: each bin holds the values between its ends.
        let width = at_once.width();
        for (middle, count) in at_once.bins() {
            let left = (middle / width).floor() * width;
            let inside = |v: &&f32| (left..left + width).contains(&f64::from(**v));
            assert_eq!(slices.concat().iter().filter(inside).count() as u64, count, "bin at {left}");
        }
        assert_eq!(at_once.total(), 2000);
    }

    #[test]
    fn memory_stays_fixed_when_the_range_grows_a_billionfold() {
        let mut histogram = Histogram::default();
        for step in 0..60 {
            histogram.add(&[2f32.powi(step - 30), -(3f32.powi(step / 3)), 0.0]);
            assert!(histogram.counts.len() <= BINS);
        }
        assert_eq!(histogram.total(), 180);
        assert_eq!(histogram.bins().map(|b| b.1).sum::<u64>(), 180);
        assert_eq!(histogram.ends(), Some((-(3f32.powi(19)), 2f32.powi(29))));
    }

    #[test]
    fn extreme_values_have_a_bin() {
        let mut histogram = Histogram::default();
        histogram.add(&[f32::MIN_POSITIVE / 4.0]);
        histogram.add(&[f32::MAX, f32::MIN]);
        histogram.add(&[1.0, f32::NAN, f32::INFINITY]);
        assert_eq!((histogram.total(), histogram.ends()), (4, Some((f32::MIN, f32::MAX))));
    }
}
