//! What exporters spell in single steps: GELU, its approximation by tanh, and layer norm.

use super::{Flow, Id, Value};

/// Whether a number is the one that a formula has; exporters round constants in their own ways.
pub(super) fn close(a: f32, b: f32) -> bool {
    (a - b).abs() <= 2e-3 * b.abs()
}

impl Flow<'_> {
    /// `1 + erf(x / sqrt 2)`
    pub(super) fn is_gelu_gate(&self, x: Id, gate: Id) -> bool {
        let Some(erf) = self.one_more_than(gate) else { return false };
        let Value::Erf(inner) = *self.get(erf) else { return false };
        let (inner, factor) = self.unscaled(inner);
        inner == x && close(factor, std::f32::consts::FRAC_1_SQRT_2)
    }

    /// `1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))`
    pub(super) fn is_gelu_tanh_gate(&self, x: Id, gate: Id) -> bool {
        let Some(tanh) = self.one_more_than(gate) else { return false };
        let Value::Tanh(inner) = *self.get(tanh) else { return false };
        let factor_is = |factor: f32| close(factor, 0.797_884_6);
        match *self.get(inner) {
            Value::Scaled(sum, factor) => {
                let Value::Sum(a, b) = *self.get(sum) else { return false };
                let cubic = [(a, b), (b, a)].into_iter().find(|(a, _)| *a == x).map(|(_, b)| self.unscaled(b));
                factor_is(f32::from_bits(factor))
                    && cubic.is_some_and(|(cube, f)| {
                        close(f, 0.044_715) && *self.get(cube) == Value::Power(x, 3f32.to_bits())
                    })
            }
            // x (1 + 0.044715 x x), as gelu_fast spells it.
            Value::Times { left, right, factor } => {
                let rest = if left == x { right } else { left };
                let square = self.one_more_than(rest).map(|s| self.unscaled(s));
                factor_is(f32::from_bits(factor))
                    && (left == x || right == x)
                    && square.is_some_and(|(square, f)| {
                        close(f, 0.044_715) && *self.get(square) == Value::Power(x, 2f32.to_bits())
                    })
            }
            _ => false,
        }
    }

    fn one_more_than(&self, id: Id) -> Option<Id> {
        match *self.get(id) {
            Value::Shifted(inner, number) if close(f32::from_bits(number), 1.0) => Some(inner),
            _ => None,
        }
    }

    /// `(x - mean) / sqrt(mean((x - mean)^2) + epsilon)`
    pub(super) fn norm_of(&self, centered: Id, root: Id) -> Option<(Id, u32)> {
        let Value::Centered(input) = *self.get(centered) else { return None };
        let Value::Root(variance) = *self.get(root) else { return None };
        let Value::Shifted(mean, epsilon) = *self.get(variance) else { return None };
        let Value::Mean(square) = *self.get(mean) else { return None };
        (*self.get(square) == Value::Power(centered, 2f32.to_bits())).then_some((input, epsilon))
    }
}
