//! The integer kernel on 256-bit `vpdpbusd`, in its VEX coding (AVX-VNNI: CPUs without AVX-512).

use std::arch::x86_64::*;

use super::{Layout, Microkernel, Out, Strip};

/// Registers of a panel row.
const VECTORS: usize = 2;
const NR: usize = 8 * VECTORS;

/// Adds the 256-bit kernel on one coding of `vpdpbusd`.
macro_rules! dpbusd_256 {
    ($(#[$doc:meta])* $name:ident, $features:literal, $dpbusd:path) => {
        $(#[$doc])*
        pub(crate) struct $name;

        impl Microkernel for $name {
            const LAYOUT: Layout = Layout { columns: NR, group: 4, step: 4 };

            #[inline]
            unsafe fn strip<const M: usize>(strip: &Strip) {
                /// `M` rows of the first panel.
                ///
                /// # Safety
                /// As [`Microkernel::strip`].
                #[target_feature(enable = $features)]
                unsafe fn tile<const M: usize>(strip: &Strip) {
                    let mut sums = [[_mm256_setzero_si256(); VECTORS]; M];
                    for (i, sums) in sums.iter_mut().enumerate() {
                        // SAFETY: `i < M` zero points are readable.
                        let zero_point = _mm256_set1_epi32(unsafe { *strip.zero_point.add(i) });
                        for (v, sum) in sums.iter_mut().enumerate() {
                            // SAFETY: the sums of a whole panel are readable.
                            let minus = unsafe { _mm256_loadu_si256(strip.minus_column_sum.add(8 * v).cast()) };
                            *sum = _mm256_mullo_epi32(zero_point, minus);
                        }
                    }
                    for l in (0..strip.depth).step_by(4) {
                        // SAFETY: group `l / 4` of the panel is `4 * NR` readable bytes.
                        let w: [__m256i; VECTORS] = std::array::from_fn(|v| unsafe {
                            _mm256_loadu_si256(strip.panels.add(l * NR + 32 * v).cast())
                        });
                        for (i, sums) in sums.iter_mut().enumerate() {
                            // SAFETY: `l + 4 <= depth`, and `i < M` rows of `depth` bytes are readable.
                            let a = unsafe { strip.rows.add(i * strip.depth + l).cast::<i32>().read_unaligned() };
                            let a = _mm256_set1_epi32(a);
                            for (sum, w) in sums.iter_mut().zip(w) {
                                *sum = $dpbusd(*sum, a, w);
                            }
                        }
                    }
                    // SAFETY: the caller's promise about the strip.
                    unsafe { finish_256(strip, &sums) };
                }

                for j in (0..strip.columns).step_by(NR) {
                    // SAFETY: the caller's promise about the CPU, and about the strip, which covers its panels.
                    unsafe { tile::<M>(&strip.skip_columns(j)) };
                }
            }
        }
    };
}

dpbusd_256! {
    /// Tiles of 6 rows by 2 ymm of 8 channels.
    AvxVnni, "avx2,fma,avxvnni", _mm256_dpbusd_avx_epi32
}

#[cfg(test)]
dpbusd_256! {
    /// The same kernel on the EVEX coding, so that its logic is tested on CPUs with AVX-512 but without AVX-VNNI.
    Avx512Vnni256, "avx2,fma,avx512vl,avx512vnni", _mm256_dpbusd_epi32
}

/// Writes the sums of a tile of 16 channels, scaled when floats are wanted.
///
/// # Safety
/// As [`Microkernel::strip`], for one panel.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn finish_256<const M: usize>(strip: &Strip, sums: &[[__m256i; 2]; M]) {
    // Constant bounds: with others the compiler keeps the sums in memory.
    for v in 0..2 {
        if strip.columns <= 8 * v {
            break;
        }
        let columns = strip.columns - 8 * v;
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(columns.min(8) as i32), lanes);
        // SAFETY: scales and biases of a whole panel are readable.
        let (column_scale, bias) =
            unsafe { (_mm256_loadu_ps(strip.column_scale.add(8 * v)), _mm256_loadu_ps(strip.bias.add(8 * v))) };
        for (i, sums) in sums.iter().enumerate() {
            let at = i * strip.out_stride + 8 * v;
            match strip.out {
                // SAFETY: the first `columns` outputs from `at` are writable; masked lanes are not touched in memory.
                Out::Sums(out) => unsafe { _mm256_maskstore_epi32(out.add(at), mask, sums[v]) },
                Out::Floats(out) => {
                    // SAFETY: `i < M` scales are readable.
                    let row_scale = _mm256_set1_ps(unsafe { *strip.row_scale.add(i) });
                    let scale = _mm256_mul_ps(row_scale, column_scale);
                    let y = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[v]), scale, bias);
                    if columns >= 8 {
                        // SAFETY: all eight outputs from `at` are writable.
                        unsafe { _mm256_storeu_ps(out.add(at), y) };
                    } else {
                        // SAFETY: as for the sums.
                        unsafe { _mm256_maskstore_ps(out.add(at), mask, y) };
                    }
                }
            }
        }
    }
}
