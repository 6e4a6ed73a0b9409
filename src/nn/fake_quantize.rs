//! Quantization and back as candle operations: the values that a quantized product really sees, with gradients that pass
//! straight through the rounding (Bengio et al. 2013; Jacob et al. 2018).
//!
//! Forward is the definition in `kernels::affine`. Backward is the identity: where scales are those of the values
//! themselves, nothing lies outside the range. [`learned_step`](super::learned_step) has scales that are learned.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Error, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::kernels::affine::{Granularity, Inputs, Scheme, quantize_weights};
use crate::kernels::{Kernels, QuantizedRows};

use super::fused::{rows_at_once, vectorized};

/// Rounds each row to u8 and back, by the definitions in `kernels::affine`; float inputs pass unchanged.
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
        let (k, kernels) = (k.max(1), Kernels::detect());
        rows.par_chunks_mut(rows_at_once(k) * k).for_each(|rows| {
            let mut quantized = QuantizedRows::new();
            match self.0 {
                Inputs::Float => return,
                Inputs::Dynamic => kernels.quantize_rows(rows, k, &mut quantized),
                Inputs::Static(params) => kernels.quantize_rows_static(rows, k, params, &mut quantized),
            }
            for (i, row) in rows.chunks_exact_mut(k).enumerate() {
                let (scale, zero) = (quantized.scale()[i], quantized.zero_point()[i]);
                let q = quantized.row(i);
                vectorized(|| row.iter_mut().zip(q).for_each(|(x, &q)| *x = (i32::from(q) - zero) as f32 * scale));
            }
        });
        Ok((CpuStorage::F32(rows), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(gradient.clone()))
    }
}

/// Gives its second argument, and passes the gradient to its first: a value and what it was rounded to.
#[derive(Clone, Copy, Debug)]
pub struct StraightThrough;

impl CustomOp2 for StraightThrough {
    fn name(&self) -> &'static str {
        "straight-through"
    }

    fn cpu_fwd(&self, _: &CpuStorage, from: &Layout, to: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        if from.shape() != layout.shape() {
            let shapes = format!("{:?} and {:?}", from.shape(), layout.shape());
            return Err(Error::Msg(format!("straight-through: shapes differ: {shapes}")));
        }
        let (start, end) = layout.contiguous_offsets().ok_or(Error::RequiresContiguous { op: self.name() })?;
        Ok((CpuStorage::F32(to.as_slice::<f32>()?[start..end].to_vec()), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(gradient.clone()), None))
    }
}

/// Rounds weights to what this scheme stores, and back.
#[derive(Clone, Copy, Debug)]
pub struct FakeQuantizeWeights(pub Scheme);

impl CustomOp1 for FakeQuantizeWeights {
    fn name(&self) -> &'static str {
        "fake-quantize-weights"
    }

    /// `[rows, columns]`, f32 and contiguous → the same shape.
    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, columns) = layout.shape().dims2()?;
        if self.0.groups(columns).is_none() {
            return Err(Error::Msg(format!(
                "fake-quantize-weights: {} does not fit rows of {columns} weights",
                self.0
            )));
        }
        let (start, end) = layout.contiguous_offsets().ok_or(Error::RequiresContiguous { op: self.name() })?;
        let weights = &storage.as_slice::<f32>()?[start..end];
        // A scale of the whole tensor needs all rows at once.
        let at_once = if self.0.granularity == Granularity::Tensor { rows.max(1) } else { rows_at_once(columns) };
        let parts = weights
            .par_chunks(at_once * columns)
            .map(|part| quantize_weights(part, part.len() / columns, columns, self.0).dequantize());
        Ok((CpuStorage::F32(parts.collect::<Vec<_>>().concat()), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(gradient.clone()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::kernels::affine::{Levels, quantize_row_u8};

    fn matrix(rows: usize, columns: usize) -> Vec<f32> {
        (0..rows * columns).map(|i| (0.37 * (i * i % 101) as f32).sin() * (1.0 + (i % 7) as f32)).collect()
    }

    #[test]
    fn weights_are_what_every_scheme_stores_and_their_gradient_passes_through() {
        let (rows, columns) = (70, 64);
        let data = matrix(rows, columns);
        let weights = Var::from_slice(&data, (rows, columns), &Device::Cpu).unwrap();
        for levels in Levels::ALL {
            for granularity in [Granularity::Tensor, Granularity::Channel, Granularity::Group(32)] {
                let scheme = Scheme::symmetric(levels, granularity);
                let found = weights.apply_op1(FakeQuantizeWeights(scheme)).unwrap();
                let expected = quantize_weights(&data, rows, columns, scheme).dequantize();
                assert_eq!(found.flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected, "{scheme}");
                let gradients = (found * 3.0).unwrap().sum_all().unwrap().backward().unwrap();
                let gradient = gradients.get(&weights).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert!(gradient.iter().all(|g| *g == 3.0), "{scheme}");
            }
        }
        let scheme = Scheme::symmetric(Levels::Int4, Granularity::Group(48));
        assert!(weights.apply_op1(FakeQuantizeWeights(scheme)).is_err());
    }

    #[test]
    fn rows_are_what_enters_the_integer_product() {
        let (rows, width) = (50, 33);
        let data = matrix(rows, width);
        let x = Var::from_slice(&data, (rows, width), &Device::Cpu).unwrap();
        let found = x.apply_op1(FakeQuantize(Inputs::Dynamic)).unwrap();
        for (row, found) in data.chunks(width).zip(found.to_vec2::<f32>().unwrap()) {
            let mut q = vec![0; width];
            let params = quantize_row_u8(row, &mut q);
            let expected: Vec<f32> = q.iter().map(|q| params.dequantize(i32::from(*q))).collect();
            assert_eq!(found, expected);
        }
        let gradients = found.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let gradient = gradients.get(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let values = found.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(gradient.iter().zip(values).all(|(g, v)| *g == 2.0 * v), "the gradient passes straight through");
    }
}
