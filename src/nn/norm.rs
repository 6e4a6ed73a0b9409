//! Layer normalization (Ba et al. 2016).

use candle_core::{Result, Tensor};

use crate::architectures::NormNames;

use super::Parameters;
use super::fused::{AddNorm, Dropout};

/// `(x - mean) / sqrt(variance + eps) * gain + shift` over the last dimension, of a sum: [`AddNorm`].
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// `[width]`.
    gain: Tensor,
    /// `[width]`.
    shift: Tensor,
    eps: f32,
}

impl LayerNorm {
    /// Takes the two vectors from `parameters`.
    ///
    /// # Errors
    /// As [`Parameters::tensor`].
    pub fn load<P: Parameters>(
        names: &NormNames,
        width: usize,
        eps: f32,
        parameters: &mut P,
    ) -> std::result::Result<Self, P::Error> {
        let gain = parameters.tensor(&names.weight, &[width])?;
        let shift = parameters.tensor(&names.bias, &[width])?;
        Ok(LayerNorm { gain, shift, eps })
    }

    /// The norm of `dropout(x) + residual`, `[rows, width]` each.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn forward(&self, x: &Tensor, residual: &Tensor, dropout: Dropout) -> Result<Tensor> {
        AddNorm { eps: self.eps, dropout }.forward(x, residual, &self.gain, &self.shift)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn large_mean_keeps_its_variance() {
        // In f32, E[x^2] - mean^2 is 0 here: 10 000^2 has no room left for the deviations of 0.01.
        let x = Tensor::new(&[[10_000.0f32, 10_000.01, 10_000.02, 10_000.03]], &Device::Cpu).unwrap();
        let ones = Tensor::ones(4, candle_core::DType::F32, &Device::Cpu).unwrap();
        let norm = LayerNorm { gain: ones.clone(), shift: ones.zeros_like().unwrap(), eps: 1e-12 };
        let y: Vec<f32> = norm
            .forward(&x, &x.zeros_like().unwrap(), Dropout::NONE)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        let mean_square = y.iter().map(|v| v * v).sum::<f32>() / 4.0;
        assert!((mean_square - 1.0).abs() < 1e-3, "variance after the norm is {mean_square}, not 1");
    }

    #[test]
    fn gain_and_shift_and_eps_are_applied() {
        let x = Tensor::new(&[[1.0f32, 3.0]], &Device::Cpu).unwrap();
        let gain = Tensor::new(&[2.0f32, 4.0], &Device::Cpu).unwrap();
        let shift = Tensor::new(&[10.0f32, 20.0], &Device::Cpu).unwrap();
        let norm = LayerNorm { gain, shift, eps: 3.0 };
        // Mean 2, variance 1, 1 / sqrt(1 + 3) = 0.5.
        let y: Vec<f32> = norm
            .forward(&x, &x.zeros_like().unwrap(), Dropout::NONE)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        assert_eq!(y, [9.0, 22.0]);
    }
}
