//! Steps element by element. What they spell together, such as a linear layer's bias or a norm's gain, becomes part of it.

use super::spellings::close;
use super::{Constant, Flow, Id, Side, Value};

impl<'a> Flow<'a> {
    /// The number before a scaled value.
    pub(in crate::interchange) fn unscaled(&self, id: Id) -> (Id, f32) {
        match self.get(id) {
            Value::Scaled(inner, factor) => (*inner, f32::from_bits(*factor)),
            _ => (id, 1.0),
        }
    }

    /// A number computed from numbers.
    fn folded(&mut self, a: Id, b: Id, compute: impl Fn(f32, f32) -> f32) -> Option<Id> {
        let number = compute(self.scalar(a)?, self.scalar(b)?);
        Some(self.add_constant(Constant::scalar(number)))
    }

    pub(in crate::interchange) fn add(&mut self, a: Id, b: Id) -> Id {
        if let Some(number) = self.folded(a, b, |a, b| a + b) {
            return number;
        }
        for (a, b) in [(a, b), (b, a)] {
            if let Value::Constant(c) = *self.get(b) {
                match *self.get(a) {
                    Value::Linear { input, weight, bias: None } if self.is_vector(c, self.outputs(weight)) => {
                        return self.put(Value::Linear { input, weight, bias: Some(c) });
                    }
                    Value::Norm { input, gain: Some(gain), shift: None, epsilon } if self.constants[c].len() > 1 => {
                        return self.put(Value::Norm { input, gain: Some(gain), shift: Some(c), epsilon });
                    }
                    _ => {}
                }
            }
        }
        if self.as_side(a).is_some() && self.as_side(b).is_some() {
            return self.merge(&[a, b]);
        }
        for (a, b) in [(a, b), (b, a)] {
            if let Some(number) = self.scalar(b) {
                return self.put(Value::Shifted(a, number.to_bits()));
            }
            if let Some(side) = self.as_side(b) {
                return self.mask(a, side);
            }
        }
        match self.constant(a).or(self.constant(b)) {
            Some(_) => self.unknown(),
            None => self.put(Value::Sum(a.min(b), a.max(b))),
        }
    }

    /// Scores with a mask. Only scores can have one, and it must treat all positions alike.
    pub(in crate::interchange) fn mask(&mut self, scores: Id, mask: Side) -> Id {
        match self.get(self.unscaled(scores).0) {
            Value::Product(..) | Value::Masked(_) | Value::ScaledByShape(_) if !mask.ordered => {
                self.put(Value::Masked(scores))
            }
            _ => self.unknown(),
        }
    }

    pub(in crate::interchange) fn subtract(&mut self, a: Id, b: Id) -> Id {
        if let Some(number) = self.folded(a, b, |a, b| a - b) {
            return number;
        }
        if self.as_side(a).is_some() && self.as_side(b).is_some() {
            return self.merge(&[a, b]);
        }
        if *self.get(b) == Value::Mean(a) {
            return self.put(Value::Centered(a));
        }
        match self.scalar(b) {
            Some(number) => self.put(Value::Shifted(a, (-number).to_bits())),
            None => self.unknown(),
        }
    }

    pub(in crate::interchange) fn multiply(&mut self, a: Id, b: Id) -> Id {
        if let Some(number) = self.folded(a, b, |a, b| a * b) {
            return number;
        }
        for (a, b) in [(a, b), (b, a)] {
            match (self.get(a).clone(), self.get(b).clone()) {
                (Value::Constant(x), Value::Constant(y)) if self.constants[x].is_weight() => {
                    let product = self.constants[x].times(&self.constants[y]);
                    if product.is_some() {
                        return self.derived(product);
                    }
                }
                (Value::Scale(value, None), Value::Constant(c)) => return self.put(Value::Scale(value, Some(c))),
                (Value::IntegerProduct { input, weight, zero }, Value::Scale(of, Some(scale))) if of == input => {
                    return self.integer_linear(input, weight, scale, zero);
                }
                (Value::Norm { input, gain: None, shift: None, epsilon }, Value::Constant(c))
                    if self.constants[c].len() > 1 =>
                {
                    return self.put(Value::Norm { input, gain: Some(c), shift: None, epsilon });
                }
                _ => {}
            }
        }
        if self.as_side(a).is_some() && self.as_side(b).is_some() {
            return self.merge(&[a, b]);
        }
        for (a, b) in [(a, b), (b, a)] {
            if let Some(number) = self.scalar(b) {
                return self.scale(a, number);
            }
            if self.as_side(b).is_some_and(|side| side.inputs == 0) {
                return self.put(Value::ScaledByShape(a));
            }
        }
        if self.constant(a).is_some() || self.constant(b).is_some() {
            return self.unknown();
        }
        if self.as_side(a).is_some() || self.as_side(b).is_some() {
            return self.unknown();
        }
        let ((left, f), (right, g)) = (self.unscaled(a), self.unscaled(b));
        self.times(left, right, f * g)
    }

    fn scale(&mut self, a: Id, number: f32) -> Id {
        match *self.get(a) {
            Value::Times { left, right, factor } => self.times(left, right, f32::from_bits(factor) * number),
            Value::Scaled(inner, factor) => self.put(Value::Scaled(inner, (f32::from_bits(factor) * number).to_bits())),
            _ => self.put(Value::Scaled(a, number.to_bits())),
        }
    }

    /// `factor * left * right`: a GELU when that is what it spells.
    fn times(&mut self, left: Id, right: Id, factor: f32) -> Id {
        for (x, gate) in [(left, right), (right, left)] {
            if close(factor, 0.5) && self.is_gelu_gate(x, gate) {
                return self.put(Value::Gelu(x));
            }
            if close(factor, 0.5) && self.is_gelu_tanh_gate(x, gate) {
                return self.put(Value::GeluTanh(x));
            }
        }
        // (x x) x is a power too.
        if left == right && factor == 1.0 {
            return self.put(Value::Power(left, 2f32.to_bits()));
        }
        for (x, square) in [(left, right), (right, left)] {
            if *self.get(square) == Value::Power(x, 2f32.to_bits()) && factor == 1.0 {
                return self.put(Value::Power(x, 3f32.to_bits()));
            }
        }
        self.put(Value::Times { left: left.min(right), right: left.max(right), factor: factor.to_bits() })
    }

    pub(in crate::interchange) fn divide(&mut self, a: Id, b: Id) -> Id {
        if let Some(number) = self.folded(a, b, |a, b| a / b) {
            return number;
        }
        if self.as_side(a).is_some() && self.as_side(b).is_some() {
            return self.merge(&[a, b]);
        }
        if let Some(number) = self.scalar(b) {
            return self.scale(a, 1.0 / number);
        }
        if self.as_side(b).is_some_and(|side| side.inputs == 0) {
            return self.put(Value::ScaledByShape(a));
        }
        let value = match self.norm_of(a, b) {
            Some((input, epsilon)) => Value::Norm { input, gain: None, shift: None, epsilon },
            None => Value::Quotient(a, b),
        };
        self.put(value)
    }

    pub(in crate::interchange) fn power(&mut self, a: Id, exponent: Id) -> Id {
        match self.scalar(exponent) {
            _ if self.as_side(a).is_some() => self.merge(&[a, exponent]),
            Some(number) if close(number, 2.0) => self.put(Value::Power(a, 2f32.to_bits())),
            Some(number) if close(number, 3.0) => self.put(Value::Power(a, 3f32.to_bits())),
            Some(0.5) => self.root(a),
            _ => self.unknown(),
        }
    }

    pub(in crate::interchange) fn root(&mut self, a: Id) -> Id {
        match self.scalar(a) {
            Some(number) => self.add_constant(Constant::scalar(number.sqrt())),
            None => self.unary(a, Value::Root),
        }
    }

    /// A step with one input.
    pub(in crate::interchange) fn unary(&mut self, a: Id, value: impl Fn(Id) -> Value) -> Id {
        match self.get(a) {
            Value::Constant(c) if self.constants[*c].is_weight() => self.unknown(),
            Value::Side(_) | Value::Constant(_) => self.merge(&[a]),
            _ => self.put(value(a)),
        }
    }
}
