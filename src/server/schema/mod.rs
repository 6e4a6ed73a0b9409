//! JSON in and out, and the way from a request to a task's inputs. What a request may say is checked here; what a
//! model accepts is checked by its pipeline.
//!
//! One file per route, each with the request type, its conversion, and the items of the answer. The types derive
//! their OpenAPI schema, so `/openapi.json` shows what is really read.

pub(super) mod classify;
pub(super) mod embeddings;
pub(super) mod feedback;
pub(super) mod models;
pub(super) mod predict;
pub(super) mod summarize;

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// A request as a task understands it.
pub(super) struct TaskRequest<I, O> {
    /// The model that was asked for; the task's default model when absent.
    pub model: Option<String>,
    /// How long the client waits, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// The inputs, in the order of the request.
    pub inputs: Vec<I>,
    /// Characters of all inputs.
    pub characters: usize,
    /// Options shared by all inputs.
    pub options: O,
}

/// One text or a list of texts.
#[derive(Debug, PartialEq)]
pub(super) struct TextInput(pub Vec<String>);

impl TextInput {
    fn characters(&self) -> usize {
        self.0.iter().map(|text| text.chars().count()).sum()
    }
}

impl<'de> Deserialize<'de> for TextInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = TextInput;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_string<E>(self, text: String) -> Result<TextInput, E> {
                Ok(TextInput(vec![text]))
            }

            fn visit_str<E>(self, text: &str) -> Result<TextInput, E> {
                Ok(TextInput(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<TextInput, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(TextInput(texts))
            }
        }

        deserializer.deserialize_any(OneOrMany)
    }
}

impl PartialSchema for TextInput {
    fn schema() -> RefOr<Schema> {
        let list = ArrayBuilder::new().items(string_schema());
        OneOfBuilder::new().item(string_schema()).item(list).description(Some("One text, or a list of texts.")).into()
    }
}

impl ToSchema for TextInput {}

fn string_schema() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// The outer JSON of every `/v1` task.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ListResponse<T: ToSchema> {
    /// Made from the request id.
    #[schema(example = "cls-5f0c6f2b7d3e4a19b0c1d2e3f4a5b6c7")]
    pub id: String,
    /// Always `list`.
    #[schema(example = "list")]
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model that answered.
    #[schema(example = "sentiment")]
    pub model: String,
    /// One item per input, in order.
    pub data: Vec<T>,
    /// What it cost.
    pub usage: Usage,
}

/// Tokens read, special tokens included.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Usage {
    /// Tokens of the inputs.
    pub prompt_tokens: usize,
    /// The same: nothing is generated.
    pub total_tokens: usize,
}

impl Usage {
    pub(super) fn of(tokens: usize) -> Self {
        Usage { prompt_tokens: tokens, total_tokens: tokens }
    }
}
