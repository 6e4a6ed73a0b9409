//! Two lists of numbers: do they rise together?

/// Pearson's correlation, -1..1; none when a list has no spread.
///
/// # Panics
/// When the lists differ in length.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    assert_eq!(x.len(), y.len(), "a correlation needs pairs");
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mx, my) = (mean(x), mean(y));
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        xy += (x - mx) * (y - my);
        xx += (x - mx) * (x - mx);
        yy += (y - my) * (y - my);
    }
    let spread = (xx * yy).sqrt();
    (spread > 0.0).then(|| (xy / spread).clamp(-1.0, 1.0))
}

/// Spearman's rank correlation, -1..1: Pearson's of the ranks, equal values sharing their mean rank.
///
/// # Panics
/// When the lists differ in length.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    pearson(&ranks(x), &ranks(y))
}

/// Mean squared difference.
///
/// # Panics
/// When the lists differ in length.
pub fn mean_squared_error(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len(), "an error needs pairs");
    x.iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum::<f64>() / x.len().max(1) as f64
}

/// The rank of each value from 1; equal values share their mean rank.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for equal in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let rank = before as f64 + (equal.len() as f64 + 1.0) / 2.0;
        equal.iter().for_each(|i| ranks[*i] = rank);
        before += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_share_their_mean_rank() {
        assert_eq!(ranks(&[10.0, 20.0, 20.0, 5.0, 20.0]), [2.0, 4.0, 4.0, 1.0, 4.0]);
        assert_eq!(ranks(&[0.0, -0.0]), [1.5, 1.5]);
    }

    /// By hand: ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4 have sums of products 4.5 over sqrt(4.5 * 5).
    #[test]
    fn spearman_counts_ties_by_hand() {
        let found = spearman(&[1.0, 2.0, 2.0, 3.0], &[1.0, 5.0, 3.0, 9.0]).unwrap();
        assert!((found - 4.5 / (4.5f64 * 5.0).sqrt()).abs() < 1e-12, "{found}");
    }

    /// scipy 1.17: `pearsonr(x, y)`, `spearmanr(x, y)`.
    #[test]
    fn correlations_equal_scipy() {
        let x = [0.1, 0.4, 0.4, -1.2, 3.5, 0.0, 2.2, 0.4];
        let y = [1.0, 2.0, -0.5, -3.0, 2.0, 2.0, 4.0, 0.25];
        let (r, rho) = (pearson(&x, &y).unwrap(), spearman(&x, &y).unwrap());
        assert!((r - 0.682_551_655_751_581_6).abs() < 1e-12 && (rho - 0.55).abs() < 1e-12, "{r} {rho}");
    }

    #[test]
    fn without_spread_there_is_no_correlation() {
        assert_eq!((pearson(&[1.0, 1.0], &[1.0, 2.0]), spearman(&[], &[])), (None, None));
        assert_eq!(mean_squared_error(&[1.0, 2.0], &[2.0, 4.0]), 2.5);
    }
}
