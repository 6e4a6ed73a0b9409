//! Checkpoint tensors → int8 rows and packed matrices, quantizing here what the folder holds in float.

use crate::architectures::LinearNames;
use crate::checkpoint::{CheckpointError, Tensor, Weights};
use crate::kernels::affine::quantize_weight_s8;
use crate::kernels::{Kernels, PackedWeights};

/// A matrix `[rows, columns]` as int8 `[rows, columns]` and scales `[rows]`: as stored, or quantized now (symmetric,
/// one scale per row). A folder quantized by `octet quantize` and one quantized at load hold the same integers.
pub(super) fn int8_rows(tensor: Tensor) -> (Vec<i8>, Vec<f32>) {
    match tensor {
        Tensor::Quantized(weights) if weights.scheme.is_per_row() => {
            let scale = weights.row_scales();
            (weights.values, scale)
        }
        Tensor::Quantized(weights) => quantize_weight_s8(&weights.dequantize(), weights.shape[0], weights.shape[1]),
        Tensor::F32 { shape, data } => {
            let rows = shape.first().copied().unwrap_or(1);
            quantize_weight_s8(&data, rows, data.len() / rows.max(1))
        }
    }
}

/// A vector in f32.
pub(super) fn vector(weights: &mut Weights, name: &str, len: usize) -> Result<Vec<f32>, CheckpointError> {
    Ok(weights.take(name, &[len])?.into_f32())
}

/// Several matrices with the same inputs, stacked by rows into one packed matrix.
pub(super) fn packed(
    kernels: Kernels,
    weights: &mut Weights,
    stack: &[&LinearNames],
) -> Result<PackedWeights, CheckpointError> {
    let (mut values, mut scales, mut biases) = (Vec::new(), Vec::new(), Vec::new());
    for names in stack {
        let (int8, scale) = int8_rows(weights.take(&names.weight, &[names.outputs, names.inputs])?);
        values.extend(int8);
        scales.extend(scale);
        biases.extend(vector(weights, &names.bias, names.outputs)?);
    }
    Ok(PackedWeights::pack(kernels, &values, &scales, Some(&biases), scales.len(), stack[0].inputs))
}
