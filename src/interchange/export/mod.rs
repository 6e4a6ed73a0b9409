//! A model folder → what other programs read.

mod graph;
mod onnx;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use crate::architectures::{self, Architecture, HeadSpec, Pooling};
use crate::checkpoint::{
    Existing, LayerConfig, ModelDir, ModelFiles, QuantizationConfig, QuantizationGroup, Tensor, Weights, write_file,
    write_folder, write_model,
};
use crate::kernels::affine::{Inputs, Levels, Scheme, quantize_weights};

use super::InterchangeError;
use onnx::{Failure, Parts};

/// A format that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// A folder with `model.onnx`, for ONNX Runtime and others.
    Onnx,
    /// A folder as the compressed-tensors package, Transformers and vLLM load it.
    CompressedTensors,
}

/// Writes the model of `source` into the folder `destination`.
///
/// # Errors
/// [`InterchangeError`] when the destination is taken, or the format has no place for something that the model has.
pub fn export(
    source: &ModelDir,
    destination: &Path,
    format: ExportFormat,
    existing: Existing,
) -> Result<(), InterchangeError> {
    match format {
        ExportFormat::Onnx => export_onnx(source, destination, existing),
        ExportFormat::CompressedTensors => export_compressed_tensors(source, destination, existing),
    }
}

fn describe(dir: &ModelDir, weights: &Weights) -> Result<Architecture, InterchangeError> {
    architectures::describe(dir.config(), &|name| weights.contains(name))
        .map_err(|source| InterchangeError::Architecture { path: dir.path().join("config.json"), source })
}

/// The labels and what the logits mean, for whoever runs the graph; all values are text, as the format has it.
fn metadata(source: &ModelDir, architecture: &Architecture, head: Option<&HeadSpec>) -> Vec<(&'static str, String)> {
    let pooling = source.encoder().pooling();
    let positions = architecture.spec.max_tokens();
    let max_tokens = pooling.and_then(|p| p.max_seq_length).map_or(positions, |m| m.min(positions));
    let mut entries = vec![
        ("family", architecture.spec.family.clone()),
        ("max_tokens", max_tokens.to_string()),
        ("source_sha256", source.digest().to_string()),
    ];
    if let Some(head) = head {
        entries.push(("labels", json!(head.labels).to_string()));
        entries.push(("problem_type", format!("{:?}", head.problem_type)));
        entries.extend(head.value.clone().map(|name| ("value", name)));
        let temperature = source.manifest().and_then(|m| m.temperature).unwrap_or(1.0);
        entries.push(("temperature", temperature.to_string()));
    }
    entries
}

fn export_onnx(source: &ModelDir, destination: &Path, existing: Existing) -> Result<(), InterchangeError> {
    let mut weights = source.encoder().weights()?;
    let architecture = describe(source.encoder(), &weights)?;
    let mut own = source.is_head_only().then(|| source.weights()).transpose()?;
    let trained = architectures::trained_head(source.config());
    let head = trained.as_ref().or(architecture.head.as_ref());
    let pooling = source.encoder().pooling();
    let metadata = metadata(source, &architecture, head);
    let graph = onnx::build(Parts {
        architecture: &architecture,
        weights: &mut weights,
        head_weights: own.as_mut(),
        head,
        pooling: pooling.map_or(Pooling::Mean, |p| p.pooling),
        normalize: pooling.is_some_and(|p| p.normalize),
    });
    let graph = graph.map_err(|failure| match failure {
        Failure::Checkpoint(error) => error.into(),
        Failure::Refused(reason) => InterchangeError::refused(source.path(), reason),
    })?;
    let mut config = source.config().raw.clone();
    config.shift_remove("quantization_config");
    config.shift_remove("octet");
    let tokenizer =
        std::fs::read(source.tokenizer_path()).map_err(InterchangeError::io("read", &source.tokenizer_path()))?;
    let files = [
        ("model.onnx", graph.into_model(&metadata)),
        ("config.json", serde_json::to_vec_pretty(&config).expect("a JSON object can be written")),
        ("tokenizer.json", tokenizer),
    ];
    Ok(write_folder(destination, existing, |folder| {
        files.iter().try_for_each(|(name, content)| write_file(folder, name, content))
    })?)
}

/// Transformers loads integers for linear layers only: tables become f32, and modules that its classes have but the
/// folder has not (poolers) are named among those that stay float.
fn export_compressed_tensors(
    source: &ModelDir,
    destination: &Path,
    existing: Existing,
) -> Result<(), InterchangeError> {
    if source.config().octet.is_some() {
        let reason = "a head of Octet, which no class of Transformers has; export its encoder, or the whole as ONNX";
        return Err(InterchangeError::refused(source.path(), reason));
    }
    if source.quantization().is_some_and(|quantization| !quantization.smoothed.is_empty()) {
        let reason = "smoothed inputs, for which compressed-tensors has no place; export it as ONNX, or quantize without \
                      smoothing";
        return Err(InterchangeError::refused(source.path(), reason));
    }
    let config = source.config();
    let whole = |l: &LayerConfig| (l.heads.len(), l.intermediate_size);
    if config.layers.iter().any(|l| whole(l) != (config.num_attention_heads, config.intermediate_size)) {
        let reason =
            "layers of different sizes (it was pruned), which no class of Transformers 5 has; export it as ONNX";
        return Err(InterchangeError::refused(source.path(), reason));
    }
    let mut weights = source.weights()?;
    let architecture = describe(source, &weights)?;
    let tables: Vec<&str> = architecture.encoder.tables().map(|t| t.weight.as_str()).collect();
    let is_float = source.quantization().is_none();
    let heads: Vec<&str> = architecture.head_linears().map(|names| names.weight.as_str()).collect();
    let linears: Vec<&str> =
        architecture.encoder.layers.iter().flat_map(|l| l.linears()).map(|l| l.weight.as_str()).collect();
    let (mut tensors, mut inputs) = (BTreeMap::new(), BTreeMap::new());
    for (name, shape) in architecture.weights() {
        let tensor = match weights.take(&name, &shape)? {
            Tensor::Quantized(q) if tables.contains(&name.as_str()) => {
                Tensor::F32 { shape: q.shape.to_vec(), data: q.dequantize() }
            }
            Tensor::F32 { data, .. } if is_float && linears.contains(&name.as_str()) => {
                Tensor::Quantized(quantize_weights(&data, shape[0], shape[1], Scheme::INT8))
            }
            tensor => tensor,
        };
        if linears.contains(&name.as_str())
            && let Inputs::Static(params) = weights.inputs(&name)?
        {
            inputs.insert(name.trim_end_matches(".weight").to_string(), params);
        }
        tensors.insert(name, tensor);
    }
    let module = |name: &&str| name.trim_end_matches(".weight").to_string();
    let mut quantization = match source.quantization() {
        Some(config) => config.clone(),
        None => QuantizationConfig::int8(heads.iter().map(module).collect()),
    };
    let used = quantization.clone();
    let used: Vec<&QuantizationGroup> = linears.iter().filter_map(|name| used.group_of(&module(name))).collect();
    if let Some(group) = used.iter().find(|group| group.weights.levels == Levels::Binary) {
        let reason = format!("{} weights, for which compressed-tensors has no format", group.weights);
        return Err(InterchangeError::refused(source.path(), reason));
    }
    quantization.groups.retain(|group| used.contains(&group));
    quantization.ignore.extend(tables.iter().map(module));
    // The encoders of Transformers have a pooler, with or without the prefix of their family, that Octet does not keep.
    if !tensors.keys().any(|name| name.ends_with("pooler.dense.weight")) {
        quantization.ignore.push("re:.*pooler.dense$".into());
    }
    let files = ModelFiles {
        config: source.config().raw.clone(),
        quantization: (!quantization.groups.is_empty()).then_some(&quantization),
        tensors,
        inputs,
        copy_from: Some(source.path()),
        ..ModelFiles::default()
    };
    Ok(write_model(destination, &files, existing)?)
}
