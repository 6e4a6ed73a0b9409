//! The innermost loops of the integer GEMM, one file per instruction set, behind [`Microkernel`].

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx_int8;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512_vnni;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx_vnni;
pub(crate) mod scalar;

use super::gemm::{Panels, Rows, product_of_strips};
use super::isa::Isa;

/// Most rows of a register tile: 6 x 64 sums fill 24 of 32 zmm, 6 x 16 fill 12 of 16 ymm, and the rest holds inputs.
pub(crate) const MAX_ROWS: usize = 6;

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// How weights lie in memory: panels of `columns` output channels, `[n / columns][depth / group][columns][group]`, with
/// `depth` the `k` of the matrix rounded up to a multiple of `step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Output channels of a panel.
    pub columns: usize,
    /// Neighbouring `k` of one channel that lie together: what one multiply instruction sums.
    pub group: usize,
    /// Zero weights pad `k` to a multiple of this.
    pub step: usize,
}

impl Layout {
    /// The layout of the kernel that serves `isa`.
    pub(crate) fn of(isa: Isa) -> Layout {
        match isa {
            Isa::Scalar => scalar::Scalar::LAYOUT,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::Avx2::LAYOUT,
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => avx_vnni::AvxVnni::LAYOUT,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => avx512_vnni::Avx512Vnni::LAYOUT,
            #[cfg(target_arch = "x86_64")]
            Isa::AmxInt8 => amx_int8::AmxInt8::layout(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => scalar::Scalar::LAYOUT,
        }
    }
}

/// Where a strip writes: rows `stride` apart.
#[derive(Clone, Copy)]
pub(crate) enum Out {
    /// The sums `sum over k of (qa - za) qw`.
    Sums(*mut i32),
    /// `fma(sum as f32, row scale * column scale, bias)`.
    Floats(*mut f32),
}

/// Up to [`MAX_ROWS`] rows of activations against up to `columns` neighbouring output channels.
#[derive(Clone, Copy)]
pub(crate) struct Strip {
    /// First activation row: `depth` bytes each, one after another.
    pub rows: *const u8,
    /// Values in a row, `k` rounded up to a multiple of 4.
    pub depth: usize,
    /// Zero point of each row.
    pub zero_point: *const i32,
    /// Scale of each row.
    pub row_scale: *const f32,
    /// First panel; the others follow, `depth * LAYOUT.columns` bytes each.
    pub panels: *const i8,
    /// Weights that are needed soon and worth prefetching; need not be readable.
    pub ahead: *const i8,
    /// How many of their cache lines to prefetch for every 16 values of `k`.
    pub lines_ahead: usize,
    /// Minus the sum over `k` of each channel, for whole panels.
    pub minus_column_sum: *const i32,
    /// Scale of each channel, for whole panels.
    pub column_scale: *const f32,
    /// Bias of each channel, for whole panels.
    pub bias: *const f32,
    /// Channels to write; a last panel may be needed in part.
    pub columns: usize,
    /// First output.
    pub out: Out,
    /// Outputs from one row to the next.
    pub out_stride: usize,
}

impl Strip {
    /// The part of the strip from channel `j`, a multiple of `LAYOUT.columns`, on.
    #[inline(always)]
    pub(crate) fn skip_columns(self, j: usize) -> Strip {
        debug_assert!(j < self.columns);
        // Wrapping additions: the callee's promise about the whole strip makes them stay inside their slices.
        Strip {
            panels: self.panels.wrapping_add(j * self.depth),
            minus_column_sum: self.minus_column_sum.wrapping_add(j),
            column_scale: self.column_scale.wrapping_add(j),
            bias: self.bias.wrapping_add(j),
            columns: self.columns - j,
            out: match self.out {
                Out::Sums(out) => Out::Sums(out.wrapping_add(j)),
                Out::Floats(out) => Out::Floats(out.wrapping_add(j)),
            },
            ..self
        }
    }
}

/// A whole product on one instruction set.
pub(crate) trait Product {
    /// The weight layout it reads.
    fn layout() -> Layout;

    /// Computes all rows and channels; rows of the output begin `stride` values apart.
    ///
    /// # Safety
    /// The CPU has the instruction set; the sizes of rows and panels fit together as their docs say, with
    /// `Panels::depth` a multiple of the layout's step that is readable from the start of each row; the output has room
    /// for all rows and channels.
    unsafe fn product(a: Rows<'_>, w: Panels<'_>, out: Out, stride: usize);
}

impl<K: Microkernel> Product for K {
    fn layout() -> Layout {
        K::LAYOUT
    }

    unsafe fn product(a: Rows<'_>, w: Panels<'_>, out: Out, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { product_of_strips::<K>(a, w, out, stride) };
    }
}

/// A kernel that computes a few rows at a time with their sums in vector registers.
pub(crate) trait Microkernel {
    /// The weight layout it reads.
    const LAYOUT: Layout;

    /// Computes `M` rows of a strip, 1 to [`MAX_ROWS`].
    ///
    /// # Safety
    /// The CPU has the instruction set, and the pointers of the strip are good for what their docs say: `M` rows of
    /// `depth` bytes, `M` zero points and scales, as many whole panels as `columns` needs with their sums, scales and
    /// biases, and `columns` writable outputs in each of `M` rows.
    unsafe fn strip<const M: usize>(strip: &Strip);
}
