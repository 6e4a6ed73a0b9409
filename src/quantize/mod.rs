//! Float checkpoint → quantized checkpoint: an ordinary model folder that is a quarter of the size, or less.
//!
//! A [`Recipe`] says in which scheme each matrix and table is stored. The default needs no data: int8 with one scale
//! per row, and activations that are quantized while the model runs, one scale per token. Biases, norms and heads stay
//! float. [`quantize`] is the run in reading order.
//!
//! With texts more can be done: [`Calibration`] sees what enters the layers (ranges, [`gptq()`], [`corrected_bias`]), a
//! [`Judge`] compares answers with the float model's, [`Bound`] acts on it, and a [`Workbench`] measures each layer
//! alone and searches a mix.

mod bias_correction;
mod calibrate;
mod error;
mod gate;
mod gptq;
mod judge;
mod linalg;
pub mod observers;
mod original;
mod recipe;
pub mod report;
mod rounding;
pub mod search;
mod sensitivity;
mod smooth;
mod timing;
mod tune;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use crate::architectures::{self, Architecture, ArchitectureError};
use crate::checkpoint::{
    CheckpointError, Existing, InputConfig, LayerError, ModelDir, ModelFiles, QuantManifest, QuantizationConfig,
    QuantizationGroup, Source, Tensor, write_model,
};
use crate::kernels::affine::{Inputs, Scheme};
use crate::pipelines::PipelineError;
use crate::text::TokenizerError;

pub use bias_correction::corrected_bias;
pub use calibrate::{CalibrateOptions, Calibration, Seen, Smoothing, site_of};
pub use error::error_of;
pub use gate::{Bound, OnFailure, Passed};
pub use gptq::{GptqOptions, Grid, Rounded, Symmetric, gptq};
pub use judge::{Answers, Judge, Verdict, compare};
pub use original::{Form, Original};
pub use recipe::{LayerRule, RECIPES, Recipe, RecipeError, parse_scheme, scheme_name, smoothing_strength};
pub use rounding::Rounding;
pub use sensitivity::{Module, Place, Replacement, probe, table};
pub use smooth::factors;
pub use timing::{TIMED_TOKENS, product_seconds};
pub use tune::{Forms, TuneOptions, Tuned, Workbench};

/// What a run should write.
#[derive(Clone, Debug)]
pub struct QuantizeOptions {
    /// Where the source came from, for the record: a hub id, a package, a folder name.
    pub source_id: String,
    /// SPDX name of the source's licence.
    pub license: Option<String>,
    /// What to do when the destination exists.
    pub existing: Existing,
    /// The scheme of each layer.
    pub recipe: Recipe,
    /// Layers that were made beforehand, by module, as with calibration texts; the others are made from the recipe.
    pub made: BTreeMap<String, Form>,
}

impl QuantizeOptions {
    /// The default recipe into a new folder.
    pub fn new(source_id: &str) -> Self {
        QuantizeOptions {
            source_id: source_id.into(),
            license: None,
            existing: Existing::Refuse,
            recipe: Recipe::default(),
            made: BTreeMap::new(),
        }
    }
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct QuantizeReport {
    /// Error of every tensor that was quantized, in the order of the model.
    pub layers: Vec<LayerError>,
    /// Size of the same weights in f32, in bytes.
    pub f32_bytes: u64,
    /// Size of the weights that were written, in bytes.
    pub bytes: u64,
    /// Tensors of the source that the architecture has no use for.
    pub left_out: Vec<String>,
    /// Exceptions of the recipe that mean no layer of this model.
    pub unmatched: Vec<String>,
}

/// Why a model could not be quantized.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// Reading or writing.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A text that the model refuses.
    #[error(transparent)]
    Text(#[from] PipelineError),
    /// An unknown family or option.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// A tokenizer that cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The float executor.
    #[error("the float model cannot be run: {0}")]
    Float(#[from] candle_core::Error),
    /// The source holds integers already.
    #[error("{0} is quantized already; give the float model it was made from")]
    AlreadyQuantized(String),
    /// A recipe that needs to see activations.
    #[error("{0} has static inputs, whose ranges are found on texts; give some with --calibrate")]
    NeedsCalibration(String),
    /// A scheme whose groups do not fit.
    #[error("{module}: {scheme} does not fit rows of {columns} weights; the group must divide them")]
    Groups { module: String, scheme: String, columns: usize },
    /// The gate.
    #[error(
        "agreement with the float model is {found:.4} on {texts} texts, the bound is {bound} (quality.min_agreement); \
         loosen it, use a finer recipe, or set quality.on_failure to warn or fallback"
    )]
    Agreement { found: f64, bound: f64, texts: usize },
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
    check_source(source)?;
    let mut weights = source.weights()?;
    let architecture = architectures::describe(source.config(), &|name| weights.contains(name))?;
    let modules = Module::all(&architecture.encoder, architecture.spec.hidden_size);
    let rest = other_weights(&architecture, &modules);
    let total = modules.len() + rest.len();

    // Smoothing looks at what enters the layers.
    let made = modules.iter().all(|module| options.made.contains_key(&module.name));
    let running = (options.recipe.smoothing.is_some() && !made).then(|| Original::load(source)).transpose()?;
    let smoothing = running.as_ref().map(|running| running.smoothing(&options.recipe)).transpose()?.unwrap_or_default();

    let (mut tensors, mut inputs, mut stored, mut layers) = (BTreeMap::new(), BTreeMap::new(), Vec::new(), Vec::new());
    let mut f32_bytes = 0;
    for (name, shape) in &rest {
        progress(name, total);
        f32_bytes += 4 * shape.iter().product::<usize>() as u64;
        tensors.insert(name.clone(), weights.take(name, shape)?);
    }
    for module in &modules {
        progress(&module.weight(), total);
        f32_bytes += 4 * (module.rows * module.columns) as u64;
        let original = weights.take(&module.weight(), &[module.rows, module.columns])?;
        let form = match options.made.get(&module.name) {
            Some(form) => form.clone(),
            None => match &running {
                Some(running) => running.form(module, &options.recipe, &smoothing, None)?,
                None => Form::new(module, &original.clone().into_f32(), None, &options.recipe, None, &[])?,
            },
        };
        let is_table = matches!(module.place, Place::Table(_));
        let config = (!is_table).then(|| options.recipe.linear(&module.name).1).flatten();
        stored.push((module.name.clone(), is_table, form.scheme(), config));
        if let Inputs::Static(params) = form.inputs {
            inputs.insert(module.name.clone(), params);
        }
        if let (Some(name), Some(bias)) = (&module.bias, form.bias) {
            tensors.insert(name.clone(), Tensor::F32 { shape: vec![module.rows], data: bias });
        }
        let tensor = match form.weight {
            None => original,
            Some(weight) => {
                layers.push(error_of(&module.weight(), &original.into_f32(), &weight.dequantize()));
                Tensor::Quantized(weight)
            }
        };
        tensors.insert(module.weight(), tensor);
    }
    let left_out = weights.remaining().map(str::to_string).collect();

    let head = architecture.head_linears().map(|names| names.weight.trim_end_matches(".weight").to_string());
    let quantization = quantization_config(&stored, head.collect());
    let manifest = QuantManifest {
        recipe: options.recipe.in_words(&quantization.ignore),
        applied: Some(options.recipe.to_json()),
        source: Source {
            id: options.source_id.clone(),
            sha256: source.digest().into(),
            license: options.license.clone(),
        },
        f32_bytes,
        layers: layers.clone(),
        ..QuantManifest::new()
    };
    let files = ModelFiles {
        config: source.config().raw.clone(),
        quantization: Some(&quantization),
        tensors,
        inputs,
        manifest: Some(&manifest),
        copy_from: Some(source.path()),
        extra: BTreeMap::new(),
    };
    write_model(destination, &files, options.existing)?;
    let bytes = ModelDir::open(destination)?.weight_bytes();
    let unmatched = options.recipe.unmatched(&modules).map(str::to_string).collect();
    Ok(QuantizeReport { layers, f32_bytes, bytes, left_out, unmatched })
}

/// Refuses what is not a float model of its own.
fn check_source(source: &ModelDir) -> Result<(), QuantizeError> {
    let path = || source.path().display().to_string();
    match (source.is_head_only(), source.quantization()) {
        (true, _) => Err(QuantizeError::HeadOnly(path())),
        (_, Some(_)) => Err(QuantizeError::AlreadyQuantized(path())),
        _ => Ok(()),
    }
}

/// The weights of a model that are in none of its modules, with their shapes: norms, biases and the head, which stay float.
fn other_weights(architecture: &Architecture, modules: &[Module]) -> Vec<(String, Vec<usize>)> {
    let in_modules: HashSet<String> = modules.iter().map(Module::weight).collect();
    architecture.weights().into_iter().filter(|(name, _)| !in_modules.contains(name)).collect()
}

/// A module as it is stored: its name, whether it is a table, its scheme, and its inputs.
type StoredAs = (String, bool, Option<Scheme>, Option<InputConfig>);

/// The groups of a folder: what most matrices and most tables have in common by class, the others by name; float
/// modules and those of the head are ignored.
fn quantization_config(stored: &[StoredAs], head: Vec<String>) -> QuantizationConfig {
    let mut groups: Vec<(usize, QuantizationGroup)> = Vec::new();
    let mut ignore = head;
    for (name, is_table, scheme, inputs) in stored {
        let Some(weights) = *scheme else {
            ignore.push(name.clone());
            continue;
        };
        let class = usize::from(*is_table);
        let known = groups.iter_mut().find(|(c, g)| (*c, g.weights, g.inputs) == (class, weights, *inputs));
        match known {
            Some((_, group)) => group.targets.push(name.clone()),
            None => groups.push((class, QuantizationGroup { targets: vec![name.clone()], weights, inputs: *inputs })),
        }
    }
    for (class, target) in ["Linear", "Embedding"].into_iter().enumerate() {
        let own = groups.iter_mut().filter(|(c, _)| *c == class);
        if let Some((_, usual)) = own.rev().max_by_key(|(_, group)| group.targets.len()) {
            usual.targets = vec![target.into()];
        }
    }
    // Linear layers first, as in a folder of one recipe for all.
    groups.sort_by_key(|(class, _)| *class);
    let groups = groups.into_iter().map(|(_, group)| group).collect();
    QuantizationConfig { groups, ignore, smoothed: Vec::new() }
}
