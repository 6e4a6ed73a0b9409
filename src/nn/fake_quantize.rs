//! Quantization and back as a candle operation: the values that a quantized product really sees.

use candle_core::{CpuStorage, CustomOp1, Error, Layout, Result, Shape};

use crate::kernels::affine::{Inputs, quantize_row_u8, quantize_row_u8_static};

/// Rounds each row to u8 and back, by the definitions in `kernels::affine`; float inputs pass unchanged. No gradient.
#[derive(Clone, Copy, Debug)]
pub struct FakeQuantize(pub Inputs);

impl CustomOp1 for FakeQuantize {
    fn name(&self) -> &'static str {
        "fake-quantize"
    }

    /// `[rows, k]`, f32 and contiguous → the same shape.
    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, k) = layout.shape().dims2()?;
        let (start, end) = layout.contiguous_offsets().ok_or(Error::RequiresContiguous { op: "fake-quantize" })?;
        let mut rows = storage.as_slice::<f32>()?[start..end].to_vec();
        let mut q = vec![0u8; k];
        for row in rows.chunks_exact_mut(k.max(1)) {
            let params = match self.0 {
                Inputs::Float => continue,
                Inputs::Dynamic => quantize_row_u8(row, &mut q),
                Inputs::Static(params) => quantize_row_u8_static(row, params, &mut q),
            };
            row.iter_mut().zip(&q).for_each(|(x, &q)| *x = params.dequantize(i32::from(q)));
        }
        Ok((CpuStorage::F32(rows), layout.shape().clone()))
    }
}
