//! Live accuracy of one model: how it compares with its float original, with labels that users send, and with what it read
//! when it was measured. Windows are turned into gauges when metrics are scraped.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::catalogue::Families;
use super::metrics::MAX_LABELS;
use super::statistics::{ConfidenceBin, calibration_error, psi, wilson_upper};
use super::window::Recent;

/// Bins of equal width that confidences of labelled answers are sorted into (Guo et al. 2017 use 15).
const CONFIDENCE_BINS: usize = 15;

/// Labelled answers with a confidence without which the calibration error is not told: it is too high by chance.
const MIN_CALIBRATION_LABELS: u64 = 100;

/// Confidences are counted in these parts of one.
const CONFIDENCE_UNIT: f64 = 1e6;

/// Counts in bins without gaps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bins {
    /// Borders, rising; bin `i` counts `edges[i - 1] < x <= edges[i]`.
    pub edges: Vec<f64>,
    /// One more than edges.
    pub counts: Vec<u64>,
}

/// What a model read and answered when it was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReferenceFacts {
    /// Predictions of each class, in the order of the labels; none when it chooses no class.
    pub labels: Option<Vec<u64>>,
    /// Scores of the predicted classes; none when it chooses no class.
    pub confidence: Option<Bins>,
    /// Tokens of the inputs.
    pub tokens: Bins,
}

/// What a model's float original says is compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShadowKind {
    /// The labels that are chosen.
    Labels,
    /// Numbers: a regression.
    Numbers,
    /// Vectors.
    Vectors,
}

/// How one served answer compares with the one of the float original.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Comparison {
    /// Of a model that chooses labels.
    Labels {
        /// Whether both choose the same ones.
        agrees: bool,
        /// Largest absolute difference between two logits.
        logit_error: f64,
        /// Largest absolute difference between two scores.
        score_error: f64,
    },
    /// Of a regression: the largest absolute difference of a number.
    Numbers {
        /// In the unit of the outputs.
        error: f64,
    },
    /// Of vectors.
    Vectors {
        /// One minus the cosine of the angle between them.
        cosine_distance: f64,
    },
}

/// Why an answer that was chosen for a comparison was not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShadowDrop {
    /// As many as allowed wait already.
    QueueFull,
    /// The server shuts down.
    Draining,
    /// The float original panicked, or gave NaN or infinity.
    Failed,
}

impl ShadowDrop {
    /// Every reason.
    pub const ALL: [ShadowDrop; 3] = [ShadowDrop::QueueFull, ShadowDrop::Draining, ShadowDrop::Failed];

    /// Value of the label `reason`.
    pub fn name(self) -> &'static str {
        match self {
            ShadowDrop::QueueFull => "queue_full",
            ShadowDrop::Draining => "draining",
            ShadowDrop::Failed => "failed",
        }
    }
}

/// A label that somebody sent for an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Labelled<'a> {
    /// What the model chose.
    pub predicted: &'a str,
    /// What is right.
    pub actual: &'a str,
    /// Score of the choice, when it is a probability.
    pub confidence: Option<f32>,
}

/// One signal that may drift away from its reference.
struct Signal {
    name: &'static str,
    /// Empty for classes, which are their own bins.
    edges: Vec<f64>,
    reference: Vec<u64>,
    recent: Recent,
}

impl Signal {
    fn new(name: &'static str, edges: Vec<f64>, reference: Vec<u64>, now: Instant) -> Self {
        Signal { name, recent: Recent::new(now, reference.len()), edges, reference }
    }

    fn add(&mut self, now: Instant, value: f64) {
        self.recent.add(now, &[(self.edges.partition_point(|edge| *edge < value), 1)]);
    }
}

/// What is counted about one model over the last hour and day.
struct Counts {
    /// Compared, and of these agreed.
    shadow: Recent,
    /// Labelled, and of these right; then for each confidence bin: labelled, right, sum of confidences.
    feedback: Recent,
    label: Option<Signal>,
    confidence: Option<Signal>,
    length: Option<Signal>,
}

/// Live accuracy of one model.
pub(super) struct Live {
    model: String,
    version: String,
    /// How it is compared with its float original, if it is.
    shadow: Option<ShadowKind>,
    /// How much accuracy quantization may cost, 0 to 1.
    max_loss: f64,
    /// Whether answers can be labelled.
    feedback: bool,
    /// Labels of the confusion table; none when it is not kept.
    confusion: Vec<String>,
    counts: Mutex<Counts>,
}

impl Live {
    /// Makes every series that the model will have, at zero or NaN.
    pub(super) fn new(f: &Families, facts: &super::ModelFacts) -> Self {
        let now = Instant::now();
        let (model, version) = (facts.id.clone(), facts.version.clone());
        let reference = facts.reference.clone().unwrap_or_default();
        let binned = |name, bins: Bins| Signal::new(name, bins.edges, bins.counts, now);
        let counts = Counts {
            shadow: Recent::new(now, 2),
            feedback: Recent::new(now, 2 + 3 * CONFIDENCE_BINS),
            label: reference
                .labels
                .filter(|counts| !counts.is_empty())
                .map(|counts| Signal::new("label", Vec::new(), shown_classes(counts), now)),
            confidence: reference.confidence.map(|bins| binned("confidence", bins)),
            length: facts.reference.is_some().then(|| binned("length", reference.tokens)),
        };
        let confusion = if facts.confusion { facts.labels.clone() } else { Vec::new() };
        let live = Live {
            shadow: facts.shadow,
            max_loss: facts.max_loss,
            feedback: facts.feedback,
            confusion,
            counts: Mutex::new(counts),
            model,
            version,
        };
        live.make_series(f);
        live
    }

    fn make_series(&self, f: &Families) {
        let of_version = [self.model.as_str(), self.version.as_str()];
        if let Some(kind) = self.shadow {
            f.shadow_comparisons.with(&of_version);
            for reason in ShadowDrop::ALL {
                f.shadow_dropped.with(&[&self.model, &self.version, reason.name()]);
            }
            match kind {
                ShadowKind::Labels => {
                    f.shadow_limit.with(&[&self.model]).set(self.max_loss);
                    f.shadow_agreements.with(&of_version);
                    f.shadow_logit_error.with(&of_version);
                    f.shadow_score_error.with(&of_version);
                }
                ShadowKind::Numbers => drop(f.shadow_logit_error.with(&of_version)),
                ShadowKind::Vectors => drop(f.shadow_cosine_distance.with(&of_version)),
            }
        }
        if self.feedback {
            for correct in ["true", "false"] {
                f.feedback.with(&[&self.model, &self.version, correct]);
            }
        }
        for predicted in &self.confusion {
            for actual in &self.confusion {
                f.feedback_confusion.with(&[&self.model, predicted, actual]);
            }
        }
        self.refresh(f, Instant::now());
    }

    /// One answer of the float original beside the served one.
    pub(super) fn compared(&self, f: &Families, now: Instant, comparison: Comparison) {
        let labels = [self.model.as_str(), self.version.as_str()];
        f.shadow_comparisons.with(&labels).inc();
        match comparison {
            Comparison::Labels { agrees, logit_error, score_error } => {
                f.shadow_agreements.with(&labels).inc_by(u64::from(agrees));
                f.shadow_logit_error.with(&labels).observe(logit_error);
                f.shadow_score_error.with(&labels).observe(score_error);
                self.counts().shadow.add(now, &[(0, 1), (1, u64::from(agrees))]);
            }
            Comparison::Numbers { error } => f.shadow_logit_error.with(&labels).observe(error),
            Comparison::Vectors { cosine_distance } => f.shadow_cosine_distance.with(&labels).observe(cosine_distance),
        }
    }

    /// An answer that was to be compared and was not.
    pub(super) fn not_compared(&self, f: &Families, reason: ShadowDrop) {
        f.shadow_dropped.with(&[&self.model, &self.version, reason.name()]).inc();
    }

    /// One label for one answer.
    pub(super) fn labelled(&self, f: &Families, now: Instant, label: Labelled<'_>) {
        let Labelled { predicted, actual, confidence } = label;
        let correct = predicted == actual;
        f.feedback.with(&[&self.model, &self.version, if correct { "true" } else { "false" }]).inc();
        if !self.confusion.is_empty() {
            f.feedback_confusion.with(&[&self.model, predicted, actual]).inc();
        }
        let mut counts = vec![(0, 1), (1, u64::from(correct))];
        if let Some(confidence) = confidence.map(f64::from) {
            let bin = ((confidence * CONFIDENCE_BINS as f64) as usize).min(CONFIDENCE_BINS - 1);
            let first = 2 + 3 * bin;
            let amount = (confidence * CONFIDENCE_UNIT).round() as u64;
            counts.extend([(first, 1), (first + 1, u64::from(correct)), (first + 2, amount)]);
        }
        self.counts().feedback.add(now, &counts);
    }

    /// One classified input: which class, and its score when that can be compared with the reference.
    pub(super) fn predicted(&self, now: Instant, class: Option<usize>, confidence: Option<f32>, tokens: usize) {
        let Counts { label, confidence: scores, length, .. } = &mut *self.counts();
        if let (Some(signal), Some(class)) = (label, class) {
            let class = class.min(signal.reference.len() - 1);
            signal.recent.add(now, &[(class, 1)]);
        }
        if let (Some(signal), Some(confidence)) = (scores, confidence) {
            signal.add(now, f64::from(confidence));
        }
        if let Some(signal) = length {
            signal.add(now, tokens as f64);
        }
    }

    /// Sets the gauges of the windows as they are `now`.
    pub(super) fn refresh(&self, f: &Families, now: Instant) {
        let (model, version) = (self.model.as_str(), self.version.as_str());
        let Counts { shadow, feedback, label, confidence, length } = &mut *self.counts();
        if self.shadow == Some(ShadowKind::Labels) {
            for (window, counts) in shadow.totals(now) {
                let (compared, agreed) = (counts[0], counts[1]);
                f.shadow_agreement.with(&[model, version, window]).set(agreed as f64 / compared as f64);
                f.shadow_bound.with(&[model, version, window]).set(wilson_upper(compared - agreed, compared));
            }
        }
        if self.feedback {
            for (window, counts) in feedback.totals(now) {
                f.feedback_accuracy.with(&[model, version, window]).set(counts[1] as f64 / counts[0] as f64);
                let error = feedback_calibration(&counts[2..]);
                f.feedback_calibration.with(&[model, version, window]).set(error);
            }
        }
        for signal in [label, confidence, length].into_iter().flatten() {
            for (window, counts) in signal.recent.totals(now) {
                f.drift.with(&[model, signal.name, window]).set(psi(&counts, &signal.reference));
            }
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Classes after the first [`MAX_LABELS`] count together, as they do in `octet_predictions_total`.
fn shown_classes(mut counts: Vec<u64>) -> Vec<u64> {
    if counts.len() > MAX_LABELS {
        let others = counts[MAX_LABELS..].iter().sum();
        counts.truncate(MAX_LABELS);
        counts.push(others);
    }
    counts
}

/// Calibration error of labelled, right and summed confidence of each bin; NaN with too few labels.
fn feedback_calibration(counts: &[u64]) -> f64 {
    let bins: Vec<ConfidenceBin> = counts
        .chunks_exact(3)
        .map(|c| ConfidenceBin { count: c[0], correct: c[1], confidence: c[2] as f64 / CONFIDENCE_UNIT })
        .collect();
    let enough = bins.iter().map(|bin| bin.count).sum::<u64>() >= MIN_CALIBRATION_LABELS;
    if enough { calibration_error(&bins) } else { f64::NAN }
}
