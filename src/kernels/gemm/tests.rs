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
