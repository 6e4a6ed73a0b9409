//! Weight matrices in integers: every scheme's definition, and the way back.

use super::{Granularity, Levels, Scheme};

/// A weight matrix in integers: the real weight `[j, l]` is `(q - Z) S f` with the scale and zero point of its group, and
/// the factor of its column where it is smoothed.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedWeights {
    /// How it is quantized.
    pub scheme: Scheme,
    /// Rows (output channels) and columns (inputs).
    pub shape: [usize; 2],
    /// The integers, row-major, one a byte, all within [`Scheme::range`] (or one below it, in files of others).
    pub values: Vec<i8>,
    /// `[1]` per tensor, `[rows]` per channel, `[rows, columns / group]` per group; finite and positive.
    pub scale: Vec<f32>,
    /// As many as scales when the scheme is asymmetric, else empty.
    pub zero_point: Vec<i8>,
    /// Factor of each column, `[columns]`, finite and positive, or empty for 1 everywhere. As
    /// `sum over l of x (q - Z) S f = sum over l of (x f) (q - Z) S`, an executor in integers multiplies the inputs by it
    /// before it rounds them (SmoothQuant, Xiao et al. 2022, <https://arxiv.org/abs/2211.10438>, equation 3, with `f` for `1 / s`).
    pub smoothing: Vec<f32>,
}

impl QuantizedWeights {
    /// Weights that share a scale: a tensor, a row or a group.
    pub fn group_len(&self) -> usize {
        match self.scheme.granularity {
            Granularity::Tensor => self.shape[0] * self.shape[1],
            Granularity::Channel => self.shape[1],
            Granularity::Group(size) => size,
        }
    }

    /// Scales in one row: 1, or `columns / group`.
    pub fn groups(&self) -> usize {
        self.shape[1] / self.group_len().min(self.shape[1])
    }

    /// The scale of a group of a row.
    pub fn scale_of(&self, row: usize, group: usize) -> f32 {
        self.scale[self.parameter(row, group)]
    }

    /// The zero point of a group of a row.
    pub fn zero_point_of(&self, row: usize, group: usize) -> i32 {
        self.zero_point.get(self.parameter(row, group)).map_or(0, |&z| i32::from(z))
    }

    fn parameter(&self, row: usize, group: usize) -> usize {
        match self.scheme.granularity {
            Granularity::Tensor => 0,
            Granularity::Channel => row,
            Granularity::Group(size) => row * (self.shape[1] / size) + group,
        }
    }

    /// Whether each row has one scale and no zero point, so that an integer product takes it as it is.
    pub fn is_per_row(&self) -> bool {
        self.scheme.symmetric && self.groups() == 1
    }

    /// One scale per row, for schemes with at most that many.
    ///
    /// # Panics
    /// When there are groups.
    pub fn row_scales(&self) -> Vec<f32> {
        assert_eq!(self.groups(), 1, "rows of several groups have no scale of their own");
        (0..self.shape[0]).map(|row| self.scale_of(row, 0)).collect()
    }

    /// Row `row` in f32, `(q - Z) S f`, given to `put` with each column's index.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn each_of_row(&self, row: usize, mut put: impl FnMut(usize, f32)) {
        match self.smoothing.as_slice() {
            [] => self.each_scaled(row, put),
            smoothing => self.each_scaled(row, |l, w| put(l, w * smoothing[l])),
        }
    }

    /// Row `row`, `(q - Z) S`.
    fn each_scaled(&self, row: usize, mut put: impl FnMut(usize, f32)) {
        let columns = self.shape[1];
        let size = self.group_len().min(columns);
        let values = &self.values[row * columns..][..columns];
        for (group, values) in values.chunks(size).enumerate() {
            let (scale, zero) = (self.scale_of(row, group), self.zero_point_of(row, group));
            for (l, &q) in values.iter().enumerate() {
                put(group * size + l, (i32::from(q) - zero) as f32 * scale);
            }
        }
    }

    /// The whole matrix in f32, `(q - Z) S f`, row-major.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut weights = Vec::with_capacity(self.values.len());
        for row in 0..self.shape[0] {
            self.each_of_row(row, |_, w| weights.push(w));
        }
        weights
    }

    /// Bytes that it takes in a file: int8 a byte each; below that, each row in whole 32-bit words, and the shape beside
    /// them. Scales and the factors of smoothing are f32; zero points are packed like the weights.
    pub fn bytes(&self) -> usize {
        let [rows, columns] = self.shape;
        let words = |count: usize| count.div_ceil((32 / self.scheme.levels.bits()) as usize);
        let (zero_points, groups) = (self.zero_point.len(), self.groups());
        let integers = match self.scheme.levels {
            Levels::Int8 => rows * columns + zero_points,
            _ => 4 * rows * words(columns) + 8 + 4 * words(zero_points / groups) * groups,
        };
        integers + 4 * (self.scale.len() + self.smoothing.len())
    }
}

/// Quantizes weights `[rows, columns]` by rounding each to the nearest level of its group, with the range that the
/// group's own weights have:
///
/// | levels | scale and zero point of a group | integers |
/// | --- | --- | --- |
/// | int8, int4, symmetric | `S = max abs(w) / qmax`, `Z = 0` | `round(w / S)` in `-qmax..=qmax` |
/// | int8, int4, asymmetric | `S = (max - min) / (2^bits - 1)` with 0 in the range, `Z = round(qmin - min / S)` | `round(w / S) + Z` in `qmin..=qmax` |
/// | ternary | threshold `d = 0.7 mean abs(w)`; `S` = mean of `abs(w)` over those above `d` (Li & Liu 2016, equation 6) | `sign(w)` above `d`, else 0 |
/// | binary | `S = mean abs(w)` (Rastegari et al. 2016, equation 6) | 1 for `w >= 0`, else -1 |
///
/// `qmax` is 127 for int8 and 7 for int4. Halves round to even. Means are taken in f64. A group without a range gets
/// scale 1 and integers at its zero point; binary has no zero, so its scale is then the smallest normal number.
///
/// # Panics
/// When `weights` does not hold `rows * columns` values, or the scheme does not fit `columns` ([`Scheme::groups`]).
pub fn quantize_weights(weights: &[f32], rows: usize, columns: usize, scheme: Scheme) -> QuantizedWeights {
    assert_eq!(weights.len(), rows * columns, "the weight does not hold rows * columns values");
    assert!(scheme.groups(columns).is_some(), "{scheme} does not fit rows of {columns} weights");
    let mut quantized = QuantizedWeights {
        scheme,
        shape: [rows, columns],
        values: vec![0; weights.len()],
        scale: Vec::new(),
        zero_point: Vec::new(),
        smoothing: Vec::new(),
    };
    let size = quantized.group_len().max(1);
    let mut values = std::mem::take(&mut quantized.values);
    for (group, q) in weights.chunks(size).zip(values.chunks_mut(size)) {
        let (scale, zero_point) = quantize_group(group, scheme, q);
        quantized.scale.push(scale);
        if !scheme.symmetric {
            quantized.zero_point.push(zero_point);
        }
    }
    quantized.values = values;
    quantized
}

/// Quantizes weights `[rows, columns]` with scales that come from elsewhere, such as learned ones (Esser et al. 2020,
/// <https://arxiv.org/abs/1902.08153>), in the order of [`QuantizedWeights::scale`]: `round(w / S)` clamped to the range
/// of the scheme; of binary ones the sign. With the scales of [`quantize_weights`] it gives the same integers, but for
/// ternary weights, whose threshold is then `S / 2`.
///
/// # Panics
/// As [`quantize_weights`], when the scheme has zero points, and when there are not as many scales as groups.
pub fn quantize_with_scales(
    weights: &[f32],
    rows: usize,
    columns: usize,
    scheme: Scheme,
    scale: Vec<f32>,
) -> QuantizedWeights {
    assert_eq!(weights.len(), rows * columns, "the weight does not hold rows * columns values");
    assert!(scheme.symmetric && scheme.groups(columns).is_some(), "{scheme} does not fit rows of {columns} weights");
    let (shape, values) = ([rows, columns], vec![0; weights.len()]);
    let (zero_point, smoothing) = (Vec::new(), Vec::new());
    let mut quantized = QuantizedWeights { scheme, shape, values, scale, zero_point, smoothing };
    let size = quantized.group_len().max(1);
    assert_eq!(quantized.scale.len(), weights.len().div_ceil(size), "{scheme} has one scale for {size} weights");
    let groups = weights.chunks(size).zip(quantized.values.chunks_mut(size));
    for ((group, q), scale) in groups.zip(&quantized.scale) {
        match scheme.levels {
            Levels::Binary => round_binary(group, q),
            _ => round_symmetric(group, *scale, scheme.range().1, q),
        }
    }
    quantized
}

/// One group, as [`quantize_weights`] defines; gives its scale and zero point.
fn quantize_group(weights: &[f32], scheme: Scheme, q: &mut [i8]) -> (f32, i8) {
    match (scheme.levels, scheme.symmetric) {
        (Levels::Binary, _) => (quantize_binary(weights, q), 0),
        (Levels::Ternary, _) => (quantize_ternary(weights, q), 0),
        (_, true) => (quantize_symmetric(weights, scheme.range().1, q), 0),
        (_, false) => quantize_asymmetric(weights, scheme.range(), q),
    }
}

/// `S = max abs(w) / qmax`.
fn quantize_symmetric(weights: &[f32], qmax: i32, q: &mut [i8]) -> f32 {
    let absmax = weights.iter().fold(0.0f32, |max, w| max.max(w.abs()));
    let scale = absmax / qmax as f32;
    if scale < f32::MIN_POSITIVE {
        q.fill(0);
        return 1.0;
    }
    round_symmetric(weights, scale, qmax, q);
    scale
}

/// `q = round(w / S)`, clamped to `-qmax..=qmax`.
pub fn round_symmetric(weights: &[f32], scale: f32, qmax: i32, q: &mut [i8]) {
    let limit = qmax as f32;
    for (q, &w) in q.iter_mut().zip(weights) {
        *q = (w / scale).round_ties_even().clamp(-limit, limit) as i8;
    }
}

/// `S = (max - min) / (qmax - qmin)`, `Z = round(qmin - min / S)`.
fn quantize_asymmetric(weights: &[f32], (qmin, qmax): (i32, i32), q: &mut [i8]) -> (f32, i8) {
    let (lo, hi) = weights.iter().fold((0.0f32, 0.0f32), |(lo, hi), &w| (lo.min(w), hi.max(w)));
    let levels = (qmax - qmin) as f32;
    // Divided before subtracting, so that two huge ends do not overflow.
    let scale = hi / levels - lo / levels;
    if scale < f32::MIN_POSITIVE {
        q.fill(0);
        return (1.0, 0);
    }
    let (min, max) = (qmin as f32, qmax as f32);
    let zero_point = (min - lo / scale).round_ties_even().clamp(min, max);
    for (q, &w) in q.iter_mut().zip(weights) {
        *q = ((w / scale).round_ties_even() + zero_point).clamp(min, max) as i8;
    }
    (scale, zero_point as i8)
}

/// Ternary weight networks: the threshold and scale that nearly minimize the squared error.
fn quantize_ternary(weights: &[f32], q: &mut [i8]) -> f32 {
    let threshold = 0.7 * mean_magnitude(weights.iter());
    let above = |w: &&f32| f64::from(w.abs()) > threshold;
    for (q, w) in q.iter_mut().zip(weights) {
        *q = if above(&w) { w.signum() as i8 } else { 0 };
    }
    match mean_magnitude(weights.iter().filter(above)) as f32 {
        scale if scale >= f32::MIN_POSITIVE => scale,
        _ => {
            q.fill(0);
            1.0
        }
    }
}

/// The scale that minimizes the squared error of signs.
fn quantize_binary(weights: &[f32], q: &mut [i8]) -> f32 {
    round_binary(weights, q);
    (mean_magnitude(weights.iter()) as f32).max(f32::MIN_POSITIVE)
}

/// `q = 1` for `w >= 0`, else -1.
fn round_binary(weights: &[f32], q: &mut [i8]) {
    for (q, &w) in q.iter_mut().zip(weights) {
        *q = if w >= 0.0 { 1 } else { -1 };
    }
}

/// Mean of `abs(w)`; 0 of none.
fn mean_magnitude<'a>(weights: impl Iterator<Item = &'a f32>) -> f64 {
    let (sum, count) = weights.fold((0.0, 0usize), |(sum, count), w| (sum + f64::from(w.abs()), count + 1));
    sum / count.max(1) as f64
}

/// Mean squared error of `quantized` against `original`, summed in f64; 0 of nothing.
///
/// # Panics
/// When the lengths differ.
pub fn mse(original: &[f32], quantized: &[f32]) -> f64 {
    assert_eq!(original.len(), quantized.len(), "an error needs two tensors of one size");
    let errors = original.iter().zip(quantized).map(|(x, y)| f64::from(*x) - f64::from(*y));
    errors.map(|e| e * e).sum::<f64>() / original.len().max(1) as f64
}

/// Signal to quantization noise, `10 log10(sum x^2 / sum (x - y)^2)` in dB; `None` without signal or without noise.
///
/// # Panics
/// When the lengths differ.
pub fn sqnr_db(original: &[f32], quantized: &[f32]) -> Option<f64> {
    let noise = mse(original, quantized) * original.len() as f64;
    let signal: f64 = original.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    (noise > 0.0 && signal > 0.0).then(|| 10.0 * (signal / noise).log10())
}

#[cfg(test)]
mod tests;
