//! The definitions of quantization, in plain Rust: `q = round(r / S) + Z` and `r = (q - Z) S`
//! (Jacob et al. 2018, <https://arxiv.org/abs/1712.05877>), rounding halves to even.
//!
//! Here: activations, in u8. [`quantize_weights`] has weights, in every scheme; a [`Scheme`] names one.

mod scheme;
mod weights;

pub use scheme::{Granularity, Inputs, Levels, Scheme};
pub use weights::{QuantizedWeights, mse, quantize_weights, quantize_with_scales, round_symmetric, sqnr_db};

/// Scale and zero point of an affine quantization: `r = (q - zero_point) * scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QParams {
    /// Real distance between two neighbouring integers; above zero.
    pub scale: f32,
    /// The integer that stands for the real number zero.
    pub zero_point: i32,
}

impl QParams {
    /// The parameters of asymmetric u8 quantization of values from `lo` to `hi`; the range is widened to include 0.
    ///
    /// A range too narrow for a normal f32 scale, such as that of an all-zero row, gets scale 1 and zero point 0. One
    /// with an end that is not finite gets scale NaN, so that it stays visible in everything computed from it.
    pub fn for_range_u8(lo: f32, hi: f32) -> Self {
        if !lo.is_finite() || !hi.is_finite() {
            return QParams { scale: f32::NAN, zero_point: 0 };
        }
        let (lo, hi) = (lo.min(0.0), hi.max(0.0));
        // Divided before subtracting, so that two huge ends do not overflow.
        let scale = hi / 255.0 - lo / 255.0;
        if scale < f32::MIN_POSITIVE {
            return QParams { scale: 1.0, zero_point: 0 };
        }
        let zero_point = (-lo * (1.0 / scale)).round_ties_even().clamp(0.0, 255.0) as i32;
        QParams { scale, zero_point }
    }

    /// `round(r / S) + Z` clamped to u8. The quotient is computed as `r * (1 / S)`, as all kernels do. With a scale of
    /// NaN it is 0.
    pub fn quantize_u8(self, r: f32) -> u8 {
        let q = (r * (1.0 / self.scale)).round_ties_even();
        (q + self.zero_point as f32).clamp(0.0, 255.0) as u8
    }

    /// `(q - Z) S`.
    pub fn dequantize(self, q: i32) -> f32 {
        (q - self.zero_point) as f32 * self.scale
    }
}

/// Asymmetric u8 quantization of one row of activations; `q` gets the row's length.
///
/// A NaN or an infinity in the row makes the scale NaN and all integers 0.
///
/// # Panics
/// When `q` and `row` differ in length.
pub fn quantize_row_u8(row: &[f32], q: &mut [u8]) -> QParams {
    assert_eq!(row.len(), q.len(), "the quantized row has another length than the row");
    let lo = row.iter().copied().fold(0.0, f32::min);
    let hi = row.iter().copied().fold(0.0, |hi: f32, r| if r > hi || r.is_nan() { r } else { hi });
    let params = QParams::for_range_u8(lo, hi);
    for (q, &r) in q.iter_mut().zip(row) {
        *q = params.quantize_u8(r);
    }
    params
}

/// u8 quantization of one row of activations with parameters found beforehand; what lies outside their range is
/// clamped to its ends. Gives the row's parameters: those given, but a NaN or an infinity in the row makes the scale
/// NaN and all integers 0, as in [`quantize_row_u8`].
///
/// # Panics
/// When `q` and `row` differ in length.
pub fn quantize_row_u8_static(row: &[f32], params: QParams, q: &mut [u8]) -> QParams {
    assert_eq!(row.len(), q.len(), "the quantized row has another length than the row");
    if row.iter().any(|r| !r.is_finite()) {
        q.fill(0);
        return QParams { scale: f32::NAN, zero_point: 0 };
    }
    for (q, &r) in q.iter_mut().zip(row) {
        *q = params.quantize_u8(r);
    }
    params
}

/// Symmetric s8 quantization of a weight matrix `[n, k]`, one scale per output channel (row): [`Scheme::INT8`].
///
/// Returns the integers `[n, k]` and the scales `[n]`.
///
/// # Panics
/// When `weight` does not hold `n * k` values.
pub fn quantize_weight_s8(weight: &[f32], n: usize, k: usize) -> (Vec<i8>, Vec<f32>) {
    let QuantizedWeights { values, scale, .. } = quantize_weights(weight, n, k, Scheme::INT8);
    (values, scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_round_to_even() {
        let params = QParams { scale: 1.0, zero_point: 10 };
        let q: Vec<u8> = [0.5, 1.5, 2.5, -0.5, -1.5].iter().map(|&r| params.quantize_u8(r)).collect();
        assert_eq!(q, [10, 12, 12, 10, 8]);
        assert_eq!(quantize_weight_s8(&[127.0, 0.5, 1.5, 2.5, -2.5], 1, 5), (vec![127, 0, 2, 2, -2], vec![1.0]));
    }

    #[test]
    fn the_range_always_includes_zero_and_zero_is_exact() {
        for row in [vec![3.0f32, 4.0, 5.0], vec![-3.0, -4.0], vec![-1.0, 2.0]] {
            let mut q = vec![0u8; row.len()];
            let params = quantize_row_u8(&row, &mut q);
            assert_eq!(params.dequantize(i32::from(params.quantize_u8(0.0))), 0.0);
            for (&r, &q) in row.iter().zip(&q) {
                assert!((params.dequantize(i32::from(q)) - r).abs() <= params.scale * 0.5001, "{r} became {q}");
            }
        }
    }

    #[test]
    fn all_zero_rows_have_scale_one() {
        let mut q = [7u8; 3];
        assert_eq!(quantize_row_u8(&[0.0, -0.0, 1e-42], &mut q), QParams { scale: 1.0, zero_point: 0 });
        assert_eq!(q, [0; 3]);
        assert_eq!(quantize_weight_s8(&[0.0, 0.0], 1, 2), (vec![0; 2], vec![1.0]));
    }

    #[test]
    fn huge_ranges_do_not_overflow() {
        let mut q = [0u8; 2];
        let params = quantize_row_u8(&[f32::MAX, f32::MIN], &mut q);
        assert!(params.scale.is_finite());
        assert_eq!(q, [255, 0]);
    }

    #[test]
    fn a_nan_or_infinity_makes_the_scale_nan() {
        let mut q = [0u8; 2];
        assert!(quantize_row_u8(&[1.0, f32::NAN], &mut q).scale.is_nan());
        assert!(quantize_row_u8(&[1.0, f32::NEG_INFINITY], &mut q).scale.is_nan());
    }

    #[test]
    fn a_static_row_keeps_its_parameters_and_is_clamped() {
        let params = QParams { scale: 0.5, zero_point: 100 };
        let mut q = [9u8; 5];
        assert_eq!(quantize_row_u8_static(&[0.0, 1.25, -1.0, 1e30, -1e30], params, &mut q), params);
        assert_eq!(q, [100, 102, 98, 255, 0]);
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(quantize_row_u8_static(&[1.0, 2.0, 3.0, 4.0, broken], params, &mut q).scale.is_nan());
            assert_eq!(q, [0; 5]);
        }
    }

    #[test]
    fn each_channel_has_its_own_scale_and_never_reaches_minus_128() {
        let (q, scale) = quantize_weight_s8(&[-1.27, 0.01, 0.0, 254.0, -254.0, 2.0], 2, 3);
        assert_eq!(q, [-127, 1, 0, 127, -127, 1]);
        assert_eq!(scale, [1.27 / 127.0, 2.0]);
    }
}
