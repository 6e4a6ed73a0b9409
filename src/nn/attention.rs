//! Multi-head self-attention (Vaswani et al. 2017, section 3.2) over the sequences of a batch.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use crate::architectures::{EncoderSpec, LayerNames};
use crate::kernels::Kernels;

use super::fused::{Attention, Dropout};
use super::int8_op::Int8Attention;
use super::{Linear, Parameters};

/// `softmax(Q K^T / sqrt(head_dim)) V` per head, then the output projection.
#[derive(Clone, Debug)]
pub struct SelfAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    /// Width of one head; the number of heads is as many as the queries are wide.
    head_dim: usize,
    /// What attention runs on; none for f32.
    kernels: Option<Kernels>,
}

impl SelfAttention {
    /// Takes the four matrices from `parameters`.
    ///
    /// # Errors
    /// As [`Parameters::linear`].
    pub fn load<P: Parameters>(
        spec: &EncoderSpec,
        names: &LayerNames,
        parameters: &mut P,
    ) -> std::result::Result<Self, P::Error> {
        Ok(SelfAttention {
            query: parameters.linear(&names.query)?,
            key: parameters.linear(&names.key)?,
            value: parameters.linear(&names.value)?,
            output: parameters.linear(&names.attention_output)?,
            head_dim: spec.head_dim,
            kernels: parameters.kernels(),
        })
    }

    /// Whether a matrix product is quantized.
    pub fn is_quantized(&self) -> bool {
        [&self.query, &self.key, &self.value, &self.output].into_iter().any(Linear::is_quantized)
    }

    /// The matrix of queries, keys, values or the output projection, counted in this order.
    ///
    /// # Panics
    /// When `index` is above 3.
    pub fn matrix(&self, index: usize) -> &Linear {
        [&self.query, &self.key, &self.value, &self.output][index]
    }

    /// Puts another matrix in the place of queries, keys, values or the output projection, counted in this order.
    ///
    /// # Panics
    /// When `index` is above 3.
    pub fn replace(&mut self, index: usize, linear: Linear) {
        *[&mut self.query, &mut self.key, &mut self.value, &mut self.output][index] = linear;
    }

    /// Queries, keys and values, `[tokens, heads * head_dim]` each, of what the block gets, `[tokens, hidden]`.
    ///
    /// # Errors
    /// When the width differs.
    pub fn projections(&self, x: &Tensor) -> Result<[Tensor; 3]> {
        Ok([self.query.forward(x)?, self.key.forward(x)?, self.value.forward(x)?])
    }

    /// What the output projection gets, `[tokens, hidden]` → `[tokens, heads * head_dim]`; every token sees every token of its
    /// sequence. `starts` is where each sequence starts, and the total; `dropout` drops of the attention weights.
    /// Attention runs on kernels, as in the executor that serves, when the parameters said so, or when queries, keys and
    /// values all come from quantized products; then nothing is dropped.
    ///
    /// # Errors
    /// When the width differs.
    pub fn context(&self, x: &Tensor, starts: &Arc<[usize]>, dropout: Dropout) -> Result<Tensor> {
        let parts = self.projections(x)?;
        let of_products = || {
            let [query, key, value] = [&self.query, &self.key, &self.value].map(Linear::kernels);
            query.filter(|_| key.is_some() && value.is_some())
        };
        if let Some(kernels) = self.kernels.or_else(of_products) {
            let attention = Int8Attention { kernels, head_dim: self.head_dim };
            let joined = Tensor::cat(&parts, 1)?.contiguous()?;
            let sequence = |w: &[usize]| joined.narrow(0, w[0], w[1] - w[0])?.apply_op1(attention);
            return Tensor::cat(&starts.windows(2).map(sequence).collect::<Result<Vec<_>>>()?, 0);
        }
        let [query, key, value] = &parts;
        let num_heads = query.dim(1)? / self.head_dim;
        Attention { starts: starts.clone(), num_heads, dropout }.forward(query, key, value)
    }

    /// The output projection of the context, `[tokens, heads * head_dim]` → `[tokens, hidden]`.
    ///
    /// # Errors
    /// When the width differs.
    pub fn project(&self, context: &Tensor) -> Result<Tensor> {
        self.output.forward(context)
    }
}
