//! Dense layers, and the only place that chooses what a matrix product runs in.

use candle_core::{Device, Result, Tensor};

use crate::architectures::LinearNames;
use crate::checkpoint;
use crate::kernels::{Kernels, PackedWeights};

use super::int8_op::Int8Linear;

/// What the matrix products of a stored model run in.
#[derive(Clone, Copy, Debug)]
pub enum Precision {
    /// f32 everywhere; weights stored in int8 are widened, so only the rounding of the weights remains.
    Float,
    /// Weights stored in int8 are multiplied as integers with these kernels, the others in f32.
    AsStored(Kernels),
}

/// `y = x W^T + b` over rows, with `W` `[outputs, inputs]`.
#[derive(Clone, Debug)]
pub enum Linear {
    /// In f32; differentiable.
    Float {
        /// `[outputs, inputs]`.
        weight: Tensor,
        /// `[outputs]`.
        bias: Tensor,
    },
    /// Int8 weights, rows of `x` quantized on the fly; has no gradient, and `backward` says so.
    Int8(Int8Linear),
}

impl Linear {
    /// From a stored weight and its bias.
    ///
    /// # Panics
    /// When the lengths are not those of `names`.
    pub fn from_stored(names: &LinearNames, weight: checkpoint::Tensor, bias: Vec<f32>, precision: Precision) -> Self {
        let (n, k) = (names.outputs, names.inputs);
        match (weight, precision) {
            (checkpoint::Tensor::Quantized(weights), Precision::AsStored(kernels)) if weights.scheme.is_per_row() => {
                let packed = PackedWeights::pack(kernels, &weights.values, &weights.row_scales(), Some(&bias), n, k);
                Linear::Int8(Int8Linear::new(kernels, packed))
            }
            (weight, _) => {
                let tensor = |data: Vec<f32>, shape: &[usize]| Tensor::from_vec(data, shape, &Device::Cpu);
                let weight = tensor(weight.into_f32(), &[n, k]).expect("the weight has the shape it was asked for in");
                let bias = tensor(bias, &[n]).expect("the bias has the shape it was asked for in");
                Linear::Float { weight, bias }
            }
        }
    }

    /// Whether the product runs in int8.
    pub fn is_int8(&self) -> bool {
        matches!(self, Linear::Int8(_))
    }

    /// The kernels that the product runs on, when it runs in int8.
    pub fn kernels(&self) -> Option<Kernels> {
        match self {
            Linear::Float { .. } => None,
            Linear::Int8(linear) => Some(linear.kernels()),
        }
    }

    /// `[rows, inputs]` → `[rows, outputs]`.
    ///
    /// # Errors
    /// When the number of inputs differs.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Linear::Float { weight, bias } => x.matmul(&weight.t()?)?.broadcast_add(bias),
            Linear::Int8(linear) => x.contiguous()?.apply_op1(linear.clone()),
        }
    }
}
