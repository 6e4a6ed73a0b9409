//! Products of f32 matrices for training and for the float reference, by the `gemm` crate.
//!
//! Sums run in the crate's order, which differs between instruction sets: what serves never comes here.

/// One factor of [`float_gemm`]: a row-major matrix, taken as it is or transposed.
#[derive(Clone, Copy, Debug)]
pub struct Factor<'a> {
    values: &'a [f32],
    transposed: bool,
}

impl<'a> Factor<'a> {
    /// The matrix as it is stored.
    pub fn stored(values: &'a [f32]) -> Self {
        Factor { values, transposed: false }
    }

    /// The transpose of the matrix that is stored.
    pub fn transposed(values: &'a [f32]) -> Self {
        Factor { values, transposed: true }
    }

    /// The matrix as it is stored, row-major.
    pub(super) fn values(&self) -> &'a [f32] {
        self.values
    }

    /// Whether the transpose is stored.
    pub(super) fn is_transposed(&self) -> bool {
        self.transposed
    }

    /// Strides (column, row) of the `[rows, columns]` matrix that this stands for.
    fn strides(&self, rows: usize, columns: usize) -> (isize, isize) {
        if self.transposed { (rows as isize, 1) } else { (1, columns as isize) }
    }
}

/// `out += a b`, with `out` `[m, n]`, `a` `[m, k]` and `b` `[k, n]`, on all threads of the rayon pool it is called in.
///
/// # Panics
/// When a slice has another length than its matrix.
pub fn float_gemm(out: &mut [f32], a: Factor<'_>, b: Factor<'_>, (m, n, k): (usize, usize, usize)) {
    assert_eq!(out.len(), m * n, "the product is {m} x {n}");
    assert_eq!(a.values.len(), m * k, "the first factor is {m} x {k}");
    assert_eq!(b.values.len(), k * n, "the second factor is {k} x {n}");
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    let threads = match rayon::current_num_threads() {
        1 => gemm::Parallelism::None,
        threads => gemm::Parallelism::Rayon(threads),
    };
    let ((a_column, a_row), (b_column, b_row)) = (a.strides(m, k), b.strides(k, n));
    // SAFETY: the lengths were checked above: with these strides, every element that a matrix of these sizes has lies
    // inside its slice. `out` is borrowed mutably, so it overlaps neither factor.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            true,
            a.values.as_ptr(),
            a_column,
            a_row,
            b.values.as_ptr(),
            b_column,
            b_row,
            1.0,
            1.0,
            false,
            false,
            false,
            threads,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::Random;

    fn transpose(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
        (0..columns).flat_map(|c| (0..rows).map(move |r| x[r * columns + c])).collect()
    }

    #[test]
    fn products_of_all_layouts_equal_the_definition() {
        let mut random = Random::new(5);
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (33, 17, 40), (64, 96, 384), (2, 3, 0)] {
            let (a, b, start) = (random.floats(m * k, 1.0), random.floats(k * n, 1.0), random.floats(m * n, 1.0));
            let element = |i: usize, j: usize| {
                (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[l * n + j])).sum::<f64>()
                    + f64::from(start[i * n + j])
            };
            let (a_t, b_t) = (transpose(&a, m, k), transpose(&b, k, n));
            for a in [Factor::stored(&a), Factor::transposed(&a_t)] {
                for b in [Factor::stored(&b), Factor::transposed(&b_t)] {
                    let mut out = start.clone();
                    float_gemm(&mut out, a, b, (m, n, k));
                    for (index, found) in out.iter().enumerate() {
                        let expected = element(index / n, index % n);
                        assert!((f64::from(*found) - expected).abs() < 1e-4, "{m} x {n} x {k}: {found} for {expected}");
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "the second factor is 2 x 3")]
    fn a_factor_of_another_size_is_refused() {
        float_gemm(&mut [0.0; 6], Factor::stored(&[0.0; 4]), Factor::stored(&[0.0; 5]), (2, 3, 2));
    }
}
