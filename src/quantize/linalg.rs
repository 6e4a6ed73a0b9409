//! The few matrix steps that GPTQ needs, in f64 on square row-major matrices.

/// The upper triangular `U` with `U^T U = A^-1` of a symmetric positive definite `A`, `[n, n]`; none when `A` is not
/// positive definite in f64.
///
/// From the Cholesky factor `L` of `A` with rows and columns in reverse order: `J A J = L L^T` makes
/// `A = R R^T` with `R = J L J` upper triangular, so `A^-1 = R^-T R^-1` and `U = R^-1`.
pub(super) fn inverse_upper_cholesky(a: &[f64], n: usize) -> Option<Vec<f64>> {
    let reversed: Vec<f64> = (0..n * n).map(|i| a[n * n - 1 - i]).collect();
    let lower = cholesky(reversed, n)?;
    let inverse = invert_lower(&lower, n);
    // J L^-1 J, which is upper triangular.
    Some((0..n * n).map(|i| inverse[n * n - 1 - i]).collect())
}

/// The lower triangular `L` with `L L^T = A`; what is above the diagonal becomes 0.
fn cholesky(mut a: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    for i in 0..n {
        let (above, rest) = a.split_at_mut(i * n);
        let row = &mut rest[..n];
        for j in 0..i {
            let other = &above[j * n..][..n];
            row[j] = (row[j] - dot(&row[..j], &other[..j])) / other[j];
        }
        let pivot = row[i] - dot(&row[..i], &row[..i]);
        if !(pivot > 0.0 && pivot.is_finite()) {
            return None;
        }
        row[i] = pivot.sqrt();
        row[i + 1..].fill(0.0);
    }
    Some(a)
}

/// The inverse of a lower triangular matrix, by rows: `x_i = (e_i - sum_(j<i) L_ij x_j) / L_ii`.
fn invert_lower(lower: &[f64], n: usize) -> Vec<f64> {
    let mut inverse = vec![0f64; n * n];
    for i in 0..n {
        let (above, rest) = inverse.split_at_mut(i * n);
        let row = &mut rest[..=i];
        for j in 0..i {
            let factor = lower[i * n + j];
            row[..=j].iter_mut().zip(&above[j * n..][..=j]).for_each(|(x, y)| *x -= factor * y);
        }
        row[i] += 1.0;
        row.iter_mut().for_each(|x| *x /= lower[i * n + i]);
    }
    inverse
}

/// Dot product in eight partial sums, an order that the compiler can vectorize.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0f64; 8];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        (0..8).for_each(|i| lanes[i] += a[i] * b[i]);
    }
    lanes.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    fn product(a: &[f64], b: &[f64], n: usize) -> Vec<f64> {
        let entry = |i: usize, j: usize| (0..n).map(|k| a[i * n + k] * b[k * n + j]).sum();
        (0..n * n).map(|at| entry(at / n, at % n)).collect()
    }

    fn transposed(a: &[f64], n: usize) -> Vec<f64> {
        (0..n * n).map(|at| a[at % n * n + at / n]).collect()
    }

    #[test]
    fn the_factor_times_itself_is_the_inverse() {
        let n = 19;
        let mut rng = StdRng::seed_from_u64(1);
        let x: Vec<f64> = (0..n * n).map(|_| rng.random::<f64>() - 0.5).collect();
        let mut a = product(&x, &transposed(&x, n), n);
        (0..n).for_each(|i| a[i * n + i] += 0.1);
        let upper = inverse_upper_cholesky(&a, n).unwrap();
        for (at, value) in upper.iter().enumerate() {
            assert!(at % n >= at / n || *value == 0.0, "not upper triangular");
        }
        let identity = product(&a, &product(&transposed(&upper, n), &upper, n), n);
        for (at, value) in identity.iter().enumerate() {
            let expected = if at / n == at % n { 1.0 } else { 0.0 };
            assert!((value - expected).abs() < 1e-9, "{value} at {at}");
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_has_none() {
        assert_eq!(inverse_upper_cholesky(&[1.0, 2.0, 2.0, 1.0], 2), None);
        assert_eq!(inverse_upper_cholesky(&[f64::NAN], 1), None);
    }
}
