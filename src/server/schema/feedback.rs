//! `POST /v1/feedback`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::engine::Feedback;
use crate::server::error::ApiError;

/// Start of the ids of `/v1/classify`, before the request id.
pub(in crate::server) const CLASSIFY_PREFIX: &str = "cls";

/// The label that one input of an earlier classification ought to have had.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"id": "cls-5f0c6f2b7d3e4a19b0c1d2e3f4a5b6c7", "index": 0, "label": "positive"}))]
pub(in crate::server) struct FeedbackRequest {
    /// `id` of the answer of `/v1/classify`.
    pub id: Option<String>,
    /// `X-Request-Id` of the answer, of any route that classifies; instead of `id`.
    pub request_id: Option<String>,
    /// Which input of the request, counted from 0; 0 when absent.
    pub index: Option<usize>,
    /// One of the labels of the model.
    pub label: String,
}

impl FeedbackRequest {
    /// The request id that is meant.
    pub(in crate::server) fn answer_id(&self) -> Result<&str, ApiError> {
        match (&self.id, &self.request_id) {
            (None, Some(id)) => Ok(id),
            (Some(id), None) => {
                let rest = id.strip_prefix(CLASSIFY_PREFIX).and_then(|rest| rest.strip_prefix('-'));
                rest.ok_or_else(|| {
                    let message = "not the id of an answer of /v1/classify, which starts with \"cls-\"; give the header \
                                   X-Request-Id of other routes as \"request_id\"";
                    ApiError::invalid("id", message)
                })
            }
            (Some(_), Some(_)) => Err(ApiError::invalid("request_id", "given besides \"id\"; give one of the two")),
            (None, None) => Err(ApiError::invalid("id", "this field or \"request_id\" is required")),
        }
    }
}

/// What became of a label.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::server) struct FeedbackResponse {
    /// Always `feedback`.
    #[schema(example = "feedback")]
    pub object: &'static str,
    /// The model that had answered.
    #[schema(example = "sentiment")]
    pub model: String,
    /// Its version.
    pub model_version: String,
    /// Which input.
    pub index: usize,
    /// The label that was sent.
    #[schema(example = "positive")]
    pub label: String,
    /// The label that the model had chosen.
    #[schema(example = "positive")]
    pub predicted: String,
    /// Whether they are the same.
    pub correct: bool,
    /// False when this label had been sent for this input before: it counts once.
    pub counted: bool,
}

impl FeedbackResponse {
    pub(in crate::server) fn new(index: usize, label: String, feedback: Feedback) -> Self {
        let Feedback { model, predicted, counted } = feedback;
        FeedbackResponse {
            object: "feedback",
            model: model.info.id.clone(),
            model_version: model.info.version.clone(),
            index,
            correct: label == predicted,
            label,
            predicted,
            counted,
        }
    }
}
