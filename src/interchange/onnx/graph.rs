//! The nodes of an ONNX graph → the flow of values through it. One function per kind of node; what is not here is
//! refused where the output depends on it.

use std::collections::HashMap;

use crate::interchange::flow::{Constant, ConstantId, Element, Flow, Id, Side, Value};

use super::External;
use super::proto::{Model, Node, Tensor};

/// Domain of ONNX Runtime's own nodes.
const MICROSOFT: &str = "com.microsoft";
/// Inputs that one bit each is kept for.
const MAX_INPUTS: usize = 64;

/// A graph that was read: its values, and those of its outputs by name.
pub(super) struct Graph<'a> {
    pub flow: Flow<'a>,
    pub outputs: Vec<(&'a str, Id)>,
}

/// What one node sees.
struct Scope<'f, 'm, 'a> {
    flow: &'f mut Flow<'a>,
    node: &'m Node<'a>,
    inputs: Vec<Option<Id>>,
}

/// Reads a graph.
///
/// # Errors
/// When it is damaged: values that nobody makes, made twice, or before their nodes.
pub(super) fn read<'a>(model: &Model<'a>, external: &'a External, file_bytes: usize) -> Result<Graph<'a>, String> {
    let mut flow = Flow::new(file_bytes);
    let mut values: HashMap<&str, Id> = HashMap::new();
    for tensor in &model.initializers {
        let constant = constant(tensor, external).map_err(|reason| format!("tensor \"{}\": {reason}", tensor.name))?;
        if values.insert(tensor.name, flow.add_constant(constant)).is_some() {
            return Err(format!("tensor \"{}\" twice", tensor.name));
        }
    }
    let inputs: Vec<&str> = model.inputs.iter().copied().filter(|name| !values.contains_key(name)).collect();
    if inputs.len() > MAX_INPUTS {
        return Err(format!("{} inputs, at most {MAX_INPUTS} allowed", inputs.len()));
    }
    for (bit, name) in inputs.into_iter().enumerate() {
        let side = Side { inputs: 1 << bit, ..Side::default() };
        values.insert(name, flow.side(side));
    }
    for (index, node) in model.nodes.iter().enumerate() {
        flow.at_node(index);
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for name in &node.inputs {
            inputs.push(match *name {
                "" => None,
                name => Some(*values.get(name).ok_or_else(|| format!("nothing makes \"{name}\" before it is used"))?),
            });
        }
        let outputs = evaluate(&mut flow, node, inputs, external)?;
        for (name, id) in node.outputs.iter().zip(outputs).filter(|(name, _)| !name.is_empty()) {
            if values.insert(name, id).is_some() {
                return Err(format!("\"{name}\" is made twice"));
            }
        }
    }
    let output = |name: &&'a str| match values.get(name) {
        Some(id) => Ok((*name, *id)),
        None => Err(format!("nothing makes the output \"{name}\"")),
    };
    let outputs = model.outputs.iter().map(output).collect::<Result<_, _>>()?;
    Ok(Graph { flow, outputs })
}

/// Values of a node's outputs.
fn evaluate<'a>(
    flow: &mut Flow<'a>,
    node: &Node<'a>,
    inputs: Vec<Option<Id>>,
    external: &'a External,
) -> Result<Vec<Id>, String> {
    let constant_of = |tensor: &Tensor<'a>| {
        constant(tensor, external).map_err(|reason| format!("tensor in node \"{}\": {reason}", node.name))
    };
    if node.op == "Constant" && node.domain.is_empty() {
        let attribute = node.attributes.first().ok_or_else(|| format!("node \"{}\" has no value", node.name))?;
        let constant = match (attribute.name, &attribute.tensor) {
            (_, Some(tensor)) => constant_of(tensor)?,
            ("value_float", _) => Constant::scalar(attribute.float),
            ("value_int", _) => integers(&[attribute.int], vec![]),
            ("value_ints", _) => integers(&attribute.ints, vec![attribute.ints.len()]),
            (other, _) => return Err(format!("node \"{}\": {other} is not supported", node.name)),
        };
        return Ok(vec![flow.add_constant(constant)]);
    }
    if node.op == "ConstantOfShape" {
        let value = match node.attribute("value").and_then(|a| a.tensor.as_ref()) {
            Some(tensor) => constant_of(tensor)?,
            None => Constant::scalar(0.0),
        };
        let zeros = value.is_zeros() || value.as_scalar() == Some(0.0);
        return Ok(vec![flow.side(Side { zeros, ..Side::default() })]);
    }
    let mut scope = Scope { flow, node, inputs };
    let outputs = match node.domain {
        _ if node.attributes.iter().any(|a| a.is_graph) => None,
        "" | "ai.onnx" => scope.onnx(),
        MICROSOFT => scope.microsoft(),
        _ => None,
    };
    let unknown = scope.flow.unknown();
    let mut outputs = outputs.unwrap_or_default();
    outputs.resize(node.outputs.len().max(outputs.len()), unknown);
    Ok(outputs)
}

fn integers(values: &[i64], shape: Vec<usize>) -> Constant<'static> {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Constant::new(Element::I64, shape, bytes).expect("as many integers as the shape says")
}

/// The values of a tensor, by `TensorProto.DataType`.
fn constant<'a>(tensor: &Tensor<'a>, external: &'a External) -> Result<Constant<'a>, String> {
    let element = match tensor.data_type {
        1 => Element::F32,
        2 => Element::U8,
        3 => Element::I8,
        6 => Element::I32,
        7 => Element::I64,
        9 => Element::Bool,
        10 => Element::F16,
        16 => Element::Bf16,
        other => {
            return Err(format!(
                "data type {other}; supported: float, float16, bfloat16, int8, uint8, int32, int64, bool"
            ));
        }
    };
    let shape = tensor.dims.clone();
    if let Some(place) = &tensor.external {
        return Constant::new(element, shape, external.slice(place)?);
    }
    if let Some(raw) = tensor.raw {
        return Constant::new(element, shape, raw);
    }
    if let (Element::F32, Some(floats)) = (element, tensor.floats) {
        return Constant::new(element, shape, floats);
    }
    let width = element.bytes();
    let bytes: Vec<u8> = tensor.ints.iter().flat_map(|v| v.to_le_bytes()[..width].to_vec()).collect();
    Constant::new(element, shape, bytes)
}

impl<'a> Scope<'_, '_, 'a> {
    fn input(&self, index: usize) -> Option<Id> {
        self.inputs.get(index).copied().flatten()
    }

    fn constant_id(&self, index: usize) -> Option<ConstantId> {
        match self.flow.get(self.input(index)?) {
            Value::Constant(c) => Some(*c),
            _ => None,
        }
    }

    /// An integer input that is an attribute in older opsets.
    fn axes(&self, input: usize, attribute: &str) -> Option<Vec<i64>> {
        match self.input(input) {
            Some(id) => self.flow.integers(id),
            None => {
                self.node.attribute(attribute).map(|a| if a.ints.is_empty() { vec![a.int] } else { a.ints.clone() })
            }
        }
    }

    fn present(&self) -> Vec<Id> {
        self.inputs.iter().flatten().copied().collect()
    }

    /// Whether the value carries weights: not a constant, and not of the side.
    fn is_hidden(&self, id: Id) -> bool {
        self.flow.constant(id).is_none() && self.flow.as_side(id).is_none()
    }

    /// Nodes of the standard; `None` for those that are not known.
    fn onnx(&mut self) -> Option<Vec<Id>> {
        let a = self.input(0);
        let one = |id: Id| Some(vec![id]);
        match self.node.op {
            "Identity" | "Dropout" => one(a?),
            "Cast" => one(self.cast(a?)?),
            "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" => one(self.reshape(a?)?),
            "Transpose" => one(self.transpose(a?)?),
            "Slice" => one(self.slice(a?)?),
            "Shape" | "Size" => one(self.flow.side(Side::default())),
            "Gather" => one(self.flow.gather(a?, self.input(1)?, self.node.int("axis", 0))),
            "Expand" | "GatherElements" | "GatherND" => {
                let others = self.present().split_off(1);
                one(self.flow.pick(a?, &others))
            }
            "Add" => one(self.flow.add(a?, self.input(1)?)),
            "Sub" => one(self.flow.subtract(a?, self.input(1)?)),
            "Mul" => one(self.flow.multiply(a?, self.input(1)?)),
            "Div" => one(self.flow.divide(a?, self.input(1)?)),
            "Pow" => one(self.flow.power(a?, self.input(1)?)),
            "Sqrt" => one(self.flow.root(a?)),
            "Erf" => one(self.flow.unary(a?, Value::Erf)),
            "Tanh" => one(self.flow.unary(a?, Value::Tanh)),
            "Relu" => one(self.flow.unary(a?, Value::Relu)),
            "IsNaN" => one(self.flow.unary(a?, Value::IsNan)),
            "Gelu" => {
                let tanh = self.node.attribute("approximate").is_some_and(|a| a.text == b"tanh");
                one(self.flow.unary(a?, if tanh { Value::GeluTanh } else { Value::Gelu }))
            }
            "Softmax" => {
                let last = matches!(self.node.int("axis", -1), -1 | 3);
                one(if last { self.flow.unary(a?, Value::Softmax) } else { self.flow.unknown() })
            }
            "ReduceMean" => {
                let last = self.axes(1, "axes") == Some(vec![-1]) || self.axes(1, "axes") == Some(vec![2]);
                let keeps = self.node.int("keepdims", 1) == 1;
                let hidden = self.is_hidden(a?);
                one(if !hidden || last && keeps { self.flow.unary(a?, Value::Mean) } else { self.flow.unknown() })
            }
            "LayerNormalization" => {
                let last = matches!(self.node.int("axis", -1), -1 | 2);
                let epsilon = self.node.attribute("epsilon").map_or(1e-5, |a| a.float);
                one(if last {
                    self.flow.norm(a?, self.input(1)?, self.input(2)?, epsilon)
                } else {
                    self.flow.unknown()
                })
            }
            "MatMul" => one(self.flow.matmul(a?, self.input(1)?)),
            "Gemm" => one(self.gemm(a?)?),
            "Where" => one(self.choose(a?, self.input(1)?, self.input(2)?)),
            "QuantizeLinear" => {
                // Weights are quantized before they are stored; what is quantized here is an activation, a mask or a number.
                let passes = !self.flow.constant(a?).is_some_and(Constant::is_weight);
                one(if passes { a? } else { self.flow.unknown() })
            }
            "DequantizeLinear" => {
                let axis = self.node.int("axis", 1);
                one(self.flow.dequantize(a?, self.input(1)?, self.input(2), Some(axis)))
            }
            "DynamicQuantizeLinear" if self.is_hidden(a?) => {
                let a = a?;
                Some(vec![
                    self.flow.put(Value::Integers(a)),
                    self.flow.put(Value::Scale(a, None)),
                    self.flow.put(Value::ZeroPoint(a)),
                ])
            }
            "MatMulInteger" => one(self.integer_product(a?)?),
            // Masks, positions and shapes.
            "Equal" => {
                let merged = self.merged()?;
                let compared = self.present().iter().find_map(|id| self.flow.integers(*id)).filter(|v| v.len() == 1);
                one(self.flow.side(Side { compared: merged.compared.or(compared.map(|v| v[0])), ..merged }))
            }
            "CumSum" => {
                let merged = self.merged()?;
                one(self.flow.side(Side { sums_up: true, ..merged }))
            }
            "Range" => {
                let merged = self.merged()?;
                one(self.flow.side(Side { counts: true, ..merged }))
            }
            "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" => {
                let merged = self.merged()?;
                let both = self.present().iter().all(|id| self.flow.as_side(*id).is_some_and(|s| s.counts));
                one(self.flow.side(Side { ordered: merged.ordered || both, ..merged }))
            }
            "Trilu" => {
                let merged = self.merged()?;
                one(self.flow.side(Side { ordered: true, ..merged }))
            }
            "And" | "Or" | "Not" | "Xor" | "Max" | "Min" | "Neg" | "Abs" | "Concat" | "Clip" | "Floor" | "Ceil"
            | "Mod" | "Tile" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "Sign" | "Split" => {
                let merged = self.merged()?;
                let side = self.flow.side(merged);
                Some(vec![side; self.node.outputs.len()])
            }
            _ => None,
        }
    }

    /// What all inputs together depend on, when none carries weights.
    fn merged(&mut self) -> Option<Side> {
        let id = self.flow.merge(&self.present());
        self.flow.as_side(id)
    }

    fn cast(&mut self, a: Id) -> Option<Id> {
        let to_float = matches!(self.node.int("to", 0), 1 | 10 | 11 | 16);
        let Some(constant) = self.flow.constant(a) else { return Some(a) };
        match (constant.is_weight(), to_float) {
            (true, true) if self.node.int("to", 0) == 1 => {
                let real = constant.to_real();
                Some(self.flow.derived(real))
            }
            (true, _) => None,
            (false, true) if !constant.is_real() && constant.len() == 1 => {
                let real = constant.to_real();
                Some(self.flow.derived(real))
            }
            (false, _) => Some(a),
        }
    }

    fn reshape(&mut self, a: Id) -> Option<Id> {
        if self.is_hidden(a) {
            return Some(a);
        }
        match self.flow.constant(a).filter(|c| c.is_weight()) {
            Some(constant) => {
                let shape = self.flow.integers(self.input(1)?).filter(|_| self.node.op == "Reshape")?;
                let reshaped = constant.reshape(&shape);
                Some(self.flow.derived(reshaped))
            }
            None if self.flow.constant(a).is_some_and(|c| c.len() == 1) => Some(a),
            None => Some(self.flow.pick(a, &[])),
        }
    }

    fn transpose(&mut self, a: Id) -> Option<Id> {
        let permutation = self.node.attribute("perm").map(|a| a.ints.as_slice());
        if let Some(constant) = self.flow.constant(a).filter(|c| c.is_weight()) {
            let transposed = constant.transpose().filter(|_| matches!(permutation, None | Some([1, 0])));
            return Some(self.flow.derived(transposed));
        }
        if !self.is_hidden(a) {
            return Some(self.flow.merge(&[a]));
        }
        // Heads and tokens change places, or the last two dimensions of keys.
        matches!(permutation?, [0, 2, 1, 3] | [0, 2, 3, 1] | [0, 1, 3, 2] | [0, 2, 1]).then_some(a)
    }

    fn slice(&mut self, a: Id) -> Option<Id> {
        if !self.is_hidden(a) {
            let others = self.present().split_off(1);
            return Some(self.flow.pick(a, &others));
        }
        let (starts, ends) = match self.input(1) {
            Some(_) => (self.axes(1, "")?, self.axes(2, "")?),
            None => (self.axes(9, "starts")?, self.axes(9, "ends")?),
        };
        let axes = self.axes(3, "axes").unwrap_or_else(|| (0..starts.len() as i64).collect());
        match (starts[..].iter().all(|s| *s == 0), &ends[..], &axes[..]) {
            (true, [1], [1]) => Some(self.flow.put(Value::First(a))),
            (true, ends, _) if ends.iter().all(|end| *end >= i64::from(i32::MAX)) => Some(a),
            _ => None,
        }
    }

    fn gemm(&mut self, a: Id) -> Option<Id> {
        let factor = |name: &str| self.node.attribute(name).is_none_or(|a| a.float == 1.0);
        if !factor("alpha") || !factor("beta") || self.node.int("transA", 0) != 0 {
            return None;
        }
        let weight = self.flow.constant(self.input(1)?)?;
        let weight = if self.node.int("transB", 0) == 1 { Some(weight.clone()) } else { weight.transpose() };
        let product = self.flow.linear(a, weight);
        Some(match self.input(2) {
            Some(bias) => self.flow.add(product, bias),
            None => product,
        })
    }

    /// `Where(condition, x, y)`: a mask of scores, or what keeps a softmax of nothing from being no number.
    fn choose(&mut self, condition: Id, x: Id, y: Id) -> Id {
        if let Value::IsNan(value) = *self.flow.get(condition) {
            return match self.flow.scalar(x) == Some(0.0) && y == value {
                true => y,
                false => self.flow.unknown(),
            };
        }
        let sides = [condition, x, y].map(|id| self.flow.as_side(id));
        match sides {
            [Some(a), Some(b), Some(c)] => self.flow.side(a.and(b).and(c)),
            [Some(mask), Some(_), None] => self.flow.mask(y, mask),
            [Some(mask), None, Some(_)] => self.flow.mask(x, mask),
            _ => self.flow.unknown(),
        }
    }

    fn integer_product(&mut self, a: Id) -> Option<Id> {
        let Value::Integers(input) = *self.flow.get(a) else { return None };
        let (_, zero) = (self.quantized_zero(input, 2)?, self.constant_id(3));
        let weight = self.flow.constant(self.input(1)?)?.transpose()?;
        let weight = self.flow.add_constant(weight);
        let Value::Constant(weight) = *self.flow.get(weight) else { return None };
        Some(self.flow.put(Value::IntegerProduct { input, weight, zero }))
    }

    /// Checks that an input is the zero point of a value that is quantized while the graph runs.
    fn quantized_zero(&self, of: Id, input: usize) -> Option<()> {
        (*self.flow.get(self.input(input)?) == Value::ZeroPoint(of)).then_some(())
    }

    /// Nodes of ONNX Runtime (`ContribOperators.md`).
    fn microsoft(&mut self) -> Option<Vec<Id>> {
        let a = self.input(0);
        let one = |id: Id| Some(vec![id]);
        match self.node.op {
            "Gelu" => one(self.flow.unary(a?, Value::Gelu)),
            "BiasGelu" => {
                let sum = self.flow.add(a?, self.input(1)?);
                one(self.flow.unary(sum, Value::Gelu))
            }
            "FastGelu" => {
                let sum = match self.input(1) {
                    Some(bias) => self.flow.add(a?, bias),
                    None => a?,
                };
                one(self.flow.unary(sum, Value::GeluTanh))
            }
            "FusedMatMul" => {
                let alpha = self.node.attribute("alpha").map_or(1.0, |a| a.float);
                let (a, b) = (a?, self.input(1)?);
                if !self.is_hidden(a) || !self.is_hidden(b) || self.node.int("transA", 0) != 0 {
                    return None;
                }
                let product = self.flow.matmul(a, b);
                let alpha = self.flow.add_constant(Constant::scalar(alpha));
                one(self.flow.multiply(product, alpha))
            }
            "SkipLayerNormalization" => {
                let (mut parts, epsilon) = ([a?, self.input(1)?], self.epsilon());
                if let Some(bias) = self.input(4) {
                    let without = |id: &&mut Id| matches!(self.flow.get(**id), Value::Linear { bias: None, .. });
                    let part = parts.iter_mut().find(without)?;
                    *part = self.flow.add(*part, bias);
                }
                let sum = self.flow.add(parts[0], parts[1]);
                one(self.flow.norm(sum, self.input(2)?, self.input(3)?, epsilon))
            }
            "EmbedLayerNormalization" => {
                let constants = [2, 3, 4, 5, 6].map(|i| self.input(i));
                self.embed(constants)
            }
            "QEmbedLayerNormalization" => {
                // Tables and norm, their scales, their zero points.
                let mut constants = [None; 5];
                for (i, real) in constants.iter_mut().enumerate() {
                    if let Some(integers) = self.input(2 + i) {
                        let (scale, zero) = (self.input(8 + i)?, self.input(13 + i));
                        *real = Some(self.flow.dequantize(integers, scale, zero, None));
                    }
                }
                self.embed(constants)
            }
            "Attention" => {
                let weight = self.flow.constant(self.input(1)?)?.split(3)?;
                let plain = self.node.attribute("qkv_hidden_sizes").is_none() && self.absent(&[4, 5, 6]);
                let a = a?;
                let linears: Vec<Id> = weight.into_iter().map(|w| self.flow.linear(a, w.transpose())).collect();
                one(plain.then(|| self.attend(linears, 2))??)
            }
            "QAttention" => {
                let Value::Integers(input) = *self.flow.get(a?) else { return None };
                let scaled = *self.flow.get(self.input(3)?) == Value::Scale(input, None);
                self.quantized_zero(input, 6)?;
                let (scale, zero) = (self.input(4)?, self.input(7));
                let weight = self.flow.dequantize(self.input(1)?, scale, zero, Some(1));
                let weight = self.flow.constant(weight)?.split(3)?;
                let linears: Vec<Id> = weight.into_iter().map(|w| self.flow.linear(input, w.transpose())).collect();
                one((scaled && self.absent(&[8])).then(|| self.attend(linears, 2))??)
            }
            "MultiHeadAttention" => {
                let linears = vec![a?, self.input(1)?, self.input(2)?];
                one(self.absent(&[5, 6, 7]).then(|| self.attend(linears, 3))??)
            }
            "DynamicQuantizeMatMul" => {
                let zero = self.constant_id(3);
                let weight = self.flow.constant(self.input(1)?)?.transpose()?;
                let linear = self.integer_linear(a?, weight, self.constant_id(2)?, zero)?;
                one(self.biased(linear, 4))
            }
            "MatMulIntegerToFloat" => {
                let Value::Integers(input) = *self.flow.get(a?) else { return None };
                self.quantized_zero(input, 4)?;
                let scaled = *self.flow.get(self.input(2)?) == Value::Scale(input, None);
                let weight = self.flow.constant(self.input(1)?)?.transpose().filter(|_| scaled)?;
                let zero = self.constant_id(5);
                let linear = self.integer_linear(input, weight, self.constant_id(3)?, zero)?;
                one(self.biased(linear, 6))
            }
            _ => None,
        }
    }

    fn epsilon(&self) -> f32 {
        self.node.attribute("epsilon").map_or(1e-12, |a| a.float)
    }

    fn absent(&self, inputs: &[usize]) -> bool {
        inputs.iter().all(|i| self.input(*i).is_none())
    }

    fn integer_linear(
        &mut self,
        input: Id,
        weight: Constant<'a>,
        scale: ConstantId,
        zero: Option<ConstantId>,
    ) -> Option<Id> {
        let weight = self.flow.add_constant(weight);
        let Value::Constant(weight) = *self.flow.get(weight) else { return None };
        Some(self.flow.integer_linear(input, weight, scale, zero))
    }

    fn biased(&mut self, linear: Id, bias: usize) -> Id {
        match self.input(bias) {
            Some(bias) => self.flow.add(linear, bias),
            None => linear,
        }
    }

    /// Word, position and token-type tables, gain and shift → the embeddings; then a mask.
    fn embed(&mut self, [word, position, types, gain, shift]: [Option<Id>; 5]) -> Option<Vec<Id>> {
        let epsilon = self.epsilon();
        let positions = match self.input(if self.node.op.starts_with('Q') { 18 } else { 8 }) {
            Some(given) => given,
            None => self.flow.side(Side { counts: true, ..Side::default() }),
        };
        let word = self.flow.gather(word?, self.input(0)?, 0);
        let position = self.flow.gather(position?, positions, 0);
        let mut sum = self.flow.add(word, position);
        if let (Some(types), Some(ids)) = (types, self.input(1)) {
            let types = self.flow.gather(types, ids, 0);
            sum = self.flow.add(sum, types);
        }
        let mask = self.flow.side(Side::default());
        Some(vec![self.flow.norm(sum, gain?, shift?, epsilon), mask])
    }

    /// Fused attention of three projections whose biases stand in one vector, input `bias`.
    fn attend(&mut self, mut linears: Vec<Id>, bias: usize) -> Option<Id> {
        if self.node.int("unidirectional", 0) != 0 || self.node.int("do_rotary", 0) != 0 {
            return None;
        }
        if let Some(bias) = self.input(bias) {
            let biases = self.flow.constant(bias)?.split(3)?;
            for (linear, bias) in linears.iter_mut().zip(biases) {
                let bias = self.flow.add_constant(bias);
                *linear = self.flow.add(*linear, bias);
            }
        }
        let heads = usize::try_from(self.node.int("num_heads", 0)).ok().filter(|n| *n > 0)?;
        let scale = self.node.attribute("scale").map(|a| a.float.to_bits()).filter(|s| *s != 0);
        let [query, key, value] = linears[..] else { return None };
        Some(self.flow.put(Value::Attention { query, key, value, heads, scale }))
    }
}
