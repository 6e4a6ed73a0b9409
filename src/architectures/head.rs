//! What follows the encoder: pooling and dense layers.

use crate::checkpoint::{Pooling, ProblemType};

use super::names::LinearNames;

/// Activations found between the dense layers of classification heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenseActivation {
    /// BERT's pooler and RoBERTa's head.
    Tanh,
    /// DistilBERT's pre-classifier.
    Relu,
}

/// One dense layer of a head, by weight name.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseSpec {
    /// Where its weights are.
    pub names: LinearNames,
    /// Applied to its result, when there is one.
    pub activation: Option<DenseActivation>,
}

/// A sequence classification head.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadSpec {
    /// First step.
    pub pooling: Pooling,
    /// Applied in order; the last one gives the logits.
    pub layers: Vec<DenseSpec>,
    /// Class names by output index.
    pub labels: Vec<String>,
    /// What the outputs mean.
    pub problem_type: ProblemType,
    /// Name of a number that is the last output, after the classes.
    pub value: Option<String>,
}
