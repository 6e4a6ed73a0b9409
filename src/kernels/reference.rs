//! The slow, obvious twin of each kernel, for tests and benchmarks: integers exactly, floats in f64.
//!
//! Quantization has its plain definition in [`super::affine`].

use super::affine::QuantizedWeights;
use super::rows::QuantizedRows;

/// Exact sums `sum over k of (qa - za) qw` of rows `q` `[m, k]` with weights `[n, k]`: `[m, n]`.
pub fn gemm_i32(q: &[u8], zero_point: &[i32], weight: &[i8], n: usize, k: usize) -> Vec<i32> {
    let mut out = Vec::with_capacity(zero_point.len() * n);
    for (i, &za) in zero_point.iter().enumerate() {
        for j in 0..n {
            let sum: i64 =
                (0..k).map(|l| (i64::from(q[i * k + l]) - i64::from(za)) * i64::from(weight[j * k + l])).sum();
            out.push(sum as i32);
        }
    }
    out
}

/// The epilogue of the product: `fma(sum as f32, sa * sw, bias)`, `[m, n]`.
pub fn scale_sums(sums: &[i32], row_scale: &[f32], column_scale: &[f32], bias: &[f32]) -> Vec<f32> {
    let n = column_scale.len();
    sums.iter()
        .enumerate()
        .map(|(at, &sum)| (sum as f32).mul_add(row_scale[at / n] * column_scale[at % n], bias[at % n]))
        .collect()
}

/// The rows of these indices of a table `[rows, k]`, each times its scale: `[indices, k]`.
pub fn gather(values: &[i8], scale: &[f32], k: usize, indices: &[usize]) -> Vec<f32> {
    let of_row = |&i: &usize| values[i * k..][..k].iter().map(move |q| f32::from(*q) * scale[i]);
    indices.iter().flat_map(of_row).collect()
}

/// The float product of rows `x` `[m, k]` with `weight` `[n, k]`: each output is its bias, then one product after the other
/// with one rounding each, `[m, n]`.
pub fn gemm_f32(x: &[f32], weight: &[f32], bias: &[f32], k: usize) -> Vec<f32> {
    let dot =
        |row: &[f32], weight: &[f32], bias: f32| row.iter().zip(weight).fold(bias, |sum, (&x, &w)| x.mul_add(w, sum));
    let of_row = |row| weight.chunks_exact(k).zip(bias).map(move |(weight, &bias)| dot(row, weight, bias));
    x.chunks_exact(k).flat_map(of_row).collect()
}

/// The product of `a` `[m, k]` with the transpose of `b` `[n, k]`, both rounded to bf16: 32 products at a time, the even and
/// the odd ones added apart, both to the sum; `[m, n]`.
pub fn gemm_bf16(a: &[f32], b: &[f32], k: usize, n: usize) -> Vec<f32> {
    let rounded = |values: &[f32]| -> Vec<f32> { values.iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect() };
    let dot = |a: &[f32], b: &[f32]| {
        a.chunks(32).zip(b.chunks(32)).fold(0.0, |sum: f32, (a, b)| {
            let mut halves = [0.0f32; 2];
            a.iter().zip(b).enumerate().for_each(|(l, (a, b))| halves[l % 2] = a.mul_add(*b, halves[l % 2]));
            sum + (halves[0] + halves[1])
        })
    };
    let (a, b) = (rounded(a), rounded(b));
    let of_row = |i: usize| (0..n).map(move |j| (i, j));
    let rows = a.len().checked_div(k).unwrap_or(0);
    (0..rows).flat_map(of_row).map(|(i, j)| dot(&a[i * k..][..k], &b[j * k..][..k])).collect()
}

/// The product of quantized rows with weights of any scheme: each output is its bias, then, group after group,
/// `fma((sum over the group of (qa - za) (qw - Z)) as f32, Sa * S, sum)`, `[m, n]`.
pub fn gemm_grouped(rows: &QuantizedRows, weights: &QuantizedWeights, bias: &[f32]) -> Vec<f32> {
    let [n, k] = weights.shape;
    let size = k / weights.groups();
    let mut out = Vec::with_capacity(rows.rows() * n);
    for i in 0..rows.rows() {
        let (row, za) = (rows.row(i), i64::from(rows.zero_point()[i]));
        for (j, bias) in bias.iter().enumerate() {
            out.push((0..weights.groups()).fold(*bias, |sum, group| {
                let zero = i64::from(weights.zero_point_of(j, group));
                let columns = group * size..(group + 1) * size;
                let terms = columns.map(|l| (i64::from(row[l]) - za) * (i64::from(weights.values[j * k + l]) - zero));
                (terms.sum::<i64>() as f32).mul_add(rows.scale()[i] * weights.scale_of(j, group), sum)
            }));
        }
    }
    out
}

/// The error function by its all-positive series `2 / sqrt(pi) e^(-x^2) sum of 2^n x^(2n+1) / (2n+1)!!`.
pub fn erf(x: f64) -> f64 {
    if x.abs() > 6.5 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..400 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// `0.5 x (1 + erf(x / sqrt 2))`.
pub fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

/// `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.
pub fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
}

/// Softmax of a row.
fn softmax(row: &[f64]) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = row.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|e| e / sum).collect()
}

/// Layer norm of one row.
pub fn layer_norm(row: &[f64], gamma: &[f32], beta: &[f32], eps: f64) -> Vec<f64> {
    let k = row.len() as f64;
    let mean = row.iter().sum::<f64>() / k;
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / k;
    row.iter()
        .zip(gamma.iter().zip(beta))
        .map(|(x, (&gamma, &beta))| (x - mean) / (variance + eps).sqrt() * f64::from(gamma) + f64::from(beta))
        .collect()
}

/// Attention of one sequence: `qkv` `[tokens, 3 * heads * head_dim]` to `[tokens, heads * head_dim]`.
pub fn attention(qkv: &[f32], heads: usize, head_dim: usize) -> Vec<f64> {
    let hidden = heads * head_dim;
    let tokens = qkv.len() / (3 * hidden);
    let row = |t: usize, part: usize, h: usize| &qkv[(3 * t + part) * hidden + h * head_dim..][..head_dim];
    let mut out = Vec::with_capacity(tokens * hidden);
    for t in 0..tokens {
        for h in 0..heads {
            let scores: Vec<f64> = (0..tokens)
                .map(|j| {
                    let products = row(t, 0, h).iter().zip(row(j, 1, h));
                    let dot: f64 = products.map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
                    dot / (head_dim as f64).sqrt()
                })
                .collect();
            let weights = softmax(&scores);
            out.extend(
                (0..head_dim).map(|d| (0..tokens).map(|j| weights[j] * f64::from(row(j, 2, h)[d])).sum::<f64>()),
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn erf_agrees_with_tabulated_values() {
        // Abramowitz & Stegun, table 7.1, and erf(3.5) from its 10-digit tables.
        for (x, y) in [(0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0), (3.5, 0.999_999_256_9)] {
            assert!((super::erf(x) - y).abs() < 1e-10, "erf({x}) = {}", super::erf(x));
            assert_eq!(super::erf(-x), -super::erf(x));
        }
    }
}
