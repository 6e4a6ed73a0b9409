//! `GET /v1/models`, `GET /v1/models/{id}`, `GET /info`.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::pipelines::{Model, Score};

/// Every model that is served.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::server) struct ModelList {
    /// Always `list`.
    #[schema(example = "list")]
    pub object: &'static str,
    /// The models, in the order of the settings.
    pub data: Vec<ModelItem>,
}

/// One model: OpenAI's fields, then ours.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::server) struct ModelItem {
    /// Name in requests.
    #[schema(example = "sentiment")]
    pub id: String,
    /// Always `model`.
    #[schema(example = "model")]
    pub object: &'static str,
    /// When the server started, in seconds since 1970.
    pub created: u64,
    /// Always `octet`.
    #[schema(example = "octet")]
    pub owned_by: &'static str,
    /// The first task it offers: `classify`, `summarize` or `embed`.
    pub task: Option<&'static str>,
    /// Every task it offers.
    pub tasks: Vec<&'static str>,
    /// `model_type` of the encoder.
    #[schema(example = "bert")]
    pub architecture: String,
    /// `int8` or `f32`.
    #[schema(example = "int8")]
    pub precision: String,
    /// Quantization scheme.
    pub scheme: String,
    /// Bytes of the weights in memory.
    pub size_bytes: u64,
    /// Longest input in tokens, special tokens included.
    pub max_tokens: usize,
    /// Class names; empty when it does not classify.
    pub labels: Vec<String>,
    /// Logits are divided by it before they become probabilities; absent when it does not classify.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// The score from which each label is given, by label; absent when none were fitted. Requests may bring their own
    /// `threshold`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub thresholds: BTreeMap<String, f32>,
    /// What the model says when no class is likely enough; absent when nothing was fitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// Scores measured by `octet eval`.
    pub eval: Vec<EvalScore>,
    /// The same weights, the same version.
    #[schema(example = "3f9a0c1b2d4e")]
    pub version: String,
}

/// The class of a text that no other class is likely enough for.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::server) struct Fallback {
    /// Its name.
    #[schema(example = "out_of_scope")]
    pub label: String,
    /// The probability that another class needs.
    pub threshold: f32,
}

/// One measured figure.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::server) struct EvalScore {
    /// Name of the data set.
    pub dataset: String,
    /// Such as `accuracy` or `f1_macro`.
    #[schema(example = "accuracy")]
    pub metric: String,
    /// `int8` or `f32`.
    pub precision: String,
    /// The figure.
    pub value: f64,
}

impl From<&Score> for EvalScore {
    fn from(s: &Score) -> Self {
        let Score { dataset, metric, precision, value } = s.clone();
        EvalScore { dataset, metric, precision, value }
    }
}

impl ModelItem {
    pub(in crate::server) fn new(model: &Model, created: u64) -> Self {
        let info = &model.info;
        let tasks: Vec<&'static str> = model.tasks().into_iter().map(|task| task.name()).collect();
        ModelItem {
            id: info.id.clone(),
            object: "model",
            created,
            owned_by: "octet",
            task: tasks.first().copied(),
            tasks,
            architecture: info.architecture.clone(),
            precision: info.precision.clone(),
            scheme: info.scheme.clone(),
            size_bytes: info.sizes.iter().map(|part| part.bytes).sum(),
            max_tokens: info.max_tokens,
            labels: info.labels.clone(),
            temperature: model.classifier.as_ref().map(|c| c.temperature),
            thresholds: model.classifier.as_ref().map(|c| c.thresholds_by_label()).unwrap_or_default(),
            fallback: model.classifier.as_ref().and_then(|c| {
                c.fallback.map(|(class, threshold)| Fallback { label: c.labels[class].clone(), threshold })
            }),
            eval: info.scores.iter().map(Into::into).collect(),
            version: info.version.clone(),
        }
    }
}

/// What the server is: the first keys as text-embeddings-inference names them, for the first model.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::server) struct Info {
    /// Name of the first model.
    pub model_id: Option<String>,
    /// Its version.
    pub model_sha: Option<String>,
    /// Its precision.
    pub model_dtype: Option<String>,
    /// Its longest input in tokens.
    pub max_input_length: Option<usize>,
    /// Most tokens in one batch.
    pub max_batch_tokens: usize,
    /// Most inputs in one request.
    pub max_client_batch_size: usize,
    /// Largest request body in bytes.
    pub max_body_bytes: usize,
    /// Tokens that may wait.
    pub max_queue_tokens: usize,
    /// Version of the server.
    #[schema(example = "0.1.0")]
    pub version: &'static str,
    /// Every model.
    pub models: Vec<ModelItem>,
}
