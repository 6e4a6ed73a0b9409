//! Multi-head self-attention of one sequence in f32 (Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>).
//!
//! The order of every sum is fixed: a score sums over the head's channels in order, the softmax sums as
//! [`Lanes::sum`] says, and the context sums over the keys in order. Tiles only choose which results are worked on
//! together.

use super::isa::Kernels;
use super::lanes::{LANES, LaneKernel, Lanes};
use super::pack::AlignedVec;
use super::softmax::exp_row;

/// Memory of [`Kernels::attention`], reused between calls; grows to the longest sequence seen.
#[derive(Clone, Debug, Default)]
pub struct AttentionScratch {
    /// Keys of one head, transposed: `[head_dim, tokens padded to 16]`.
    keys: AlignedVec<f32>,
    /// Values of one head, `[tokens, head_dim padded to 16]`.
    values: AlignedVec<f32>,
    /// Scores of one query, `[tokens padded to 16]`.
    scores: AlignedVec<f32>,
}

impl AttentionScratch {
    /// Empty scratch memory.
    pub fn new() -> Self {
        Self::default()
    }
}

struct Attention<'a> {
    qkv: &'a [f32],
    heads: usize,
    head_dim: usize,
    tokens: usize,
    scratch: &'a mut AttentionScratch,
    out: &'a mut [f32],
}

impl LaneKernel for Attention<'_> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Attention { qkv, heads, head_dim, tokens, scratch, out } = self;
        let hidden = heads * head_dim;
        let padded_tokens = tokens.next_multiple_of(LANES);
        let padded_dim = head_dim.next_multiple_of(LANES);
        scratch.keys.resize(head_dim * padded_tokens);
        scratch.values.resize(tokens * padded_dim);
        scratch.scores.resize(padded_tokens);
        let keys = scratch.keys.as_mut_slice();
        let values = scratch.values.as_mut_slice();
        let scores = scratch.scores.as_mut_slice();
        let scale = V::splat(1.0 / (head_dim as f32).sqrt());
        for head in 0..heads {
            for t in 0..tokens {
                let row = &qkv[t * 3 * hidden..][..3 * hidden];
                for d in 0..head_dim {
                    keys[d * padded_tokens + t] = row[hidden + head * head_dim + d];
                    values[t * padded_dim + d] = row[2 * hidden + head * head_dim + d];
                }
            }
            for t in 0..tokens {
                let query = &qkv[t * 3 * hidden + head * head_dim..][..head_dim];
                for j in (0..padded_tokens).step_by(LANES) {
                    let mut acc = V::splat(0.0);
                    for (d, q) in query.iter().enumerate() {
                        // SAFETY: `j + 16 <= padded_tokens`, the length of each of the `head_dim` rows of `keys`.
                        let k = unsafe { V::load(keys.as_ptr().add(d * padded_tokens + j)) };
                        acc = V::splat(*q).mul_add(k, acc);
                    }
                    // SAFETY: `j + 16 <= padded_tokens`, the length of `scores`.
                    unsafe { acc.mul(scale).store(scores.as_mut_ptr().add(j)) };
                }
                let inverse = V::splat(1.0 / exp_row::<V>(&mut scores[..tokens]));
                let context = &mut out[t * hidden + head * head_dim..][..head_dim];
                for d in (0..padded_dim).step_by(LANES) {
                    let mut acc = V::splat(0.0);
                    for (j, p) in scores[..tokens].iter().enumerate() {
                        // SAFETY: `d + 16 <= padded_dim`, the length of each of the rows of `values`.
                        let v = unsafe { V::load(values.as_ptr().add(j * padded_dim + d)) };
                        acc = V::splat(*p).mul_add(v, acc);
                    }
                    let count = (head_dim - d).min(LANES);
                    // SAFETY: `d + count <= head_dim`, the length of `context`.
                    unsafe { acc.mul(inverse).store_first(context.as_mut_ptr().add(d), count) };
                }
            }
        }
    }
}

impl Kernels {
    /// Softmax attention of one sequence over itself, all heads: `softmax(q k^T / sqrt(head_dim)) v`.
    ///
    /// - `qkv` `[tokens, 3 * heads * head_dim]`: in each row the queries of all heads, then the keys, then the values.
    /// - `out` `[tokens, heads * head_dim]`.
    ///
    /// # Panics
    /// When sizes do not fit together.
    pub fn attention(
        self,
        qkv: &[f32],
        heads: usize,
        head_dim: usize,
        scratch: &mut AttentionScratch,
        out: &mut [f32],
    ) {
        let hidden = heads * head_dim;
        let tokens = out.len().checked_div(hidden).unwrap_or(0);
        assert_eq!(out.len(), tokens * hidden, "the attention output is no whole number of rows of {hidden}");
        assert_eq!(qkv.len(), 3 * out.len(), "attention needs a query, a key and a value per output");
        if tokens > 0 {
            self.run(Attention { qkv, heads, head_dim, tokens, scratch, out });
        }
    }
}
