//! Models as their papers describe them: `config.json` and weight names → an [`EncoderSpec`] plus a list of
//! named weights with roles. No arithmetic lives here, and no file names a precision.
//!
//! Start with [`describe`]; [`Encoder`] is what both executors (`nn` and `runtime`) implement.

mod bert;
mod distilbert;
mod encoder;
mod head;
mod names;
mod ragged;
mod roberta;

use crate::checkpoint::{LayerConfig, ModelConfig};

pub use crate::checkpoint::{Pooling, ProblemType};
pub use encoder::{Activation, Encoder, EncoderSpec, EncoderTeam, EncoderWorkspace, LayerSpec};
pub use head::{DenseActivation, DenseSpec, HeadSpec};
pub use names::{EncoderNames, LayerNames, LinearNames, NormNames, TableName};
pub use ragged::RaggedBatch;

/// Families that Octet runs, by `model_type`.
pub const FAMILIES: [&str; 4] = ["bert", "distilbert", "roberta", "xlm-roberta"];

/// One model: sizes, weight names, and its classification head when it has one.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// Sizes and options of the encoder.
    pub spec: EncoderSpec,
    /// Weight names of the encoder by role.
    pub encoder: EncoderNames,
    /// Present when the weights hold a classification head.
    pub head: Option<HeadSpec>,
}

impl Architecture {
    /// Every weight of the model with its shape: tables, norms, linear layers, and those of the head.
    pub fn weights(&self) -> Vec<(String, Vec<usize>)> {
        let (names, hidden) = (&self.encoder, self.spec.hidden_size);
        let mut weights: Vec<_> = names.tables().map(|t| (t.weight.clone(), vec![t.rows, hidden])).collect();
        let norms = names.layers.iter().flat_map(|l| [&l.attention_norm, &l.output_norm]);
        for norm in norms.chain([&names.embedding_norm]) {
            weights.extend([(norm.weight.clone(), vec![hidden]), (norm.bias.clone(), vec![hidden])]);
        }
        for linear in names.layers.iter().flat_map(|l| l.linears()).chain(self.head_linears()) {
            weights.push((linear.weight.clone(), vec![linear.outputs, linear.inputs]));
            weights.push((linear.bias.clone(), vec![linear.outputs]));
        }
        weights
    }

    /// The linear layers of the head, from the pooled vector to the logits; none without a head.
    pub fn head_linears(&self) -> impl Iterator<Item = &LinearNames> {
        self.head.iter().flat_map(|head| &head.layers).map(|layer| &layer.names)
    }
}

/// Why a model cannot be described.
#[derive(Debug, thiserror::Error)]
pub enum ArchitectureError {
    /// A family that Octet does not know.
    #[error("model_type \"{found}\" is not supported; supported are {}", FAMILIES.join(", "))]
    Family { found: String },
    /// An activation that Octet does not know.
    #[error(
        "hidden_act \"{found}\" is not supported; supported are gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, relu"
    )]
    Activation { found: String },
    /// A position table without a row for the first token.
    #[error(
        "\"max_position_embeddings\" is {rows}, but the first token has position {offset} (pad_token_id + 1); it must be \
         larger"
    )]
    Positions { offset: usize, rows: usize },
}

/// What a family's file is asked: sizes from `config.json`, and which weight names exist.
struct Source<'a> {
    config: &'a ModelConfig,
    has: &'a dyn Fn(&str) -> bool,
}

/// Describes the model of a `config.json`; `has` tells whether the checkpoint holds a weight of that name.
///
/// # Errors
/// [`ArchitectureError`] naming what is not supported, and what is.
pub fn describe(config: &ModelConfig, has: &dyn Fn(&str) -> bool) -> Result<Architecture, ArchitectureError> {
    let source = Source { config, has };
    let described = match config.model_type.as_str() {
        "bert" => bert::describe(&source),
        "distilbert" => distilbert::describe(&source),
        "roberta" | "xlm-roberta" => roberta::describe(&source),
        found => Err(ArchitectureError::Family { found: found.to_string() }),
    };
    // A head of ours takes the place of the family's.
    described.map(|a| Architecture { head: trained_head(config).or(a.head), ..a })
}

/// The head that `octet train` writes, when the file says that there is one: pooling, `head.dense` with tanh,
/// `head.out`.
pub fn trained_head(config: &ModelConfig) -> Option<HeadSpec> {
    let head = &config.octet.as_ref()?.head;
    let outputs = config.labels.len() + usize::from(head.value.is_some());
    let layers = trained_layers(config.hidden_size, outputs);
    let spec = Source { config, has: &|_| true }.head(head.pooling, layers);
    Some(HeadSpec { value: head.value.clone(), ..spec })
}

/// The layers of [`trained_head`], for an encoder of width `hidden`.
pub fn trained_layers(hidden: usize, outputs: usize) -> Vec<DenseSpec> {
    vec![
        DenseSpec { names: LinearNames::of("head.dense", hidden, hidden), activation: Some(DenseActivation::Tanh) },
        DenseSpec { names: LinearNames::of("head.out", outputs, hidden), activation: None },
    ]
}

/// The sizes of a block, as the file states them.
pub fn layer_spec(layer: &LayerConfig) -> LayerSpec {
    LayerSpec { num_heads: layer.heads.len(), intermediate_size: layer.intermediate_size }
}

impl Source<'_> {
    /// The prefix that a family's classes put before encoder weights, when this checkpoint has it.
    fn prefix(&self, family: &str, probe: &str) -> String {
        let prefixed = format!("{family}.");
        if (self.has)(&format!("{prefixed}{probe}")) { prefixed } else { String::new() }
    }

    /// The options that all families share.
    fn spec(&self, position_offset: usize) -> Result<EncoderSpec, ArchitectureError> {
        let c = self.config;
        if position_offset >= c.max_position_embeddings {
            return Err(ArchitectureError::Positions { offset: position_offset, rows: c.max_position_embeddings });
        }
        Ok(EncoderSpec {
            family: c.model_type.clone(),
            vocab_size: c.vocab_size,
            hidden_size: c.hidden_size,
            head_dim: c.head_dim(),
            layers: c.layers.iter().map(layer_spec).collect(),
            max_positions: c.max_position_embeddings,
            position_offset,
            type_vocab_size: c.type_vocab_size,
            activation: match c.hidden_act.as_str() {
                "gelu" => Activation::Gelu,
                "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Activation::GeluTanh,
                "relu" => Activation::Relu,
                found => return Err(ArchitectureError::Activation { found: found.to_string() }),
            },
            layer_norm_eps: c.layer_norm_eps,
        })
    }

    /// A head with the labels and the problem type of `config.json`. Without a stated type the outputs are classes, as
    /// in transformers `pipelines/text_classification.py`: only "regression" makes one output a plain number.
    fn head(&self, pooling: Pooling, layers: Vec<DenseSpec>) -> HeadSpec {
        let labels = self.config.labels.clone();
        let problem_type = self.config.problem_type.unwrap_or(ProblemType::SingleLabel);
        HeadSpec { pooling, layers, labels, problem_type, value: None }
    }

    /// Widths of attention and of the feed-forward network of a block.
    fn widths(&self, layer: usize) -> (usize, usize) {
        let layer = &self.config.layers[layer];
        (layer.heads.len() * self.config.head_dim(), layer.intermediate_size)
    }

    fn norm(&self, module: &str) -> NormNames {
        NormNames::of(module, self.has)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(changes: serde_json::Value) -> ModelConfig {
        let mut config = serde_json::json!({
            "model_type": "roberta", "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 8, "vocab_size": 9, "max_position_embeddings": 16, "id2label": {"0": "score"},
        });
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        ModelConfig::parse(config.to_string().as_bytes(), std::path::Path::new("config.json")).unwrap()
    }

    #[test]
    fn one_output_is_a_number_only_when_the_file_says_regression() {
        let problem_type = |changes| describe(&config(changes), &|_| true).unwrap().head.unwrap().problem_type;
        assert_eq!(problem_type(serde_json::json!({})), ProblemType::SingleLabel);
        assert_eq!(problem_type(serde_json::json!({"problem_type": "regression"})), ProblemType::Regression);
    }

    #[test]
    fn a_position_table_without_room_for_a_token_is_refused() {
        let described =
            |positions| describe(&config(serde_json::json!({"max_position_embeddings": positions})), &|_| true);
        assert_eq!(described(3).unwrap().spec.max_tokens(), 1);
        let message = described(2).unwrap_err().to_string();
        assert!(message.contains("\"max_position_embeddings\" is 2") && message.contains("position 2"), "{message}");
    }
}
