//! Where the tensors of a model come from.

use candle_core::{Device, Tensor, Var};

use crate::architectures::LinearNames;
use crate::checkpoint::{CheckpointError, Weights};
use crate::kernels::Kernels;

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
        let inputs = self.weights.inputs(&names.weight)?;
        Ok(Linear::from_stored(names, weight, bias, inputs, self.precision))
    }

    fn kernels(&self) -> Option<Kernels> {
        match self.precision {
            Precision::Float => None,
            Precision::AsStored(kernels) => Some(kernels),
        }
    }
}

/// The weights of a model folder, to be trained: every tensor is a variable, and all of them are listed.
#[derive(Debug)]
pub struct Trainable<'a> {
    weights: &'a mut Weights,
    variables: Vec<(String, Var)>,
}

impl<'a> Trainable<'a> {
    /// Takes weights from `weights`.
    pub fn new(weights: &'a mut Weights) -> Self {
        Trainable { weights, variables: Vec::new() }
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
}

/// A stored tensor in f32.
fn widened(weights: &mut Weights, name: &str, shape: &[usize]) -> Result<Tensor, CheckpointError> {
    let data = weights.take(name, shape)?.into_f32();
    Ok(Tensor::from_vec(data, shape, &Device::Cpu).expect("the tensor has the shape it was asked for in"))
}
