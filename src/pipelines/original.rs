//! The float model that a served one was made from, to compare their answers.

use std::path::Path;

use crate::checkpoint::ModelDir;
use crate::kernels::Kernels;

use super::{LoadError, Loader, Model, Precision};

/// A float folder, and the models that are loaded from it; those on one encoder share it in memory.
pub struct Original {
    dir: ModelDir,
    /// Loads a served folder with this folder's encoder in place of its own.
    encoders: Loader,
    /// Loads this folder with its own head.
    whole: Loader,
}

impl Original {
    /// Opens the folder.
    ///
    /// # Errors
    /// [`LoadError`] when it is no model folder, or not a float one.
    pub fn open(folder: &Path, kernels: Kernels) -> Result<Self, LoadError> {
        let dir = ModelDir::open(folder)?;
        if dir.encoder().quantization().is_some() {
            return Err(LoadError::NotFloat { path: folder.to_path_buf() });
        }
        let whole = Loader::new(kernels, Precision::Float);
        let encoders = Loader::new(kernels, Precision::Float).with_encoder(folder)?;
        Ok(Original { dir, encoders, whole })
    }

    /// Whether the encoder in the folder `served` was made from this one; none when its `quant.json` does not say.
    ///
    /// # Errors
    /// [`LoadError`] when it is no model folder.
    pub fn is_source_of(&self, served: &Path) -> Result<Option<bool>, LoadError> {
        let served = ModelDir::open(served)?;
        let served = served.encoder();
        if served.quantization().is_none() {
            return Ok(Some(served.digest() == self.dir.digest()));
        }
        let source = served.manifest().map(|m| m.source.sha256.as_str()).filter(|digest| !digest.is_empty());
        Ok(source.map(|digest| digest == self.dir.digest()))
    }

    /// The float counterpart of `served`, which was loaded from `folder`: the float encoder under the head of a folder that
    /// holds only a head, and otherwise the whole float model.
    ///
    /// # Errors
    /// [`LoadError::NotOriginal`] when `folder` was made from another model, or the two differ in more than their weights;
    /// and every error of loading.
    pub fn load(&mut self, served: &Model, folder: &Path) -> Result<Model, LoadError> {
        let refuse = |reason| {
            let (float, model) = (self.dir.path().to_path_buf(), folder.to_path_buf());
            Err(LoadError::NotOriginal { float, model, reason })
        };
        if self.is_source_of(folder)? == Some(false) {
            return refuse("its digest is not the one that quant.json names as the source".to_string());
        }
        let dir = ModelDir::open(folder)?;
        if self.dir.tokenizer_digest()? != dir.encoder().tokenizer_digest()? {
            return refuse("their tokenizer.json differ".to_string());
        }
        let own_head = served.classifier.is_some() && !dir.is_head_only();
        let id = &served.info.id;
        let original = match own_head {
            true => self.whole.load(id, self.dir.path())?,
            false => self.encoders.load(id, folder)?,
        };
        if original.encoder().spec() != served.encoder().spec() {
            return refuse("their sizes or options differ".to_string());
        }
        if original.info.labels != served.info.labels {
            let labels = |model: &Model| model.info.labels.join(", ");
            return refuse(format!("its labels are {}, those of the model {}", labels(&original), labels(served)));
        }
        Ok(original)
    }
}
