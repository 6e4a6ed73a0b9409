//! Rounding that looks at the inputs: GPTQ (Frantar et al. 2022, <https://arxiv.org/abs/2210.17323>).
//!
//! Rounding each weight to the nearest level makes the error of a weight least; what matters is the error of the
//! layer's output, `||X W^T - X Q^T||^2`. GPTQ rounds one column after the other and, after each, moves the columns
//! that are still float so that they make up for what the rounding did to the output.

use super::linalg::inverse_upper_cholesky;

/// How a run of weights of one row that share a scale becomes integers.
pub trait Grid {
    /// The scale for these weights.
    fn scale(&self, weights: &[f32]) -> f32;

    /// The integer nearest to a weight.
    fn quantize(&self, weight: f32, scale: f32) -> i8;
}

/// Symmetric integers `-max..=max`, `w = q * scale`. The scale is `share * absmax / max` for the share in
/// `0.70, 0.72 ... 1` with the least squared error, or for 1 when `search` is off.
#[derive(Clone, Copy, Debug)]
pub struct Symmetric {
    /// Largest integer: 127 for int8, 7 for int4.
    pub max: i8,
    /// Whether shrunken ranges are tried.
    pub search: bool,
}

impl Grid for Symmetric {
    fn scale(&self, weights: &[f32]) -> f32 {
        let absmax = weights.iter().fold(0.0f32, |max, w| max.max(w.abs()));
        let full = absmax / f32::from(self.max);
        if full < f32::MIN_POSITIVE {
            return 1.0;
        }
        if !self.search {
            return full;
        }
        let error = |scale: f32| -> f64 {
            let errors = weights.iter().map(|w| f64::from(w - f32::from(self.quantize(*w, scale)) * scale).powi(2));
            errors.sum()
        };
        let candidates = (0..=15).map(|i| full * (1.0 - 0.02 * i as f32));
        candidates.map(|s| (error(s), s)).min_by(|a, b| a.0.total_cmp(&b.0)).expect("there are candidates").1
    }

    fn quantize(&self, weight: f32, scale: f32) -> i8 {
        let max = f32::from(self.max);
        (weight / scale).round_ties_even().clamp(-max, max) as i8
    }
}

/// What a GPTQ run takes beside the matrix.
#[derive(Clone, Copy, Debug)]
pub struct GptqOptions {
    /// Columns of a row that share a scale; the row length for one scale per row. Divides the row length.
    pub group: usize,
    /// Added to the diagonal of the Hessian, as a share of its mean.
    pub damp: f64,
    /// Columns whose corrections are applied to the rest of the matrix together; changes speed, not the result.
    pub block: usize,
}

impl GptqOptions {
    /// Groups of this size, damping 0.01, blocks of 128.
    pub fn with_group(group: usize) -> Self {
        GptqOptions { group, damp: 0.01, block: 128 }
    }
}

/// A quantized matrix: integers `[rows, columns]`, and scales `[rows, columns / group]`.
pub type Rounded = (Vec<i8>, Vec<f32>);

/// Rounds `weight`, `[rows, columns]`, for inputs with the second moments `hessian`, `X^T X`, `[columns, columns]`.
///
/// A column whose inputs are always 0 has no effect and becomes 0. Scales are chosen when the first column of a group
/// is reached, from the weights as they are then. None when the damped Hessian is not positive definite, for example
/// when it holds values that are not finite.
///
/// # Panics
/// When the lengths do not fit, or `group` does not divide the row length.
pub fn gptq(weight: &[f32], hessian: &[f64], columns: usize, grid: &dyn Grid, options: GptqOptions) -> Option<Rounded> {
    let GptqOptions { group, damp, block } = options;
    assert_eq!(hessian.len(), columns * columns, "the Hessian does not fit the weight");
    assert!(weight.len().is_multiple_of(columns) && columns.is_multiple_of(group), "groups divide a row");
    let (rows, groups) = (weight.len() / columns, columns / group);
    let (mut weight, mut hessian) = (weight.to_vec(), hessian.to_vec());
    let mean = (0..columns).map(|i| hessian[i * columns + i]).sum::<f64>() / columns as f64;
    for i in 0..columns {
        if hessian[i * columns + i] == 0.0 {
            hessian[i * columns + i] = 1.0;
            (0..rows).for_each(|row| weight[row * columns + i] = 0.0);
        }
        hessian[i * columns + i] += damp * mean;
    }
    let factor: Vec<f32> = inverse_upper_cholesky(&hessian, columns)?.into_iter().map(|v| v as f32).collect();

    let (mut integers, mut scales) = (vec![0i8; weight.len()], vec![1f32; rows * groups]);
    let mut errors = vec![0f32; block];
    for row in 0..rows {
        let (weight, integers) = (&mut weight[row * columns..][..columns], &mut integers[row * columns..][..columns]);
        for start in (0..columns).step_by(block) {
            let end = (start + block).min(columns);
            for column in start..end {
                let scale = &mut scales[row * groups + column / group];
                if column.is_multiple_of(group) {
                    // What this block still owes to columns of the group beyond it is paid before they are measured.
                    let owed = &errors[..column - start];
                    if column + group > end {
                        let mut ahead = weight[column..column + group].to_vec();
                        pay(&mut ahead[end - column..], owed, &factor, columns, start, end);
                        *scale = grid.scale(&ahead);
                    } else {
                        *scale = grid.scale(&weight[column..column + group]);
                    }
                }
                let q = grid.quantize(weight[column], *scale);
                integers[column] = q;
                let line = &factor[column * columns..][..columns];
                let error = (weight[column] - f32::from(q) * *scale) / line[column];
                errors[column - start] = error;
                let rest = weight[column + 1..end].iter_mut().zip(&line[column + 1..end]);
                rest.for_each(|(w, f)| *w -= error * f);
            }
            pay(&mut weight[end..], &errors[..end - start], &factor, columns, start, end);
        }
    }
    Some((integers, scales))
}

/// Takes the errors of columns `start..` off the weights of the columns from `from` on.
fn pay(weights: &mut [f32], errors: &[f32], factor: &[f32], columns: usize, start: usize, from: usize) {
    for (i, error) in errors.iter().enumerate() {
        let line = &factor[(start + i) * columns + from..][..weights.len()];
        weights.iter_mut().zip(line).for_each(|(w, f)| *w -= error * f);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    const COLUMNS: usize = 48;
    const ROWS: usize = 16;

    struct Case {
        weight: Vec<f32>,
        inputs: Vec<f64>,
        hessian: Vec<f64>,
    }

    /// Inputs of 200 tokens that depend on each other: sums of a few shared directions and a little noise.
    fn case(seed: u64) -> Case {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut uniform = move || f64::from(rng.random::<f32>()) - 0.5;
        let weight = (0..ROWS * COLUMNS).map(|_| uniform() as f32).collect();
        let directions: Vec<f64> = (0..6 * COLUMNS).map(|_| uniform()).collect();
        let mut inputs = Vec::new();
        for _ in 0..200 {
            let mix: Vec<f64> = (0..6).map(|_| uniform()).collect();
            inputs.extend(
                (0..COLUMNS)
                    .map(|c| 0.1 * uniform() + (0..6).map(|d| mix[d] * directions[d * COLUMNS + c]).sum::<f64>()),
            );
        }
        let mut hessian = vec![0f64; COLUMNS * COLUMNS];
        for token in inputs.chunks(COLUMNS) {
            (0..COLUMNS * COLUMNS).for_each(|at| hessian[at] += token[at / COLUMNS] * token[at % COLUMNS]);
        }
        Case { weight, inputs, hessian }
    }

    fn output_error(case: &Case, (integers, scales): &Rounded, group: usize) -> f64 {
        let groups = COLUMNS / group;
        let mut total = 0.0;
        for token in case.inputs.chunks(COLUMNS) {
            for row in 0..ROWS {
                let off = |c: usize| {
                    let q = f32::from(integers[row * COLUMNS + c]) * scales[row * groups + c / group];
                    f64::from(case.weight[row * COLUMNS + c] - q) * token[c]
                };
                total += (0..COLUMNS).map(off).sum::<f64>().powi(2);
            }
        }
        total
    }

    fn nearest(case: &Case, grid: &dyn Grid, group: usize) -> Rounded {
        let scales: Vec<f32> = case.weight.chunks(group).map(|w| grid.scale(w)).collect();
        let integers = case.weight.iter().enumerate().map(|(i, w)| grid.quantize(*w, scales[i / group])).collect();
        (integers, scales)
    }

    const INT4: Symmetric = Symmetric { max: 7, search: false };

    #[test]
    fn the_outputs_are_much_closer_than_after_rounding_to_the_nearest() {
        for seed in 0..4 {
            let case = case(seed);
            for group in [16, COLUMNS] {
                let options = GptqOptions::with_group(group);
                let found = gptq(&case.weight, &case.hessian, COLUMNS, &INT4, options).unwrap();
                let (gptq, plain) =
                    (output_error(&case, &found, group), output_error(&case, &nearest(&case, &INT4, group), group));
                assert!(gptq < 0.5 * plain, "seed {seed}, group {group}: {gptq}, rounded to the nearest {plain}");
                assert!(found.0.iter().all(|q| q.abs() <= 7));
            }
        }
    }

    #[test]
    fn independent_inputs_of_one_size_are_rounded_to_the_nearest() {
        let case = case(9);
        let mut hessian = vec![0f64; COLUMNS * COLUMNS];
        (0..COLUMNS).for_each(|i| hessian[i * COLUMNS + i] = 3.0);
        let found = gptq(&case.weight, &hessian, COLUMNS, &INT4, GptqOptions::with_group(16)).unwrap();
        assert_eq!(found, nearest(&case, &INT4, 16));
    }

    /// The formula of the paper without blocks: `W_j -= E / U_cc * U_cj` over the whole row after every column.
    #[test]
    fn blocks_change_nothing_but_the_order_of_sums() {
        let case = case(5);
        let with = |block| {
            let options = GptqOptions { block, ..GptqOptions::with_group(16) };
            gptq(&case.weight, &case.hessian, COLUMNS, &INT4, options).unwrap()
        };
        let whole = with(COLUMNS);
        for block in [5, 16, 24, 128] {
            let found = with(block);
            let differing = found.0.iter().zip(&whole.0).filter(|(a, b)| a != b).count();
            assert!(differing <= ROWS * COLUMNS / 100, "block {block}: {differing} integers differ");
        }
    }

    #[test]
    fn columns_without_inputs_become_zero_and_bad_moments_are_refused() {
        let mut case = case(3);
        (0..COLUMNS).for_each(|i| {
            case.hessian[7 * COLUMNS + i] = 0.0;
            case.hessian[i * COLUMNS + 7] = 0.0;
        });
        let options = GptqOptions::with_group(16);
        let (integers, _) = gptq(&case.weight, &case.hessian, COLUMNS, &INT4, options).unwrap();
        assert!((0..ROWS).all(|row| integers[row * COLUMNS + 7] == 0));
        case.hessian[0] = f64::NAN;
        assert!(gptq(&case.weight, &case.hessian, COLUMNS, &INT4, options).is_none());
    }

    #[test]
    fn searching_the_range_never_makes_a_group_worse() {
        let case = case(1);
        let error = |search: bool, w: &[f32]| {
            let grid = Symmetric { max: 7, search };
            let scale = grid.scale(w);
            w.iter().map(|w| f64::from(w - f32::from(grid.quantize(*w, scale)) * scale).powi(2)).sum::<f64>()
        };
        let pairs: Vec<_> = case.weight.chunks(16).map(|w| (error(true, w), error(false, w))).collect();
        assert!(pairs.iter().all(|(searched, full)| searched <= full));
        assert!(pairs.iter().map(|p| p.0).sum::<f64>() < 0.95 * pairs.iter().map(|p| p.1).sum::<f64>());
        assert_eq!(INT4.scale(&[0.0; 4]), 1.0);
    }
}
