//! The integer matrix product as a candle operation.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Error, Layout, Result, Shape};

use crate::kernels::{Kernels, PackedWeights, QuantizedRows};

/// A dense layer over our kernels: each row of the input is quantized to u8 with its own scale and zero point,
/// multiplied with int8 weights in exact integers, and scaled back with the bias added.
///
/// The same kernels in the same order as the int8 executor, so one layer gives the same bits in both.
#[derive(Clone, Debug)]
pub struct Int8Linear {
    kernels: Kernels,
    weights: Arc<PackedWeights>,
}

impl Int8Linear {
    /// From weights packed for `kernels`, bias included.
    pub fn new(kernels: Kernels, weights: PackedWeights) -> Self {
        Int8Linear { kernels, weights: Arc::new(weights) }
    }
}

impl CustomOp1 for Int8Linear {
    fn name(&self) -> &'static str {
        "int8-linear"
    }

    /// `[rows, k]`, f32 and contiguous → `[rows, n]`, f32.
    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, k) = layout.shape().dims2()?;
        if k != self.weights.k() {
            return Err(Error::Msg(format!("int8-linear: rows of {k} values, expected {}", self.weights.k())));
        }
        let (start, end) = layout.contiguous_offsets().ok_or(Error::RequiresContiguous { op: "int8-linear" })?;
        let x = &storage.as_slice::<f32>()?[start..end];
        let mut quantized = QuantizedRows::with_capacity(rows, k);
        self.kernels.quantize_rows(x, k, &mut quantized);
        let mut y = vec![0.0f32; rows * self.weights.n()];
        self.kernels.gemm(&quantized, &self.weights, &mut y);
        Ok((CpuStorage::F32(y), Shape::from((rows, self.weights.n()))))
    }
}
