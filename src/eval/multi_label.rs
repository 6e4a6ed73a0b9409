//! Several labels per text: F1 over all of them, and the thresholds that are best.

use std::ops::AddAssign;

use super::metrics::ratio;

/// How often a label was given and true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Given and true.
    pub hits: u64,
    /// Given and not true.
    pub false_alarms: u64,
    /// True and not given.
    pub misses: u64,
}

impl Counts {
    /// Of what was given, the share that is true; 0 when nothing was given.
    pub fn precision(&self) -> f64 {
        ratio(self.hits as f64, (self.hits + self.false_alarms) as f64)
    }

    /// Of what is true, the share that was given; 0 when nothing is true.
    pub fn recall(&self) -> f64 {
        ratio(self.hits as f64, (self.hits + self.misses) as f64)
    }

    /// Harmonic mean of both; 0 when there was no hit.
    pub fn f1(&self) -> f64 {
        ratio(2.0 * self.hits as f64, (2 * self.hits + self.false_alarms + self.misses) as f64)
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.hits += other.hits;
        self.false_alarms += other.false_alarms;
        self.misses += other.misses;
    }
}

/// Given and true labels of texts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MultiLabel {
    /// By label.
    pub labels: Vec<Counts>,
    /// By text: whether exactly the true labels were given.
    pub exact: Vec<bool>,
}

impl MultiLabel {
    /// Compares which labels were given with those that are true, both `[texts][labels]`.
    pub fn count<'a>(labels: usize, texts: impl Iterator<Item = (&'a [bool], &'a [bool])>) -> Self {
        let mut found = MultiLabel { labels: vec![Counts::default(); labels], exact: Vec::new() };
        for (given, truth) in texts {
            for ((counts, given), truth) in found.labels.iter_mut().zip(given).zip(truth) {
                *counts += match (given, truth) {
                    (true, true) => Counts { hits: 1, ..Counts::default() },
                    (true, false) => Counts { false_alarms: 1, ..Counts::default() },
                    (false, true) => Counts { misses: 1, ..Counts::default() },
                    (false, false) => Counts::default(),
                };
            }
            found.exact.push(given == truth);
        }
        found
    }

    /// F1 of all labels as one (scikit-learn, `average="micro"`).
    pub fn micro_f1(&self) -> f64 {
        let mut all = Counts::default();
        self.labels.iter().for_each(|counts| all += *counts);
        all.f1()
    }

    /// Mean of the labels' F1 (scikit-learn, `average="macro"`).
    pub fn macro_f1(&self) -> f64 {
        ratio(self.labels.iter().map(Counts::f1).sum(), self.labels.len() as f64)
    }

    /// Texts that got exactly their labels.
    pub fn exact_texts(&self) -> u64 {
        self.exact.iter().filter(|exact| **exact).count() as u64
    }
}

/// What a threshold is chosen for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Aim {
    /// The best F1.
    F1,
    /// The best recall at this precision or a better one, 0..1.
    Precision(f64),
}

/// A threshold, and what it does on the texts that it was fitted on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    /// The label is given from this score on.
    pub value: f32,
    /// With this threshold.
    pub counts: Counts,
}

/// The best threshold for one label's scores, 0..1, beside whether it is true. Of equally good ones the highest,
/// halfway to the next score below. None when the label is never true, or when no threshold reaches the precision.
///
/// # Panics
/// When the lists differ in length.
pub fn fit_threshold(scores: &[f32], truths: &[bool], aim: Aim) -> Option<Threshold> {
    assert_eq!(scores.len(), truths.len(), "one truth per score");
    let positives = truths.iter().filter(|t| **t).count() as u64;
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let mut counts = Counts { misses: positives, ..Counts::default() };
    let mut best: Option<(f64, Threshold)> = None;
    let mut groups = order.chunk_by(|a, b| scores[*a] == scores[*b]).peekable();
    while let Some(equal) = groups.next() {
        let hits = equal.iter().filter(|i| truths[**i]).count() as u64;
        counts.hits += hits;
        counts.misses -= hits;
        counts.false_alarms += equal.len() as u64 - hits;
        let worth = match aim {
            Aim::F1 => counts.f1(),
            Aim::Precision(least) if counts.precision() >= least => counts.recall(),
            Aim::Precision(_) => 0.0,
        };
        if worth > best.map_or(0.0, |(worth, _)| worth) {
            let score = scores[equal[0]];
            let below = groups.peek().map_or(0.0, |next| scores[next[0]]);
            // Never below: the middle of two neighbours may be the lower one.
            let value = if (score + below) / 2.0 > below { (score + below) / 2.0 } else { score };
            best = Some((worth, Threshold { value, counts }));
        }
    }
    best.map(|(_, threshold)| threshold)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// scikit-learn 1.9: `f1_score(truth, given, average=...)`, `accuracy_score(truth, given)`.
    #[test]
    fn scores_equal_scikit_learn() {
        let given = [[true, false, true], [true, true, false], [false, false, false], [true, false, false]];
        let truth = [[true, false, false], [true, true, false], [false, true, false], [false, false, true]];
        let found = MultiLabel::count(3, given.iter().map(|g| g.as_slice()).zip(truth.iter().map(|t| t.as_slice())));
        // Label 0: 2 hits, 1 false alarm. Label 1: 1 hit, 1 miss. Label 2: 1 false alarm, 1 miss.
        assert!((found.micro_f1() - 6.0 / 10.0).abs() < 1e-12);
        assert!((found.macro_f1() - (0.8 + 2.0 / 3.0) / 3.0).abs() < 1e-12);
        assert_eq!((found.exact_texts(), found.exact.as_slice()), (1, [false, true, false, false].as_slice()));
        assert!((found.labels[0].precision() - 2.0 / 3.0).abs() < 1e-12 && found.labels[0].recall() == 1.0);
    }

    const SCORES: [f32; 6] = [0.9, 0.8, 0.6, 0.4, 0.3, 0.1];
    const TRUTHS: [bool; 6] = [true, true, false, true, false, false];

    /// By hand: F1 from 0.9 down is 1/2, 4/5, 2/3, 6/7, 3/4, 2/3.
    #[test]
    fn the_threshold_with_the_best_f1_is_found() {
        let found = fit_threshold(&SCORES, &TRUTHS, Aim::F1).unwrap();
        assert!((found.value - 0.35).abs() < 1e-6, "{found:?}");
        assert_eq!(found.counts, Counts { hits: 3, false_alarms: 1, misses: 0 });
    }

    #[test]
    fn a_precision_is_met_with_the_best_recall() {
        let found = fit_threshold(&SCORES, &TRUTHS, Aim::Precision(0.9)).unwrap();
        assert!((found.value - 0.7).abs() < 1e-6 && found.counts.hits == 2, "{found:?}");
        assert_eq!(fit_threshold(&[0.9, 0.1], &[false, true], Aim::Precision(0.9)), None);
    }

    #[test]
    fn the_threshold_parts_what_it_says() {
        for aim in [Aim::F1, Aim::Precision(0.5)] {
            let scores = [0.5f32, 0.5f32.next_down(), 0.5, 0.2];
            let found = fit_threshold(&scores, &[true, false, true, false], aim).unwrap();
            let given = scores.iter().filter(|s| **s >= found.value).count() as u64;
            assert_eq!(given, found.counts.hits + found.counts.false_alarms, "{found:?}");
        }
        assert_eq!(fit_threshold(&[0.9], &[false], Aim::F1), None, "never true");
        assert_eq!(fit_threshold(&[], &[], Aim::F1), None);
    }
}
