//! What the outputs mean, and examples as tokens and targets.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::architectures::{ProblemType, RaggedBatch};
use crate::data::Example;
use crate::text::{Encoding, Tokenizer};

use super::TrainError;

/// What a model is trained to say.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// What the outputs mean.
    pub problem_type: ProblemType,
    /// Classes by output index; for regression, the name of the number.
    pub labels: Vec<String>,
    /// Name of a number (the examples' `rating`) that is learned beside the classes, as one more output.
    pub value: Option<String>,
}

impl Task {
    /// Classes from examples: several per text when any example has `labels`, else one. `labels` gives their order; by
    /// name when it is empty.
    ///
    /// # Errors
    /// [`TrainError::Data`] when there are fewer than two classes (one, for several per text).
    pub fn classify(examples: &[Example], labels: &[String], value: Option<String>) -> Result<Self, TrainError> {
        let several = examples.iter().any(|e| e.labels.is_some());
        let mut found = labels.to_vec();
        if found.is_empty() {
            found = examples.iter().flat_map(names).collect();
            found.sort();
            found.dedup();
        }
        if found.is_empty() {
            let reason = "no training text has a label: there must be a column or key \"label\", or \"labels\" where there \
                          may be several (or say which one with --label-column, --labels-column); to learn a number alone, name \
                          it with --regression";
            return Err(TrainError::Data(reason.into()));
        }
        if let Some(twice) = found.iter().enumerate().find_map(|(i, name)| found[..i].contains(name).then_some(name)) {
            return Err(TrainError::Data(format!("the class \"{twice}\" is given twice; each has one place")));
        }
        let least = if several { 1 } else { 2 };
        if found.len() < least {
            let reason = format!("the only class is \"{}\"; a classifier needs at least {least}", found[0]);
            return Err(TrainError::Data(reason));
        }
        let problem_type = if several { ProblemType::MultiLabel } else { ProblemType::SingleLabel };
        Ok(Task { problem_type, labels: found, value })
    }

    /// One number, the examples' `rating`, under this name.
    pub fn regression(name: String) -> Self {
        Task { problem_type: ProblemType::Regression, labels: vec![name], value: None }
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.labels.len() + usize::from(self.value.is_some())
    }

    /// Whether a number is learned.
    pub fn has_value(&self) -> bool {
        self.value.is_some() || self.problem_type == ProblemType::Regression
    }

    /// Number of outputs that are classes.
    pub fn classes(&self) -> usize {
        if self.problem_type == ProblemType::Regression { 0 } else { self.labels.len() }
    }
}

/// The classes of an example.
fn names(example: &Example) -> Vec<String> {
    example.labels.iter().flatten().cloned().chain(example.label.as_ref().map(|l| l.to_string())).collect()
}

/// Mean and standard deviation of the numbers to learn: the model learns them standardized.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ValueScale {
    /// Subtracted first.
    pub mean: f64,
    /// Divided by.
    pub deviation: f64,
}

impl ValueScale {
    /// Of numbers that are standardized already.
    pub const STANDARDIZED: ValueScale = ValueScale { mean: 0.0, deviation: 1.0 };

    /// Of the ratings of these examples; a constant keeps its size.
    pub fn of(examples: &[Example]) -> Self {
        let ratings: Vec<f64> = examples.iter().filter_map(|e| e.rating).collect();
        let mean = ratings.iter().sum::<f64>() / ratings.len().max(1) as f64;
        let variance = ratings.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / ratings.len().max(1) as f64;
        ValueScale { mean, deviation: if variance > 1e-12 { variance.sqrt() } else { 1.0 } }
    }
}

/// One text and what it should give.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub tokens: Encoding,
    /// 1 for each class that it has, `[classes]`.
    pub classes: Vec<f32>,
    /// What is learned: how likely each class is when the file says so, else `classes`.
    pub target: Vec<f32>,
    /// Its number, not standardized, when the task has one.
    pub value: Option<f64>,
}

/// Tokenized examples with their targets.
#[derive(Clone, Debug)]
pub struct Dataset {
    pub(super) items: Vec<Item>,
}

impl Dataset {
    /// Tokenizes examples, cut to `max_tokens`; `path` is where they were read, for messages.
    ///
    /// # Errors
    /// [`TrainError::Data`] naming an example without a target, or with a class that the task does not have.
    pub fn new(
        examples: &[Example],
        task: &Task,
        tokenizer: &Tokenizer,
        max_tokens: usize,
        path: &Path,
    ) -> Result<Self, TrainError> {
        let class_of = |name: &str| {
            let known = || format!("{} (the training labels, or --labels)", task.labels.join(", "));
            let found = task.labels.iter().position(|l| l == name);
            found.ok_or_else(|| format!("has label \"{name}\", expected {}", known()))
        };
        let item = |example: &Example| {
            let bad = |what: String| TrainError::Data(format!("{}: line {} {what}", path.display(), example.line));
            let mut classes = vec![0.0; task.classes()];
            if task.classes() > 0 {
                let names = names(example);
                // No class is an answer too, where there may be several.
                let may_be_none = task.problem_type == ProblemType::MultiLabel && example.labels.is_some();
                if names.is_empty() && !may_be_none {
                    return Err(bad("has no label".into()));
                }
                for name in names {
                    classes[class_of(&name).map_err(bad)?] = 1.0;
                }
            }
            let mut target = classes.clone();
            if !example.probabilities.is_empty() && task.problem_type == ProblemType::SingleLabel {
                target.fill(0.0);
                for (name, probability) in &example.probabilities {
                    target[class_of(name).map_err(bad)?] = *probability as f32;
                }
            }
            if task.has_value() && example.rating.is_none() {
                return Err(bad("has no \"rating\", which is the number to learn".into()));
            }
            let tokens = tokenizer.encode(&example.text, example.text_pair.as_deref(), max_tokens)?;
            if tokens.is_empty() {
                return Err(bad("has no tokens".into()));
            }
            Ok(Item { tokens, classes, target, value: example.rating.filter(|_| task.has_value()) })
        };
        let items = examples.iter().map(item).collect::<Result<Vec<_>, _>>()?;
        if items.is_empty() {
            return Err(TrainError::Data(format!("{}: no examples", path.display())));
        }
        Ok(Dataset { items })
    }

    /// How many examples there are, and the start of the SHA-256 of what is learned from them.
    pub fn digest(&self) -> String {
        let mut sha = Sha256::new();
        for item in &self.items {
            item.tokens.ids.iter().chain(&item.tokens.type_ids).for_each(|id| sha.update(id.to_le_bytes()));
            item.target.iter().chain(&item.classes).for_each(|x| sha.update(x.to_le_bytes()));
            sha.update(item.value.map_or(f64::NAN, f64::from).to_le_bytes());
        }
        let start: String = sha.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("{} of digest {start}", self.len())
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Tokens of all examples.
    pub fn tokens(&self) -> usize {
        self.items.iter().map(|i| i.tokens.len()).sum()
    }

    /// The chosen examples as one batch.
    pub fn batch(&self, chosen: &[usize]) -> RaggedBatch {
        let mut batch = RaggedBatch::new();
        for index in chosen {
            let tokens = &self.items[*index].tokens;
            batch.push(&tokens.ids, &tokens.type_ids);
        }
        batch
    }
}
