//! The cache layout of `huggingface_hub` (its guide "Understand caching"):
//!
//! ```text
//! models--owner--name/
//!   refs/main                          the commit that a branch or tag stood for
//!   snapshots/<commit>/config.json     → ../../blobs/<etag>
//!   blobs/<etag>                       contents, each stored once
//!   .no_exist/<commit>/modules.json    empty: the repository does not have this file
//! ```

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::super::CheckpointError;
use super::super::temporary::{GROWING, sibling, write_atomic};
use super::model_id::ModelId;

/// The cached part of one model repository.
pub(super) struct Repository {
    root: PathBuf,
}

impl Repository {
    pub fn new(cache_dir: &Path, id: &ModelId) -> Self {
        Repository { root: cache_dir.join(format!("models--{}--{}", id.owner, id.name)) }
    }

    /// The commit that a revision stands for: itself, or what the cache remembers.
    pub fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_string());
        }
        let commit = std::fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_string()).filter(|c| is_commit(c))
    }

    /// Remembers what a branch or tag stands for.
    pub fn set_commit_of(&self, revision: &str, commit: &str) -> Result<(), CheckpointError> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        create_parent(&path)?;
        write_atomic(&path, commit.as_bytes())
    }

    /// The folder of a commit's files.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// Whether a commit has a file; `None` when the cache does not know.
    pub fn has(&self, commit: &str, name: &str) -> Option<bool> {
        if self.snapshot(commit).join(name).is_file() {
            return Some(true);
        }
        self.absence_mark(commit, name).exists().then_some(false)
    }

    /// Remembers that a commit does not have a file.
    pub fn mark_absent(&self, commit: &str, name: &str) -> Result<(), CheckpointError> {
        let path = self.absence_mark(commit, name);
        create_parent(&path)?;
        write_atomic(&path, &[])
    }

    fn absence_mark(&self, commit: &str, name: &str) -> PathBuf {
        self.root.join(".no_exist").join(commit).join(name)
    }

    /// Where the content with this etag is kept; its folder exists afterwards.
    pub fn blob(&self, etag: &str) -> Result<PathBuf, CheckpointError> {
        let path = self.root.join("blobs").join(etag);
        create_parent(&path)?;
        Ok(path)
    }

    /// Makes a commit's file point to a blob.
    pub fn link(&self, commit: &str, name: &str, etag: &str) -> Result<(), CheckpointError> {
        let path = self.snapshot(commit).join(name);
        create_parent(&path)?;
        let up = "../".repeat(2 + name.matches('/').count());
        let temporary = sibling(&path, GROWING);
        symlink(format!("{up}blobs/{etag}"), &temporary).map_err(CheckpointError::io("link", &path))?;
        std::fs::rename(&temporary, &path).map_err(CheckpointError::io("link", &path))
    }
}

/// Whether this is the name of a commit: 40 hexadecimal digits.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn create_parent(path: &Path) -> Result<(), CheckpointError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(CheckpointError::io("create", parent))
}
