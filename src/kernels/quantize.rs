//! Rows of f32 activations → u8 with one scale and zero point per row, alone or after another step on the same rows.

use super::activation::{Activation, gelu, gelu_tanh, relu};
use super::affine::QParams;
use super::gemm::{Rows, SPARE_BYTES};
use super::isa::Kernels;
use super::lanes::{Ints, LANES, LaneKernel, Lanes, groups};
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
    activated: AlignedVec<f32>,
}

/// Rows quantized together, at most: their ranges are found one after the other before the first is quantized, so that
/// none waits for its own.
pub(crate) const ROWS: usize = 4;
/// As many of the long rows of activations, so that they stay in the nearest cache.
const ACTIVATED_ROWS: usize = 2;

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
    /// [`Kernels::quantize_rows_within`] makes them of parts of the same rows: scales and zero points are those of any
    /// part with columns.
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
}

/// Smallest and largest value of a row together with 0, as bit patterns.
///
/// Taken as i32, the bits of positive numbers are in the order of the numbers, above those of negative ones; taken as
/// u32, the bits of negative numbers are in the order of their magnitudes, above those of positive ones. An infinity
/// or a NaN lies beyond all numbers of its sign, so it stays to the end.
#[derive(Clone, Copy)]
pub(crate) struct Range<V: Lanes> {
    hi: V::Ints,
    lo: V::Ints,
}

impl<V: Lanes> Range<V> {
    /// The range of no values.
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Range { hi: V::Ints::splat(0), lo: V::Ints::splat(0) }
    }

    /// Widens the range by 16 values.
    #[inline(always)]
    pub(crate) fn include(&mut self, x: V) {
        self.hi = self.hi.max(x.bits());
        self.lo = self.lo.max_unsigned(x.bits());
    }

    /// Lowest and highest value, one of them not finite when a value is not.
    #[inline(always)]
    fn ends(self) -> (f32, f32) {
        let lo = f32::from_bits(self.lo.max_unsigned_lane());
        let hi = f32::from_bits(self.hi.max_lane() as u32);
        (if lo.is_sign_negative() { lo } else { 0.0 }, hi)
    }
}

/// Smallest and largest value of a row or of a part of it, together with 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowRange {
    /// 0 or less; NaN or infinite when a value of the row is.
    lo: f32,
    /// 0 or more; NaN or infinite when a value of the row is.
    hi: f32,
}

impl RowRange {
    /// The range of both parts.
    pub fn union(self, other: RowRange) -> RowRange {
        // The bits are in the order that `Range` explains.
        let highest = |a: f32, b: f32| if a.to_bits() as i32 >= b.to_bits() as i32 { a } else { b };
        let lowest = |a: f32, b: f32| if a.to_bits() >= b.to_bits() { a } else { b };
        RowRange { lo: lowest(self.lo, other.lo), hi: highest(self.hi, other.hi) }
    }
}

/// What rows are multiplied by, channel by channel, when they are rounded.
pub(crate) trait Smoothing: Copy {
    /// Whether it fits rows of `k` values.
    fn fits(self, k: usize) -> bool;

    /// `count` values of a row from channel `at` on, multiplied.
    ///
    /// # Safety
    /// `at + count` is at most a `k` that [`Smoothing::fits`].
    unsafe fn apply<V: Lanes>(self, x: V, at: usize, count: usize) -> V;
}

/// Rows are rounded as they are.
#[derive(Clone, Copy)]
pub(crate) struct Plain;

impl Smoothing for Plain {
    fn fits(self, _: usize) -> bool {
        true
    }

    #[inline(always)]
    unsafe fn apply<V: Lanes>(self, x: V, _: usize, _: usize) -> V {
        x
    }
}

/// A factor for each channel, `[k]`.
impl Smoothing for &[f32] {
    fn fits(self, k: usize) -> bool {
        self.len() == k
    }

    #[inline(always)]
    unsafe fn apply<V: Lanes>(self, x: V, at: usize, count: usize) -> V {
        // SAFETY: the caller promises that `count` factors from `at` on are in the slice.
        x.mul(unsafe { V::load_first(self.as_ptr().add(at), count, 0.0) })
    }
}

/// Quantizes up to [`ROWS`] rows `[_, k]`, smoothed, with these ranges; they are those of `out` from `first` on.
#[inline(always)]
pub(crate) fn quantize_group<V: Lanes>(
    rows: &[f32],
    k: usize,
    smoothing: impl Smoothing,
    ranges: &[Range<V>],
    first: usize,
    out: &mut RowsMut<'_>,
) {
    let mut params = [QParams { scale: 1.0, zero_point: 0 }; ROWS];
    for (params, range) in params.iter_mut().zip(ranges) {
        let (lo, hi) = range.ends();
        *params = QParams::for_range_u8(lo, hi);
    }
    for (i, (row, params)) in rows.chunks_exact(k).zip(params).enumerate() {
        store_row::<V>(
            row,
            smoothing,
            params,
            #[inline(always)]
            |x| x,
            first + i,
            out,
        );
    }
}

/// Quantizes one row, smoothed, with parameters found beforehand; its range says whether all of it is finite.
#[inline(always)]
fn quantize_row_static<V: Lanes>(
    row: &[f32],
    smoothing: impl Smoothing,
    range: Range<V>,
    params: QParams,
    i: usize,
    out: &mut RowsMut<'_>,
) {
    /// Beyond every u8 from every zero point, and small enough for [`Lanes::store_u8`].
    const LIMIT: f32 = 1024.0;
    let (lo, hi) = range.ends();
    if !lo.is_finite() || !hi.is_finite() {
        out.scale[i] = f32::NAN;
        out.zero_point[i] = 0;
        out.bytes[i * out.stride..][..row.len()].fill(0);
        return;
    }
    store_row::<V>(
        row,
        smoothing,
        params,
        #[inline(always)]
        |x| x.min(V::splat(LIMIT)).max(V::splat(-LIMIT)),
        i,
        out,
    );
}

/// `round(r / S) + Z` of one row, smoothed; `clamp` brings the quotients to where they can be rounded.
#[inline(always)]
fn store_row<V: Lanes>(
    row: &[f32],
    smoothing: impl Smoothing,
    params: QParams,
    clamp: impl Fn(V) -> V,
    i: usize,
    out: &mut RowsMut<'_>,
) {
    assert!(smoothing.fits(row.len()), "smoothing needs one factor per channel");
    out.scale[i] = params.scale;
    out.zero_point[i] = params.zero_point;
    let q = &mut out.bytes[i * out.stride..][..row.len()];
    let inverse = V::splat(1.0 / params.scale);
    let (blocks, count, tail) = (row.len() / 64 * 64, row.len() / LANES * LANES, row.len() % LANES);
    let (from, to) = (row.as_ptr(), q.as_mut_ptr());
    for i in (0..blocks).step_by(64) {
        let mut lanes = [inverse; 4];
        for (g, lanes) in lanes.iter_mut().enumerate() {
            let at = i + g * LANES;
            // SAFETY: `at + 16 <= blocks <= row.len()`, which the smoothing fits.
            *lanes = clamp(unsafe { smoothing.apply(V::load(from.add(at)), at, LANES) }.mul(inverse));
        }
        // SAFETY: `i + 64 <= blocks <= q.len()`.
        unsafe { V::store_64_u8(lanes, params.zero_point, to.add(i)) };
    }
    for i in (blocks..count).step_by(LANES) {
        // SAFETY: `i + 16 <= count <= row.len() == q.len()`; the smoothing fits `row`.
        unsafe {
            let x = smoothing.apply(V::load(from.add(i)), i, LANES);
            clamp(x.mul(inverse)).store_u8(params.zero_point, to.add(i));
        }
    }
    if tail > 0 {
        let mut last = [0u8; LANES];
        // SAFETY: `count + tail` is the length of `row`, which the smoothing fits; `last` holds 16 bytes.
        unsafe {
            let x = smoothing.apply(V::load_first(from.add(count), tail, 0.0), count, tail);
            clamp(x.mul(inverse)).store_u8(params.zero_point, last.as_mut_ptr());
        }
        q[count..].copy_from_slice(&last[..tail]);
    }
}

/// The parts of a [`QuantizedRows`] while its rows are written.
pub(crate) struct RowsMut<'a> {
    bytes: &'a mut [u8],
    scale: &'a mut [f32],
    zero_point: &'a mut [i32],
    stride: usize,
}

impl QuantizedRows {
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

/// Number of rows of `k` values in `len` values.
///
/// # Panics
/// When there is no such number.
pub(crate) fn row_count(len: usize, k: usize) -> usize {
    assert!(if k == 0 { len == 0 } else { len.is_multiple_of(k) }, "{len} values are no whole number of rows of {k}");
    len.checked_div(k).unwrap_or(0)
}

/// The range of one row, smoothed.
#[inline(always)]
fn range_of<V: Lanes>(row: &[f32], smoothing: impl Smoothing) -> Range<V> {
    assert!(smoothing.fits(row.len()), "smoothing needs one factor per channel");
    let mut range = Range::<V>::new();
    groups(
        row.len(),
        #[inline(always)]
        // SAFETY: `count` values from `l` on are in the row, which the smoothing fits.
        |l, count| range.include(unsafe { smoothing.apply(V::load_first(row.as_ptr().add(l), count, 0.0), l, count) }),
    );
    range
}

struct QuantizeRows<'a, S> {
    x: &'a [f32],
    k: usize,
    smoothing: S,
    out: RowsMut<'a>,
}

impl<S: Smoothing> LaneKernel for QuantizeRows<'_, S> {
    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        for (group, rows) in self.x.chunks(ROWS * self.k).enumerate() {
            let mut ranges = [Range::<V>::new(); ROWS];
            for (row, range) in rows.chunks_exact(self.k).zip(&mut ranges) {
                *range = range_of(row, self.smoothing);
            }
            let ranges = &ranges[..rows.len() / self.k];
            quantize_group(rows, self.k, self.smoothing, ranges, group * ROWS, &mut self.out);
        }
    }
}

struct RowRanges<'a> {
    x: &'a [f32],
    ranges: &'a mut [RowRange],
}

impl LaneKernel for RowRanges<'_> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let k = self.x.len() / self.ranges.len();
        for (row, range) in self.x.chunks_exact(k).zip(self.ranges) {
            let (lo, hi) = range_of::<V>(row, Plain).ends();
            *range = RowRange { lo, hi };
        }
    }
}

struct QuantizeRowsWithin<'a> {
    x: &'a [f32],
    k: usize,
    ranges: &'a [RowRange],
    out: RowsMut<'a>,
}

impl LaneKernel for QuantizeRowsWithin<'_> {
    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        for (i, (row, range)) in self.x.chunks_exact(self.k).zip(self.ranges).enumerate() {
            let params = QParams::for_range_u8(range.lo, range.hi);
            store_row::<V>(
                row,
                Plain,
                params,
                #[inline(always)]
                |x| x,
                i,
                &mut self.out,
            );
        }
    }
}

struct QuantizeRowsStatic<'a, S> {
    x: &'a [f32],
    k: usize,
    smoothing: S,
    params: QParams,
    out: RowsMut<'a>,
}

impl<S: Smoothing> LaneKernel for QuantizeRowsStatic<'_, S> {
    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        for (i, row) in self.x.chunks_exact(self.k).enumerate() {
            let range = range_of::<V>(row, self.smoothing);
            quantize_row_static(row, self.smoothing, range, self.params, i, &mut self.out);
        }
    }
}

struct ActivateQuantize<'a> {
    activation: Activation,
    x: &'a [f32],
    k: usize,
    /// Room for [`ACTIVATED_ROWS`] rows.
    activated: &'a mut [f32],
    out: RowsMut<'a>,
}

impl ActivateQuantize<'_> {
    /// With the activation chosen outside of the loops. Every activation of 0 is 0, so the lanes after the end of a row
    /// leave its range alone.
    #[inline(always)]
    fn rows<V: Lanes>(&mut self, activation: impl Fn(V) -> V) {
        for (group, rows) in self.x.chunks(ACTIVATED_ROWS * self.k).enumerate() {
            let activated = &mut self.activated[..rows.len()];
            let mut ranges = [Range::<V>::new(); ACTIVATED_ROWS];
            let pairs = rows.chunks_exact(self.k).zip(activated.chunks_exact_mut(self.k));
            for ((row, activated), range) in pairs.zip(&mut ranges) {
                let (from, to) = (row.as_ptr(), activated.as_mut_ptr());
                groups(
                    self.k,
                    #[inline(always)]
                    // SAFETY: `count` values from `l` on are in both rows.
                    |l, count| unsafe {
                        let y = activation(V::load_first(from.add(l), count, 0.0));
                        y.store_first(to.add(l), count);
                        range.include(y);
                    },
                );
            }
            let count = rows.len() / self.k;
            quantize_group(activated, self.k, Plain, &ranges[..count], group * ACTIVATED_ROWS, &mut self.out);
        }
    }
}

impl LaneKernel for ActivateQuantize<'_> {
    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        match self.activation {
            Activation::Gelu => self.rows::<V>(
                #[inline(always)]
                |x| gelu(x),
            ),
            Activation::GeluTanh => self.rows::<V>(
                #[inline(always)]
                |x| gelu_tanh(x),
            ),
            Activation::Relu => self.rows::<V>(
                #[inline(always)]
                |x| relu(x),
            ),
        }
    }
}

impl Kernels {
    /// Quantizes rows `x` `[m, k]` to u8, one scale and zero point per row, as [`super::affine::quantize_row_u8`]
    /// defines. `out` is resized and holds `m` rows afterwards; with `k` 0 there are none.
    ///
    /// # Panics
    /// When `x` is no whole number of rows.
    pub fn quantize_rows(self, x: &[f32], k: usize, out: &mut QuantizedRows) {
        let out = out.rows_mut(row_count(x.len(), k), k);
        if k > 0 {
            self.run(QuantizeRows { x, k, smoothing: Plain, out });
        }
    }

    /// [`Kernels::quantize_rows`] of rows that are multiplied by `smoothing` `[k]`, channel by channel; `x` itself stays.
    ///
    /// # Panics
    /// When sizes do not fit together.
    pub fn smooth_quantize_rows(self, smoothing: &[f32], x: &[f32], out: &mut QuantizedRows) {
        let k = smoothing.len();
        let out = out.rows_mut(row_count(x.len(), k), k);
        if k > 0 {
            self.run(QuantizeRows { x, k, smoothing, out });
        }
    }

    /// The range of each row of `x` `[m, k]`; `ranges` holds `m` afterwards, none of which include a value when `k` is 0.
    ///
    /// # Panics
    /// When `x` does not hold `m * k` values.
    pub fn row_ranges(self, x: &[f32], m: usize, k: usize, ranges: &mut Vec<RowRange>) {
        assert_eq!(x.len(), m * k, "ranges of {m} rows of {k} values");
        ranges.clear();
        ranges.resize(m, RowRange::default());
        if !x.is_empty() {
            self.run(RowRanges { x, ranges });
        }
    }

    /// Quantizes parts `x` `[m, k]` of rows whose whole ranges are `ranges`, `[m]`: the same bits as these columns of
    /// [`Kernels::quantize_rows`] of the whole rows.
    ///
    /// # Panics
    /// When `x` does not hold a part for each range.
    pub fn quantize_rows_within(self, x: &[f32], k: usize, ranges: &[RowRange], out: &mut QuantizedRows) {
        assert_eq!(x.len(), ranges.len() * k, "parts of {k} values for {} ranges", ranges.len());
        let out = out.rows_mut(ranges.len(), k);
        if k > 0 {
            self.run(QuantizeRowsWithin { x, k, ranges, out });
        }
    }

    /// Quantizes rows `x` `[m, k]` to u8 with parameters found beforehand, as
    /// [`super::affine::quantize_row_u8_static`] defines.
    ///
    /// # Panics
    /// When `x` is no whole number of rows.
    pub fn quantize_rows_static(self, x: &[f32], k: usize, params: QParams, out: &mut QuantizedRows) {
        let out = out.rows_mut(row_count(x.len(), k), k);
        if k > 0 {
            self.run(QuantizeRowsStatic { x, k, smoothing: Plain, params, out });
        }
    }

    /// [`Kernels::quantize_rows_static`] of rows that are multiplied by `smoothing` `[k]`, channel by channel.
    ///
    /// # Panics
    /// When sizes do not fit together.
    pub fn smooth_quantize_rows_static(self, smoothing: &[f32], x: &[f32], params: QParams, out: &mut QuantizedRows) {
        let k = smoothing.len();
        let out = out.rows_mut(row_count(x.len(), k), k);
        if k > 0 {
            self.run(QuantizeRowsStatic { x, k, smoothing, params, out });
        }
    }

    /// [`Kernels::activate`] on rows `x` `[m, k]`, which stay as they are, and [`Kernels::quantize_rows`] of the result.
    ///
    /// # Panics
    /// When `x` is no whole number of rows.
    pub fn activate_quantize(self, activation: Activation, x: &[f32], k: usize, out: &mut QuantizedRows) {
        let mut activated = std::mem::take(&mut out.activated);
        activated.resize(ACTIVATED_ROWS * k);
        let rows = out.rows_mut(row_count(x.len(), k), k);
        if k > 0 {
            self.run(ActivateQuantize { activation, x, k, activated: activated.as_mut_slice(), out: rows });
        }
        out.activated = activated;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::affine::{quantize_row_u8, quantize_row_u8_static};
    use crate::kernels::testing::{EDGE_SIZES, GUARDS, Guarded, Random};

    /// Scale bits, zero point and integers of each row; all NaNs are one.
    fn parts(rows: &QuantizedRows) -> Vec<(u32, i32, Vec<u8>)> {
        let bits = |scale: f32| if scale.is_nan() { f32::NAN.to_bits() } else { scale.to_bits() };
        (0..rows.rows()).map(|i| (bits(rows.scale()[i]), rows.zero_point()[i], rows.row(i).to_vec())).collect()
    }

    fn rows_to_quantize(k: usize) -> Vec<f32> {
        let mut random = Random::new(k as u64 + 1);
        let mut x = random.floats(2 * k, 3.0);
        x.extend(random.wild_floats(k));
        x.extend(random.floats(k, 1.0).iter().map(|x| x + 2.0)); // all above zero
        x.extend(random.floats(k, 1.0).iter().map(|x| x - 2.0)); // all below zero
        x.extend(vec![0.0; k]);
        x.extend((0..k).map(|l| l as f32 - 2.5)); // halves
        x.extend(random.floats(k, 3e38));
        x.extend((0..k).map(|l| if l + 1 == k { f32::NAN } else { 1.0 }));
        x.extend((0..k).map(|l| if l == k / 2 { f32::INFINITY } else { 1.0 }));
        x
    }

    #[test]
    fn quantized_rows_are_what_the_definition_says_on_every_isa() {
        for k in EDGE_SIZES.into_iter().chain([384, 1537]).filter(|&k| k > 0) {
            let x = rows_to_quantize(k);
            let mut expected = QuantizedRows::new();
            let (mut q, mut scale, mut zero_point) = (vec![0u8; x.len()], vec![], vec![]);
            for (row, q) in x.chunks(k).zip(q.chunks_mut(k)) {
                let params = quantize_row_u8(row, q);
                scale.push(params.scale);
                zero_point.push(params.zero_point);
            }
            expected.clone_from(&QuantizedRows::from_parts(&q, &scale, &zero_point, k));
            for kernels in Kernels::available() {
                let mut rows = QuantizedRows::new();
                kernels.quantize_rows(&x, k, &mut rows);
                assert_eq!(parts(&rows), parts(&expected), "{} at k = {k}", kernels.isa());
            }
        }
    }

    #[test]
    fn parts_of_rows_quantized_within_the_ranges_of_the_whole_are_parts_of_the_whole() {
        for k in EDGE_SIZES.into_iter().chain([384]).filter(|&k| k > 0) {
            let x = rows_to_quantize(k);
            let m = x.len() / k;
            for kernels in Kernels::available() {
                let mut whole = QuantizedRows::new();
                kernels.quantize_rows(&x, k, &mut whole);
                let cuts = [0..k / 3, k / 3..k / 3, k / 3..k];
                let columns = cuts.clone().map(|cut| x.chunks(k).flat_map(|row| &row[cut.clone()]).copied().collect());
                let columns: [Vec<f32>; 3] = columns;
                let (mut ranges, mut own) = (vec![RowRange::default(); m], Vec::new());
                for (columns, cut) in columns.iter().zip(&cuts) {
                    kernels.row_ranges(columns, m, cut.len(), &mut own);
                    ranges.iter_mut().zip(&own).for_each(|(all, own)| *all = all.union(*own));
                }
                let mut parts_of_rows = [QuantizedRows::new(), QuantizedRows::new(), QuantizedRows::new()];
                for ((columns, cut), part) in columns.iter().zip(&cuts).zip(&mut parts_of_rows) {
                    kernels.quantize_rows_within(columns, cut.len(), &ranges, part);
                }
                let mut joined = QuantizedRows::with_capacity(1, 7);
                joined.join_columns(parts_of_rows.iter());
                assert_eq!(parts(&joined), parts(&whole), "{} at k = {k}", kernels.isa());
                let halves = [&x[..m / 2 * k], &x[m / 2 * k..]].map(|rows| {
                    let mut half = QuantizedRows::new();
                    kernels.quantize_rows(rows, k, &mut half);
                    half
                });
                joined.join_rows(halves.iter());
                assert_eq!(parts(&joined), parts(&whole), "{} at k = {k}", kernels.isa());
            }
        }
    }

    #[test]
    fn static_rows_are_what_the_definition_says_on_every_isa() {
        let all = [(0.02, 120), (1e-30, 0), (1e30, 255), (f32::MIN_POSITIVE, 7)];
        for (k, (scale, zero_point)) in [1, 16, 70, 385].into_iter().flat_map(|k| all.map(|params| (k, params))) {
            let (x, params) = (rows_to_quantize(k), QParams { scale, zero_point });
            for kernels in Kernels::available() {
                let mut rows = QuantizedRows::new();
                kernels.quantize_rows_static(&x, k, params, &mut rows);
                for (row, found) in x.chunks(k).zip(parts(&rows)) {
                    let mut q = vec![0u8; k];
                    let params = quantize_row_u8_static(row, params, &mut q);
                    let scale = if params.scale.is_nan() { f32::NAN } else { params.scale };
                    assert_eq!(found, (scale.to_bits(), params.zero_point, q), "{} at k = {k}", kernels.isa());
                }
            }
        }
    }

    #[test]
    fn smoothed_rows_are_the_rows_of_what_was_multiplied_on_every_isa() {
        let params = QParams { scale: 0.02, zero_point: 120 };
        for k in EDGE_SIZES.into_iter().chain([384, 1537]).filter(|&k| k > 0) {
            let x = rows_to_quantize(k);
            for guard in GUARDS {
                let smoothing: Vec<f32> = (0..k).map(|l| [0.25, 1.0, 3.7, 0.013, 32.0][l % 5]).collect();
                let multiplied: Vec<f32> = x.iter().zip(smoothing.iter().cycle()).map(|(x, f)| x * f).collect();
                let (x, smoothing) = (Guarded::new(&x, guard), Guarded::new(&smoothing, guard));
                for kernels in Kernels::available() {
                    let (mut rows, mut expected) = (QuantizedRows::new(), QuantizedRows::new());
                    kernels.smooth_quantize_rows(&smoothing, &x, &mut rows);
                    kernels.quantize_rows(&multiplied, k, &mut expected);
                    assert_eq!(parts(&rows), parts(&expected), "{} at k = {k}", kernels.isa());
                    kernels.smooth_quantize_rows_static(&smoothing, &x, params, &mut rows);
                    kernels.quantize_rows_static(&multiplied, k, params, &mut expected);
                    assert_eq!(parts(&rows), parts(&expected), "static, {} at k = {k}", kernels.isa());
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "one factor per channel")]
    fn smoothing_of_another_width_is_refused() {
        let norm = crate::kernels::LayerNorm { gamma: &[1.0; 4], beta: &[0.0; 4], eps: 0.0 };
        Kernels::detect().layer_norm_quantize(norm, &mut [0.0; 4], Some(&[1.0; 3]), &mut QuantizedRows::new());
    }

    #[test]
    fn a_reused_buffer_gives_the_same_rows_and_zero_padding() {
        let kernels = Kernels::detect();
        let mut reused = QuantizedRows::with_capacity(3, 100);
        for k in [100, 7, 33, 5, 64, 1] {
            let x = rows_to_quantize(k);
            kernels.quantize_rows(&x, k, &mut reused);
            let mut fresh = QuantizedRows::new();
            kernels.quantize_rows(&x, k, &mut fresh);
            assert_eq!(parts(&reused), parts(&fresh));
            let (rows, depth) = (reused.as_rows(), k.next_multiple_of(4));
            assert!(rows.bytes.chunks(depth).take(reused.rows()).all(|row| row[k..].iter().all(|&q| q == 0)));
        }
        kernels.quantize_rows(&[], 5, &mut reused);
        assert_eq!(reused.rows(), 0);
    }

    #[test]
    fn activate_quantize_is_activate_then_quantize() {
        for k in EDGE_SIZES.into_iter().chain([1536]).filter(|&k| k > 0) {
            for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
                for kernels in Kernels::available() {
                    let mut x = rows_to_quantize(k);
                    let (mut rows_one, mut rows_two) = (QuantizedRows::new(), QuantizedRows::new());
                    kernels.activate_quantize(activation, &x, k, &mut rows_one);
                    kernels.activate(activation, &mut x);
                    kernels.quantize_rows(&x, k, &mut rows_two);
                    assert_eq!(parts(&rows_one), parts(&rows_two), "{activation:?} on {} at {k}", kernels.isa());
                }
            }
        }
    }

    #[test]
    fn quantization_stays_inside_its_slices() {
        for k in EDGE_SIZES.into_iter().filter(|&k| k > 0) {
            let stride = k.next_multiple_of(4);
            for (guard, m) in GUARDS.into_iter().flat_map(|guard| [(guard, 1), (guard, ROWS + 1)]) {
                for kernels in Kernels::available() {
                    let x = Guarded::new(&vec![1.5f32; m * k], guard);
                    let mut bytes = Guarded::new(&vec![0u8; m * stride], guard);
                    let mut scale = Guarded::new(&vec![0f32; m], guard);
                    let mut zero_point = Guarded::new(&vec![0i32; m], guard);
                    let out = RowsMut { bytes: &mut bytes, scale: &mut scale, zero_point: &mut zero_point, stride };
                    kernels.run(QuantizeRows { x: &x, k, smoothing: Plain, out });
                    let out = RowsMut { bytes: &mut bytes, scale: &mut scale, zero_point: &mut zero_point, stride };
                    let mut ranges = vec![RowRange::default(); m];
                    kernels.run(RowRanges { x: &x, ranges: &mut ranges });
                    kernels.run(QuantizeRowsWithin { x: &x, k, ranges: &ranges, out });
                    let out = RowsMut { bytes: &mut bytes, scale: &mut scale, zero_point: &mut zero_point, stride };
                    let mut activated = Guarded::new(&vec![0f32; ACTIVATED_ROWS * k], guard);
                    let (activation, activated) = (Activation::Gelu, &mut activated[..]);
                    kernels.run(ActivateQuantize { activation, x: &x, k, activated, out });
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "no whole number of rows of 4")]
    fn a_broken_row_is_refused() {
        Kernels::detect().quantize_rows(&[0.0; 6], 4, &mut QuantizedRows::new());
    }
}
