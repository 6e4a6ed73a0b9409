//! The lanes in two 256-bit registers.

use std::arch::x86_64::*;

use super::{Ints, LANES, LaneKernel, Lanes};

/// Sixteen lanes in two ymm registers: 0..8 and 8..16.
#[derive(Clone, Copy)]
pub(crate) struct Avx2Lanes(__m256, __m256);

/// Sixteen i32 lanes in two ymm registers: 0..8 and 8..16.
#[derive(Clone, Copy)]
pub(crate) struct Avx2Ints(__m256i, __m256i);

/// Runs a kernel compiled for AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn run(kernel: impl LaneKernel) {
    kernel.run::<Avx2Lanes>();
}

/// An expression of register-only intrinsics.
macro_rules! avx2 {
    ($expression:expr) => {
        // SAFETY: these intrinsics touch registers only and need AVX2 or FMA, which the CPU has: `Avx2Lanes` is only
        // used inside `run` (see `Lanes`).
        unsafe { $expression }
    };
}

/// The masks of the first `count` of 16 lanes: all ones in the lanes that count.
#[inline(always)]
fn first(count: usize) -> (__m256i, __m256i) {
    debug_assert!(count <= LANES);
    avx2!({
        let count = _mm256_set1_epi32(count as i32);
        let low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let high = _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15);
        (_mm256_cmpgt_epi32(count, low), _mm256_cmpgt_epi32(count, high))
    })
}

#[inline(always)]
fn fold_ints(lanes: __m256i, f: impl Fn(__m128i, __m128i) -> __m128i) -> i32 {
    avx2!({
        let four = f(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256::<1>(lanes));
        let two = f(four, _mm_shuffle_epi32::<0b11_10_11_10>(four));
        _mm_cvtsi128_si32(f(two, _mm_shuffle_epi32::<0b01_01_01_01>(two)))
    })
}

/// Transposes an 8 x 8 block.
#[inline(always)]
fn transpose_8x8(rows: [__m256; 8]) -> [__m256; 8] {
    let mut pairs = rows;
    for i in (0..8).step_by(2) {
        pairs[i] = avx2!(_mm256_unpacklo_ps(rows[i], rows[i + 1]));
        pairs[i + 1] = avx2!(_mm256_unpackhi_ps(rows[i], rows[i + 1]));
    }
    // Half `h` of row `4 g + c` becomes column `4 h + c` of rows `4 g` to `4 g + 3`.
    let mut fours = pairs;
    for g in [0, 4] {
        for half in 0..2 {
            avx2!({
                let (a, b) = (_mm256_castps_pd(pairs[g + half]), _mm256_castps_pd(pairs[g + half + 2]));
                fours[g + 2 * half] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
                fours[g + 2 * half + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
            });
        }
    }
    let mut columns = fours;
    for c in 0..4 {
        columns[c] = avx2!(_mm256_permute2f128_ps::<0x20>(fours[c], fours[4 + c]));
        columns[4 + c] = avx2!(_mm256_permute2f128_ps::<0x31>(fours[c], fours[4 + c]));
    }
    columns
}

impl Lanes for Avx2Lanes {
    type Ints = Avx2Ints;

    const TILE_GROUPS: usize = 1;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        let value = avx2!(_mm256_set1_ps(value));
        Avx2Lanes(value, value)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises 16 readable values; for the instruction set see `Lanes`.
        unsafe { Avx2Lanes(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize, fill: f32) -> Self {
        let (low, high) = first(count);
        let fill = avx2!(_mm256_set1_ps(fill));
        // SAFETY: the caller promises `count` readable values; masked lanes are not touched in memory, and the
        // address of the upper eight is only computed, wrapping, when none of them counts.
        unsafe {
            let a = _mm256_maskload_ps(from, low);
            let b = _mm256_maskload_ps(from.wrapping_add(8), high);
            Avx2Lanes(
                _mm256_blendv_ps(fill, a, _mm256_castsi256_ps(low)),
                _mm256_blendv_ps(fill, b, _mm256_castsi256_ps(high)),
            )
        }
    }

    #[inline(always)]
    unsafe fn load_first_i8(from: *const i8, count: usize) -> Self {
        let mut q = [0i8; LANES];
        let from = if count == LANES {
            from
        } else {
            // SAFETY: the caller promises `count` readable values, and `count` is at most 16.
            unsafe { std::ptr::copy_nonoverlapping(from, q.as_mut_ptr(), count) };
            q.as_ptr()
        };
        // SAFETY: 16 values are readable there; for the instruction set see `Lanes`.
        unsafe {
            let q = _mm_loadu_si128(from.cast());
            let (low, high) = (_mm256_cvtepi8_epi32(q), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(q)));
            Avx2Lanes(_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high))
        }
    }

    #[inline(always)]
    fn prefetch(address: *const i8) {
        // Prefetching never faults, whatever the address.
        avx2!(_mm_prefetch::<_MM_HINT_T0>(address));
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises 16 writable values.
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        let (low, high) = first(count);
        // SAFETY: the caller promises `count` writable values; masked lanes are not touched in memory, and the
        // address of the upper eight is only computed, wrapping, when none of them counts.
        unsafe {
            _mm256_maskstore_ps(to, low, self.0);
            _mm256_maskstore_ps(to.wrapping_add(8), high, self.1);
        }
    }

    #[inline(always)]
    unsafe fn store_u8(self, offset: i32, to: *mut u8) {
        // A NaN converts to the smallest i32 and is clamped to 0: packing and adding saturate to i16, packing again to
        // u8.
        let q = avx2!({
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(self.0), _mm256_cvtps_epi32(self.1));
            let words = _mm256_adds_epi16(words, _mm256_set1_epi16(offset as i16));
            // Packs within 128-bit halves: quarters a0 b0 a1 b1, put back in order.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words))
        });
        // SAFETY: the caller promises 16 writable bytes.
        unsafe { _mm_storeu_si128(to.cast(), q) }
    }

    #[inline(always)]
    unsafe fn store_64_u8(lanes: [Self; 4], offset: i32, to: *mut u8) {
        for (i, lanes) in lanes.iter().enumerate() {
            // SAFETY: the caller promises 64 writable bytes.
            unsafe { lanes.store_u8(offset, to.add(i * LANES)) };
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        avx2!(Avx2Lanes(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)))
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        avx2!(Avx2Lanes(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        avx2!(Avx2Lanes(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)))
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        avx2!(Avx2Lanes(_mm256_div_ps(self.0, other.0), _mm256_div_ps(self.1, other.1)))
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        avx2!(Avx2Lanes(_mm256_fmadd_ps(self.0, factor.0, addend.0), _mm256_fmadd_ps(self.1, factor.1, addend.1)))
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        avx2!(Avx2Lanes(_mm256_min_ps(self.0, other.0), _mm256_min_ps(self.1, other.1)))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        avx2!(Avx2Lanes(_mm256_max_ps(self.0, other.0), _mm256_max_ps(self.1, other.1)))
    }

    #[inline(always)]
    fn min_magnitude(self, limit: Self) -> Self {
        avx2!({
            let sign = _mm256_set1_ps(-0.0);
            let (a, b) = (_mm256_andnot_ps(sign, self.0), _mm256_andnot_ps(sign, self.1));
            Avx2Lanes(_mm256_min_ps(a, limit.0), _mm256_min_ps(b, limit.1))
        })
    }

    #[inline(always)]
    fn round(self) -> Self {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        avx2!(Avx2Lanes(_mm256_round_ps::<NEAREST>(self.0), _mm256_round_ps::<NEAREST>(self.1)))
    }

    #[inline(always)]
    fn mul_exp2(self, n: Self) -> Self {
        let power = avx2!({
            let bias = _mm256_set1_epi32(127);
            let a = _mm256_add_epi32(_mm256_cvtps_epi32(n.0), bias);
            let b = _mm256_add_epi32(_mm256_cvtps_epi32(n.1), bias);
            Avx2Lanes(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(a)), _mm256_castsi256_ps(_mm256_slli_epi32::<23>(b)))
        });
        self.mul(power)
    }

    #[inline(always)]
    fn if_below(self, limit: Self, then: Self, otherwise: Self) -> Self {
        avx2!({
            let a = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, limit.0);
            let b = _mm256_cmp_ps::<_CMP_LT_OQ>(self.1, limit.1);
            Avx2Lanes(_mm256_blendv_ps(otherwise.0, then.0, a), _mm256_blendv_ps(otherwise.1, then.1, b))
        })
    }

    #[inline(always)]
    fn to_ints(self) -> Avx2Ints {
        avx2!(Avx2Ints(_mm256_cvtps_epi32(self.0), _mm256_cvtps_epi32(self.1)))
    }

    #[inline(always)]
    fn bits(self) -> Avx2Ints {
        avx2!(Avx2Ints(_mm256_castps_si256(self.0), _mm256_castps_si256(self.1)))
    }

    #[inline(always)]
    fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
        let mut columns = rows;
        let (mut top_left, mut top_right) = ([avx2!(_mm256_setzero_ps()); 8], [avx2!(_mm256_setzero_ps()); 8]);
        let (mut bottom_left, mut bottom_right) = (top_left, top_right);
        for i in 0..8 {
            (top_left[i], top_right[i]) = (rows[i].0, rows[i].1);
            (bottom_left[i], bottom_right[i]) = (rows[8 + i].0, rows[8 + i].1);
        }
        let (top_left, top_right) = (transpose_8x8(top_left), transpose_8x8(top_right));
        let (bottom_left, bottom_right) = (transpose_8x8(bottom_left), transpose_8x8(bottom_right));
        for i in 0..8 {
            columns[i] = Avx2Lanes(top_left[i], bottom_left[i]);
            columns[8 + i] = Avx2Lanes(top_right[i], bottom_right[i]);
        }
        columns
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        avx2!({
            let (a, b) = (_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let (c, d) = (_mm256_castps256_ps128(self.1), _mm256_extractf128_ps::<1>(self.1));
            let four = _mm_add_ps(_mm_add_ps(a, c), _mm_add_ps(b, d));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ps(two, _mm_shuffle_ps::<1>(two, two)))
        })
    }
}

impl Ints for Avx2Ints {
    type Floats = Avx2Lanes;

    #[inline(always)]
    fn splat(value: i32) -> Self {
        let value = avx2!(_mm256_set1_epi32(value));
        Avx2Ints(value, value)
    }

    #[inline(always)]
    unsafe fn load(from: *const i32) -> Self {
        // SAFETY: the caller promises 16 readable values; for the instruction set see `Lanes`.
        unsafe { Avx2Ints(_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(8).cast())) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        // SAFETY: the caller promises 16 writable values.
        unsafe {
            _mm256_storeu_si256(to.cast(), self.0);
            _mm256_storeu_si256(to.add(8).cast(), self.1);
        }
    }

    #[inline(always)]
    unsafe fn store_i16(self, to: *mut i16) {
        // Packs within 128-bit halves: quarters a0 b0 a1 b1, put back in order. Saturation never happens.
        let words = avx2!(_mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(self.0, self.1)));
        // SAFETY: the caller promises 16 writable values.
        unsafe { _mm256_storeu_si256(to.cast(), words) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        avx2!(Avx2Ints(_mm256_add_epi32(self.0, other.0), _mm256_add_epi32(self.1, other.1)))
    }

    #[inline(always)]
    fn and(self, other: Self) -> Self {
        avx2!(Avx2Ints(_mm256_and_si256(self.0, other.0), _mm256_and_si256(self.1, other.1)))
    }

    #[inline(always)]
    fn select(self, ones: Self, zeros: Self) -> Self {
        avx2!(Avx2Ints(
            _mm256_or_si256(_mm256_and_si256(self.0, ones.0), _mm256_andnot_si256(self.0, zeros.0)),
            _mm256_or_si256(_mm256_and_si256(self.1, ones.1), _mm256_andnot_si256(self.1, zeros.1)),
        ))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        avx2!(Avx2Ints(_mm256_max_epi32(self.0, other.0), _mm256_max_epi32(self.1, other.1)))
    }

    #[inline(always)]
    fn max_unsigned(self, other: Self) -> Self {
        avx2!(Avx2Ints(_mm256_max_epu32(self.0, other.0), _mm256_max_epu32(self.1, other.1)))
    }

    #[inline(always)]
    fn shift_left<const N: u32>(self) -> Self {
        let count = avx2!(_mm_cvtsi32_si128(N as i32));
        avx2!(Avx2Ints(_mm256_sll_epi32(self.0, count), _mm256_sll_epi32(self.1, count)))
    }

    #[inline(always)]
    fn shift_right<const N: u32>(self) -> Self {
        let count = avx2!(_mm_cvtsi32_si128(N as i32));
        avx2!(Avx2Ints(_mm256_srl_epi32(self.0, count), _mm256_srl_epi32(self.1, count)))
    }

    #[inline(always)]
    fn pair(self, high: Self) -> Self {
        avx2!(Avx2Ints(
            _mm256_blend_epi16::<0xaa>(self.0, _mm256_slli_epi32::<16>(high.0)),
            _mm256_blend_epi16::<0xaa>(self.1, _mm256_slli_epi32::<16>(high.1)),
        ))
    }

    #[inline(always)]
    fn dot_pairs(self, a: Self, b: Self) -> Self {
        avx2!(Avx2Ints(
            _mm256_add_epi32(self.0, _mm256_madd_epi16(a.0, b.0)),
            _mm256_add_epi32(self.1, _mm256_madd_epi16(a.1, b.1)),
        ))
    }

    #[inline(always)]
    fn to_floats(self) -> Avx2Lanes {
        avx2!(Avx2Lanes(_mm256_cvtepi32_ps(self.0), _mm256_cvtepi32_ps(self.1)))
    }

    #[inline(always)]
    fn bits_to_floats(self) -> Avx2Lanes {
        avx2!(Avx2Lanes(_mm256_castsi256_ps(self.0), _mm256_castsi256_ps(self.1)))
    }

    #[inline(always)]
    fn max_lane(self) -> i32 {
        fold_ints(avx2!(_mm256_max_epi32(self.0, self.1)), |a, b| avx2!(_mm_max_epi32(a, b)))
    }

    #[inline(always)]
    fn max_unsigned_lane(self) -> u32 {
        fold_ints(avx2!(_mm256_max_epu32(self.0, self.1)), |a, b| avx2!(_mm_max_epu32(a, b))) as u32
    }
}
