//! How far a quantized tensor is from its original.

use crate::checkpoint::LayerError;

/// Mean squared error, signal-to-noise ratio, cosine and largest error of `quantized` against `original`, summed in f64.
///
/// # Panics
/// When the lengths differ.
pub fn error_of(name: &str, original: &[f32], quantized: &[f32]) -> LayerError {
    assert_eq!(original.len(), quantized.len(), "an error needs two tensors of one size");
    let (mut signal, mut noise, mut dot, mut energy, mut max_abs) = (0f64, 0f64, 0f64, 0f64, 0f64);
    for (x, y) in original.iter().zip(quantized).map(|(x, y)| (f64::from(*x), f64::from(*y))) {
        signal += x * x;
        energy += y * y;
        dot += x * y;
        noise += (x - y) * (x - y);
        max_abs = max_abs.max((x - y).abs());
    }
    let norms = (signal * energy).sqrt();
    LayerError {
        name: name.into(),
        mse: noise / original.len().max(1) as f64,
        sqnr_db: (noise > 0.0 && signal > 0.0).then(|| 10.0 * (signal / noise).log10()),
        cosine: if norms > 0.0 { dot / norms } else { 1.0 },
        max_abs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Tensor;
    use crate::runtime::int8_rows;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    #[test]
    fn known_vectors_have_known_errors() {
        let error = error_of("w", &[3.0, 4.0], &[3.0, 3.5]);
        assert_eq!((error.mse, error.max_abs), (0.125, 0.5));
        assert!((error.sqnr_db.unwrap() - 20.0).abs() < 1e-9);
        assert!((error.cosine - 23.0 / (5.0 * (9.0f64 + 12.25).sqrt())).abs() < 1e-12);
        let same = error_of("w", &[1.0, 2.0], &[1.0, 2.0]);
        assert_eq!((same.mse, same.sqnr_db, same.cosine), (0.0, None, 1.0));
    }

    /// Rows of 768 Gaussian values in int8 have 42.4 dB: absmax is about 3.2 sigma, the step absmax / 127, the noise
    /// step^2 / 12.
    #[test]
    fn int8_of_gaussian_rows_keeps_about_42_db() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut gauss = || (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
        let original: Vec<f32> = (0..64 * 768).map(|_| gauss()).collect();
        let (data, scale) = int8_rows(Tensor::F32 { shape: vec![64, 768], data: original.clone() });
        let quantized = Tensor::Int8 { shape: vec![64, 768], data, scale }.into_f32();
        let db = error_of("w", &original, &quantized).sqnr_db.unwrap();
        assert!((41.4..43.4).contains(&db), "{db} dB");
    }
}
