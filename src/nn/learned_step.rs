//! Scales that are learned: learned step size quantization (LSQ, Esser et al. 2020,
//! <https://arxiv.org/abs/1902.08153>), as candle operations.
//!
//! Forward is the definition in `kernels::affine` with the scale that is stored, so what is exported is what was
//! trained. Backward is that of the paper: the rounding passes gradients on, what lies outside the range gets none, and a
//! scale gets `sum(dy (q - v))` over `v = w / S` inside the range and `sum(dy q)` outside, times `1 / sqrt(n q_max)` for
//! `n` values.
//!
//! A variable is the natural logarithm of a scale. Adam moves every variable by about the learning rate, whatever its
//! gradient; of a logarithm that is a share of the scale, whatever its size, and no scale can become 0.

use candle_core::{CpuStorage, CustomOp2, Error, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::kernels::affine::{Levels, QParams, QuantizedWeights, Scheme, quantize_weights, quantize_with_scales};

use super::fused::{VALUES_AT_ONCE, rows_at_once, values, vectorized, with_values};

/// Scales that the search for the first ones tries, as hundredths of those of [`quantize_weights`].
const TRIED: std::ops::RangeInclusive<u32> = 50..=120;

/// The scale that the logarithm `log` stands for.
pub fn scale_of(log: f32) -> f32 {
    log.exp().clamp(f32::MIN_POSITIVE, f32::MAX)
}

/// The integers of weights `[rows, columns]` with learned scales, one logarithm for each group.
///
/// # Panics
/// As [`quantize_with_scales`].
pub fn stored(weights: &[f32], [rows, columns]: [usize; 2], scheme: Scheme, logs: &[f32]) -> QuantizedWeights {
    quantize_with_scales(weights, rows, columns, scheme, logs.iter().map(|log| scale_of(*log)).collect())
}

/// Logarithms of the scales to begin with: those with the least squared error, near the scales of [`quantize_weights`].
///
/// # Panics
/// As [`quantize_weights`].
pub fn first_scales(weights: &[f32], [rows, columns]: [usize; 2], scheme: Scheme) -> Vec<f32> {
    let own = quantize_weights(weights, rows, columns, scheme);
    let groups = weights.par_chunks(own.group_len().max(1)).zip(&own.scale);
    let best = groups.map(|(group, own)| {
        if scheme.levels == Levels::Binary {
            return own.ln();
        }
        let error = |scale: f32| vectorized(|| sum(group, group, |w, _| (w - rounded(*w, scale, scheme).0).powi(2)));
        let errors = TRIED.step_by(2).map(|share| own * share as f32 / 100.0).map(|scale| (error(scale), scale));
        errors.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(*own, |(_, scale)| scale).ln()
    });
    best.collect()
}

/// A weight rounded with a scale, `q S`; the derivative of that by the scale; and whether it is inside the range.
#[inline(always)]
fn rounded(w: f32, scale: f32, scheme: Scheme) -> (f32, f32, bool) {
    if scheme.levels == Levels::Binary {
        let sign = if w >= 0.0 { 1.0 } else { -1.0 };
        return (sign * scale, sign, true);
    }
    let (max, v) = (scheme.range().1 as f32, w / scale);
    let q = v.round_ties_even().clamp(-max, max);
    let inside = v.abs() <= max;
    (q * scale, if inside { q - v } else { q }, inside)
}

/// The sum of `f(a, b)` over two slices of one length, in sixteen partial sums, which the compiler turns into vectors.
#[inline(always)]
fn sum(a: &[f32], b: &[f32], f: impl Fn(&f32, &f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (whole, rest) = a.split_at(a.len() / 16 * 16);
    for (a, b) in whole.chunks_exact(16).zip(b.chunks_exact(16)) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += f(a, b);
        }
    }
    let rest: f32 = rest.iter().zip(&b[whole.len()..]).map(|(a, b)| f(a, b)).sum();
    lanes.iter().sum::<f32>() + rest
}

/// Weights rounded to what a symmetric scheme stores with learned scales, and back.
#[derive(Clone, Copy, Debug)]
pub struct LearnedStep(pub Scheme);

impl LearnedStep {
    /// Weights that share a scale, for `weights` weights with `scales` scales.
    fn group(self, weights: usize, scales: usize) -> Result<usize> {
        if !self.0.symmetric || scales == 0 || !weights.is_multiple_of(scales) {
            let message = format!("learned-step: {} with {scales} scales for {weights} weights", self.0);
            return Err(Error::Msg(message));
        }
        Ok((weights / scales).max(1))
    }

    /// `1 / sqrt(n q_max)`.
    fn factor(self, group: usize) -> f32 {
        1.0 / (group as f32 * self.0.range().1 as f32).sqrt()
    }
}

/// Groups that one task of the pool works on.
fn groups_at_once(group: usize) -> usize {
    (VALUES_AT_ONCE / group).max(1)
}

impl CustomOp2 for LearnedStep {
    fn name(&self) -> &'static str {
        "learned-step"
    }

    /// Weights `[rows, columns]` and logarithms of scales, one for each group → the shape of the weights.
    fn cpu_fwd(
        &self,
        w: &CpuStorage,
        w_layout: &Layout,
        s: &CpuStorage,
        s_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (weights, logs) = (values(w, w_layout, self.name())?, values(s, s_layout, self.name())?);
        let (scheme, group) = (self.0, self.group(weights.len(), logs.len())?);
        let at_once = groups_at_once(group);
        let mut out = vec![0.0; weights.len()];
        let parts = out.par_chunks_mut(at_once * group).zip(weights.par_chunks(at_once * group));
        parts.zip(logs.par_chunks(at_once)).for_each(|((out, weights), logs)| {
            for ((out, weights), log) in out.chunks_mut(group).zip(weights.chunks(group)).zip(logs) {
                let scale = scale_of(*log);
                vectorized(|| out.iter_mut().zip(weights).for_each(|(out, w)| *out = rounded(*w, scale, scheme).0));
            }
        });
        Ok((CpuStorage::F32(out), w_layout.shape().clone()))
    }

    fn bwd(&self, w: &Tensor, s: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (scheme, group) = (self.0, self.group(w.elem_count(), s.elem_count())?);
        let (dw, ds) = with_values([w, s, gradient], self.name(), |[w, logs, dy]| {
            let (at_once, factor) = (groups_at_once(group), self.factor(group));
            let (mut dw, mut ds) = (dy.to_vec(), vec![0.0; logs.len()]);
            let parts = dw.par_chunks_mut(at_once * group).zip(ds.par_chunks_mut(at_once));
            let parts = parts.zip(w.par_chunks(at_once * group)).zip(logs.par_chunks(at_once));
            parts.for_each(|(((dw, ds), w), logs)| {
                let groups = dw.chunks_mut(group).zip(ds).zip(w.chunks(group)).zip(logs);
                for (((dw, ds), w), log) in groups {
                    let scale = scale_of(*log);
                    vectorized(|| {
                        *ds = sum(w, dw, |w, dy| dy * rounded(*w, scale, scheme).1) * factor * scale;
                        for (dy, w) in dw.iter_mut().zip(w) {
                            *dy = if rounded(*w, scale, scheme).2 { *dy } else { 0.0 };
                        }
                    });
                }
            });
            (dw, ds)
        })?;
        Ok((Some(Tensor::from_vec(dw, w.shape(), w.device())?), Some(Tensor::from_vec(ds, s.shape(), s.device())?)))
    }
}

/// Rows rounded to u8 and back with one learned scale and a fixed zero point: static inputs.
#[derive(Clone, Copy, Debug)]
pub struct LearnedInputStep {
    /// The integer that stands for 0, in 0..=255.
    pub zero_point: i32,
}

impl LearnedInputStep {
    /// `q S`, the derivative by the scale, and whether `x` is inside the range.
    #[inline(always)]
    fn rounded(self, x: f32, params: QParams) -> (f32, f32, bool) {
        let (zero, v) = (self.zero_point as f32, x * (1.0 / params.scale));
        let q = (v.round_ties_even() + zero).clamp(0.0, 255.0) - zero;
        let inside = (0.0..=255.0).contains(&(v + zero));
        (q * params.scale, if inside { q - v } else { q }, inside)
    }

    /// What is stored for the logarithm of a scale.
    pub fn params(self, log: f32) -> QParams {
        QParams { scale: scale_of(log), zero_point: self.zero_point }
    }
}

impl CustomOp2 for LearnedInputStep {
    fn name(&self) -> &'static str {
        "learned-input-step"
    }

    /// Rows `[rows, k]` and the logarithm of the scale, `[1]` → the shape of the rows.
    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        s: &CpuStorage,
        s_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let mut rows = values(x, x_layout, self.name())?.to_vec();
        let params = self.params(values(s, s_layout, self.name())?[0]);
        rows.par_chunks_mut(VALUES_AT_ONCE).for_each(|rows| {
            vectorized(|| rows.iter_mut().for_each(|x| *x = self.rounded(*x, params).0));
        });
        Ok((CpuStorage::F32(rows), x_layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, s: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (_, k) = x.dims2()?;
        let (dx, ds) = with_values([x, s, gradient], self.name(), |[x, log, dy]| {
            let params = self.params(log[0]);
            let mut dx = dy.to_vec();
            let at_once = rows_at_once(k) * k;
            let sums = dx.par_chunks_mut(at_once).zip(x.par_chunks(at_once)).map(|(dx, x)| {
                vectorized(|| {
                    let sum = sum(x, dx, |x, dy| dy * self.rounded(*x, params).1);
                    for (dy, x) in dx.iter_mut().zip(x) {
                        *dy = if self.rounded(*x, params).2 { *dy } else { 0.0 };
                    }
                    sum
                })
            });
            let sum: f32 = sums.collect::<Vec<f32>>().iter().sum();
            (dx, sum * params.scale / (k as f32 * 255.0).sqrt())
        })?;
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(vec![ds], s.shape(), s.device())?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::kernels::affine::{Granularity, quantize_row_u8_static};

    fn wave(count: usize, speed: f32) -> Vec<f32> {
        (0..count).map(|i| (speed * i as f32 + 0.3).cos() * (1.0 + (i % 5) as f32)).collect()
    }

    fn vec(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn schemes() -> impl Iterator<Item = Scheme> {
        let granularities = [Granularity::Tensor, Granularity::Channel, Granularity::Group(16)];
        Levels::ALL.into_iter().flat_map(move |levels| granularities.map(|g| Scheme::symmetric(levels, g)))
    }

    /// A matrix, scales for it, and what comes before the loss.
    fn case(scheme: Scheme) -> (Var, Var, Tensor) {
        let (rows, columns) = (7, 32);
        let weights = wave(rows * columns, 1.7);
        // Smaller than the best ones, so that something lies outside the range.
        let logs: Vec<f32> = first_scales(&weights, [rows, columns], scheme).iter().map(|log| log - 0.2).collect();
        let count = logs.len();
        let tensor = |data: Vec<f32>, shape: &[usize]| Tensor::from_vec(data, shape, &Device::Cpu).unwrap();
        let var = |data, shape: &[usize]| Var::from_tensor(&tensor(data, shape)).unwrap();
        (var(weights, &[rows, columns]), var(logs, &[count]), tensor(wave(rows * columns, 0.7), &[rows, columns]))
    }

    #[test]
    fn forward_is_what_is_stored() {
        for scheme in schemes() {
            let (w, logs, _) = case(scheme);
            let found = w.apply_op2(&logs, LearnedStep(scheme)).unwrap();
            let stored = stored(&vec(&w), [7, 32], scheme, &vec(&logs));
            assert_eq!(vec(&found), stored.dequantize(), "{scheme}");
            assert!(stored.values.iter().any(|q| *q != stored.values[0]), "{scheme}: all weights are the same");
        }
    }

    #[test]
    fn the_first_scales_are_no_worse_than_those_of_the_range() {
        for scheme in schemes() {
            let w = wave(7 * 32, 1.7);
            let error = |q: QuantizedWeights| crate::kernels::affine::mse(&w, &q.dequantize());
            let own = quantize_weights(&w, 7, 32, scheme);
            let with_own = error(quantize_with_scales(&w, 7, 32, scheme, own.scale.clone()));
            let first = error(stored(&w, [7, 32], scheme, &first_scales(&w, [7, 32], scheme)));
            assert!(first <= with_own * 1.000_01, "{scheme}: {first} {with_own}");
        }
    }

    /// Of `sum(dy S (clip(w / S) + c))`, with `c` what rounding adds at the point where the gradient is taken: the
    /// function whose gradient the straight-through estimator is.
    #[test]
    fn gradients_are_those_of_the_straight_through_surrogate() {
        for scheme in schemes() {
            let (w, logs, dy) = case(scheme);
            let loss = (w.apply_op2(&logs, LearnedStep(scheme)).unwrap() * &dy).unwrap().sum_all().unwrap();
            let gradients = loss.backward().unwrap();
            let (dw, ds) = (vec(gradients.get(&w).unwrap()), vec(gradients.get(&logs).unwrap()));
            let (weights, logs, dy) = (vec(&w), vec(&logs), vec(&dy));
            let (max, group) = (f64::from(scheme.range().1), weights.len() / logs.len());
            let binary = scheme.levels == Levels::Binary;
            let scale = |log: f64| log.exp();
            let clipped = |w: f64, log: f64| (w / scale(log)).clamp(-max, max);
            let surrogate = |i: usize, w: f64, log: f64| {
                let at = (f64::from(weights[i]), f64::from(logs[i / group]));
                match binary {
                    // The sign does not depend on the scale, and its product with it passes for the weight.
                    true => at.0.signum() * scale(log) + (w - at.0),
                    false => {
                        let v = clipped(at.0, at.1);
                        scale(log) * (clipped(w, log) + v.round_ties_even() - v)
                    }
                }
            };
            let step = 1e-6;
            let (mut outside, mut compared) = (0, 0);
            for (i, (dw, dy)) in dw.iter().zip(&dy).enumerate() {
                let (w, log) = (f64::from(weights[i]), f64::from(logs[i / group]));
                let near_the_end = ((w / scale(log)).abs() - max).abs() < 1e-3;
                if near_the_end && !binary {
                    continue;
                }
                let slope = (surrogate(i, w + step, log) - surrogate(i, w - step, log)) / (2.0 * step);
                let expected = f64::from(*dy) * slope;
                assert!((f64::from(*dw) - expected).abs() < 1e-4, "{scheme}: dw {dw} for {expected}");
                outside += usize::from(expected == 0.0);
                compared += 1;
            }
            assert!(compared > 200 && (outside > 0) != binary, "{scheme}: {outside} of {compared} outside");
            for (g, found) in ds.iter().enumerate() {
                let slope = |i: usize| {
                    let (w, log) = (f64::from(weights[i]), f64::from(logs[g]));
                    f64::from(dy[i]) * (surrogate(i, w, log + step) - surrogate(i, w, log - step)) / (2.0 * step)
                };
                let sum: f64 = (g * group..(g + 1) * group).map(slope).sum();
                let expected = sum / (group as f64 * max).sqrt();
                assert!((f64::from(*found) - expected).abs() < 1e-3, "{scheme}: ds {found} for {expected}");
                assert!(found.abs() > 1e-6, "{scheme}: a scale has no gradient");
            }
        }
    }

    /// From PyTorch 2.15 in f64, by the pseudocode of the paper (`gradscale`, `roundpass`) with `s = exp(log s)`: the
    /// length of the gradient of the weights, and those of the logarithms.
    #[test]
    fn gradients_equal_those_of_pytorch() {
        let golden = [
            (Levels::Ternary, [0.093_132_65f32, -0.261_561_63, -0.319_181_3]),
            (Levels::Int4, [0.040_358_04, -0.011_902_525, 0.009_839_718]),
            (Levels::Int8, [0.009_509_411, -0.002_433_607_5, 0.000_190_807_2]),
        ];
        let wave = |speed: f64| (0..24).map(|i| (speed * f64::from(i) + 0.3).cos() as f32).collect::<Vec<f32>>();
        for (levels, expected) in golden {
            let scheme = Scheme::symmetric(levels, Granularity::Channel);
            let max = scheme.range().1 as f32;
            let w = Var::from_vec(wave(1.7), (3, 8), &Device::Cpu).unwrap();
            let logs = Var::new(&[(0.5 / max).ln(), (0.8 / max).ln(), (1.1 / max).ln()], &Device::Cpu).unwrap();
            let dy = Tensor::from_vec(wave(0.7), (3, 8), &Device::Cpu).unwrap();
            let loss = (w.apply_op2(&logs, LearnedStep(scheme)).unwrap() * dy).unwrap().sum_all().unwrap();
            let gradients = loss.backward().unwrap();
            let length = vec(gradients.get(&w).unwrap()).iter().map(|g| g * g).sum::<f32>().sqrt();
            assert!((length - 2.671_493_6).abs() < 1e-5, "{scheme}: {length}");
            for (found, expected) in vec(gradients.get(&logs).unwrap()).iter().zip(expected) {
                assert!((found - expected).abs() < 1e-5, "{scheme}: {found} for {expected}");
            }
        }
    }

    #[test]
    fn static_inputs_are_what_is_stored_and_their_scale_gets_its_gradient() {
        let (rows, k) = (9, 33);
        let (data, dy) = (wave(rows * k, 1.3), wave(rows * k, 0.7));
        let (step, log) = (LearnedInputStep { zero_point: 100 }, (0.03f32).ln());
        let x = Var::from_slice(&data, (rows, k), &Device::Cpu).unwrap();
        let logs = Var::new(&[log], &Device::Cpu).unwrap();
        let found = x.apply_op2(&logs, step).unwrap();
        let params = step.params(log);
        let mut q = vec![0; data.len()];
        quantize_row_u8_static(&data, params, &mut q);
        let expected: Vec<f32> = q.iter().map(|q| params.dequantize(i32::from(*q))).collect();
        assert_eq!(vec(&found), expected);
        assert!(q.contains(&0) && q.contains(&255), "both ends are reached");
        assert!(q.iter().filter(|q| (1..255).contains(*q)).count() > rows * k / 2, "most lie between");
        let gradients = (found * Tensor::from_slice(&dy, (rows, k), &Device::Cpu).unwrap()).unwrap();
        let gradients = gradients.sum_all().unwrap().backward().unwrap();
        let (dx, ds) = (vec(gradients.get(&x).unwrap()), vec(gradients.get(&logs).unwrap()));
        let mut expected = 0.0f64;
        for ((x, dy), dx) in data.iter().zip(&dy).zip(&dx) {
            let v = f64::from(*x) / f64::from(params.scale);
            let inside = (-100.0..=155.0).contains(&v);
            assert_eq!(*dx, if inside { *dy } else { 0.0 }, "{x}");
            let q = v.round_ties_even().clamp(-100.0, 155.0);
            expected += f64::from(*dy) * if inside { q - v } else { q };
        }
        expected *= f64::from(params.scale) / (k as f64 * 255.0).sqrt();
        assert!((f64::from(ds[0]) - expected).abs() < 1e-4 * expected.abs().max(1.0), "{} for {expected}", ds[0]);
    }
}
