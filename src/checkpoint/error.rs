//! Why a model folder was refused.

use std::path::{Path, PathBuf};

/// What is wrong with a model folder, one of its files, or one of its tensors; the message says where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused to read or write.
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    /// A file that every model folder needs is not there.
    #[error("{path} is missing: {hint}")]
    Missing { path: PathBuf, hint: String },
    /// A file is there but is not what its name promises: damaged, hostile, or made by something else.
    #[error("{path}: {reason}")]
    Invalid { path: PathBuf, reason: String },
    /// One value of a JSON file is missing, of the wrong type, or out of range.
    #[error("{path}: \"{key}\" is {found}, expected {allowed}")]
    Value { path: PathBuf, key: String, found: String, allowed: String },
    /// The file is fine, but asks for something Octet does not do.
    #[error("{path}: {found} is not supported; supported: {supported}")]
    Unsupported { path: PathBuf, found: String, supported: String },
    /// A weight is not in any file of the folder.
    #[error("tensor \"{name}\" is missing ({path}){}", closest(.close))]
    MissingTensor { name: String, path: PathBuf, close: Vec<String> },
    /// A weight has another shape than the model's sizes ask for.
    #[error("tensor \"{name}\": expected shape {expected:?}, found {found:?} {dtype} ({path})")]
    Shape { name: String, expected: Vec<usize>, found: Vec<usize>, dtype: String, path: PathBuf },
    /// A weight has values or a storage type that cannot be used.
    #[error("tensor \"{name}\": {reason} ({path})")]
    Tensor { name: String, reason: String, path: PathBuf },
}

impl CheckpointError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| CheckpointError::Io { action, path: path.to_path_buf(), source }
    }

    pub(super) fn invalid(path: &Path, reason: impl Into<String>) -> Self {
        CheckpointError::Invalid { path: path.to_path_buf(), reason: reason.into() }
    }
}

fn closest(names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    format!("; close names: {}", names.join(", "))
}
