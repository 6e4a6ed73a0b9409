//! Integer products alone, each as a share of the peak that the same core reaches right before and after it.
//!
//! The clock of a core moves by a tenth from one second to the next, and with the instructions that it runs, so a peak
//! that was measured a minute earlier says little.

use std::time::{Duration, Instant};

use crate::kernels::affine::quantize_weight_s8;
use crate::kernels::{Arena, Kernels, PackedWeights, QuantizedRows};

use super::metrics::quantile;
use super::speed::PEAK_STEPS;

/// Turns of products and peak that there are in any case.
const LEAST_TURNS: usize = 3;

/// Matrices of one size, packed for some kernels.
pub struct Matrices {
    kernels: Kernels,
    packed: Vec<PackedWeights>,
}

/// What a product does beside the peak.
#[derive(Clone, Debug)]
pub struct ProductSpeed {
    /// Multiply-adds a second, the median over all turns.
    pub macs_per_second: f64,
    /// Share of the peak in each turn, in rising order.
    shares: Vec<f64>,
}

impl Matrices {
    /// As many matrices `[n, k]` as take up `bytes`, at least one, side by side as an encoder's are.
    pub fn new(kernels: Kernels, n: usize, k: usize, bytes: usize) -> Self {
        let count = (bytes / (n * k).max(1)).max(1);
        let (q, scale) = quantize_weight_s8(&values(n * k), n, k);
        let packed = PackedWeights::pack(kernels, &q, &scale, None, n, k);
        let arena = Arena::new(count * PackedWeights::panel_bytes(kernels, n, k));
        let copy = |_| {
            let mut copy = packed.clone();
            copy.move_to(&arena);
            copy
        };
        Matrices { kernels, packed: (0..count).map(copy).collect() }
    }

    /// Products of `m` rows with each matrix in turn, on this thread: a few, as many multiply-adds as a run of the peak
    /// has, between one run of the peak and the next, for `duration`. None on the scalar kernels, which have no peak.
    pub fn speed(&self, m: usize, duration: Duration) -> Option<ProductSpeed> {
        let (kernels, first) = (self.kernels, self.packed.first()?);
        let (n, k) = (first.n(), first.k());
        let macs = (m * n * k) as f64;
        let peak_macs = kernels.multiply_in_registers(1)? as f64 * f64::from(PEAK_STEPS);
        let products = (peak_macs / macs).ceil();
        let (mut rows, mut out) = (QuantizedRows::new(), vec![0f32; m * n]);
        kernels.quantize_rows(&values(m * k), k, &mut rows);
        let mut matrices = self.packed.iter().cycle();
        let mut product = || {
            let matrices = matrices.by_ref().take(products as usize);
            products * macs / seconds(|| matrices.for_each(|matrix| kernels.gemm(&rows, matrix, &mut out)))
        };
        let peak = || peak_macs / seconds(|| _ = kernels.multiply_in_registers(PEAK_STEPS));
        product();
        let (began, mut before) = (Instant::now(), peak());
        let (mut rates, mut shares) = (Vec::new(), Vec::new());
        while shares.len() < LEAST_TURNS || began.elapsed() < duration {
            let (rate, after) = (product(), peak());
            rates.push(rate);
            shares.push(2.0 * rate / (before + after));
            before = after;
        }
        [&mut rates, &mut shares].into_iter().for_each(|all| all.sort_by(f64::total_cmp));
        Some(ProductSpeed { macs_per_second: quantile(&rates, 0.5), shares })
    }
}

impl ProductSpeed {
    /// The share of the peak, 0 to 100, that a share `q` of the turns stay below.
    pub fn percent(&self, q: f64) -> f64 {
        100.0 * quantile(&self.shares, q)
    }

    /// How many turns there were.
    pub fn runs(&self) -> usize {
        self.shares.len()
    }
}

fn seconds(work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64()
}

/// Values from -1 to 1 in a fixed irregular order.
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 2003) as f32 / 1001.0 - 1.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_measured_beside_the_peak_of_vector_kernels() {
        for kernels in Kernels::available() {
            let matrices = Matrices::new(kernels, 96, 80, 3 * 96 * 80 + 1);
            assert_eq!(matrices.packed.len(), 3);
            let found = matrices.speed(5, Duration::ZERO);
            assert_eq!(found.is_some(), kernels.multiply_instruction().is_some());
            if let Some(found) = found {
                assert_eq!(found.runs(), LEAST_TURNS);
                assert!(found.macs_per_second > 0.0 && 0.0 < found.percent(0.1), "{found:?}");
                assert!(found.percent(0.1) <= found.percent(0.5), "{found:?}");
            }
        }
    }

    #[test]
    fn there_is_a_matrix_even_where_none_fits() {
        assert_eq!(Matrices::new(Kernels::detect(), 64, 32, 0).packed.len(), 1);
    }
}
