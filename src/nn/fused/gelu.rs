//! GELU (Hendrycks & Gimpel 2016): `x Phi(x)`, with `Phi` the normal distribution.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{VALUES_AT_ONCE, exp_of_negative, values, vectorized, with_values};

/// `x Phi(x)`, any shape; absolute error at most 1e-6.
#[derive(Clone, Copy, Debug)]
pub struct Gelu;

/// `Phi(x)` and the normal density at `x`. `Phi` by erf, and that by formula 7.1.26 of Abramowitz & Stegun, whose error
/// is at most 1.5e-7.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let e = exp_of_negative(-(z * z));
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let p = 1.061_405_4;
    let p = p * t - 1.453_152;
    let p = p * t + 1.421_413_7;
    let p = p * t - 0.284_496_74;
    let p = p * t + 0.254_829_6;
    // Phi(-|x|) = (1 - erf(z)) / 2.
    let tail = 0.5 * p * t * e;
    (if x < 0.0 { tail } else { 1.0 - tail }, 0.398_942_3 * e)
}

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout, self.name())?;
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(VALUES_AT_ONCE).zip(x.par_chunks(VALUES_AT_ONCE)).for_each(|(y, x)| {
            vectorized(|| y.iter_mut().zip(x).for_each(|(y, x)| *y = x * normal(*x).0));
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    /// `Phi(x) + x phi(x)` times the gradient.
    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let dx = with_values([x, gradient], self.name(), |[x, dy]| {
            let mut dx = dy.to_vec();
            dx.par_chunks_mut(VALUES_AT_ONCE).zip(x.par_chunks(VALUES_AT_ONCE)).for_each(|(dx, x)| {
                vectorized(|| {
                    for (dx, x) in dx.iter_mut().zip(x) {
                        let (distribution, density) = normal(*x);
                        *dx *= distribution + x * density;
                    }
                });
            });
            dx
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn values_equal_those_of_candle() {
        let x: Vec<f32> = (-4000..=4000).map(|i| i as f32 / 400.0).collect();
        let x = Tensor::new(x, &Device::Cpu).unwrap();
        let (found, expected) = (x.apply_op1(Gelu).unwrap(), x.gelu_erf().unwrap());
        let worst = (found - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(worst < 1e-6, "{worst:e}");
    }
}
