//! Sixteen f32 lanes, the unit all f32 kernels are written in.
//!
//! Every f32 kernel is written once, generic over [`Lanes`], and compiled once per instruction set: one 512-bit
//! register, two 256-bit registers, or an array. All have the same semantics, so results are the same bits:
//! elementwise steps round the same way, and a sum always goes lane by lane (element `i` into lane `i % 16`) and
//! folds 16 → 8 → 4 → 2 → 1 at the end.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

pub(crate) use scalar::ScalarLanes;

use super::isa::{Isa, Kernels};

/// Number of f32 lanes.
pub(crate) const LANES: usize = 16;

/// Sixteen f32 values and what the kernels do with them.
///
/// # Safety of the implementations
/// A value of an implementation for an instruction set is only made inside [`Kernels::run`], which enters a function
/// compiled for that instruction set after [`Kernels`] proved that the CPU has it.
pub(crate) trait Lanes: Copy {
    /// Sixteen i32 lanes of the same instruction set.
    type Ints: Ints<Floats = Self>;

    /// Groups of 16 columns in a register tile of 6 rows: what the registers hold beside their inputs.
    const TILE_GROUPS: usize;
    /// Whether CPUs with these lanes may have AMX tiles beside them.
    const BESIDE_TILES: bool = false;

    /// All lanes `value`.
    fn splat(value: f32) -> Self;

    /// Reads 16 values.
    ///
    /// # Safety
    /// `from` points at 16 readable f32.
    unsafe fn load(from: *const f32) -> Self;

    /// Reads `count` values, at most 16, into the first lanes; the other lanes are `fill`.
    ///
    /// # Safety
    /// `from` points at `count` readable f32.
    unsafe fn load_first(from: *const f32, count: usize, fill: f32) -> Self;

    /// Reads `count` integers, at most 16, into the first lanes; the other lanes are 0.
    ///
    /// # Safety
    /// `from` points at `count` readable i8.
    unsafe fn load_first_i8(from: *const i8, count: usize) -> Self;

    /// Asks for the cache line of an address, which need not be readable.
    fn prefetch(_address: *const i8) {}

    /// Writes 16 values.
    ///
    /// # Safety
    /// `to` points at 16 writable f32.
    unsafe fn store(self, to: *mut f32);

    /// Writes the first `count` lanes, at most 16.
    ///
    /// # Safety
    /// `to` points at `count` writable f32.
    unsafe fn store_first(self, to: *mut f32, count: usize);

    /// Rounds half to even, adds `offset`, clamps to 0..=255 and writes 16 bytes. A NaN becomes 0.
    ///
    /// Lanes must be below 2^23 in magnitude, or NaN.
    ///
    /// # Safety
    /// `to` points at 16 writable bytes.
    unsafe fn store_u8(self, offset: i32, to: *mut u8);

    /// [`Lanes::store_u8`] of 64 values, lanes of the first first.
    ///
    /// # Safety
    /// `to` points at 64 writable bytes.
    unsafe fn store_64_u8(lanes: [Self; 4], offset: i32, to: *mut u8);

    /// `self + other`.
    fn add(self, other: Self) -> Self;
    /// `self - other`.
    fn sub(self, other: Self) -> Self;
    /// `self * other`.
    fn mul(self, other: Self) -> Self;
    /// `self / other`.
    fn div(self, other: Self) -> Self;
    /// `self * factor + addend`, rounded once (`f32::mul_add`).
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// `if self < other { self } else { other }`, which is `other` when one is NaN.
    fn min(self, other: Self) -> Self;
    /// `if self > other { self } else { other }`, which is `other` when one is NaN.
    fn max(self, other: Self) -> Self;
    /// The smaller one of `|self|` and `limit`, which is above 0; `limit` when `self` is NaN.
    fn min_magnitude(self, limit: Self) -> Self;
    /// The nearest integer, halves to even.
    fn round(self) -> Self;
    /// `self - self.round()`.
    #[inline(always)]
    fn fraction(self) -> Self {
        self.sub(self.round())
    }
    /// `self * 2^n` for lanes from 2^-1 to 2^15 and integers `n` from -126 to 127 whose result is a normal number;
    /// otherwise unspecified.
    fn mul_exp2(self, n: Self) -> Self;
    /// `if self < limit { then } else { otherwise }`.
    fn if_below(self, limit: Self, then: Self, otherwise: Self) -> Self;

    /// The nearest integer, halves to even. Lanes must be below 2^30 in magnitude, and no NaN.
    fn to_ints(self) -> Self::Ints;
    /// The bit patterns.
    fn bits(self) -> Self::Ints;

    /// Lane `j` of row `i` goes to lane `i` of row `j`.
    fn transpose(rows: [Self; LANES]) -> [Self; LANES];

    /// Sum of the lanes: lane `i` + lane `i + 8`, then + 4, + 2, + 1.
    fn sum(self) -> f32;
}

/// Sixteen i32 lanes; sums wrap around, as they never do where the kernels use them.
pub(crate) trait Ints: Copy {
    /// Sixteen f32 lanes of the same instruction set.
    type Floats: Lanes<Ints = Self>;

    /// All lanes `value`.
    fn splat(value: i32) -> Self;

    /// Reads 16 values.
    ///
    /// # Safety
    /// `from` points at 16 readable i32.
    unsafe fn load(from: *const i32) -> Self;

    /// Writes 16 values.
    ///
    /// # Safety
    /// `to` points at 16 writable i32.
    unsafe fn store(self, to: *mut i32);

    /// Writes the low halves of 16 values that fit an i16.
    ///
    /// # Safety
    /// `to` points at 16 writable i16.
    unsafe fn store_i16(self, to: *mut i16);

    /// `self + other`.
    fn add(self, other: Self) -> Self;
    /// `self & other`.
    fn and(self, other: Self) -> Self;
    /// `self & ones | !self & zeros`.
    fn select(self, ones: Self, zeros: Self) -> Self;
    /// The larger of both.
    fn max(self, other: Self) -> Self;
    /// The larger of both, taken as u32.
    fn max_unsigned(self, other: Self) -> Self;
    /// Bits moved up by `N`.
    fn shift_left<const N: u32>(self) -> Self;
    /// Bits moved down by `N`; zeros come in.
    fn shift_right<const N: u32>(self) -> Self;
    /// The low half of `self` below the low half of `high`.
    fn pair(self, high: Self) -> Self;
    /// `self + a.low * b.low + a.high * b.high`, the halves of `a` and `b` taken as i16.
    fn dot_pairs(self, a: Self, b: Self) -> Self;

    /// The lanes as f32, rounded to nearest, halves to even.
    fn to_floats(self) -> Self::Floats;
    /// The f32 with these bit patterns.
    fn bits_to_floats(self) -> Self::Floats;

    /// Lane `j` of row `i` goes to lane `i` of row `j`.
    #[inline(always)]
    fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
        let mut floats = [rows[0].bits_to_floats(); LANES];
        for (float, row) in floats.iter_mut().zip(rows) {
            *float = row.bits_to_floats();
        }
        let floats = Self::Floats::transpose(floats);
        let mut columns = rows;
        for l in 0..LANES {
            columns[l] = floats[l].bits();
        }
        columns
    }

    /// In each lane the low bytes of two pairs, and their high bytes, both in the order `a0 b0 a1 b1`.
    #[inline(always)]
    fn bytes(a: Self, b: Self) -> [Self; 2] {
        let even = Self::splat(0x00ff_00ff);
        [even.select(a, b.shift_left::<8>()), even.select(a.shift_right::<8>(), b)]
    }

    /// Largest lane.
    fn max_lane(self) -> i32;
    /// Largest lane, taken as u32.
    fn max_unsigned_lane(self) -> u32;
}

/// Walks `len` values by groups of 16: `f(at, count)` for the first value of each and how many it has, 16 or, in the
/// last one, fewer. `f` must be `#[inline(always)]`; for a count of 16 it is compiled on its own, without masks.
#[inline(always)]
pub(crate) fn groups(len: usize, mut f: impl FnMut(usize, usize)) {
    let whole = len / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        f(at, LANES);
    }
    if whole < len {
        f(whole, len - whole);
    }
}

/// A kernel written over [`Lanes`]. `run` must be `#[inline(always)]`, so that it is compiled for the instruction
/// set of the function that calls it.
pub(crate) trait LaneKernel {
    /// Runs the kernel.
    fn run<V: Lanes>(self);
}

impl Kernels {
    /// Runs a kernel on the lanes of this instruction set.
    pub(crate) fn run(self, kernel: impl LaneKernel) {
        match self.isa() {
            // SAFETY: `self` proves that the CPU has AVX2 and FMA.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => unsafe { avx2::run(kernel) },
            // SAFETY: `self` proves that the CPU has AVX-512 F, BW, VL and DQ, AVX2 and FMA.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni | Isa::AmxInt8 => unsafe { avx512::run(kernel) },
            _ => kernel.run::<ScalarLanes>(),
        }
    }
}
