//! How much a candidate's answers differ from those of its float original, on the same texts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Tensor;

use crate::architectures::{Encoder, RaggedBatch};
use crate::nn::CandleEncoder;
use crate::pipelines::{ClassifyInput, ClassifyOptions, EmbedOptions, Head, Model, OutputActivation, Pipeline};
use crate::pipelines::{Prepared, Row, SequenceModel};

use super::QuantizeError;
use super::sensitivity::over_batches;

/// Tokens that run together.
const BATCH_TOKENS: usize = 1024;
/// Outputs of a regression agree when they differ by at most this share of the standard deviation of the float outputs.
const REGRESSION_SLACK: f64 = 0.1;

/// What the rows of a model mean, and so when two of them agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// Scores of one of several labels: the best label is the same.
    Labels,
    /// Logits of labels that hold or not: each label is on the same side of 0, which is a probability of one half.
    LabelSets,
    /// Numbers: they differ by at most a tenth of the standard deviation of the float ones.
    Numbers,
    /// Sentence vectors: agreement is the mean cosine.
    Vectors,
}

/// How close a candidate is to the float model, over all texts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Texts whose answer is the same, as a share; for sentence vectors the mean cosine. This is what bounds are about.
    pub agreement: f64,
    /// Mean Kullback-Leibler divergence `KL(p_float || p_candidate)` of label probabilities in nats; for other answers
    /// the mean of `1 - cosine` of the rows. Smoother than agreement, so sensitivity is ranked by it.
    pub divergence: f64,
    /// Mean squared error of the rows (logits or vectors).
    pub mse: f64,
    /// Signal to noise of the rows in dB; none without noise.
    pub sqnr_db: Option<f64>,
    /// Mean cosine of the rows.
    pub cosine: f64,
    /// Largest difference of two numbers in the rows.
    pub max_abs: f64,
}

/// Texts, tokenized once, and what the float model says to them.
pub struct Judge {
    batches: Vec<RaggedBatch>,
    head: Arc<Head>,
    answers: Answers,
    /// Numbers of a row that are compared: a head may give one more beside its classes.
    compared: usize,
    reference: Vec<Row>,
}

impl Judge {
    /// Tokenizes the texts as `model` does, and runs the float `encoder` under its head over them, in batches on
    /// several threads; `progress` hears how many batches are done, and of how many.
    ///
    /// # Errors
    /// The pipeline's, for the text it refuses; those of [`CandleEncoder::hidden_states`].
    pub fn new(
        model: &Model,
        encoder: &CandleEncoder,
        texts: &[ClassifyInput],
        threads: usize,
        progress: impl Fn(usize, usize) + Sync,
    ) -> Result<Self, QuantizeError> {
        let (sequences, head, answers) = match (&model.classifier, &model.embedder) {
            (Some(classifier), _) => {
                let Prepared { sequences, .. } =
                    classifier.prepare(texts.to_vec(), &ClassifyOptions::default(), &|| true)?;
                let answers = match classifier.default_activation() {
                    OutputActivation::Softmax => Answers::Labels,
                    OutputActivation::Sigmoid => Answers::LabelSets,
                    OutputActivation::None => Answers::Numbers,
                };
                (sequences, &classifier.model.head, answers)
            }
            (None, Some(embedder)) => {
                let texts = texts.iter().map(|input| input.text.clone()).collect();
                let Prepared { sequences, .. } = embedder.prepare(texts, &EmbedOptions::default(), &|| true)?;
                (sequences, &embedder.model.head, Answers::Vectors)
            }
            (None, None) => unreachable!("a model classifies or embeds"),
        };
        let mut batches: Vec<RaggedBatch> = Vec::new();
        for sequence in &sequences {
            match batches.last_mut().filter(|batch| batch.tokens() + sequence.len() <= BATCH_TOKENS) {
                Some(batch) => batch.push(&sequence.ids, &sequence.type_ids),
                None => {
                    let mut batch = RaggedBatch::new();
                    batch.push(&sequence.ids, &sequence.type_ids);
                    batches.push(batch);
                }
            }
        }
        let classes = model.classifier.as_ref().map_or(0, |classifier| classifier.labels.len());
        let compared = if matches!(answers, Answers::Labels | Answers::LabelSets) { classes } else { usize::MAX };
        let mut judge = Judge { batches, head: head.clone(), answers, compared, reference: Vec::new() };
        let (done, total) = (AtomicUsize::new(0), judge.batches.len());
        judge.reference = judge.rows_of_float(encoder, threads, &|| {
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
        })?;
        Ok(judge)
    }

    /// What the answers are.
    pub fn answers(&self) -> Answers {
        self.answers
    }

    /// Texts.
    pub fn len(&self) -> usize {
        self.reference.len()
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.reference.is_empty()
    }

    /// The tokenized texts.
    pub fn batches(&self) -> &[RaggedBatch] {
        &self.batches
    }

    /// What the float model answers, a row for each text.
    pub fn reference(&self) -> &[Row] {
        &self.reference
    }

    /// Runs an encoder under the same head over the same texts, and compares.
    pub fn verdict(&self, encoder: Arc<dyn Encoder>) -> Verdict {
        self.rows_and_verdict(encoder).1
    }

    /// As [`Judge::verdict`], with the rows that were compared, in the order of the texts.
    pub fn rows_and_verdict(&self, encoder: Arc<dyn Encoder>) -> (Vec<Row>, Verdict) {
        let model = SequenceModel { encoder, head: self.head.clone() };
        let mut workspace = model.encoder.workspace();
        let mut rows: Vec<Row> = self.batches.iter().flat_map(|batch| model.rows(batch, &mut workspace)).collect();
        rows.iter_mut().for_each(|row| row.truncate(self.compared));
        let verdict = compare(self.answers, &self.reference, &rows);
        (rows, verdict)
    }

    /// Compares the rows of every batch, from [`Judge::rows`], in the order of [`Judge::batches`].
    pub fn verdict_of_rows(&self, rows: &[Row]) -> Verdict {
        compare(self.answers, &self.reference, rows)
    }

    /// What the head makes of the last hidden states of a batch, `[tokens, width]`: a row for each text.
    ///
    /// # Errors
    /// Those of candle.
    pub fn rows(&self, batch: &RaggedBatch, hidden: &Tensor) -> candle_core::Result<Vec<Row>> {
        let (_, width) = hidden.dims2()?;
        let hidden = hidden.flatten_all()?.to_vec1::<f32>()?;
        let texts = batch.ranges().map(|r| &hidden[r.start * width..r.end * width]);
        let mut rows = self.head.apply_to_all(texts, width);
        rows.iter_mut().for_each(|row| row.truncate(self.compared));
        Ok(rows)
    }

    /// The rows of an encoder of the float executor, over all texts; `told` is called after each batch.
    ///
    /// # Errors
    /// Those of [`CandleEncoder::hidden_states`].
    pub fn rows_of_float(
        &self,
        encoder: &CandleEncoder,
        threads: usize,
        told: &(dyn Fn() + Sync),
    ) -> candle_core::Result<Vec<Row>> {
        let run = |batch: &RaggedBatch, _: usize| {
            let hidden = encoder.run_layers(0..encoder.num_layers(), batch, encoder.embedded(batch)?)?;
            let rows = self.rows(batch, &hidden);
            told();
            rows
        };
        Ok(over_batches(&self.batches, threads, &run)?.concat())
    }
}

/// Compares the rows of a candidate with those of the float model.
///
/// # Panics
/// When they differ in number.
pub fn compare(answers: Answers, reference: &[Row], candidate: &[Row]) -> Verdict {
    assert_eq!(reference.len(), candidate.len(), "two models need the same texts to be compared");
    let count = reference.len().max(1) as f64;
    let pairs = || reference.iter().zip(candidate);
    let cosine = pairs().map(|(a, b)| cosine(a, b)).sum::<f64>() / count;
    let share = |same: &dyn Fn(&Row, &Row) -> bool| pairs().filter(|(a, b)| same(a, b)).count() as f64 / count;
    let agreement = match answers {
        Answers::Labels => share(&|a, b| best(a) == best(b)),
        Answers::LabelSets => share(&|a, b| a.iter().zip(b).all(|(a, b)| (*a >= 0.0) == (*b >= 0.0))),
        Answers::Numbers => {
            let slack = REGRESSION_SLACK * deviation(reference);
            share(&|a, b| a.iter().zip(b).all(|(a, b)| f64::from(a - b).abs() <= slack))
        }
        Answers::Vectors => cosine,
    };
    let divergence = match answers {
        Answers::Labels => pairs().map(|(a, b)| divergence(a, b)).sum::<f64>() / count,
        _ => 1.0 - cosine,
    };
    let (a, b) = (reference.concat(), candidate.concat());
    let error = super::error_of("", &a, &b);
    Verdict { agreement, divergence, mse: error.mse, sqnr_db: error.sqnr_db, cosine, max_abs: error.max_abs }
}

/// Index of the largest value; the first of equal ones.
fn best(row: &[f32]) -> Option<usize> {
    (0..row.len()).reduce(|best, i| if row[i] > row[best] { i } else { best })
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 1.0 }
}

/// `KL(softmax a || softmax b)` in nats.
fn divergence(a: &[f32], b: &[f32]) -> f64 {
    let log_softmax = |row: &[f32]| -> Vec<f64> {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|x| f64::from(x - max).exp()).sum();
        row.iter().map(|x| f64::from(x - max) - sum.ln()).collect()
    };
    log_softmax(a).iter().zip(log_softmax(b)).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// Standard deviation of all numbers.
fn deviation(rows: &[Row]) -> f64 {
    let count = rows.iter().map(Vec::len).sum::<usize>().max(1) as f64;
    let mean = rows.iter().flatten().map(|x| f64::from(*x)).sum::<f64>() / count;
    (rows.iter().flatten().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / count).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architectures;
    use crate::checkpoint::ModelDir;
    use crate::kernels::Kernels;
    use crate::pipelines::{Loader, Precision};

    #[test]
    fn labels_agree_when_the_best_is_the_same() {
        let float = vec![vec![2.0, 1.0, 0.0], vec![0.0, 1.0, 0.9], vec![0.0, 0.0, 3.0], vec![1.0, 0.0, 0.0]];
        let mut other = float.clone();
        other[1] = vec![0.0, 0.9, 1.0];
        let verdict = compare(Answers::Labels, &float, &other);
        assert_eq!(verdict.agreement, 0.75);
        assert!(verdict.divergence > 0.0 && verdict.divergence < 0.01, "{verdict:?}");
        assert!((verdict.max_abs - 0.1).abs() < 1e-6);
        let same = compare(Answers::Labels, &float, &float);
        assert_eq!((same.agreement, same.divergence, same.mse, same.sqnr_db), (1.0, 0.0, 0.0, None));
    }

    #[test]
    fn the_divergence_is_that_of_the_probabilities() {
        // p = (0.8, 0.2), q = (0.5, 0.5): 0.8 ln 1.6 + 0.2 ln 0.4.
        let verdict = compare(Answers::Labels, &[vec![4f32.ln(), 0.0]], &[vec![7.0, 7.0]]);
        let expected = 0.8 * 1.6f64.ln() + 0.2 * 0.4f64.ln();
        assert!((verdict.divergence - expected).abs() < 1e-6, "{verdict:?}");
    }

    #[test]
    fn each_kind_of_answer_agrees_in_its_own_way() {
        let sets = compare(Answers::LabelSets, &[vec![1.0, -1.0], vec![0.1, 2.0]], &[vec![3.0, -0.1], vec![-0.1, 2.0]]);
        assert_eq!(sets.agreement, 0.5);
        let numbers = compare(Answers::Numbers, &[vec![0.0], vec![2.0]], &[vec![0.09], vec![2.2]]);
        assert_eq!(numbers.agreement, 0.5, "the standard deviation is 1");
        let vectors = compare(Answers::Vectors, &[vec![1.0, 0.0], vec![0.0, 2.0]], &[vec![5.0, 0.0], vec![2.0, 0.0]]);
        assert_eq!(vectors.agreement, 0.5);
    }

    /// A judge over the classifier of the goldens.
    fn judge(texts: &[(&str, Option<&str>)]) -> Judge {
        let path = std::path::Path::new("tests/goldens/bert-classify");
        let model = Loader::new(Kernels::detect(), Precision::Float).load("golden", path).unwrap();
        let dir = ModelDir::open(path).unwrap();
        let mut weights = dir.weights().unwrap();
        let described = architectures::describe(dir.config(), &|name| weights.contains(name)).unwrap();
        let encoder = CandleEncoder::load(&described.spec, &described.encoder, &mut weights, 1).unwrap();
        let input = |(text, pair): &(&str, Option<&str>)| ClassifyInput {
            text: text.to_string(),
            text_pair: pair.map(str::to_string),
        };
        let texts: Vec<_> = texts.iter().map(input).collect();
        Judge::new(&model, &encoder, &texts, 2, |_, _| {}).unwrap()
    }

    #[test]
    fn both_texts_of_a_pair_are_read() {
        let judge = judge(&[("good film", Some("bad market")), ("good film", None)]);
        assert_ne!(judge.reference()[0], judge.reference()[1]);
        let tokens: Vec<usize> = judge.batches().iter().flat_map(|b| b.ranges()).map(|r| r.len()).collect();
        assert!(tokens[0] > tokens[1], "{tokens:?}");
    }
}
