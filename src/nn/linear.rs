//! Dense layers, and the only place that chooses what a matrix product runs in.

use candle_core::{Device, Result, Tensor};

use crate::architectures::LinearNames;
use crate::checkpoint;
use crate::kernels::affine::Inputs;
use crate::kernels::{Kernels, PackedWeights};

use super::fake_quantize::{FakeQuantize, FakeQuantizeWeights};
use super::int8_op::Int8Linear;
use super::learned_step::{LearnedInputStep, LearnedStep};
use super::{FakeQuantizedAs, Products, fused};

/// What the matrix products of a stored model run in.
#[derive(Clone, Copy, Debug)]
pub enum Precision {
    /// f32 everywhere; weights stored in integers are widened, so only the rounding of the weights remains.
    Float,
    /// As the executor that serves runs them. Integers with one scale per row and dynamic inputs are multiplied as such
    /// with these kernels; of every other scheme the weights are widened, and inputs are quantized and widened again.
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
        /// What its products run in.
        products: Products,
    },
    /// In f32 over the values that integers stand for; differentiable, straight through the rounding.
    FakeQuantized(FakeQuantized),
    /// In f32 with widened weights, the rows of `x` rounded as `inputs` says; no gradient passes the rounding.
    Rounded {
        /// `[outputs, inputs]`.
        weight: Tensor,
        /// `[outputs]`.
        bias: Tensor,
        /// What rows are multiplied by before they are rounded, `[inputs]`; the weight is for what comes of that.
        smoothing: Option<Tensor>,
        /// How rows are rounded.
        inputs: Inputs,
        /// What the steps around it run on in the executor that serves.
        kernels: Kernels,
    },
    /// Int8 weights, rows of `x` quantized on the fly; has no gradient, and `backward` says so.
    Int8(Int8Linear),
}

/// A layer that is trained as it will be stored.
#[derive(Clone, Debug)]
pub struct FakeQuantized {
    /// `[outputs, inputs]`.
    pub weight: Tensor,
    /// `[outputs]`.
    pub bias: Tensor,
    /// How weight and inputs are stored.
    pub form: FakeQuantizedAs,
    /// Logarithms of the weight's scales, one for each group, when they are learned.
    pub scale: Option<Tensor>,
    /// Logarithm of the scale of static inputs, `[1]`, when it is learned.
    pub input_scale: Option<Tensor>,
    /// What its products run in; forward they are exact.
    pub products: Products,
}

impl FakeQuantized {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (x, weight) = (x.contiguous()?, self.weight.contiguous()?);
        let x = match (&self.input_scale, self.form.inputs) {
            (_, Inputs::Float) => x,
            (Some(log), Inputs::Static(params)) => {
                x.apply_op2(log, LearnedInputStep { zero_point: params.zero_point })?
            }
            (_, inputs) => x.apply_op1(FakeQuantize(inputs))?,
        };
        let weight = match &self.scale {
            Some(logs) => weight.apply_op2(logs, LearnedStep(self.form.scheme))?,
            None => weight.apply_op1(FakeQuantizeWeights(self.form.scheme))?,
        };
        fused::linear(&x, &weight, &self.bias, self.products)
    }
}

impl Linear {
    /// From a stored weight, its bias, and how its inputs are quantized.
    ///
    /// # Panics
    /// When the lengths are not those of `names`.
    pub fn from_stored(
        names: &LinearNames,
        weight: checkpoint::Tensor,
        bias: Vec<f32>,
        inputs: Inputs,
        precision: Precision,
    ) -> Self {
        let (n, k) = (names.outputs, names.inputs);
        let tensor = |data: Vec<f32>, shape: &[usize]| {
            Tensor::from_vec(data, shape, &Device::Cpu)
                .expect("weight, bias and smoothing have the lengths of the layer")
        };
        match (weight, precision) {
            (checkpoint::Tensor::Quantized(mut weights), Precision::AsStored(kernels)) if inputs != Inputs::Float => {
                let smoothing = std::mem::take(&mut weights.smoothing);
                if weights.is_per_row() && inputs == Inputs::Dynamic {
                    let scales = weights.row_scales();
                    let packed = PackedWeights::pack(kernels, &weights.values, &scales, Some(&bias), n, k);
                    return Linear::Int8(Int8Linear::new(kernels, packed, smoothing));
                }
                let smoothing = (!smoothing.is_empty()).then(|| tensor(smoothing, &[k]));
                let (weight, bias) = (tensor(weights.dequantize(), &[n, k]), tensor(bias, &[n]));
                Linear::Rounded { weight, bias, smoothing, inputs, kernels }
            }
            (weight, _) => Linear::Float {
                weight: tensor(weight.into_f32(), &[n, k]),
                bias: tensor(bias, &[n]),
                products: Products::F32,
            },
        }
    }

    /// The same kind of layer with another weight, `[outputs, inputs]`, and bias, `[outputs]`, that are f32, and with the
    /// logarithms of its scales when those are learned.
    ///
    /// # Panics
    /// When this one multiplies packed integers, which are not f32.
    pub fn with_values(&self, weight: Tensor, bias: Tensor, scale: Option<Tensor>) -> Self {
        let mut linear = self.clone();
        match &mut linear {
            Linear::Float { weight: w, bias: b, .. } | Linear::Rounded { weight: w, bias: b, .. } => {
                (*w, *b) = (weight, bias)
            }
            Linear::FakeQuantized(layer) => (layer.weight, layer.bias, layer.scale) = (weight, bias, scale),
            Linear::Int8(_) => panic!("a layer of packed integers has no f32 weight"),
        }
        linear
    }

    /// Whether the product runs with rounded inputs and weights.
    pub fn is_quantized(&self) -> bool {
        !matches!(self, Linear::Float { .. } | Linear::FakeQuantized(_))
    }

    /// The kernels that steps around a quantized product run on.
    pub fn kernels(&self) -> Option<Kernels> {
        match self {
            Linear::Float { .. } | Linear::FakeQuantized(_) => None,
            Linear::Rounded { kernels, .. } => Some(*kernels),
            Linear::Int8(linear) => Some(linear.kernels()),
        }
    }

    /// `[rows, inputs]` → `[rows, outputs]`.
    ///
    /// # Errors
    /// When the number of inputs differs.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Linear::Float { weight, bias, products } => fused::linear(x, weight, bias, *products),
            Linear::FakeQuantized(layer) => layer.forward(x),
            Linear::Rounded { weight, bias, smoothing, inputs, .. } => {
                let x = smoothing.as_ref().map_or_else(|| x.contiguous(), |factors| x.broadcast_mul(factors))?;
                let x = x.apply_op1_no_bwd(&FakeQuantize(*inputs))?;
                fused::linear(&x, weight, bias, Products::F32)
            }
            Linear::Int8(linear) => x.contiguous()?.apply_op1(linear.clone()),
        }
    }
}
