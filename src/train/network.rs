//! An encoder and a head, as variables.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::architectures::{self, Encoder, EncoderNames, HeadSpec, LayerNames, Pooling, RaggedBatch};
use crate::checkpoint::{self, LayerConfig, ModelDir, Weights};
use crate::nn::{CandleEncoder, Dropout, Enters, FakeQuantization, Trainable, linear};

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
    /// Names of tensors that get another number, when some layers are left out.
    renamed: BTreeMap<String, String>,
    /// The heads and neurons of each block.
    layers: Vec<LayerConfig>,
    /// Which variables the weight and the bias of each block's matrices are, counted as in [`LayerNames::linears`].
    matrices: Vec<[[usize; 2]; 6]>,
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
    /// How weights and activations are fake-quantized; not at all when absent.
    pub quantization: Option<FakeQuantization>,
    /// Of a new head.
    pub seed: u64,
}

/// One tensor that is trained.
#[derive(Clone)]
pub(super) struct Variable {
    /// Its name in the checkpoint.
    pub name: String,
    pub var: Var,
    /// Whether it belongs to the head, which has a learning rate of its own.
    pub head: bool,
    /// Whether weight decay applies: to matrices, not to biases, norms and embedding tables.
    pub decay: bool,
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
    /// Which variable the matrix is; a bias is a matrix of one column.
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
        if dir.is_head_only() {
            return Err(TrainError::HeadOnly(dir.path().display().to_string()));
        }
        if dir.quantization().is_some() {
            return Err(TrainError::NotFloat(dir.path().display().to_string()));
        }
        let mut weights = dir.weights()?;
        let mut architecture = architectures::describe(dir.config(), &|name| weights.contains(name))?;
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
        let mut parameters = Trainable::new(&mut weights).quantized(options.quantization);
        let encoder = CandleEncoder::build(&architecture.spec, &architecture.encoder, &mut parameters, 1)?;
        let names = &architecture.encoder;
        let is_table = |name: &str| names.tables().any(|t| t.weight == name);
        let variable = |(name, var): (String, Var)| {
            let decay = var.rank() == 2 && !is_table(&name);
            Variable { name, var, head: false, decay }
        };
        let mut variables: Vec<_> = parameters.into_variables().into_iter().map(variable).collect();
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
        Ok(Network { encoder, pooling: options.pooling, variables, words, head: tensors, renamed, layers, matrices })
    }

    /// Number of transformer blocks.
    pub fn num_layers(&self) -> usize {
        self.encoder.num_layers()
    }

    /// Longest sequence that the encoder reads, in tokens.
    pub fn max_tokens(&self) -> usize {
        self.encoder.spec().max_tokens()
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
                let columns = self.variables[weight].var.dim(1)?;
                if matches!(along, Along::Rows) {
                    let (along, kept) = (Along::Rows, places.clone());
                    cuts.push(self.cut(Cut { variable: bias, columns: 1, along, kept })?);
                }
                cuts.push(self.cut(Cut { variable: weight, columns, along, kept: places.clone() })?);
                let [weight, bias] = [weight, bias].map(|v| self.variables[v].var.as_tensor().clone());
                let linear = self.encoder.linear(layer, index).with_values(weight, bias);
                self.encoder = self.encoder.with_linear(layer, index, linear);
            }
            let sizes = &mut self.layers[layer];
            sizes.heads = kept.heads.iter().map(|place| sizes.heads[*place]).collect();
            sizes.intermediate_size = kept.neurons.len();
        }
        Ok(cuts)
    }

    /// Puts what is left of a variable in its place.
    fn cut(&mut self, cut: Cut) -> candle_core::Result<Cut> {
        let var = &mut self.variables[cut.variable].var;
        let values = cut.apply(&var.flatten_all()?.to_vec1()?);
        let shape = match (var.dims(), &cut.along) {
            (&[_], _) => vec![cut.kept.len()],
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
        let features = dropout.at(HIDDEN).forward(&linear(&pooled, dense_weight, dense_bias)?.tanh()?)?;
        Ok(Outputs { logits: linear(&features, out_weight, out_bias)?, word_ids, words, hidden })
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
        for (variable, values) in self.variables.iter().zip(values) {
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
            let name = self.renamed.get(&variable.name).unwrap_or(&variable.name).clone();
            tensors.insert(name, checkpoint::Tensor::F32 { shape, data });
        }
        tensors
    }
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
        let variable = |name: &str, var: Var| Variable { decay: var.rank() == 2, name: name.into(), var, head: true };
        variables.push(variable(&names.weight, Var::from_vec(weight, (names.outputs, names.inputs), &Device::Cpu)?));
        variables.push(variable(&names.bias, Var::from_vec(bias, names.outputs, &Device::Cpu)?));
    }
    Ok(variables.try_into().ok().expect("a head of ours has two layers"))
}

/// Weights uniform in ±sqrt(6 / (inputs + outputs)) (Glorot & Bengio 2010), biases 0.
fn new_head(width: usize, outputs: usize, seed: u64) -> candle_core::Result<[Variable; 4]> {
    let mut rng = StdRng::seed_from_u64(seed);
    let variable = |name: &str, var: Var| Variable { decay: var.rank() == 2, name: name.into(), var, head: true };
    let mut weight = |name: &str, outputs: usize| {
        let bound = (6.0 / (width + outputs) as f32).sqrt();
        let values: Vec<f32> = (0..outputs * width).map(|_| rng.random_range(-bound..bound)).collect();
        Ok::<_, candle_core::Error>(variable(name, Var::from_vec(values, (outputs, width), &Device::Cpu)?))
    };
    let bias = |name: &str, n: usize| {
        Ok::<_, candle_core::Error>(variable(name, Var::from_vec(vec![0f32; n], n, &Device::Cpu)?))
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
