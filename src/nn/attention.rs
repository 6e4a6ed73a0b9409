//! Multi-head self-attention (Vaswani et al. 2017, section 3.2) over one sequence.

use candle_core::{D, Result, Tensor};

use crate::architectures::{EncoderSpec, LayerNames};

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
        })
    }

    /// Whether a matrix product runs in int8.
    pub fn has_int8(&self) -> bool {
        [&self.query, &self.key, &self.value, &self.output].into_iter().any(Linear::is_int8)
    }

    /// `[tokens, hidden]` → `[tokens, hidden]`; every token sees every token. When queries, keys and values come from
    /// int8 products, attention runs on the same kernels, as in the int8 executor.
    ///
    /// # Errors
    /// When the width differs.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (tokens, width) = x.dims2()?;
        if let (Some(kernels), Some(_), Some(_)) = (self.query.kernels(), self.key.kernels(), self.value.kernels()) {
            let parts = [self.query.forward(x)?, self.key.forward(x)?, self.value.forward(x)?];
            let attention = Int8Attention { kernels, num_heads: self.num_heads };
            return self.output.forward(&Tensor::cat(&parts, 1)?.contiguous()?.apply_op1(attention)?);
        }
        let head_dim = width / self.num_heads;
        // [tokens, hidden] → [heads, tokens, head_dim]
        let heads = |y: Tensor| y.reshape((tokens, self.num_heads, head_dim))?.transpose(0, 1)?.contiguous();
        let query = (heads(self.query.forward(x)?)? * (head_dim as f64).powf(-0.5))?;
        let key = heads(self.key.forward(x)?)?;
        let value = heads(self.value.forward(x)?)?;
        // The fused softmax_last_dim has no gradient.
        let weights = candle_nn::ops::softmax(&query.matmul(&key.t()?)?, D::Minus1)?;
        let mixed = weights.matmul(&value)?.transpose(0, 1)?.reshape((tokens, width))?;
        self.output.forward(&mixed)
    }
}
