//! Smoothing: what enters a quantized matrix is divided by a factor per channel, the matrix multiplied by it
//! (SmoothQuant, Xiao et al. 2022, <https://arxiv.org/abs/2211.10438>).
//!
//! Few channels behind a norm are much larger than the others, and a token's step is that of its largest. Divided, they
//! leave more levels to the others, and their columns of the weight, which have ranges to spare, grow. In pre-norm
//! models the division is folded into the norm. Behind a post-norm block it cannot be, as the residual sum needs the
//! rows as they are, and behind an activation neither; so the kernels multiply by `f = 1 / s` where they round, and the
//! folder holds `f` (`docs/decisions/0015-smoothing.md`).
//!
//! Which channels are large is a property of the model and hardly of its texts, so sequences of made-up tokens show it. They
//! also show where smoothing pays; elsewhere the inputs stay as they are.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use crate::architectures::{EncoderSpec, RaggedBatch};
use crate::checkpoint::InputConfig;
use crate::kernels::affine::{QuantizedWeights, Scheme, quantize_row_u8};
use crate::nn::{CandleEncoder, Site};
use crate::text::Encoding;

use super::Rounding;

/// Sequences that are made up, and the tokens of each.
const SEQUENCES: usize = 32;
const TOKENS: usize = 32;
/// Largest factor, and the inverse of the smallest one, around their geometric mean.
const LARGEST: f32 = 256.0;

/// Each of so many rows is kept to see whether smoothing pays.
const KEPT: usize = 8;

/// What the made-up sequences showed at each site.
pub(super) type Shown = BTreeMap<Site, SiteInputs>;

/// The rows that enter a site.
pub(super) struct SiteInputs {
    /// The largest magnitude of each channel, `[columns]`.
    pub reach: Vec<f32>,
    /// Some of the rows, `[_, columns]`.
    pub rows: Vec<f32>,
}

/// A matrix at a site: its weight `[rows, columns]`, and how it and its inputs are quantized.
pub(super) struct Smoothed<'a> {
    pub weight: &'a [f32],
    pub shape: [usize; 2],
    pub scheme: Scheme,
    pub inputs: InputConfig,
}

/// Sequences of tokens from all over the vocabulary between the special ones of an empty text; always the same ones.
pub(super) fn made_up(spec: &EncoderSpec, special: &Encoding) -> RaggedBatch {
    let length = TOKENS.min(spec.max_tokens()).saturating_sub(special.ids.len());
    // A multiplicative congruential generator (Park & Miller 1988, <https://doi.org/10.1145/63039.63042>).
    let mut state = 1u64;
    let mut token = || {
        state = state * 16_807 % 2_147_483_647;
        (state % spec.vocab_size as u64) as u32
    };
    let mut batch = RaggedBatch::new();
    for _ in 0..SEQUENCES {
        let (mut ids, mut type_ids) = (special.ids.clone(), special.type_ids.clone());
        let start = ids.len().min(1);
        ids.splice(start..start, (0..length).map(|_| token()));
        type_ids.splice(start..start, (0..length).map(|_| 0));
        batch.push(&ids, &type_ids);
    }
    batch
}

/// What enters each site.
///
/// # Errors
/// Those of [`CandleEncoder::hidden_states_seen`].
pub(super) fn show(encoder: &CandleEncoder, batch: &RaggedBatch) -> candle_core::Result<Shown> {
    let mut shown = Shown::new();
    let mut see = |site: Site, x: &Tensor| {
        let (columns, x) = (x.dim(1)?, x.flatten_all()?.to_vec1::<f32>()?);
        let rows = x.chunks_exact(columns).step_by(KEPT).flatten().copied().collect();
        shown.insert(site, SiteInputs { reach: column_max(&x, columns), rows });
        Ok(())
    };
    encoder.hidden_states_seen(batch, &mut see)?;
    Ok(shown)
}

/// Largest magnitude of each column of `[rows, columns]`.
pub(super) fn column_max(values: &[f32], columns: usize) -> Vec<f32> {
    let mut max = vec![0.0f32; columns];
    for row in values.chunks_exact(columns) {
        max.iter_mut().zip(row).for_each(|(m, x)| *m = m.max(x.abs()));
    }
    max
}

/// What inputs are multiplied by, `f = w^(1 - a) / x^a` with the strength `a`, the largest input `x` of each channel and
/// the largest weight `w` of its column (Xiao et al. 2022, equation 4, inverted); of geometric mean 1, and 1 for a channel
/// whose inputs or weights are all 0.
///
/// # Panics
/// When the lengths differ.
pub fn factors(reach: &[f32], columns: &[f32], strength: f64) -> Vec<f32> {
    assert_eq!(reach.len(), columns.len(), "each channel has an input and a column");
    let strength = strength as f32;
    let log = |(x, w): (&f32, &f32)| {
        let known = *x > 0.0 && *w > 0.0;
        known.then(|| (1.0 - strength) * w.log2() - strength * x.log2())
    };
    let logs: Vec<Option<f32>> = reach.iter().zip(columns).map(log).collect();
    let known = logs.iter().flatten();
    let mean = known.clone().sum::<f32>() / known.count().max(1) as f32;
    let largest = LARGEST.log2();
    let factor = |log: &Option<f32>| log.map_or(1.0, |log| (log - mean).clamp(-largest, largest).exp2());
    logs.iter().map(factor).collect()
}

/// Whether the outputs of the matrices of a site come closer to those of float when its inputs, of which these are some
/// rows, are multiplied by `factors` before they are rounded: by the squared error of all.
///
/// # Errors
/// Those of candle's products.
pub(super) fn pays(rows: &[f32], matrices: &[Smoothed<'_>], factors: &[f32]) -> candle_core::Result<bool> {
    let error = |factors: &[f32]| {
        matrices.iter().map(|matrix| output_error(rows, matrix, factors)).sum::<candle_core::Result<f32>>()
    };
    Ok(error(factors)? < error(&vec![1.0; factors.len()])?)
}

/// The squared error of the outputs of some rows.
fn output_error(rows: &[f32], matrix: &Smoothed<'_>, factors: &[f32]) -> candle_core::Result<f32> {
    let [n, k] = matrix.shape;
    let product = |x: &[f32], weight: &[f32]| {
        let x = Tensor::from_slice(x, (x.len() / k, k), &Device::Cpu)?;
        x.matmul(&Tensor::from_slice(weight, (n, k), &Device::Cpu)?.t()?)
    };
    let weight = quantize(Rounding::Nearest, matrix.weight, matrix.shape, matrix.scheme, None, factors).dequantize();
    let rounded = product(&rounded(rows, matrix.inputs, factors), &weight)?;
    (rounded - product(rows, matrix.weight)?)?.sqr()?.sum_all()?.to_scalar()
}

/// Rows as they are after their integers; the range of static inputs is that of all of them.
fn rounded(rows: &[f32], inputs: InputConfig, factors: &[f32]) -> Vec<f32> {
    let mut multiplied: Vec<f32> = rows.iter().zip(factors.iter().cycle()).map(|(x, f)| x * f).collect();
    let whole = multiplied.len();
    for x in multiplied.chunks_mut(if inputs.dynamic { factors.len() } else { whole }) {
        let mut integers = vec![0; x.len()];
        let params = quantize_row_u8(x, &mut integers);
        x.iter_mut().zip(integers).for_each(|(x, q)| *x = params.dequantize(i32::from(q)));
    }
    multiplied.iter().zip(factors.iter().cycle()).map(|(x, f)| x / f).collect()
}

/// The weight for inputs that are multiplied by `factors` `[columns]`, row-major: each column divided by its own.
pub(super) fn smoothed(weight: &[f32], factors: &[f32]) -> Vec<f32> {
    weight.iter().zip(factors.iter().cycle()).map(|(w, f)| w / f).collect()
}

/// Quantizes a weight `[rows, columns]` whose inputs are multiplied by `factors` `[columns]`, unless there are none;
/// `moments` are those of the inputs as they are.
pub(super) fn quantize(
    rounding: Rounding,
    weight: &[f32],
    shape: [usize; 2],
    scheme: Scheme,
    moments: Option<&[f64]>,
    factors: &[f32],
) -> QuantizedWeights {
    if factors.is_empty() {
        return rounding.quantize(weight, shape, scheme, moments);
    }
    let moments: Option<Vec<f64>> = moments.map(|moments| {
        let rows = moments.chunks_exact(factors.len()).zip(factors);
        let scaled = |(row, f): (&[f64], &f32)| {
            let f = f64::from(*f);
            row.iter().zip(factors).map(move |(moment, g)| moment * f * f64::from(*g)).collect::<Vec<_>>()
        };
        rows.flat_map(scaled).collect()
    });
    let quantized = rounding.quantize(&smoothed(weight, factors), shape, scheme, moments.as_deref());
    QuantizedWeights { smoothing: factors.to_vec(), ..quantized }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::affine::{Granularity, Levels};

    #[test]
    fn factors_balance_inputs_and_weights() {
        let balanced = factors(&[16.0, 1.0, 0.0, 4.0], &[1.0, 4.0, 1.0, 1.0], 0.5);
        // 1/4, 2 and 1/2, over their geometric mean of 4^(-1/3); what never comes stays.
        let mean = 0.25f32.powf(1.0 / 3.0);
        for (found, expected) in balanced.iter().zip([0.25 / mean, 2.0 / mean, 1.0, 0.5 / mean]) {
            assert!((found - expected).abs() < 1e-6, "{found}, {expected}");
        }
        assert_eq!(factors(&[8.0, 2.0], &[1.0, 1.0], 0.0), [1.0, 1.0], "inputs stay as they are");
        let all = factors(&[8.0, 2.0], &[3.0, 5.0], 1.0);
        assert!((all[0] * 8.0 - all[1] * 2.0).abs() < 1e-5, "all of the difficulty goes to the weights: {all:?}");
        let wild = factors(&[1e30, 1e-30], &[1.0, 1.0], 1.0);
        assert_eq!(wild, [1.0 / 256.0, 256.0]);
    }

    #[test]
    fn the_product_is_that_of_the_weight_and_closer_where_a_channel_is_large() {
        let (rows, columns) = (6, 32);
        let number = |i: usize| (i.wrapping_mul(2_654_435_761) % 1999) as f32 / 999.0 - 1.0;
        // As behind norms: the weights of the large channel are small.
        let of_column = |l: usize| if l == 5 { 0.05 } else { 1.0 };
        let weight: Vec<f32> = (0..rows * columns).map(|i| number(i) * of_column(i % columns)).collect();
        let mut x: Vec<f32> = (0..columns).map(|l| number(l + 1000)).collect();
        x[5] = 40.0;
        let exact: Vec<f32> = weight.chunks(columns).map(|w| w.iter().zip(&x).map(|(w, x)| w * x).sum()).collect();
        let error = |factors: &[f32]| -> f32 {
            let mut weights = quantize(Rounding::Nearest, &weight, [rows, columns], Scheme::INT8, None, factors);
            let near = weights.dequantize().iter().zip(&weight).all(|(q, w)| (q - w).abs() < 0.05);
            assert!(near, "what the integers stand for is the weight, whatever the factors");
            let mut multiplied = x.clone();
            multiplied.iter_mut().zip(&weights.smoothing).for_each(|(x, f)| *x *= f);
            weights.smoothing.clear();
            let mut integers = vec![0; columns];
            let params = quantize_row_u8(&multiplied, &mut integers);
            let product =
                |w: &[f32]| -> f32 { w.iter().zip(&integers).map(|(w, q)| w * params.dequantize(i32::from(*q))).sum() };
            let found = weights.dequantize();
            found.chunks(columns).zip(&exact).map(|(w, exact)| (product(w) - exact).powi(2)).sum()
        };
        let smooth = factors(&column_max(&x, columns), &column_max(&weight, columns), 0.5);
        assert!(error(&smooth) < 0.3 * error(&[]), "{} {}", error(&smooth), error(&[]));
        for inputs in [InputConfig::DYNAMIC, InputConfig { dynamic: false, symmetric: false }] {
            let matrix = Smoothed { weight: &weight, shape: [rows, columns], scheme: Scheme::INT8, inputs };
            assert!(pays(&x, &[matrix], &smooth).unwrap());
            let matrix = Smoothed { weight: &weight, shape: [rows, columns], scheme: Scheme::INT8, inputs };
            let inverse: Vec<f32> = smooth.iter().map(|f| 1.0 / f).collect();
            assert!(!pays(&x, &[matrix], &inverse).unwrap(), "what makes the large channel larger does not pay");
        }
    }

    #[test]
    fn gptq_sees_the_moments_of_multiplied_inputs() {
        let (rows, columns) = (3, 8);
        let number = |i: usize| (i.wrapping_mul(48_271) % 1999) as f32 / 999.0 - 1.0;
        let weight: Vec<f32> = (0..rows * columns).map(number).collect();
        let x: Vec<f32> = (0..64 * columns).map(|i| number(i + 77)).collect();
        let moments = |x: &[f32]| -> Vec<f64> {
            let of = |i: usize, j: usize| x.chunks(columns).map(|r| f64::from(r[i]) * f64::from(r[j])).sum();
            (0..columns * columns).map(|at| of(at / columns, at % columns)).collect()
        };
        // Powers of two, so that nothing but the integers could differ.
        let factors: Vec<f32> = (0..columns).map(|l| [0.25, 2.0, 1.0, 8.0][l % 4]).collect();
        let int4 = Scheme::symmetric(Levels::Int4, Granularity::Channel);
        let found = quantize(Rounding::Gptq, &weight, [rows, columns], int4, Some(&moments(&x)), &factors);
        let multiplied: Vec<f32> = x.iter().zip(factors.iter().cycle()).map(|(x, f)| x * f).collect();
        let divided = smoothed(&weight, &factors);
        let expected = Rounding::Gptq.quantize(&divided, [rows, columns], int4, Some(&moments(&multiplied)));
        assert_eq!((found.values, found.scale), (expected.values, expected.scale));
    }

    #[test]
    fn made_up_sequences_are_as_texts_are() {
        let spec = crate::architectures::describe(
            crate::checkpoint::ModelDir::open(std::path::Path::new("tests/goldens/bert")).unwrap().config(),
            &|_| true,
        )
        .unwrap()
        .spec;
        let special = Encoding { ids: vec![2, 3], type_ids: vec![0, 0], truncated: false };
        let batch = made_up(&spec, &special);
        assert_eq!((batch.len(), batch.tokens()), (SEQUENCES, SEQUENCES * TOKENS.min(spec.max_tokens())));
        for rows in batch.ranges() {
            assert_eq!((batch.ids[rows.start], batch.ids[rows.end - 1]), (2, 3));
        }
        assert!(batch.ids.iter().all(|id| (*id as usize) < spec.vocab_size));
        assert_eq!(made_up(&spec, &special).ids, batch.ids, "always the same ones");
    }
}
