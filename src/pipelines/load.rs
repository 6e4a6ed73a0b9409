//! A model folder → a [`Model`] with the pipelines it offers.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::architectures::{
    self, Architecture, ArchitectureError, Encoder, EncoderSpec, HeadSpec, Pooling, ProblemType,
};
use crate::checkpoint::{CheckpointError, DEFAULT_THRESHOLD, MANIFEST_FILE, ModelDir, Weights};
use crate::kernels::Kernels;
use crate::nn::CandleEncoder;
use crate::runtime::Int8Encoder;
use crate::text::{Tokenizer, TokenizerError};

use super::{Classifier, ComponentSize, Dense, Embedder, Head, Model, ModelInfo, Score, SequenceModel, Summarizer};

/// Which executor runs the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// The fused int8 executor; a float folder is quantized while it loads.
    Int8,
    /// candle in f32; an int8 folder is widened.
    Float,
}

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its files.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Its family or options.
    #[error("{path}: {source}", path = path.display())]
    Architecture { path: std::path::PathBuf, source: ArchitectureError },
    /// Its tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Its tokenizer makes a token id that the encoder has no row for.
    #[error("{path}: the tokenizer's largest token id is {largest}, the word embeddings have {rows} rows; they must fit together", path = path.display())]
    TokenId { path: std::path::PathBuf, largest: u32, rows: usize },
    /// Its tokenizer makes a type id that the encoder has no row for.
    #[error("{path}: the tokenizer's largest type id is {largest}, \"type_vocab_size\" is {rows}; they must fit together", path = path.display())]
    TypeId { path: std::path::PathBuf, largest: u32, rows: usize },
    /// What it is compared with while it serves was measured on a model with other classes.
    #[error("{path}: \"reference\" in quant.json counts {found} classes, the model has {expected}; measure it again with octet eval --write", path = path.display())]
    Reference { path: std::path::PathBuf, found: usize, expected: usize },
    /// A folder that should hold float weights does not.
    #[error("{path}: holds quantized weights; name the float folder that they were made from", path = path.display())]
    NotFloat { path: std::path::PathBuf },
    /// Two folders do not belong together.
    #[error("{float}: not the original of {model}: {reason}", float = float.display(), model = model.display())]
    NotOriginal { float: std::path::PathBuf, model: std::path::PathBuf, reason: String },
}

/// Loads models, and gives those with the same encoder one encoder in memory.
pub struct Loader {
    kernels: Kernels,
    precision: Precision,
    encoders: Vec<(Identity, Loaded)>,
    /// Takes the place of every folder's own encoder.
    replacement: Option<ModelDir>,
}

/// What makes two encoders the same.
#[derive(PartialEq)]
struct Identity {
    /// [`ModelDir::digest`].
    weights: String,
    /// [`ModelDir::tokenizer_digest`].
    tokenizer: String,
    spec: EncoderSpec,
}

/// An encoder and what belongs to it.
#[derive(Clone)]
struct Loaded {
    encoder: Arc<dyn Encoder>,
    tokenizer: Arc<Tokenizer>,
    sizes: Vec<ComponentSize>,
}

impl Loader {
    /// A loader for one executor.
    pub fn new(kernels: Kernels, precision: Precision) -> Self {
        Loader { kernels, precision, encoders: Vec::new(), replacement: None }
    }

    /// Loads every model's encoder from this folder instead: its float original, to compare with.
    ///
    /// # Errors
    /// [`LoadError::Checkpoint`] when the folder is no model.
    pub fn with_encoder(mut self, folder: &Path) -> Result<Self, LoadError> {
        self.replacement = Some(ModelDir::open(folder)?);
        Ok(self)
    }

    /// Opens, checks and loads a folder under the name `id`.
    ///
    /// # Errors
    /// [`LoadError`] saying which file or setting is wrong, and what would be right.
    pub fn load(&mut self, id: &str, path: &Path) -> Result<Model, LoadError> {
        self.load_changed(id, path, None)
    }

    /// As [`Loader::load`], with a change to the encoder's weights before they are used; such an encoder is shared with
    /// no other model.
    ///
    /// # Errors
    /// As [`Loader::load`].
    pub fn load_changed(
        &mut self,
        id: &str,
        path: &Path,
        change: Option<&dyn Fn(&mut Weights)>,
    ) -> Result<Model, LoadError> {
        let started = Instant::now();
        let dir = ModelDir::open(path)?;
        let mut weights = dir.weights()?;
        let describe = |dir: &ModelDir, weights: &Weights| {
            architectures::describe(dir.config(), &|name| weights.contains(name))
                .map_err(|source| LoadError::Architecture { path: dir.path().to_path_buf(), source })
        };
        let (architecture, loaded) = match self.replacement.take() {
            Some(other) => {
                let mut other_weights = other.weights()?;
                let described = describe(&other, &other_weights)?;
                let loaded = self.encoder(&other, &described, &mut other_weights, change)?;
                self.replacement = Some(other);
                let head = if dir.is_head_only() {
                    architectures::trained_head(dir.config())
                } else {
                    describe(&dir, &weights)?.head
                };
                (Architecture { head, ..described }, loaded)
            }
            None if dir.is_head_only() => {
                let mut encoder_weights = dir.encoder().weights()?;
                let described = describe(dir.encoder(), &encoder_weights)?;
                let loaded = self.encoder(dir.encoder(), &described, &mut encoder_weights, change)?;
                (Architecture { head: architectures::trained_head(dir.config()), ..described }, loaded)
            }
            None => {
                let described = describe(&dir, &weights)?;
                let loaded = self.encoder(&dir, &described, &mut weights, change)?;
                (described, loaded)
            }
        };
        let head = match &architecture.head {
            Some(spec) => Some((spec, Head::load(spec.pooling, &spec.layers, self.kernels, &mut weights)?)),
            None => None,
        };
        let mut model = assemble(id, &dir, &architecture, loaded, head)?;
        let (counted, expected) =
            (model.info.reference.as_ref().and_then(|r| r.labels.as_ref()), model.info.labels.len());
        if let Some(found) = counted.map(Vec::len).filter(|found| *found != expected) {
            return Err(LoadError::Reference { path: path.to_path_buf(), found, expected });
        }
        model.info.load_seconds = started.elapsed().as_secs_f64();
        Ok(model)
    }

    /// The encoder and tokenizer of a folder; folders with the same ones share them, or the tokenizer alone.
    fn encoder(
        &mut self,
        dir: &ModelDir,
        architecture: &Architecture,
        weights: &mut Weights,
        change: Option<&dyn Fn(&mut Weights)>,
    ) -> Result<Loaded, LoadError> {
        let Architecture { spec, encoder: names, .. } = architecture;
        let (weights_digest, tokenizer) = (dir.digest().to_string(), dir.tokenizer_digest()?);
        let identity = Identity { weights: weights_digest, tokenizer, spec: spec.clone() };
        match (change, self.encoders.iter().find(|(known, _)| *known == identity)) {
            (Some(change), _) => change(weights),
            (None, Some((_, loaded))) => return Ok(loaded.clone()),
            (None, None) => {}
        }
        let same = self.encoders.iter().find(|(known, _)| known.tokenizer == identity.tokenizer);
        let tokenizer = match same {
            Some((_, loaded)) => loaded.tokenizer.clone(),
            None => Arc::new(Tokenizer::from_file(&dir.tokenizer_path())?),
        };
        let path = || dir.path().to_path_buf();
        let (largest, rows) = (tokenizer.largest_id(), spec.vocab_size);
        if largest as usize >= rows {
            return Err(LoadError::TokenId { path: path(), largest, rows });
        }
        let (largest, rows) = (tokenizer.largest_type_id(), spec.type_vocab_size);
        if names.token_type_embeddings.is_some() && largest as usize >= rows {
            return Err(LoadError::TypeId { path: path(), largest, rows });
        }
        let loaded = match self.precision {
            Precision::Int8 => {
                let encoder = Int8Encoder::load(spec.clone(), names, weights, self.kernels)?;
                let b = encoder.bytes();
                let sizes = vec![
                    size("embeddings", "int8", b.embeddings_int8),
                    size("embeddings", "f32", b.embeddings_f32),
                    size("encoder", "int8", b.encoder_int8),
                    size("encoder", "f32", b.encoder_f32),
                ];
                Loaded { encoder: Arc::new(encoder), tokenizer, sizes }
            }
            Precision::Float => {
                let rows: usize = names.tables().map(|t| t.rows).sum();
                let embeddings = (rows + 2) * spec.hidden_size;
                let layer: usize =
                    names.layers.iter().flat_map(|l| l.linears()).map(|l| l.outputs * (l.inputs + 1)).sum();
                let norms = spec.num_layers() * 4 * spec.hidden_size;
                let sizes = vec![
                    size("embeddings", "f32", 4 * embeddings as u64),
                    size("encoder", "f32", 4 * (layer + norms) as u64),
                ];
                let encoder = CandleEncoder::load(spec, names, weights, 1)?;
                Loaded { encoder: Arc::new(encoder), tokenizer, sizes }
            }
        };
        if change.is_none() {
            self.encoders.push((identity, loaded.clone()));
        }
        Ok(loaded)
    }
}

fn size(component: &'static str, dtype: &'static str, bytes: u64) -> ComponentSize {
    ComponentSize { component, dtype, bytes }
}

/// Puts the pipelines together: a head classifies; without one, pooled vectors embed and rank sentences.
fn assemble(
    id: &str,
    dir: &ModelDir,
    architecture: &Architecture,
    loaded: Loaded,
    head: Option<(&HeadSpec, Head)>,
) -> Result<Model, CheckpointError> {
    let Loaded { encoder, tokenizer, mut sizes } = loaded;
    let pooling = dir.encoder().pooling();
    let positions = architecture.spec.max_tokens();
    let max_tokens = pooling.and_then(|p| p.max_seq_length).map_or(positions, |m| m.min(positions));
    let manifest = dir.manifest();
    let labels = head.as_ref().map(|(spec, _)| spec.labels.clone()).unwrap_or_default();
    let (mut classifier, mut embedder, mut summarizer) = (None, None, None);
    match head {
        Some((spec, head)) => {
            sizes.push(size("head", "f32", 4 * head.layers.iter().map(Dense::parameters).sum::<usize>() as u64));
            classifier = Some(Arc::new(Classifier {
                model: SequenceModel { encoder: encoder.clone(), head: Arc::new(head) },
                tokenizer: tokenizer.clone(),
                labels: spec.labels.clone(),
                problem_type: spec.problem_type,
                value: spec.value.clone(),
                temperature: manifest.and_then(|m| m.temperature).unwrap_or(1.0),
                thresholds: thresholds(dir, &spec.labels)?,
                fallback: fallback(dir, spec)?,
                max_tokens,
            }));
        }
        None => {
            let pool = Head { pooling: pooling.map_or(Pooling::Mean, |p| p.pooling), layers: Vec::new() };
            let model = SequenceModel { encoder: encoder.clone(), head: Arc::new(pool) };
            embedder = Some(Arc::new(Embedder {
                model: model.clone(),
                tokenizer: tokenizer.clone(),
                normalize: pooling.is_some_and(|p| p.normalize),
                max_tokens,
            }));
            summarizer = Some(Arc::new(Summarizer {
                model,
                tokenizer: tokenizer.clone(),
                max_tokens,
                max_sentences: super::DEFAULT_MAX_SENTENCES,
            }));
        }
    }
    // A head on another folder's encoder counts with it.
    let folders = || std::iter::once(dir).chain(dir.is_head_only().then(|| dir.encoder()));
    let file_bytes = folders().map(ModelDir::weight_bytes).sum();
    let f32_bytes = folders().map(|d| d.manifest().map(|m| m.f32_bytes)).sum::<Option<u64>>();
    let info = ModelInfo {
        id: id.to_string(),
        version: dir.digest()[..12].to_string(),
        architecture: architecture.spec.family.clone(),
        precision: encoder.precision().to_string(),
        scheme: match encoder.precision() {
            "int8" => scheme(dir.encoder()),
            other => other.to_string(),
        },
        labels,
        max_tokens,
        sizes,
        file_bytes,
        compression_ratio: f32_bytes.map_or(1.0, |bytes| bytes as f64 / file_bytes as f64),
        load_seconds: 0.0,
        scores: manifest.map(|m| m.scores.iter().map(score).collect()).unwrap_or_default(),
        reference: manifest.and_then(|m| m.reference.clone()),
    };
    Ok(Model { info, tokenizer, classifier, embedder, summarizer })
}

/// The stored threshold of each label; none when none were stored.
fn thresholds(dir: &ModelDir, labels: &[String]) -> Result<Vec<f32>, CheckpointError> {
    let Some(stored) = dir.manifest().map(|m| &m.thresholds).filter(|t| !t.is_empty()) else { return Ok(Vec::new()) };
    if let Some(unknown) = stored.keys().find(|label| !labels.contains(label)) {
        return Err(CheckpointError::Value {
            path: dir.path().join(MANIFEST_FILE),
            key: "thresholds".into(),
            found: unknown.clone(),
            allowed: format!("labels of the model: {}", labels.join(", ")),
        });
    }
    Ok(labels.iter().map(|label| stored.get(label).copied().unwrap_or(DEFAULT_THRESHOLD)).collect())
}

/// The stored fallback by index of its class.
fn fallback(dir: &ModelDir, head: &HeadSpec) -> Result<Option<(usize, f32)>, CheckpointError> {
    let Some(stored) = dir.manifest().and_then(|m| m.fallback.as_ref()) else { return Ok(None) };
    let enough = head.problem_type == ProblemType::SingleLabel && head.labels.len() >= 3;
    let class = head.labels.iter().position(|label| *label == stored.label).filter(|_| enough);
    let class = class.ok_or_else(|| CheckpointError::Value {
        path: dir.path().join(MANIFEST_FILE),
        key: "fallback.label".into(),
        found: stored.label.clone(),
        allowed: match enough {
            true => format!("labels of the model: {}", head.labels.join(", ")),
            false => "no fallback; it needs one class per text and at least three of them".into(),
        },
    })?;
    Ok(Some((class, stored.threshold)))
}

/// Name of how a folder is quantized: what its maker called it, or what its `config.json` says. A float folder is
/// quantized while it loads.
fn scheme(dir: &ModelDir) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let named = dir.manifest().map(|m| m.recipe.scheme.as_str()).filter(|name| !name.is_empty() && name.len() <= 64);
    match (named.filter(|name| name.chars().all(plain)), dir.quantization()) {
        (_, None) => crate::runtime::SCHEME.to_string(),
        (Some(name), Some(_)) => name.to_string(),
        (None, Some(quantization)) => quantization.name(),
    }
}

fn score(stored: &crate::checkpoint::Score) -> Score {
    Score {
        dataset: stored.dataset.clone(),
        metric: stored.metric.clone(),
        precision: stored.precision.clone(),
        value: stored.value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Fallback, update_manifest};
    use std::path::PathBuf;

    /// A copy of the smallest golden model, in `root`.
    fn copy(root: &Path, name: &str) -> PathBuf {
        copy_of(root, "bert", name)
    }

    /// A golden's folder under another name.
    fn copy_of(root: &Path, golden: &str, name: &str) -> PathBuf {
        let (from, to) = (Path::new("tests/goldens").join(golden), root.join(name));
        std::fs::create_dir(&to).unwrap();
        for file in ["config.json", "tokenizer.json", "model.safetensors"].iter().filter(|f| from.join(f).exists()) {
            std::fs::copy(from.join(file), to.join(file)).unwrap();
        }
        to
    }

    fn edit(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
        let mut value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        change(&mut value);
        std::fs::write(path, value.to_string()).unwrap();
    }

    fn loader() -> Loader {
        Loader::new(Kernels::detect(), Precision::Int8)
    }

    #[test]
    fn an_encoder_is_shared_only_with_the_same_weights_tokenizer_and_options() {
        let root = tempfile::tempdir().unwrap();
        let paths = ["first", "same", "tokenizer", "activation"].map(|name| copy(root.path(), name));
        edit(&paths[2].join("tokenizer.json"), |file| file["normalizer"] = serde_json::json!({"type": "Lowercase"}));
        edit(&paths[3].join("config.json"), |file| file["hidden_act"] = "relu".into());
        let mut loader = loader();
        let models = paths.map(|path| loader.load("model", &path).unwrap());
        let shared: Vec<_> = models.iter().map(|model| Arc::ptr_eq(model.encoder(), models[0].encoder())).collect();
        assert_eq!(shared, [true, true, false, false]);
        assert!(!Arc::ptr_eq(&models[2].tokenizer, &models[0].tokenizer));
    }

    #[test]
    fn a_tokenizer_whose_ids_have_no_row_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = copy(root.path(), "model");
        let refused = |change: &dyn Fn(&mut serde_json::Value)| {
            std::fs::copy("tests/goldens/bert/tokenizer.json", path.join("tokenizer.json")).unwrap();
            edit(&path.join("tokenizer.json"), change);
            loader().load("model", &path).err().expect("it is refused").to_string()
        };
        // As many ids as before, one of them past a gap.
        let message = refused(&|file| {
            let vocab = file["model"]["vocab"].as_object_mut().unwrap();
            *vocab.values_mut().find(|id| **id == 100).unwrap() = 146.into();
        });
        assert!(message.contains("largest token id is 146") && message.contains("146 rows"), "{message}");
        let message = refused(&|file| {
            file["post_processor"]["pair"][3]["Sequence"]["type_id"] = 2.into();
        });
        assert!(message.contains("largest type id is 2, \"type_vocab_size\" is 2"), "{message}");
    }

    #[test]
    fn a_text_without_tokens_is_refused_as_empty() {
        let root = tempfile::tempdir().unwrap();
        let path = copy(root.path(), "model");
        edit(&path.join("tokenizer.json"), |file| file["post_processor"] = serde_json::Value::Null);
        let embedder = loader().load("model", &path).unwrap().embedder.unwrap();
        // A control character, which the normalizer drops.
        let found = crate::pipelines::Pipeline::run(&*embedder, vec!["\u{1}".into()], &Default::default(), 64);
        assert_eq!(found.err(), Some(crate::pipelines::PipelineError::Empty { index: 0 }));
    }

    #[test]
    fn stored_thresholds_are_those_of_the_labels() {
        let root = tempfile::tempdir().unwrap();
        let path = &copy_of(root.path(), "distilbert-multilabel", "model");
        let with = |label: &str| {
            update_manifest(path, |m| m.thresholds = [(label.to_string(), 0.25)].into()).unwrap();
            loader().load("model", path).map(|model| model.classifier.unwrap().thresholds.clone())
        };
        assert_eq!(with("insult").unwrap(), [0.5, 0.25, 0.5, 0.5]);
        let message = with("boring").unwrap_err().to_string();
        assert!(message.contains("boring") && message.contains("toxic, insult"), "{message}");
    }

    #[test]
    fn a_stored_fallback_is_one_of_the_labels() {
        let root = tempfile::tempdir().unwrap();
        let path = copy_of(root.path(), "bert-classify", "model");
        let with = |label: &str| {
            let fallback = Fallback { label: label.into(), threshold: 0.75 };
            update_manifest(&path, |m| m.fallback = Some(fallback)).unwrap();
            loader().load("model", &path).map(|model| model.classifier.unwrap().fallback)
        };
        assert_eq!(with("neutral").unwrap(), Some((1, 0.75)));
        let message = with("boring").unwrap_err().to_string();
        assert!(message.contains("boring") && message.contains("negative, neutral, positive"), "{message}");
    }

    #[test]
    fn a_head_folder_keeps_as_many_tokens_as_its_encoder() {
        let root = tempfile::tempdir().unwrap();
        let head = copy_of(root.path(), "minilm-head", "head");
        let encoder = std::fs::canonicalize("models/all-MiniLM-L6-v2").unwrap();
        std::os::unix::fs::symlink(encoder, root.path().join("all-MiniLM-L6-v2")).unwrap();
        let model = loader().load("head", &head).unwrap();
        assert_eq!((model.info.max_tokens, model.classifier.unwrap().max_tokens), (256, 256));
    }
}
