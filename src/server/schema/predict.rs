//! `POST /predict`, as text-embeddings-inference has it.
//!
//! `inputs` keeps its meaning there: a string is one text, a flat list of two strings is **one pair**, a list of lists
//! is a batch. `{"text", "text_pair"}` objects are accepted wherever a text is.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::schema::{ArrayBuilder, OneOfBuilder};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::pipelines::{Classification, ClassifyInput, ClassifyOptions, OutputActivation, PipelineError};
use crate::server::error::ApiError;
use crate::server::json::OBJECT_OR_ELSE;

use super::classify::{Activation, PAIR_FIELDS, ScoreItem, TextPair, characters};
use super::{TaskRequest, string_schema};

/// Classify one text, one pair, or a batch.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"inputs": [["The staff were kind."], ["It broke after a day."]]}))]
pub(in crate::server) struct PredictRequest {
    /// `"a"` is one text, `["a", "b"]` one pair, `[["a"], ["b"]]` a batch of two texts, `[["a", "b"], ["c", "d"]]` a
    /// batch of two pairs.
    pub inputs: PredictInputs,
    /// Cut an over-long text (the default), or refuse it.
    pub truncate: Option<bool>,
    /// Which end of an over-long text is cut; only `right` is supported.
    pub truncation_direction: Option<TruncationDirection>,
    /// Return logits instead of scores.
    pub raw_scores: Option<bool>,
    /// How logits become scores; what the model's problem type implies when absent.
    pub function_to_apply: Option<Activation>,
    /// Return only the best labels, at least 1; all when absent.
    pub top_k: Option<usize>,
    /// Leave out labels with a lower score, 0 to 1; the best one stays.
    pub threshold: Option<f32>,
    /// Which model; the default classifier when absent.
    pub model: Option<String>,
    /// How many milliseconds the client waits.
    pub timeout_ms: Option<u64>,
}

/// Which end of an over-long text is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::server) enum TruncationDirection {
    /// The beginning.
    #[serde(alias = "Left")]
    Left,
    /// The end.
    #[serde(alias = "Right")]
    Right,
}

/// What stands under `inputs`; its shape says what it means.
#[derive(Debug, Deserialize)]
pub(in crate::server) struct PredictInputs(Element);

/// A value at the outer level of `inputs`, or inside its list.
#[derive(Debug)]
enum Element {
    Text(String),
    Pair(TextPair),
    List(Vec<Element>),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ElementVisitor;

        impl<'de> Visitor<'de> for ElementVisitor {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(r#"a string, an object {"text", "text_pair"}, or a list of these"#)
            }

            fn visit_str<E>(self, text: &str) -> Result<Element, E> {
                Ok(Element::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Element, E> {
                Ok(Element::Text(text))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Element, A::Error> {
                TextPair::deserialize(MapAccessDeserializer::new(map)).map(Element::Pair)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Element, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = list.next_element()? {
                    elements.push(element);
                }
                Ok(Element::List(elements))
            }
        }

        deserializer.deserialize_struct(OBJECT_OR_ELSE, PAIR_FIELDS, ElementVisitor)
    }
}

/// What a flat list of the wrong length is told.
const FLAT_LIST: &str = r#"a flat list of strings is one pair and needs exactly two of them; write a batch of texts as [["a"], ["b"], ["c"]]"#;

impl PredictInputs {
    /// The inputs in order, and whether they are a batch: then the answer is a list of lists.
    fn into_inputs(self) -> Result<(Vec<ClassifyInput>, bool), ApiError> {
        let invalid = |message| ApiError::invalid("inputs", message);
        let elements = match self.0 {
            Element::List(elements) => elements,
            one => return Ok((vec![one.into_input().map_err(invalid)?], false)),
        };
        if elements.is_empty() {
            return Err(PipelineError::NoInput.into());
        }
        let texts = elements.iter().filter(|e| matches!(e, Element::Text(_))).count();
        if texts == elements.len() {
            let pair = match elements.len() {
                2 => Element::List(elements).into_input(),
                _ => Err(FLAT_LIST),
            };
            return Ok((vec![pair.map_err(invalid)?], false));
        }
        if texts > 0 {
            return Err(invalid(r#"strings and lists cannot stand in the same list; write each text as ["a"]"#));
        }
        let at = |index| move |message| ApiError::invalid(format!("inputs[{index}]"), message).index(Some(index));
        let inputs = elements.into_iter().enumerate().map(|(i, e)| e.into_input().map_err(at(i)));
        Ok((inputs.collect::<Result<_, _>>()?, true))
    }
}

impl Element {
    /// One input: a text, an object, or a list of one or two strings.
    fn into_input(self) -> Result<ClassifyInput, &'static str> {
        let elements = match self {
            Element::Text(text) => return Ok(ClassifyInput { text, text_pair: None }),
            Element::Pair(pair) => return Ok(pair.into()),
            Element::List(elements) => elements,
        };
        let texts = elements.into_iter().map(|element| match element {
            Element::Text(text) => Ok(text),
            Element::Pair(_) | Element::List(_) => Err("a list inside a batch holds strings only"),
        });
        let texts: Vec<String> = texts.collect::<Result<_, _>>()?;
        let mut texts = texts.into_iter();
        match (texts.next(), texts.next(), texts.next()) {
            (Some(text), text_pair, None) => Ok(ClassifyInput { text, text_pair }),
            _ => Err("a list inside a batch is a text or a pair: it holds one or two strings"),
        }
    }
}

impl PartialSchema for PredictInputs {
    fn schema() -> RefOr<Schema> {
        let one = || OneOfBuilder::new().item(string_schema()).item(TextPair::schema());
        let inner = one().item(ArrayBuilder::new().items(string_schema()));
        one().item(ArrayBuilder::new().items(inner)).into()
    }
}

impl ToSchema for PredictInputs {}

impl PredictRequest {
    /// The task, and whether the answer is a list of lists.
    pub(in crate::server) fn into_task(self) -> Result<(TaskRequest<ClassifyInput, ClassifyOptions>, bool), ApiError> {
        if self.truncation_direction == Some(TruncationDirection::Left) {
            return Err(ApiError::invalid("truncation_direction", "only \"right\" is supported"));
        }
        let raw = self.raw_scores == Some(true);
        if raw && self.function_to_apply.is_some_and(|activation| activation != Activation::None) {
            let message = "contradicts \"raw_scores\": true; give one of the two";
            return Err(ApiError::invalid("function_to_apply", message));
        }
        let activation = if raw { Some(OutputActivation::None) } else { self.function_to_apply.map(Into::into) };
        let (inputs, batch) = self.inputs.into_inputs()?;
        let options = ClassifyOptions {
            top_k: self.top_k,
            threshold: self.threshold,
            activation,
            truncate: self.truncate.unwrap_or(true),
        };
        let characters = characters(&inputs);
        Ok((TaskRequest { model: self.model, timeout_ms: self.timeout_ms, inputs, characters, options }, batch))
    }
}

/// All labels of one input, best first; or a list of these for a batch.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(in crate::server) enum PredictResponse {
    /// For one text or one pair.
    One(Vec<ScoreItem>),
    /// For a batch, in the order of the request.
    Batch(Vec<Vec<ScoreItem>>),
}

impl PredictResponse {
    pub(in crate::server) fn new(answers: Vec<Classification>, batch: bool) -> Self {
        let mut lists = answers.into_iter().map(|answer| answer.scores.into_iter().map(Into::into).collect());
        if batch {
            return PredictResponse::Batch(lists.collect());
        }
        PredictResponse::One(lists.next().unwrap_or_default())
    }
}
