//! u8 activations times s8 weights: exact i32 sums, then scale and bias.

use super::isa::Kernels;
use super::pack::{NR, PackedWeights};
use super::quantize::QuantizedRows;

impl Kernels {
    /// The exact sums `sum over k of (qa - za) qw`, `[m, n]`.
    ///
    /// # Panics
    /// When sizes do not fit together, or `w` was packed for another instruction set.
    pub fn gemm_i32(self, a: &QuantizedRows, w: &PackedWeights, out: &mut [i32]) {
        self.each_sum(a, w, out.len(), |i, j, sum| out[i * w.n() + j] = sum);
    }

    /// `out = a w^T + bias`, `[m, n]`: `fma((sum over k of (qa - za) qw) as f32, sa * sw, bias)`.
    ///
    /// # Panics
    /// When sizes do not fit together, or `w` was packed for another instruction set.
    pub fn gemm(self, a: &QuantizedRows, w: &PackedWeights, out: &mut [f32]) {
        self.each_sum(a, w, out.len(), |i, j, sum| {
            out[i * w.n() + j] = (sum as f32).mul_add(a.scale()[i] * w.scale()[j], w.bias()[j]);
        });
    }

    fn each_sum(self, a: &QuantizedRows, w: &PackedWeights, len: usize, mut f: impl FnMut(usize, usize, i32)) {
        assert_eq!(self.isa(), w.isa(), "weights packed for {} given to the {} kernels", w.isa(), self.isa());
        assert_eq!(a.k(), w.k(), "activations and weights differ in k");
        assert_eq!(len, a.rows() * w.n(), "the output of a matrix product needs m * n values");
        let stride = a.stride();
        for j in 0..w.n() {
            let panel = &w.panels()[j / NR * NR * stride..][..NR * stride];
            for i in 0..a.rows() {
                let row = &a.bytes()[i * stride..][..stride];
                let sum: i32 =
                    (0..stride).map(|l| i32::from(row[l]) * i32::from(panel[(l / 4 * NR + j % NR) * 4 + l % 4])).sum();
                f(i, j, sum - a.zero_point()[i] * w.column_sum()[j]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::affine::quantize_weight_s8;

    #[test]
    fn gemm_approximates_the_float_product() {
        let (m, n, k) = (3, 21, 37);
        let x: Vec<f32> = (0..m * k).map(|i| ((i * 37 % 101) as f32 - 40.0) / 31.0).collect();
        let weight: Vec<f32> = (0..n * k).map(|i| ((i * 53 % 89) as f32 - 44.0) / 70.0).collect();
        let bias: Vec<f32> = (0..n).map(|j| j as f32 - 5.0).collect();
        let (q, scale) = quantize_weight_s8(&weight, n, k);
        for kernels in Kernels::available() {
            let packed = PackedWeights::pack(kernels, &q, &scale, Some(&bias), n, k);
            let mut rows = QuantizedRows::new();
            kernels.quantize_rows(&x, k, &mut rows);
            let mut out = vec![0.0; m * n];
            kernels.gemm(&rows, &packed, &mut out);
            for i in 0..m {
                for j in 0..n {
                    let exact: f32 = (0..k).map(|l| x[i * k + l] * weight[j * k + l]).sum::<f32>() + bias[j];
                    assert!((out[i * n + j] - exact).abs() < 0.1, "[{i}, {j}]: {} for {exact}", out[i * n + j]);
                }
            }
        }
    }
}
