//! Dropout (Srivastava et al. 2014): while training, each value is 0 with probability `rate`, and the others grow by
//! `1 / (1 - rate)`.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{VALUES_AT_ONCE, values, vectorized, with_values};

/// Which values are dropped: a function of a seed and the value's place, so that a backward pass sees the same ones,
/// and a run that is taken up again too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// A value whose random 32 bits are below this is dropped; 0 drops none.
    threshold: u32,
    scale: f32,
    seed: u64,
}

impl Dropout {
    /// Drops nothing: a model that is not training.
    pub const NONE: Dropout = Dropout { threshold: 0, scale: 1.0, seed: 0 };

    /// Drops a share `rate` of the values; `seed` says which.
    ///
    /// # Panics
    /// When `rate` is not at least 0 and below 1.
    pub fn new(rate: f32, seed: u64) -> Self {
        assert!((0.0..1.0).contains(&rate), "a dropout rate of {rate} is not at least 0 and below 1");
        if rate == 0.0 {
            return Dropout::NONE;
        }
        Dropout { threshold: (f64::from(rate) * 4_294_967_296.0) as u32, scale: 1.0 / (1.0 - rate), seed }
    }

    /// Whether nothing is dropped.
    pub fn is_none(&self) -> bool {
        self.threshold == 0
    }

    /// The same rate at another place of the model.
    pub fn at(&self, place: u64) -> Self {
        Dropout { seed: mixed(self.seed ^ mixed(place)), ..*self }
    }

    /// What value number `index` is multiplied by.
    #[inline(always)]
    pub(super) fn factor(&self, index: u32) -> f32 {
        // The finalizer of a 32-bit hash with low bias (C. Wellons, "Prospecting for hash functions", 2018), between
        // two halves of the seed.
        let mut h = index.wrapping_mul(0x9e37_79b1) ^ self.seed as u32;
        h = (h ^ (h >> 16)).wrapping_mul(0x7feb_352d);
        h = (h ^ (h >> 15)).wrapping_add((self.seed >> 32) as u32).wrapping_mul(0x846c_a68b);
        h ^= h >> 16;
        if h < self.threshold { 0.0 } else { self.scale }
    }

    /// `x`, any shape, with values dropped.
    ///
    /// # Errors
    /// When `x` is not f32.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if self.is_none() { Ok(x.clone()) } else { x.contiguous()?.apply_op1(*self) }
    }

    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(VALUES_AT_ONCE).zip(x.par_chunks(VALUES_AT_ONCE)).enumerate().for_each(|(part, (y, x))| {
            let first = (part * VALUES_AT_ONCE) as u32;
            vectorized(|| {
                for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
                    *y = x * self.factor(first.wrapping_add(i as u32));
                }
            });
        });
        y
    }
}

/// The mixing step of SplitMix64 (Steele et al. 2014).
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.apply(values(storage, layout, self.name())?)), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let dx = with_values([gradient], self.name(), |[dy]| self.apply(dy))?;
        Ok(Some(Tensor::from_vec(dx, gradient.shape(), gradient.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_that_is_dropped_is_the_rate_and_the_mean_stays() {
        let dropout = Dropout::new(0.1, 7);
        let y = dropout.apply(&vec![1.0; 1_000_000]);
        let dropped = y.iter().filter(|v| **v == 0.0).count() as f64 / 1e6;
        // Three standard deviations of a share of a million: 0.0009.
        assert!((dropped - 0.1).abs() < 9e-4, "{dropped}");
        assert!(y.iter().all(|v| *v == 0.0 || (*v - 1.0 / 0.9).abs() < 1e-6));
        // Neighbours are dropped independently.
        let pairs = y.windows(2).filter(|w| w[0] == 0.0 && w[1] == 0.0).count() as f64 / 1e6;
        assert!((pairs - 0.01).abs() < 4e-4, "{pairs}");
    }

    #[test]
    fn places_and_seeds_drop_different_values_and_the_same_seed_the_same() {
        let zeros = |d: Dropout| d.apply(&[1.0; 4096]).iter().map(|v| *v == 0.0).collect::<Vec<_>>();
        let base = Dropout::new(0.5, 1);
        assert_eq!(zeros(base), zeros(Dropout::new(0.5, 1)));
        for other in [Dropout::new(0.5, 2), base.at(1), base.at(2), Dropout::new(0.5, 1 << 40)] {
            let same = zeros(base).iter().zip(zeros(other)).filter(|(a, b)| **a == *b).count();
            // Half of 4096 agree by chance; five standard deviations are 160.
            assert!((1888..=2208).contains(&same), "{same} of 4096 agree");
        }
    }

    #[test]
    fn no_dropout_is_the_identity() {
        assert_eq!(Dropout::new(0.0, 3), Dropout::NONE);
        assert_eq!(Dropout::NONE.at(5).factor(9), 1.0);
    }
}
