//! How long the matrix products of a module take with the kernels that serve.

use std::time::Instant;

use crate::kernels::affine::{Scheme, quantize_weights};
use crate::kernels::{FloatWeights, GroupedScratch, GroupedWeights, Kernels, PackedWeights, QuantizedRows};

/// Tokens of the batch that is timed: a sentence or two.
pub const TIMED_TOKENS: usize = 32;
const REPEATS: usize = 15;

/// Seconds of one product of [`TIMED_TOKENS`] rows with a matrix `[rows, columns]` on one thread, quantization of the
/// rows included, the quickest of some; `None` is float.
pub fn product_seconds(kernels: Kernels, [rows, columns]: [usize; 2], scheme: Option<Scheme>) -> f64 {
    let input: Vec<f32> = (0..TIMED_TOKENS * columns).map(|i| (i % 17) as f32 * 0.1 - 0.8).collect();
    let weight: Vec<f32> = (0..rows * columns).map(|i| (i % 251) as f32 * 0.01 - 1.25).collect();
    let bias = vec![0.0f32; rows];
    let (mut quantized, mut out) =
        (QuantizedRows::with_capacity(TIMED_TOKENS, columns), vec![0f32; TIMED_TOKENS * rows]);
    let Some(scheme) = scheme else {
        let packed = FloatWeights::pack(&weight, &bias, rows, columns);
        return quickest(|| kernels.gemm_f32(&input, &packed, &mut out));
    };
    let weight = quantize_weights(&weight, rows, columns, scheme);
    if scheme.is_per_row() {
        let scales = weight.row_scales();
        let packed = PackedWeights::pack(kernels, &weight.values, &scales, Some(&bias), rows, columns);
        return quickest(|| {
            kernels.quantize_rows(&input, columns, &mut quantized);
            kernels.gemm(&quantized, &packed, &mut out);
        });
    }
    let packed = GroupedWeights::pack(kernels, &weight, &bias);
    let mut scratch = GroupedScratch::default();
    quickest(|| {
        kernels.quantize_rows(&input, columns, &mut quantized);
        kernels.gemm_grouped(&quantized, &packed, &mut scratch, &mut out);
    })
}

fn quickest(mut run: impl FnMut()) -> f64 {
    let timed = (0..REPEATS).map(|_| {
        let started = Instant::now();
        run();
        started.elapsed().as_secs_f64()
    });
    timed.fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::affine::{Granularity, Levels};

    #[test]
    fn every_kind_of_product_takes_time() {
        let grouped = Scheme::symmetric(Levels::Int4, Granularity::Group(16));
        for scheme in [None, Some(Scheme::INT8), Some(grouped)] {
            let seconds = product_seconds(Kernels::detect(), [48, 64], scheme);
            assert!(seconds > 0.0 && seconds < 1.0, "{seconds}");
        }
    }
}
