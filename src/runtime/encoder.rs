//! The encoder's forward pass, in integers where the work is.

use std::ops::Range;

use crate::architectures::{
    Activation, Encoder, EncoderNames, EncoderSpec, EncoderTeam, EncoderWorkspace, LayerNames, LayerSpec, RaggedBatch,
};
use crate::checkpoint::{CheckpointError, Weights};
use crate::kernels::affine::Inputs;
use crate::kernels::{
    self, AlignedVec, Arena, AttentionScratch, Isa, Kernels, LayerNorm, PackedWeights, QuantizedRows,
};

use super::embeddings::{Embeddings, Norm};
use super::matrix::{Entering, Matrix, MatrixScratch};
use super::team::Team;
use super::workspace::{Workspace, sized};

mod divided;

/// Tokens that run through all layers together. Each such chunk reads all weights again, from the third-level cache or
/// from memory.
const CHUNK_TOKENS: usize = 256;

/// Rows that run through half a layer together, attention's half or the feed-forward network's. What is between its
/// matrices then stays in the second-level cache, beside the weights of this half, which the chunk's next block meets
/// there; those of a layer have 0.6 and 1.2 MB at 384 channels.
const BLOCK_ROWS: usize = 48;

/// The same on tiles, which take as long for a few rows as the weights take to come.
const BLOCK_ROWS_ON_TILES: usize = CHUNK_TOKENS;

/// A post-norm encoder with weights in integers, activations in u8 (one scale and zero point per token, or one for all)
/// and f32 in between; layers that stay float run in f32. Attention is in 16 bits everywhere.
pub struct Int8Encoder {
    spec: EncoderSpec,
    kernels: Kernels,
    embeddings: Embeddings,
    layers: Vec<Layer>,
}

struct Layer {
    sizes: LayerSpec,
    /// Query, key and value projections as one matrix, `[3 heads * head_dim, hidden]`.
    qkv: Matrix,
    attention_output: Matrix,
    attention_norm: Norm,
    ffn_up: Matrix,
    ffn_down: Matrix,
    output_norm: Norm,
}

/// Bytes of weights in memory, by part and dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderBytes {
    /// Integers of the embedding tables.
    pub embeddings_int8: u64,
    /// Scales and norm of the embedding tables.
    pub embeddings_f32: u64,
    /// Integers of the layers' matrices.
    pub encoder_int8: u64,
    /// Scales, biases and norms of the layers.
    pub encoder_f32: u64,
}

impl Int8Encoder {
    /// Takes the encoder's weights and packs them for `kernels`. What a folder without a `quantization_config` holds in
    /// float becomes int8.
    ///
    /// # Errors
    /// [`CheckpointError`] naming a weight that is missing or has another shape.
    pub fn load(
        spec: EncoderSpec,
        names: &EncoderNames,
        weights: &mut Weights,
        kernels: Kernels,
    ) -> Result<Self, CheckpointError> {
        let embeddings = Embeddings::load(&spec, names, weights)?;
        let linears = names.layers.iter().flat_map(|layer| layer.linears());
        let arena = Arena::new(linears.map(|l| PackedWeights::panel_bytes(kernels, l.outputs, l.inputs)).sum());
        let layers = spec.layers.iter().zip(&names.layers);
        let layers = layers.map(|(sizes, names)| Layer::load(&spec, *sizes, names, weights, kernels, &arena));
        let layers = layers.collect::<Result<_, _>>()?;
        Ok(Int8Encoder { spec, kernels, embeddings, layers })
    }

    /// The kernels it runs on.
    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// Bytes of weights, as counted in the model (packing may pad them a little).
    pub fn bytes(&self) -> EncoderBytes {
        let (embeddings_int8, embeddings_f32) = self.embeddings.bytes();
        let matrices = || self.layers.iter().flat_map(Layer::matrices);
        let norms: u64 = self.layers.iter().map(|l| l.attention_norm.bytes() + l.output_norm.bytes()).sum();
        EncoderBytes {
            embeddings_int8,
            embeddings_f32,
            encoder_int8: matrices().map(|m| m.bytes().0).sum(),
            encoder_f32: norms + matrices().map(|m| m.bytes().1).sum::<u64>(),
        }
    }

    /// Runs the sequences of one chunk through all layers, and hands the hidden states of each to `see`.
    fn run_chunk(&self, batch: &RaggedBatch, sequences: Range<usize>, w: &mut Workspace, see: &mut dyn FnMut(&[f32])) {
        let width = self.spec.hidden_size;
        let starts = &batch.starts[sequences.start..=sequences.end];
        let rows = |first: usize, end: usize| starts[first] - starts[0]..starts[end] - starts[0];
        let mut hidden = std::mem::take(&mut w.hidden);
        hidden.resize(rows(0, sequences.len()).len() * width);
        for (nth, sequence) in sequences.clone().enumerate() {
            let rows = rows(nth, nth + 1);
            let embedded = &mut hidden.as_mut_slice()[values(&rows, width)];
            self.embeddings.lookup(self.kernels, batch, sequence, 0..rows.len(), embedded);
        }
        self.run_layers(hidden.as_mut_slice(), w, |_, layer, hidden, w| {
            let context_width = self.attention_width(layer);
            let context = sized(&mut w.context, hidden.len() / width * context_width);
            for block in runs(starts, self.block_rows()) {
                let block_rows = rows(block.start, block.end);
                let (hidden, qkv) = (&hidden[values(&block_rows, width)], &mut w.qkv);
                let mut qkv = &*self.project(layer, hidden, qkv, &mut w.block_q, &mut w.matrix);
                for rows in block.map(|nth| rows(nth, nth + 1)) {
                    let own = qkv.split_off(..rows.len() * 3 * context_width).expect("the block's rows are these");
                    let context = &mut context[values(&rows, context_width)];
                    self.attend(layer, own, &[own], &mut w.attention, context);
                }
            }
        });
        let hidden_of = |nth| &hidden.as_slice()[values(&rows(nth, nth + 1), width)];
        (0..sequences.len()).for_each(|nth| see(hidden_of(nth)));
        w.hidden = hidden;
    }

    /// Runs a member's rows of the only sequence through all layers; afterwards each member's rows are in its slot.
    fn run_rows(&self, batch: &RaggedBatch, team: &Team, member: usize, w: &mut Workspace) {
        let width = self.spec.hidden_size;
        let rows = team.rows(batch.tokens(), member);
        let mut hidden = std::mem::take(&mut w.hidden);
        self.embeddings.lookup(self.kernels, batch, 0, rows.clone(), sized(&mut hidden, rows.len() * width));
        self.run_layers(hidden.as_mut_slice(), w, |index, layer, hidden, w| {
            let width = self.attention_width(layer);
            team.publish(index, member, |slot| {
                self.project(layer, hidden, slot, &mut w.block_q, &mut w.matrix);
            });
            team.wait();
            let context = sized(&mut w.context, rows.len() * width);
            team.read(index, |sequence| self.attend(layer, sequence[member], sequence, &mut w.attention, context));
        });
        self.publish_hidden(hidden.as_slice(), team, member);
        w.hidden = hidden;
    }

    /// Puts a member's rows into its slot, and waits until all have.
    fn publish_hidden(&self, hidden: &[f32], team: &Team, member: usize) {
        team.publish(self.layers.len(), member, |slot| sized(slot, hidden.len()).copy_from_slice(hidden));
        team.wait();
    }

    /// Rows that run through half a layer together.
    fn block_rows(&self) -> usize {
        if self.kernels.isa() == Isa::AmxInt8 { BLOCK_ROWS_ON_TILES } else { BLOCK_ROWS }
    }

    /// Embedded `hidden` → norm → all layers, in place; `attention` turns `hidden` into `context`.
    fn run_layers(
        &self,
        hidden: &mut [f32],
        w: &mut Workspace,
        attention: impl Fn(usize, &Layer, &[f32], &mut Workspace),
    ) {
        self.kernels.layer_norm(self.embeddings.norm.get(), hidden);
        for (index, layer) in self.layers.iter().enumerate() {
            attention(index, layer, hidden, w);
            self.after_attention(layer, hidden, w);
        }
    }

    /// `hidden = norm(hidden + x)`, and the rows as `next` wants its inputs.
    fn add_norm(&self, norm: LayerNorm<'_>, x: &[f32], hidden: &mut [f32], next: &Matrix, rows: &mut QuantizedRows) {
        match next.entering() {
            Entering { inputs: Inputs::Dynamic, smoothing } => {
                self.kernels.add_layer_norm_quantize(norm, x, hidden, smoothing, rows);
            }
            entering => {
                self.kernels.add_layer_norm(norm, x, hidden);
                entering.quantize(self.kernels, hidden, self.spec.hidden_size, rows);
            }
        }
    }

    /// The rows of the activation of `inner`, `k` wide, as `next` wants its inputs; `inner` itself becomes it unless `next`
    /// finds the scale of each row.
    fn activate(&self, inner: &mut [f32], k: usize, next: &Matrix, rows: &mut QuantizedRows) {
        let activation = activation(&self.spec);
        match next.entering() {
            Entering { inputs: Inputs::Dynamic, smoothing } => {
                self.kernels.activate_quantize(activation, inner, k, smoothing, rows);
            }
            entering => {
                self.kernels.activate(activation, inner);
                entering.quantize(self.kernels, inner, k, rows);
            }
        }
    }

    /// Width of what attention gives: all heads of a layer.
    fn attention_width(&self, layer: &Layer) -> usize {
        layer.sizes.num_heads * self.spec.head_dim
    }

    /// Queries, keys and values of rows, `[rows, 3 heads * head_dim]`.
    fn project<'a>(
        &self,
        layer: &Layer,
        hidden: &[f32],
        out: &'a mut AlignedVec<f32>,
        rows: &mut QuantizedRows,
        scratch: &mut MatrixScratch,
    ) -> &'a mut [f32] {
        let width = self.spec.hidden_size;
        let out = sized(out, hidden.len() / width * layer.qkv.n());
        layer.qkv.entering().quantize(self.kernels, hidden, width, rows);
        layer.qkv.product(self.kernels, hidden, rows, scratch, out);
        out
    }

    fn attend(
        &self,
        layer: &Layer,
        queries: &[f32],
        sequence: &[&[f32]],
        scratch: &mut AttentionScratch,
        context: &mut [f32],
    ) {
        self.kernels.attention(queries, sequence, layer.sizes.num_heads, self.spec.head_dim, scratch, context);
    }

    /// `hidden = norm2(h + ffn(h))` with `h = norm1(hidden + projection(context))`, a block of rows at a time.
    fn after_attention(&self, layer: &Layer, hidden: &mut [f32], w: &mut Workspace) {
        let (width, inner_width) = (self.spec.hidden_size, layer.sizes.intermediate_size);
        let context_width = self.attention_width(layer);
        let context = &w.context.as_slice()[..hidden.len() / width * context_width];
        let block = self.block_rows();
        let blocks = hidden.chunks_mut(block * width).zip(context.chunks(block * context_width));
        for (hidden, context) in blocks {
            let rows = hidden.len() / width;
            let projected = sized(&mut w.projected, rows * width);
            let (block_q, scratch) = (&mut w.block_q, &mut w.matrix);
            layer.attention_output.entering().quantize(self.kernels, context, context_width, block_q);
            layer.attention_output.product(self.kernels, context, block_q, scratch, projected);
            self.add_norm(layer.attention_norm.get(), projected, hidden, &layer.ffn_up, block_q);
            let inner = sized(&mut w.inner, rows * inner_width);
            layer.ffn_up.product(self.kernels, hidden, block_q, scratch, inner);
            self.activate(inner, inner_width, &layer.ffn_down, block_q);
            layer.ffn_down.product(self.kernels, inner, block_q, scratch, projected);
            self.kernels.add_layer_norm(layer.output_norm.get(), projected, hidden);
        }
    }
}

impl Encoder for Int8Encoder {
    fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    fn precision(&self) -> &'static str {
        let float = self.layers.iter().flat_map(Layer::matrices).all(Matrix::is_float);
        if float { "f32" } else { "int8" }
    }

    fn workspace(&self) -> EncoderWorkspace {
        Box::new(Workspace::default())
    }

    fn forward(&self, batch: &RaggedBatch, workspace: &mut EncoderWorkspace, out: &mut Vec<f32>) {
        out.clear();
        out.reserve(batch.tokens() * self.spec.hidden_size);
        self.forward_each(batch, workspace, &mut |hidden| out.extend_from_slice(hidden));
    }

    fn forward_each(&self, batch: &RaggedBatch, workspace: &mut EncoderWorkspace, see: &mut dyn FnMut(&[f32])) {
        let workspace = own(workspace);
        for sequences in runs(&batch.starts, CHUNK_TOKENS) {
            self.run_chunk(batch, sequences, workspace, see);
        }
    }

    fn team(&self, members: usize) -> Option<EncoderTeam> {
        Some(Box::new(Team::new(members)))
    }

    fn forward_together(
        &self,
        batch: &RaggedBatch,
        team: &EncoderTeam,
        member: usize,
        workspace: &mut EncoderWorkspace,
        out: &mut Vec<f32>,
    ) {
        assert_eq!(batch.len(), 1, "a team computes one sequence at a time");
        let team = team.downcast_ref::<Team>().expect("the team of another executor was given");
        let _member = team.enter();
        let workspace = own(workspace);
        if self.divides_weights(batch.tokens()) {
            self.run_columns(batch, team, member, workspace);
        } else {
            self.run_rows(batch, team, member, workspace);
        }
        if member == 0 {
            out.clear();
            team.read(self.layers.len(), |parts| parts.iter().for_each(|part| out.extend_from_slice(part)));
        }
    }
}

/// The memory of this executor; that of another one goes.
fn own(workspace: &mut EncoderWorkspace) -> &mut Workspace {
    if !(**workspace).is::<Workspace>() {
        *workspace = Box::new(Workspace::default());
    }
    workspace.downcast_mut().expect("it is of this executor")
}

impl Layer {
    fn load(
        spec: &EncoderSpec,
        sizes: LayerSpec,
        names: &LayerNames,
        weights: &mut Weights,
        kernels: Kernels,
        arena: &Arena,
    ) -> Result<Self, CheckpointError> {
        Ok(Layer {
            sizes,
            qkv: Matrix::load(kernels, arena, weights, &[&names.query, &names.key, &names.value])?,
            attention_output: Matrix::load(kernels, arena, weights, &[&names.attention_output])?,
            attention_norm: Norm::load(&names.attention_norm, spec, weights)?,
            ffn_up: Matrix::load(kernels, arena, weights, &[&names.ffn_up])?,
            ffn_down: Matrix::load(kernels, arena, weights, &[&names.ffn_down])?,
            output_norm: Norm::load(&names.output_norm, spec, weights)?,
        })
    }

    fn matrices(&self) -> [&Matrix; 4] {
        [&self.qkv, &self.attention_output, &self.ffn_up, &self.ffn_down]
    }
}

fn activation(spec: &EncoderSpec) -> kernels::Activation {
    match spec.activation {
        Activation::Gelu => kernels::Activation::Gelu,
        Activation::GeluTanh => kernels::Activation::GeluTanh,
        Activation::Relu => kernels::Activation::Relu,
    }
}

/// Where the values of some rows are.
fn values(rows: &Range<usize>, width: usize) -> Range<usize> {
    rows.start * width..rows.end * width
}

/// Cuts a batch into runs of whole sequences of at most `limit` tokens; a longer sequence is its own run.
fn runs(starts: &[usize], limit: usize) -> impl Iterator<Item = Range<usize>> + '_ {
    let sequences = starts.len() - 1;
    let mut next = 0;
    std::iter::from_fn(move || {
        let start = next;
        while next < sequences && (next == start || starts[next + 1] - starts[start] <= limit) {
            next += 1;
        }
        (start < next).then_some(start..next)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_hold_whole_sequences_within_the_limit() {
        let cut = |lengths: &[usize]| {
            let mut starts = vec![0];
            starts.extend(lengths.iter().scan(0, |sum, l| {
                *sum += l;
                Some(*sum)
            }));
            runs(&starts, 256).map(|r| (r.start, r.end)).collect::<Vec<_>>()
        };
        assert!(cut(&[]).is_empty());
        assert_eq!(cut(&[1]), [(0, 1)]);
        assert_eq!(cut(&[500]), [(0, 1)]);
        assert_eq!(cut(&[100, 100, 56, 1]), [(0, 3), (3, 4)]);
        assert_eq!(cut(&[300, 10, 300, 10]), [(0, 1), (1, 2), (2, 3), (3, 4)]);
    }
}
