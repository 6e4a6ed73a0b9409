//! An encoder and a head, as variables.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::architectures::{self, Encoder, EncoderNames, EncoderSpec, HeadSpec, LayerNames, Pooling, RaggedBatch};
use crate::checkpoint::{self, LayerConfig, ModelDir, Weights};
use crate::kernels::Kernels;
use crate::kernels::affine::{Granularity, Inputs, QuantizedWeights};
use crate::nn::{
    CandleEncoder, Dropout, Enters, FakeQuantization, Products, Trainable, input_scale, linear, weight_scale,
};
use crate::pipelines::{Head, SequenceModel};
use crate::runtime::Int8Encoder;

use super::prune::Kept;
use super::{Task, TrainError, ValueScale};

/// Places of the head's dropout; the encoder's places are the numbers of its layers.
const POOLED: u64 = 1 << 32;
const HIDDEN: u64 = POOLED + 1;

/// `W2 tanh(W1 pooled + b1) + b2` over an encoder's pooled hidden states: the head that
/// [`architectures::trained_head`] describes. A clone shares the variables.
#[derive(Clone)]
pub struct Network {
    encoder: CandleEncoder,
    pooling: Pooling,
    variables: Vec<Variable>,
    /// Which variable the word embeddings are.
    words: usize,
    head: [Tensor; 4],
    /// Names of the tensors of the encoder that is written, before pruning.
    names: EncoderNames,
    /// Names of tensors that get another number there, when some layers are left out.
    renamed: BTreeMap<String, String>,
    /// The heads and neurons of each block.
    layers: Vec<LayerConfig>,
    /// Which variables the weight and the bias of each block's matrices are, counted as in [`LayerNames::linears`].
    matrices: Vec<[[usize; 2]; 6]>,
    /// By the names in the folder that was loaded.
    quantization: FakeQuantization,
}

/// What a network is made with.
#[derive(Clone, Debug)]
pub struct NetworkOptions {
    /// First step of the head.
    pub pooling: Pooling,
    /// The numbers to learn are standardized by it.
    pub scale: ValueScale,
    /// Layers of the folder's encoder that are kept, in rising order; all when absent.
    pub layers: Option<Vec<usize>>,
    /// How weights and activations are fake-quantized, by the names of the model that is written.
    pub quantization: FakeQuantization,
    /// What the products of the encoder run in.
    pub products: Products,
    /// Of a new head.
    pub seed: u64,
}

/// One tensor that is trained.
#[derive(Clone)]
pub(super) struct Variable {
    /// Its name in the checkpoint.
    pub name: String,
    pub var: Var,
    /// What it belongs to.
    pub part: Part,
    /// Whether weight decay applies: to matrices, not to biases, norms, embedding tables and scales.
    pub decay: bool,
}

/// The parts of a network, which have learning rates of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Encoder,
    Head,
    /// Logarithms of learned scales; they are no tensors of the checkpoint.
    Scales,
}

/// Gates on what enters a matrix, in thought: factors of 1 on its columns, on so many at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Gates {
    /// Which variable the matrix is.
    pub variable: usize,
    /// How many gates.
    pub count: usize,
    /// Columns of one gate.
    pub width: usize,
}

/// Rows or columns of a matrix that are kept.
pub(super) struct Cut {
    /// Which variable the matrix is; a bias is a matrix of one column, and scales one of as many as a row has.
    pub variable: usize,
    columns: usize,
    along: Along,
    kept: Vec<usize>,
}

enum Along {
    Rows,
    Columns,
}

impl Cut {
    /// What is left of values that are shaped as the variable was.
    pub fn apply(&self, values: &[f32]) -> Vec<f32> {
        let rows = values.chunks_exact(self.columns);
        match self.along {
            Along::Rows => {
                self.kept.iter().flat_map(|row| &values[row * self.columns..][..self.columns]).copied().collect()
            }
            Along::Columns => rows.flat_map(|row| self.kept.iter().map(|column| row[*column])).collect(),
        }
    }
}

/// What a forward pass gives.
pub(super) struct Outputs {
    /// `[sequences, outputs]`.
    pub logits: Tensor,
    /// The word ids of the batch, each once, in rising order, `[words]`.
    pub word_ids: Vec<u32>,
    /// Their embeddings, `[words, hidden]`: the gradient of the word table is taken here.
    pub words: Var,
    /// The embeddings, and what each layer made of them, `[tokens, hidden]` each.
    pub hidden: Vec<Tensor>,
}

impl Network {
    /// The encoder of a float model folder, with the folder's own head when it has one of ours for this task, else with
    /// a new one.
    ///
    /// # Errors
    /// [`TrainError`] when the folder has no float encoder of a known family, or not the layers that are asked for.
    pub fn load(dir: &ModelDir, task: &Task, options: &NetworkOptions) -> Result<Self, TrainError> {
        check_encoder(dir)?;
        let mut weights = dir.weights()?;
        let mut architecture = architectures::describe(dir.config(), &|name| weights.contains(name))?;
        let mut written = architecture.encoder.clone();
        let renamed = match &options.layers {
            Some(kept) => keep_layers(&mut architecture.encoder, kept)?,
            None => BTreeMap::new(),
        };
        let layers: Vec<LayerConfig> = match &options.layers {
            Some(kept) => kept.iter().map(|index| dir.config().layers[*index].clone()).collect(),
            None => dir.config().layers.clone(),
        };
        if let Some(kept) = &options.layers {
            architecture.spec.layers = kept.iter().map(|index| architecture.spec.layers[*index]).collect();
        }
        let names = &architecture.encoder;
        written.layers.truncate(names.layers.len());
        let quantization = quantization(names, &renamed, architecture.spec.hidden_size, &options.quantization)?;
        let mut parameters = Trainable::new(&mut weights).quantized(quantization.clone()).products(options.products);
        let encoder = CandleEncoder::build(&architecture.spec, names, &mut parameters, 1)?;
        let is_table = |name: &str| names.tables().any(|t| t.weight == name);
        let variable = |(name, var): (String, Var)| {
            let decay = var.rank() == 2 && !is_table(&name);
            Variable { name, var, part: Part::Encoder, decay }
        };
        let (of_encoder, scales) = parameters.into_variables();
        let mut variables: Vec<_> = of_encoder.into_iter().map(variable).collect();
        let words = variables.iter().position(|v| v.name == names.word_embeddings.weight);
        let words = words.expect("the encoder asked for its word embeddings");
        let head = match architectures::trained_head(dir.config()).filter(|head| fits(head, task, options.pooling)) {
            Some(spec) => own_head(&spec, &mut weights, task, options.scale)?,
            None => new_head(architecture.spec.hidden_size, task.outputs(), options.seed)?,
        };
        let place = |name: &str| variables.iter().position(|v| v.name == name).expect("the encoder asked for it");
        let matrices = names.layers.iter().map(|l| l.linears().map(|l| [place(&l.weight), place(&l.bias)])).collect();
        let tensors = head.each_ref().map(|v| v.var.as_tensor().clone());
        variables.extend(head);
        let scale = |(name, var): (String, Var)| Variable { name, var, part: Part::Scales, decay: false };
        variables.extend(scales.into_iter().map(scale));
        let (pooling, head) = (options.pooling, tensors);
        let names = written;
        Ok(Network { encoder, pooling, variables, words, head, names, renamed, layers, matrices, quantization })
    }

    /// Number of transformer blocks.
    pub fn num_layers(&self) -> usize {
        self.encoder.num_layers()
    }

    /// Number of trained values.
    pub fn parameters(&self) -> usize {
        self.variables.iter().map(|v| v.var.elem_count()).sum()
    }

    /// The heads and neurons of each block.
    pub fn layers(&self) -> &[LayerConfig] {
        &self.layers
    }

    /// Which variables the matrices of the blocks are.
    pub(super) fn matrices(&self) -> impl Iterator<Item = usize> {
        self.matrices.iter().flatten().map(|[weight, _]| *weight)
    }

    /// The gates of each block: first on its heads, then on its neurons.
    pub(super) fn gates(&self) -> Vec<Gates> {
        let of_layer = |(layer, [.., output, _, down]): (&LayerConfig, &[[usize; 2]; 6])| {
            let heads = Gates { variable: output[0], count: layer.heads.len(), width: self.encoder.spec().head_dim };
            [heads, Gates { variable: down[0], count: layer.intermediate_size, width: 1 }]
        };
        self.layers.iter().zip(&self.matrices).flat_map(of_layer).collect()
    }

    /// Takes heads and neurons out; what is kept stays as it was, in variables of its own. Returns what was cut off.
    pub(super) fn prune(&mut self, kept: &[Kept]) -> candle_core::Result<Vec<Cut>> {
        let head_dim = self.encoder.spec().head_dim;
        let mut cuts = Vec::new();
        for (layer, kept) in kept.iter().enumerate() {
            let channels: Vec<usize> =
                kept.heads.iter().flat_map(|head| head * head_dim..(head + 1) * head_dim).collect();
            let [query, key, value, output, up, down] = self.matrices[layer];
            for (index, [weight, bias]) in [query, key, value, output, up, down].into_iter().enumerate() {
                let (along, places) = match index {
                    0..=2 => (Along::Rows, &channels),
                    3 => (Along::Columns, &channels),
                    4 => (Along::Rows, &kept.neurons),
                    _ => (Along::Columns, &kept.neurons),
                };
                let (rows, columns) = self.variables[weight].var.dims2()?;
                let scales = self.place(&weight_scale(&self.variables[weight].name));
                if matches!(along, Along::Rows) {
                    // A scale of the whole matrix stays.
                    let a_row = |variable: usize| self.variables[variable].var.elem_count() / rows;
                    let of_rows = scales.map(|scales| (scales, a_row(scales))).filter(|(_, columns)| *columns > 0);
                    for (variable, columns) in [Some((bias, 1)), of_rows].into_iter().flatten() {
                        let (along, kept) = (Along::Rows, places.clone());
                        cuts.push(self.cut(Cut { variable, columns, along, kept })?);
                    }
                }
                cuts.push(self.cut(Cut { variable: weight, columns, along, kept: places.clone() })?);
                let values = |v: usize| self.variables[v].var.as_tensor().clone();
                let linear = self.encoder.linear(layer, index);
                let linear = linear.with_values(values(weight), values(bias), scales.map(values));
                self.encoder = self.encoder.with_linear(layer, index, linear);
            }
            let sizes = &mut self.layers[layer];
            sizes.heads = kept.heads.iter().map(|place| sizes.heads[*place]).collect();
            sizes.intermediate_size = kept.neurons.len();
        }
        Ok(cuts)
    }

    /// Whether scales are shared by groups of a row's weights, which pruning would break up.
    pub(super) fn has_groups(&self) -> bool {
        let matrices = self.matrices().map(|index| &self.variables[index].name);
        let mut forms = matrices.filter_map(|name| self.quantization.get(name));
        forms.any(|form| matches!(form.scheme.granularity, Granularity::Group(_)))
    }

    /// Which variable has a name.
    fn place(&self, name: &str) -> Option<usize> {
        self.variables.iter().position(|v| v.name == name)
    }

    /// Puts what is left of a variable in its place.
    fn cut(&mut self, cut: Cut) -> candle_core::Result<Cut> {
        let var = &mut self.variables[cut.variable].var;
        let values = cut.apply(&var.flatten_all()?.to_vec1()?);
        let shape = match (var.dims(), &cut.along) {
            (&[_], _) => vec![values.len()],
            (&[_, columns], Along::Rows) => vec![cut.kept.len(), columns],
            (dims, _) => vec![dims[0], cut.kept.len()],
        };
        *var = Var::from_vec(values, shape, &Device::Cpu)?;
        Ok(cut)
    }

    pub(super) fn variables(&self) -> &[Variable] {
        &self.variables
    }

    /// Which variable the word embeddings are.
    pub(super) fn words(&self) -> usize {
        self.words
    }

    /// The outputs of each sequence.
    pub(super) fn forward(&self, batch: &RaggedBatch, dropout: Dropout) -> candle_core::Result<Outputs> {
        let mut word_ids = batch.ids.clone();
        word_ids.sort_unstable();
        word_ids.dedup();
        let place = |id: &u32| word_ids.binary_search(id).expect("every id of the batch is listed") as u32;
        let places: Vec<u32> = batch.ids.iter().map(place).collect();
        let table = self.encoder.word_embeddings().detach();
        let words = Var::from_tensor(&table.index_select(&Tensor::new(word_ids.as_slice(), &Device::Cpu)?, 0)?)?;
        let embedded = words.index_select(&Tensor::new(places, &Device::Cpu)?, 0)?;
        let mut hidden = Vec::with_capacity(self.num_layers() + 1);
        let last = self.encoder.hidden_states_of(batch, &embedded, dropout, &mut |site, x| {
            if site.enters == Enters::Attention {
                hidden.push(x.clone());
            }
            Ok(())
        })?;
        hidden.push(last.clone());
        let pooled = dropout.at(POOLED).forward(&pooling(batch, self.pooling)?.matmul(&last)?)?;
        let [dense_weight, dense_bias, out_weight, out_bias] = &self.head;
        let features =
            dropout.at(HIDDEN).forward(&linear(&pooled, dense_weight, dense_bias, Products::F32)?.tanh()?)?;
        Ok(Outputs { logits: linear(&features, out_weight, out_bias, Products::F32)?, word_ids, words, hidden })
    }

    /// The outputs of each sequence without dropout, `[sequences, outputs]`. Nothing that a gradient would need is kept.
    pub(super) fn logits(&self, batch: &RaggedBatch) -> candle_core::Result<Tensor> {
        Ok(self.forward(batch, Dropout::NONE)?.logits.detach())
    }

    /// Queries, keys and values of the block that ends at the share `depth` of the depth, `[tokens, width]` each.
    pub(super) fn projections(&self, depth: f64, outputs: &Outputs) -> candle_core::Result<[Tensor; 3]> {
        let layer = self.layer_at(depth);
        self.encoder.projections(layer, &outputs.hidden[layer])
    }

    /// Width of [`Network::projections`].
    pub(super) fn projection_width(&self, depth: f64) -> usize {
        self.layers[self.layer_at(depth)].heads.len() * self.head_dim()
    }

    /// The block that ends at a share of the depth.
    fn layer_at(&self, depth: f64) -> usize {
        let layers = self.num_layers();
        ((depth * layers as f64).ceil() as usize).clamp(1, layers) - 1
    }

    /// Width of an attention head.
    pub(super) fn head_dim(&self) -> usize {
        self.encoder.spec().head_dim
    }

    /// What a step of training sees of a batch, without dropout: the outputs of each sequence.
    #[cfg(test)]
    pub(crate) fn fake_quantized(&self, batch: &RaggedBatch) -> Vec<Vec<f32>> {
        self.logits(batch).unwrap().to_vec2().unwrap()
    }

    /// Whether something of it is fake-quantized.
    pub(super) fn is_quantized(&self) -> bool {
        !self.quantization.is_empty()
    }

    /// The network as the folder that is written of a snapshot serves: the integers that are stored, on the executor that
    /// serves. Numbers stay standardized.
    pub(super) fn served(&self, values: &[Vec<f32>], task: &Task) -> Result<SequenceModel, TrainError> {
        let float = |(name, tensor)| (name, (tensor, Inputs::Float));
        let integers = |(name, (weights, inputs))| (name, (checkpoint::Tensor::Quantized(weights), inputs));
        let floats = self.tensors(values, task, ValueScale::STANDARDIZED).into_iter().map(float);
        let mut weights = Weights::in_memory(floats.chain(self.stored(values).into_iter().map(integers)));
        let mut names = self.names.clone();
        for (layer, matrices) in names.layers.iter_mut().zip(&self.matrices) {
            for (linear, [weight, _]) in layer.linears_mut().into_iter().zip(matrices) {
                (linear.outputs, linear.inputs) = self.variables[*weight].var.dims2()?;
            }
        }
        let spec = EncoderSpec {
            layers: self.layers.iter().map(architectures::layer_spec).collect(),
            ..self.encoder.spec().clone()
        };
        let (kernels, head) = (Kernels::detect(), architectures::trained_layers(spec.hidden_size, task.outputs()));
        let encoder = Int8Encoder::load(spec, &names, &mut weights, kernels)?;
        let head = Head::load(self.pooling, &head, kernels, &mut weights)?;
        Ok(SequenceModel { encoder: Arc::new(encoder), head: Arc::new(head) })
    }

    /// The values of every variable, in order.
    pub(super) fn snapshot(&self) -> candle_core::Result<Vec<Vec<f32>>> {
        self.variables.iter().map(|v| v.var.flatten_all()?.to_vec1()).collect()
    }

    /// Sets every variable to what [`Network::snapshot`] gave.
    pub(super) fn restore(&self, values: &[Vec<f32>]) -> candle_core::Result<()> {
        for (variable, values) in self.variables.iter().zip(values) {
            let var = &variable.var;
            var.set(&Tensor::from_slice(values, var.shape(), var.device())?)?;
        }
        Ok(())
    }

    /// A snapshot as the tensors of a checkpoint. The last output, when it is a number, is turned back from its
    /// standardized form.
    pub(super) fn tensors(
        &self,
        values: &[Vec<f32>],
        task: &Task,
        scale: ValueScale,
    ) -> BTreeMap<String, checkpoint::Tensor> {
        let mut tensors = BTreeMap::new();
        for (variable, values) in self.variables.iter().zip(values).filter(|(v, _)| v.part != Part::Scales) {
            let (shape, mut data) = (variable.var.dims().to_vec(), values.clone());
            if task.has_value() && variable.name.starts_with("head.out.") {
                let row = data.len() / task.outputs();
                let start = data.len() - row;
                let is_bias = variable.name.ends_with("bias");
                for x in &mut data[start..] {
                    let scaled = f64::from(*x) * scale.deviation + if is_bias { scale.mean } else { 0.0 };
                    *x = scaled as f32;
                }
            }
            tensors.insert(self.written(&variable.name).into(), checkpoint::Tensor::F32 { shape, data });
        }
        tensors
    }

    /// What a snapshot stores of each module that is fake-quantized, by the name of its weight: the integers that
    /// training saw, and how inputs are rounded.
    pub(super) fn stored(&self, values: &[Vec<f32>]) -> BTreeMap<String, (QuantizedWeights, Inputs)> {
        let of = |name: &str| self.place(name).map(|index| &values[index]);
        let stored = self.quantization.iter().map(|(name, form)| {
            let index = self.place(name).expect("a module has a weight");
            let shape = self.variables[index].var.dims().try_into().expect("a module's weight is a matrix");
            let (scales, input) = (of(&weight_scale(name)), of(&input_scale(name)));
            let form = form.store(&values[index], shape, scales.map(Vec::as_slice), input.map(|log| log[0]));
            (self.written(name).to_string(), form)
        });
        stored.collect()
    }

    /// How modules are fake-quantized, in words, by the names of their weights.
    pub(super) fn forms(&self) -> BTreeMap<String, String> {
        self.quantization.iter().map(|(name, form)| (name.clone(), form.to_string())).collect()
    }

    /// The name that a tensor is written by.
    fn written<'a>(&'a self, name: &'a str) -> &'a str {
        self.renamed.get(name).map_or(name, String::as_str)
    }
}

/// Refuses a folder that has no float encoder of its own.
///
/// # Errors
/// [`TrainError`] saying what it has.
pub fn check_encoder(dir: &ModelDir) -> Result<(), TrainError> {
    let path = || dir.path().display().to_string();
    match (dir.is_head_only(), dir.quantization()) {
        (true, _) => Err(TrainError::HeadOnly(path())),
        (false, Some(_)) => Err(TrainError::NotFloat(path())),
        (false, None) => Ok(()),
    }
}

/// Of the modules that were loaded, how they are fake-quantized; `wanted` has the names they are written by.
fn quantization(
    names: &EncoderNames,
    renamed: &BTreeMap<String, String>,
    hidden: usize,
    wanted: &FakeQuantization,
) -> Result<FakeQuantization, TrainError> {
    let matrices = names.layers.iter().flat_map(LayerNames::linears).map(|l| (&l.weight, l.inputs));
    let modules = names.tables().map(|t| (&t.weight, hidden)).chain(matrices);
    let found = modules.filter_map(|(name, columns)| {
        let form = *wanted.get(renamed.get(name).unwrap_or(name))?;
        let fits = form.scheme.groups(columns).is_some();
        Some(if fits {
            Ok((name.clone(), form))
        } else {
            let scheme = form.scheme;
            let reason = format!("{name}: {scheme} does not fit rows of {columns} weights; the group must divide them");
            Err(TrainError::Data(reason))
        })
    });
    found.collect()
}

/// Leaves layers out. Returns the new names of the tensors of those that stay.
fn keep_layers(names: &mut EncoderNames, kept: &[usize]) -> Result<BTreeMap<String, String>, TrainError> {
    let all = names.layers.clone();
    let rising = kept.windows(2).all(|w| w[0] < w[1]) && kept.last().is_some_and(|last| *last < all.len());
    if !rising {
        let reason = format!("layers to keep are {kept:?}, expected rising numbers from 0 to {}", all.len() - 1);
        return Err(TrainError::Data(reason));
    }
    names.layers = kept.iter().map(|index| all[*index].clone()).collect();
    let renamed =
        names.layers.iter().zip(&all).flat_map(|(old, new)| tensor_names(old).into_iter().zip(tensor_names(new)));
    Ok(renamed.collect())
}

fn tensor_names(layer: &LayerNames) -> Vec<String> {
    let linears = layer.linears().into_iter().flat_map(|l| [l.weight.clone(), l.bias.clone()]);
    let norms =
        [&layer.attention_norm, &layer.output_norm].into_iter().flat_map(|n| [n.weight.clone(), n.bias.clone()]);
    linears.chain(norms).collect()
}

/// Whether a head gives what the task asks for.
fn fits(head: &HeadSpec, task: &Task, pooling: Pooling) -> bool {
    head.pooling == pooling
        && head.labels == task.labels
        && head.value == task.value
        && head.problem_type == task.problem_type
}

fn head_variable(name: &str, var: Var) -> Variable {
    Variable { decay: var.rank() == 2, name: name.into(), var, part: Part::Head }
}

/// The head that a folder holds; its number is standardized again.
fn own_head(
    spec: &HeadSpec,
    weights: &mut Weights,
    task: &Task,
    scale: ValueScale,
) -> Result<[Variable; 4], TrainError> {
    let mut variables = Vec::with_capacity(4);
    for (index, layer) in spec.layers.iter().enumerate() {
        let names = &layer.names;
        let mut weight = weights.take(&names.weight, &[names.outputs, names.inputs])?.into_f32();
        let mut bias = weights.take(&names.bias, &[names.outputs])?.into_f32();
        if task.has_value() && index + 1 == spec.layers.len() {
            let last = names.outputs - 1;
            weight[last * names.inputs..].iter_mut().for_each(|w| *w = (f64::from(*w) / scale.deviation) as f32);
            bias[last] = ((f64::from(bias[last]) - scale.mean) / scale.deviation) as f32;
        }
        variables
            .push(head_variable(&names.weight, Var::from_vec(weight, (names.outputs, names.inputs), &Device::Cpu)?));
        variables.push(head_variable(&names.bias, Var::from_vec(bias, names.outputs, &Device::Cpu)?));
    }
    Ok(variables.try_into().ok().expect("a head of ours has two layers"))
}

/// Weights uniform in ±sqrt(6 / (inputs + outputs)) (Glorot & Bengio 2010), biases 0.
fn new_head(width: usize, outputs: usize, seed: u64) -> candle_core::Result<[Variable; 4]> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut weight = |name: &str, outputs: usize| {
        let bound = (6.0 / (width + outputs) as f32).sqrt();
        let values: Vec<f32> = (0..outputs * width).map(|_| rng.random_range(-bound..bound)).collect();
        Ok::<_, candle_core::Error>(head_variable(name, Var::from_vec(values, (outputs, width), &Device::Cpu)?))
    };
    let bias = |name: &str, n: usize| {
        Ok::<_, candle_core::Error>(head_variable(name, Var::from_vec(vec![0f32; n], n, &Device::Cpu)?))
    };
    Ok([
        weight("head.dense.weight", width)?,
        bias("head.dense.bias", width)?,
        weight("head.out.weight", outputs)?,
        bias("head.out.bias", outputs)?,
    ])
}

/// The matrix `[sequences, tokens]` that pools by a product: 1 at the first token, or 1 / length at every token.
fn pooling(batch: &RaggedBatch, pooling: Pooling) -> candle_core::Result<Tensor> {
    let tokens = batch.tokens();
    let mut matrix = vec![0f32; batch.len() * tokens];
    for (row, range) in matrix.chunks_exact_mut(tokens).zip(batch.ranges()) {
        match pooling {
            Pooling::Cls => row[range.start] = 1.0,
            Pooling::Mean => {
                let weight = 1.0 / range.len() as f32;
                row[range].fill(weight);
            }
            Pooling::Max => return Err(candle_core::Error::Msg("training pools by cls or mean, not by max".into())),
        }
    }
    Tensor::from_vec(matrix, (batch.len(), tokens), &Device::Cpu)
}
