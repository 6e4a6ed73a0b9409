//! From scores to the integer weights of the softmax.

use super::WEIGHT_MAX;
use super::slices::load_up_to_16;
use crate::kernels::lanes::Lanes;

/// `WEIGHT_MAX * 2^t` for `t` up to 0, with `t` below -30 taken as -30, within 1.5e-4 of it: `t = n + f` with
/// `|f| <= 1/2`, and the cubic polynomial that is 1 at 0 and has the smallest largest error.
#[inline(always)]
fn weight<V: Lanes>(t: V) -> V {
    const C: f32 = WEIGHT_MAX as f32;
    let t = t.max(V::splat(-30.0));
    let n = t.round();
    let f = t.sub(n);
    let p = V::splat(5.517_566e-2 * C);
    let p = p.mul_add(f, V::splat(2.4262862e-1 * C));
    let p = p.mul_add(f, V::splat(6.9331086e-1 * C));
    let p = p.mul_add(f, V::splat(C));
    p.mul_exp2(n)
}

/// The integer weights of 16 scores.
#[inline(always)]
pub(super) fn weights_of<V: Lanes>(scores: &[f32], max: V, exponent: V) -> V::Ints {
    weight(load_up_to_16::<V>(scores).sub(max).mul(exponent)).to_ints()
}

/// What sums so far are multiplied with when the maximum rises.
#[inline(always)]
pub(super) fn factor_of<V: Lanes>(before: V, max: V, exponent: V) -> V {
    weight(before.sub(max).mul(exponent)).mul(V::splat(1.0 / WEIGHT_MAX as f32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::lanes::ScalarLanes;

    #[test]
    fn a_weight_is_within_its_error_of_the_power_of_two() {
        for t in (0..=300_000).map(|i| -1e-4 * i as f32) {
            let exact = f64::from(WEIGHT_MAX) * f64::from(t).exp2();
            let error = (f64::from(weight(ScalarLanes::splat(t)).sum() / 16.0) / exact - 1.0).abs();
            assert!(error <= 1.5e-4, "2^{t} is wrong by {error} of it");
        }
        assert_eq!(weight(ScalarLanes::splat(0.0)).sum() / 16.0, WEIGHT_MAX as f32);
        assert!(weight(ScalarLanes::splat(f32::NEG_INFINITY)).sum() / 16.0 < 0.5, "it rounds to 0");
    }
}
