//! Taking the mean error of a quantized layer out of its bias.

/// The bias that makes the mean output right: `b' = b - (Q - W) E[x]` (Nagel et al. 2019, section 4.2,
/// <https://arxiv.org/abs/1906.04721>). `weight` and `quantized` are `[outputs, inputs]`, `mean_input` is `[inputs]`.
///
/// # Panics
/// When the lengths do not fit.
pub fn corrected_bias(bias: &[f32], weight: &[f32], quantized: &[f32], mean_input: &[f32]) -> Vec<f32> {
    let inputs = mean_input.len();
    assert!(
        weight.len() == bias.len() * inputs && quantized.len() == weight.len(),
        "the layer does not fit its inputs"
    );
    let rows = weight.chunks_exact(inputs).zip(quantized.chunks_exact(inputs));
    let shift = |(w, q): (&[f32], &[f32])| -> f64 {
        w.iter().zip(q).zip(mean_input).map(|((w, q), x)| f64::from(q - w) * f64::from(*x)).sum()
    };
    bias.iter().zip(rows).map(|(b, row)| (f64::from(*b) - shift(row)) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_output_is_that_of_the_float_layer() {
        let (weight, quantized, bias) = ([0.3f32, -0.7, 1.2, 0.1], [0.5f32, -0.5, 1.0, 0.0], [0.25f32, -1.0]);
        let tokens = [[1.0f32, 2.0], [3.0, -1.0], [0.5, 0.5]];
        let mean = [4.5 / 3.0, 1.5 / 3.0];
        let corrected = corrected_bias(&bias, &weight, &quantized, &mean);
        let mean_output = |weight: &[f32], bias: &[f32], row: usize| -> f32 {
            let outputs = tokens.iter().map(|x| weight[row * 2] * x[0] + weight[row * 2 + 1] * x[1] + bias[row]);
            outputs.sum::<f32>() / 3.0
        };
        for row in 0..2 {
            let (float, fixed) = (mean_output(&weight, &bias, row), mean_output(&quantized, &corrected, row));
            assert!((float - fixed).abs() < 1e-6, "row {row}: {float}, {fixed}");
            assert!((float - mean_output(&quantized, &bias, row)).abs() > 0.05, "nothing to correct");
        }
    }
}
