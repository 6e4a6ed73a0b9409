//! Classifiers on labelled texts, and two of them on the same texts.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::data::Example;
use crate::pipelines::{Classifier, ClassifyInput, ClassifyOptions, OutputActivation, Pipeline, PipelineError};

use super::calibration::{self, Calibration};
use super::metrics::Confusion;
use super::{BATCH_TOKENS, EvalError, TEXTS_AT_ONCE};

/// What a classifier computed for a set of texts.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    /// Logits by class, `[texts][classes]`.
    pub logits: Vec<Vec<f32>>,
    /// The number beside the classes, of each text; empty when the model gives none.
    pub values: Vec<f32>,
    /// Tokens the model read of each text, special tokens included.
    pub lengths: Vec<usize>,
    /// Texts that were longer than the model reads.
    pub truncated: usize,
    /// Wall time on one thread, tokenization included.
    pub seconds: f64,
}

/// Runs every example through every classifier, the classifiers taking turns; `progress` hears how many runs are done,
/// of examples times classifiers.
///
/// # Errors
/// [`EvalError::Pipeline`] with the line of a text that a classifier refuses.
pub fn run(
    classifiers: &[&Classifier],
    examples: &[Example],
    mut progress: impl FnMut(usize),
) -> Result<Vec<Outputs>, EvalError> {
    let mut all = vec![Outputs::default(); classifiers.len()];
    let options = ClassifyOptions { activation: Some(OutputActivation::None), ..ClassifyOptions::default() };
    let mut done = 0;
    for chunk in examples.chunks(TEXTS_AT_ONCE) {
        for (classifier, outputs) in classifiers.iter().zip(&mut all) {
            let inputs = chunk.iter().map(input).collect();
            let started = Instant::now();
            let answers = classifier.run(inputs, &options, BATCH_TOKENS).map_err(|source| refused(chunk, source))?;
            outputs.seconds += started.elapsed().as_secs_f64();
            for answer in answers {
                outputs.lengths.push(answer.tokens);
                outputs.values.extend(answer.value.map(|value| value.value));
                outputs.truncated += usize::from(answer.truncated);
                let mut logits = vec![0.0; classifier.labels.len()];
                for score in &answer.scores {
                    let class = classifier.labels.iter().position(|label| *label == score.label);
                    logits[class.expect("the classifier's own label")] = score.score;
                }
                outputs.logits.push(logits);
            }
            done += chunk.len();
            progress(done);
        }
    }
    Ok(all)
}

/// An example as a classifier takes it.
pub fn input(example: &Example) -> ClassifyInput {
    ClassifyInput { text: example.text.clone(), text_pair: example.text_pair.clone() }
}

/// The error of a lot of examples, with the line of the one that it names.
pub(super) fn refused(chunk: &[Example], source: PipelineError) -> EvalError {
    EvalError::Pipeline { line: chunk.get(index_of(&source)).map_or(0, |e| e.line), source }
}

/// The input that an error names; the first when it names none.
pub(super) fn index_of(error: &PipelineError) -> usize {
    match error {
        PipelineError::Empty { index }
        | PipelineError::TooLong { index, .. }
        | PipelineError::TooManySentences { index, .. }
        | PipelineError::Tokenizer { index, .. }
        | PipelineError::NotFinite { index } => *index,
        _ => 0,
    }
}

impl Outputs {
    /// Scores as the classifier serves them, `[texts][classes]`.
    pub fn scores(&self, classifier: &Classifier) -> Vec<Vec<f32>> {
        let activation = classifier.default_activation();
        self.logits.iter().map(|logits| classifier.activate(logits, activation)).collect()
    }
}

/// How a classifier that chooses one label did.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// (truth, prediction) over the labelled examples.
    pub confusion: Confusion,
    /// The same per source, for examples that name one.
    pub by_source: BTreeMap<String, Confusion>,
    /// The class of every example, labelled or not.
    pub predicted: Vec<usize>,
    /// Of the labelled examples.
    pub calibration: Calibration,
}

/// Judges scores `[examples][classes]` by the true classes; examples without one are only predicted.
///
/// # Panics
/// When the lists differ in length.
pub fn evaluate(scores: &[Vec<f32>], truths: &[Option<usize>], examples: &[Example]) -> Evaluation {
    assert!(scores.len() == truths.len() && scores.len() == examples.len(), "one truth and one row of scores each");
    let classes = scores.first().map_or(0, Vec::len);
    let predicted: Vec<usize> = scores.iter().map(|s| best(s)).collect();
    let (mut confusion, mut by_source) = (Confusion::new(classes), BTreeMap::new());
    let (mut labelled, mut labels) = (Vec::new(), Vec::new());
    for (index, truth) in truths.iter().enumerate() {
        let Some(truth) = *truth else { continue };
        confusion.add(truth, predicted[index]);
        if let Some(source) = &examples[index].source {
            let of_source = by_source.entry(source.clone()).or_insert_with(|| Confusion::new(classes));
            of_source.add(truth, predicted[index]);
        }
        labelled.push(scores[index].as_slice());
        labels.push(truth);
    }
    Evaluation { confusion, by_source, predicted, calibration: calibration::single_label(&labelled, &labels) }
}

/// Scores by a model's own classes → by those of a larger list, of which `places` tells where its own are.
pub fn spread(scores: &[Vec<f32>], places: &[usize], classes: usize) -> Vec<Vec<f32>> {
    let one = |own: &Vec<f32>| {
        let mut all = vec![0.0; classes];
        places.iter().zip(own).for_each(|(place, score)| all[*place] = *score);
        all
    };
    scores.iter().map(one).collect()
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
    fn examples_are_judged_where_they_have_a_truth() {
        let scores = [vec![0.9, 0.1], vec![0.2, 0.8], vec![0.6, 0.4]];
        let example = |source: Option<&str>| Example { source: source.map(str::to_string), ..Example::default() };
        let examples = [example(Some("a")), example(None), example(Some("a"))];
        let found = evaluate(&scores, &[Some(0), None, Some(1)], &examples);
        assert_eq!((found.confusion.total(), found.confusion.right()), (2, 1));
        assert_eq!((found.by_source["a"].total(), found.predicted.as_slice()), (2, [0, 1, 0].as_slice()));
        assert!((found.calibration.ece - (0.1 + 0.6) / 2.0).abs() < 1e-6);
    }

    #[test]
    fn scores_of_fewer_classes_are_spread_over_more() {
        assert_eq!(spread(&[vec![0.25, 0.75]], &[2, 0], 3), [vec![0.75, 0.0, 0.25]]);
    }

    #[test]
    fn the_first_of_equal_scores_is_best() {
        assert_eq!(best(&[0.5, 0.5]), 0);
        assert_eq!(best(&[0.1, 0.5, 0.5]), 1);
    }
}
