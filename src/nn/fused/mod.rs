//! Steps of the float path that run as one operation each, with gradients of their own.
//!
//! candle's elementary operations walk through memory once per step, forward and backward; these walk through it once
//! per operation, on the threads of the rayon pool that the caller is in. What they compute does not depend on the
//! number of threads: rows are cut at fixed places, and sums over rows are added in order.

mod add_norm;
mod attention;
mod dropout;
mod gelu;
mod linear;
mod relation;

use candle_core::{CpuStorage, Error, Layout, Result, Tensor};

pub use add_norm::AddNorm;
pub use attention::Attention;
pub use dropout::Dropout;
pub use gelu::Gelu;
pub use linear::{Products, linear};
pub use relation::Relation;

/// Values that one task of the pool works on.
pub(super) const VALUES_AT_ONCE: usize = 1 << 14;

/// Rows of `width` values that one task of the pool works on.
pub(super) fn rows_at_once(width: usize) -> usize {
    (VALUES_AT_ONCE / width).max(1)
}

/// Runs loops in code that was compiled for the instructions of this CPU.
#[inline(always)]
pub(super) fn vectorized<T>(loops: impl FnOnce() -> T) -> T {
    pulp::Arch::new().dispatch(loops)
}

/// The f32 values of an argument, which must be contiguous.
pub(super) fn values<'a>(storage: &'a CpuStorage, layout: &Layout, op: &'static str) -> Result<&'a [f32]> {
    let (start, end) = layout.contiguous_offsets().ok_or(Error::RequiresContiguous { op })?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// [`values`] of tensors, for backward passes.
pub(super) fn with_values<T, const N: usize>(
    tensors: [&Tensor; N],
    op: &'static str,
    run: impl FnOnce([&[f32]; N]) -> T,
) -> Result<T> {
    let tensors = tensors.iter().map(|t| t.contiguous()).collect::<Result<Vec<_>>>()?;
    let guards: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        let candle_core::Storage::Cpu(storage) = &**storage else {
            return Err(Error::Msg(format!("{op}: runs on the CPU only")));
        };
        *slice = values(storage, layout, op)?;
    }
    Ok(run(slices))
}

/// `e^x` for `x` at most 0, within 2e-7 of it: `2^n` times a polynomial in the rest (Cephes, `expf`). Below -87 it is
/// `e^-87`, 1.6e-38.
#[inline(always)]
fn exp_of_negative(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to a whole number and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.max(-87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_6e-1;
    let p = p * r + 0.5;
    let e = p * r * r + r + 1.0;
    e * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_its_bound() {
        let worst = (0..200_000).map(|i| {
            let x = -87.0 * i as f32 / 200_000.0;
            let exact = f64::from(x).exp();
            ((f64::from(exp_of_negative(x)) - exact) / exact).abs()
        });
        let worst = worst.fold(0.0, f64::max);
        assert!(worst < 2e-7, "{worst:e}");
        assert_eq!(exp_of_negative(0.0), 1.0);
        assert!(exp_of_negative(f32::NEG_INFINITY) < 2e-38);
    }
}
