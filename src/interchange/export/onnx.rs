//! A model folder → an ONNX graph that computes what Octet computes: integer products with one scale and zero point per
//! token, so that a text's result does not depend on its batch, and everything else in f32.
//!
//! ONNX Runtime's `MatMulInteger` wants one zero point for all rows, ours differ by row. So the raw u8 are multiplied,
//! and zero point times column sum is subtracted from the exact i32 (the algebra of `kernels::gemm`).

use crate::architectures::{
    Activation, Architecture, DenseActivation, EncoderSpec, HeadSpec, LayerNames, LinearNames, NormNames, Pooling,
    TableName,
};
use crate::checkpoint::{CheckpointError, Tensor, Weights};
use crate::kernels::affine::{Inputs, QuantizedWeights, Scheme, quantize_weights};

use super::graph::{Attribute, DataType, Dim, Graph};

/// What one model is made of.
pub(super) struct Parts<'a> {
    pub architecture: &'a Architecture,
    pub weights: &'a mut Weights,
    /// Where the head's weights are, when they are in another folder.
    pub head_weights: Option<&'a mut Weights>,
    pub head: Option<&'a HeadSpec>,
    /// How token vectors become one vector where there is no head.
    pub pooling: Pooling,
    pub normalize: bool,
}

/// Why a model has no graph.
pub(super) enum Failure {
    Checkpoint(CheckpointError),
    Refused(String),
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Self {
        Failure::Checkpoint(error)
    }
}

const BATCH: Dim = Dim::Named("batch");
const TOKENS: Dim = Dim::Named("tokens");
const LAST: [(&str, Attribute<'static>); 2] = [("axes", Attribute::Ints(&[-1])), ("keepdims", Attribute::Int(1))];

/// The graph of a model.
///
/// # Errors
/// When a weight is missing, or of a scheme that the graph has no node for.
pub(super) fn build(parts: Parts<'_>) -> Result<Graph, Failure> {
    let Parts { architecture, weights, head_weights, head, pooling, normalize } = parts;
    let spec = &architecture.spec;
    let mut builder = Builder { graph: Graph::default(), quantize: weights.quantization().is_none() };
    let b = &mut builder;
    for name in ["input_ids", "attention_mask", "token_type_ids"] {
        if name != "token_type_ids" || architecture.encoder.token_type_embeddings.is_some() {
            b.graph.input(name, DataType::Int64, &[BATCH, TOKENS]);
        }
    }
    b.numbers(spec);
    let mut hidden = b.embeddings(architecture, weights)?;
    let mask = b.mask();
    let count = architecture.encoder.layers.len();
    for (index, names) in architecture.encoder.layers.iter().enumerate() {
        let output = if index + 1 == count { Some("last_hidden_state") } else { None };
        hidden = b.layer(spec, names, weights, &mask, &hidden, output)?;
    }
    let pooled = b.pool(head.map_or(pooling, |head| head.pooling), &hidden);
    match head {
        Some(head) => {
            b.head(head, head_weights.unwrap_or(weights), &pooled)?;
            b.graph.output(
                "logits",
                DataType::Float,
                &[BATCH, Dim::Fixed(head.layers[head.layers.len() - 1].names.outputs)],
            );
        }
        None => {
            let vector = if normalize { b.unit_length(&pooled) } else { pooled };
            b.graph.node_named("Identity", &[&vector], &[], "sentence_embedding");
            let width = Dim::Fixed(spec.hidden_size);
            b.graph.output("last_hidden_state", DataType::Float, &[BATCH, TOKENS, width]);
            b.graph.output("sentence_embedding", DataType::Float, &[BATCH, width]);
        }
    }
    Ok(builder.graph)
}

/// Rows in u8, `[batch, tokens, width]`, and their scale and zero point, `[batch, tokens, 1]`.
struct Quantized {
    values: String,
    scale: String,
    zero_point: String,
}

struct Builder {
    graph: Graph,
    /// Whether float matrices become int8, as they do when Octet serves a float folder.
    quantize: bool,
}

impl Builder {
    fn node(&mut self, op: &str, inputs: &[&str]) -> String {
        self.graph.node(op, inputs, &[])
    }

    /// Numbers that many nodes share.
    fn numbers(&mut self, spec: &EncoderSpec) {
        for (name, value) in [
            ("zero", 0.0),
            ("half", 0.5),
            ("one", 1.0),
            ("255", 255.0),
            ("smallest_scale", f32::MIN_POSITIVE),
            ("score_scale", 1.0 / (spec.head_dim as f32).sqrt()),
            ("lowest", f32::MIN),
            ("sqrt_2", std::f32::consts::SQRT_2),
            ("cubic", 0.044_715),
            ("sqrt_2_over_pi", 0.797_884_6),
            ("three", 3.0),
            ("shortest", 1e-12),
        ] {
            self.graph.share_float(name, value);
        }
        // As many heads as there are: layers may have lost some.
        self.graph.share_int64s("split_heads", &[4], &[0, 0, -1, spec.head_dim as i64]);
        // One row for each token of a batch, and for each position.
        self.graph.share_int64s("token_rows", &[3], &[0, 0, -1]);
        self.graph.share_int64s("position_rows", &[2], &[0, -1]);
        self.graph.share_int64s("axes_1_2", &[2], &[1, 2]);
        self.graph.share_int64s("axis_last", &[1], &[-1]);
        self.graph.share_int64s("axis_1", &[1], &[1]);
        self.graph.share_int64s("i0", &[], &[0]);
        self.graph.share_int64s("i1", &[], &[1]);
        self.graph.share_int64s("first_position", &[], &[spec.position_offset as i64]);
    }

    /// What is added to scores, `[batch, 1, 1, tokens]`.
    fn mask(&mut self) -> String {
        let mask = self.graph.node("Cast", &["attention_mask"], &[("to", Attribute::Int(DataType::Float as i64))]);
        let missing = self.node("Sub", &["one", &mask]);
        let scaled = self.node("Mul", &[&missing, "lowest"]);
        self.node("Unsqueeze", &[&scaled, "axes_1_2"])
    }

    fn embeddings(&mut self, architecture: &Architecture, weights: &mut Weights) -> Result<String, Failure> {
        let (spec, names) = (&architecture.spec, &architecture.encoder);
        let mut sum = self.lookup(&names.word_embeddings, "input_ids", "token_rows", spec, weights)?;
        let shape = self.node("Shape", &["input_ids"]);
        let tokens = self.graph.node("Gather", &[&shape, "i1"], &[("axis", Attribute::Int(0))]);
        let mut positions = self.node("Range", &["i0", &tokens, "i1"]);
        if spec.position_offset > 0 {
            positions = self.node("Add", &[&positions, "first_position"]);
        }
        let position = self.lookup(&names.position_embeddings, &positions, "position_rows", spec, weights)?;
        sum = self.node("Add", &[&sum, &position]);
        if let Some(table) = &names.token_type_embeddings {
            let types = self.lookup(table, "token_type_ids", "token_rows", spec, weights)?;
            sum = self.node("Add", &[&sum, &types]);
        }
        self.norm(&names.embedding_norm, &sum, spec, weights, None)
    }

    /// A matrix as Octet runs it.
    fn matrix(&self, weights: &mut Weights, name: &str, shape: [usize; 2]) -> Result<Tensor, CheckpointError> {
        Ok(match weights.take(name, &shape)? {
            Tensor::F32 { data, .. } if self.quantize => {
                Tensor::Quantized(quantize_weights(&data, shape[0], shape[1], Scheme::INT8))
            }
            tensor => tensor,
        })
    }

    /// Rows of a table, in f32; `joined` is the shape of the ids with a row for each.
    fn lookup(
        &mut self,
        table: &TableName,
        ids: &str,
        joined: &str,
        spec: &EncoderSpec,
        weights: &mut Weights,
    ) -> Result<String, Failure> {
        let (name, dims) = (&table.weight, [table.rows, spec.hidden_size]);
        let axis = [("axis", Attribute::Int(0))];
        match self.matrix(weights, name, dims)? {
            Tensor::F32 { data, .. } => {
                let table = self.graph.floats(name, &dims, &data);
                Ok(self.graph.node("Gather", &[&table, ids], &axis))
            }
            Tensor::Quantized(q) => {
                // A row of groups is a small matrix, which ends as a row.
                let groups = q.groups();
                let parameters = |of: &dyn Fn(usize, usize) -> f32| -> Vec<f32> {
                    (0..table.rows).flat_map(|row| (0..groups).map(move |group| of(row, group))).collect()
                };
                let shape = [table.rows, groups, 1];
                let integers = self.graph.int8s(name, &[table.rows, groups, spec.hidden_size / groups], &q.values);
                let rows = self.graph.node("Gather", &[&integers, ids], &axis);
                let mut rows = self.graph.node("Cast", &[&rows], &[("to", Attribute::Int(DataType::Float as i64))]);
                if !q.zero_point.is_empty() {
                    let zeros = parameters(&|row, group| q.zero_point_of(row, group) as f32);
                    let zeros = self.graph.floats(&format!("{name}_zero_point"), &shape, &zeros);
                    let zeros = self.graph.node("Gather", &[&zeros, ids], &axis);
                    rows = self.node("Sub", &[&rows, &zeros]);
                }
                let scales = parameters(&|row, group| q.scale_of(row, group));
                let scales = self.graph.floats(&format!("{name}_scale"), &shape, &scales);
                let scales = self.graph.node("Gather", &[&scales, ids], &axis);
                let scaled = self.node("Mul", &[&rows, &scales]);
                Ok(self.node("Reshape", &[&scaled, joined]))
            }
        }
    }

    fn vector(&mut self, weights: &mut Weights, name: &str, len: usize) -> Result<String, Failure> {
        let values = weights.take(name, &[len])?.into_f32();
        Ok(self.graph.floats(name, &[len], &values))
    }

    fn norm(
        &mut self,
        names: &NormNames,
        input: &str,
        spec: &EncoderSpec,
        weights: &mut Weights,
        output: Option<&str>,
    ) -> Result<String, Failure> {
        let gain = self.vector(weights, &names.weight, spec.hidden_size)?;
        let shift = self.vector(weights, &names.bias, spec.hidden_size)?;
        let attributes = [("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(spec.layer_norm_eps))];
        let inputs = [input, &gain, &shift];
        match output {
            None => Ok(self.graph.node("LayerNormalization", &inputs, &attributes)),
            Some(output) => {
                self.graph.node_named("LayerNormalization", &inputs, &attributes, output);
                Ok(output.to_string())
            }
        }
    }

    /// Each row by its own range, which includes 0: `kernels::affine::quantize_row_u8`.
    fn quantize(&mut self, x: &str) -> Quantized {
        let lowest = self.graph.node("ReduceMin", &[x], &LAST);
        let highest = self.graph.node("ReduceMax", &[x], &LAST);
        let (lo, hi) = (self.node("Min", &[&lowest, "zero"]), self.node("Max", &[&highest, "zero"]));
        let (below, above) = (self.node("Div", &[&lo, "255"]), self.node("Div", &[&hi, "255"]));
        let range = self.node("Sub", &[&above, &below]);
        let narrow = self.node("Less", &[&range, "smallest_scale"]);
        let scale = self.node("Where", &[&narrow, "one", &range]);
        let inverse = self.node("Div", &["one", &scale]);
        let distance = self.node("Sub", &["zero", &lo]);
        let steps = self.node("Mul", &[&distance, &inverse]);
        let rounded = self.node("Round", &[&steps]);
        let zero_point = self.node("Clip", &[&rounded, "zero", "255"]);
        let values = self.quantized_values(x, &inverse, &zero_point);
        Quantized { values, scale, zero_point }
    }

    /// `round(x / scale) + zero_point` in u8.
    fn quantized_values(&mut self, x: &str, inverse: &str, zero_point: &str) -> String {
        let scaled = self.node("Mul", &[x, inverse]);
        let rounded = self.node("Round", &[&scaled]);
        let moved = self.node("Add", &[&rounded, zero_point]);
        let clipped = self.node("Clip", &[&moved, "zero", "255"]);
        self.graph.node("Cast", &[&clipped], &[("to", Attribute::Int(DataType::Uint8 as i64))])
    }

    /// Several layers with one input.
    fn linears(&mut self, weights: &mut Weights, input: &str, layers: &[&LinearNames]) -> Result<Vec<String>, Failure> {
        let mut quantized: Option<(Vec<f32>, Quantized)> = None;
        let mut outputs = Vec::new();
        for names in layers {
            let dims = [names.outputs, names.inputs];
            let matrix = self.matrix(weights, &names.weight, dims)?;
            let product = match (matrix, weights.inputs(&names.weight)?) {
                (Tensor::Quantized(q), Inputs::Dynamic) => {
                    let rows = match quantized.take().filter(|(smoothing, _)| *smoothing == q.smoothing) {
                        Some((_, rows)) => rows,
                        None => {
                            let input = self.smooth(names, &q, input);
                            self.quantize(&input)
                        }
                    };
                    let product = self.integer_product(names, &q, &rows)?;
                    quantized = Some((q.smoothing, rows));
                    product
                }
                (Tensor::Quantized(q), Inputs::Static(params)) => {
                    let name = &names.weight;
                    let scale = self.graph.floats(&format!("{name}_input_scale"), &[1], &[params.scale]);
                    let inverse = self.graph.floats(&format!("{name}_input_inverse"), &[1], &[1.0 / params.scale]);
                    let zero = params.zero_point as f32;
                    let zero_point = self.graph.floats(&format!("{name}_input_zero_point"), &[1], &[zero]);
                    let input = self.smooth(names, &q, input);
                    let values = self.quantized_values(&input, &inverse, &zero_point);
                    self.integer_product(names, &q, &Quantized { values, scale, zero_point })?
                }
                (matrix, _) => {
                    let transposed = transpose(&matrix.into_f32(), dims);
                    let weight = self.graph.floats(&names.weight, &[dims[1], dims[0]], &transposed);
                    self.node("MatMul", &[input, &weight])
                }
            };
            let bias = self.vector(weights, &names.bias, names.outputs)?;
            outputs.push(self.node("Add", &[&product, &bias]));
        }
        Ok(outputs)
    }

    /// What a matrix's inputs are multiplied by before they are rounded, if anything.
    fn smooth(&mut self, names: &LinearNames, q: &QuantizedWeights, input: &str) -> String {
        if q.smoothing.is_empty() {
            return input.to_string();
        }
        let factors = self.graph.floats(&format!("{}_smoothing", names.weight), &[names.inputs], &q.smoothing);
        self.node("Mul", &[input, &factors])
    }

    /// `scale_a scale_w (sum of (qa - za) (qw - zw))`, with exact sums.
    fn integer_product(
        &mut self,
        names: &LinearNames,
        q: &QuantizedWeights,
        rows: &Quantized,
    ) -> Result<String, Failure> {
        let name = &names.weight;
        check_rows(name, q)?;
        let [outputs, inputs] = q.shape;
        let weight = self.graph.int8s(name, &[inputs, outputs], &transpose(&q.values, q.shape));
        let zeros: Vec<i8> = (0..outputs).map(|row| q.zero_point_of(row, 0) as i8).collect();
        let sum = if q.zero_point.is_empty() {
            self.node("MatMulInteger", &[&rows.values, &weight])
        } else {
            let zeros = self.graph.int8s(&format!("{name}_zero_point"), &[outputs], &zeros);
            self.node("MatMulInteger", &[&rows.values, &weight, "", &zeros])
        };
        let column_sums: Vec<i32> = (q.values.chunks_exact(inputs).zip(&zeros))
            .map(|(row, z)| row.iter().map(|w| i32::from(*w) - i32::from(*z)).sum())
            .collect();
        let column_sums = self.graph.int32s(&format!("{name}_sums"), &[outputs], &column_sums);
        let to_int32 = [("to", Attribute::Int(DataType::Int32 as i64))];
        let zero_point = self.graph.node("Cast", &[&rows.zero_point], &to_int32);
        let excess = self.node("Mul", &[&zero_point, &column_sums]);
        let exact = self.node("Sub", &[&sum, &excess]);
        let exact = self.graph.node("Cast", &[&exact], &[("to", Attribute::Int(DataType::Float as i64))]);
        let scaled = self.node("Mul", &[&exact, &rows.scale]);
        let scales = self.graph.floats(&format!("{name}_scale"), &[outputs], &q.row_scales());
        Ok(self.node("Mul", &[&scaled, &scales]))
    }

    fn layer(
        &mut self,
        spec: &EncoderSpec,
        names: &LayerNames,
        weights: &mut Weights,
        mask: &str,
        hidden: &str,
        output: Option<&str>,
    ) -> Result<String, Failure> {
        let projected = self.linears(weights, hidden, &[&names.query, &names.key, &names.value])?;
        let [query, key, value] = &projected[..] else { unreachable!("three layers have three outputs") };
        let mut heads = |x: &str, perm: &[i64]| {
            let split = self.node("Reshape", &[x, "split_heads"]);
            self.graph.node("Transpose", &[&split], &[("perm", Attribute::Ints(perm))])
        };
        let (query, value) = (heads(query, &[0, 2, 1, 3]), heads(value, &[0, 2, 1, 3]));
        let key = heads(key, &[0, 2, 3, 1]);
        let scores = self.node("MatMul", &[&query, &key]);
        let scores = self.node("Mul", &[&scores, "score_scale"]);
        let scores = self.node("Add", &[&scores, mask]);
        let shares = self.graph.node("Softmax", &[&scores], &[("axis", Attribute::Int(-1))]);
        let context = self.node("MatMul", &[&shares, &value]);
        let context = self.graph.node("Transpose", &[&context], &[("perm", Attribute::Ints(&[0, 2, 1, 3]))]);
        let context = self.node("Reshape", &[&context, "token_rows"]);
        let attended = self.linears(weights, &context, &[&names.attention_output])?.remove(0);
        let sum = self.node("Add", &[&attended, hidden]);
        let middle = self.norm(&names.attention_norm, &sum, spec, weights, None)?;
        let up = self.linears(weights, &middle, &[&names.ffn_up])?.remove(0);
        let active = self.activate(spec.activation, &up);
        let down = self.linears(weights, &active, &[&names.ffn_down])?.remove(0);
        let sum = self.node("Add", &[&down, &middle]);
        self.norm(&names.output_norm, &sum, spec, weights, output)
    }

    fn activate(&mut self, activation: Activation, x: &str) -> String {
        let gate = match activation {
            Activation::Relu => return self.node("Relu", &[x]),
            Activation::Gelu => {
                let scaled = self.node("Div", &[x, "sqrt_2"]);
                self.node("Erf", &[&scaled])
            }
            Activation::GeluTanh => {
                let cube = self.node("Pow", &[x, "three"]);
                let cubic = self.node("Mul", &[&cube, "cubic"]);
                let sum = self.node("Add", &[x, &cubic]);
                let scaled = self.node("Mul", &[&sum, "sqrt_2_over_pi"]);
                self.node("Tanh", &[&scaled])
            }
        };
        let gate = self.node("Add", &[&gate, "one"]);
        let product = self.node("Mul", &[x, &gate]);
        self.node("Mul", &[&product, "half"])
    }

    /// `[batch, tokens, width]` → `[batch, width]`, over the tokens of the mask.
    fn pool(&mut self, pooling: Pooling, hidden: &str) -> String {
        if pooling == Pooling::Cls {
            return self.graph.node("Gather", &[hidden, "i0"], &[("axis", Attribute::Int(1))]);
        }
        let mask = self.graph.node("Cast", &["attention_mask"], &[("to", Attribute::Int(DataType::Float as i64))]);
        let mask = self.node("Unsqueeze", &[&mask, "axis_last"]);
        let flat = [("keepdims", Attribute::Int(0))];
        match pooling {
            Pooling::Mean => {
                let masked = self.node("Mul", &[hidden, &mask]);
                let sum = self.graph.node("ReduceSum", &[&masked, "axis_1"], &flat);
                let count = self.graph.node("ReduceSum", &[&mask, "axis_1"], &flat);
                let count = self.node("Max", &[&count, "one"]);
                self.node("Div", &[&sum, &count])
            }
            _ => {
                let missing = self.node("Sub", &["one", &mask]);
                let low = self.node("Mul", &[&missing, "lowest"]);
                let masked = self.node("Add", &[hidden, &low]);
                let axes = [("axes", Attribute::Ints(&[1])), ("keepdims", Attribute::Int(0))];
                self.graph.node("ReduceMax", &[&masked], &axes)
            }
        }
    }

    fn unit_length(&mut self, x: &str) -> String {
        let length = self.graph.node("ReduceL2", &[x], &LAST);
        let length = self.node("Max", &[&length, "shortest"]);
        self.node("Div", &[x, &length])
    }

    /// The dense layers of a head, which Octet runs in f32; the last gives the logits.
    fn head(&mut self, head: &HeadSpec, weights: &mut Weights, pooled: &str) -> Result<(), Failure> {
        let mut x = pooled.to_string();
        let last = head.layers.len() - 1;
        for (index, layer) in head.layers.iter().enumerate() {
            let names = &layer.names;
            let dims = [names.outputs, names.inputs];
            let weight = weights.take(&names.weight, &dims)?.into_f32();
            let weight = self.graph.floats(&names.weight, &dims, &weight);
            let bias = self.vector(weights, &names.bias, names.outputs)?;
            let inputs = [x.as_str(), &weight, &bias];
            let attributes = [("transB", Attribute::Int(1))];
            if index == last && layer.activation.is_none() {
                self.graph.node_named("Gemm", &inputs, &attributes, "logits");
                return Ok(());
            }
            x = self.graph.node("Gemm", &inputs, &attributes);
            match layer.activation {
                Some(DenseActivation::Tanh) => x = self.node("Tanh", &[&x]),
                Some(DenseActivation::Relu) => x = self.node("Relu", &[&x]),
                None => {}
            }
        }
        self.graph.node_named("Identity", &[&x], &[], "logits");
        Ok(())
    }
}

/// `[rows, columns]` → `[columns, rows]`.
fn transpose<T: Copy>(values: &[T], [rows, columns]: [usize; 2]) -> Vec<T> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}

/// Groups within a row of a matrix have no node that multiplies them in integers.
fn check_rows(name: &str, q: &QuantizedWeights) -> Result<(), Failure> {
    match q.groups() {
        1 => Ok(()),
        n => Err(Failure::Refused(format!(
            "\"{name}\" has {n} scales in each row ({}), which an ONNX graph cannot multiply in integers; export a model \
             with one scale per row",
            q.scheme
        ))),
    }
}
