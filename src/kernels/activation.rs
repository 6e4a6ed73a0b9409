//! Activations of the feed-forward network.

use super::isa::Kernels;
use super::lanes::{LaneKernel, Lanes};
use super::softmax::{exp, map};

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

impl Activation {
    /// The activation of 16 values.
    #[inline(always)]
    pub(crate) fn apply<V: Lanes>(self, x: V) -> V {
        match self {
            Activation::Gelu => gelu(x),
            Activation::GeluTanh => gelu_tanh(x),
            Activation::Relu => x.max(V::splat(0.0)),
        }
    }
}

/// Odd numerator of `erf(z) = z p(z^2) / q(z^2)` on [-4, 4], highest power first (Eigen's `generic_fast_erf_float`).
const ERF_P: [f32; 7] =
    [-2.726_142_3e-10, 2.770_681_4e-8, -2.101_024_1e-6, -5.692_506_4e-5, -7.349_906_3e-4, -2.954_6e-3, -1.609_603_3e-2];
/// Denominator of the same quotient.
const ERF_Q: [f32; 5] = [-1.456_607_2e-5, -2.133_740_5e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2];

#[inline(always)]
fn polynomial<V: Lanes, const N: usize>(x: V, coefficients: [f32; N]) -> V {
    let mut p = V::splat(coefficients[0]);
    for c in &coefficients[1..] {
        p = p.mul_add(x, V::splat(*c));
    }
    p
}

/// The error function.
#[inline(always)]
fn erf<V: Lanes>(z: V) -> V {
    let z = z.max(V::splat(-4.0)).min(V::splat(4.0));
    let z2 = z.mul(z);
    let y = z.mul(polynomial(z2, ERF_P)).div(polynomial(z2, ERF_Q));
    y.max(V::splat(-1.0)).min(V::splat(1.0))
}

#[inline(always)]
fn gelu<V: Lanes>(x: V) -> V {
    let half = x.mul(V::splat(0.5));
    half.mul_add(erf(x.mul(V::splat(std::f32::consts::FRAC_1_SQRT_2))), half)
}

/// `0.5 x (1 + tanh u) = x / (1 + e^(-2u))`.
#[inline(always)]
fn gelu_tanh<V: Lanes>(x: V) -> V {
    // -2 sqrt(2 / pi) x (1 + 0.044715 x^2)
    let minus_2u = x.mul(x).mul_add(V::splat(-0.071_354_814), V::splat(-1.595_769)).mul(x);
    x.div(exp(minus_2u).add(V::splat(1.0)))
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
                |x| x.max(V::splat(0.0)),
            ),
        }
    }
}

impl Kernels {
    /// The activation of every element, in place.
    pub fn activate(self, activation: Activation, x: &mut [f32]) {
        self.run(Activate(activation, x));
    }

    /// Exact GELU, in place; absolute error at most 1e-6 for |x| up to 8.
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
}
