//! Float checkpoint → int8 checkpoint: an ordinary model folder that is a quarter of the size.
//!
//! Data-free: weights and embedding tables become symmetric int8 with one scale per row; activations are quantized
//! while the model runs, one scale per token, so nothing needs calibration. Biases, norms and heads stay float.
//! [`quantize`] is the run in reading order.

mod bias_correction;
mod calibrate;
mod error;
mod gptq;
mod judge;
mod linalg;
pub mod observers;
mod recipe;
pub mod report;
pub mod search;
mod sensitivity;
mod smooth;

use std::collections::BTreeMap;
use std::path::Path;

use crate::architectures::{self, Architecture, ArchitectureError};
use crate::checkpoint::{
    self, CheckpointError, Existing, LayerError, ModelDir, ModelFiles, QuantManifest, QuantizationConfig, Source,
    Tensor, Weights, write_model,
};
use crate::kernels::affine::{Scheme, quantize_weights};
use crate::runtime::SCHEME;

pub use bias_correction::corrected_bias;
pub use calibrate::{CalibrateOptions, Calibration, Inputs, site_of};
pub use error::error_of;
pub use gptq::{GptqOptions, Grid, Rounded, Symmetric, gptq};
pub use judge::{Answers, Judge, Verdict, compare};
pub use recipe::{LayerRule, RECIPES, Recipe, RecipeError, parse_scheme, scheme_name};
pub use sensitivity::{Module, Place, Replacement, probe, table};
pub use smooth::{column_max, factors, migrate};

/// What a run should write.
#[derive(Clone, Debug)]
pub struct QuantizeOptions {
    /// Where the source came from, for the record: a hub id, a package, a folder name.
    pub source_id: String,
    /// SPDX name of the source's licence.
    pub license: Option<String>,
    /// What to do when the destination exists.
    pub existing: Existing,
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct QuantizeReport {
    /// Error of every tensor that was quantized, in the order of the model.
    pub layers: Vec<LayerError>,
    /// Size of the same weights in f32, in bytes.
    pub f32_bytes: u64,
    /// Size of the weights that were written, in bytes.
    pub int8_bytes: u64,
    /// Tensors of the source that the architecture has no use for.
    pub left_out: Vec<String>,
}

/// Why a model could not be quantized.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// Reading or writing.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// An unknown family or option.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// The source holds integers already.
    #[error("{0} is quantized already; give the float model it was made from")]
    AlreadyQuantized(String),
    /// The source holds only a head.
    #[error("{0} holds only a head on another folder's encoder; quantize that folder")]
    HeadOnly(String),
}

/// Quantizes the model of `source` into the folder `destination`; `progress` hears each tensor's name before its turn
/// and how many there are.
///
/// # Errors
/// [`QuantizeError`]; the destination is then as it was.
pub fn quantize(
    source: &ModelDir,
    destination: &Path,
    options: &QuantizeOptions,
    mut progress: impl FnMut(&str, usize),
) -> Result<QuantizeReport, QuantizeError> {
    if source.is_head_only() {
        return Err(QuantizeError::HeadOnly(source.path().display().to_string()));
    }
    if source.quantization().is_some() {
        return Err(QuantizeError::AlreadyQuantized(source.path().display().to_string()));
    }
    let mut weights = source.weights()?;
    let architecture = architectures::describe(source.config(), &|name| weights.contains(name))?;
    let plan = Plan::of(&architecture, source.config().hidden_size);
    let total = plan.int8.len() + plan.float.len();

    let (mut tensors, mut layers, mut f32_bytes) = (BTreeMap::new(), Vec::new(), 0);
    for (name, shape) in &plan.int8 {
        progress(name, total);
        let (stored, error) = to_int8(name, shape, &mut weights)?;
        f32_bytes += 4 * shape.iter().product::<usize>() as u64;
        layers.push(error);
        tensors.insert(name.clone(), stored);
    }
    for (name, shape) in &plan.float {
        progress(name, total);
        f32_bytes += 4 * shape.iter().product::<usize>() as u64;
        tensors.insert(name.clone(), weights.take(name, shape)?);
    }
    let left_out = weights.remaining().map(str::to_string).collect();

    let manifest = QuantManifest {
        recipe: checkpoint::Recipe {
            scheme: SCHEME.into(),
            weights: "int8 symmetric per channel".into(),
            embeddings: "int8 symmetric per row".into(),
            activations: "uint8 asymmetric per token, dynamic".into(),
            ignore: plan.ignored(),
        },
        source: Source {
            id: options.source_id.clone(),
            sha256: source.digest().into(),
            license: options.license.clone(),
        },
        f32_bytes,
        layers: layers.clone(),
        ..QuantManifest::new()
    };
    let quantization = QuantizationConfig::int8(plan.ignored());
    let files = ModelFiles {
        config: source.config().raw.clone(),
        quantization: Some(&quantization),
        tensors,
        inputs: BTreeMap::new(),
        manifest: Some(&manifest),
        copy_from: Some(source.path()),
        extra: BTreeMap::new(),
    };
    write_model(destination, &files, options.existing)?;
    let int8_bytes = ModelDir::open(destination)?.weight_bytes();
    Ok(QuantizeReport { layers, f32_bytes, int8_bytes, left_out })
}

/// Every weight of a model by name and shape, and whether it becomes int8.
struct Plan {
    int8: Vec<(String, Vec<usize>)>,
    float: Vec<(String, Vec<usize>)>,
    head: Vec<String>,
}

impl Plan {
    fn of(architecture: &Architecture, hidden: usize) -> Self {
        let names = &architecture.encoder;
        let mut int8: Vec<_> = names.tables().map(|t| (t.weight.clone(), vec![t.rows, hidden])).collect();
        let mut float = Vec::new();
        let mut norm = |n: &architectures::NormNames| {
            float.push((n.weight.clone(), vec![hidden]));
            float.push((n.bias.clone(), vec![hidden]));
        };
        norm(&names.embedding_norm);
        for layer in &names.layers {
            norm(&layer.attention_norm);
            norm(&layer.output_norm);
        }
        for linear in names.layers.iter().flat_map(|l| l.linears()) {
            int8.push((linear.weight.clone(), vec![linear.outputs, linear.inputs]));
            float.push((linear.bias.clone(), vec![linear.outputs]));
        }
        let mut head = Vec::new();
        for layer in architecture.head.iter().flat_map(|h| &h.layers) {
            let n = &layer.names;
            float.push((n.weight.clone(), vec![n.outputs, n.inputs]));
            float.push((n.bias.clone(), vec![n.outputs]));
            head.push(n.weight.trim_end_matches(".weight").to_string());
        }
        Plan { int8, float, head }
    }

    /// Modules that stay float although their class is quantized: the head.
    fn ignored(&self) -> Vec<String> {
        self.head.clone()
    }
}

/// One tensor in int8, and how far it is from what it was.
fn to_int8(name: &str, shape: &[usize], weights: &mut Weights) -> Result<(Tensor, LayerError), CheckpointError> {
    let original = weights.take(name, shape)?.into_f32();
    let quantized = quantize_weights(&original, shape[0], shape[1], Scheme::INT8);
    let error = error_of(name, &original, &quantized.dequantize());
    Ok((Tensor::Quantized(quantized), error))
}
