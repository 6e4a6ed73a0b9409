//! `e^x`, and elementwise steps.

use super::lanes::{Lanes, groups};

/// Below this `e^x` is taken as 0: the smallest normal f32 is `e^-87.336`, and no kernel makes subnormals.
const EXP_MIN: f32 = -87.33;
/// Above this `e^x` is taken as infinity; 2^127.5 is `e^88.376`.
const EXP_MAX: f32 = 88.37;

/// Largest relative error of [`exp`] where it is neither 0 nor infinity.
#[cfg(test)]
const EXP_ERROR: f64 = 1e-7;

/// `e^x` for x up to [`EXP_MAX`]: `x = n ln 2 + r` with `|r| <= ln 2 / 2`, then `2^n (1 + r + r^2 p(r))` with `p` of
/// degree 4, which alone is within 1e-8. 0 below [`EXP_MIN`].
#[inline(always)]
fn exp_to_max<V: Lanes>(x: V) -> V {
    let n = x.mul(V::splat(std::f32::consts::LOG2_E)).round();
    // ln 2 in two parts; the first has few enough bits that n times it is exact.
    let r = n.mul_add(V::splat(-355.0 / 512.0), x);
    let r = n.mul_add(V::splat(2.121_944_4e-4), r);
    // Interpolates (e^r - 1 - r) / r^2 at the Chebyshev nodes.
    let p = V::splat(1.392_617_6e-3);
    let p = p.mul_add(r, V::splat(8.363_173e-3));
    let p = p.mul_add(r, V::splat(4.166_655_6e-2));
    let p = p.mul_add(r, V::splat(1.666_657_8e-1));
    let p = p.mul_add(r, V::splat(0.5));
    let p = p.mul_add(r, V::splat(1.0));
    let p = p.mul_add(r, V::splat(1.0));
    x.if_below(V::splat(EXP_MIN), V::splat(0.0), p.mul_exp2(n))
}

/// `e^x`; relative error at most 1e-7 on [-87.33, 88.37], 0 below, infinity above.
#[inline(always)]
pub(crate) fn exp<V: Lanes>(x: V) -> V {
    V::splat(EXP_MAX).if_below(x, V::splat(f32::INFINITY), exp_to_max(x))
}

/// Applies `f` to every element of `x`, 16 at a time.
#[inline(always)]
pub(crate) fn map<V: Lanes>(x: &mut [f32], f: impl Fn(V) -> V) {
    let at = x.as_mut_ptr();
    groups(
        x.len(),
        #[inline(always)]
        // SAFETY: `count` values from `i` on are in `x`.
        |i, count| unsafe { f(V::load_first(at.add(i), count, 0.0)).store_first(at.add(i), count) },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Kernels;
    use crate::kernels::lanes::LaneKernel;
    use crate::kernels::testing::{EDGE_SIZES, GUARDS, Guarded, Random, same_on_every_isa};

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

    #[test]
    fn exp_is_within_its_relative_bound_and_cut_outside() {
        let mut x: Vec<f32> = (-87_329..=88_370).map(|i| i as f32 * 1e-3).collect();
        x.extend((-50_000..=50_000).map(|i| i as f32 * 1e-5));
        for kernels in Kernels::available() {
            let mut y = x.clone();
            kernels.run(Exp(&mut y));
            let (mut worst, mut at) = (0.0, 0.0);
            for (&x, &y) in x.iter().zip(&y) {
                let exact = f64::from(x).exp();
                let error = ((f64::from(y) - exact) / exact).abs();
                if error > worst {
                    (worst, at) = (error, x);
                }
            }
            println!("exp on {}: largest relative error {worst:.2e}, at {at}", kernels.isa());
            assert!(worst <= EXP_ERROR, "exp on {}: relative error {worst:e} at {at}", kernels.isa());
            let mut y = [-87.34, -1e30, f32::NEG_INFINITY, 88.38, 1e30, f32::INFINITY, 0.0];
            kernels.run(Exp(&mut y));
            assert_eq!(y, [0.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY, f32::INFINITY, 1.0], "{}", kernels.isa());
            let mut y = [f32::NAN];
            kernels.run(Exp(&mut y));
            assert!(y[0].is_nan());
        }
    }

    #[test]
    fn exp_is_the_same_bits_on_every_isa() {
        let mut random = Random::new(2);
        for len in EDGE_SIZES.into_iter().chain([777]) {
            for row in [random.floats(len, 1.0), random.floats(len, 40.0), random.wild_floats(len), vec![-3e38; len]] {
                same_on_every_isa(("exp", len), |kernels| {
                    let mut y = row.clone();
                    kernels.run(Exp(&mut y));
                    y
                });
            }
        }
    }

    #[test]
    fn exp_stays_inside_its_slice() {
        for len in EDGE_SIZES {
            for guard in GUARDS {
                let mut row = Guarded::new(&vec![1.0f32; len], guard);
                for kernels in Kernels::available() {
                    kernels.run(Exp(&mut row));
                }
            }
        }
    }
}
