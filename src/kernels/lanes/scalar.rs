//! The lanes in plain Rust; they define what the others compute.

use super::{Ints, LANES, Lanes};

/// Sixteen lanes in an array.
#[derive(Clone, Copy)]
pub(crate) struct ScalarLanes([f32; LANES]);

/// Sixteen i32 lanes in an array.
#[derive(Clone, Copy)]
pub(crate) struct ScalarInts([i32; LANES]);

impl ScalarLanes {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        ScalarLanes(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for ScalarLanes {
    type Ints = ScalarInts;

    const TILE_GROUPS: usize = 1;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        ScalarLanes([value; LANES])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises 16 readable values.
        ScalarLanes(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize, fill: f32) -> Self {
        let mut lanes = [fill; LANES];
        // SAFETY: the caller promises `count` readable values, and `count` is at most 16.
        unsafe { std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count) };
        ScalarLanes(lanes)
    }

    #[inline(always)]
    unsafe fn load_first_i8(from: *const i8, count: usize) -> Self {
        let mut q = [0i8; LANES];
        // SAFETY: the caller promises `count` readable values, and `count` is at most 16.
        unsafe { std::ptr::copy_nonoverlapping(from, q.as_mut_ptr(), count) };
        ScalarLanes(q.map(f32::from))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises 16 writable values.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: the caller promises `count` writable values, and `count` is at most 16.
        unsafe { std::ptr::copy_nonoverlapping(self.0.as_ptr(), to, count) }
    }

    #[inline(always)]
    unsafe fn store_u8(self, offset: i32, to: *mut u8) {
        // The sum is exact in f32, and `as` is exact on integers and turns a NaN into 0.
        let bytes = self.0.map(|r| (r.round_ties_even() + offset as f32).clamp(0.0, 255.0) as u8);
        // SAFETY: the caller promises 16 writable bytes.
        unsafe { to.cast::<[u8; LANES]>().write_unaligned(bytes) }
    }

    #[inline(always)]
    unsafe fn store_64_u8(lanes: [Self; 4], offset: i32, to: *mut u8) {
        for (i, lanes) in lanes.into_iter().enumerate() {
            // SAFETY: the caller promises 64 writable bytes.
            unsafe { lanes.store_u8(offset, to.add(i * LANES)) };
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        ScalarLanes(std::array::from_fn(|i| self.0[i].mul_add(factor.0[i], addend.0[i])))
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min_magnitude(self, limit: Self) -> Self {
        self.zip(limit, |x, limit| if x.abs() < limit { x.abs() } else { limit })
    }

    #[inline(always)]
    fn round(self) -> Self {
        ScalarLanes(self.0.map(f32::round_ties_even))
    }

    #[inline(always)]
    fn mul_exp2(self, n: Self) -> Self {
        self.zip(n, |a, n| a * f32::from_bits(((n as i32).wrapping_add(127) as u32) << 23))
    }

    #[inline(always)]
    fn if_below(self, limit: Self, then: Self, otherwise: Self) -> Self {
        ScalarLanes(std::array::from_fn(|i| if self.0[i] < limit.0[i] { then.0[i] } else { otherwise.0[i] }))
    }

    #[inline(always)]
    fn to_ints(self) -> ScalarInts {
        ScalarInts(self.0.map(|x| x.round_ties_even() as i32))
    }

    #[inline(always)]
    fn bits(self) -> ScalarInts {
        ScalarInts(self.0.map(|x| x.to_bits() as i32))
    }

    #[inline(always)]
    fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
        std::array::from_fn(|j| ScalarLanes(std::array::from_fn(|i| rows[i].0[j])))
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let mut lanes = self.0;
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
            half /= 2;
        }
        lanes[0]
    }
}

impl ScalarInts {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(i32, i32) -> i32) -> Self {
        ScalarInts(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Ints for ScalarInts {
    type Floats = ScalarLanes;

    #[inline(always)]
    fn splat(value: i32) -> Self {
        ScalarInts([value; LANES])
    }

    #[inline(always)]
    unsafe fn load(from: *const i32) -> Self {
        // SAFETY: the caller promises 16 readable values.
        ScalarInts(unsafe { from.cast::<[i32; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        // SAFETY: the caller promises 16 writable values.
        unsafe { to.cast::<[i32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_i16(self, to: *mut i16) {
        // SAFETY: the caller promises 16 writable values.
        unsafe { to.cast::<[i16; LANES]>().write_unaligned(self.0.map(|x| x as i16)) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, i32::wrapping_add)
    }

    #[inline(always)]
    fn and(self, other: Self) -> Self {
        self.zip(other, |a, b| a & b)
    }

    #[inline(always)]
    fn select(self, ones: Self, zeros: Self) -> Self {
        let zeros = self.zip(zeros, |mask, zero| !mask & zero);
        self.and(ones).zip(zeros, |one, zero| one | zero)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, i32::max)
    }

    #[inline(always)]
    fn max_unsigned(self, other: Self) -> Self {
        self.zip(other, |a, b| (a as u32).max(b as u32) as i32)
    }

    #[inline(always)]
    fn shift_left<const N: u32>(self) -> Self {
        ScalarInts(self.0.map(|x| x << N))
    }

    #[inline(always)]
    fn shift_right<const N: u32>(self) -> Self {
        ScalarInts(self.0.map(|x| (x as u32 >> N) as i32))
    }

    #[inline(always)]
    fn pair(self, high: Self) -> Self {
        self.zip(high, |low, high| low & 0xffff | high << 16)
    }

    #[inline(always)]
    fn dot_pairs(self, a: Self, b: Self) -> Self {
        let product = |a: i32, b: i32| i32::from(a as i16) * i32::from(b as i16);
        self.add(a.zip(b, |a, b| product(a, b).wrapping_add(product(a >> 16, b >> 16))))
    }

    #[inline(always)]
    fn to_floats(self) -> ScalarLanes {
        ScalarLanes(self.0.map(|x| x as f32))
    }

    #[inline(always)]
    fn bits_to_floats(self) -> ScalarLanes {
        ScalarLanes(self.0.map(|x| f32::from_bits(x as u32)))
    }

    #[inline(always)]
    fn max_lane(self) -> i32 {
        self.0.into_iter().fold(i32::MIN, i32::max)
    }

    #[inline(always)]
    fn max_unsigned_lane(self) -> u32 {
        self.0.into_iter().fold(0, |max, x| max.max(x as u32))
    }
}
