//! Labels that come in after the answers: which answers are remembered for them, and what is refused.
//!
//! No text is kept: for each answer a digest of its id, and for each of its inputs the label that was chosen and its
//! score. The oldest go first.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::pipelines::{Classification, Model};
use crate::telemetry::{Labelled, Metrics};

/// A label that was taken.
#[derive(Clone)]
pub struct Feedback {
    /// The model that had answered.
    pub model: Arc<Model>,
    /// What it had chosen.
    pub predicted: String,
    /// Whether this label counts now; false when the same one had been sent before.
    pub counted: bool,
}

/// Why a label was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedbackError {
    /// No answer with this id is remembered.
    #[error("{}", unknown(*.limit, *.oldest))]
    UnknownAnswer {
        /// Inputs that are remembered at most.
        limit: usize,
        /// Age of the oldest answer that is remembered, if there is one.
        oldest: Option<Duration>,
    },
    /// The answer has fewer inputs.
    #[error("found {index}, the answer has {inputs} input(s), counted from 0")]
    Index {
        /// What was given.
        index: usize,
        /// Inputs of the answer.
        inputs: usize,
    },
    /// The model has no such label.
    #[error("not a label of model {model:?}; its labels are: {}", some(.known))]
    Label {
        /// The model that had answered.
        model: String,
        /// Its labels.
        known: Vec<String>,
    },
    /// The input has another label already.
    #[error("the input has another label already; the first one counts")]
    Conflict,
}

/// Labels that an error lists; the rest is counted.
const LISTED: usize = 50;

fn some(labels: &[String]) -> String {
    let rest = labels.len().saturating_sub(LISTED);
    let listed = labels[..labels.len() - rest].join(", ");
    if rest == 0 { listed } else { format!("{listed} and {rest} more") }
}

fn unknown(limit: usize, oldest: Option<Duration>) -> String {
    if limit == 0 {
        return "this server remembers no answers for feedback (feedback.max_answers is 0)".to_string();
    }
    let kept =
        format!("no answer with this id is remembered; the last {limit} inputs of models that choose one label are");
    match oldest {
        Some(age) => format!("{kept}, at this moment those of the last {} s", age.as_secs()),
        None => format!("{kept}, at this moment none"),
    }
}

/// The answers that can still be labelled.
pub(super) struct Answers {
    /// Most inputs.
    limit: usize,
    hashers: [RandomState; 2],
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

/// 128 bits of an id, hashed with keys of this process.
type Key = [u64; 2];

#[derive(Default)]
struct State {
    answers: HashMap<Key, Remembered>,
    /// Oldest first. An answer that was replaced by another one with the same id keeps its place here, so that the bound
    /// holds whatever ids clients choose.
    order: VecDeque<Place>,
    /// Inputs of all places.
    inputs: usize,
    next: u64,
}

struct Place {
    key: Key,
    number: u64,
    inputs: usize,
    since: Instant,
}

struct Remembered {
    number: u64,
    model: Arc<Model>,
    inputs: Box<[Input]>,
}

/// One classified input.
struct Input {
    /// Index of the chosen label.
    predicted: u32,
    confidence: Option<f32>,
    /// Index of the label that somebody sent.
    actual: Option<u32>,
}

impl Answers {
    pub(super) fn new(limit: usize, metrics: Arc<Metrics>) -> Self {
        let hashers = [RandomState::new(), RandomState::new()];
        Answers { limit, hashers, metrics, state: Mutex::default() }
    }

    /// Remembers what `model` chose, and forgets the oldest answers over the limit. `is_confidence` says whether the best
    /// scores are probabilities as the model makes them by itself.
    pub(super) fn remember(&self, id: &str, model: &Arc<Model>, outputs: &[Classification], is_confidence: bool) {
        if self.limit == 0 {
            return;
        }
        let input = |output: &Classification| {
            let best = output.best();
            let predicted = index(model, &best.label).expect("a model chooses one of its own labels");
            Input { predicted, confidence: is_confidence.then_some(best.score), actual: None }
        };
        let inputs: Box<[Input]> = outputs.iter().map(input).collect();
        let key = self.key(id);
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.inputs += inputs.len();
        state.order.push_back(Place { key, number, inputs: inputs.len(), since: Instant::now() });
        state.answers.insert(key, Remembered { number, model: model.clone(), inputs });
        while state.inputs > self.limit {
            let oldest = state.order.pop_front().expect("inputs are counted by place");
            state.inputs -= oldest.inputs;
            if state.answers.get(&oldest.key).is_some_and(|answer| answer.number == oldest.number) {
                state.answers.remove(&oldest.key);
            }
        }
        self.metrics.feedback_kept(state.inputs);
    }

    /// Takes a label for input `at` of the answer called `id`. The first label of an input counts; the same one again
    /// changes nothing.
    pub(super) fn label(&self, id: &str, at: usize, label: &str) -> Result<Feedback, FeedbackError> {
        let mut state = self.state();
        let oldest = state.order.front().map(|place| place.since.elapsed());
        let Some(answer) = state.answers.get_mut(&self.key(id)) else {
            return Err(FeedbackError::UnknownAnswer { limit: self.limit, oldest });
        };
        let (model, inputs) = (answer.model.clone(), answer.inputs.len());
        let input = answer.inputs.get_mut(at).ok_or(FeedbackError::Index { index: at, inputs })?;
        let (id, labels) = (&model.info.id, &model.info.labels);
        let Some(actual) = index(&model, label) else {
            return Err(FeedbackError::Label { model: id.clone(), known: labels.clone() });
        };
        let counted = match input.actual {
            None => true,
            Some(before) if before == actual => false,
            Some(_) => return Err(FeedbackError::Conflict),
        };
        input.actual = Some(actual);
        let (predicted, confidence) = (labels[input.predicted as usize].clone(), input.confidence);
        drop(state);
        if counted {
            self.metrics.labelled(id, Labelled { predicted: &predicted, actual: label, confidence });
        }
        Ok(Feedback { predicted, counted, model })
    }

    fn key(&self, id: &str) -> Key {
        self.hashers.each_ref().map(|hasher| hasher.hash_one(id))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Index of a label of `model`; the first of equal ones.
fn index(model: &Model, label: &str) -> Option<u32> {
    model.info.labels.iter().position(|known| known == label).map(|index| index as u32)
}
