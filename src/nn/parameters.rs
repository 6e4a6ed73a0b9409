//! Where the tensors of a model come from.

use candle_core::{Device, Tensor, Var};

use crate::architectures::LinearNames;
use crate::checkpoint::{self, CheckpointError, Weights};
use crate::kernels::Kernels;
use crate::kernels::affine::Inputs;
use crate::kernels::affine::Scheme;

use super::{Linear, Precision};

/// Hands out parameters by name while a model is built.
pub trait Parameters {
    /// Why a parameter could not be had.
    type Error;

    /// A float tensor of this shape.
    ///
    /// # Errors
    /// When there is none of this name and shape.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, Self::Error>;

    /// How rows of embedding tables are fake-quantized; not at all unless the source knows better.
    fn tables(&self) -> Option<Scheme> {
        None
    }

    /// A dense layer; in f32 unless the source knows better.
    ///
    /// # Errors
    /// As [`Parameters::tensor`].
    fn linear(&mut self, names: &LinearNames) -> Result<Linear, Self::Error> {
        let weight = self.tensor(&names.weight, &[names.outputs, names.inputs])?;
        let bias = self.tensor(&names.bias, &[names.outputs])?;
        Ok(Linear::Float { weight, bias })
    }

    /// The kernels that attention and activations run on, as in the executor that serves; none when they run in f32.
    fn kernels(&self) -> Option<Kernels> {
        None
    }
}

/// The weights of a model folder, to be run.
#[derive(Debug)]
pub struct Stored<'a> {
    weights: &'a mut Weights,
    precision: Precision,
}

impl<'a> Stored<'a> {
    /// Takes weights from `weights`; `precision` says how matrix products run.
    pub fn new(weights: &'a mut Weights, precision: Precision) -> Self {
        Stored { weights, precision }
    }
}

impl Parameters for Stored<'_> {
    type Error = CheckpointError;

    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, CheckpointError> {
        widened(self.weights, name, shape)
    }

    fn linear(&mut self, names: &LinearNames) -> Result<Linear, CheckpointError> {
        let weight = self.weights.take(&names.weight, &[names.outputs, names.inputs])?;
        let bias = self.weights.take(&names.bias, &[names.outputs])?.into_f32();
        let inputs = match weight {
            checkpoint::Tensor::Quantized(_) => self.weights.inputs(&names.weight)?,
            checkpoint::Tensor::F32 { .. } => Inputs::Float,
        };
        Ok(Linear::from_stored(names, weight, bias, inputs, self.precision))
    }

    fn kernels(&self) -> Option<Kernels> {
        match self.precision {
            Precision::Float => None,
            Precision::AsStored(kernels) => Some(kernels),
        }
    }
}

/// How a model that is trained will be stored: training then sees what rounding does (quantization-aware training).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FakeQuantization {
    /// Matrices of linear layers; their inputs are u8 rows with their own scales and zero points.
    pub weights: Scheme,
    /// Embedding tables; a scheme with a scale for each row.
    pub tables: Scheme,
}

impl FakeQuantization {
    /// What `octet quantize` makes unless told otherwise.
    pub const INT8: FakeQuantization = FakeQuantization { weights: Scheme::INT8, tables: Scheme::INT8 };
}

/// The weights of a model folder, to be trained: every tensor is a variable, and all of them are listed.
#[derive(Debug)]
pub struct Trainable<'a> {
    weights: &'a mut Weights,
    quantization: Option<FakeQuantization>,
    variables: Vec<(String, Var)>,
}

impl<'a> Trainable<'a> {
    /// Takes weights from `weights`.
    pub fn new(weights: &'a mut Weights) -> Self {
        Trainable { weights, quantization: None, variables: Vec::new() }
    }

    /// Layers and tables are fake-quantized.
    pub fn quantized(mut self, quantization: Option<FakeQuantization>) -> Self {
        self.quantization = quantization;
        self
    }

    /// What was handed out, by weight name, in the order it was asked for.
    pub fn into_variables(self) -> Vec<(String, Var)> {
        self.variables
    }
}

impl Parameters for Trainable<'_> {
    type Error = CheckpointError;

    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, CheckpointError> {
        let tensor = widened(self.weights, name, shape)?;
        let variable = Var::from_tensor(&tensor).expect("a tensor on the CPU can be copied");
        let tensor = variable.as_tensor().clone();
        self.variables.push((name.to_string(), variable));
        Ok(tensor)
    }

    fn tables(&self) -> Option<Scheme> {
        self.quantization.map(|q| q.tables)
    }

    fn linear(&mut self, names: &LinearNames) -> Result<Linear, CheckpointError> {
        let weight = self.tensor(&names.weight, &[names.outputs, names.inputs])?;
        let bias = self.tensor(&names.bias, &[names.outputs])?;
        Ok(match self.quantization {
            None => Linear::Float { weight, bias },
            Some(FakeQuantization { weights: scheme, .. }) => Linear::FakeQuantized { weight, bias, scheme },
        })
    }
}

/// A stored tensor in f32.
fn widened(weights: &mut Weights, name: &str, shape: &[usize]) -> Result<Tensor, CheckpointError> {
    let data = weights.take(name, shape)?.into_f32();
    Ok(Tensor::from_vec(data, shape, &Device::Cpu).expect("the tensor has the shape it was asked for in"))
}
