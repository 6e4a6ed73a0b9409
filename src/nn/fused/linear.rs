//! Dense layers: product and bias as one operation.

use candle_core::{CpuStorage, CustomOp3, Error, Layout, Result, Shape, Tensor};

use crate::kernels::{Factor, Kernels, float_gemm};

use super::{values, vectorized, with_values};

/// What matrix products run in while training.
#[derive(Clone, Copy, Debug, Default)]
pub enum Products {
    /// f32.
    #[default]
    F32,
    /// Factors rounded to bf16, sums in f32 (mixed precision, Micikevicius et al. 2018,
    /// <https://arxiv.org/abs/1710.03740>), by kernels that have it ([`Kernels::has_bf16`]).
    Bf16(Kernels),
    /// Likewise, but in f32 forward: for layers whose rounding the forward pass must see as it is.
    Bf16Backward(Kernels),
}

impl Products {
    /// The kernels of forward products in bf16.
    fn forward(self) -> Option<Kernels> {
        match self {
            Products::Bf16(kernels) => Some(kernels),
            Products::F32 | Products::Bf16Backward(_) => None,
        }
    }

    /// The kernels of backward products in bf16.
    fn backward(self) -> Option<Kernels> {
        match self {
            Products::Bf16(kernels) | Products::Bf16Backward(kernels) => Some(kernels),
            Products::F32 => None,
        }
    }

    /// For layers whose forward pass is exact.
    pub fn exact_forward(self) -> Self {
        match self {
            Products::Bf16(kernels) => Products::Bf16Backward(kernels),
            other => other,
        }
    }
}

/// `out += a b`, with `out` `[m, n]`, `a` `[m, k]` and `b` `[k, n]`, in bf16 when there are kernels for it.
fn add_product(out: &mut [f32], a: Factor<'_>, b: Factor<'_>, size: (usize, usize, usize), bf16: Option<Kernels>) {
    match bf16 {
        #[cfg(target_arch = "x86_64")]
        Some(kernels) => kernels.gemm_bf16(out, a, b, size),
        _ => float_gemm(out, a, b, size),
    }
}

/// `x W^T + b`, with `x` `[rows, inputs]`, `W` `[outputs, inputs]` and `b` `[outputs]`.
///
/// # Errors
/// When the shapes do not fit together.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor, products: Products) -> Result<Tensor> {
    x.contiguous()?.apply_op3(weight, bias, Linear(products))
}

struct Linear(Products);

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
        let size = (rows, outputs, inputs);
        add_product(&mut y, Factor::stored(x), Factor::transposed(weight), size, self.0.forward());
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
            let bf16 = self.0.backward();
            add_product(&mut dx, Factor::stored(dy), Factor::stored(weight), (rows, inputs, outputs), bf16);
            add_product(&mut dw, Factor::transposed(dy), Factor::stored(x), (outputs, inputs, rows), bf16);
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
