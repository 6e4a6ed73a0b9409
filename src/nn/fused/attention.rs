//! Multi-head self-attention of a ragged batch: every token sees the tokens of its own sequence.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Error, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::dropout::Dropout;
use super::{exp_of_negative, values, vectorized, with_values};

/// `dropout(softmax(Q K^T / sqrt(head_dim))) V` per sequence and head (Vaswani et al. 2017, section 3.2).
#[derive(Clone, Debug)]
pub struct Attention {
    /// Where each sequence starts, and the total: `[sequences + 1]`.
    pub starts: Arc<[usize]>,
    /// Heads; divides the width.
    pub num_heads: usize,
    /// What is dropped of the attention weights.
    pub dropout: Dropout,
}

impl Attention {
    /// Queries, keys and values, `[tokens, width]` each → `[tokens, width]`.
    ///
    /// # Errors
    /// When the shapes differ, or the sequences are not all the tokens.
    pub fn forward(self, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        query.contiguous()?.apply_op3(&key.contiguous()?, &value.contiguous()?, self)
    }

    /// The sequences' parts of a buffer `[tokens, width]`, in order.
    fn split<'a>(&self, mut buffer: &'a mut [f32], width: usize) -> Vec<&'a mut [f32]> {
        let part = |range: &[usize]| {
            let (part, rest) = std::mem::take(&mut buffer).split_at_mut((range[1] - range[0]) * width);
            buffer = rest;
            part
        };
        self.starts.windows(2).map(part).collect()
    }

    fn rows(&self, sequence: usize) -> Range<usize> {
        self.starts[sequence]..self.starts[sequence + 1]
    }
}

/// One head of one sequence.
struct Head<'a> {
    query: &'a [f32],
    key: &'a [f32],
    value: &'a [f32],
    /// Floats from one row to the next.
    width: usize,
    /// The head's place in a row.
    columns: Range<usize>,
    tokens: usize,
    dropout: Dropout,
    /// Number of the head's first attention weight, for dropout.
    first: u32,
}

impl<'a> Head<'a> {
    fn row<'b>(&self, matrix: &'b [f32], row: usize) -> &'b [f32] {
        &matrix[row * self.width..][self.columns.clone()]
    }

    fn row_mut<'b>(&self, matrix: &'b mut [f32], row: usize) -> &'b mut [f32] {
        &mut matrix[row * self.width..][self.columns.clone()]
    }

    /// `[tokens, head_dim]` of a matrix → `[head_dim, tokens]`, rows of `stride`.
    #[inline(always)]
    fn transpose(&self, matrix: &[f32], stride: usize, out: &mut Vec<f32>) {
        out.clear();
        out.resize(self.columns.len() * stride, 0.0);
        for token in 0..self.tokens {
            for (column, x) in self.row(matrix, token).iter().enumerate() {
                out[column * stride + token] = *x;
            }
        }
    }

    /// The attention weights of one query, before dropout.
    #[inline(always)]
    fn weights(&self, query: usize, keys: &[f32], stride: usize, out: &mut [f32]) {
        products(self.row(self.query, query), keys, stride, out);
        let scale = (self.columns.len() as f32).sqrt().recip();
        let scores = &mut out[..self.tokens];
        let largest = scores.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
        scores.iter_mut().for_each(|s| *s = exp_of_negative((*s - largest) * scale));
        let total: f32 = scores.iter().sum();
        let factor = 1.0 / total;
        scores.iter_mut().for_each(|s| *s *= factor);
        out[self.tokens..].fill(0.0);
    }

    /// What weight number `key` of `query` is multiplied by.
    #[inline(always)]
    fn kept(&self, query: usize, key: usize) -> f32 {
        self.dropout.factor(self.first.wrapping_add((query * self.tokens + key) as u32))
    }

    #[inline(always)]
    fn forward(&self, out: &mut [f32], scratch: &mut Scratch) {
        let stride = self.stride();
        self.transpose(self.key, stride, &mut scratch.keys);
        scratch.weights.resize(stride, 0.0);
        for query in 0..self.tokens {
            self.weights(query, &scratch.keys, stride, &mut scratch.weights);
            let row = self.row_mut(out, query);
            for key in 0..self.tokens {
                let mut weight = scratch.weights[key];
                if !self.dropout.is_none() {
                    weight *= self.kept(query, key);
                }
                add_scaled(row, weight, self.row(self.value, key));
            }
        }
    }

    /// With weights `p`, `d` what they are multiplied by in dropout, and `dp = (dy V^T) d`:
    /// `dscores = p (dp - sum(p dp))`, `dQ = dscores K / sqrt(head_dim)`, `dK = dscores^T Q / sqrt(head_dim)` and
    /// `dV = (p d)^T dy`.
    #[inline(always)]
    fn backward(&self, dy: &[f32], [dq, dk, dv]: [&mut [f32]; 3], scratch: &mut Scratch) {
        let stride = self.stride();
        self.transpose(self.key, stride, &mut scratch.keys);
        self.transpose(self.value, stride, &mut scratch.values);
        scratch.weights.resize(stride, 0.0);
        scratch.gradients.resize(stride, 0.0);
        let scale = (self.columns.len() as f32).sqrt().recip();
        for query in 0..self.tokens {
            let dy = self.row(dy, query);
            self.weights(query, &scratch.keys, stride, &mut scratch.weights);
            products(dy, &scratch.values, stride, &mut scratch.gradients);
            let (weights, gradients) = (&scratch.weights[..self.tokens], &mut scratch.gradients[..self.tokens]);
            if self.dropout.is_none() {
                for (key, p) in weights.iter().enumerate() {
                    add_scaled(self.row_mut(dv, key), *p, dy);
                }
            } else {
                for (key, (p, dp)) in weights.iter().zip(gradients.iter_mut()).enumerate() {
                    let kept = self.kept(query, key);
                    *dp *= kept;
                    add_scaled(self.row_mut(dv, key), p * kept, dy);
                }
            }
            let mean: f32 = weights.iter().zip(gradients.iter()).map(|(p, dp)| p * dp).sum();
            let queries = self.row(self.query, query);
            let dq = self.row_mut(dq, query);
            for (key, (p, dp)) in weights.iter().zip(gradients.iter()).enumerate() {
                let dscore = scale * p * (dp - mean);
                add_scaled(dq, dscore, self.row(self.key, key));
                add_scaled(self.row_mut(dk, key), dscore, queries);
            }
        }
    }

    /// Floats of a row over tokens: whole vectors.
    fn stride(&self) -> usize {
        self.tokens.next_multiple_of(16)
    }
}

/// `out[j] = x . columns[.., j]`, from a transposed matrix with rows of `stride`.
#[inline(always)]
pub(super) fn products(x: &[f32], transposed: &[f32], stride: usize, out: &mut [f32]) {
    out.fill(0.0);
    for (x, row) in x.iter().zip(transposed.chunks_exact(stride)) {
        add_scaled(out, *x, row);
    }
}

/// `out += factor x`.
#[inline(always)]
pub(super) fn add_scaled(out: &mut [f32], factor: f32, x: &[f32]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out += factor * x);
}

/// Buffers that the heads of a sequence share.
#[derive(Default)]
struct Scratch {
    keys: Vec<f32>,
    values: Vec<f32>,
    weights: Vec<f32>,
    gradients: Vec<f32>,
}

impl Attention {
    /// Runs `run` for each head of sequence `sequence`, whose rows `q`, `k` and `v` are.
    #[inline(always)]
    fn heads(&self, sequence: usize, [q, k, v]: [&[f32]; 3], width: usize, mut run: impl FnMut(&Head)) {
        let (rows, head_dim) = (self.rows(sequence), width / self.num_heads);
        let part = |x| -> &[f32] {
            let x: &[f32] = x;
            &x[rows.start * width..rows.end * width]
        };
        let tokens = rows.len();
        for head in 0..self.num_heads {
            // Weights are numbered by sequence, head, query and key, in so far as 32 bits tell them apart.
            let first = rows.start.wrapping_mul(self.num_heads).wrapping_mul(512) + head * tokens * tokens;
            run(&Head {
                query: part(q),
                key: part(k),
                value: part(v),
                width,
                columns: head * head_dim..(head + 1) * head_dim,
                tokens,
                dropout: self.dropout,
                first: first as u32,
            });
        }
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        query: &CpuStorage,
        query_layout: &Layout,
        key: &CpuStorage,
        key_layout: &Layout,
        value: &CpuStorage,
        value_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (tokens, width) = query_layout.shape().dims2()?;
        let shapes = [query_layout, key_layout, value_layout].map(|l| l.shape().clone());
        if shapes.iter().any(|s| *s != shapes[0]) || self.starts.last() != Some(&tokens) {
            let end = self.starts.last();
            return Err(Error::Msg(format!(
                "attention: queries, keys and values are {shapes:?}, the batch ends at {end:?}"
            )));
        }
        if !width.is_multiple_of(self.num_heads) {
            return Err(Error::Msg(format!("attention: {width} columns cannot be cut into {} heads", self.num_heads)));
        }
        let arguments = [
            values(query, query_layout, self.name())?,
            values(key, key_layout, self.name())?,
            values(value, value_layout, self.name())?,
        ];
        let mut out = vec![0.0; tokens * width];
        self.split(&mut out, width).into_par_iter().enumerate().for_each(|(sequence, out)| {
            let mut scratch = Scratch::default();
            vectorized(|| self.heads(sequence, arguments, width, |head| head.forward(out, &mut scratch)));
        });
        Ok((CpuStorage::F32(out), shapes[0].clone()))
    }

    fn bwd(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (tokens, width) = query.dims2()?;
        let gradients = with_values([query, key, value, gradient], self.name(), |[query, key, value, dy]| {
            let mut gradients: [Vec<f32>; 3] = std::array::from_fn(|_| vec![0.0; tokens * width]);
            let [dq, dk, dv] = gradients.each_mut().map(|g| self.split(g, width));
            let parts = dq.into_par_iter().zip(dk).zip(dv).enumerate();
            parts.for_each(|(sequence, ((dq, dk), dv))| {
                let rows = self.rows(sequence);
                let dy = &dy[rows.start * width..rows.end * width];
                let mut scratch = Scratch::default();
                vectorized(|| {
                    self.heads(sequence, [query, key, value], width, |head| {
                        head.backward(dy, [&mut *dq, &mut *dk, &mut *dv], &mut scratch);
                    });
                });
            });
            gradients
        })?;
        let tensor = |data| Tensor::from_vec(data, (tokens, width), query.device()).map(Some);
        let [dq, dk, dv] = gradients;
        Ok((tensor(dq)?, tensor(dk)?, tensor(dv)?))
    }
}
