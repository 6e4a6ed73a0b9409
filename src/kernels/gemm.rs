//! u8 activations times s8 weights: exact i32 sums, then zero points, scales and bias.
//!
//! The algebra: `sum over k of (qa - za) qw = sum of qa qw - za * sum of qw`, so the sums start at minus the zero
//! point times the column sum (known when the weights are packed), and the products of the raw u8 are added. With
//! `|qa qw| <= 255 * 128` and `k <= MAX_K`, no sum leaves i32.

use std::ops::Range;

use super::isa::{Isa, Kernels};
use super::microkernel::{LINE, Layout, MAX_ROWS, Microkernel, Out, Product, Strip, scalar};
#[cfg(target_arch = "x86_64")]
use super::microkernel::{amx_int8, avx_vnni, avx2, avx512_vnni};
use super::pack::PackedWeights;
use super::rows::QuantizedRows;

/// Output channels worked on together: all row tiles of a row block meet them before the next ones are read, so
/// their weights (`64 k` bytes) come from memory once per row block and stay in the nearest caches. The panels of every
/// layout divide it.
pub const COLUMN_BLOCK: usize = 64;

/// Cache lines of the weights of a column block for 16 values of `k`.
const LINES: usize = 16 * COLUMN_BLOCK / LINE;

/// Bytes of activations in a row block; with the weights of a column block they fit a second-level cache.
const ROW_BLOCK_BYTES: usize = 256 * 1024;

/// Bytes after the last row that kernels may read: a row begun with its last 4 bytes, in steps of 64.
pub(crate) const SPARE_BYTES: usize = 60;

/// Quantized rows as the kernels read them.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// `[m, stride]` and [`SPARE_BYTES`] more; bytes past `k` meet zero weights.
    pub bytes: &'a [u8],
    /// `k` rounded up to a multiple of 4.
    pub stride: usize,
    /// `[m]`.
    pub scale: &'a [f32],
    /// `[m]`.
    pub zero_point: &'a [i32],
}

/// Packed weights as the kernels read them; everything is padded to whole panels.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    /// `[n / columns][depth / group][columns][group]`.
    pub weights: &'a [i8],
    /// `k` with padding.
    pub depth: usize,
    /// `[n]`.
    pub scale: &'a [f32],
    /// `[n]`.
    pub bias: &'a [f32],
    /// Minus the sum over `k` of each channel, `[n]`.
    pub minus_column_sum: &'a [i32],
    /// Output channels, without padding.
    pub n: usize,
}

/// The output of a product, `[m, n]` or columns of something wider.
pub(crate) enum Output<'a> {
    /// Exact sums.
    Sums(&'a mut [i32]),
    /// Scaled, with bias.
    Floats(&'a mut [f32]),
}

impl Output<'_> {
    fn len(&self) -> usize {
        match self {
            Output::Sums(out) => out.len(),
            Output::Floats(out) => out.len(),
        }
    }

    fn as_out(&mut self) -> Out {
        match self {
            Output::Sums(out) => Out::Sums(out.as_mut_ptr()),
            Output::Floats(out) => Out::Floats(out.as_mut_ptr()),
        }
    }
}

/// The whole product on one kernel; rows of the output begin `stride` values apart.
///
/// # Safety
/// The CPU has the instruction set of `K`.
///
/// # Panics
/// When sizes do not fit together.
pub(crate) unsafe fn product<K: Product>(a: Rows<'_>, w: Panels<'_>, mut output: Output<'_>, stride: usize) {
    let (m, n) = (a.scale.len(), w.n);
    let Layout { columns, group, step } = K::layout();
    let padded_n = n.next_multiple_of(columns);
    assert!(a.stride.is_multiple_of(4) && 4usize.is_multiple_of(group));
    assert!(a.bytes.len() == m * a.stride + SPARE_BYTES && a.zero_point.len() == m);
    assert!(w.depth == a.stride.next_multiple_of(step) && w.weights.len() == padded_n * w.depth);
    assert!(w.scale.len() == padded_n && w.bias.len() == padded_n && w.minus_column_sum.len() == padded_n);
    let needed = if m == 0 { 0 } else { (m - 1) * stride + n };
    assert!(n <= stride && output.len() >= needed, "a product of {m} rows needs {needed} values for its output");
    // SAFETY: the caller promises the instruction set, and the sizes were asserted; `depth` is at most 60 above the
    // stride.
    unsafe { K::product(a, w, output.as_out(), stride) };
}

/// A product strip by strip.
///
/// # Safety
/// As [`Product::product`].
pub(crate) unsafe fn product_of_strips<K: Microkernel>(a: Rows<'_>, w: Panels<'_>, out: Out, stride: usize) {
    let (m, n, depth) = (a.scale.len(), w.n, w.depth);
    assert!(depth == a.stride && COLUMN_BLOCK.is_multiple_of(K::LAYOUT.columns));
    let row_block = (ROW_BLOCK_BYTES / depth.max(1)).max(MAX_ROWS);
    for block in (0..m).step_by(row_block) {
        let block_end = (block + row_block).min(m);
        for j in (0..n).step_by(COLUMN_BLOCK) {
            let mut i = block;
            let tiles = (block_end - block).div_ceil(MAX_ROWS);
            for tile in 0..tiles {
                // Tiles of nearly one height: 7 rows are 4 + 3, not 6 + 1.
                let rows = (block_end - i).div_ceil(tiles - tile);
                // While the first rows meet these channels, the weights of the next ones come nearer, as slowly as the
                // number of tiles allows.
                let lines_ahead = LINES.div_ceil(tiles.min(LINES));
                let first_line = tile * lines_ahead;
                let is_ahead = j + COLUMN_BLOCK < n && first_line < LINES;
                let strip = Strip {
                    rows: a.bytes[i * depth..].as_ptr(),
                    depth,
                    zero_point: a.zero_point[i..].as_ptr(),
                    row_scale: a.scale[i..].as_ptr(),
                    panels: w.weights[j * depth..].as_ptr(),
                    ahead: w.weights.as_ptr().wrapping_add((j + COLUMN_BLOCK) * depth + depth / 16 * LINE * first_line),
                    lines_ahead: if is_ahead { lines_ahead } else { 0 },
                    minus_column_sum: w.minus_column_sum[j..].as_ptr(),
                    column_scale: w.scale[j..].as_ptr(),
                    bias: w.bias[j..].as_ptr(),
                    columns: (n - j).min(COLUMN_BLOCK),
                    out: match out {
                        Out::Sums(out) => Out::Sums(out.wrapping_add(i * stride + j)),
                        Out::Floats(out) => Out::Floats(out.wrapping_add(i * stride + j)),
                    },
                    out_stride: stride,
                };
                // SAFETY: the caller promises the instruction set, and sizes that hold `rows` rows from `i` on, whole
                // panels from `j` on for `columns` channels, and `columns` outputs in each row.
                unsafe {
                    match rows {
                        1 => K::strip::<1>(&strip),
                        2 => K::strip::<2>(&strip),
                        3 => K::strip::<3>(&strip),
                        4 => K::strip::<4>(&strip),
                        5 => K::strip::<5>(&strip),
                        _ => K::strip::<MAX_ROWS>(&strip),
                    }
                }
                i += rows;
            }
        }
    }
}

impl Kernels {
    /// The exact sums `sum over k of (qa - za) qw`, `[m, n]`.
    ///
    /// # Panics
    /// When sizes do not fit together, or `w` was packed for another instruction set.
    pub fn gemm_i32(self, a: &QuantizedRows, w: &PackedWeights, out: &mut [i32]) {
        assert_eq!(out.len(), a.rows() * w.n(), "the output of a matrix product needs m * n values");
        self.product(a, w, 0..w.n(), Output::Sums(out), w.n());
    }

    /// `out = a w^T + bias`, `[m, n]`: `fma((sum over k of (qa - za) qw) as f32, sa * sw, bias)`.
    ///
    /// # Panics
    /// When sizes do not fit together, or `w` was packed for another instruction set.
    pub fn gemm(self, a: &QuantizedRows, w: &PackedWeights, out: &mut [f32]) {
        assert_eq!(out.len(), a.rows() * w.n(), "the output of a matrix product needs m * n values");
        self.gemm_columns(a, w, 0..w.n(), out, w.n());
    }

    /// The output channels `columns` of [`Kernels::gemm`], the same bits; rows of `out` begin `stride` values apart.
    ///
    /// # Panics
    /// When sizes do not fit together, `w` was packed for another instruction set, or the columns do not start at a
    /// multiple of [`COLUMN_BLOCK`].
    pub fn gemm_columns(
        self,
        a: &QuantizedRows,
        w: &PackedWeights,
        columns: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) {
        assert!(columns.start.is_multiple_of(COLUMN_BLOCK), "channels from {} on start within a block", columns.start);
        self.product(a, w, columns, Output::Floats(out), stride);
    }

    fn product(self, a: &QuantizedRows, w: &PackedWeights, columns: Range<usize>, out: Output<'_>, stride: usize) {
        assert_eq!(self.isa(), w.isa(), "weights packed for {} given to the {} kernels", w.isa(), self.isa());
        assert_eq!(a.k(), w.k(), "activations and weights differ in k");
        let (a, w) = (a.as_rows(), w.as_panels(columns));
        // SAFETY of all arms: `self` proves that the CPU has its instruction set.
        match self.isa() {
            // SAFETY: see above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { product::<avx2::Avx2>(a, w, out, stride) },
            // SAFETY: see above.
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => unsafe { product::<avx_vnni::AvxVnni>(a, w, out, stride) },
            // SAFETY: see above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => unsafe { product::<avx512_vnni::Avx512Vnni>(a, w, out, stride) },
            // SAFETY: see above.
            #[cfg(target_arch = "x86_64")]
            Isa::AmxInt8 => unsafe { product::<amx_int8::AmxInt8>(a, w, out, stride) },
            // SAFETY: plain Rust runs everywhere.
            _ => unsafe { product::<scalar::Scalar>(a, w, out, stride) },
        }
    }
}

#[cfg(test)]
mod tests;
