//! f32 activations times f32 weights, for layers that stay float.
//!
//! Every output starts at its bias and adds its products in the order of `k`, each with one rounding (`f32::mul_add`),
//! whatever the tile it falls into: the same bits on every instruction set and for every number of rows.

use super::isa::Kernels;
use super::lanes::{LANES, LaneKernel, Lanes};
use super::pack::AlignedVec;

/// Rows of a register tile.
const TILE_ROWS: usize = 6;
/// Groups of 16 columns of the widest register tile.
const MAX_GROUPS: usize = 4;

/// A float weight matrix `[n, k]` and its bias, in panels of 16 output channels: `[n / 16][k][16]`.
#[derive(Clone, Debug)]
pub struct FloatWeights {
    n: usize,
    k: usize,
    panels: AlignedVec<f32>,
    bias: AlignedVec<f32>,
}

impl FloatWeights {
    /// Packs `weight` `[n, k]` (row-major, one row per output channel) and `bias` `[n]`.
    ///
    /// # Panics
    /// When the lengths do not fit together.
    pub fn pack(weight: &[f32], bias: &[f32], n: usize, k: usize) -> Self {
        assert_eq!(weight.len(), n * k, "a float weight needs n * k values");
        assert_eq!(bias.len(), n, "a float weight needs one bias per output channel");
        let padded = n.next_multiple_of(LANES);
        let mut panels = AlignedVec::zeroed(padded * k);
        for (j, row) in weight.chunks_exact(k.max(1)).enumerate() {
            let panel = &mut panels.as_mut_slice()[j / LANES * LANES * k..];
            row.iter().enumerate().for_each(|(l, &w)| panel[l * LANES + j % LANES] = w);
        }
        let mut padded_bias = AlignedVec::zeroed(padded);
        padded_bias.as_mut_slice()[..n].copy_from_slice(bias);
        FloatWeights { n, k, panels, bias: padded_bias }
    }

    /// Output channels.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Input channels.
    pub fn k(&self) -> usize {
        self.k
    }
}

struct Product<'a> {
    x: &'a [f32],
    w: &'a FloatWeights,
    out: &'a mut [f32],
}

impl Product<'_> {
    /// Some rows times `GROUPS` panels from channel `j` on.
    #[inline(always)]
    fn tile<V: Lanes, const ROWS: usize, const GROUPS: usize>(&mut self, first: usize, j: usize) {
        let (n, k) = (self.w.n, self.w.k);
        let panels = &self.w.panels.as_slice()[j * k..][..GROUPS * LANES * k];
        let bias = &self.w.bias.as_slice()[j..][..GROUPS * LANES];
        let rows = &self.x[first * k..][..ROWS * k];
        let mut sums = [[V::splat(0.0); GROUPS]; ROWS];
        for (g, bias) in bias.chunks_exact(LANES).enumerate() {
            // SAFETY: a chunk of 16 values.
            let bias = unsafe { V::load(bias.as_ptr()) };
            sums.iter_mut().for_each(|row| row[g] = bias);
        }
        for l in 0..k {
            let mut w = [V::splat(0.0); GROUPS];
            for (g, w) in w.iter_mut().enumerate() {
                // SAFETY: `panels` holds `GROUPS` panels of `k` times 16 values.
                *w = unsafe { V::load(panels.as_ptr().add((g * k + l) * LANES)) };
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                // SAFETY: `rows` holds `ROWS` rows of `k` values.
                let x = V::splat(unsafe { *rows.get_unchecked(i * k + l) });
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = x.mul_add(w, *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (g, sum) in sums.iter().enumerate() {
                let column = j + g * LANES;
                let to = &mut self.out[(first + i) * n + column..];
                let to = &mut to[..LANES.min(n - column)];
                // SAFETY: `to` holds that many values.
                unsafe { sum.store_first(to.as_mut_ptr(), to.len()) };
            }
        }
    }

    /// All rows times `GROUPS` panels from channel `j` on.
    #[inline(always)]
    fn columns<V: Lanes, const GROUPS: usize>(&mut self, j: usize) {
        let m = self.x.len() / self.w.k;
        let mut first = 0;
        while first + TILE_ROWS <= m {
            self.tile::<V, TILE_ROWS, GROUPS>(first, j);
            first += TILE_ROWS;
        }
        for row in first..m {
            self.tile::<V, 1, GROUPS>(row, j);
        }
    }
}

impl LaneKernel for Product<'_> {
    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        let mut j = 0;
        while j < self.w.n {
            if V::TILE_GROUPS >= MAX_GROUPS && self.w.n - j > (MAX_GROUPS - 1) * LANES {
                self.columns::<V, MAX_GROUPS>(j);
                j += MAX_GROUPS * LANES;
            } else {
                self.columns::<V, 1>(j);
                j += LANES;
            }
        }
    }
}

impl Kernels {
    /// `out = x w^T + bias` in f32, rows `x` `[m, k]` to `[m, n]`; each output is its bias, then
    /// `fma(x_l, w_l, sum)` for `l` from 0 to `k`.
    ///
    /// # Panics
    /// When sizes do not fit together.
    pub fn gemm_f32(self, x: &[f32], w: &FloatWeights, out: &mut [f32]) {
        let m = super::rows::row_count(x.len(), w.k);
        assert_eq!(out.len(), m * w.n, "the output of a matrix product needs m * n values");
        if m > 0 {
            self.run(Product { x, w, out });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::reference;
    use crate::kernels::testing::{GUARDS, Guarded, Random};

    #[test]
    fn products_are_the_bits_of_the_slow_twin_on_every_isa() {
        for (m, n, k) in [(1, 1, 1), (7, 17, 5), (13, 64, 33), (6, 70, 16), (2, 128, 1), (19, 49, 100)] {
            let mut random = Random::new((m * n * k) as u64);
            let (x, w, bias) = (random.floats(m * k, 2.0), random.floats(n * k, 1.0), random.floats(n, 1.0));
            let expected = reference::gemm_f32(&x, &w, &bias, k);
            let packed = FloatWeights::pack(&w, &bias, n, k);
            for kernels in Kernels::available() {
                let mut out = vec![f32::NAN; m * n];
                kernels.gemm_f32(&x, &packed, &mut out);
                assert_eq!(out, expected, "{} at {m} {n} {k}", kernels.isa());
            }
        }
    }

    #[test]
    fn products_stay_inside_their_slices() {
        let (m, n, k) = (7, 21, 9);
        let packed = FloatWeights::pack(&vec![1.0; n * k], &vec![0.5; n], n, k);
        for guard in GUARDS {
            for kernels in Kernels::available() {
                let x = Guarded::new(&vec![1.0f32; m * k], guard);
                let mut out = Guarded::new(&vec![0.0f32; m * n], guard);
                kernels.gemm_f32(&x, &packed, &mut out);
                assert!(out.iter().all(|&y| y == 9.5));
            }
        }
    }

    #[test]
    #[should_panic(expected = "m * n values")]
    fn an_output_of_another_size_is_refused() {
        Kernels::detect().gemm_f32(&[0.0; 4], &FloatWeights::pack(&[0.0; 8], &[0.0; 2], 2, 4), &mut [0.0; 3]);
    }
}
