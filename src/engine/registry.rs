//! The loaded models by name, and the encoders they stand on.

use std::sync::Arc;

use crate::architectures::Encoder;
use crate::pipelines::{Histogram, Model, OutputActivation, SequenceModel, Task};
use crate::telemetry::{Bins, ModelFacts, ReferenceFacts};

use super::EngineError;
use super::shadow::Pair;

/// The loaded models. The first one that offers a task is the default for it.
#[derive(Clone, Default)]
pub struct Registry {
    models: Vec<Arc<Model>>,
    encoders: Vec<RegisteredEncoder>,
    originals: Vec<Arc<Model>>,
}

/// An encoder, and the first model that stands on it.
#[derive(Clone)]
pub(super) struct RegisteredEncoder {
    pub(super) encoder: Arc<dyn Encoder>,
    /// Its batches are counted for this model.
    pub(super) model: String,
}

impl Registry {
    /// These models, in order of preference.
    ///
    /// # Panics
    /// When two models have the same id: settings refuse that.
    pub fn new(models: Vec<Arc<Model>>) -> Self {
        let mut registry = Registry::default();
        for model in models {
            let id = &model.info.id;
            assert!(registry.get(id).is_none(), "two models are called {id:?}");
            for sequence_model in sequence_models(&model) {
                if registry.encoder_index(&sequence_model.encoder).is_none() {
                    let encoder = sequence_model.encoder.clone();
                    registry.encoders.push(RegisteredEncoder { encoder, model: id.clone() });
                }
            }
            registry.models.push(model);
        }
        registry
    }

    /// The same, with float models to compare some answers with: each has the id of the model that was made from it.
    ///
    /// # Panics
    /// When an id belongs to no model here.
    pub fn with_originals(mut self, originals: Vec<Arc<Model>>) -> Self {
        for original in &originals {
            let id = &original.info.id;
            assert!(self.get(id).is_some(), "no model is called {id:?}");
        }
        self.originals = originals;
        self
    }

    /// Every model, in order of preference.
    pub fn models(&self) -> &[Arc<Model>] {
        &self.models
    }

    /// The model called `id`.
    pub fn get(&self, id: &str) -> Option<&Arc<Model>> {
        self.models.iter().find(|m| m.info.id == id)
    }

    /// The model called `id`, or without an id the default one, if it offers `task`.
    ///
    /// # Errors
    /// [`EngineError::ModelNotFound`], [`EngineError::UnsupportedTask`].
    pub fn resolve(&self, id: Option<&str>, task: Task) -> Result<&Arc<Model>, EngineError> {
        let Some(id) = id else {
            let unsupported = || EngineError::UnsupportedTask { model: None, task, offered: Vec::new() };
            return self.models.iter().find(|m| m.offers(task)).ok_or_else(unsupported);
        };
        let known = || self.models.iter().map(|m| m.info.id.clone()).collect();
        let model = self.get(id).ok_or_else(|| EngineError::ModelNotFound { id: id.to_string(), known: known() })?;
        if !model.offers(task) {
            return Err(EngineError::UnsupportedTask { model: Some(id.to_string()), task, offered: model.tasks() });
        }
        Ok(model)
    }

    /// Each model that has a float original, with it.
    pub(super) fn pairs(&self) -> Vec<Pair> {
        let pair = |original: &Arc<Model>| Some((self.get(&original.info.id)?.clone(), original.clone()));
        self.originals.iter().filter_map(pair).map(|(served, original)| Pair { served, original }).collect()
    }

    /// Each encoder once.
    pub(super) fn encoders(&self) -> &[RegisteredEncoder] {
        &self.encoders
    }

    /// Position of `encoder` in [`Registry::encoders`].
    pub(super) fn encoder_index(&self, encoder: &Arc<dyn Encoder>) -> Option<usize> {
        self.encoders.iter().position(|known| std::ptr::addr_eq(Arc::as_ptr(&known.encoder), Arc::as_ptr(encoder)))
    }
}

fn sequence_models(model: &Model) -> impl Iterator<Item = &SequenceModel> {
    let classifier = model.classifier.as_ref().map(|p| &p.model);
    let embedder = model.embedder.as_ref().map(|p| &p.model);
    let summarizer = model.summarizer.as_ref().map(|p| &p.model);
    [classifier, embedder, summarizer].into_iter().flatten()
}

/// Whether `model` chooses one label for each input, so that one label can be said to be right.
pub(super) fn chooses_one_label(model: &Model) -> bool {
    model.classifier.as_ref().is_some_and(|c| c.default_activation() == OutputActivation::Softmax)
}

/// What metrics tell about `model`, whose kernels run on `isa`; the caller fills in how it is watched.
pub(super) fn facts(model: &Model, isa: &str) -> ModelFacts {
    let info = &model.info;
    let bins = |histogram: &Histogram| Bins { edges: histogram.edges.clone(), counts: histogram.counts.clone() };
    ModelFacts {
        id: info.id.clone(),
        version: info.version.clone(),
        tasks: model.tasks().into_iter().map(Task::name).collect(),
        architecture: info.architecture.clone(),
        precision: info.precision.clone(),
        scheme: info.scheme.clone(),
        isa: isa.to_string(),
        labels: info.labels.clone(),
        sizes: info.sizes.iter().map(|s| (s.component, s.dtype, s.bytes)).collect(),
        file_bytes: info.file_bytes,
        compression_ratio: info.compression_ratio,
        load_seconds: info.load_seconds,
        scores: info
            .scores
            .iter()
            .map(|s| (s.dataset.clone(), s.metric.clone(), s.precision.clone(), s.value))
            .collect(),
        reference: info.reference.as_ref().map(|reference| ReferenceFacts {
            labels: reference.labels.clone(),
            confidence: reference.confidence.as_ref().map(bins),
            tokens: bins(&reference.tokens),
        }),
        ..ModelFacts::default()
    }
}
