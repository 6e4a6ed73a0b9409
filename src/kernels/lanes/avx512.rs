//! The lanes in one 512-bit register.

use std::arch::x86_64::*;

use super::{Ints, LANES, LaneKernel, Lanes};

/// Sixteen lanes in a zmm register.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Lanes(__m512);

/// Sixteen i32 lanes in a zmm register.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Ints(__m512i);

/// Runs a kernel compiled for AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")]
pub(crate) fn run(kernel: impl LaneKernel) {
    kernel.run::<Avx512Lanes>();
}

/// An expression of register-only intrinsics.
macro_rules! avx512 {
    ($expression:expr) => {
        // SAFETY: these intrinsics touch registers only and need AVX-512, which the CPU has: `Avx512Lanes` is only
        // used inside `run` (see `Lanes`).
        unsafe { $expression }
    };
}

/// The mask of the first `count` lanes.
#[inline(always)]
fn first(count: usize) -> __mmask16 {
    debug_assert!(count <= LANES);
    ((1u32 << count) - 1) as __mmask16
}

impl Lanes for Avx512Lanes {
    type Ints = Avx512Ints;

    const TILE_GROUPS: usize = 4;
    const BESIDE_TILES: bool = true;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Avx512Lanes(avx512!(_mm512_set1_ps(value)))
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises 16 readable values; for the instruction set see `Lanes`.
        Avx512Lanes(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize, fill: f32) -> Self {
        // SAFETY: the caller promises `count` readable values; masked lanes are not touched in memory.
        Avx512Lanes(unsafe { _mm512_mask_loadu_ps(_mm512_set1_ps(fill), first(count), from) })
    }

    #[inline(always)]
    unsafe fn load_first_i8(from: *const i8, count: usize) -> Self {
        // SAFETY: the caller promises `count` readable values; masked lanes are not touched in memory.
        let q = unsafe { _mm_maskz_loadu_epi8(first(count), from) };
        Avx512Lanes(avx512!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q))))
    }

    #[inline(always)]
    fn prefetch(address: *const i8) {
        // Prefetching never faults, whatever the address.
        avx512!(_mm_prefetch::<_MM_HINT_T0>(address));
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises 16 writable values.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: the caller promises `count` writable values; masked lanes are not touched in memory.
        unsafe { _mm512_mask_storeu_ps(to, first(count), self.0) }
    }

    #[inline(always)]
    unsafe fn store_u8(self, offset: i32, to: *mut u8) {
        // A NaN converts to the smallest i32 and is clamped to 0.
        let q = avx512!({
            let q = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(offset));
            _mm512_cvtusepi32_epi8(_mm512_max_epi32(q, _mm512_setzero_si512()))
        });
        // SAFETY: the caller promises 16 writable bytes.
        unsafe { _mm_storeu_si128(to.cast(), q) }
    }

    #[inline(always)]
    unsafe fn store_64_u8(lanes: [Self; 4], offset: i32, to: *mut u8) {
        // Packing and adding saturate to i16, and packing again to u8; a NaN is the smallest i32. It works within
        // quarters, which hold a0 b0 c0 d0 a1 ... d3 in fours of bytes, and are put back in order.
        let q = avx512!({
            let offset = _mm512_set1_epi16(offset as i16);
            let ab = _mm512_packs_epi32(_mm512_cvtps_epi32(lanes[0].0), _mm512_cvtps_epi32(lanes[1].0));
            let cd = _mm512_packs_epi32(_mm512_cvtps_epi32(lanes[2].0), _mm512_cvtps_epi32(lanes[3].0));
            let bytes = _mm512_packus_epi16(_mm512_adds_epi16(ab, offset), _mm512_adds_epi16(cd, offset));
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_permutexvar_epi32(order, bytes)
        });
        // SAFETY: the caller promises 64 writable bytes.
        unsafe { _mm512_storeu_si512(to.cast(), q) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Avx512Lanes(avx512!(_mm512_add_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Avx512Lanes(avx512!(_mm512_sub_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Avx512Lanes(avx512!(_mm512_mul_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Avx512Lanes(avx512!(_mm512_div_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        Avx512Lanes(avx512!(_mm512_fmadd_ps(self.0, factor.0, addend.0)))
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Avx512Lanes(avx512!(_mm512_min_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Avx512Lanes(avx512!(_mm512_max_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn min_magnitude(self, limit: Self) -> Self {
        const SMALLER_MAGNITUDE: i32 = 0b10;
        const POSITIVE: i32 = 0b1000;
        Avx512Lanes(avx512!(_mm512_range_ps::<{ SMALLER_MAGNITUDE | POSITIVE }>(self.0, limit.0)))
    }

    #[inline(always)]
    fn round(self) -> Self {
        Avx512Lanes(avx512!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)))
    }

    #[inline(always)]
    fn fraction(self) -> Self {
        Avx512Lanes(avx512!(_mm512_reduce_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)))
    }

    #[inline(always)]
    fn mul_exp2(self, n: Self) -> Self {
        Avx512Lanes(avx512!(_mm512_scalef_ps(self.0, n.0)))
    }

    #[inline(always)]
    fn if_below(self, limit: Self, then: Self, otherwise: Self) -> Self {
        Avx512Lanes(avx512!({
            _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, limit.0), otherwise.0, then.0)
        }))
    }

    #[inline(always)]
    fn to_ints(self) -> Avx512Ints {
        Avx512Ints(avx512!(_mm512_cvtps_epi32(self.0)))
    }

    #[inline(always)]
    fn bits(self) -> Avx512Ints {
        Avx512Ints(avx512!(_mm512_castps_si512(self.0)))
    }

    #[inline(always)]
    fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
        let mut pairs = rows;
        for i in (0..LANES).step_by(2) {
            avx512!({
                pairs[i] = Avx512Lanes(_mm512_unpacklo_ps(rows[i].0, rows[i + 1].0));
                pairs[i + 1] = Avx512Lanes(_mm512_unpackhi_ps(rows[i].0, rows[i + 1].0));
            });
        }
        // Quarter `q` of row `4 g + c` becomes column `4 q + c` of rows `4 g` to `4 g + 3`.
        let mut fours = pairs;
        for g in (0..LANES).step_by(4) {
            for half in 0..2 {
                avx512!({
                    let (a, b) = (_mm512_castps_pd(pairs[g + half].0), _mm512_castps_pd(pairs[g + half + 2].0));
                    fours[g + 2 * half] = Avx512Lanes(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)));
                    fours[g + 2 * half + 1] = Avx512Lanes(_mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
                });
            }
        }
        let mut columns = fours;
        for c in 0..4 {
            avx512!({
                let low = _mm512_shuffle_f32x4::<0x44>(fours[c].0, fours[4 + c].0);
                let high = _mm512_shuffle_f32x4::<0xee>(fours[c].0, fours[4 + c].0);
                let next_low = _mm512_shuffle_f32x4::<0x44>(fours[8 + c].0, fours[12 + c].0);
                let next_high = _mm512_shuffle_f32x4::<0xee>(fours[8 + c].0, fours[12 + c].0);
                columns[c] = Avx512Lanes(_mm512_shuffle_f32x4::<0x88>(low, next_low));
                columns[4 + c] = Avx512Lanes(_mm512_shuffle_f32x4::<0xdd>(low, next_low));
                columns[8 + c] = Avx512Lanes(_mm512_shuffle_f32x4::<0x88>(high, next_high));
                columns[12 + c] = Avx512Lanes(_mm512_shuffle_f32x4::<0xdd>(high, next_high));
            });
        }
        columns
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        avx512!({
            let (a, b) = (_mm512_extractf32x4_ps::<0>(self.0), _mm512_extractf32x4_ps::<1>(self.0));
            let (c, d) = (_mm512_extractf32x4_ps::<2>(self.0), _mm512_extractf32x4_ps::<3>(self.0));
            let four = _mm_add_ps(_mm_add_ps(a, c), _mm_add_ps(b, d));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ps(two, _mm_shuffle_ps::<1>(two, two)))
        })
    }
}

impl Ints for Avx512Ints {
    type Floats = Avx512Lanes;

    #[inline(always)]
    fn splat(value: i32) -> Self {
        Avx512Ints(avx512!(_mm512_set1_epi32(value)))
    }

    #[inline(always)]
    unsafe fn load(from: *const i32) -> Self {
        // SAFETY: the caller promises 16 readable values; for the instruction set see `Lanes`.
        Avx512Ints(unsafe { _mm512_loadu_si512(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        // SAFETY: the caller promises 16 writable values.
        unsafe { _mm512_storeu_si512(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn store_i16(self, to: *mut i16) {
        // SAFETY: the caller promises 16 writable values.
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(self.0)) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Avx512Ints(avx512!(_mm512_add_epi32(self.0, other.0)))
    }

    #[inline(always)]
    fn and(self, other: Self) -> Self {
        Avx512Ints(avx512!(_mm512_and_si512(self.0, other.0)))
    }

    #[inline(always)]
    fn select(self, ones: Self, zeros: Self) -> Self {
        const CHOOSE: i32 = 0xca;
        Avx512Ints(avx512!(_mm512_ternarylogic_epi32::<CHOOSE>(self.0, ones.0, zeros.0)))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Avx512Ints(avx512!(_mm512_max_epi32(self.0, other.0)))
    }

    #[inline(always)]
    fn max_unsigned(self, other: Self) -> Self {
        Avx512Ints(avx512!(_mm512_max_epu32(self.0, other.0)))
    }

    #[inline(always)]
    fn shift_left<const N: u32>(self) -> Self {
        Avx512Ints(avx512!(_mm512_slli_epi32::<N>(self.0)))
    }

    #[inline(always)]
    fn shift_right<const N: u32>(self) -> Self {
        Avx512Ints(avx512!(_mm512_srli_epi32::<N>(self.0)))
    }

    #[inline(always)]
    fn pair(self, high: Self) -> Self {
        Self::splat(0xffff).select(self, high.shift_left::<16>())
    }

    #[inline(always)]
    fn dot_pairs(self, a: Self, b: Self) -> Self {
        Avx512Ints(avx512!(_mm512_dpwssd_epi32(self.0, a.0, b.0)))
    }

    #[inline(always)]
    fn to_floats(self) -> Avx512Lanes {
        Avx512Lanes(avx512!(_mm512_cvtepi32_ps(self.0)))
    }

    #[inline(always)]
    fn bits_to_floats(self) -> Avx512Lanes {
        Avx512Lanes(avx512!(_mm512_castsi512_ps(self.0)))
    }

    #[inline(always)]
    fn max_lane(self) -> i32 {
        avx512!(_mm512_reduce_max_epi32(self.0))
    }

    #[inline(always)]
    fn max_unsigned_lane(self) -> u32 {
        avx512!(_mm512_reduce_max_epu32(self.0))
    }
}
