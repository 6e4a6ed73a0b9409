//! A model folder, opened and checked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::file::{open_in, read_in, sha256_hex};
use super::model_config::{octet_config, parse_object, shown};
use super::weights::WeightFile;
use super::{CheckpointError, ModelConfig, QuantManifest, QuantizationConfig, SentenceTransformerConfig, Weights};

const MAX_CONFIG_BYTES: u64 = 4 << 20;
pub(super) const MAX_INDEX_BYTES: u64 = 8 << 20;
const MAX_SHARDS: usize = 256;
pub(super) const WEIGHTS_FILE: &str = "model.safetensors";
pub(super) const INDEX_FILE: &str = "model.safetensors.index.json";

/// An opened, verified model folder: `config.json`, `tokenizer.json`, weights, and what stands beside them.
///
/// A folder whose `config.json` has an `octet` object that names an encoder holds only a head; [`ModelDir::encoder`] is
/// then the sibling folder that it was trained on, and sizes that the head's `config.json` leaves out are those of the
/// encoder's.
#[derive(Debug)]
pub struct ModelDir {
    path: PathBuf,
    config: ModelConfig,
    pooling: Option<SentenceTransformerConfig>,
    manifest: Option<QuantManifest>,
    encoder: Option<Box<ModelDir>>,
    weight_files: Vec<WeightFile>,
    digest: String,
}

impl ModelDir {
    /// Reads and checks everything but the weights' values; those are hashed.
    ///
    /// # Errors
    /// [`CheckpointError`] saying which file is missing, malformed or unsupported.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let raw = read_config(path)?;
        match raw.get("octet").map(|octet| open_sibling(path, octet)).transpose()?.flatten() {
            None => Self::open_complete(path, raw),
            Some(encoder) => Self::open_head(path, raw, encoder),
        }
    }

    fn open_complete(path: &Path, raw: Map<String, Value>) -> Result<Self, CheckpointError> {
        let config = ModelConfig::from_map(raw, &path.join("config.json"))?;
        if open_in(path, "tokenizer.json")?.is_none() {
            return Err(CheckpointError::Missing {
                path: path.join("tokenizer.json"),
                hint: "save it with Transformers: AutoTokenizer.from_pretrained(id).save_pretrained(folder)".into(),
            });
        }
        Self::with_weights(path, config, None)
    }

    fn open_head(path: &Path, mut raw: Map<String, Value>, encoder: ModelDir) -> Result<Self, CheckpointError> {
        for (key, value) in &encoder.config.raw {
            if key != "quantization_config" && key != "architectures" && !raw.contains_key(key) {
                raw.insert(key.clone(), value.clone());
            }
        }
        let config = ModelConfig::from_map(raw, &path.join("config.json"))?;
        let sizes = |c: &ModelConfig| {
            [c.hidden_size, c.num_hidden_layers, c.num_attention_heads, c.intermediate_size, c.vocab_size]
        };
        let same = sizes(&config) == sizes(&encoder.config) && config.layers == encoder.config.layers;
        if config.model_type != encoder.config.model_type || !same {
            let reason = format!("its sizes differ from those of its encoder, {}", encoder.path.display());
            return Err(CheckpointError::invalid(&path.join("config.json"), reason));
        }
        Self::with_weights(path, config, Some(Box::new(encoder)))
    }

    fn with_weights(path: &Path, config: ModelConfig, encoder: Option<Box<ModelDir>>) -> Result<Self, CheckpointError> {
        let (weight_files, digest) = find_weights(path)?;
        Ok(ModelDir {
            pooling: super::sentence_transformer::read(path)?,
            manifest: QuantManifest::read(path)?,
            path: path.to_path_buf(),
            config,
            encoder,
            weight_files,
            digest,
        })
    }

    /// The folder, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Family, sizes, labels.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What sentence-transformers does after the encoder; `None` when the folder has no `modules.json`.
    pub fn pooling(&self) -> Option<SentenceTransformerConfig> {
        self.pooling
    }

    /// How this folder's weights are quantized; `None` when they are float.
    pub fn quantization(&self) -> Option<&QuantizationConfig> {
        self.config.quantization.as_ref()
    }

    /// Recipe, errors and scores; `None` when the folder has no `quant.json`.
    pub fn manifest(&self) -> Option<&QuantManifest> {
        self.manifest.as_ref()
    }

    /// Whether this folder holds only a head, on top of [`ModelDir::encoder`].
    pub fn is_head_only(&self) -> bool {
        self.encoder.is_some()
    }

    /// The folder that holds the encoder: the sibling of a head-only folder, else this folder itself.
    pub fn encoder(&self) -> &ModelDir {
        self.encoder.as_deref().unwrap_or(self)
    }

    /// `tokenizer.json` of the folder that holds the encoder.
    pub fn tokenizer_path(&self) -> PathBuf {
        self.encoder().path.join("tokenizer.json")
    }

    /// SHA-256 of [`ModelDir::tokenizer_path`], in lower-case hex.
    ///
    /// # Errors
    /// [`CheckpointError`] when the file cannot be read.
    pub fn tokenizer_digest(&self) -> Result<String, CheckpointError> {
        let path = self.tokenizer_path();
        let mut file = std::fs::File::open(&path).map_err(CheckpointError::io("open", &path))?;
        sha256_hex(&mut file).map_err(CheckpointError::io("read", &path))
    }

    /// The tensors of this folder; those of a head-only folder's encoder are in `encoder().weights()`.
    ///
    /// # Errors
    /// [`CheckpointError`] when a file is malformed or changed since the folder was opened.
    pub fn weights(&self) -> Result<Weights, CheckpointError> {
        Weights::open_files(&self.path, &self.weight_files, self.quantization())
    }

    /// Size of this folder's weight files.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_files.iter().map(|f| f.bytes).sum()
    }

    /// Identifies this folder's weights, in lower-case hex: the SHA-256 of a single weight file, or, of several, the
    /// SHA-256 of what `sha256sum` prints for them in order of name.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

fn read_config(path: &Path) -> Result<Map<String, Value>, CheckpointError> {
    let metadata = std::fs::metadata(path).map_err(CheckpointError::io("open", path))?;
    if !metadata.is_dir() {
        return Err(CheckpointError::invalid(path, "not a folder; a model is a folder with config.json and weights"));
    }
    let config_path = path.join("config.json");
    let content = read_in(path, "config.json", MAX_CONFIG_BYTES)?.ok_or_else(|| CheckpointError::Missing {
        path: config_path.clone(),
        hint: "a model folder has config.json, tokenizer.json and model.safetensors".into(),
    })?;
    parse_object(&content, &config_path)
}

/// Opens the encoder folder beside `path` and checks that it is the one the head was trained on; none when `octet`
/// names none.
fn open_sibling(path: &Path, octet: &Value) -> Result<Option<ModelDir>, CheckpointError> {
    if octet.is_null() {
        return Ok(None);
    }
    let config_path = path.join("config.json");
    let octet = octet_config(octet, &config_path)?;
    let (Some(encoder_name), Some(needed)) = (&octet.encoder, &octet.encoder_sha256) else { return Ok(None) };
    let root = path.canonicalize().map_err(CheckpointError::io("open", path))?;
    let beside = match path.parent() {
        Some(parent) if path.file_name().is_some() && !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => root.parent().unwrap_or(&root).to_path_buf(),
    };
    let folder = beside.join(encoder_name);
    if folder.canonicalize().is_ok_and(|f| f == root) {
        return Err(CheckpointError::invalid(&config_path, "\"octet.encoder\" names its own folder"));
    }
    if !folder.is_dir() {
        let hint = format!("{} needs it as its encoder; put that model there", path.display());
        return Err(CheckpointError::Missing { path: folder, hint });
    }
    let raw = read_config(&folder)?;
    if raw.contains_key("octet") {
        let reason = format!("\"octet.encoder\" names {}, which is itself a head", folder.display());
        return Err(CheckpointError::invalid(&config_path, reason));
    }
    let encoder = ModelDir::open_complete(&folder, raw)?;
    if !encoder.digest.eq_ignore_ascii_case(needed) {
        let found = &encoder.digest;
        let folder = folder.display();
        let reason = format!("needs encoder weights with sha256 {needed}, {folder} has {found}; train the head again");
        return Err(CheckpointError::invalid(&config_path, reason));
    }
    Ok(Some(encoder))
}

/// The weight files of a folder and their digest.
fn find_weights(path: &Path) -> Result<(Vec<WeightFile>, String), CheckpointError> {
    if let Some((file, digest)) = hash_file(path, WEIGHTS_FILE)? {
        return Ok((vec![file], digest));
    }
    let Some(index) = read_in(path, INDEX_FILE, MAX_INDEX_BYTES)? else {
        return Err(no_weights(path));
    };
    let mut files = Vec::new();
    let mut listing = String::new();
    for name in shard_names(&index, &path.join(INDEX_FILE), ".safetensors")? {
        let (file, digest) = hash_file(path, &name)?.ok_or_else(|| CheckpointError::Missing {
            path: path.join(&name),
            hint: format!("{INDEX_FILE} names it; copy all shards"),
        })?;
        listing.push_str(&format!("{digest}  {name}\n"));
        files.push(file);
    }
    let digest = sha256_hex(&mut listing.as_bytes()).map_err(CheckpointError::io("read", path))?;
    Ok((files, digest))
}

/// What to say about a folder without safetensors weights.
fn no_weights(path: &Path) -> CheckpointError {
    const FOREIGN: [&str; 5] =
        ["pytorch_model.bin", "pytorch_model.bin.index.json", "model.onnx", "onnx/model.onnx", "model.tflite"];
    match FOREIGN.iter().find(|n| path.join(n).exists()) {
        Some(name) => CheckpointError::Unsupported {
            path: path.join(name),
            found: "a model of another program".into(),
            supported: format!("{WEIGHTS_FILE}; make such a folder with: octet import {} NEW_FOLDER", path.display()),
        },
        None => CheckpointError::Missing {
            path: path.join(WEIGHTS_FILE),
            hint: format!("weights are read from {WEIGHTS_FILE}, or from the shards that {INDEX_FILE} names"),
        },
    }
}

/// File names of the shards that an index names, in alphabetical order; they end in `suffix`.
///
/// # Errors
/// [`CheckpointError`] when the index is malformed, or a name could lead out of the folder.
pub(crate) fn shard_names(index: &[u8], path: &Path, suffix: &str) -> Result<Vec<String>, CheckpointError> {
    let index = parse_object(index, path)?;
    let bad = |found: String, allowed: &str| CheckpointError::Value {
        path: path.to_path_buf(),
        key: "weight_map".into(),
        found,
        allowed: allowed.into(),
    };
    let map = index.get("weight_map").and_then(Value::as_object).filter(|m| !m.is_empty());
    let map = map.ok_or_else(|| bad("missing or empty".into(), "an object of tensor name to file name"))?;
    let mut names = BTreeMap::new();
    for value in map.values() {
        let name = value.as_str().filter(|n| is_shard_name(n, suffix));
        let name = name.ok_or_else(|| bad(shown(value), &format!("plain file names that end in {suffix}")))?;
        names.insert(name.to_string(), ());
    }
    if names.len() > MAX_SHARDS {
        return Err(bad(format!("a map to {} files", names.len()), &format!("at most {MAX_SHARDS} files")));
    }
    Ok(names.into_keys().collect())
}

fn is_shard_name(name: &str, suffix: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    name.len() <= 128 && name.ends_with(suffix) && !name.starts_with('.') && name.bytes().all(plain)
}

fn hash_file(folder: &Path, name: &str) -> Result<Option<(WeightFile, String)>, CheckpointError> {
    let Some(mut opened) = open_in(folder, name)? else { return Ok(None) };
    let digest = sha256_hex(&mut opened.file).map_err(CheckpointError::io("read", &folder.join(name)))?;
    Ok(Some((WeightFile { name: name.to_string(), bytes: opened.bytes, stamp: opened.stamp }, digest)))
}
