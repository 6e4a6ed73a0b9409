//! Dense layers: product and bias as one operation.

use candle_core::{CpuStorage, CustomOp3, Error, Layout, Result, Shape, Tensor};

use crate::kernels::{Factor, float_gemm};

use super::{values, vectorized, with_values};

/// `x W^T + b`, with `x` `[rows, inputs]`, `W` `[outputs, inputs]` and `b` `[outputs]`.
///
/// # Errors
/// When the shapes do not fit together.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op3(weight, bias, Linear)
}

struct Linear;

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((rows, inputs), (outputs, k)) = (x_layout.shape().dims2()?, weight_layout.shape().dims2()?);
        if inputs != k || bias_layout.shape().dims1()? != outputs {
            let shapes = [x_layout, weight_layout, bias_layout].map(|l| l.shape().clone());
            return Err(Error::Msg(format!("linear: rows, weight and bias do not fit together: {shapes:?}")));
        }
        let x = values(x, x_layout, self.name())?;
        let weight = values(weight, weight_layout, self.name())?;
        let mut y = values(bias, bias_layout, self.name())?.repeat(rows);
        float_gemm(&mut y, Factor::stored(x), Factor::transposed(weight), (rows, outputs, inputs));
        Ok((CpuStorage::F32(y), Shape::from((rows, outputs))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let ((rows, inputs), outputs) = (x.dims2()?, weight.dim(0)?);
        let (dx, dw, db) = with_values([x, weight, gradient], self.name(), |[x, weight, dy]| {
            let (mut dx, mut dw) = (vec![0.0; rows * inputs], vec![0.0; outputs * inputs]);
            float_gemm(&mut dx, Factor::stored(dy), Factor::stored(weight), (rows, inputs, outputs));
            float_gemm(&mut dw, Factor::transposed(dy), Factor::stored(x), (outputs, inputs, rows));
            let mut db = vec![0.0; outputs];
            vectorized(|| {
                for row in dy.chunks_exact(outputs) {
                    db.iter_mut().zip(row).for_each(|(sum, d)| *sum += d);
                }
            });
            (dx, dw, db)
        })?;
        let device = x.device();
        Ok((
            Some(Tensor::from_vec(dx, (rows, inputs), device)?),
            Some(Tensor::from_vec(dw, (outputs, inputs), device)?),
            Some(Tensor::from_vec(db, outputs, device)?),
        ))
    }
}
