//! DistilBERT (Sanh et al. 2019), as in transformers `models/distilbert/modeling_distilbert.py`.

use super::{
    Architecture, ArchitectureError, DenseActivation, DenseSpec, EncoderNames, LayerNames, LinearNames, Pooling,
    Source, TableName,
};

pub(super) fn describe(source: &Source<'_>) -> Result<Architecture, ArchitectureError> {
    let prefix = source.prefix("distilbert", "embeddings.word_embeddings.weight");
    let config = source.config;
    let (hidden, labels) = (config.hidden_size, config.labels.len());
    let table = |name: &str, rows| TableName { weight: format!("{prefix}embeddings.{name}.weight"), rows };
    let layer = |index: usize| {
        let module = |name: &str| format!("{prefix}transformer.layer.{index}.{name}");
        let (attention, intermediate) = source.widths(index);
        let projection = |name: &str| LinearNames::of(&module(name), attention, hidden);
        LayerNames {
            query: projection("attention.q_lin"),
            key: projection("attention.k_lin"),
            value: projection("attention.v_lin"),
            attention_output: LinearNames::of(&module("attention.out_lin"), hidden, attention),
            attention_norm: source.norm(&module("sa_layer_norm")),
            ffn_up: LinearNames::of(&module("ffn.lin1"), intermediate, hidden),
            ffn_down: LinearNames::of(&module("ffn.lin2"), hidden, intermediate),
            output_norm: source.norm(&module("output_layer_norm")),
        }
    };
    let encoder = EncoderNames {
        word_embeddings: table("word_embeddings", config.vocab_size),
        position_embeddings: table("position_embeddings", config.max_position_embeddings),
        token_type_embeddings: None,
        embedding_norm: source.norm(&format!("{prefix}embeddings.LayerNorm")),
        layers: (0..config.num_hidden_layers).map(layer).collect(),
    };
    let head = (source.has)("pre_classifier.weight").then(|| {
        let layers = vec![
            DenseSpec {
                names: LinearNames::of("pre_classifier", hidden, hidden),
                activation: Some(DenseActivation::Relu),
            },
            DenseSpec { names: LinearNames::of("classifier", labels, hidden), activation: None },
        ];
        source.head(Pooling::Cls, layers)
    });
    Ok(Architecture { spec: source.spec(0)?, encoder, head })
}
