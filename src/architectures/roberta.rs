//! RoBERTa (Liu et al. 2019) and XLM-RoBERTa (Conneau et al. 2019): BERT's encoder with positions counted from
//! `pad_token_id + 1`, as in transformers `models/roberta/modeling_roberta.py`.

use super::{
    Architecture, ArchitectureError, DenseActivation, DenseSpec, LinearNames, Pooling, Source, bert::encoder_names,
};

pub(super) fn describe(source: &Source<'_>) -> Result<Architecture, ArchitectureError> {
    // XLM-RoBERTa's weights carry the prefix of RoBERTa.
    let prefix = source.prefix("roberta", "embeddings.word_embeddings.weight");
    let (hidden, labels) = (source.config.hidden_size, source.config.labels.len());
    let head = (source.has)("classifier.out_proj.weight").then(|| {
        let layers = vec![
            DenseSpec {
                names: LinearNames::of("classifier.dense", hidden, hidden),
                activation: Some(DenseActivation::Tanh),
            },
            DenseSpec { names: LinearNames::of("classifier.out_proj", labels, hidden), activation: None },
        ];
        source.head(Pooling::Cls, layers)
    });
    let spec = source.spec(source.config.pad_token_id + 1)?;
    Ok(Architecture { spec, encoder: encoder_names(source, &prefix), head })
}
