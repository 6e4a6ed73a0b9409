//! Rows of u8 activations, as products read them and as quantization writes them.

use super::gemm::{Rows, SPARE_BYTES};
use super::pack::AlignedVec;

/// Asymmetric u8 rows `[m, k]`, each with its own scale and zero point; a buffer to be reused.
///
/// A row takes `k` bytes rounded up to a multiple of 4; the bytes after `k` are 0.
#[derive(Clone, Debug, Default)]
pub struct QuantizedRows {
    bytes: AlignedVec<u8>,
    scale: Vec<f32>,
    zero_point: Vec<i32>,
    k: usize,
    stride: usize,
    /// Rows after their activation, which stay in the nearest cache.
    pub(super) activated: AlignedVec<f32>,
}

impl QuantizedRows {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty buffer with memory for `m` rows of `k` values.
    pub fn with_capacity(m: usize, k: usize) -> Self {
        let mut rows = Self::new();
        rows.reset(m, k);
        rows.reset(0, k);
        rows
    }

    /// Rows from integers `[m, k]`, scales `[m]` and zero points `[m]` in 0..=255.
    ///
    /// # Panics
    /// When the lengths do not fit together, or a zero point is no u8.
    pub fn from_parts(q: &[u8], scale: &[f32], zero_point: &[i32], k: usize) -> Self {
        let m = scale.len();
        assert_eq!(q.len(), m * k, "quantized rows need k values per scale");
        assert_eq!(zero_point.len(), m, "quantized rows need one zero point per scale");
        assert!(zero_point.iter().all(|z| (0..=255).contains(z)), "a zero point of u8 rows lies in 0..=255");
        let mut rows = Self::new();
        rows.reset(m, k);
        for i in 0..m {
            let stride = rows.stride;
            rows.bytes.as_mut_slice()[i * stride..][..k].copy_from_slice(&q[i * k..][..k]);
        }
        rows.scale.copy_from_slice(scale);
        rows.zero_point.copy_from_slice(zero_point);
        rows
    }

    /// Makes room for `m` rows of `k` values, keeping the memory; the padding is 0, the values are unspecified.
    fn reset(&mut self, m: usize, k: usize) {
        self.k = k;
        self.stride = k.next_multiple_of(4);
        self.bytes.resize(m * self.stride + SPARE_BYTES);
        self.scale.resize(m, 1.0);
        self.zero_point.resize(m, 0);
        if self.stride != k {
            for row in self.bytes.as_mut_slice()[..m * self.stride].chunks_exact_mut(self.stride) {
                row[k..].fill(0);
            }
        }
    }

    /// Becomes the columns from `start` on of other rows, with their scales and zero points.
    ///
    /// # Panics
    /// When there are no such columns.
    pub(crate) fn copy_columns(&mut self, rows: &QuantizedRows, start: usize, columns: usize) {
        self.reset(rows.rows(), columns);
        for i in 0..rows.rows() {
            let at = i * self.stride;
            self.bytes.as_mut_slice()[at..at + columns].copy_from_slice(&rows.row(i)[start..start + columns]);
        }
        self.scale.copy_from_slice(&rows.scale);
        self.zero_point.copy_from_slice(&rows.zero_point);
    }

    /// Becomes the rows of all `parts`, one part after another.
    ///
    /// # Panics
    /// When their rows differ in length.
    pub fn join_rows<'a>(&mut self, parts: impl Iterator<Item = &'a QuantizedRows> + Clone) {
        let k = parts.clone().next().map_or(0, QuantizedRows::k);
        self.reset(parts.clone().map(QuantizedRows::rows).sum(), k);
        let mut first = 0;
        for part in parts {
            assert_eq!(part.k, k, "rows of several lengths cannot follow each other");
            let (m, bytes) = (part.rows(), part.rows() * self.stride);
            self.bytes.as_mut_slice()[first * self.stride..][..bytes].copy_from_slice(&part.bytes.as_slice()[..bytes]);
            self.scale[first..first + m].copy_from_slice(&part.scale);
            self.zero_point[first..first + m].copy_from_slice(&part.zero_point);
            first += m;
        }
    }

    /// Becomes the rows whose columns are those of all `parts`, one part after another, as
    /// [`quantize_rows_within`](super::Kernels::quantize_rows_within) makes them of parts of the same rows: scales and
    /// zero points are those of any part with columns.
    ///
    /// # Panics
    /// When parts with columns differ in their number of rows.
    pub fn join_columns<'a>(&mut self, parts: impl Iterator<Item = &'a QuantizedRows> + Clone) {
        let parts = parts.filter(|part| part.k > 0);
        let m = parts.clone().next().map_or(0, QuantizedRows::rows);
        self.reset(m, parts.clone().map(QuantizedRows::k).sum());
        let mut column = 0;
        for part in parts {
            assert_eq!(part.rows(), m, "parts of the same rows have as many");
            for (i, to) in self.bytes.as_mut_slice()[..m * self.stride].chunks_exact_mut(self.stride).enumerate() {
                to[column..column + part.k].copy_from_slice(part.row(i));
            }
            self.scale.copy_from_slice(&part.scale);
            self.zero_point.copy_from_slice(&part.zero_point);
            column += part.k;
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.scale.len()
    }

    /// Number of values in a row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// What the kernels read.
    pub(crate) fn as_rows(&self) -> Rows<'_> {
        let Self { bytes, scale, zero_point, stride, .. } = self;
        Rows { bytes: bytes.as_slice(), stride: *stride, scale, zero_point }
    }

    /// The integers of row `i`, `[k]`.
    pub fn row(&self, i: usize) -> &[u8] {
        &self.bytes.as_slice()[i * self.stride..][..self.k]
    }

    /// Scale of each row, `[m]`.
    pub fn scale(&self) -> &[f32] {
        &self.scale
    }

    /// Zero point of each row, `[m]`.
    pub fn zero_point(&self) -> &[i32] {
        &self.zero_point
    }

    /// Makes room for `m` rows of `k` values and hands out the parts.
    pub(crate) fn rows_mut(&mut self, m: usize, k: usize) -> RowsMut<'_> {
        self.reset(m, k);
        RowsMut {
            bytes: self.bytes.as_mut_slice(),
            scale: &mut self.scale,
            zero_point: &mut self.zero_point,
            stride: self.stride,
        }
    }
}

/// The parts of a [`QuantizedRows`] while its rows are written.
pub(crate) struct RowsMut<'a> {
    pub(super) bytes: &'a mut [u8],
    pub(super) scale: &'a mut [f32],
    pub(super) zero_point: &'a mut [i32],
    pub(super) stride: usize,
}

/// Number of rows of `k` values in `len` values.
///
/// # Panics
/// When there is no such number.
pub(crate) fn row_count(len: usize, k: usize) -> usize {
    assert!(if k == 0 { len == 0 } else { len.is_multiple_of(k) }, "{len} values are no whole number of rows of {k}");
    len.checked_div(k).unwrap_or(0)
}
