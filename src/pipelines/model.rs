//! A loaded model: its encoder, tokenizer and head, and what can be told about it.

use std::sync::Arc;

use crate::architectures::{Encoder, EncoderWorkspace, RaggedBatch};
use crate::checkpoint::Reference;
use crate::text::Tokenizer;

use super::head::Head;
use super::{Classifier, Embedder, Row, Summarizer};

/// What a model can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Task {
    /// One label (or several) per text.
    Classify,
    /// The sentences that say most.
    Summarize,
    /// One vector per text.
    Embed,
}

impl Task {
    /// Every task.
    pub const ALL: [Task; 3] = [Task::Classify, Task::Summarize, Task::Embed];

    /// Name in metrics, logs and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Task::Classify => "classify",
            Task::Summarize => "summarize",
            Task::Embed => "embed",
        }
    }
}

/// An encoder with a head: sequences in, one row each out. What a worker thread runs.
#[derive(Clone)]
pub struct SequenceModel {
    /// Shared by every model built on it; batches are formed per encoder.
    pub encoder: Arc<dyn Encoder>,
    /// Turns hidden states into one row.
    pub head: Arc<Head>,
}

impl SequenceModel {
    /// One row per sequence of `batch`.
    pub fn rows(&self, batch: &RaggedBatch, workspace: &mut EncoderWorkspace) -> Vec<Row> {
        let (mut pooled, width) = (Vec::with_capacity(batch.len()), self.encoder.spec().hidden_size);
        self.encoder.forward_each(batch, workspace, &mut |hidden| pooled.push(self.head.pool(hidden, width)));
        self.head.apply_dense(pooled)
    }
}

/// What can be told about a loaded model without asking it anything.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// Name in requests.
    pub id: String,
    /// First 12 hex digits of the SHA-256 over the folder's weights: the same bytes, the same version.
    pub version: String,
    /// `model_type` of the encoder: `bert`, `distilbert`, `roberta`, `xlm-roberta`.
    pub architecture: String,
    /// `"int8"` or `"f32"`.
    pub precision: String,
    /// Quantization scheme in words, e.g. `w8a8-dynamic`.
    pub scheme: String,
    /// Class names; empty when the model does not classify.
    pub labels: Vec<String>,
    /// Longest input in tokens, special tokens included.
    pub max_tokens: usize,
    /// Bytes in memory by component (`embeddings`, `encoder`, `head`) and dtype (`int8`, `f32`).
    pub sizes: Vec<ComponentSize>,
    /// Bytes of the weight files on disk.
    pub file_bytes: u64,
    /// Bytes the same weights take in f32, divided by `file_bytes`.
    pub compression_ratio: f64,
    /// How long loading took, in seconds.
    pub load_seconds: f64,
    /// Scores stored with the model by `octet eval`.
    pub scores: Vec<Score>,
    /// What it read and answered on the data set it was measured on; live traffic is compared with it.
    pub reference: Option<Reference>,
}

/// Bytes of one part of a model in one dtype.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentSize {
    /// `embeddings`, `encoder` or `head`.
    pub component: &'static str,
    /// `int8` or `f32`.
    pub dtype: &'static str,
    /// Bytes.
    pub bytes: u64,
}

/// One figure that `octet eval` measured and stored in the folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// Name of the data set.
    pub dataset: String,
    /// `accuracy`, `f1_macro`, `f1_weighted`, `agreement_f32`, `cosine_f32`, `sentences_per_second`, ...
    pub metric: String,
    /// `int8` or `f32`.
    pub precision: String,
    /// The figure.
    pub value: f64,
}

/// A loaded model and the pipelines it offers.
pub struct Model {
    /// What can be told about it.
    pub info: ModelInfo,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Present when the model classifies.
    pub classifier: Option<Arc<Classifier>>,
    /// Present when the model gives sentence vectors.
    pub embedder: Option<Arc<Embedder>>,
    /// Present when the model can rank sentences.
    pub summarizer: Option<Arc<Summarizer>>,
}

impl Model {
    /// The tasks this model offers, in the order of [`Task::ALL`].
    pub fn tasks(&self) -> Vec<Task> {
        Task::ALL.into_iter().filter(|t| self.offers(*t)).collect()
    }

    /// Its encoder.
    pub fn encoder(&self) -> &Arc<dyn Encoder> {
        let model = self.classifier.as_ref().map(|c| &c.model).or(self.embedder.as_ref().map(|e| &e.model));
        &model.expect("a model classifies or embeds").encoder
    }

    /// Whether the model offers `task`.
    pub fn offers(&self, task: Task) -> bool {
        match task {
            Task::Classify => self.classifier.is_some(),
            Task::Summarize => self.summarizer.is_some(),
            Task::Embed => self.embedder.is_some(),
        }
    }
}
