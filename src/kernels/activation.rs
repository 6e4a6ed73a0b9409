//! Activations of the feed-forward network.

use super::exp::{exp, map};
use super::isa::Kernels;
use super::lanes::{LaneKernel, Lanes};

/// Which activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `0.5 x (1 + erf(x / sqrt 2))` (Hendrycks & Gimpel 2016).
    Gelu,
    /// `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`, the approximation of the same paper.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// `-Phi(-a)` for `a` from 0 to [`TAIL_END`], with `Phi` the normal distribution, highest power first: the polynomial
/// `p` with the smallest largest error of `a p(a)` (1.7e-4) among those that are 0 at the end, as this one is exactly.
const TAIL: [f32; 7] =
    [6.697_07e-4, -1.027_213_9e-2, 5.935_805_7e-2, -1.444_902e-1, 4.861_277_3e-2, 3.873_413e-1, -4.997_765_4e-1];
/// Beyond it `Phi(-a)` is taken as 0.
const TAIL_END: f32 = 3.9375;

#[inline(always)]
fn polynomial<V: Lanes, const N: usize>(x: V, coefficients: [f32; N]) -> V {
    let mut p = V::splat(coefficients[0]);
    for c in &coefficients[1..] {
        p = p.mul_add(x, V::splat(*c));
    }
    p
}

/// [`Activation::Gelu`]: `x Phi(x) = max(x, 0) - a Phi(-a)` with `a = |x|`.
#[inline(always)]
pub(crate) fn gelu<V: Lanes>(x: V) -> V {
    let a = x.min_magnitude(V::splat(TAIL_END));
    // In this order a NaN stays one.
    polynomial(a, TAIL).mul_add(a, V::splat(0.0).max(x))
}

/// [`Activation::GeluTanh`]: `0.5 x (1 + tanh u) = x / (1 + e^(-2u))`.
#[inline(always)]
pub(crate) fn gelu_tanh<V: Lanes>(x: V) -> V {
    // -2 sqrt(2 / pi) x (1 + 0.044715 x^2)
    let minus_2u = x.mul(x).mul_add(V::splat(-0.071_354_814), V::splat(-1.595_769)).mul(x);
    x.div(exp(minus_2u).add(V::splat(1.0)))
}

/// [`Activation::Relu`].
#[inline(always)]
pub(crate) fn relu<V: Lanes>(x: V) -> V {
    x.max(V::splat(0.0))
}

/// `tanh x = 1 - 2 / (1 + e^(2x))`, exactly 1 or -1 from `|x|` = 10 on.
#[inline(always)]
fn tanh<V: Lanes>(x: V) -> V {
    // In this order a NaN stays one, here and in the sum at the end.
    let x = V::splat(10.0).min(V::splat(-10.0).max(x));
    let y = V::splat(-2.0).div(exp(x.add(x)).add(V::splat(1.0))).add(V::splat(1.0));
    x.mul_add(V::splat(0.0), y)
}

struct Tanh<'a>(&'a mut [f32]);

impl LaneKernel for Tanh<'_> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        map::<V>(
            self.0,
            #[inline(always)]
            |x| tanh(x),
        );
    }
}

struct Activate<'a>(Activation, &'a mut [f32]);

impl LaneKernel for Activate<'_> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Activate(activation, x) = self;
        match activation {
            Activation::Gelu => map::<V>(
                x,
                #[inline(always)]
                |x| gelu(x),
            ),
            Activation::GeluTanh => map::<V>(
                x,
                #[inline(always)]
                |x| gelu_tanh(x),
            ),
            Activation::Relu => map::<V>(
                x,
                #[inline(always)]
                |x| relu(x),
            ),
        }
    }
}

impl Kernels {
    /// The activation of every element, in place.
    pub fn activate(self, activation: Activation, x: &mut [f32]) {
        self.run(Activate(activation, x));
    }

    /// GELU, in place; absolute error at most 2e-4, a small part of the step of an 8-bit row.
    pub fn gelu(self, x: &mut [f32]) {
        self.activate(Activation::Gelu, x);
    }

    /// GELU by tanh, in place; absolute error at most 1e-6 for |x| up to 8.
    pub fn gelu_tanh(self, x: &mut [f32]) {
        self.activate(Activation::GeluTanh, x);
    }

    /// ReLU, in place.
    pub fn relu(self, x: &mut [f32]) {
        self.activate(Activation::Relu, x);
    }

    /// Hyperbolic tangent, in place; absolute error at most 2e-7.
    pub fn tanh(self, x: &mut [f32]) {
        self.run(Tanh(x));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::reference;
    use crate::kernels::testing::{EDGE_SIZES, GUARDS, Guarded, Random, same_on_every_isa};

    fn sweep(bound: f64, activation: Activation, exact: impl Fn(f64) -> f64) {
        sweep_of(&format!("{activation:?}"), bound, |kernels, x| kernels.activate(activation, x), exact);
    }

    fn sweep_of(name: &str, bound: f64, f: impl Fn(Kernels, &mut [f32]), exact: impl Fn(f64) -> f64) {
        let x: Vec<f32> =
            (-120_000..=120_000).map(|i| i as f32 * 1e-4).chain([0.0, -0.0, 1e-30, 30.0, -30.0]).collect();
        for kernels in Kernels::available() {
            let mut y = x.clone();
            f(kernels, &mut y);
            let (mut worst, mut at) = (0.0, 0.0);
            for (&x, &y) in x.iter().zip(&y) {
                let error = (f64::from(y) - exact(f64::from(x))).abs();
                if error > worst {
                    (worst, at) = (error, x);
                }
            }
            println!("{name} on {}: largest absolute error {worst:.2e}, at {at}", kernels.isa());
            assert!(worst <= bound, "{name} on {}: error {worst:e} at {at}", kernels.isa());
        }
    }

    #[test]
    fn gelu_is_within_its_bound() {
        sweep(2e-4, Activation::Gelu, reference::gelu);
    }

    #[test]
    fn gelu_tanh_is_within_its_bound() {
        sweep(1e-6, Activation::GeluTanh, reference::gelu_tanh);
    }

    #[test]
    fn relu_is_exact() {
        sweep(0.0, Activation::Relu, |x| x.max(0.0));
    }

    #[test]
    fn tanh_is_within_its_bound() {
        sweep_of("tanh", 2e-7, Kernels::tanh, f64::tanh);
    }

    #[test]
    fn tanh_is_one_far_from_zero_and_leaves_what_is_no_number() {
        for kernels in Kernels::available() {
            let mut y = [10.0, -10.0, 1e30, f32::NEG_INFINITY, f32::NAN];
            kernels.tanh(&mut y);
            assert_eq!(y[..4], [1.0, -1.0, 1.0, -1.0], "{}", kernels.isa());
            assert!(y[4].is_nan(), "{}", kernels.isa());
        }
    }

    #[test]
    fn far_from_zero_gelu_is_the_identity_or_zero() {
        for kernels in Kernels::available() {
            for activation in [Activation::Gelu, Activation::GeluTanh] {
                let mut y = [100.0, -100.0, 1e30, -1e30];
                kernels.activate(activation, &mut y);
                assert_eq!(y, [100.0, 0.0, 1e30, 0.0], "{activation:?} on {}", kernels.isa());
            }
        }
    }

    #[test]
    fn activations_are_the_same_bits_on_every_isa() {
        let mut random = Random::new(2);
        for len in EDGE_SIZES.into_iter().chain([777]) {
            for x in [random.floats(len, 1.0), random.floats(len, 8.0), random.wild_floats(len)] {
                for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
                    same_on_every_isa((activation, len), |kernels| {
                        let mut y = x.clone();
                        kernels.activate(activation, &mut y);
                        y
                    });
                }
                same_on_every_isa(("tanh", len), |kernels| {
                    let mut y = x.clone();
                    kernels.tanh(&mut y);
                    y
                });
            }
        }
    }

    #[test]
    fn activations_stay_inside_their_slice() {
        for len in EDGE_SIZES {
            for guard in GUARDS {
                let mut x = Guarded::new(&vec![1.0f32; len], guard);
                for kernels in Kernels::available() {
                    kernels.gelu(&mut x);
                    kernels.gelu_tanh(&mut x);
                    kernels.relu(&mut x);
                    kernels.tanh(&mut x);
                }
            }
        }
    }
}
