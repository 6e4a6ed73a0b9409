//! Steps with weights: products, tables, norms, and the integers that they are stored in.

use super::{Constant, ConstantId, Flow, Id, Value};

impl<'a> Flow<'a> {
    /// A matrix product; the weight, when `b` is one, is `[inputs, outputs]`.
    pub(in crate::interchange) fn matmul(&mut self, a: Id, b: Id) -> Id {
        match (self.get(a), self.get(b)) {
            (Value::Constant(_), _) => self.unknown(),
            (_, Value::Constant(_)) => {
                let weight = self.constant(b).expect("a constant").transpose();
                self.linear(a, weight)
            }
            (Value::Side(_), _) | (_, Value::Side(_)) => self.merge(&[a, b]),
            _ => self.put(Value::Product(a, b)),
        }
    }

    /// `W input`, with the weight `[outputs, inputs]`.
    pub(in crate::interchange) fn linear(&mut self, input: Id, weight: Option<Constant<'a>>) -> Id {
        match weight {
            Some(weight) if weight.shape().len() == 2 && self.as_side(input).is_none() => match self.keep(weight) {
                Some(weight) => self.put(Value::Linear { input, weight, bias: None }),
                None => self.unknown(),
            },
            _ => self.unknown(),
        }
    }

    /// The linear layer that a product of integers and a scale make.
    pub(in crate::interchange) fn integer_linear(
        &mut self,
        input: Id,
        weight: ConstantId,
        scale: ConstantId,
        zero: Option<ConstantId>,
    ) -> Id {
        let zero = zero.map(|zero| &self.constants[zero]);
        let weight = self.constants[weight].dequantize(&self.constants[scale], zero, Some(0));
        self.linear(input, weight)
    }

    /// Rows of a table, or a token of each sequence.
    pub(in crate::interchange) fn gather(&mut self, from: Id, index: Id, axis: i64) -> Id {
        if let (Value::Constant(table), Some(index)) = (self.get(from).clone(), self.as_side(index)) {
            let constant = &self.constants[table];
            return match (constant.is_weight() && constant.shape().len() == 2, axis) {
                (true, 0) => self.put(Value::Lookup { table, index }),
                _ if constant.is_weight() => self.unknown(),
                _ => {
                    let index = self.side(index);
                    self.pick(from, &[index])
                }
            };
        }
        if self.as_side(from).is_some() {
            return self.pick(from, &[index]);
        }
        match self.integers(index).as_deref() {
            Some([0]) if axis == 1 => self.put(Value::First(from)),
            _ => self.unknown(),
        }
    }

    pub(in crate::interchange) fn norm(&mut self, input: Id, gain: Id, shift: Id, epsilon: f32) -> Id {
        match (self.get(gain), self.get(shift)) {
            (&Value::Constant(gain), &Value::Constant(shift)) if self.as_side(input).is_none() => {
                let epsilon = epsilon.to_bits();
                self.put(Value::Norm { input, gain: Some(gain), shift: Some(shift), epsilon })
            }
            _ => self.unknown(),
        }
    }

    /// Real numbers from integers: a constant's, or those that a table or an activation was looked up or computed in.
    pub(in crate::interchange) fn dequantize(&mut self, of: Id, scale: Id, zero: Option<Id>, axis: Option<i64>) -> Id {
        match *self.get(of) {
            Value::Constant(c) | Value::Lookup { table: c, .. } if !self.constants[c].is_real() => {
                let Some(scale) = self.constant(scale) else { return self.unknown() };
                let zero = match zero.map(|zero| self.constant(zero)) {
                    Some(None) => return self.unknown(),
                    zero => zero.flatten(),
                };
                let constant = self.constants[c].dequantize(scale, zero, axis);
                match (self.get(of).clone(), constant) {
                    (Value::Lookup { index, .. }, Some(constant)) => match self.keep(constant) {
                        Some(table) => self.put(Value::Lookup { table, index }),
                        None => self.unknown(),
                    },
                    (_, constant) => self.derived(constant),
                }
            }
            Value::Constant(c) if self.constants[c].is_weight() => self.unknown(),
            // What quantized an activation left no trace: a model folder quantizes them in its own way.
            _ => of,
        }
    }

    pub(super) fn outputs(&self, weight: ConstantId) -> usize {
        self.constants[weight].shape()[0]
    }

    pub(super) fn is_vector(&self, constant: ConstantId, len: usize) -> bool {
        let constant = &self.constants[constant];
        constant.is_real() && constant.len() == len && constant.shape().last() == Some(&len)
    }
}
