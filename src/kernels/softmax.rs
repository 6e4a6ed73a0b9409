//! `e^x` and the softmax of a row.

use super::isa::Kernels;
use super::lanes::{LANES, LaneKernel, Lanes};

/// Below this `e^x` is taken as 0: the smallest normal f32 is `e^-87.336`, and no kernel makes subnormals.
const EXP_MIN: f32 = -87.33;
/// Above this (`127.5 ln 2`) `e^x` is taken as infinity.
const EXP_MAX: f32 = 88.376_26;

/// `e^x`: `x = n ln 2 + r` with `|r| <= ln 2 / 2`, a degree-6 polynomial for `e^r`, times `2^n`.
///
/// Relative error at most 2e-7 on [-87.33, 88.37]; 0 below, infinity above.
#[inline(always)]
pub(crate) fn exp<V: Lanes>(x: V) -> V {
    let n = x.max(V::splat(EXP_MIN)).min(V::splat(EXP_MAX + 0.1)).mul(V::splat(std::f32::consts::LOG2_E)).round();
    // ln 2 in two parts; the first has few enough bits that n times it is exact.
    let r = n.mul_add(V::splat(-355.0 / 512.0), x);
    let r = n.mul_add(V::splat(2.121_944_4e-4), r);
    let p = V::splat(1.0 / 720.0);
    let p = p.mul_add(r, V::splat(1.0 / 120.0));
    let p = p.mul_add(r, V::splat(1.0 / 24.0));
    let p = p.mul_add(r, V::splat(1.0 / 6.0));
    let p = p.mul_add(r, V::splat(0.5));
    let p = p.mul_add(r, V::splat(1.0));
    let p = p.mul_add(r, V::splat(1.0));
    let y = p.mul(n.exp2_integer());
    let y = x.if_below(V::splat(EXP_MIN), V::splat(0.0), y);
    V::splat(EXP_MAX).if_below(x, V::splat(f32::INFINITY), y)
}

/// Replaces `row` by `e^(x - max)` and returns the sum, in the fixed order of [`Lanes::sum`].
///
/// An empty row gives 0.
#[inline(always)]
pub(crate) fn exp_row<V: Lanes>(row: &mut [f32]) -> f32 {
    let (count, tail) = (row.len() / LANES * LANES, row.len() % LANES);
    let at = row.as_mut_ptr();
    // SAFETY of all loads and stores here: they touch `count` whole groups of 16 and then `tail` values, which
    // together are exactly the row.
    let mut max = V::splat(f32::NEG_INFINITY);
    for i in (0..count).step_by(LANES) {
        // SAFETY: see above.
        max = unsafe { V::load(at.add(i)) }.max(max);
    }
    if tail > 0 {
        // SAFETY: see above.
        max = unsafe { V::load_first(at.add(count), tail, f32::NEG_INFINITY) }.max(max);
    }
    let max = V::splat(max.max_lane());
    let mut sum = V::splat(0.0);
    for i in (0..count).step_by(LANES) {
        // SAFETY: see above.
        let e = exp(unsafe { V::load(at.add(i)) }.sub(max));
        // SAFETY: see above.
        unsafe { e.store(at.add(i)) };
        sum = sum.add(e);
    }
    if tail > 0 {
        // SAFETY: see above. The other lanes are e^-inf = 0.
        let e = exp(unsafe { V::load_first(at.add(count), tail, f32::NEG_INFINITY) }.sub(max));
        // SAFETY: see above.
        unsafe { e.store_first(at.add(count), tail) };
        sum = sum.add(e);
    }
    sum.sum()
}

/// Applies `f` to every element of `x`, 16 at a time.
#[inline(always)]
pub(crate) fn map<V: Lanes>(x: &mut [f32], f: impl Fn(V) -> V) {
    let (count, tail) = (x.len() / LANES * LANES, x.len() % LANES);
    let at = x.as_mut_ptr();
    for i in (0..count).step_by(LANES) {
        // SAFETY: `i + 16 <= count <= x.len()`.
        unsafe { f(V::load(at.add(i))).store(at.add(i)) };
    }
    if tail > 0 {
        // SAFETY: `count + tail` is the length of `x`.
        unsafe { f(V::load_first(at.add(count), tail, 0.0)).store_first(at.add(count), tail) };
    }
}

struct Exp<'a>(&'a mut [f32]);

impl LaneKernel for Exp<'_> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        map::<V>(
            self.0,
            #[inline(always)]
            |x| exp(x),
        );
    }
}

struct Softmax<'a>(&'a mut [f32]);

impl LaneKernel for Softmax<'_> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let inverse = V::splat(1.0 / exp_row::<V>(self.0));
        map::<V>(
            self.0,
            #[inline(always)]
            |e| e.mul(inverse),
        );
    }
}

impl Kernels {
    /// `e^x` of every element, in place. Relative error at most 2e-7 from -87.33 to 88.37; 0 below, infinity above.
    pub fn exp(self, x: &mut [f32]) {
        self.run(Exp(x));
    }

    /// Softmax of one row, in place: `e^(x - max) / sum`.
    pub fn softmax(self, row: &mut [f32]) {
        self.run(Softmax(row));
    }
}
