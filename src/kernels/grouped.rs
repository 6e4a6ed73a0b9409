//! Integer products of weights with several scales in a row, or with zero points.
//!
//! With the columns of a row in groups, each with its scale `S` and zero point `Z`:
//! `y = bias + sum over groups of Sa S sum over l of (qa - za) (qw - Z)`. The inner sum is exact: it is the integer
//! product of the group's columns, less `Z` times the sum of `qa - za`, which a row of ones beside the weights gives.

use super::affine::QuantizedWeights;
use super::arena::Arena;
use super::isa::Kernels;
use super::lanes::{Ints, LANES, LaneKernel, Lanes};
use super::pack::{AlignedVec, PackedWeights};
use super::rows::QuantizedRows;

/// Columns that are multiplied together at most: no sum of `(qa - za) (qw - Z)` over so many leaves i32.
const MAX_COLUMNS: usize = 32_768;

/// A weight matrix `[n, k]` in groups of columns, for the instruction set it was packed for.
#[derive(Clone, Debug)]
pub struct GroupedWeights {
    n: usize,
    k: usize,
    groups: Vec<Group>,
    bias: AlignedVec<f32>,
}

#[derive(Clone, Debug)]
struct Group {
    /// First column.
    start: usize,
    /// `[n, columns]`, and a row of ones below when there are zero points.
    weights: PackedWeights,
    /// `[n]`, padded to whole groups of lanes.
    scale: AlignedVec<f32>,
    /// `[n]`; empty without zero points.
    zero_point: Vec<i32>,
}

/// Buffers of grouped products, to be reused.
#[derive(Default)]
pub struct GroupedScratch {
    rows: QuantizedRows,
    sums: AlignedVec<i32>,
}

impl GroupedWeights {
    /// Packs quantized weights of any scheme and their bias `[n]`.
    ///
    /// # Panics
    /// When the bias has another length than the weights have rows.
    pub fn pack(kernels: Kernels, weights: &QuantizedWeights, bias: &[f32]) -> Self {
        let [n, k] = weights.shape;
        assert_eq!(bias.len(), n, "grouped weights need one bias per output channel");
        let has_zeros = !weights.zero_point.is_empty();
        let size = (k / weights.groups()).clamp(1, MAX_COLUMNS);
        let mut groups = Vec::new();
        for start in (0..k).step_by(size) {
            let columns = size.min(k - start);
            let group = start * weights.groups() / k;
            let mut values = Vec::with_capacity((n + 1) * columns);
            weights.values.chunks_exact(k).for_each(|row| values.extend(&row[start..start + columns]));
            if has_zeros {
                values.resize((n + 1) * columns, 1);
            }
            let packed_rows = n + usize::from(has_zeros);
            let mut scale = AlignedVec::zeroed(n.next_multiple_of(LANES));
            let scales = scale.as_mut_slice().iter_mut().zip(0..n);
            scales.for_each(|(scale, row)| *scale = weights.scale_of(row, group));
            groups.push(Group {
                start,
                weights: PackedWeights::pack(kernels, &values, &vec![1.0; packed_rows], None, packed_rows, columns),
                scale,
                zero_point: (0..if has_zeros { n } else { 0 }).map(|row| weights.zero_point_of(row, group)).collect(),
            });
        }
        let mut padded = AlignedVec::zeroed(n.next_multiple_of(LANES));
        padded.as_mut_slice()[..n].copy_from_slice(bias);
        GroupedWeights { n, k, groups, bias: padded }
    }

    /// Moves the integers to `arena` as far as it has room.
    pub fn move_to(&mut self, arena: &Arena) {
        self.groups.iter_mut().for_each(|group| group.weights.move_to(arena));
    }

    /// Output channels.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Input channels.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Scales and zero points, over all groups.
    pub fn parameters(&self) -> usize {
        self.groups.iter().map(|group| self.n + group.zero_point.len()).sum()
    }
}

/// `out = fma(sums as f32, row scale * column scale, out)`; with `bias`, `out` starts at it.
struct Accumulate<'a> {
    /// `[m, stride]`, of which the first `n` columns count.
    sums: &'a [i32],
    stride: usize,
    row_scale: &'a [f32],
    /// `[n]`, padded to whole groups of lanes.
    column_scale: &'a [f32],
    bias: Option<&'a [f32]>,
    n: usize,
    out: &'a mut [f32],
}

impl LaneKernel for Accumulate<'_> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Accumulate { sums, stride, row_scale, column_scale, bias, n, out } = self;
        let whole = n / LANES * LANES;
        for ((out, sums), &row_scale) in out.chunks_exact_mut(n).zip(sums.chunks_exact(stride)).zip(row_scale) {
            let row_scale = V::splat(row_scale);
            for j in (0..n).step_by(LANES) {
                let count = if j < whole { LANES } else { n - whole };
                let (sums, out) = (&sums[j..j + count], &mut out[j..j + count]);
                let scale = &column_scale[j..j + LANES];
                let mut last = [0i32; LANES];
                let from = if count == LANES {
                    sums.as_ptr()
                } else {
                    last[..count].copy_from_slice(sums);
                    last.as_ptr()
                };
                // SAFETY: `from` points at 16 sums, `scale` and the padded bias hold 16 values from `j` on, and `out`
                // holds `count`.
                unsafe {
                    let start = match bias {
                        Some(bias) => V::load(bias[j..j + LANES].as_ptr()),
                        None => V::load_first(out.as_ptr(), count, 0.0),
                    };
                    let scale = V::load(scale.as_ptr()).mul(row_scale);
                    V::Ints::load(from).to_floats().mul_add(scale, start).store_first(out.as_mut_ptr(), count);
                }
            }
        }
    }
}

impl Kernels {
    /// `out = a w^T + bias`, `[m, n]`, group after group: `out = bias`, then
    /// `out = fma((sum over the group of (qa - za) (qw - Z)) as f32, Sa * S, out)`.
    ///
    /// # Panics
    /// When sizes do not fit together, or `w` was packed for another instruction set.
    pub fn gemm_grouped(self, a: &QuantizedRows, w: &GroupedWeights, scratch: &mut GroupedScratch, out: &mut [f32]) {
        let (m, n) = (a.rows(), w.n);
        assert_eq!(a.k(), w.k, "activations and weights differ in k");
        assert_eq!(out.len(), m * n, "the output of a matrix product needs m * n values");
        if m == 0 || n == 0 {
            return;
        }
        for (index, group) in w.groups.iter().enumerate() {
            let columns = group.weights.k();
            let rows = if columns == w.k {
                a
            } else {
                scratch.rows.copy_columns(a, group.start, columns);
                &scratch.rows
            };
            let stride = group.weights.n();
            scratch.sums.resize(m * stride);
            let sums = scratch.sums.as_mut_slice();
            self.gemm_i32(rows, &group.weights, sums);
            if !group.zero_point.is_empty() {
                for sums in sums.chunks_exact_mut(stride) {
                    let (sums, inputs) = sums.split_at_mut(n);
                    let corrected = sums.iter_mut().zip(&group.zero_point);
                    corrected.for_each(|(sum, zero)| *sum = sum.wrapping_sub(zero.wrapping_mul(inputs[0])));
                }
            }
            self.run(Accumulate {
                sums,
                stride,
                row_scale: a.scale(),
                column_scale: group.scale.as_slice(),
                bias: (index == 0).then(|| w.bias.as_slice()),
                n,
                out,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::affine::{Granularity, Levels, Scheme, quantize_weights};
    use crate::kernels::reference;
    use crate::kernels::testing::Random;

    #[test]
    fn products_are_the_bits_of_the_slow_twin_on_every_isa() {
        let schemes = [
            Scheme { levels: Levels::Int8, symmetric: false, granularity: Granularity::Channel },
            Scheme { levels: Levels::Int8, symmetric: false, granularity: Granularity::Tensor },
            Scheme { levels: Levels::Int4, symmetric: false, granularity: Granularity::Group(32) },
            Scheme::symmetric(Levels::Int4, Granularity::Group(32)),
            Scheme::symmetric(Levels::Ternary, Granularity::Group(6)),
            Scheme::symmetric(Levels::Binary, Granularity::Group(96)),
            Scheme::symmetric(Levels::Int8, Granularity::Channel),
        ];
        for (m, n, k) in [(1, 1, 96), (5, 17, 96), (13, 64, 192)] {
            let mut random = Random::new((m * n * k) as u64);
            let (x, w, bias) = (random.floats(m * k, 2.0), random.floats(n * k, 1.0), random.floats(n, 1.0));
            for scheme in schemes {
                let weights = quantize_weights(&w, n, k, scheme);
                let mut expected: Option<Vec<f32>> = None;
                for kernels in Kernels::available() {
                    let mut rows = QuantizedRows::new();
                    kernels.quantize_rows(&x, k, &mut rows);
                    let expected = expected.get_or_insert_with(|| reference::gemm_grouped(&rows, &weights, &bias));
                    let packed = GroupedWeights::pack(kernels, &weights, &bias);
                    let mut out = vec![f32::NAN; m * n];
                    kernels.gemm_grouped(&rows, &packed, &mut GroupedScratch::default(), &mut out);
                    assert_eq!(out, *expected, "{scheme} on {} at {m} {n} {k}", kernels.isa());
                }
            }
        }
    }

    #[test]
    fn the_widest_rows_with_zero_points_do_not_leave_i32() {
        let k = 65_536;
        let scheme = Scheme { levels: Levels::Int8, symmetric: false, granularity: Granularity::Channel };
        // Weights 255 levels above their zero point, activations 255 above theirs.
        let (values, scale, zero_point, smoothing) = (vec![127; k], vec![1.0], vec![-128], vec![]);
        let weights = QuantizedWeights { scheme, shape: [1, k], values, scale, zero_point, smoothing };
        let rows = QuantizedRows::from_parts(&vec![255; k], &[1.0], &[0], k);
        for kernels in Kernels::available() {
            let packed = GroupedWeights::pack(kernels, &weights, &[0.0]);
            let mut out = [0.0];
            kernels.gemm_grouped(&rows, &packed, &mut GroupedScratch::default(), &mut out);
            assert_eq!(out[0], 255.0 * 255.0 * k as f32, "{}", kernels.isa());
        }
    }
}
