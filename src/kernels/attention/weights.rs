//! From scores to the integer weights of the softmax.

use super::WEIGHT_MAX;
use crate::kernels::lanes::{Ints, Lanes};

/// Adding it rounds to integers, halves to even: from 2^23 to 2^24 there is nothing between these.
const ROUND: f32 = (3 << 22) as f32;

/// `2^t` for `t` up to 0, with `t` below -30 taken as -30, in two factors whose product is within 1.5e-4 of it: `t = n + f`
/// with `|f| <= 1/2`, and the cubic polynomial that is 1 at 0 and has the smallest largest error gives the first,
/// `2 WEIGHT_MAX 2^f`. The second is `2^(n - 1)`, by the bits of its exponent.
#[inline(always)]
fn factors<V: Lanes>(t: V) -> [V; 2] {
    const C: f32 = 2.0 * WEIGHT_MAX as f32;
    /// The biased exponent of 1/2. It is even, so halves go where they would without it.
    const HALF: f32 = 126.0;
    let t = t.max(V::splat(-30.0));
    let biased = t.add(V::splat(ROUND + HALF));
    let f = t.fraction();
    let p = V::splat(5.517_566e-2 * C);
    let p = p.mul_add(f, V::splat(2.4262862e-1 * C));
    let p = p.mul_add(f, V::splat(6.9331086e-1 * C));
    let p = p.mul_add(f, V::splat(C));
    [p, biased.bits().shift_left::<23>().bits_to_floats()]
}

/// The integer weights of 16 scores, in the low halves of the lanes.
#[inline(always)]
pub(super) fn weights_of<V: Lanes>(scores: V, max: V, exponent: V) -> V::Ints {
    let [p, power] = factors(scores.sub(max).mul(exponent));
    p.mul_add(power, V::splat(ROUND)).bits()
}

/// What sums so far are multiplied with when the maximum rises.
#[inline(always)]
pub(super) fn factor_of<V: Lanes>(before: V, max: V, exponent: V) -> V {
    let [p, power] = factors(before.sub(max).mul(exponent));
    p.mul(power).mul(V::splat(1.0 / WEIGHT_MAX as f32))
}

/// Adds pairs of weights to sums.
#[inline(always)]
pub(super) fn add_pairs<I: Ints>(sums: I, pairs: I) -> I {
    sums.dot_pairs(pairs, I::splat(0x0001_0001))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::lanes::ScalarLanes;

    fn weight(t: f32) -> f32 {
        let [p, power] = factors(ScalarLanes::splat(t));
        p.mul(power).sum() / 16.0
    }

    #[test]
    fn a_weight_is_within_its_error_of_the_power_of_two() {
        for t in (0..=300_000).map(|i| -1e-4 * i as f32) {
            let exact = f64::from(WEIGHT_MAX) * f64::from(t).exp2();
            let error = (f64::from(weight(t)) / exact - 1.0).abs();
            assert!(error <= 1.5e-4, "2^{t} is wrong by {error} of it");
        }
        assert_eq!(weight(0.0), WEIGHT_MAX as f32);
        assert!(weight(f32::NEG_INFINITY) < 0.5, "it rounds to 0");
    }
}
