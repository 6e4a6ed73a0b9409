//! `POST /v1/embeddings`, as OpenAI has it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::pipelines::{EmbedOptions, Embedding};

use super::{TaskRequest, TextInput, Usage};

/// Vectors of one text or a list of texts.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"input": ["The staff were kind.", "It broke after a day."]}))]
pub(in crate::server) struct EmbeddingsRequest {
    /// Which model; the default one for the task when absent.
    pub model: Option<String>,
    /// A text, or a list of texts. Token ids are not accepted.
    pub input: TextInput,
    /// `float` (the default), or `base64` of little-endian 32-bit floats.
    pub encoding_format: Option<EncodingFormat>,
    /// Keep only the first dimensions, and normalize again; all when absent.
    pub dimensions: Option<usize>,
    /// Whether vectors have length 1; the model's own setting when absent.
    pub normalize: Option<bool>,
    /// Cut an over-long text (the default), or refuse it.
    pub truncate: Option<bool>,
    /// How many milliseconds the client waits.
    pub timeout_ms: Option<u64>,
}

/// How a vector is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::server) enum EncodingFormat {
    /// A list of numbers.
    #[default]
    Float,
    /// Base64 of little-endian 32-bit floats.
    Base64,
}

impl EmbeddingsRequest {
    /// The task, and how its answer is written.
    pub(in crate::server) fn into_task(self) -> (TaskRequest<String, EmbedOptions>, EncodingFormat) {
        let task = TaskRequest {
            model: self.model,
            timeout_ms: self.timeout_ms,
            characters: self.input.characters(),
            inputs: self.input.0,
            options: EmbedOptions {
                truncate: self.truncate.unwrap_or(true),
                normalize: self.normalize,
                dimensions: self.dimensions,
            },
        };
        (task, self.encoding_format.unwrap_or_default())
    }
}

/// OpenAI's answer.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::server) struct EmbeddingsResponse {
    /// Always `list`.
    #[schema(example = "list")]
    pub object: &'static str,
    /// One item per input, in order.
    pub data: Vec<EmbeddingItem>,
    /// The model that answered.
    pub model: String,
    /// What it cost.
    pub usage: Usage,
}

/// The vector of one input.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::server) struct EmbeddingItem {
    /// Always `embedding`.
    #[schema(example = "embedding")]
    pub object: &'static str,
    /// Which input.
    pub index: usize,
    /// Numbers, or base64.
    pub embedding: Vector,
}

/// A vector in the format that was asked for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(in crate::server) enum Vector {
    /// `[dimensions]`.
    Float(Vec<f32>),
    /// Little-endian 32-bit floats.
    Base64(String),
}

impl EmbeddingItem {
    pub(in crate::server) fn new(index: usize, embedding: Embedding, format: EncodingFormat) -> Self {
        let embedding = match format {
            EncodingFormat::Float => Vector::Float(embedding.vector),
            EncodingFormat::Base64 => {
                let bytes: Vec<u8> = embedding.vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                Vector::Base64(STANDARD.encode(bytes))
            }
        };
        EmbeddingItem { object: "embedding", index, embedding }
    }
}
