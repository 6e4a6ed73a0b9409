//! f32 matrices times f32 matrices, rounded to bf16, on AMX tiles: for gradients.
//!
//! Both factors are rounded to bf16 (to nearest, halves to even) and packed in steps of 32 products; sums are f32. A step
//! adds its even and its odd products apart, each with one rounding, and then both to the sum (Intel SDM, `TDPBF16PS`).
//! Numbers below 2^-126 count as 0.

use rayon::prelude::*;

use super::float_gemm::Factor;
use super::isa::Kernels;
use super::lanes::{Ints, LANES, LaneKernel, Lanes};
use super::pack::AlignedVec;
use super::tiles::{self, ROW_BYTES, SIDE, Tiles};

/// 32-bit elements of a tile: a pair of bf16 each, or a sum.
const TILE: usize = SIDE * SIDE;
/// Rows of the left factor, or columns of the right one, that are packed together: two tiles.
const PANEL: usize = 2 * SIDE;
/// Products of one output that a step adds: the values in a row of a tile.
const STEP: usize = 2 * SIDE;

/// Which factor is packed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Tiles of 16 rows of the product with 16 pairs each.
    Left,
    /// Tiles of 16 pairs with 16 columns of the product each.
    Right,
}

/// Packs one panel of a factor, `[k / 32][2][16][16]` pairs of bf16; 0 outside of the matrix.
struct Pack<'a> {
    factor: Factor<'a>,
    side: Side,
    /// Rows of a left factor, columns of a right one.
    outer: usize,
    k: usize,
    /// First row or column of the panel.
    at: usize,
    panel: &'a mut [i32],
}

impl LaneKernel for Pack<'_> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Pack { factor, side, outer, k, at, panel } = self;
        // A left factor that is stored has the products of an output beside each other, and so has a right one that is
        // stored transposed.
        let along_k = factor.is_transposed() == (side == Side::Right);
        for (step, tiles) in panel.chunks_exact_mut(2 * TILE).enumerate() {
            for (half, tile) in tiles.chunks_exact_mut(TILE).enumerate() {
                let (at, first) = (at + half * SIDE, step * STEP);
                let mut rows = if along_k {
                    pairs_of_rows::<V>(factor.values(), [outer, k], at, first)
                } else {
                    pairs_of_columns::<V>(factor.values(), [k, outer], first, at)
                };
                if along_k != (side == Side::Left) {
                    rows = V::Ints::transpose(rows);
                }
                for (to, row) in tile.chunks_exact_mut(LANES).zip(rows) {
                    // SAFETY: a chunk of 16 values.
                    unsafe { row.store(to.as_mut_ptr()) };
                }
            }
        }
    }
}

/// Up to 16 values of a row of a `[rows, columns]` matrix from `(row, column)` on, as bf16 in the low halves.
#[inline(always)]
fn rounded<V: Lanes>(values: &[f32], [rows, columns]: [usize; 2], row: usize, column: usize) -> V::Ints {
    if row >= rows || column >= columns {
        return V::Ints::splat(0);
    }
    let from = &values[row * columns + column..][..LANES.min(columns - column)];
    // SAFETY: `from` holds as many values as are read.
    let bits = unsafe {
        match from.len() {
            LANES => V::load(from.as_ptr()),
            count => V::load_first(from.as_ptr(), count, 0.0),
        }
    }
    .bits();
    let odd = bits.shift_right::<16>().and(V::Ints::splat(1));
    bits.add(odd).add(V::Ints::splat(0x7fff)).shift_right::<16>()
}

/// 16 rows from `row` on: 32 values of each from `column` on.
#[inline(always)]
fn pairs_of_rows<V: Lanes>(values: &[f32], size: [usize; 2], row: usize, column: usize) -> [V::Ints; LANES] {
    let mut pairs = [V::Ints::splat(0); LANES];
    for (i, pairs) in pairs.iter_mut().enumerate() {
        let mut halves = [0i32; LANES];
        let to: *mut i16 = halves.as_mut_ptr().cast();
        // SAFETY: `halves` has room for 32 halves, as a tile's row has, and is read as the 16 pairs that they are.
        unsafe {
            rounded::<V>(values, size, row + i, column).store_i16(to);
            rounded::<V>(values, size, row + i, column + LANES).store_i16(to.add(LANES));
            *pairs = V::Ints::load(halves.as_ptr());
        }
    }
    pairs
}

/// 32 rows from `row` on, two and two as pairs: 16 values of each from `column` on.
#[inline(always)]
fn pairs_of_columns<V: Lanes>(values: &[f32], size: [usize; 2], row: usize, column: usize) -> [V::Ints; LANES] {
    let mut pairs = [V::Ints::splat(0); LANES];
    for (i, pairs) in pairs.iter_mut().enumerate() {
        let low = rounded::<V>(values, size, row + 2 * i, column);
        *pairs = low.pair(rounded::<V>(values, size, row + 2 * i + 1, column));
    }
    pairs
}

impl Kernels {
    /// `out += a b` of factors rounded to bf16, with `out` `[m, n]`, `a` `[m, k]` and `b` `[k, n]`, on all threads of the
    /// rayon pool it is called in. The bits do not depend on the number of threads.
    ///
    /// # Panics
    /// When a slice has another length than its matrix, or the kernels are not those of [`Kernels::has_bf16`].
    pub fn gemm_bf16(self, out: &mut [f32], a: Factor<'_>, b: Factor<'_>, (m, n, k): (usize, usize, usize)) {
        assert!(self.has_bf16(), "products of bf16 need AMX, these are the kernels of {}", self.isa());
        assert_eq!(out.len(), m * n, "the product is {m} x {n}");
        assert_eq!(a.values().len(), m * k, "the first factor is {m} x {k}");
        assert_eq!(b.values().len(), k * n, "the second factor is {k} x {n}");
        if m == 0 || n == 0 || k == 0 {
            return;
        }
        let size = k.div_ceil(STEP) * 2 * TILE;
        let mut right = AlignedVec::<i32>::zeroed(n.div_ceil(PANEL) * size);
        right.as_mut_slice().par_chunks_exact_mut(size).enumerate().for_each(|(j, panel)| {
            self.run(Pack { factor: b, side: Side::Right, outer: n, k, at: j * PANEL, panel });
        });
        let buffers = || (AlignedVec::<i32>::zeroed(size), AlignedVec::<i32>::zeroed(4 * TILE));
        out.par_chunks_mut(PANEL * n).enumerate().for_each_init(buffers, |(left, sums), (i, out)| {
            self.run(Pack { factor: a, side: Side::Left, outer: m, k, at: i * PANEL, panel: left.as_mut_slice() });
            // SAFETY: these are the kernels of AMX.
            let _tiles = unsafe { Tiles::configure(SIDE) };
            for (j, right) in right.as_slice().chunks_exact(size).enumerate() {
                multiply(left.as_slice(), right, sums.as_mut_slice());
                let columns = j * PANEL..n.min((j + 1) * PANEL);
                for (row, out) in out.chunks_exact_mut(n).enumerate() {
                    let sums = sums.as_slice()[row / SIDE * 2 * TILE..].chunks_exact(TILE).take(2);
                    let sums = sums.flat_map(|tile| &tile[row % SIDE * SIDE..][..SIDE]);
                    out[columns.clone()]
                        .iter_mut()
                        .zip(sums)
                        .for_each(|(out, sum)| *out += f32::from_bits(*sum as u32));
                }
            }
        });
    }
}

/// The sums of a left panel and a right one, as four tiles of f32; tiles are configured.
fn multiply(left: &[i32], right: &[i32], sums: &mut [i32]) {
    assert!(left.len() == right.len() && sums.len() == 4 * TILE);
    // SAFETY: the caller configured tiles; each step has two whole tiles on both sides, and `sums` holds four.
    unsafe {
        tiles::zero();
        for (left, right) in left.chunks_exact(2 * TILE).zip(right.chunks_exact(2 * TILE)) {
            let (a, b): (*const u8, *const u8) = (left.as_ptr().cast(), right.as_ptr().cast());
            tiles::multiply_bf16_2x2([a, a.add(SIDE * ROW_BYTES)], [b, b.add(SIDE * ROW_BYTES)]);
        }
        let to = sums.as_mut_ptr();
        tiles::store([to, to.add(TILE), to.add(2 * TILE), to.add(3 * TILE)], ROW_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::reference;
    use crate::kernels::testing::Random;

    fn transpose(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
        (0..columns).flat_map(|c| (0..rows).map(move |r| x[r * columns + c])).collect()
    }

    /// The kernels, on CPUs that have them.
    fn kernels() -> Option<Kernels> {
        Some(Kernels::detect()).filter(|kernels| kernels.has_bf16())
    }

    #[test]
    fn products_of_all_layouts_are_the_bits_of_the_slow_twin() {
        let Some(kernels) = kernels() else { return };
        let mut random = Random::new(7);
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (32, 32, 32), (33, 17, 40), (70, 96, 384), (16, 65, 33)] {
            let (a, b, start) = (random.floats(m * k, 1.0), random.floats(k * n, 1.0), random.floats(m * n, 1.0));
            let (a_t, b_t) = (transpose(&a, m, k), transpose(&b, k, n));
            let expected: Vec<f32> =
                reference::gemm_bf16(&a, &b_t, k, n).iter().zip(&start).map(|(sum, start)| start + sum).collect();
            for a in [Factor::stored(&a), Factor::transposed(&a_t)] {
                for b in [Factor::stored(&b), Factor::transposed(&b_t)] {
                    let mut out = start.clone();
                    kernels.gemm_bf16(&mut out, a, b, (m, n, k));
                    assert_eq!(out, expected, "{m} x {n} x {k}");
                }
            }
        }
    }

    #[test]
    fn products_are_within_the_rounding_of_their_factors() {
        let Some(kernels) = kernels() else { return };
        let (m, n, k) = (20, 30, 700);
        let mut random = Random::new(9);
        let (a, b) = (random.floats(m * k, 1.0), random.floats(n * k, 1.0));
        let mut out = vec![0.0; m * n];
        kernels.gemm_bf16(&mut out, Factor::stored(&a), Factor::transposed(&b), (m, n, k));
        for (at, found) in out.iter().enumerate() {
            let terms = a[at / n * k..][..k].iter().zip(&b[at % n * k..][..k]);
            let terms: Vec<f64> = terms.map(|(a, b)| f64::from(*a) * f64::from(*b)).collect();
            // Each factor is within 2^-9 of itself; sums in f32 add little to that.
            let bound = terms.iter().map(|term| term.abs()).sum::<f64>() * 2f64.powi(-8) * 1.01;
            assert!((f64::from(*found) - terms.iter().sum::<f64>()).abs() <= bound);
        }
    }

    #[test]
    fn a_sum_of_nothing_changes_nothing() {
        let Some(kernels) = kernels() else { return };
        let mut out = [1.5; 6];
        kernels.gemm_bf16(&mut out, Factor::stored(&[]), Factor::stored(&[]), (2, 3, 0));
        assert_eq!(out, [1.5; 6]);
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        let Some(kernels) = kernels() else { return };
        let mut out = [0.0; 2];
        kernels.gemm_bf16(&mut out, Factor::stored(&[f32::NAN, f32::INFINITY]), Factor::stored(&[1.0]), (2, 1, 1));
        assert!(out[0].is_nan() && out[1] == f32::INFINITY, "{out:?}");
    }
}
