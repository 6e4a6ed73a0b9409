//! Opening files of a model folder without being led out of it.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::CheckpointError;

/// What identifies one state of a file: it changes when the file is replaced or written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

/// A regular file of a model folder, open for reading.
pub(super) struct OpenedFile {
    pub file: File,
    /// Size in bytes when it was opened.
    pub bytes: u64,
    pub stamp: Stamp,
}

/// Opens `folder/name` if it is a regular file that lies in `folder`, and returns `None` if it does not exist.
///
/// A symbolic link may lead to another place in the folder, or, when the folder is a snapshot of the Hugging Face
/// cache (`<repository>/snapshots/<commit>`), to that repository's `blobs`. Anything else is refused: a model folder
/// from a stranger must not make the server read other files.
///
/// # Errors
/// [`CheckpointError`] when it is not a regular file, leads out of the folder, or cannot be opened.
pub(super) fn open_in(folder: &Path, name: &str) -> Result<Option<OpenedFile>, CheckpointError> {
    let path = folder.join(name);
    let resolved = match path.canonicalize() {
        Ok(resolved) => resolved,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(CheckpointError::io("open", &path)(e)),
    };
    let root = folder.canonicalize().map_err(CheckpointError::io("open", folder))?;
    if !resolved.starts_with(&root) && !is_cache_blob(&root, &resolved) {
        return Err(CheckpointError::invalid(
            &path,
            format!("leads out of the model folder, to {}; copy the file into the folder", resolved.display()),
        ));
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&resolved)
        .map_err(CheckpointError::io("open", &path))?;
    let metadata = file.metadata().map_err(CheckpointError::io("open", &path))?;
    if !metadata.is_file() {
        return Err(CheckpointError::invalid(&path, "not a regular file"));
    }
    let stamp = Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        bytes: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    };
    Ok(Some(OpenedFile { file, bytes: metadata.len(), stamp }))
}

/// Whether `file` is a blob of the cache repository that `root` is a snapshot of.
fn is_cache_blob(root: &Path, file: &Path) -> bool {
    let repository = match root.parent() {
        Some(snapshots) if snapshots.file_name().is_some_and(|n| n == "snapshots") => snapshots.parent(),
        _ => None,
    };
    repository.is_some_and(|r| file.parent() == Some(&r.join("blobs")))
}

/// Reads a whole file of a model folder, or `None` when it does not exist.
///
/// # Errors
/// As [`open_in`], and when the file is longer than `max_bytes`.
pub(super) fn read_in(folder: &Path, name: &str, max_bytes: u64) -> Result<Option<Vec<u8>>, CheckpointError> {
    let Some(opened) = open_in(folder, name)? else { return Ok(None) };
    let path = folder.join(name);
    let mut content = Vec::new();
    opened.file.take(max_bytes + 1).read_to_end(&mut content).map_err(CheckpointError::io("read", &path))?;
    if content.len() as u64 > max_bytes {
        return Err(CheckpointError::invalid(&path, format!("longer than {max_bytes} bytes")));
    }
    Ok(Some(content))
}

/// Whether `name` can only mean an entry of one folder: no separators, no dots, nothing a shell would expand.
pub(super) fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 128 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// SHA-256 of everything that is left to read, in lower-case hex.
///
/// # Errors
/// When reading fails.
pub(super) fn sha256_hex(reader: &mut impl Read) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 1 << 18];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hasher.finalize())),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
