//! Sequence classification: one label, several labels, or a number per text.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::architectures::ProblemType;
use crate::checkpoint::DEFAULT_THRESHOLD;
use crate::text::Tokenizer;

use super::{Pipeline, PipelineError, Prepared, Row, SequenceModel};

/// One text, or a pair of texts, to classify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassifyInput {
    /// The text.
    pub text: String,
    /// The second text of a pair (premise and hypothesis, query and document).
    pub text_pair: Option<String>,
}

/// How logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputActivation {
    /// Scores sum to 1.
    Softmax,
    /// Each score on its own in 0..1.
    Sigmoid,
    /// The logits themselves.
    None,
}

/// Options of one classification request.
#[derive(Clone, Debug)]
pub struct ClassifyOptions {
    /// How many of the best labels to return; all when absent. At least 1.
    pub top_k: Option<usize>,
    /// Labels below this score are left out, 0..1; the model's own thresholds count when absent.
    pub threshold: Option<f32>,
    /// Overrides what the model's problem type implies.
    pub activation: Option<OutputActivation>,
    /// Whether an over-long text is cut (true) or refused (false).
    pub truncate: bool,
}

impl Default for ClassifyOptions {
    fn default() -> Self {
        ClassifyOptions { top_k: None, threshold: None, activation: None, truncate: true }
    }
}

/// One label and its score.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelScore {
    /// Class name.
    pub label: String,
    /// Probability, or logit when no activation was asked.
    pub score: f32,
}

/// A number that a model gives a text beside its classes.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedValue {
    /// What it is called, such as `valence`.
    pub name: String,
    /// In the unit of the examples that the model learned from.
    pub value: f32,
}

/// The answer for one text.
#[derive(Clone, Debug, PartialEq)]
pub struct Classification {
    /// Best first; cut by `top_k` and `threshold`, but never below the best one.
    pub scores: Vec<LabelScore>,
    /// Number of classes of the model.
    pub num_classes: usize,
    /// The number beside the classes, when the model gives one.
    pub value: Option<NamedValue>,
    /// Tokens the model read.
    pub tokens: usize,
    /// Whether the text was cut.
    pub truncated: bool,
}

impl Classification {
    /// The best label.
    pub fn best(&self) -> &LabelScore {
        &self.scores[0]
    }
}

/// Classification with one model.
pub struct Classifier {
    /// Encoder and head.
    pub model: SequenceModel,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Class names by output index.
    pub labels: Vec<String>,
    /// What the outputs mean.
    pub problem_type: ProblemType,
    /// Name of a number that is one more output, after the classes.
    pub value: Option<String>,
    /// Logits are divided by it before the activation; 1 when not calibrated.
    pub temperature: f32,
    /// Of a multi-label model: the score from which each label is given, by output index; empty when none were fitted.
    pub thresholds: Vec<f32>,
    /// Of a model with one class per text, at least three of them: the class that a text gets, by index, when no other
    /// one has this probability.
    pub fallback: Option<(usize, f32)>,
    /// Longest input in tokens, special tokens included.
    pub max_tokens: usize,
}

/// Tokens and truncation of each input.
pub struct ClassifyState {
    read: Vec<(usize, bool)>,
}

impl Pipeline for Classifier {
    type Input = ClassifyInput;
    type Options = ClassifyOptions;
    type Output = Classification;
    type State = ClassifyState;

    fn model(&self) -> &SequenceModel {
        &self.model
    }

    fn bytes(&self, input: &ClassifyInput) -> usize {
        input.text.len() + input.text_pair.as_deref().map_or(0, str::len)
    }

    fn prepare(
        &self,
        inputs: Vec<ClassifyInput>,
        options: &ClassifyOptions,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Prepared<ClassifyState>, PipelineError> {
        check_options(options)?;
        if inputs.is_empty() {
            return Err(PipelineError::NoInput);
        }
        let sequences = inputs
            .iter()
            .enumerate()
            .map(|(index, input)| {
                super::check_wanted(wanted)?;
                super::encode(
                    &self.tokenizer,
                    index,
                    &input.text,
                    input.text_pair.as_deref(),
                    self.max_tokens,
                    options.truncate,
                )
            })
            .collect::<Result<Vec<_>, _>>()?;
        let read = sequences.iter().map(|s| (s.len(), s.truncated)).collect();
        Ok(Prepared { sequences, state: ClassifyState { read } })
    }

    fn finish(
        &self,
        state: ClassifyState,
        rows: Vec<Row>,
        options: &ClassifyOptions,
    ) -> Result<Vec<Classification>, PipelineError> {
        let answers = rows.into_iter().zip(state.read).enumerate();
        answers
            .map(|(index, (logits, (tokens, truncated)))| {
                if logits.iter().any(|x| !x.is_finite()) {
                    return Err(PipelineError::NotFinite { index });
                }
                Ok(Classification {
                    scores: self.scores(&logits, options),
                    num_classes: self.labels.len(),
                    value: self.value(&logits),
                    tokens,
                    truncated,
                })
            })
            .collect()
    }
}

impl Classifier {
    /// What `activation` defaults to (transformers, `pipelines/text_classification.py`).
    pub fn default_activation(&self) -> OutputActivation {
        match self.problem_type {
            ProblemType::Regression => OutputActivation::None,
            ProblemType::MultiLabel => OutputActivation::Sigmoid,
            ProblemType::SingleLabel if self.labels.len() == 1 => OutputActivation::Sigmoid,
            ProblemType::SingleLabel => OutputActivation::Softmax,
        }
    }

    /// The number among a model's outputs, when there is one.
    fn value(&self, outputs: &[f32]) -> Option<NamedValue> {
        self.value.as_ref().map(|name| NamedValue { name: name.clone(), value: outputs[self.labels.len()] })
    }

    /// Outputs, the logits of the classes first → values by class: divided by the temperature and put through the
    /// activation.
    pub fn activate(&self, outputs: &[f32], activation: OutputActivation) -> Vec<f32> {
        let logits = &outputs[..self.labels.len()];
        let scaled = logits.iter().map(|x| x / self.temperature);
        match activation {
            OutputActivation::None => logits.to_vec(),
            OutputActivation::Sigmoid => scaled.map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
            OutputActivation::Softmax => {
                let scaled: Vec<f32> = scaled.collect();
                let max = scaled.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let exp: Vec<f32> = scaled.iter().map(|x| (x - max).exp()).collect();
                let sum: f32 = exp.iter().sum();
                let mut probabilities: Vec<f32> = exp.into_iter().map(|x| x / sum).collect();
                self.fall_back(&mut probabilities);
                probabilities
            }
        }
    }

    /// Where no class but the fallback is likely enough, the fallback counts as much as all others together: 0.5, so it
    /// is the best, and the probabilities still sum to 1.
    fn fall_back(&self, probabilities: &mut [f32]) {
        let Some((fallback, threshold)) = self.fallback else { return };
        let others = || probabilities.iter().enumerate().filter(|(class, _)| *class != fallback).map(|(_, p)| *p);
        let (best, sum) = (others().fold(0.0, f32::max), others().sum::<f32>());
        if best < threshold && probabilities[fallback] < 0.5 {
            for p in probabilities.iter_mut() {
                *p *= 0.5 / sum;
            }
            probabilities[fallback] = 0.5;
        }
    }

    /// The classes that these logits, `[classes]`, give, by rising index: the best one, or where scores do not sum to 1
    /// each from its threshold on (0.5 when none was fitted). None for a regression.
    pub fn chosen(&self, logits: &[f32]) -> Vec<usize> {
        let activation = self.default_activation();
        let scores = self.activate(logits, activation);
        match activation {
            OutputActivation::None => Vec::new(),
            // The first of equal ones, as in the order of an answer.
            OutputActivation::Softmax => {
                (0..scores.len()).rev().max_by(|a, b| scores[*a].total_cmp(&scores[*b])).into_iter().collect()
            }
            OutputActivation::Sigmoid => {
                let threshold = |class: usize| self.thresholds.get(class).copied().unwrap_or(DEFAULT_THRESHOLD);
                (0..scores.len()).filter(|class| scores[*class] >= threshold(*class)).collect()
            }
        }
    }

    /// The fitted thresholds by label; empty when there are none.
    pub fn thresholds_by_label(&self) -> BTreeMap<String, f32> {
        self.labels.iter().cloned().zip(self.thresholds.iter().copied()).collect()
    }

    /// The score from which class `class` is given: what the request says, or what was fitted for the model.
    fn threshold(&self, class: usize, activation: OutputActivation, options: &ClassifyOptions) -> Option<f32> {
        let fitted = self.problem_type == ProblemType::MultiLabel && activation == OutputActivation::Sigmoid;
        options.threshold.or_else(|| self.thresholds.get(class).copied().filter(|_| fitted))
    }

    /// Logits, `[classes]` → labels with scores, best first; equal scores keep the order of the classes.
    fn scores(&self, logits: &[f32], options: &ClassifyOptions) -> Vec<LabelScore> {
        let activation = options.activation.unwrap_or_else(|| self.default_activation());
        let mut scores: Vec<(usize, f32)> = self.activate(logits, activation).into_iter().enumerate().collect();
        scores.sort_by(|a, b| b.1.total_cmp(&a.1));
        let best = scores[..1].to_vec();
        scores.retain(|(class, score)| self.threshold(*class, activation, options).is_none_or(|t| *score >= t));
        if scores.is_empty() {
            scores = best;
        }
        scores.truncate(options.top_k.unwrap_or(usize::MAX));
        scores.into_iter().map(|(class, score)| LabelScore { label: self.labels[class].clone(), score }).collect()
    }
}

fn check_options(options: &ClassifyOptions) -> Result<(), PipelineError> {
    let invalid = |param, message: String| Err(PipelineError::InvalidOption { param, message });
    if options.top_k == Some(0) {
        return invalid("top_k", "found 0, must be at least 1".into());
    }
    match options.threshold {
        Some(t) if !(0.0..=1.0).contains(&t) => invalid("threshold", format!("found {t}, must be between 0 and 1")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::kernels::Kernels;
    use crate::pipelines::{Loader, Precision};

    /// The small multi-label model with these thresholds, and what it makes of logits for the scores 0.9, 0.6 and 0.2.
    fn given(thresholds: &[f32], options: &ClassifyOptions) -> Vec<f32> {
        let path = Path::new("tests/goldens/distilbert-multilabel");
        let model = Loader::new(Kernels::detect(), Precision::Int8).load("golden", path).unwrap();
        let mut classifier = Arc::into_inner(model.classifier.unwrap()).unwrap();
        classifier.thresholds = thresholds.to_vec();
        let mut logits: Vec<f32> = [0.9f32, 0.6, 0.2].map(|p| (p / (1.0 - p)).ln()).to_vec();
        logits.resize(classifier.labels.len(), -20.0);
        classifier.scores(&logits, options).iter().map(|s| (100.0 * s.score).round() / 100.0).collect()
    }

    #[test]
    fn labels_are_given_from_their_thresholds_unless_the_request_has_its_own() {
        let options = |threshold| ClassifyOptions { threshold, top_k: Some(3), ..ClassifyOptions::default() };
        let mut fitted = vec![0.95, 0.5, 0.1];
        fitted.resize(4, 0.5);
        assert_eq!(given(&[], &options(None)), [0.9, 0.6, 0.2]);
        assert_eq!(given(&fitted, &options(None)), [0.6, 0.2], "a label below its own threshold is left out");
        assert_eq!(given(&fitted, &options(Some(0.5))), [0.9, 0.6], "the request's threshold counts alone");
        assert_eq!(given(&fitted, &options(Some(0.0))), [0.9, 0.6, 0.2]);
        assert_eq!(given(&[1.0; 4], &options(None)), [0.9], "the best one stays");
    }

    #[test]
    fn the_fallback_is_best_where_nothing_else_is_likely() {
        let model = Loader::new(Kernels::detect(), Precision::Int8).load("sentiment", Path::new("models/sentiment"));
        let mut classifier = Arc::into_inner(model.unwrap().classifier.unwrap()).unwrap();
        classifier.temperature = 1.0;
        let probabilities = |classifier: &Classifier, given: [f32; 3]| {
            let mut logits = given.map(f32::ln).to_vec();
            logits.resize(classifier.labels.len() + usize::from(classifier.value.is_some()), 0.0);
            let found = classifier.activate(&logits, OutputActivation::Softmax);
            (found.iter().map(|p| (1000.0 * p).round() / 1000.0).collect::<Vec<_>>(), classifier.chosen(&logits))
        };
        assert_eq!(probabilities(&classifier, [0.5, 0.1, 0.4]), (vec![0.5, 0.1, 0.4], vec![0]));
        classifier.fallback = Some((1, 0.6));
        assert_eq!(probabilities(&classifier, [0.5, 0.1, 0.4]), (vec![0.278, 0.5, 0.222], vec![1]), "not sure enough");
        assert_eq!(probabilities(&classifier, [0.7, 0.1, 0.2]), (vec![0.7, 0.1, 0.2], vec![0]), "sure enough");
        assert_eq!(probabilities(&classifier, [0.2, 0.7, 0.1]), (vec![0.2, 0.7, 0.1], vec![1]), "the best by itself");
    }
}
