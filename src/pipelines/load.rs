//! A model folder → a [`Model`] with the pipelines it offers.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::architectures::{self, Architecture, ArchitectureError, Encoder, HeadSpec, Pooling};
use crate::checkpoint::{CheckpointError, ModelDir, Weights};
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
    /// Its tokenizer knows more ids than the encoder has rows.
    #[error("{path}: the tokenizer has {tokenizer} ids, the word embeddings have {rows} rows; they must fit together", path = path.display())]
    Vocabulary { path: std::path::PathBuf, tokenizer: usize, rows: usize },
}

/// Loads models, and gives those with the same encoder weights one encoder in memory.
pub struct Loader {
    kernels: Kernels,
    precision: Precision,
    encoders: HashMap<String, Loaded>,
    /// Takes the place of every folder's own encoder.
    replacement: Option<ModelDir>,
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
        Loader { kernels, precision, encoders: HashMap::new(), replacement: None }
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
                let loaded = self.encoder(&other, &described, &mut other_weights)?;
                self.replacement = Some(other);
                let head = if dir.is_head_only() { trained_head(&dir) } else { describe(&dir, &weights)?.head };
                (Architecture { head, ..described }, loaded)
            }
            None if dir.is_head_only() => {
                let mut encoder_weights = dir.encoder().weights()?;
                let described = describe(dir.encoder(), &encoder_weights)?;
                let loaded = self.encoder(dir.encoder(), &described, &mut encoder_weights)?;
                (Architecture { head: trained_head(&dir), ..described }, loaded)
            }
            None => {
                let described = describe(&dir, &weights)?;
                let loaded = self.encoder(&dir, &described, &mut weights)?;
                (described, loaded)
            }
        };
        let head = architecture.head.as_ref().map(|spec| Ok::<_, LoadError>((spec, head(spec, &mut weights)?)));
        let mut model = assemble(id, &dir, &architecture, loaded, head.transpose()?);
        model.info.load_seconds = started.elapsed().as_secs_f64();
        Ok(model)
    }

    /// The encoder and tokenizer of a folder, loaded once per digest.
    fn encoder(
        &mut self,
        dir: &ModelDir,
        architecture: &Architecture,
        weights: &mut Weights,
    ) -> Result<Loaded, LoadError> {
        if let Some(loaded) = self.encoders.get(dir.digest()) {
            return Ok(loaded.clone());
        }
        let Architecture { spec, encoder: names, .. } = architecture;
        let tokenizer = Arc::new(Tokenizer::from_file(&dir.tokenizer_path())?);
        if tokenizer.vocab_size() > spec.vocab_size {
            let (tokenizer, rows) = (tokenizer.vocab_size(), spec.vocab_size);
            return Err(LoadError::Vocabulary { path: dir.path().to_path_buf(), tokenizer, rows });
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
                let norms = spec.num_layers * 4 * spec.hidden_size;
                let sizes = vec![
                    size("embeddings", "f32", 4 * embeddings as u64),
                    size("encoder", "f32", 4 * (layer + norms) as u64),
                ];
                let encoder = CandleEncoder::load(spec, names, weights, 1)?;
                Loaded { encoder: Arc::new(encoder), tokenizer, sizes }
            }
        };
        self.encoders.insert(dir.digest().to_string(), loaded.clone());
        Ok(loaded)
    }
}

fn size(component: &'static str, dtype: &'static str, bytes: u64) -> ComponentSize {
    ComponentSize { component, dtype, bytes }
}

/// The head of a folder that `octet train` wrote.
fn trained_head(dir: &ModelDir) -> Option<HeadSpec> {
    let octet = dir.config().octet.as_ref()?;
    Some(architectures::trained_head(dir.config(), octet.head.pooling))
}

/// Takes the head's weights.
fn head(spec: &HeadSpec, weights: &mut Weights) -> Result<Head, CheckpointError> {
    let mut layers = Vec::new();
    for layer in &spec.layers {
        let names = &layer.names;
        layers.push(Dense {
            weight: weights.take(&names.weight, &[names.outputs, names.inputs])?.into_f32(),
            bias: weights.take(&names.bias, &[names.outputs])?.into_f32(),
            activation: layer.activation,
        });
    }
    Ok(Head { pooling: spec.pooling, layers })
}

/// Puts the pipelines together: a head classifies; without one, pooled vectors embed and rank sentences.
fn assemble(
    id: &str,
    dir: &ModelDir,
    architecture: &Architecture,
    loaded: Loaded,
    head: Option<(&HeadSpec, Head)>,
) -> Model {
    let Loaded { encoder, tokenizer, mut sizes } = loaded;
    let pooling = dir.pooling();
    let positions = architecture.spec.max_tokens();
    let max_tokens = pooling.and_then(|p| p.max_seq_length).map_or(positions, |m| m.min(positions));
    let manifest = dir.manifest();
    let labels = head.as_ref().map(|(spec, _)| spec.labels.clone()).unwrap_or_default();
    let (mut classifier, mut embedder, mut summarizer) = (None, None, None);
    match head {
        Some((spec, head)) => {
            sizes.push(size(
                "head",
                "f32",
                4 * head.layers.iter().map(|l| l.weight.len() + l.bias.len()).sum::<usize>() as u64,
            ));
            classifier = Some(Arc::new(Classifier {
                model: SequenceModel { encoder: encoder.clone(), head: Arc::new(head) },
                tokenizer: tokenizer.clone(),
                labels: spec.labels.clone(),
                problem_type: spec.problem_type,
                temperature: manifest.and_then(|m| m.temperature).unwrap_or(1.0),
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
            "int8" => manifest.map_or("w8a8-dynamic".to_string(), |m| m.recipe.scheme.clone()),
            other => other.to_string(),
        },
        labels,
        max_tokens,
        sizes,
        file_bytes,
        compression_ratio: f32_bytes.map_or(1.0, |bytes| bytes as f64 / file_bytes as f64),
        load_seconds: 0.0,
        scores: manifest.map(|m| m.scores.iter().map(score).collect()).unwrap_or_default(),
        path: dir.path().to_path_buf(),
    };
    Model { info, tokenizer, classifier, embedder, summarizer }
}

fn score(stored: &crate::checkpoint::Score) -> Score {
    Score {
        dataset: stored.dataset.clone(),
        metric: stored.metric.clone(),
        precision: stored.precision.clone(),
        value: stored.value,
    }
}
