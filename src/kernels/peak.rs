//! The most multiply-adds a core can do with a kernel's instruction: sums and factors stay in registers, and enough
//! independent sums hide the latency of each.

use super::isa::{Isa, Kernels};
#[cfg(target_arch = "x86_64")]
use super::tiles;

/// Independent sums: more than latency times throughput of every instruction here (8 on Zen 4, 10 on Sapphire Rapids),
/// and few enough for 16 registers.
#[cfg(target_arch = "x86_64")]
const SUMS: usize = 12;

impl Kernels {
    /// What the integer GEMM multiplies with; none for the scalar kernel, where the compiler chooses.
    pub fn multiply_instruction(self) -> Option<&'static str> {
        match self.isa() {
            Isa::Scalar => None,
            Isa::Avx2 => Some("vpmaddwd ymm"),
            Isa::AvxVnni => Some("vpdpbusd ymm"),
            Isa::Avx512Vnni => Some("vpdpbusd zmm"),
            Isa::AmxInt8 => Some("tdpbusd"),
        }
    }

    /// Multiplies and adds integers in registers, `steps` times on each of a dozen sums, as the GEMM would if its
    /// operands cost nothing. Returns the number of multiply-adds done; none for the scalar kernel.
    pub fn multiply_in_registers(self, steps: u32) -> Option<u64> {
        #[cfg(target_arch = "x86_64")]
        {
            let (macs_per_instruction, sum) = match self.isa() {
                Isa::Scalar => return None,
                // SAFETY: `self` proves that the CPU has AVX2.
                Isa::Avx2 => (16, unsafe { x86_64::maddwd_256(steps) }),
                // SAFETY: `self` proves that the CPU has AVX2 and AVX-VNNI.
                Isa::AvxVnni => (32, unsafe { x86_64::dpbusd_256(steps) }),
                // SAFETY: `self` proves that the CPU has AVX-512 F and VNNI.
                Isa::Avx512Vnni => (64, unsafe { x86_64::dpbusd_512(steps) }),
                Isa::AmxInt8 => {
                    // SAFETY: `self` proves that tiles are available.
                    unsafe { tiles::multiply_in_registers(steps) };
                    return Some(u64::from(steps) * 4 * 16 * 16 * 64);
                }
            };
            std::hint::black_box(sum);
            Some(u64::from(steps) * SUMS as u64 * macs_per_instruction)
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = steps;
            None
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::SUMS;

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn dpbusd_512(steps: u32) -> i32 {
        let (a, w) = black_box((_mm512_set1_epi8(3), _mm512_set1_epi8(-2)));
        let mut sums = [_mm512_setzero_si512(); SUMS];
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, w);
            }
        }
        sums.into_iter().fold(0, |total, sum| total ^ _mm512_reduce_add_epi32(sum))
    }

    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) fn dpbusd_256(steps: u32) -> i32 {
        let (a, w) = black_box((_mm256_set1_epi8(3), _mm256_set1_epi8(-2)));
        let mut sums = [_mm256_setzero_si256(); SUMS];
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm256_dpbusd_avx_epi32(*sum, a, w);
            }
        }
        fold(sums)
    }

    /// Without the `vpaddd` that a GEMM also needs: other ports can do it. One factor is the result so far, as with two
    /// fixed ones the product would leave the loop.
    #[target_feature(enable = "avx2")]
    pub(super) fn maddwd_256(steps: u32) -> i32 {
        let a = black_box(_mm256_set1_epi16(3));
        let mut sums = black_box([_mm256_set1_epi16(1); SUMS]);
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm256_madd_epi16(*sum, a);
            }
        }
        fold(sums)
    }

    #[target_feature(enable = "avx2")]
    fn fold(sums: [__m256i; SUMS]) -> i32 {
        sums.into_iter().fold(0, |total, sum| total ^ _mm256_extract_epi32::<0>(sum) ^ _mm256_extract_epi32::<7>(sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_kernels_count_their_multiply_adds_and_the_scalar_one_has_no_peak() {
        for kernels in Kernels::available() {
            let per_step = match kernels.isa() {
                Isa::Scalar => None,
                Isa::Avx2 => Some(12 * 16),
                Isa::AvxVnni => Some(12 * 32),
                Isa::Avx512Vnni => Some(12 * 64),
                Isa::AmxInt8 => Some(4 * 16 * 16 * 64),
            };
            assert_eq!(kernels.multiply_in_registers(1000), per_step.map(|macs| 1000 * macs));
            assert_eq!(kernels.multiply_instruction().is_some(), per_step.is_some());
        }
    }
}
