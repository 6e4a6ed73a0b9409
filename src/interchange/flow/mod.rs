//! What a graph computes, by data flow: values named by how they come about, whatever the nodes are called.
//!
//! A reader of a format runs through the nodes of its graph in order and asks [`Flow`] for the value of each output.
//! Layout (reshapes, transpositions, casts, quantize-dequantize pairs of activations) disappears, spellings of the same
//! thing (a GELU or a layer norm of single steps, a dynamic quantization around an integer product) become one value,
//! and equal values get the same [`Id`]. [`roles`] then walks back from the output and says what each weight is for.
//! A node that is not known makes [`Value::Unknown`], which is refused only where the output depends on it.

mod arithmetic;
mod constant;
mod layers;
pub(super) mod roles;
mod spellings;
mod value;

use std::collections::HashMap;

pub(super) use constant::{Constant, Element};
pub(super) use value::{ConstantId, Id, Side, Value};

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
}
