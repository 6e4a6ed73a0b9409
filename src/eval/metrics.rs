//! Scores of predictions against truth. Each cites its definition.

/// Counts of (truth, prediction), `[classes, classes]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    counts: Vec<u64>,
}

impl Confusion {
    /// An empty table.
    pub fn new(classes: usize) -> Self {
        Confusion { classes, counts: vec![0; classes * classes] }
    }

    /// Counts one prediction.
    ///
    /// # Panics
    /// When an index is not below the number of classes.
    pub fn add(&mut self, truth: usize, predicted: usize) {
        assert!(truth < self.classes && predicted < self.classes, "class index out of range");
        self.counts[truth * self.classes + predicted] += 1;
    }

    /// How often `truth` was predicted as `predicted`.
    pub fn count(&self, truth: usize, predicted: usize) -> u64 {
        self.counts[truth * self.classes + predicted]
    }

    /// Number of predictions.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Share of right predictions, 0..1.
    pub fn accuracy(&self) -> f64 {
        let right: u64 = (0..self.classes).map(|c| self.count(c, c)).sum();
        ratio(right as f64, self.total() as f64)
    }

    fn truths(&self, class: usize) -> u64 {
        (0..self.classes).map(|p| self.count(class, p)).sum()
    }

    /// F1 of one class: harmonic mean of precision and recall; 0 when it was never right.
    pub fn f1(&self, class: usize) -> f64 {
        let right = self.count(class, class) as f64;
        let predicted: u64 = (0..self.classes).map(|t| self.count(t, class)).sum();
        ratio(2.0 * right, predicted as f64 + self.truths(class) as f64)
    }

    /// Mean of the classes' F1 (scikit-learn, `average="macro"`), over classes that occur.
    pub fn macro_f1(&self) -> f64 {
        let present: Vec<_> = (0..self.classes).filter(|c| self.truths(*c) > 0).collect();
        ratio(present.iter().map(|c| self.f1(*c)).sum(), present.len() as f64)
    }

    /// Mean of the classes' F1 weighted by how often each is true (scikit-learn, `average="weighted"`).
    pub fn weighted_f1(&self) -> f64 {
        let sum = (0..self.classes).map(|c| self.f1(c) * self.truths(c) as f64).sum();
        ratio(sum, self.total() as f64)
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { part / whole }
}

/// Cosine of the angle between two vectors; 0 when one is zero.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    ratio(dot(a, b), (dot(a, a) * dot(b, b)).sqrt())
}

/// The value below which a share `q` (0..1) of the sorted values lies, by nearest rank.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(((last as f64) * q).round() as usize).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checked with scikit-learn: y_true = [0,0,0,1,1,2], y_pred = [0,0,1,1,2,2].
    #[test]
    fn scores_equal_scikit_learn() {
        let mut table = Confusion::new(3);
        for (t, p) in [(0, 0), (0, 0), (0, 1), (1, 1), (1, 2), (2, 2)] {
            table.add(t, p);
        }
        assert!((table.accuracy() - 4.0 / 6.0).abs() < 1e-12);
        assert!((table.f1(0) - 0.8).abs() < 1e-12);
        assert!((table.f1(1) - 0.5).abs() < 1e-12);
        assert!((table.f1(2) - 2.0 / 3.0).abs() < 1e-12);
        assert!((table.macro_f1() - (0.8 + 0.5 + 2.0 / 3.0) / 3.0).abs() < 1e-12);
        assert!((table.weighted_f1() - (0.8 * 3.0 + 0.5 * 2.0 + 2.0 / 3.0) / 6.0).abs() < 1e-12);
    }

    #[test]
    fn cosine_of_known_vectors() {
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 2.0]), 0.0);
        assert!((cosine(&[1.0, 1.0], &[2.0, 2.0]) - 1.0).abs() < 1e-12);
        assert_eq!(cosine(&[0.0], &[1.0]), 0.0);
    }

    #[test]
    fn quantiles_are_values_of_the_list() {
        let sorted: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!((quantile(&sorted, 0.5), quantile(&sorted, 0.99), quantile(&sorted, 1.0)), (50.0, 99.0, 100.0));
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
