//! Why a foreign model was not read or written.

use std::path::{Path, PathBuf};

use crate::architectures::ArchitectureError;
use crate::checkpoint::CheckpointError;

/// What is wrong with a foreign file; the message says where, what was found, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum InterchangeError {
    /// A model folder, read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// An unknown family or option in `config.json`.
    #[error("{path}: {source}", path = path.display())]
    Architecture { path: PathBuf, source: ArchitectureError },
    /// A foreign file that is damaged, hostile, or holds something that Octet has no counterpart for.
    #[error("{path}: {reason}", path = path.display())]
    Refused { path: PathBuf, reason: String },
    /// The operating system refused to read or write.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
}

impl InterchangeError {
    pub(super) fn refused(path: &Path, reason: impl Into<String>) -> Self {
        InterchangeError::Refused { path: path.to_path_buf(), reason: reason.into() }
    }

    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| InterchangeError::Io { action, path: path.to_path_buf(), source }
    }
}
