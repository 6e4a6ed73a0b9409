//! The integer kernel on 512-bit `vpdpbusd`: each adds four `u8 * s8` products to each of 16 i32, exactly.

use std::arch::x86_64::*;

use super::{LINE, Layout, Microkernel, Out, Strip};

/// Tiles of 6 rows by 4 zmm of 16 channels.
pub(crate) struct Avx512Vnni;

/// Registers of a panel row.
const VECTORS: usize = 4;
const NR: usize = 16 * VECTORS;

impl Microkernel for Avx512Vnni {
    const LAYOUT: Layout = Layout { columns: NR, group: 4, step: 4 };

    #[inline]
    unsafe fn strip<const M: usize>(strip: &Strip) {
        for j in (0..strip.columns).step_by(NR) {
            // SAFETY: the caller's promise about the CPU, and about the strip, which covers each of its panels.
            unsafe { tile::<M>(&strip.skip_columns(j)) };
        }
    }
}

/// Values of `k` in one turn of the loop: four instructions for each sum, which share the bookkeeping.
const TURN: usize = 16;

/// `M` rows of the first panel.
///
/// # Safety
/// As [`Microkernel::strip`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile<const M: usize>(strip: &Strip) {
    let mut sums = [[_mm512_setzero_si512(); VECTORS]; M];
    for (i, sums) in sums.iter_mut().enumerate() {
        // SAFETY: `i < M` zero points are readable.
        let zero_point = _mm512_set1_epi32(unsafe { *strip.zero_point.add(i) });
        for (v, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the sums of a whole panel are readable.
            let minus_column_sum = unsafe { _mm512_loadu_si512(strip.minus_column_sum.add(16 * v).cast()) };
            *sum = _mm512_mullo_epi32(zero_point, minus_column_sum);
        }
    }
    let (mut rows, mut panel, mut ahead) = (strip.rows, strip.panels, strip.ahead);
    for _ in 0..strip.depth / TURN {
        for _ in 0..strip.lines_ahead {
            // Prefetching never faults, so the address may lie outside the panels.
            _mm_prefetch::<_MM_HINT_T1>(ahead);
            ahead = ahead.wrapping_add(LINE);
        }
        for l in (0..TURN).step_by(4) {
            // SAFETY: the caller's promise; this turn ends within the rows and the panel.
            unsafe { multiply_add(rows.add(l), strip.depth, panel.add(l * NR), &mut sums) };
        }
        (rows, panel) = (rows.wrapping_add(TURN), panel.wrapping_add(TURN * NR));
    }
    for l in (0..strip.depth % TURN).step_by(4) {
        // SAFETY: as above, for the rest of the rows.
        unsafe { multiply_add(rows.add(l), strip.depth, panel.add(l * NR), &mut sums) };
    }
    // Constant bounds: with others the compiler keeps the sums in memory.
    for v in 0..VECTORS {
        if strip.columns <= 16 * v {
            break;
        }
        let columns = (strip.columns - 16 * v).min(16);
        let mask = ((1u32 << columns) - 1) as __mmask16;
        // SAFETY: scales and biases of a whole panel are readable.
        let (column_scale, bias) =
            unsafe { (_mm512_loadu_ps(strip.column_scale.add(16 * v)), _mm512_loadu_ps(strip.bias.add(16 * v))) };
        for (i, sums) in sums.iter().enumerate() {
            let at = i * strip.out_stride + 16 * v;
            match strip.out {
                // SAFETY: the first `columns` outputs from `at` are writable; masked lanes are not touched in memory.
                Out::Sums(out) => unsafe { _mm512_mask_storeu_epi32(out.add(at), mask, sums[v]) },
                Out::Floats(out) => {
                    // SAFETY: `i < M` scales are readable.
                    let row_scale = _mm512_set1_ps(unsafe { *strip.row_scale.add(i) });
                    let scale = _mm512_mul_ps(row_scale, column_scale);
                    let y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[v]), scale, bias);
                    // SAFETY: as for the sums.
                    unsafe { _mm512_mask_storeu_ps(out.add(at), mask, y) };
                }
            }
        }
    }
}

/// Adds the products of four values of `k` of `M` rows, `stride` bytes apart, and of a panel.
///
/// # Safety
/// The CPU has the instruction set; four bytes of each row and `4 * NR` of the panel are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn multiply_add<const M: usize>(
    rows: *const u8,
    stride: usize,
    panel: *const i8,
    sums: &mut [[__m512i; VECTORS]; M],
) {
    // SAFETY: the caller's promise.
    let w: [__m512i; VECTORS] = std::array::from_fn(|v| unsafe { _mm512_loadu_si512(panel.add(64 * v).cast()) });
    for (i, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let a = _mm512_set1_epi32(unsafe { rows.add(i * stride).cast::<i32>().read_unaligned() });
        for (sum, w) in sums.iter_mut().zip(w) {
            *sum = _mm512_dpbusd_epi32(*sum, a, w);
        }
    }
}
