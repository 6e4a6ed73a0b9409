//! How far a quantized tensor is from its original.

use crate::checkpoint::LayerError;
use crate::kernels::affine::{mse, sqnr_db};

/// Mean squared error, signal-to-noise ratio, cosine and largest error of `quantized` against `original`, summed in f64.
///
/// # Panics
/// When the lengths differ.
pub fn error_of(name: &str, original: &[f32], quantized: &[f32]) -> LayerError {
    let (mut signal, mut dot, mut energy, mut max_abs) = (0f64, 0f64, 0f64, 0f64);
    for (x, y) in original.iter().zip(quantized).map(|(x, y)| (f64::from(*x), f64::from(*y))) {
        signal += x * x;
        energy += y * y;
        dot += x * y;
        max_abs = max_abs.max((x - y).abs());
    }
    let norms = (signal * energy).sqrt();
    LayerError {
        name: name.into(),
        mse: mse(original, quantized),
        sqnr_db: sqnr_db(original, quantized),
        cosine: if norms > 0.0 { dot / norms } else { 1.0 },
        max_abs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_vectors_have_known_errors() {
        let error = error_of("w", &[3.0, 4.0], &[3.0, 3.5]);
        assert_eq!((error.mse, error.max_abs), (0.125, 0.5));
        assert!((error.sqnr_db.unwrap() - 20.0).abs() < 1e-9);
        assert!((error.cosine - 23.0 / (5.0 * (9.0f64 + 12.25).sqrt())).abs() < 1e-12);
        let same = error_of("w", &[1.0, 2.0], &[1.0, 2.0]);
        assert_eq!((same.mse, same.sqnr_db, same.cosine), (0.0, None, 1.0));
    }
}
