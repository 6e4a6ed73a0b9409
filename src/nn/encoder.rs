//! The encoder of any family, from its spec.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

use crate::architectures::{Activation, Encoder, EncoderNames, EncoderSpec, EncoderWorkspace, LayerNames, RaggedBatch};

use crate::checkpoint::{CheckpointError, Weights};
use crate::kernels::{self, Kernels};

use super::attention::SelfAttention;
use super::embedding::Embeddings;
use super::fused::{Dropout, Gelu};
use super::int8_op::Int8Activation;
use super::norm::LayerNorm;
use super::{Linear, Parameters, Precision, Stored};

/// A post-norm transformer encoder made of candle tensors.
#[derive(Clone, Debug)]
pub struct CandleEncoder {
    spec: EncoderSpec,
    embeddings: Embeddings,
    layers: Vec<Layer>,
    threads: usize,
}

impl CandleEncoder {
    /// The encoder of a model folder in f32; weights stored in int8 are widened. A batch runs on `threads` threads.
    ///
    /// # Errors
    /// [`CheckpointError`] naming a weight that is missing or has another shape.
    ///
    /// # Panics
    /// When `threads` is 0.
    pub fn load(
        spec: &EncoderSpec,
        names: &EncoderNames,
        weights: &mut Weights,
        threads: usize,
    ) -> std::result::Result<Self, CheckpointError> {
        Self::build(spec, names, &mut Stored::new(weights, Precision::Float), threads)
    }

    /// The encoder whose tensors `parameters` hands out, in the precision it chooses.
    ///
    /// # Errors
    /// As [`Parameters::tensor`] and [`Parameters::linear`].
    ///
    /// # Panics
    /// When `threads` is 0.
    pub fn build<P: Parameters>(
        spec: &EncoderSpec,
        names: &EncoderNames,
        parameters: &mut P,
        threads: usize,
    ) -> std::result::Result<Self, P::Error> {
        assert!(threads > 0, "an encoder needs at least one thread");
        let embeddings = Embeddings::load(spec, names, parameters)?;
        let layers = names.layers.iter().map(|layer| Layer::load(spec, layer, parameters));
        let layers = layers.collect::<std::result::Result<_, _>>()?;
        Ok(CandleEncoder { spec: spec.clone(), embeddings, layers, threads })
    }

    /// Last hidden states of one sequence, `[tokens, hidden_size]`, from its ids and segments, `[tokens]` each.
    ///
    /// Differentiable in every float parameter. Runs in whatever rayon pool the caller is in.
    ///
    /// # Errors
    /// When an id or a segment is outside its table, or the sequence is empty or longer than
    /// [`EncoderSpec::max_tokens`].
    pub fn hidden_states(&self, ids: &[u32], type_ids: &[u32]) -> Result<Tensor> {
        let mut batch = RaggedBatch::new();
        batch.push(ids, type_ids);
        self.hidden_states_seen(&batch, &mut |_, _| Ok(()))
    }

    /// Last hidden states of all tokens of a batch, `[tokens, hidden_size]`; `see` is shown what enters the linear
    /// layers, `[tokens, inputs]`, as it comes. Several sequences at once are quicker, and may differ from one after
    /// another in the last bits.
    ///
    /// # Errors
    /// As [`CandleEncoder::hidden_states`], and those of `see`.
    pub fn hidden_states_seen(&self, batch: &RaggedBatch, see: &mut See<'_>) -> Result<Tensor> {
        self.run(0..self.layers.len(), batch, self.embedded(batch)?, Dropout::NONE, see)
    }

    /// [`CandleEncoder::hidden_states`] of a batch in training. `words` are the tokens' rows of
    /// [`CandleEncoder::word_embeddings`], `[tokens, hidden_size]`, so that there can be a gradient of these rows instead
    /// of one of the whole table. `dropout` drops of the embeddings, of the attention weights and of what is added to
    /// each residual, as in transformers. `see` is shown what enters the linear layers.
    ///
    /// # Errors
    /// As [`CandleEncoder::hidden_states`], and those of `see`.
    pub fn hidden_states_of(
        &self,
        batch: &RaggedBatch,
        words: &Tensor,
        dropout: Dropout,
        see: &mut See<'_>,
    ) -> Result<Tensor> {
        let embedded = dropout.at(0).forward(&self.embeddings.forward(batch, words)?)?;
        self.run(0..self.layers.len(), batch, embedded, dropout, see)
    }

    /// The table of word embeddings, `[vocab_size, hidden_size]`.
    pub fn word_embeddings(&self) -> &Tensor {
        self.embeddings.words()
    }

    /// Queries, keys and values of block `layer`, `[tokens, heads * head_dim]` each, of what the block gets.
    ///
    /// # Errors
    /// When the width differs.
    ///
    /// # Panics
    /// When there are not that many layers.
    pub fn projections(&self, layer: usize, x: &Tensor) -> Result<[Tensor; 3]> {
        self.layers[layer].attention.projections(x)
    }

    /// Number of transformer blocks.
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// Matrix `index` of a block, counted as in [`LayerNames::linears`](crate::architectures::LayerNames::linears).
    ///
    /// # Panics
    /// When there is no such block or matrix.
    pub fn linear(&self, layer: usize, index: usize) -> &Linear {
        let block = &self.layers[layer];
        match index {
            0..=3 => block.attention.matrix(index),
            4 => &block.ffn_up,
            5 => &block.ffn_down,
            _ => panic!("a block has six matrices, there is no matrix {index}"),
        }
    }

    /// The same encoder with matrix `index` of a block replaced, counted as in
    /// [`LayerNames::linears`](crate::architectures::LayerNames::linears). Everything else is shared.
    ///
    /// # Panics
    /// When there is no such block or matrix.
    pub fn with_linear(&self, layer: usize, index: usize, linear: Linear) -> Self {
        let mut encoder = self.clone();
        let block = &mut encoder.layers[layer];
        match index {
            0..=3 => block.attention.replace(index, linear),
            4 => block.ffn_up = linear,
            5 => block.ffn_down = linear,
            _ => panic!("a block has six matrices, there is no matrix {index}"),
        }
        encoder
    }

    /// The same encoder with an embedding table replaced, counted as in [`EncoderNames::tables`].
    ///
    /// # Panics
    /// When there is no such table.
    pub fn with_table(&self, index: usize, table: Tensor) -> Self {
        let mut encoder = self.clone();
        encoder.embeddings.replace(index, table);
        encoder
    }

    /// What the first layer gets, `[tokens, hidden_size]`.
    ///
    /// # Errors
    /// As [`CandleEncoder::hidden_states`].
    pub fn embedded(&self, batch: &RaggedBatch) -> Result<Tensor> {
        let words = self.word_embeddings().index_select(&Tensor::new(batch.ids.as_slice(), &Device::Cpu)?, 0)?;
        self.embeddings.forward(batch, &words)
    }

    /// Runs some of the layers over a batch, on what the first of them gets, `[tokens, hidden_size]` in and out.
    ///
    /// # Errors
    /// When the width differs.
    ///
    /// # Panics
    /// When there are not that many layers.
    pub fn run_layers(&self, layers: Range<usize>, batch: &RaggedBatch, x: Tensor) -> Result<Tensor> {
        self.run(layers, batch, x, Dropout::NONE, &mut |_, _| Ok(()))
    }

    fn run(
        &self,
        layers: Range<usize>,
        batch: &RaggedBatch,
        mut x: Tensor,
        dropout: Dropout,
        see: &mut See<'_>,
    ) -> Result<Tensor> {
        let starts: Arc<[usize]> = batch.starts.as_slice().into();
        for index in layers {
            x = self.layers[index].forward(&x, &starts, index, dropout.at(index as u64 + 1), see)?;
        }
        Ok(x)
    }
}

/// Where activations enter linear layers: the layer, and which of its matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// Index of the transformer block.
    pub layer: usize,
    /// What gets the activations.
    pub enters: Enters,
}

/// The matrices of a block that share one input, in the order they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Enters {
    /// Queries, keys and values; what the block gets.
    Attention,
    /// The output projection; what attention gives.
    Projection,
    /// The first matrix of the feed-forward network.
    Up,
    /// The second; what the activation gives.
    Down,
}

/// Is shown activations.
pub type See<'a> = dyn FnMut(Site, &Tensor) -> Result<()> + 'a;

/// One transformer block, normalized after each residual sum.
#[derive(Clone, Debug)]
struct Layer {
    attention: SelfAttention,
    attention_norm: LayerNorm,
    ffn_up: Linear,
    activation: Activation,
    ffn_down: Linear,
    output_norm: LayerNorm,
    /// What the activation runs on; none for f32.
    kernels: Option<Kernels>,
}

impl Layer {
    fn load<P: Parameters>(
        spec: &EncoderSpec,
        names: &LayerNames,
        parameters: &mut P,
    ) -> std::result::Result<Self, P::Error> {
        let (width, eps) = (spec.hidden_size, spec.layer_norm_eps);
        Ok(Layer {
            attention: SelfAttention::load(spec, names, parameters)?,
            attention_norm: LayerNorm::load(&names.attention_norm, width, eps, parameters)?,
            ffn_up: parameters.linear(&names.ffn_up)?,
            activation: spec.activation,
            ffn_down: parameters.linear(&names.ffn_down)?,
            output_norm: LayerNorm::load(&names.output_norm, width, eps, parameters)?,
            kernels: parameters.kernels(),
        })
    }

    fn is_quantized(&self) -> bool {
        self.attention.is_quantized() || self.ffn_up.is_quantized() || self.ffn_down.is_quantized()
    }

    /// `[tokens, hidden]` → `[tokens, hidden]` of block number `layer`; `starts` is where each sequence starts.
    fn forward(
        &self,
        x: &Tensor,
        starts: &Arc<[usize]>,
        layer: usize,
        dropout: Dropout,
        see: &mut See<'_>,
    ) -> Result<Tensor> {
        let at = |enters| Site { layer, enters };
        see(at(Enters::Attention), x)?;
        let context = self.attention.context(x, starts, dropout.at(0))?;
        see(at(Enters::Projection), &context)?;
        let x = self.attention_norm.forward(&self.attention.project(&context)?, x, dropout.at(1))?;
        see(at(Enters::Up), &x)?;
        let inner = self.ffn_up.forward(&x)?;
        let on_kernels = |kernels, activation| inner.apply_op1(Int8Activation { kernels, activation });
        let inner = match (self.kernels.or(self.ffn_up.kernels()), self.activation) {
            (Some(kernels), Activation::Gelu) => on_kernels(kernels, kernels::Activation::Gelu)?,
            (Some(kernels), Activation::GeluTanh) => on_kernels(kernels, kernels::Activation::GeluTanh)?,
            (None, Activation::Gelu) => inner.apply_op1(Gelu)?,
            (None, Activation::GeluTanh) => inner.gelu()?,
            (_, Activation::Relu) => inner.relu()?,
        };
        see(at(Enters::Down), &inner)?;
        self.output_norm.forward(&self.ffn_down.forward(&inner)?, &x, dropout.at(2))
    }
}

/// The threads of one caller.
struct Workspace {
    pool: rayon::ThreadPool,
}

impl Encoder for CandleEncoder {
    fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    fn precision(&self) -> &'static str {
        let quantized = self.layers.iter().any(Layer::is_quantized);
        if quantized { "int8" } else { "f32" }
    }

    fn workspace(&self) -> EncoderWorkspace {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads).thread_name(|i| format!("nn-{i}"));
        Box::new(Workspace { pool: pool.build().expect("the system can start a thread") })
    }

    /// Runs the sequences one after another, so what a sequence gives cannot depend on its neighbours.
    fn forward(&self, batch: &RaggedBatch, workspace: &mut EncoderWorkspace, out: &mut Vec<f32>) {
        if !(**workspace).is::<Workspace>() {
            *workspace = self.workspace();
        }
        let workspace = workspace.downcast_mut::<Workspace>().expect("it is of this executor");
        out.clear();
        workspace.pool.install(|| {
            for range in batch.ranges() {
                let (ids, type_ids) = (&batch.ids[range.clone()], &batch.type_ids[range]);
                let rows = self.hidden_states(ids, type_ids).and_then(|x| x.flatten_all()?.to_vec1::<f32>());
                out.extend(rows.unwrap_or_else(|e| panic!("ids and lengths are checked by the caller: {e}")));
            }
        });
    }
}
