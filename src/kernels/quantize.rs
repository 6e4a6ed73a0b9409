//! Rows of f32 activations → u8 with one scale and zero point per row, alone or after another step on the same rows.

use super::activation::{Activation, gelu, gelu_tanh, relu};
use super::affine::QParams;
use super::isa::Kernels;
use super::lanes::{Ints, LANES, LaneKernel, Lanes, groups};
use super::rows::{QuantizedRows, RowsMut, row_count};

/// Rows quantized together, at most: their ranges are found one after the other before the first is quantized, so that
/// none waits for its own.
pub(crate) const ROWS: usize = 4;
/// As many of the long rows of activations, so that they stay in the nearest cache.
const ACTIVATED_ROWS: usize = 2;

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

struct RowRanges<'a, S> {
    x: &'a [f32],
    smoothing: S,
    ranges: &'a mut [RowRange],
}

impl<S: Smoothing> LaneKernel for RowRanges<'_, S> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let k = self.x.len() / self.ranges.len();
        for (row, range) in self.x.chunks_exact(k).zip(self.ranges) {
            let (lo, hi) = range_of::<V>(row, self.smoothing).ends();
            *range = RowRange { lo, hi };
        }
    }
}

struct QuantizeRowsWithin<'a, S> {
    x: &'a [f32],
    k: usize,
    smoothing: S,
    ranges: &'a [RowRange],
    out: RowsMut<'a>,
}

impl<S: Smoothing> LaneKernel for QuantizeRowsWithin<'_, S> {
    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        for (i, (row, range)) in self.x.chunks_exact(self.k).zip(self.ranges).enumerate() {
            let params = QParams::for_range_u8(range.lo, range.hi);
            store_row::<V>(
                row,
                self.smoothing,
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

struct ActivateQuantize<'a, S> {
    activation: Activation,
    x: &'a [f32],
    k: usize,
    smoothing: S,
    /// Room for [`ACTIVATED_ROWS`] rows.
    activated: &'a mut [f32],
    out: RowsMut<'a>,
}

impl<S: Smoothing> ActivateQuantize<'_, S> {
    /// With the activation chosen outside of the loops. Every activation of 0 is 0, so the lanes after the end of a row
    /// leave its range alone.
    #[inline(always)]
    fn rows<V: Lanes>(&mut self, activation: impl Fn(V) -> V) {
        let smoothing = self.smoothing;
        assert!(smoothing.fits(self.k), "smoothing needs one factor per channel");
        for (group, rows) in self.x.chunks(ACTIVATED_ROWS * self.k).enumerate() {
            let activated = &mut self.activated[..rows.len()];
            let mut ranges = [Range::<V>::new(); ACTIVATED_ROWS];
            let pairs = rows.chunks_exact(self.k).zip(activated.chunks_exact_mut(self.k));
            for ((row, activated), range) in pairs.zip(&mut ranges) {
                let (from, to) = (row.as_ptr(), activated.as_mut_ptr());
                groups(
                    self.k,
                    #[inline(always)]
                    // SAFETY: `count` values from `l` on are in both rows, which the smoothing fits.
                    |l, count| unsafe {
                        let y = activation(V::load_first(from.add(l), count, 0.0));
                        y.store_first(to.add(l), count);
                        range.include(smoothing.apply(y, l, count));
                    },
                );
            }
            let count = rows.len() / self.k;
            quantize_group(activated, self.k, smoothing, &ranges[..count], group * ACTIVATED_ROWS, &mut self.out);
        }
    }
}

impl<S: Smoothing> LaneKernel for ActivateQuantize<'_, S> {
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

    /// The range of each row of `x` `[m, k]`, multiplied by `smoothing` `[k]` if there is one; `ranges` holds `m` afterwards,
    /// none of which include a value when `k` is 0.
    ///
    /// # Panics
    /// When sizes do not fit together.
    pub fn row_ranges(self, x: &[f32], m: usize, k: usize, smoothing: Option<&[f32]>, ranges: &mut Vec<RowRange>) {
        assert_eq!(x.len(), m * k, "ranges of {m} rows of {k} values");
        ranges.clear();
        ranges.resize(m, RowRange::default());
        match smoothing {
            _ if x.is_empty() => {}
            None => self.run(RowRanges { x, smoothing: Plain, ranges }),
            Some(smoothing) => self.run(RowRanges { x, smoothing, ranges }),
        }
    }

    /// Quantizes parts `x` `[m, k]` of rows whose whole ranges are `ranges`, `[m]`: the same bits as these columns of the
    /// whole rows, multiplied by `smoothing` `[k]` if there is one.
    ///
    /// # Panics
    /// When sizes do not fit together.
    pub fn quantize_rows_within(
        self,
        x: &[f32],
        k: usize,
        smoothing: Option<&[f32]>,
        ranges: &[RowRange],
        out: &mut QuantizedRows,
    ) {
        assert_eq!(x.len(), ranges.len() * k, "parts of {k} values for {} ranges", ranges.len());
        let out = out.rows_mut(ranges.len(), k);
        match smoothing {
            _ if k == 0 => {}
            None => self.run(QuantizeRowsWithin { x, k, smoothing: Plain, ranges, out }),
            Some(smoothing) => self.run(QuantizeRowsWithin { x, k, smoothing, ranges, out }),
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

    /// [`Kernels::activate`] on rows `x` `[m, k]`, which stay as they are, and [`Kernels::quantize_rows`] of the result,
    /// multiplied by `smoothing` `[k]` if there is one.
    ///
    /// # Panics
    /// When sizes do not fit together.
    pub fn activate_quantize(
        self,
        activation: Activation,
        x: &[f32],
        k: usize,
        smoothing: Option<&[f32]>,
        out: &mut QuantizedRows,
    ) {
        let mut memory = std::mem::take(&mut out.activated);
        memory.resize(ACTIVATED_ROWS * k);
        let activated = memory.as_mut_slice();
        let rows = out.rows_mut(row_count(x.len(), k), k);
        match smoothing {
            _ if k == 0 => {}
            None => self.run(ActivateQuantize { activation, x, k, smoothing: Plain, activated, out: rows }),
            Some(smoothing) => self.run(ActivateQuantize { activation, x, k, smoothing, activated, out: rows }),
        }
        out.activated = memory;
    }
}

#[cfg(test)]
mod tests;
