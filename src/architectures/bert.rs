//! BERT (Devlin et al. 2018), as in transformers `models/bert/modeling_bert.py`.

use super::{
    Architecture, ArchitectureError, DenseActivation, DenseSpec, EncoderNames, LayerNames, LinearNames, Pooling,
    Source, TableName,
};

pub(super) fn describe(source: &Source<'_>) -> Result<Architecture, ArchitectureError> {
    let prefix = source.prefix("bert", "embeddings.word_embeddings.weight");
    let (hidden, labels) = (source.config.hidden_size, source.config.labels.len());
    let head = (source.has)("classifier.weight").then(|| {
        let pooler = LinearNames::of(&format!("{prefix}pooler.dense"), hidden, hidden);
        let layers = vec![
            DenseSpec { names: pooler, activation: Some(DenseActivation::Tanh) },
            DenseSpec { names: LinearNames::of("classifier", labels, hidden), activation: None },
        ];
        source.head(Pooling::Cls, layers)
    });
    Ok(Architecture { spec: source.spec(0)?, encoder: encoder_names(source, &prefix), head })
}

/// Names of a BERT encoder; RoBERTa uses the same ones under its own prefix.
pub(super) fn encoder_names(source: &Source<'_>, prefix: &str) -> EncoderNames {
    let config = source.config;
    let hidden = config.hidden_size;
    let table = |name: &str, rows| TableName { weight: format!("{prefix}embeddings.{name}.weight"), rows };
    let types = config.type_vocab_size;
    let layer = |index: usize| {
        let module = |name: &str| format!("{prefix}encoder.layer.{index}.{name}");
        let (attention, intermediate) = source.widths(index);
        let projection = |name: &str| LinearNames::of(&module(name), attention, hidden);
        LayerNames {
            query: projection("attention.self.query"),
            key: projection("attention.self.key"),
            value: projection("attention.self.value"),
            attention_output: LinearNames::of(&module("attention.output.dense"), hidden, attention),
            attention_norm: source.norm(&module("attention.output.LayerNorm")),
            ffn_up: LinearNames::of(&module("intermediate.dense"), intermediate, hidden),
            ffn_down: LinearNames::of(&module("output.dense"), hidden, intermediate),
            output_norm: source.norm(&module("output.LayerNorm")),
        }
    };
    EncoderNames {
        word_embeddings: table("word_embeddings", config.vocab_size),
        position_embeddings: table("position_embeddings", config.max_position_embeddings),
        token_type_embeddings: (types > 0).then(|| table("token_type_embeddings", types)),
        embedding_norm: source.norm(&format!("{prefix}embeddings.LayerNorm")),
        layers: (0..config.num_hidden_layers).map(layer).collect(),
    }
}
