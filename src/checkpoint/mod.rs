//! Files on disk → named, checked weights, and back.
//!
//! A model is a folder in the Hugging Face layout: `config.json`, `tokenizer.json`, weights in safetensors (one file
//! or shards), the sentence-transformers files when there are any, and our `quant.json`. Everything here assumes that a
//! folder comes from a stranger: sizes, names, values and links are checked before they are used, and no pickle is
//! ever opened here (`interchange` reads other programs' files). What the weights mean is not known here; that is `architectures`.
//!
//! Start with [`ModelDir::open`], then [`ModelDir::weights`] and [`Weights::take`]. [`write_model`] is the way back;
//! [`hub`] brings folders from a model hub.

pub mod card;
mod error;
mod file;
mod header;
pub mod hub;
mod manifest;
mod model_config;
mod model_dir;
mod packing;
mod quantization_config;
mod reference;
mod sentence_transformer;
mod temporary;
mod weights;
mod write;

pub use error::CheckpointError;
pub use manifest::{
    DEFAULT_THRESHOLD, Fallback, LayerError, MANIFEST_FILE, MANIFEST_VERSION, QuantManifest, Recipe, Score, Source,
    update_manifest,
};
pub use model_config::{HeadConfig, LayerConfig, ModelConfig, OctetConfig, Pooling, ProblemType};
pub use model_dir::ModelDir;
pub(crate) use model_dir::shard_names;
pub use quantization_config::{InputConfig, QuantizationConfig, QuantizationGroup};
pub use reference::{Histogram, Reference};
pub use sentence_transformer::SentenceTransformerConfig;
pub use weights::{Tensor, TensorEntry, Weights};
pub use write::{Existing, ModelFiles, check_destination, write_file, write_folder, write_model};

#[cfg(test)]
mod tests;
