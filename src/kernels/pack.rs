//! Weights laid out for the microkernels, and memory aligned for them.

use std::ops::Range;

use super::arena::{Arena, Stored};
use super::gemm::Panels;
use super::isa::{Isa, Kernels};
use super::microkernel::Layout;

/// One cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Plain numbers, of which every byte pattern is one, that [`AlignedVec`] may hold.
pub trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for i8 {}
impl Plain for i16 {}
impl Plain for i32 {}
impl Plain for f32 {}

/// A growable buffer of plain numbers that starts on a cache line; new elements are 0.
#[derive(Clone, Debug)]
pub struct AlignedVec<T: Plain> {
    lines: Vec<Line>,
    len: usize,
    item: std::marker::PhantomData<T>,
}

impl<T: Plain> Default for AlignedVec<T> {
    fn default() -> Self {
        AlignedVec { lines: Vec::new(), len: 0, item: std::marker::PhantomData }
    }
}

impl<T: Plain> AlignedVec<T> {
    /// A buffer of `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        let mut buffer = Self::default();
        buffer.resize(len);
        buffer
    }

    /// Changes the length. Memory only grows; elements that were there before keep some earlier value.
    pub fn resize(&mut self, len: usize) {
        let lines = (len * size_of::<T>()).div_ceil(size_of::<Line>());
        if lines > self.lines.len() {
            self.lines.resize(lines, Line([0; 64]));
        }
        self.len = len;
    }

    /// The elements.
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: `lines` holds at least `len` elements of initialized bytes (`resize`), aligned to 64, and every
        // byte pattern is a value of a `Plain` type.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    /// The elements.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`; the borrow of `self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// Longest row for which no sum of `u8 * s8` products can leave i32: `255 * 128 * 65536 < 2^31`.
pub const MAX_K: usize = 65_536;

/// A weight matrix `[n, k]` in the layout of one instruction set, with what the epilogue needs.
#[derive(Clone, Debug)]
pub struct PackedWeights {
    isa: Isa,
    n: usize,
    k: usize,
    panels: Place,
    scale: AlignedVec<f32>,
    bias: AlignedVec<f32>,
    minus_column_sum: AlignedVec<i32>,
}

/// Where panels lie.
#[derive(Clone, Debug)]
enum Place {
    Own(AlignedVec<i8>),
    Arena(Stored),
}

/// Lays `weight` `[n, k]` out in panels, padding channels and `k` with zeros.
pub(crate) fn pack_panels(weight: &[i8], n: usize, k: usize, layout: Layout) -> AlignedVec<i8> {
    let Layout { columns, group, step } = layout;
    let depth = k.next_multiple_of(step);
    let mut panels = AlignedVec::zeroed(n.next_multiple_of(columns) * depth);
    for (panel, rows) in panels.as_mut_slice().chunks_exact_mut((columns * depth).max(1)).zip(0..) {
        for column in 0..columns.min(n - rows * columns) {
            let row = &weight[(rows * columns + column) * k..][..k];
            for (values, at) in row.chunks(group).zip((column * group..).step_by(columns * group)) {
                panel[at..][..values.len()].copy_from_slice(values);
            }
        }
    }
    panels
}

impl PackedWeights {
    /// Packs `weight` `[n, k]` (row-major, one row per output channel) with the scale of each channel `[n]` and its
    /// bias `[n]`, for the instruction set of `kernels`.
    ///
    /// # Panics
    /// When the lengths do not fit together or `k` is above [`MAX_K`].
    pub fn pack(
        kernels: Kernels,
        weight: &[i8],
        scale: &[f32],
        bias: Option<&[f32]>,
        n: usize,
        k: usize,
    ) -> PackedWeights {
        assert_eq!(weight.len(), n * k, "a packed weight needs n * k values");
        assert_eq!(scale.len(), n, "a packed weight needs one scale per output channel");
        assert!(bias.is_none_or(|bias| bias.len() == n), "a packed weight needs one bias per output channel, or none");
        assert!(k <= MAX_K, "rows of {k} values could leave i32, the longest allowed is {MAX_K}");
        let layout = Layout::of(kernels.isa());
        let padded_n = n.next_multiple_of(layout.columns);
        let mut padded_scale = AlignedVec::zeroed(padded_n);
        padded_scale.as_mut_slice()[..n].copy_from_slice(scale);
        let mut padded_bias = AlignedVec::zeroed(padded_n);
        if let Some(bias) = bias {
            padded_bias.as_mut_slice()[..n].copy_from_slice(bias);
        }
        let mut minus_column_sum = AlignedVec::zeroed(padded_n);
        for (j, minus_sum) in minus_column_sum.as_mut_slice()[..n].iter_mut().enumerate() {
            *minus_sum = -weight[j * k..][..k].iter().map(|&w| i32::from(w)).sum::<i32>();
        }
        let panels = Place::Own(pack_panels(weight, n, k, layout));
        PackedWeights { isa: kernels.isa(), n, k, panels, scale: padded_scale, bias: padded_bias, minus_column_sum }
    }

    /// Bytes of the panels of a matrix `[n, k]` for the instruction set of `kernels`.
    pub fn panel_bytes(kernels: Kernels, n: usize, k: usize) -> usize {
        let layout = Layout::of(kernels.isa());
        n.next_multiple_of(layout.columns) * k.next_multiple_of(layout.step)
    }

    /// Moves the panels to `arena`, beside those of other matrices; they stay where they are when it has no room.
    pub fn move_to(&mut self, arena: &Arena) {
        if let Some(stored) = arena.store(self.panels()) {
            self.panels = Place::Arena(stored);
        }
    }

    /// Whether [`PackedWeights::move_to`] found room.
    #[cfg(test)]
    pub(crate) fn is_in_arena(&self) -> bool {
        matches!(self.panels, Place::Arena(_))
    }

    fn panels(&self) -> &[i8] {
        match &self.panels {
            Place::Own(panels) => panels.as_slice(),
            Place::Arena(stored) => stored.as_slice(),
        }
    }

    /// The instruction set this layout is for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Output channels.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Input channels.
    pub fn k(&self) -> usize {
        self.k
    }

    /// What the kernels read of the output channels `columns`, which start with a panel.
    ///
    /// # Panics
    /// When there are no such channels, or they start within a panel.
    pub(crate) fn as_panels(&self, columns: Range<usize>) -> Panels<'_> {
        let layout = Layout::of(self.isa);
        assert!(
            columns.start.is_multiple_of(layout.columns),
            "channels from {} on start within a panel",
            columns.start
        );
        assert!(columns.end <= self.n, "channels {columns:?} of {}", self.n);
        let depth = self.k.next_multiple_of(layout.step);
        let padded = columns.start..columns.end.next_multiple_of(layout.columns);
        Panels {
            weights: &self.panels()[padded.start * depth..padded.end * depth],
            depth,
            scale: &self.scale.as_slice()[padded.clone()],
            bias: &self.bias.as_slice()[padded.clone()],
            minus_column_sum: &self.minus_column_sum.as_slice()[padded],
            n: columns.len(),
        }
    }
}
