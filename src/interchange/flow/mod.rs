//! What a graph computes, by data flow: values named by how they come about, whatever the nodes are called.
//!
//! A reader of a format runs through the nodes of its graph in order and asks [`Flow`] for the value of each output.
//! Layout (reshapes, transpositions, casts, quantize-dequantize pairs of activations) disappears, spellings of the same
//! thing (a GELU or a layer norm of single steps, a dynamic quantization around an integer product) become one value,
//! and equal values get the same [`Id`]. [`roles`] then walks back from the output and says what each weight is for.
//! A node that is not known makes [`Value::Unknown`], which is refused only where the output depends on it.

mod constant;
pub(super) mod roles;

use std::collections::HashMap;

pub(super) use constant::{Constant, Element};

/// Index of a value.
pub(super) type Id = usize;
/// Index of a constant.
pub(super) type ConstantId = usize;

/// How a value comes about. Floats are bits, so that values can be compared and hashed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Value {
    /// Depends on no weight: ids, positions, masks, shapes.
    Side(Side),
    Constant(ConstantId),
    /// Rows of a table.
    Lookup {
        table: ConstantId,
        index: Side,
    },
    /// `left + right`
    Sum(Id, Id),
    /// A number times a value.
    Scaled(Id, u32),
    /// A value times a number that depends on shapes only.
    ScaledByShape(Id),
    /// A value plus a number.
    Shifted(Id, u32),
    /// `factor * left * right`, element by element.
    Times {
        left: Id,
        right: Id,
        factor: u32,
    },
    /// `value / other`, element by element.
    Quotient(Id, Id),
    /// `W input + bias`, with the weight `[outputs, inputs]`.
    Linear {
        input: Id,
        weight: ConstantId,
        bias: Option<ConstantId>,
    },
    /// The matrix product of two values.
    Product(Id, Id),
    /// Layer norm; gain and shift are filled in where they are applied.
    Norm {
        input: Id,
        gain: Option<ConstantId>,
        shift: Option<ConstantId>,
        epsilon: u32,
    },
    /// Mean over the last dimension.
    Mean(Id),
    /// `value - Mean(value)`
    Centered(Id),
    Power(Id, u32),
    Root(Id),
    Erf(Id),
    Tanh(Id),
    Relu(Id),
    Gelu(Id),
    GeluTanh(Id),
    Softmax(Id),
    /// Scores with a mask.
    Masked(Id),
    /// Whether a value is not a number.
    IsNan(Id),
    /// The first token of each sequence.
    First(Id),
    /// The integers, the scale (times a constant) and the zero point of a value that is quantized while the graph runs.
    Integers(Id),
    Scale(Id, Option<ConstantId>),
    ZeroPoint(Id),
    /// The product of a value's integers and those of a weight `[outputs, inputs]`.
    IntegerProduct {
        input: Id,
        weight: ConstantId,
        zero: Option<ConstantId>,
    },
    /// Softmax attention of fused nodes, with the factor on the scores when it is not `1 / sqrt(head width)`.
    Attention {
        query: Id,
        key: Id,
        value: Id,
        heads: usize,
        scale: Option<u32>,
    },
    /// The output of this node.
    Unknown(usize),
}

/// What a value without weights depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Side {
    /// Inputs of the graph whose values (not only their shapes) matter, one bit each.
    pub inputs: u64,
    /// Whether positions are counted: from the shape of the input, or by a constant 0, 1, 2, ...
    pub counts: bool,
    /// Whether something is summed up along the sequence, as RoBERTa counts positions.
    pub sums_up: bool,
    /// The number that the inputs are compared with: RoBERTa's padding id.
    pub compared: Option<i64>,
    /// Whether all its values are 0.
    pub zeros: bool,
    /// Whether positions are compared with each other, as a mask of what comes later does.
    pub ordered: bool,
}

impl Side {
    /// What depends on both.
    pub(super) fn and(self, other: Side) -> Side {
        Side {
            inputs: self.inputs | other.inputs,
            counts: self.counts || other.counts,
            sums_up: self.sums_up || other.sums_up,
            compared: self.compared.or(other.compared),
            zeros: false,
            ordered: self.ordered || other.ordered,
        }
    }
}

/// The values of a graph.
pub(super) struct Flow<'a> {
    pub(super) constants: Vec<Constant<'a>>,
    values: Vec<(Value, usize)>,
    known: HashMap<Value, Id>,
    /// The node that is being read, for messages.
    node: usize,
    /// Bytes that constants may still have of their own: many nodes on one tensor must not make much of little.
    budget: usize,
}

fn close(a: f32, b: f32) -> bool {
    (a - b).abs() <= 2e-3 * b.abs()
}

impl<'a> Flow<'a> {
    /// The flow of a graph whose file has so many bytes.
    pub(super) fn new(file_bytes: usize) -> Self {
        let budget = 16 * file_bytes + (1 << 20);
        Flow { constants: Vec::new(), values: Vec::new(), known: HashMap::new(), node: 0, budget }
    }

    /// Says which node the next values come from.
    pub(super) fn at_node(&mut self, node: usize) {
        self.node = node;
    }

    /// The node that a value came from first.
    pub(super) fn node_of(&self, id: Id) -> usize {
        self.values[id].1
    }

    pub(super) fn get(&self, id: Id) -> &Value {
        &self.values[id].0
    }

    /// A constant; an unknown value when constants take too much memory.
    pub(super) fn add_constant(&mut self, constant: Constant<'a>) -> Id {
        match self.keep(constant) {
            Some(constant) => self.put(Value::Constant(constant)),
            None => self.unknown(),
        }
    }

    fn keep(&mut self, constant: Constant<'a>) -> Option<ConstantId> {
        self.budget = self.budget.checked_sub(constant.own_bytes())?;
        self.constants.push(constant);
        Some(self.constants.len() - 1)
    }

    pub(super) fn side(&mut self, side: Side) -> Id {
        self.put(Value::Side(side))
    }

    pub(super) fn unknown(&mut self) -> Id {
        self.put(Value::Unknown(self.node))
    }

    pub(super) fn constant(&self, id: Id) -> Option<&Constant<'a>> {
        match self.get(id) {
            Value::Constant(c) => Some(&self.constants[*c]),
            _ => None,
        }
    }

    /// The only number of a constant.
    pub(super) fn scalar(&self, id: Id) -> Option<f32> {
        self.constant(id).and_then(Constant::as_scalar)
    }

    pub(super) fn integers(&self, id: Id) -> Option<Vec<i64>> {
        self.constant(id).and_then(Constant::as_integers)
    }

    /// What a value depends on, when that is no weight.
    pub(super) fn as_side(&self, id: Id) -> Option<Side> {
        match self.get(id) {
            Value::Side(side) => Some(*side),
            Value::Constant(c) if !self.constants[*c].is_weight() => {
                let constant = &self.constants[*c];
                Some(Side { counts: constant.counts(), zeros: constant.is_zeros(), ..Side::default() })
            }
            _ => None,
        }
    }

    /// The value of a node that only moves or compares what it gets: of no weight when none of its inputs is one.
    pub(super) fn merge(&mut self, ids: &[Id]) -> Id {
        let sides = ids.iter().map(|id| self.as_side(*id));
        match sides.collect::<Option<Vec<_>>>() {
            Some(sides) => self.side(sides.into_iter().fold(Side::default(), Side::and)),
            None => self.unknown(),
        }
    }

    /// The value of a node that picks values of `from`, or puts them in another place.
    pub(super) fn pick(&mut self, from: Id, others: &[Id]) -> Id {
        match self.as_side(from) {
            Some(side) if side.zeros => self.side(side),
            _ => self.merge(&[&[from], others].concat()),
        }
    }

    pub(super) fn put(&mut self, value: Value) -> Id {
        if let Some(id) = self.known.get(&value) {
            return *id;
        }
        self.values.push((value.clone(), self.node));
        self.known.insert(value, self.values.len() - 1);
        self.values.len() - 1
    }

    /// A new constant in place of one.
    pub(super) fn derived(&mut self, constant: Option<Constant<'a>>) -> Id {
        match constant {
            Some(constant) => self.add_constant(constant),
            None => self.unknown(),
        }
    }

    /// The number before a scaled value.
    pub(super) fn unscaled(&self, id: Id) -> (Id, f32) {
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

    pub(super) fn add(&mut self, a: Id, b: Id) -> Id {
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
    pub(super) fn mask(&mut self, scores: Id, mask: Side) -> Id {
        match self.get(self.unscaled(scores).0) {
            Value::Product(..) | Value::Masked(_) | Value::ScaledByShape(_) if !mask.ordered => {
                self.put(Value::Masked(scores))
            }
            _ => self.unknown(),
        }
    }

    pub(super) fn subtract(&mut self, a: Id, b: Id) -> Id {
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

    pub(super) fn multiply(&mut self, a: Id, b: Id) -> Id {
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

    /// `1 + erf(x / sqrt 2)`
    fn is_gelu_gate(&self, x: Id, gate: Id) -> bool {
        let Some(erf) = self.one_more_than(gate) else { return false };
        let Value::Erf(inner) = *self.get(erf) else { return false };
        let (inner, factor) = self.unscaled(inner);
        inner == x && close(factor, std::f32::consts::FRAC_1_SQRT_2)
    }

    /// `1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))`
    fn is_gelu_tanh_gate(&self, x: Id, gate: Id) -> bool {
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

    pub(super) fn divide(&mut self, a: Id, b: Id) -> Id {
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

    /// `(x - mean) / sqrt(mean((x - mean)^2) + epsilon)`
    fn norm_of(&self, centered: Id, root: Id) -> Option<(Id, u32)> {
        let Value::Centered(input) = *self.get(centered) else { return None };
        let Value::Root(variance) = *self.get(root) else { return None };
        let Value::Shifted(mean, epsilon) = *self.get(variance) else { return None };
        let Value::Mean(square) = *self.get(mean) else { return None };
        (*self.get(square) == Value::Power(centered, 2f32.to_bits())).then_some((input, epsilon))
    }

    pub(super) fn power(&mut self, a: Id, exponent: Id) -> Id {
        match self.scalar(exponent) {
            _ if self.as_side(a).is_some() => self.merge(&[a, exponent]),
            Some(number) if close(number, 2.0) => self.put(Value::Power(a, 2f32.to_bits())),
            Some(number) if close(number, 3.0) => self.put(Value::Power(a, 3f32.to_bits())),
            Some(0.5) => self.root(a),
            _ => self.unknown(),
        }
    }

    pub(super) fn root(&mut self, a: Id) -> Id {
        match self.scalar(a) {
            Some(number) => self.add_constant(Constant::scalar(number.sqrt())),
            None => self.unary(a, Value::Root),
        }
    }

    /// A step with one input.
    pub(super) fn unary(&mut self, a: Id, value: impl Fn(Id) -> Value) -> Id {
        match self.get(a) {
            Value::Constant(c) if self.constants[*c].is_weight() => self.unknown(),
            Value::Side(_) | Value::Constant(_) => self.merge(&[a]),
            _ => self.put(value(a)),
        }
    }

    /// A matrix product; the weight, when `b` is one, is `[inputs, outputs]`.
    pub(super) fn matmul(&mut self, a: Id, b: Id) -> Id {
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
    pub(super) fn linear(&mut self, input: Id, weight: Option<Constant<'a>>) -> Id {
        match weight {
            Some(weight) if weight.shape().len() == 2 && self.as_side(input).is_none() => match self.keep(weight) {
                Some(weight) => self.put(Value::Linear { input, weight, bias: None }),
                None => self.unknown(),
            },
            _ => self.unknown(),
        }
    }

    /// The linear layer that a product of integers and a scale make.
    pub(super) fn integer_linear(
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
    pub(super) fn gather(&mut self, from: Id, index: Id, axis: i64) -> Id {
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

    pub(super) fn norm(&mut self, input: Id, gain: Id, shift: Id, epsilon: f32) -> Id {
        match (self.get(gain), self.get(shift)) {
            (&Value::Constant(gain), &Value::Constant(shift)) if self.as_side(input).is_none() => {
                let epsilon = epsilon.to_bits();
                self.put(Value::Norm { input, gain: Some(gain), shift: Some(shift), epsilon })
            }
            _ => self.unknown(),
        }
    }

    /// Real numbers from integers: a constant's, or those that a table or an activation was looked up or computed in.
    pub(super) fn dequantize(&mut self, of: Id, scale: Id, zero: Option<Id>, axis: Option<i64>) -> Id {
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

    fn outputs(&self, weight: ConstantId) -> usize {
        self.constants[weight].shape()[0]
    }

    fn is_vector(&self, constant: ConstantId, len: usize) -> bool {
        let constant = &self.constants[constant];
        constant.is_real() && constant.len() == len && constant.shape().last() == Some(&len)
    }
}
