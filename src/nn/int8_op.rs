//! The steps that the int8 executor does in integers, or shorter than in f32, as candle operations.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Error, Layout, Result, Shape};

use crate::kernels::{Activation, AttentionScratch, Kernels, PackedWeights, QuantizedRows};

/// A dense layer over our kernels: each row of the input is quantized to u8 with its own scale and zero point,
/// multiplied with int8 weights in exact integers, and scaled back with the bias added.
///
/// The same kernels in the same order as the int8 executor, so one layer gives the same bits in both.
#[derive(Clone, Debug)]
pub struct Int8Linear {
    kernels: Kernels,
    weights: Arc<PackedWeights>,
    smoothing: Arc<[f32]>,
}

impl Int8Linear {
    /// From weights packed for `kernels`, bias included, and what inputs are multiplied by before they are rounded,
    /// `[inputs]`, or nothing.
    pub fn new(kernels: Kernels, weights: PackedWeights, smoothing: Vec<f32>) -> Self {
        Int8Linear { kernels, weights: Arc::new(weights), smoothing: smoothing.into() }
    }

    /// What it runs on.
    pub fn kernels(&self) -> Kernels {
        self.kernels
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
        let x = contiguous(storage, layout, "int8-linear")?;
        let mut quantized = QuantizedRows::with_capacity(rows, k);
        match &*self.smoothing {
            [] => self.kernels.quantize_rows(x, k, &mut quantized),
            smoothing => self.kernels.smooth_quantize_rows(smoothing, x, &mut quantized),
        }
        let mut y = vec![0.0f32; rows * self.weights.n()];
        self.kernels.gemm(&quantized, &self.weights, &mut y);
        Ok((CpuStorage::F32(y), Shape::from((rows, self.weights.n()))))
    }
}

/// Attention of one sequence over our kernels, `[tokens, 3 width]` → `[tokens, width]` with all heads in `width`, as [`Kernels::attention`]
/// defines; no gradient.
#[derive(Clone, Copy, Debug)]
pub struct Int8Attention {
    /// What it runs on.
    pub kernels: Kernels,
    /// Width of one head; divides `width`.
    pub head_dim: usize,
}

impl CustomOp1 for Int8Attention {
    fn name(&self) -> &'static str {
        "int8-attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, width) = layout.shape().dims2()?;
        let qkv = contiguous(storage, layout, "int8-attention")?;
        let width = width / 3;
        let mut out = vec![0.0f32; tokens * width];
        let mut scratch = AttentionScratch::new();
        self.kernels.attention(qkv, &[qkv], width / self.head_dim, self.head_dim, &mut scratch, &mut out);
        Ok((CpuStorage::F32(out), Shape::from((tokens, width))))
    }
}

/// An activation over our kernels, any shape; no gradient.
#[derive(Clone, Copy, Debug)]
pub struct Int8Activation {
    /// What it runs on.
    pub kernels: Kernels,
    /// Which.
    pub activation: Activation,
}

impl CustomOp1 for Int8Activation {
    fn name(&self) -> &'static str {
        "int8-activation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut y = contiguous(storage, layout, "int8-activation")?.to_vec();
        self.kernels.activate(self.activation, &mut y);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }
}

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout, op: &'static str) -> Result<&'a [f32]> {
    let (start, end) = layout.contiguous_offsets().ok_or(Error::RequiresContiguous { op })?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}
