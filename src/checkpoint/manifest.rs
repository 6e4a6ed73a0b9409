//! `quant.json`: where a quantized folder came from and how good it is. It holds no time stamps of its own, so that
//! the same source and recipe give the same bytes.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::file::read_in;
use super::temporary::write_atomic;
use super::{CheckpointError, Reference};

/// Name of the file in a model folder.
pub const MANIFEST_FILE: &str = "quant.json";
/// Version of the layout that this code reads and writes.
pub const MANIFEST_VERSION: u32 = 1;
/// The score from which a label is given when no threshold was fitted for it.
pub const DEFAULT_THRESHOLD: f32 = 0.5;
const MAX_BYTES: u64 = 16 << 20;

/// Content of `quant.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantManifest {
    /// Layout of this file; [`MANIFEST_VERSION`].
    pub format_version: u32,
    /// How the weights were made.
    pub recipe: Recipe,
    /// The recipe as it was applied, with the keys of a recipe file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<serde_json::Value>,
    /// What they were made from.
    pub source: Source,
    /// Program and version that made them, such as `octet 0.1.0`.
    pub created_by: String,
    /// Size of the same weights in f32, in bytes; over `ModelDir::weight_bytes` it gives the compression ratio.
    pub f32_bytes: u64,
    /// Error that quantization put on each weight.
    #[serde(default)]
    pub layers: Vec<LayerError>,
    /// Scores on labelled data, of this artifact and of others it is compared with.
    #[serde(default)]
    pub scores: Vec<Score>,
    /// The logits are divided by it before softmax (Guo et al. 2017); above 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// For a classifier with several labels per text: the score, 0..=1 at this temperature, from which each label is
    /// given. Empty when none were fitted; a label that is not named has [`DEFAULT_THRESHOLD`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub thresholds: BTreeMap<String, f32>,
    /// For a classifier with one class per text: what it says when it is not sure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// Inputs and answers on a data set, which live traffic is compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
}

/// The class that a text gets when no other one is likely enough.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fallback {
    /// Its name.
    pub label: String,
    /// The probability, 0..=1 at the stored temperature, that another class needs at least.
    pub threshold: f32,
}

/// How weights and activations are quantized, in words that `octet inspect` prints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the scheme, such as `int8-dynamic`.
    pub scheme: String,
    /// Linear weights, such as `int8 symmetric per channel`.
    pub weights: String,
    /// Embedding tables, such as `int8 symmetric per row`.
    pub embeddings: String,
    /// Inputs of linear layers, such as `uint8 asymmetric per token`.
    pub activations: String,
    /// Modules kept in float.
    #[serde(default)]
    pub ignore: Vec<String>,
}

/// What an artifact was made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Hub id or folder name.
    pub id: String,
    /// [`super::ModelDir::digest`] of the source folder.
    pub sha256: String,
    /// SPDX name of the licence of the source, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
}

/// How far one quantized weight is from its f32 original.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerError {
    /// Tensor name.
    pub name: String,
    /// Mean squared error.
    pub mse: f64,
    /// Signal to quantization noise, `10 log10(sum w^2 / sum (w - q)^2)`, in dB; absent when there is no noise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqnr_db: Option<f64>,
    /// Cosine similarity.
    pub cosine: f64,
    /// Largest absolute error.
    pub max_abs: f64,
}

/// One measured number, with what is needed to measure it again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// Data set and split, such as `vader-human/test`.
    pub dataset: String,
    /// What was measured: `accuracy`, `f1_macro`, `agreement_f32`, `mean_cosine_f32`, `texts_per_second`.
    pub metric: String,
    /// `int8` or `f32`.
    pub precision: String,
    /// The number; fractions in 0..=1, not percent.
    pub value: f64,
    /// Examples it was measured on.
    pub n: u64,
    /// Command that prints it.
    pub command: String,
    /// CPU, threads and kernels it ran on.
    pub machine: String,
    /// Day it was measured, `YYYY-MM-DD`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
}

impl QuantManifest {
    /// An empty manifest of this version of Octet.
    pub fn new() -> Self {
        QuantManifest {
            format_version: MANIFEST_VERSION,
            created_by: concat!("octet ", env!("CARGO_PKG_VERSION")).into(),
            ..QuantManifest::default()
        }
    }

    /// Reads `quant.json` of a model folder; `None` when there is none.
    ///
    /// # Errors
    /// [`CheckpointError`] when it is malformed or of another version.
    pub fn read(folder: &Path) -> Result<Option<Self>, CheckpointError> {
        let path = folder.join(MANIFEST_FILE);
        let Some(content) = read_in(folder, MANIFEST_FILE, MAX_BYTES)? else { return Ok(None) };
        let invalid = |e: serde_json::Error| CheckpointError::invalid(&path, format!("not a manifest: {e}"));
        #[derive(Deserialize)]
        struct Version {
            format_version: u64,
        }
        let version: Version = serde_json::from_slice(&content).map_err(invalid)?;
        if version.format_version != u64::from(MANIFEST_VERSION) {
            return Err(CheckpointError::Unsupported {
                path,
                found: format!("format_version {}", version.format_version),
                supported: MANIFEST_VERSION.to_string(),
            });
        }
        let manifest: QuantManifest = serde_json::from_slice(&content).map_err(invalid)?;
        let refuse = |key: String, found: f32, allowed: &str| {
            let (found, allowed) = (found.to_string(), allowed.to_string());
            Err(CheckpointError::Value { path: path.clone(), key, found, allowed })
        };
        if let Some(found) = manifest.temperature.filter(|t| !(t.is_finite() && *t > 0.0)) {
            return refuse("temperature".into(), found, "a number above 0");
        }
        if let Some((label, found)) = manifest.thresholds.iter().find(|(_, t)| !(0.0..=1.0).contains(*t)) {
            return refuse(format!("thresholds.{label}"), *found, "a number from 0 to 1");
        }
        if let Some(found) = manifest.fallback.as_ref().map(|f| f.threshold).filter(|t| !(0.0..=1.0).contains(t)) {
            return refuse("fallback.threshold".into(), found, "a number from 0 to 1");
        }
        if let Some(problem) = manifest.reference.as_ref().and_then(Reference::problem) {
            return Err(CheckpointError::invalid(&path, format!("\"reference\": {problem}")));
        }
        Ok(Some(manifest))
    }

    /// The file's content: indented JSON with a line end.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a manifest has string keys only");
        bytes.push(b'\n');
        bytes
    }

    /// Replaces `quant.json` of a model folder, atomically.
    ///
    /// # Errors
    /// [`CheckpointError`] when a number is not finite (JSON has no such numbers), or the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), CheckpointError> {
        let path = folder.join(MANIFEST_FILE);
        let content = self.to_bytes();
        if let Err(e) = serde_json::from_slice::<QuantManifest>(&content) {
            return Err(CheckpointError::invalid(&path, format!("not written, a number is not finite: {e}")));
        }
        write_atomic(&path, &content)
    }
}

/// Reads the manifest of a folder (an empty one when there is none), lets `change` edit it, and replaces the file.
///
/// # Errors
/// As [`QuantManifest::read`] and [`QuantManifest::write`].
pub fn update_manifest(folder: &Path, change: impl FnOnce(&mut QuantManifest)) -> Result<(), CheckpointError> {
    let mut manifest = QuantManifest::read(folder)?.unwrap_or_else(QuantManifest::new);
    change(&mut manifest);
    manifest.write(folder)
}
