//! A short sequence whose weights a team divides.
//!
//! With few tokens a product takes as long as its weights take to come. Members that have some rows each all read all of
//! them; here each has some output channels, of all rows, so that every weight is read once ("model parallel", Shoeybi et
//! al. 2019, <https://arxiv.org/abs/1909.08053>, section 3). Heads are divided too: a member attends with the queries,
//! keys and values that it made. Sums and norms of whole rows are done by rows.
//!
//! Members meet eight times a layer instead of once, and exchange u8 where they can: of a row that all have parts of they
//! exchange the ranges first. So it pays for few tokens only. The bits are those of any other way to compute a sequence.

use std::ops::Range;

use crate::architectures::RaggedBatch;
use crate::kernels::{COLUMN_BLOCK, Kernels, QuantizedRows, RowRange};
use crate::runtime::matrix::{Entering, Matrix};
use crate::runtime::team::Team;
use crate::runtime::workspace::{Workspace, sized};

use super::{Int8Encoder, Layer, activation};

/// Tokens of the longest sequence whose weights are divided; with more, what members exchange takes longer than reading
/// all weights.
const MOST_TOKENS: usize = 128;

/// A member of a team at work on `tokens` rows.
#[derive(Clone, Copy)]
struct Part<'a> {
    kernels: Kernels,
    team: &'a Team,
    member: usize,
    tokens: usize,
}

impl Int8Encoder {
    /// Whether a team divides the weights for a sequence of `tokens`: a short one, and a model of int8 products whose
    /// heads fill whole blocks of channels, none of them more than one.
    pub(super) fn divides_weights(&self, tokens: usize) -> bool {
        let is_divisible = |layer: &Layer| {
            COLUMN_BLOCK.is_multiple_of(self.spec.head_dim)
                && self.attention_width(layer).is_multiple_of(COLUMN_BLOCK)
                && layer.matrices().into_iter().all(Matrix::is_divisible)
        };
        tokens <= MOST_TOKENS && self.layers.iter().all(is_divisible)
    }

    /// Runs the only sequence through all layers with a member's part of the weights; afterwards each member's rows are
    /// in its slot.
    pub(super) fn run_columns(&self, batch: &RaggedBatch, team: &Team, member: usize, w: &mut Workspace) {
        let (kernels, width, tokens) = (self.kernels, self.spec.hidden_size, batch.tokens());
        let part = Part { kernels, team, member, tokens };
        let own_rows = team.rows(tokens, member);
        let mut hidden = std::mem::take(&mut w.hidden);
        self.embeddings.lookup(kernels, batch, 0, own_rows.clone(), sized(&mut hidden, own_rows.len() * width));
        let hidden_rows = hidden.as_mut_slice();
        let smoothing = self.layers.first().and_then(|layer| layer.qkv.entering().smoothing);
        part.join_rows(&mut w.block_q, |own| {
            kernels.layer_norm_quantize(self.embeddings.norm.get(), hidden_rows, smoothing, own)
        });
        let mut layers = self.layers.iter().peekable();
        while let Some(layer) = layers.next() {
            let context_width = self.attend_own_heads(layer, part, w);
            let entering = layer.attention_output.entering();
            part.join_columns(w.context.as_slice(), context_width, entering, &mut w.ranges, &mut w.block_q);
            let projected = sized(&mut w.projected, hidden_rows.len());
            part.product_of_own_rows(&layer.attention_output, &w.block_q, projected);
            let (norm, smoothing) = (layer.attention_norm.get(), layer.ffn_up.entering().smoothing);
            part.join_rows(&mut w.block_q, |own| {
                kernels.add_layer_norm_quantize(norm, projected, hidden_rows, smoothing, own)
            });
            let columns = part.columns(layer.ffn_up.n());
            let inner = sized(&mut w.inner, tokens * columns.len());
            layer.ffn_up.product_of_columns(kernels, &w.block_q, columns.clone(), inner, columns.len());
            kernels.activate(activation(&self.spec), inner);
            part.join_columns(inner, columns.len(), layer.ffn_down.entering(), &mut w.ranges, &mut w.block_q);
            part.product_of_own_rows(&layer.ffn_down, &w.block_q, projected);
            let norm = layer.output_norm.get();
            if let Some(next) = layers.peek() {
                let smoothing = next.qkv.entering().smoothing;
                let quantize =
                    |own: &mut _| kernels.add_layer_norm_quantize(norm, projected, hidden_rows, smoothing, own);
                part.join_rows(&mut w.block_q, quantize);
            } else {
                kernels.add_layer_norm(norm, projected, hidden_rows);
            }
        }
        self.publish_hidden(hidden_rows, team, member);
        w.hidden = hidden;
    }

    /// `context` of the member's own heads, of all rows; gives its width.
    fn attend_own_heads(&self, layer: &Layer, part: Part<'_>, w: &mut Workspace) -> usize {
        let (all, own) = (self.attention_width(layer), part.columns(self.attention_width(layer)));
        let own_width = own.len();
        let qkv = sized(&mut w.qkv, part.tokens * 3 * own_width);
        let context = sized(&mut w.context, part.tokens * own_width);
        if own_width > 0 {
            for (nth, start) in [0, all, 2 * all].into_iter().enumerate() {
                let columns = start + own.start..start + own.end;
                let out = &mut qkv[nth * own_width..];
                layer.qkv.product_of_columns(self.kernels, &w.block_q, columns, out, 3 * own_width);
            }
            let (heads, head_dim) = (own_width / self.spec.head_dim, self.spec.head_dim);
            self.kernels.attention(qkv, &[qkv], heads, head_dim, &mut w.attention, context);
        }
        own_width
    }
}

impl Part<'_> {
    /// The member's columns of `n`: whole blocks.
    fn columns(self, n: usize) -> Range<usize> {
        let blocks = self.team.rows(n.div_ceil(COLUMN_BLOCK), self.member);
        (blocks.start * COLUMN_BLOCK).min(n)..(blocks.end * COLUMN_BLOCK).min(n)
    }

    /// All rows in integers, of which `quantize` gives the member's own.
    fn join_rows(self, all: &mut QuantizedRows, quantize: impl FnOnce(&mut QuantizedRows)) {
        self.team.give(self.member, |slots| &slots.input, quantize);
        self.team.wait();
        self.team.see(|slots| &slots.input, |parts| all.join_rows(parts.iter().map(|part| &**part)));
    }

    /// All rows in integers as they enter a matrix, of which each member has the columns `own` `[tokens, width]`.
    fn join_columns(
        self,
        own: &[f32],
        width: usize,
        entering: Entering<'_>,
        ranges: &mut Vec<RowRange>,
        all: &mut QuantizedRows,
    ) {
        let Part { kernels, team, member, tokens } = self;
        let smoothing = entering.smoothing.map(|factors| &factors[self.columns(factors.len())]);
        team.give(member, |slots| &slots.ranges, |ranges| kernels.row_ranges(own, tokens, width, smoothing, ranges));
        team.wait();
        ranges.clear();
        ranges.resize(tokens, RowRange::default());
        team.see(
            |slots| &slots.ranges,
            |parts| {
                for part in parts {
                    ranges.iter_mut().zip(part.iter()).for_each(|(all, own)| *all = all.union(*own));
                }
            },
        );
        team.give(
            member,
            |slots| &slots.input,
            |rows| kernels.quantize_rows_within(own, width, smoothing, ranges, rows),
        );
        team.wait();
        team.see(|slots| &slots.input, |parts| all.join_columns(parts.iter().map(|part| &**part)));
    }

    /// The member's rows of a product, `[own rows, n]`, of which each member computes some columns.
    fn product_of_own_rows(self, matrix: &Matrix, all: &QuantizedRows, out: &mut [f32]) {
        let Part { kernels, team, member, tokens } = self;
        let columns = self.columns(matrix.n());
        team.give(
            member,
            |slots| &slots.output,
            |slot| {
                let out = sized(slot, tokens * columns.len());
                matrix.product_of_columns(kernels, all, columns.clone(), out, columns.len());
            },
        );
        team.wait();
        let own_rows = team.rows(tokens, member);
        team.see(
            |slots| &slots.output,
            |parts| {
                for (other, part) in parts.iter().enumerate() {
                    let columns = Part { member: other, ..self }.columns(matrix.n());
                    let from = part.as_slice()[own_rows.start * columns.len()..].chunks_exact(columns.len().max(1));
                    for (row, from) in out.chunks_exact_mut(matrix.n()).zip(from) {
                        row[columns.clone()].copy_from_slice(from);
                    }
                }
            },
        );
    }
}
