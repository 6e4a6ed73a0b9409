//! Which instruction set the kernels run on: asked from the CPU once, or forced by name.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use super::tiles;

/// A full set of CPU features that one family of kernels needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust; runs everywhere.
    Scalar,
    /// AVX2 and FMA: `vpmaddwd` on values widened to 16 bits.
    Avx2,
    /// AVX2, FMA and AVX-VNNI: the VEX-coded 256-bit `vpdpbusd`.
    AvxVnni,
    /// AVX-512 F, BW, VL, DQ and VNNI: the 512-bit `vpdpbusd`.
    Avx512Vnni,
    /// The AVX-512 set and AMX-TILE, AMX-INT8 and AMX-BF16, which the operating system must allow: products of tiles.
    AmxInt8,
}

impl Isa {
    /// All instruction sets, slowest first.
    pub const ALL: [Isa; 5] = [Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512Vnni, Isa::AmxInt8];

    /// The name used in settings, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avx_vnni",
            Isa::Avx512Vnni => "avx512_vnni",
            Isa::AmxInt8 => "amx_int8",
        }
    }

    /// Whether this CPU, under this operating system, has every feature of the set.
    #[cfg(target_arch = "x86_64")]
    fn is_supported(self) -> bool {
        let avx2 = || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        match self {
            Isa::Scalar => true,
            Isa::Avx2 => avx2(),
            Isa::AvxVnni => avx2() && is_x86_feature_detected!("avxvnni"),
            Isa::Avx512Vnni => {
                avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            Isa::AmxInt8 => Isa::Avx512Vnni.is_supported() && tiles::are_available(),
        }
    }

    /// Whether this CPU has every feature of the set.
    #[cfg(not(target_arch = "x86_64"))]
    fn is_supported(self) -> bool {
        self == Isa::Scalar
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no [`Isa`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown instruction set `{found}`, allowed are scalar, avx2, avx_vnni, avx512_vnni and amx_int8")]
pub struct UnknownIsa {
    /// What was given.
    pub found: String,
}

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| UnknownIsa { found: name.to_owned() })
    }
}

/// An instruction set was asked for that this CPU lacks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this CPU cannot run the `{asked}` kernels, it has {}; choose one of these or leave the setting out", list(.available))]
pub struct UnsupportedIsa {
    /// What was asked for.
    pub asked: Isa,
    /// What this CPU has, slowest first.
    pub available: Vec<Isa>,
}

fn list(isas: &[Isa]) -> String {
    isas.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ")
}

/// The kernels of one instruction set. A value proves that this CPU supports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernels {
    isa: Isa,
}

impl Kernels {
    /// The fastest kernels this CPU supports. The CPU is asked once per process.
    pub fn detect() -> Self {
        static BEST: OnceLock<Kernels> = OnceLock::new();
        *BEST.get_or_init(|| {
            let isa = Isa::ALL.into_iter().rev().find(|isa| isa.is_supported()).unwrap_or(Isa::Scalar);
            Kernels { isa }
        })
    }

    /// The kernels of `isa`.
    ///
    /// # Errors
    /// When this CPU lacks a feature of the set.
    pub fn for_isa(isa: Isa) -> Result<Self, UnsupportedIsa> {
        if isa.is_supported() {
            Ok(Kernels { isa })
        } else {
            let available = Self::available().into_iter().map(Kernels::isa).collect();
            Err(UnsupportedIsa { asked: isa, available })
        }
    }

    /// The kernels of every instruction set this CPU supports, slowest first.
    pub fn available() -> Vec<Self> {
        Isa::ALL.into_iter().filter(|isa| isa.is_supported()).map(|isa| Kernels { isa }).collect()
    }

    /// The instruction set of these kernels.
    pub fn isa(self) -> Isa {
        self.isa
    }

    /// Whether `gemm_bf16` can run.
    pub fn has_bf16(self) -> bool {
        self.isa == Isa::AmxInt8
    }

    /// Name of the integer GEMM kernel, for logs and metrics.
    pub fn gemm_name(self) -> &'static str {
        match self.isa {
            Isa::Scalar => "generic-u8i8i32-scalar",
            Isa::Avx2 => "x86_64-u8i8i32-avx2",
            Isa::AvxVnni => "x86_64-u8i8i32-avxvnni",
            Isa::Avx512Vnni => "x86_64-u8i8i32-avx512vnni",
            Isa::AmxInt8 => "x86_64-u8i8i32-amxint8",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_unknown_names_are_refused() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse::<Isa>(), Ok(isa));
        }
        let error = "avx1024".parse::<Isa>().unwrap_err().to_string();
        assert!(error.contains("avx1024") && error.contains("avx512_vnni"), "{error}");
    }

    #[test]
    fn detect_gives_the_last_available() {
        assert_eq!(Some(&Kernels::detect()), Kernels::available().last());
    }

    #[test]
    fn forcing_an_isa_works_when_available_and_else_says_what_there_is() {
        let available = Kernels::available();
        for isa in Isa::ALL {
            match Kernels::for_isa(isa) {
                Ok(kernels) => assert_eq!(kernels.isa(), isa),
                Err(error) => {
                    assert!(available.iter().all(|kernels| kernels.isa() != isa));
                    let text = error.to_string();
                    assert!(text.contains(isa.name()) && text.contains("it has scalar"), "{text}");
                }
            }
        }
    }
}
