//! What ends each half of a transformer block: dropout, the residual sum, and layer normalization (Ba et al. 2016).

use candle_core::{CpuStorage, CustomOp3, Error, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::dropout::Dropout;
use super::{rows_at_once, values, vectorized, with_values};

/// `y = (s - mean) / sqrt(variance + eps) * gain + shift` over each row of `s = dropout(x) + residual`.
///
/// The variance is the mean of squared deviations, computed after the mean: `E[s^2] - mean^2`, as candle's fused
/// kernel has it, loses its digits when the mean is large.
#[derive(Clone, Copy, Debug)]
pub struct AddNorm {
    /// Added to the variance.
    pub eps: f32,
    /// What is dropped of `x`.
    pub dropout: Dropout,
}

impl AddNorm {
    /// `x` and `residual` `[rows, width]`, `gain` and `shift` `[width]` → `[rows, width]`.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn forward(&self, x: &Tensor, residual: &Tensor, gain: &Tensor, shift: &Tensor) -> Result<Tensor> {
        // An operation of candle has three arguments at most.
        let scale = Tensor::cat(&[&gain.unsqueeze(0)?, &shift.unsqueeze(0)?], 0)?;
        x.contiguous()?.apply_op3(&residual.contiguous()?, &scale, *self)
    }

    /// Normalizes `dropout(x) + residual` into `normalized`, and returns `1 / sqrt(variance + eps)`.
    #[inline(always)]
    fn normalize(&self, first: u32, x: &[f32], residual: &[f32], normalized: &mut [f32]) -> f32 {
        let width = x.len() as f32;
        let parts = normalized.iter_mut().zip(x).zip(residual);
        if self.dropout.is_none() {
            parts.for_each(|((n, x), residual)| *n = x + residual);
        } else {
            for (i, ((n, x), residual)) in parts.enumerate() {
                *n = x * self.dropout.factor(first.wrapping_add(i as u32)) + residual;
            }
        }
        let mean = sum(normalized, |n| n) / width;
        normalized.iter_mut().for_each(|n| *n -= mean);
        let variance = sum(normalized, |n| n * n) / width;
        let factor = 1.0 / (variance + self.eps).sqrt();
        normalized.iter_mut().for_each(|n| *n *= factor);
        factor
    }
}

/// The sum of `f(x)` in sixteen partial sums, which the compiler turns into vectors.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    let chunks = x.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().map(|x| f(*x)).sum();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(*x);
        }
    }
    lanes.iter().sum::<f32>() + rest
}

impl CustomOp3 for AddNorm {
    fn name(&self) -> &'static str {
        "add-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
        scale: &CpuStorage,
        scale_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, width) = x_layout.shape().dims2()?;
        if x_layout.shape() != residual_layout.shape() || scale_layout.shape().dims2()? != (2, width) {
            let shapes = [x_layout, residual_layout, scale_layout].map(|l| l.shape().clone());
            return Err(Error::Msg(format!("add-norm: rows, residual and scale do not fit together: {shapes:?}")));
        }
        let (x, residual) = (values(x, x_layout, self.name())?, values(residual, residual_layout, self.name())?);
        let (gain, shift) = values(scale, scale_layout, self.name())?.split_at(width);
        let mut y = vec![0.0; x.len()];
        let at_once = rows_at_once(width) * width;
        let parts = y.par_chunks_mut(at_once).zip(x.par_chunks(at_once)).zip(residual.par_chunks(at_once)).enumerate();
        parts.for_each(|(part, ((y, x), residual))| {
            vectorized(|| {
                let rows = y.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(residual.chunks_exact(width));
                for (row, ((y, x), residual)) in rows.enumerate() {
                    self.normalize((part * at_once + row * width) as u32, x, residual, y);
                    y.iter_mut().zip(gain).zip(shift).for_each(|((y, gain), shift)| *y = *y * gain + shift);
                }
            });
        });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    /// With `n` the normalized row, `g = dy gain` and `f = 1 / sqrt(variance + eps)`:
    /// `ds = f (g - mean(g) - n mean(g n))`, `dgain = sum(dy n)` and `dshift = sum(dy)` over the rows.
    fn bwd(
        &self,
        x: &Tensor,
        residual: &Tensor,
        scale: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (_, width) = x.dims2()?;
        let at_once = rows_at_once(width) * width;
        let backward = |[x, residual, scale, dy]: [&[f32]; 4]| {
            let gain = &scale[..width];
            let (mut ds, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            let parts = ds.par_chunks_mut(at_once).zip(dx.par_chunks_mut(at_once)).zip(dy.par_chunks(at_once));
            let parts = parts.zip(x.par_chunks(at_once)).zip(residual.par_chunks(at_once)).enumerate();
            let sums = parts.map(|(part, ((((ds, dx), dy), x), residual))| {
                vectorized(|| {
                    let (mut sums, mut n) = (vec![0.0; 2 * width], vec![0.0; width]);
                    let (dgain, dshift) = sums.split_at_mut(width);
                    for row in 0..x.len() / width {
                        let (range, first) = (row * width..(row + 1) * width, (part * at_once + row * width) as u32);
                        let (dy, ds) = (&dy[range.clone()], &mut ds[range.clone()]);
                        let factor = self.normalize(first, &x[range.clone()], &residual[range.clone()], &mut n);
                        for i in 0..width {
                            dgain[i] += dy[i] * n[i];
                            dshift[i] += dy[i];
                            ds[i] = dy[i] * gain[i];
                        }
                        let mean = sum(ds, |g| g) / width as f32;
                        // mean(g n), in two walks that both become vectors.
                        let dx = &mut dx[range];
                        for i in 0..width {
                            dx[i] = ds[i] * n[i];
                        }
                        let mean_n = sum(dx, |gn| gn) / width as f32;
                        for i in 0..width {
                            ds[i] = factor * (ds[i] - mean - n[i] * mean_n);
                            dx[i] = ds[i] * self.dropout.factor(first.wrapping_add(i as u32));
                        }
                    }
                    sums
                })
            });
            let sums: Vec<Vec<f32>> = sums.collect();
            let mut dscale = vec![0.0; 2 * width];
            for part in sums {
                dscale.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
            (dx, ds, dscale)
        };
        let (dx, ds, dscale) = with_values([x, residual, scale, gradient], self.name(), backward)?;
        let tensor = |data: Vec<f32>, like: &Tensor| Tensor::from_vec(data, like.shape(), like.device()).map(Some);
        Ok((tensor(dx, x)?, tensor(ds, residual)?, tensor(dscale, scale)?))
    }
}
