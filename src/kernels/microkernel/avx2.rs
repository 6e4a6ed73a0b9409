//! The integer kernel on AVX2: both sides widened to 16 bits, then `vpmaddwd`, which adds two exact products.
//!
//! `vpmaddubsw` would multiply twice as many, but saturates: 2 * 255 * 127 does not fit i16.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::avx_vnni::finish_256;
use super::{Layout, MAX_ROWS, Microkernel, Strip};

/// Tiles of 6 rows by 2 ymm of 8 channels.
pub(crate) struct Avx2;

/// Registers of a panel row.
const VECTORS: usize = 2;
const NR: usize = 8 * VECTORS;
/// Values of a row that are widened at a time; longer rows are widened again for each panel.
const WIDE: usize = 4096;

/// From one widened row to the next: one cache line more, so that the rows do not compete for the same cache sets.
const WIDE_STRIDE: usize = WIDE + 32;

/// Rows of activations widened to i16.
#[repr(C, align(64))]
struct WideRows(MaybeUninit<[[i16; WIDE_STRIDE]; MAX_ROWS]>);

impl Microkernel for Avx2 {
    const LAYOUT: Layout = Layout { columns: NR, group: 2, step: 4 };

    #[inline]
    unsafe fn strip<const M: usize>(strip: &Strip) {
        // SAFETY: the caller's promise.
        unsafe { strip_avx2::<M>(strip) };
    }
}

/// # Safety
/// As [`Microkernel::strip`].
#[target_feature(enable = "avx2,fma")]
unsafe fn strip_avx2<const M: usize>(strip: &Strip) {
    let mut wide = WideRows(MaybeUninit::uninit());
    let wide = wide.0.as_mut_ptr().cast::<i16>();
    let fits = strip.depth <= WIDE;
    if fits {
        // SAFETY: `M` rows of `depth` bytes are readable, and `wide` holds `MAX_ROWS >= M` rows of `WIDE >= depth`.
        unsafe { widen::<M>(strip, 0, strip.depth, wide) };
    }
    for j in (0..strip.columns).step_by(NR) {
        let strip = strip.skip_columns(j);
        let mut sums = [[_mm256_setzero_si256(); VECTORS]; M];
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `i < M` zero points are readable.
            let zero_point = _mm256_set1_epi32(unsafe { *strip.zero_point.add(i) });
            for (v, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the sums of a whole panel are readable.
                let minus_column_sum = unsafe { _mm256_loadu_si256(strip.minus_column_sum.add(8 * v).cast()) };
                *sum = _mm256_mullo_epi32(zero_point, minus_column_sum);
            }
        }
        for start in (0..strip.depth).step_by(WIDE) {
            let count = (strip.depth - start).min(WIDE);
            if !fits {
                // SAFETY: as above, with `count <= WIDE`.
                unsafe { widen::<M>(&strip, start, count, wide) };
            }
            for l in (0..count).step_by(2) {
                // SAFETY: group `(start + l) / 2` of the panel is `2 * NR` readable bytes.
                let w: [__m256i; VECTORS] = std::array::from_fn(|v| unsafe {
                    _mm256_cvtepi8_epi16(_mm_loadu_si128(strip.panels.add((start + l) * NR + 16 * v).cast()))
                });
                for (i, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: `widen` wrote `count` values of each of `M` rows, and `l + 2 <= count`.
                    let a = _mm256_set1_epi32(unsafe { wide.add(i * WIDE_STRIDE + l).cast::<i32>().read() });
                    for (sum, w) in sums.iter_mut().zip(w) {
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(a, w));
                    }
                }
            }
        }
        // SAFETY: the caller's promise about the strip.
        unsafe { finish_256(&strip, &sums) };
    }
}

/// Widens `count` values from `start` on of each row into rows [`WIDE_STRIDE`] apart.
///
/// # Safety
/// `M` rows of at least `start + count` bytes are readable, and `wide` has room for `M` rows of `count <= WIDE`.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn widen<const M: usize>(strip: &Strip, start: usize, count: usize, wide: *mut i16) {
    for i in 0..M {
        let (from, to) = (strip.rows.wrapping_add(i * strip.depth + start), wide.wrapping_add(i * WIDE_STRIDE));
        let whole = count / 16 * 16;
        for l in (0..whole).step_by(16) {
            // SAFETY: `l + 16 <= count`.
            unsafe {
                let bytes = _mm_loadu_si128(from.add(l).cast());
                _mm256_storeu_si256(to.add(l).cast(), _mm256_cvtepu8_epi16(bytes));
            }
        }
        for l in whole..count {
            // SAFETY: `l < count`.
            unsafe { to.add(l).write(i16::from(*from.add(l))) };
        }
    }
}
