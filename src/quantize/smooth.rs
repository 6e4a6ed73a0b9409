//! Moving the difficulty of activations into weights, where the float function does not change.
//!
//! SmoothQuant (Xiao et al. 2022, <https://arxiv.org/abs/2211.10438>) divides channel `k` of a layer's input by `s_k`
//! and multiplies column `k` of its weight by it. In language models `1 / s` disappears in the layer norm before. In
//! post-norm encoders it cannot: what a norm gives feeds the residual sum too, and GELU does not commute with scaling.
//! One place is left where it does: attention mixes each channel of the values over tokens with weights that do not
//! depend on it, so channel `k` of the context is scaled by scaling row `k` of the value matrix and its bias.
//!
//! Factors are rounded to powers of two. Scaling by these is exact in f32, so the float model gives the same bits.

/// Factors for the input channels of a layer: `s_k = (max abs x_k)^a / (max abs w_k)^(1 - a)`, with the largest input
/// of each channel and the largest weight of each column, `[channels]` each, rounded to a power of two between 2^-8 and
/// 2^8. 1 for a channel without inputs or weights.
///
/// # Panics
/// When the lengths differ.
pub fn factors(input_max: &[f32], weight_max: &[f32], strength: f32) -> Vec<f32> {
    assert_eq!(input_max.len(), weight_max.len(), "each channel has an input and a column");
    let exponent = |x: f32, w: f32| (strength * x.log2() - (1.0 - strength) * w.log2()).round().clamp(-8.0, 8.0);
    let exponents = input_max.iter().zip(weight_max);
    exponents.map(|(x, w)| if *x > 0.0 && *w > 0.0 { exponent(*x, *w).exp2() } else { 1.0 }).collect()
}

/// Largest magnitude of each column of `weight`, `[rows, columns]` → `[columns]`.
pub fn column_max(weight: &[f32], columns: usize) -> Vec<f32> {
    let mut max = vec![0.0f32; columns];
    for row in weight.chunks_exact(columns) {
        max.iter_mut().zip(row).for_each(|(m, w)| *m = m.max(w.abs()));
    }
    max
}

/// Divides row `k` of the value matrix `[channels, inputs]` and its bias by `factors[k]`, and multiplies column `k` of
/// the output projection `[outputs, channels]` by it.
///
/// # Panics
/// When the lengths do not fit.
pub fn migrate(factors: &[f32], value: &mut [f32], value_bias: &mut [f32], output: &mut [f32]) {
    let channels = factors.len();
    assert!(value_bias.len() == channels && value.len().is_multiple_of(channels), "the values do not fit");
    let inputs = value.len() / channels;
    for ((row, bias), factor) in value.chunks_exact_mut(inputs).zip(value_bias).zip(factors) {
        row.iter_mut().for_each(|w| *w /= factor);
        *bias /= factor;
    }
    for row in output.chunks_exact_mut(channels) {
        row.iter_mut().zip(factors).for_each(|(w, factor)| *w *= factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_balance_inputs_and_weights_and_are_powers_of_two() {
        let found = factors(&[16.0, 1.0, 0.0, 1e9], &[1.0, 4.0, 1.0, 1e-9], 0.5);
        assert_eq!(found, [4.0, 0.5, 1.0, 256.0]);
        assert_eq!(factors(&[8.0], &[2.0], 1.0), [8.0], "all of the difficulty goes to the weights");
        assert_eq!(column_max(&[1.0, -3.0, -2.0, 0.5], 2), [2.0, 3.0]);
    }

    /// Mixing tokens with weights of their own, then projecting: what attention does after the softmax.
    fn attend(mix: &[f32], x: &[f32], value: &[f32], bias: &[f32], output: &[f32]) -> Vec<f32> {
        let (tokens, width) = (3, 4);
        let project = |rows: &[f32], weight: &[f32], bias: &[f32]| -> Vec<f32> {
            let row = |t: usize| (0..width).map(move |j| (t, j)).collect::<Vec<_>>();
            let entry = |(t, j): (usize, usize)| {
                (0..width).map(|k| rows[t * width + k] * weight[j * width + k]).sum::<f32>() + bias[j]
            };
            (0..tokens).flat_map(row).map(entry).collect()
        };
        let values = project(x, value, bias);
        let context: Vec<f32> = (0..tokens * width)
            .map(|at| (0..tokens).map(|t| mix[at / width * tokens + t] * values[t * width + at % width]).sum())
            .collect();
        project(&context, output, &[0.0; 4])
    }

    #[test]
    fn the_float_function_keeps_its_bits() {
        let numbers = |seed: u32, count: usize| -> Vec<f32> {
            (0..count as u32)
                .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed * 97) % 1999) as f32 / 999.0 - 1.0)
                .collect()
        };
        let (mix, x) = (numbers(1, 9), numbers(2, 12));
        let (mut value, mut bias, mut output) = (numbers(3, 16), numbers(4, 4), numbers(5, 16));
        let before = attend(&mix, &x, &value, &bias, &output);
        let original = output.clone();
        migrate(&[4.0, 0.25, 1.0, 128.0], &mut value, &mut bias, &mut output);
        assert_ne!(output, original);
        assert_eq!(attend(&mix, &x, &value, &bias, &output), before);
    }
}
