//! What an encoder is made of, and what every executor of one can do.

use std::any::Any;

use super::RaggedBatch;

/// Activation of the feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `0.5 x (1 + erf(x / sqrt 2))` (Hendrycks & Gimpel 2016); `"gelu"` in `config.json`.
    Gelu,
    /// The tanh approximation; `"gelu_new"`, `"gelu_pytorch_tanh"`, `"gelu_fast"`.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// Sizes and options of a post-norm transformer encoder (BERT, Devlin et al. 2018, and its descendants).
///
/// Tensors are row-major; `tokens` is the total over a ragged batch.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderSpec {
    /// `model_type` of `config.json`: `bert`, `distilbert`, `roberta`, `xlm-roberta`.
    pub family: String,
    /// Rows of the word embedding table.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of one attention head.
    pub head_dim: usize,
    /// The transformer blocks, from the input to the output.
    pub layers: Vec<LayerSpec>,
    /// Rows of the position table.
    pub max_positions: usize,
    /// Position id of the first token: 0, or `pad_token_id + 1` for RoBERTa.
    pub position_offset: usize,
    /// Rows of the token-type table; 0 when the family has none.
    pub type_vocab_size: usize,
    /// Feed-forward activation.
    pub activation: Activation,
    /// Added to the variance in every layer norm.
    pub layer_norm_eps: f32,
}

/// Sizes of one transformer block; all blocks are alike unless some were pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSpec {
    /// Attention heads.
    pub num_heads: usize,
    /// Width of the feed-forward network.
    pub intermediate_size: usize,
}

impl EncoderSpec {
    /// Number of transformer blocks.
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// Longest sequence the position table allows, in tokens.
    pub fn max_tokens(&self) -> usize {
        self.max_positions - self.position_offset
    }
}

/// Scratch memory of one thread, reused between batches by every encoder of one executor.
pub type EncoderWorkspace = Box<dyn Any + Send>;

/// What threads share that compute one sequence together; made by the executor they run.
pub type EncoderTeam = Box<dyn Any + Send + Sync>;

/// Token ids in, hidden states out. Both executors implement it, and everything above is generic over it.
pub trait Encoder: Send + Sync {
    /// Sizes and options.
    fn spec(&self) -> &EncoderSpec;

    /// `"f32"` or `"int8"`: what the matrix products run in.
    fn precision(&self) -> &'static str;

    /// Scratch memory for [`Encoder::forward`]; one per thread. It serves all encoders of this executor in turn, and
    /// when another executor is given it, that one puts its own in its place.
    fn workspace(&self) -> EncoderWorkspace;

    /// Writes the last hidden states of all tokens, `[tokens, hidden_size]`, to `out` (resized).
    ///
    /// A sequence's rows depend on that sequence alone, bit for bit.
    ///
    /// # Panics
    /// When an id is not below `vocab_size`, or a sequence is longer than [`EncoderSpec::max_tokens`]: callers check.
    fn forward(&self, batch: &RaggedBatch, workspace: &mut EncoderWorkspace, out: &mut Vec<f32>);

    /// [`Encoder::forward`], but hands the hidden states of each sequence, `[tokens, hidden_size]`, to `see`, in order.
    /// An executor that computes a few sequences at a time never holds those of the whole batch.
    ///
    /// # Panics
    /// As [`Encoder::forward`].
    fn forward_each(&self, batch: &RaggedBatch, workspace: &mut EncoderWorkspace, see: &mut dyn FnMut(&[f32])) {
        let (mut hidden, width) = (Vec::new(), self.spec().hidden_size);
        self.forward(batch, workspace, &mut hidden);
        batch.ranges().for_each(|rows| see(&hidden[rows.start * width..rows.end * width]));
    }

    /// What `members` threads need to compute one sequence together; none when this executor does not split one.
    fn team(&self, members: usize) -> Option<EncoderTeam> {
        let _ = members;
        None
    }

    /// [`Encoder::forward`] of a batch of one sequence by all members of a team, each some of its rows: they call this
    /// at the same time, each with its own number and workspace. Member 0 gets the hidden states, by bits those of
    /// [`Encoder::forward`]; the others' `out` is left as it is. When member 0 returns, the others are done with the
    /// team, and another sequence may have it.
    ///
    /// # Panics
    /// As [`Encoder::forward`], when the batch is not one sequence, and when another member panics.
    fn forward_together(
        &self,
        batch: &RaggedBatch,
        team: &EncoderTeam,
        member: usize,
        workspace: &mut EncoderWorkspace,
        out: &mut Vec<f32>,
    ) {
        let _ = (batch, team, member, workspace, out);
        unreachable!("only an executor that makes teams has work for them");
    }
}
