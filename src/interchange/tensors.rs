//! Tensors as foreign files hold them, on their way into a model folder.

use crate::checkpoint::Tensor;
use crate::kernels::affine::{Granularity, Levels, QuantizedWeights, Scheme};

use super::InterchangeError;

/// Values of one foreign tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Array {
    /// Stored in f32, f16 or bf16.
    F32 { shape: Vec<usize>, data: Vec<f32> },
    /// Value `[r, ...]` is `(data[r, ...] - zero_point[r]) * scale[r]`; one scale and zero point for each row, or one for
    /// all of them.
    Int8 { shape: Vec<usize>, data: Vec<i8>, scale: Vec<f32>, zero_point: Vec<i8> },
}

impl Array {
    pub(super) fn shape(&self) -> &[usize] {
        match self {
            Array::F32 { shape, .. } | Array::Int8 { shape, .. } => shape,
        }
    }

    /// The tensor of a model folder, with the same integers and scales.
    ///
    /// # Errors
    /// Says which value a model folder cannot hold.
    pub(super) fn into_tensor(self) -> Result<Tensor, String> {
        match self {
            Array::F32 { shape, data } => match data.iter().position(|v| !v.is_finite()) {
                None => Ok(Tensor::F32 { shape, data }),
                Some(at) => Err(format!("value {} at index {at}, expected finite numbers", data[at])),
            },
            Array::Int8 { shape, data, mut scale, mut zero_point } => {
                let shape: [usize; 2] = shape.try_into().map_err(|s: Vec<usize>| format!("integers of shape {s:?}"))?;
                if let Some(bad) = scale.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
                    return Err(format!("scale {bad}, expected a positive number"));
                }
                let symmetric = zero_point.iter().all(|z| *z == 0);
                let count = if symmetric { scale.len() } else { scale.len().max(zero_point.len()) };
                let granularity = if count == 1 { Granularity::Tensor } else { Granularity::Channel };
                if count != 1 && count != shape[0] {
                    return Err(format!("{count} scales for {} rows", shape[0]));
                }
                let first = scale[0];
                scale.resize(count, first);
                let first = zero_point[0];
                zero_point.resize(if symmetric { 0 } else { count }, first);
                let scheme = Scheme { levels: Levels::Int8, symmetric, granularity };
                let (values, smoothing) = (data, Vec::new());
                Ok(Tensor::Quantized(QuantizedWeights { scheme, shape, values, scale, zero_point, smoothing }))
            }
        }
    }
}

/// Tensors that a foreign file gives names, read when they are taken.
pub(super) trait Named {
    /// Whether there is a tensor of this name.
    fn contains(&self, name: &str) -> bool;

    /// All names, in alphabetical order.
    fn names(&self) -> Vec<String>;

    /// Reads one tensor.
    ///
    /// # Errors
    /// [`InterchangeError::Refused`] when its values cannot be used.
    ///
    /// # Panics
    /// When there is none of this name.
    fn take(&mut self, name: &str) -> Result<Array, InterchangeError>;
}
