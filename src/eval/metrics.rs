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
        ratio(self.right() as f64, self.total() as f64)
    }

    /// Predictions that were right.
    pub fn right(&self) -> u64 {
        (0..self.classes).map(|c| self.count(c, c)).sum()
    }

    /// How often a class was true.
    pub fn truths(&self, class: usize) -> u64 {
        (0..self.classes).map(|p| self.count(class, p)).sum()
    }

    fn predictions(&self, class: usize) -> u64 {
        (0..self.classes).map(|t| self.count(t, class)).sum()
    }

    /// F1 of one class: harmonic mean of precision and recall; 0 when it was never right.
    pub fn f1(&self, class: usize) -> f64 {
        ratio(2.0 * self.count(class, class) as f64, (self.predictions(class) + self.truths(class)) as f64)
    }

    /// Mean of the classes' F1 (scikit-learn, `average="macro"`), over classes that are true or predicted at least
    /// once.
    pub fn macro_f1(&self) -> f64 {
        let present: Vec<_> = (0..self.classes).filter(|c| self.truths(*c) + self.predictions(*c) > 0).collect();
        ratio(present.iter().map(|c| self.f1(*c)).sum(), present.len() as f64)
    }

    /// Matthews' correlation coefficient of several classes, -1..1 (Gorodkin 2004); 0 when truth or prediction never
    /// changes.
    pub fn mcc(&self) -> f64 {
        let (n, right) = (self.total() as f64, self.right() as f64);
        let (mut both, mut truth, mut predicted) = (0.0, 0.0, 0.0);
        for class in 0..self.classes {
            let (t, p) = (self.truths(class) as f64, self.predictions(class) as f64);
            both += t * p;
            truth += t * t;
            predicted += p * p;
        }
        ratio(n * right - both, ((n * n - predicted) * (n * n - truth)).sqrt())
    }

    /// Mean of the classes' F1 weighted by how often each is true (scikit-learn, `average="weighted"`).
    pub fn weighted_f1(&self) -> f64 {
        let sum = (0..self.classes).map(|c| self.f1(c) * self.truths(c) as f64).sum();
        ratio(sum, self.total() as f64)
    }
}

/// 0 of nothing is 0.
pub(super) fn ratio(part: f64, whole: f64) -> f64 {
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

    fn table(pairs: &[(usize, usize)]) -> Confusion {
        let mut table = Confusion::new(3);
        pairs.iter().for_each(|(truth, predicted)| table.add(*truth, *predicted));
        table
    }

    /// By hand: F1 of 4/5, 1/2, 2/3. MCC: 6 * 4 - (3 * 2 + 2 * 2 + 1 * 2) over sqrt((36 - 12) (36 - 14)).
    #[test]
    fn scores_are_those_by_hand() {
        let table = table(&[(0, 0), (0, 0), (0, 1), (1, 1), (1, 2), (2, 2)]);
        assert!((table.accuracy() - 4.0 / 6.0).abs() < 1e-12);
        assert!((table.f1(0) - 0.8).abs() < 1e-12);
        assert!((table.f1(1) - 0.5).abs() < 1e-12);
        assert!((table.f1(2) - 2.0 / 3.0).abs() < 1e-12);
        assert!((table.macro_f1() - (0.8 + 0.5 + 2.0 / 3.0) / 3.0).abs() < 1e-12);
        assert!((table.weighted_f1() - (0.8 * 3.0 + 0.5 * 2.0 + 2.0 / 3.0) / 6.0).abs() < 1e-12);
        assert!((table.mcc() - 12.0 / (24.0f64 * 22.0).sqrt()).abs() < 1e-12);
    }

    /// scikit-learn 1.9: `f1_score(average="macro")`, `f1_score(average="weighted")`, `matthews_corrcoef`. In the
    /// second case a class is predicted that is never true.
    #[test]
    fn scores_equal_scikit_learn() {
        let first = [(0, 0), (0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 2), (2, 0), (2, 2), (1, 1)];
        let second = [(0, 0), (0, 2), (1, 1), (1, 1), (1, 0)];
        let cases = [
            (first.as_slice(), [0.694_444_444_444_444_3, 0.7, 0.545_454_545_454_545_4]),
            (second.as_slice(), [0.433_333_333_333_333_35, 0.68, 0.360_843_918_243_516_14]),
        ];
        for (pairs, expected) in cases {
            let table = table(pairs);
            for (found, expected) in [table.macro_f1(), table.weighted_f1(), table.mcc()].into_iter().zip(expected) {
                assert!((found - expected).abs() < 1e-12, "{pairs:?}: {found} and not {expected}");
            }
        }
    }

    #[test]
    fn without_change_there_is_no_correlation() {
        assert_eq!((table(&[(0, 0), (1, 0)]).mcc(), table(&[]).mcc(), table(&[]).macro_f1()), (0.0, 0.0, 0.0));
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
