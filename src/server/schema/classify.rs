//! `POST /v1/classify`.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::schema::{ArrayBuilder, OneOfBuilder};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::pipelines::{Classification, ClassifyInput, ClassifyOptions, LabelScore, OutputActivation};
use crate::server::error::{ApiError, Kind};
use crate::server::json::OBJECT_OR_ELSE;

use super::{TaskRequest, string_schema};

/// Classify one text or a list of texts. A flat list is a batch.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"model": "sentiment", "input": ["The staff were kind.", "It broke after a day."]}))]
pub(in crate::server) struct ClassifyRequest {
    /// Which model; the default one for the task when absent.
    pub model: Option<String>,
    /// A text, a `{"text", "text_pair"}` object, or a list of these.
    pub input: ClassifyTexts,
    /// Return only the best labels, at least 1; all when absent.
    pub top_k: Option<usize>,
    /// Leave out labels with a lower score, 0 to 1; the best one stays.
    pub threshold: Option<f32>,
    /// How logits become scores; what the model's problem type implies when absent.
    pub activation: Option<Activation>,
    /// Per-token weights. Not supported yet: `true` is refused.
    pub explain: Option<bool>,
    /// Cut an over-long text (the default), or refuse it.
    pub truncate: Option<bool>,
    /// How many milliseconds the client waits.
    pub timeout_ms: Option<u64>,
}

/// How logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::server) enum Activation {
    /// Scores sum to 1.
    Softmax,
    /// Each score on its own in 0 to 1.
    Sigmoid,
    /// The logits themselves.
    None,
}

impl From<Activation> for OutputActivation {
    fn from(activation: Activation) -> Self {
        match activation {
            Activation::Softmax => OutputActivation::Softmax,
            Activation::Sigmoid => OutputActivation::Sigmoid,
            Activation::None => OutputActivation::None,
        }
    }
}

/// A pair of texts, or one text written as an object.
#[derive(Debug, Deserialize, ToSchema)]
pub(in crate::server) struct TextPair {
    /// The text.
    pub text: String,
    /// The second text of a pair.
    pub text_pair: Option<String>,
}

impl From<TextPair> for ClassifyInput {
    fn from(pair: TextPair) -> Self {
        ClassifyInput { text: pair.text, text_pair: pair.text_pair }
    }
}

/// One or many inputs.
#[derive(Debug)]
pub(in crate::server) struct ClassifyTexts(Vec<ClassifyInput>);

impl<'de> Deserialize<'de> for ClassifyTexts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct(OBJECT_OR_ELSE, PAIR_FIELDS, TextsVisitor { list: true }).map(ClassifyTexts)
    }
}

/// One element of a list: a text or a pair, but not another list.
struct OneInput(ClassifyInput);

impl<'de> Deserialize<'de> for OneInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let one = deserializer.deserialize_struct(OBJECT_OR_ELSE, PAIR_FIELDS, TextsVisitor { list: false })?;
        Ok(OneInput(one.into_iter().next().expect("a text or a pair is one input")))
    }
}

pub(super) const PAIR_FIELDS: &[&str] = &["text", "text_pair"];

/// Reads a text or a pair, and a list of them where `list` says so.
struct TextsVisitor {
    list: bool,
}

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = Vec<ClassifyInput>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(r#"a string or an object {"text", "text_pair"}"#)?;
        if self.list { f.write_str(", or a list of these") } else { Ok(()) }
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(vec![ClassifyInput { text: text.to_owned(), text_pair: None }])
    }

    fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
        Ok(vec![ClassifyInput { text, text_pair: None }])
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        TextPair::deserialize(MapAccessDeserializer::new(map)).map(|pair| vec![pair.into()])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        if !self.list {
            return Err(serde::de::Error::invalid_type(serde::de::Unexpected::Seq, &self));
        }
        let mut inputs = Vec::new();
        while let Some(OneInput(input)) = list.next_element()? {
            inputs.push(input);
        }
        Ok(inputs)
    }
}

impl PartialSchema for ClassifyTexts {
    fn schema() -> RefOr<Schema> {
        let one = || OneOfBuilder::new().item(string_schema()).item(TextPair::schema());
        one().item(ArrayBuilder::new().items(one())).into()
    }
}

impl ToSchema for ClassifyTexts {}

/// Characters of all inputs.
pub(super) fn characters(inputs: &[ClassifyInput]) -> usize {
    let count = |text: &str| text.chars().count();
    inputs.iter().map(|input| count(&input.text) + input.text_pair.as_deref().map_or(0, count)).sum()
}

impl TryFrom<ClassifyRequest> for TaskRequest<ClassifyInput, ClassifyOptions> {
    type Error = ApiError;

    fn try_from(request: ClassifyRequest) -> Result<Self, ApiError> {
        if request.explain == Some(true) {
            let message = "explain: per-token weights are not supported by this version; leave the field out";
            return Err(ApiError::new(Kind::UnsupportedTask, message).param("explain"));
        }
        let ClassifyTexts(inputs) = request.input;
        Ok(TaskRequest {
            model: request.model,
            timeout_ms: request.timeout_ms,
            characters: characters(&inputs),
            inputs,
            options: ClassifyOptions {
                top_k: request.top_k,
                threshold: request.threshold,
                activation: request.activation.map(Into::into),
                truncate: request.truncate.unwrap_or(true),
            },
        })
    }
}

/// The answer for one input.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::server) struct ClassifyItem {
    /// Which input.
    pub index: usize,
    /// Best label.
    #[schema(example = "positive")]
    pub label: String,
    /// Its score.
    pub score: f32,
    /// Best first, cut by `top_k` and `threshold`.
    pub scores: Vec<ScoreItem>,
    /// Classes of the model.
    pub num_classes: usize,
    /// Numbers that the model gives beside the classes, by name; absent when it gives none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(example = json!({"valence": 2.3}))]
    pub values: BTreeMap<String, f32>,
    /// Tokens read.
    pub tokens: usize,
    /// Whether the text was cut to fit the model.
    pub truncated: bool,
}

/// One label and its score.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::server) struct ScoreItem {
    /// Class name.
    #[schema(example = "positive")]
    pub label: String,
    /// Probability, or logit with `activation: none`.
    pub score: f32,
}

impl From<LabelScore> for ScoreItem {
    fn from(score: LabelScore) -> Self {
        ScoreItem { label: score.label, score: score.score }
    }
}

impl From<(usize, Classification)> for ClassifyItem {
    fn from((index, answer): (usize, Classification)) -> Self {
        let best = answer.best();
        ClassifyItem {
            index,
            label: best.label.clone(),
            score: best.score,
            num_classes: answer.num_classes,
            values: answer.value.into_iter().map(|v| (v.name, v.value)).collect(),
            tokens: answer.tokens,
            truncated: answer.truncated,
            scores: answer.scores.into_iter().map(Into::into).collect(),
        }
    }
}
