//! Multi-head self-attention (Vaswani et al. 2017, section 3.2) over one sequence.

use std::ops::Range;

use candle_core::{D, Result, Tensor};

use crate::architectures::{EncoderSpec, LayerNames};
use crate::kernels::Kernels;

use super::int8_op::Int8Attention;
use super::{Linear, Parameters};

/// `softmax(Q K^T / sqrt(head_dim)) V` per head, then the output projection.
#[derive(Clone, Debug)]
pub struct SelfAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    num_heads: usize,
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
            num_heads: spec.num_heads,
            kernels: parameters.kernels(),
        })
    }

    /// Whether a matrix product is quantized.
    pub fn is_quantized(&self) -> bool {
        [&self.query, &self.key, &self.value, &self.output].into_iter().any(Linear::is_quantized)
    }

    /// Puts another matrix in the place of queries, keys, values or the output projection, counted in this order.
    ///
    /// # Panics
    /// When `index` is above 3.
    pub fn replace(&mut self, index: usize, linear: Linear) {
        *[&mut self.query, &mut self.key, &mut self.value, &mut self.output][index] = linear;
    }

    /// What the output projection gets, `[tokens, hidden]` → `[tokens, hidden]`; every token sees every token of its
    /// sequence, `sequences` being the rows of each. Attention runs on kernels, as in the executor that serves,
    /// when the parameters said so, or when queries, keys and values all come from quantized products.
    ///
    /// # Errors
    /// When the width differs.
    pub fn context(&self, x: &Tensor, sequences: &[Range<usize>]) -> Result<Tensor> {
        let parts = [self.query.forward(x)?, self.key.forward(x)?, self.value.forward(x)?];
        let contexts = sequences.iter().map(|rows| {
            let own = |y: &Tensor| y.narrow(0, rows.start, rows.len());
            self.attend([own(&parts[0])?, own(&parts[1])?, own(&parts[2])?])
        });
        match contexts.collect::<Result<Vec<_>>>()? {
            mut one if one.len() == 1 => Ok(one.remove(0)),
            several => Tensor::cat(&several, 0),
        }
    }

    /// Queries, keys and values of one sequence, `[tokens, hidden]` each → its context.
    fn attend(&self, parts: [Tensor; 3]) -> Result<Tensor> {
        let (tokens, width) = parts[0].dims2()?;
        let of_products = || {
            let [query, key, value] = [&self.query, &self.key, &self.value].map(Linear::kernels);
            query.filter(|_| key.is_some() && value.is_some())
        };
        if let Some(kernels) = self.kernels.or_else(of_products) {
            let attention = Int8Attention { kernels, num_heads: self.num_heads };
            return Tensor::cat(&parts, 1)?.contiguous()?.apply_op1(attention);
        }
        let head_dim = width / self.num_heads;
        // [tokens, hidden] → [heads, tokens, head_dim]
        let heads = |y: Tensor| y.reshape((tokens, self.num_heads, head_dim))?.transpose(0, 1)?.contiguous();
        let [query, key, value] = parts;
        let query = (heads(query)? * (head_dim as f64).powf(-0.5))?;
        // The fused softmax_last_dim has no gradient.
        let weights = candle_nn::ops::softmax(&query.matmul(&heads(key)?.t()?)?, D::Minus1)?;
        weights.matmul(&heads(value)?)?.transpose(0, 1)?.reshape((tokens, width))
    }

    /// The output projection of the context, `[tokens, hidden]` → `[tokens, hidden]`.
    ///
    /// # Errors
    /// When the width differs.
    pub fn project(&self, context: &Tensor) -> Result<Tensor> {
        self.output.forward(context)
    }
}
