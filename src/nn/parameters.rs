//! Where the tensors of a model come from.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};

use crate::architectures::{LinearNames, TableName};
use crate::checkpoint::{self, CheckpointError, Weights};
use crate::kernels::Kernels;
use crate::kernels::affine::{Inputs, QuantizedWeights, Scheme, quantize_weights};

use super::learned_step::{self, LearnedInputStep};
use super::linear::FakeQuantized;
use super::{Linear, Precision, Products};

/// Hands out parameters by name while a model is built.
pub trait Parameters {
    /// Why a parameter could not be had.
    type Error;

    /// A float tensor of this shape.
    ///
    /// # Errors
    /// When there is none of this name and shape.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, Self::Error>;

    /// An embedding table, `[rows, width]`, and how its rows are fake-quantized; not at all unless the source knows
    /// better.
    ///
    /// # Errors
    /// As [`Parameters::tensor`].
    fn table(&mut self, name: &TableName, width: usize) -> Result<(Tensor, Option<Scheme>), Self::Error> {
        Ok((self.tensor(&name.weight, &[name.rows, width])?, None))
    }

    /// A dense layer; in f32 unless the source knows better.
    ///
    /// # Errors
    /// As [`Parameters::tensor`].
    fn linear(&mut self, names: &LinearNames) -> Result<Linear, Self::Error> {
        let weight = self.tensor(&names.weight, &[names.outputs, names.inputs])?;
        let bias = self.tensor(&names.bias, &[names.outputs])?;
        Ok(Linear::Float { weight, bias, products: Products::F32 })
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

/// How the modules of a model that is trained will be stored, by the names of their weights; training then sees what
/// that does (quantization-aware training). Others stay float.
pub type FakeQuantization = BTreeMap<String, FakeQuantizedAs>;

/// How a matrix or a table that is trained will be stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FakeQuantizedAs {
    /// The weights.
    pub scheme: Scheme,
    /// The rows that enter a matrix, static ones with the parameters to begin with; nothing for tables.
    pub inputs: Inputs,
    /// Whether the scales are variables (learned step size quantization, Esser et al. 2020,
    /// <https://arxiv.org/abs/1902.08153>); else those of weights are always those of the values as they are, and those
    /// of static inputs stay. Only of matrices without zero points.
    pub learned: bool,
}

impl FakeQuantizedAs {
    /// What `octet quantize` makes of every module unless told otherwise.
    pub const INT8: FakeQuantizedAs = FakeQuantizedAs { scheme: Scheme::INT8, inputs: Inputs::Dynamic, learned: false };

    /// What is stored of a module: its weights, `[rows, columns]`, with the logarithms of learned scales, and its inputs
    /// with theirs.
    ///
    /// # Panics
    /// When the scheme does not fit, or a learned scale is missing.
    pub fn store(
        &self,
        weights: &[f32],
        [rows, columns]: [usize; 2],
        weight_logs: Option<&[f32]>,
        input_log: Option<f32>,
    ) -> (QuantizedWeights, Inputs) {
        let weights = match weight_logs {
            Some(logs) => learned_step::stored(weights, [rows, columns], self.scheme, logs),
            None => quantize_weights(weights, rows, columns, self.scheme),
        };
        let inputs = match (self.inputs, input_log) {
            (Inputs::Static(params), Some(log)) => {
                Inputs::Static(LearnedInputStep { zero_point: params.zero_point }.params(log))
            }
            (inputs, _) => inputs,
        };
        (weights, inputs)
    }
}

impl std::fmt::Display for FakeQuantizedAs {
    /// Such as `int4 symmetric per channel, dynamic inputs, learned scales`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inputs = match self.inputs {
            Inputs::Float => "float",
            Inputs::Dynamic => "dynamic",
            Inputs::Static(_) => "static",
        };
        let learned = if self.learned { ", learned scales" } else { "" };
        write!(f, "{}, {inputs} inputs{learned}", self.scheme)
    }
}

/// Variables by name.
pub type Variables = Vec<(String, Var)>;

/// The weights of a model folder, to be trained: every tensor is a variable, and all of them are listed.
#[derive(Debug)]
pub struct Trainable<'a> {
    weights: &'a mut Weights,
    quantization: FakeQuantization,
    products: Products,
    variables: Variables,
    scales: Variables,
}

impl<'a> Trainable<'a> {
    /// Takes weights from `weights`.
    pub fn new(weights: &'a mut Weights) -> Self {
        Trainable {
            weights,
            quantization: FakeQuantization::new(),
            products: Products::F32,
            variables: Variables::new(),
            scales: Variables::new(),
        }
    }

    /// These layers and tables are fake-quantized.
    pub fn quantized(mut self, quantization: FakeQuantization) -> Self {
        self.quantization = quantization;
        self
    }

    /// What the products of dense layers run in; f32 unless said.
    pub fn products(mut self, products: Products) -> Self {
        self.products = products;
        self
    }

    /// What was handed out, by weight name, in the order it was asked for; and the logarithms of learned scales, named by
    /// [`weight_scale`] and [`input_scale`].
    pub fn into_variables(self) -> (Variables, Variables) {
        (self.variables, self.scales)
    }

    fn scale(&mut self, name: String, logs: Vec<f32>) -> Tensor {
        let count = logs.len();
        let variable = Var::from_vec(logs, count, &Device::Cpu).expect("there are as many as there are");
        let tensor = variable.as_tensor().clone();
        self.scales.push((name, variable));
        tensor
    }

    fn fake_quantized(&mut self, names: &LinearNames, weight: Tensor, bias: Tensor, form: FakeQuantizedAs) -> Linear {
        let mut scale = None;
        if form.learned {
            let values = weight.flatten_all().and_then(|w| w.to_vec1::<f32>()).expect("weights are f32");
            let logs = learned_step::first_scales(&values, [names.outputs, names.inputs], form.scheme);
            scale = Some(self.scale(weight_scale(&names.weight), logs));
        }
        let input_scale = match form.inputs {
            Inputs::Static(params) if form.learned => {
                Some(self.scale(input_scale(&names.weight), vec![params.scale.ln()]))
            }
            _ => None,
        };
        Linear::FakeQuantized(FakeQuantized {
            weight,
            bias,
            form,
            scale,
            input_scale,
            products: self.products.exact_forward(),
        })
    }
}

/// Name of the variable for the learned scales of a weight: their logarithms.
pub fn weight_scale(weight: &str) -> String {
    format!("{weight}:log_scale")
}

/// Name of the variable for the learned scale of what enters the matrix of a weight: its logarithm, `[1]`.
pub fn input_scale(weight: &str) -> String {
    format!("{weight}:log_input_scale")
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

    fn table(&mut self, name: &TableName, width: usize) -> Result<(Tensor, Option<Scheme>), CheckpointError> {
        let table = self.tensor(&name.weight, &[name.rows, width])?;
        Ok((table, self.quantization.get(&name.weight).map(|form| form.scheme)))
    }

    fn linear(&mut self, names: &LinearNames) -> Result<Linear, CheckpointError> {
        let weight = self.tensor(&names.weight, &[names.outputs, names.inputs])?;
        let bias = self.tensor(&names.bias, &[names.outputs])?;
        Ok(match self.quantization.get(&names.weight).copied() {
            None => Linear::Float { weight, bias, products: self.products },
            Some(form) => self.fake_quantized(names, weight, bias, form),
        })
    }
}

/// A stored tensor in f32.
fn widened(weights: &mut Weights, name: &str, shape: &[usize]) -> Result<Tensor, CheckpointError> {
    let data = weights.take(name, shape)?.into_f32();
    Ok(Tensor::from_vec(data, shape, &Device::Cpu).expect("the tensor has the shape it was asked for in"))
}
