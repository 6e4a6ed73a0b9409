//! A classifier on labelled texts, and two classifiers on the same texts.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::architectures::ProblemType;
use crate::data::Example;
use crate::pipelines::{Classifier, ClassifyInput, ClassifyOptions, Pipeline, PipelineError};

use super::metrics::Confusion;

/// Texts that run together; progress is told after each.
const TEXTS_AT_ONCE: usize = 64;
const BATCH_TOKENS: usize = 4096;

/// What a classifier made of a data set.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// (truth, prediction) over the labelled examples.
    pub confusion: Confusion,
    /// The same per source, for examples that name one.
    pub by_source: BTreeMap<String, Confusion>,
    /// Class scores of every example, in the order of the classes, `[examples][classes]`.
    pub scores: Vec<Vec<f32>>,
    /// Tokens the model read.
    pub tokens: usize,
    /// Wall time of the predictions on one thread, tokenization included.
    pub seconds: f64,
}

/// Why an evaluation stopped.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// A text the pipeline refuses.
    #[error("example {example}: {source}", example = .first + 1)]
    Pipeline { first: usize, source: PipelineError },
    /// A label the model does not have.
    #[error("example {}: label \"{label}\" is not one of the model's: {}", .example + 1, .known.join(", "))]
    UnknownLabel { example: usize, label: String, known: Vec<String> },
    /// Scores for this kind of head are not defined here.
    #[error("the model has a {0:?} head; accuracy is defined for heads that choose one label")]
    ProblemType(ProblemType),
    /// Nothing to compare with.
    #[error("no example has a label; accuracy needs a \"label\" column")]
    NoLabels,
}

/// Classifies every example and counts the labelled ones; `progress` hears how many are done.
///
/// # Errors
/// [`EvalError`] naming the example.
pub fn evaluate(
    classifier: &Classifier,
    examples: &[Example],
    mut progress: impl FnMut(usize),
) -> Result<Evaluation, EvalError> {
    if classifier.problem_type != ProblemType::SingleLabel {
        return Err(EvalError::ProblemType(classifier.problem_type));
    }
    let classes = classifier.labels.len();
    let index_of = |label: &str| classifier.labels.iter().position(|l| l == label);
    let (mut confusion, mut by_source) = (Confusion::new(classes), BTreeMap::new());
    let (mut scores, mut tokens, mut seconds) = (Vec::with_capacity(examples.len()), 0, 0.0);
    for (chunk_index, chunk) in examples.chunks(TEXTS_AT_ONCE).enumerate() {
        let first = chunk_index * TEXTS_AT_ONCE;
        let inputs = chunk.iter().map(|e| ClassifyInput { text: e.text.clone(), text_pair: e.text_pair.clone() });
        let started = Instant::now();
        let answers = classifier
            .run(inputs.collect(), &ClassifyOptions::default(), BATCH_TOKENS)
            .map_err(|source| EvalError::Pipeline { first, source })?;
        seconds += started.elapsed().as_secs_f64();
        for (offset, (example, answer)) in chunk.iter().zip(answers).enumerate() {
            tokens += answer.tokens;
            let mut row = vec![0.0; classes];
            for score in &answer.scores {
                row[index_of(&score.label).expect("the classifier's own label")] = score.score;
            }
            scores.push(row);
            let Some(label) = &example.label else { continue };
            let (label, predicted) = (label.to_string(), &answer.best().label);
            let Some(truth) = index_of(&label) else {
                return Err(EvalError::UnknownLabel {
                    example: first + offset,
                    label,
                    known: classifier.labels.clone(),
                });
            };
            let predicted = index_of(predicted).expect("the classifier's own label");
            confusion.add(truth, predicted);
            if let Some(source) = &example.source {
                by_source.entry(source.clone()).or_insert_with(|| Confusion::new(classes)).add(truth, predicted);
            }
        }
        progress(scores.len());
    }
    if confusion.total() == 0 {
        return Err(EvalError::NoLabels);
    }
    Ok(Evaluation { confusion, by_source, scores, tokens, seconds })
}

/// How often two models predict the same class.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreement {
    /// Share of examples with the same class, 0..1: accuracy can differ by at most one minus it.
    pub share: f64,
    /// For each example whose class differs: how undecided the reference was, its best score minus its second best.
    pub flip_margins: Vec<f32>,
}

/// Compares class scores of two models on the same examples; the second is the reference.
///
/// # Panics
/// When they differ in number.
pub fn agreement(scores: &[Vec<f32>], reference: &[Vec<f32>]) -> Agreement {
    assert_eq!(scores.len(), reference.len(), "two models need the same examples to be compared");
    let flips = scores.iter().zip(reference).filter(|(a, b)| best(a) != best(b));
    let flip_margins: Vec<f32> = flips.map(|(_, b)| margin(b)).collect();
    Agreement { share: 1.0 - flip_margins.len() as f64 / scores.len().max(1) as f64, flip_margins }
}

/// Index of the largest score; the first of equals.
pub fn best(scores: &[f32]) -> usize {
    (0..scores.len()).rev().max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap_or(0)
}

/// The largest score minus the second largest.
fn margin(scores: &[f32]) -> f32 {
    let mut sorted = scores.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    sorted[0] - sorted.get(1).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_counts_flips_and_tells_the_margin_of_the_reference() {
        let int8 = [vec![0.6, 0.4], vec![0.45, 0.55], vec![0.9, 0.1], vec![0.2, 0.8]];
        let f32 = [vec![0.7, 0.3], vec![0.52, 0.48], vec![0.8, 0.2], vec![0.1, 0.9]];
        let found = agreement(&int8, &f32);
        assert_eq!(found.share, 0.75);
        assert_eq!(found.flip_margins.len(), 1);
        assert!((found.flip_margins[0] - 0.04).abs() < 1e-6);
    }

    #[test]
    fn the_first_of_equal_scores_is_best() {
        assert_eq!(best(&[0.5, 0.5]), 0);
        assert_eq!(best(&[0.1, 0.5, 0.5]), 1);
    }
}
