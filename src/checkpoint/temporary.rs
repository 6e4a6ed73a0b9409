//! Content that appears complete or not at all: it grows under a hidden name beside its own, and is renamed at the end.

use std::fs::File;
use std::io::{Error, ErrorKind, Result, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::CheckpointError;

/// Ends of hidden names: of content that grows, and of what it takes the place of.
pub(super) const GROWING: &str = "tmp";
const REPLACED: &str = "old";

/// A file or folder on its way to another name, which is removed when dropped before that.
///
/// Its maker holds a lock on it. What nobody holds was left by a process that was killed, and is removed by the next
/// one that writes to the same place.
pub(super) struct Temporary {
    path: PathBuf,
    /// The file, or a handle on the folder; open for as long as the content grows.
    pub(super) file: File,
}

impl Temporary {
    /// An empty file that will be `path`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn file(path: &Path) -> Result<Self> {
        Temporary::make(path, |temporary| File::create_new(temporary))
    }

    /// An empty folder that will be `path`.
    ///
    /// # Errors
    /// As [`Temporary::file`].
    pub(super) fn folder(path: &Path) -> Result<Self> {
        Temporary::make(path, |temporary| {
            std::fs::create_dir(temporary)?;
            File::open(temporary)
        })
    }

    fn make(path: &Path, make: impl FnOnce(&Path) -> Result<File>) -> Result<Self> {
        remove_abandoned(path);
        let temporary = sibling(path, GROWING);
        let file = make(&temporary)?;
        // Where there are no locks, nothing is ever found to be abandoned.
        let _ = file.try_lock();
        Ok(Temporary { path: temporary, file })
    }

    /// Where it is for now.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name, which is free or that of a file or of an empty folder.
    ///
    /// # Errors
    /// When it cannot be renamed; it is then removed.
    pub(super) fn rename(self, path: &Path) -> Result<()> {
        std::fs::rename(&self.path, path)
    }

    /// As [`Temporary::rename`], also where a folder with content is: that is moved aside first, and back if it fails.
    ///
    /// # Errors
    /// As [`Temporary::rename`].
    pub(super) fn replace(self, path: &Path) -> Result<()> {
        let Err(first) = std::fs::rename(&self.path, path) else { return Ok(()) };
        if !matches!(first.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) {
            return Err(first);
        }
        let aside = sibling(path, REPLACED);
        std::fs::rename(path, &aside)?;
        std::fs::rename(&self.path, path).inspect_err(|_| {
            let _ = std::fs::rename(&aside, path);
        })?;
        // The new content is in its place; what is left of the old is removed by the next writer.
        let _ = std::fs::remove_dir_all(&aside);
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing of this name.
        let _ = remove(&self.path);
    }
}

/// Replaces `path` by `content`, so that a reader sees the old file or the new one and never a part.
///
/// # Errors
/// [`CheckpointError::Io`] when it cannot be written.
pub(super) fn write_atomic(path: &Path, content: &[u8]) -> std::result::Result<(), CheckpointError> {
    let write = || {
        let mut temporary = Temporary::file(path)?;
        temporary.file.write_all(content)?;
        temporary.file.sync_all()?;
        temporary.rename(path)
    };
    write().map_err(CheckpointError::io("write", path))
}

/// A hidden name beside `path` that no other process or thread uses.
pub(super) fn sibling(path: &Path, end: &str) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.{}-{unique}.{end}", std::process::id()))
}

/// Removes what killed processes left beside `path`. What was replaced is kept while nothing is in its place: it may be
/// the only copy.
fn remove_abandoned(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let (Ok(entries), start) = (std::fs::read_dir(folder), format!(".{}.", name.to_string_lossy())) else { return };
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    for entry in entries.flatten() {
        let found = entry.file_name().to_string_lossy().into_owned();
        let parts = found.strip_prefix(&start).and_then(|rest| rest.split_once('.'));
        let Some((maker, end)) = parts else { continue };
        let is_ours = maker.split_once('-').is_some_and(|(process, count)| number(process) && number(count));
        let may_go = end == GROWING || (end == REPLACED && path.exists());
        if is_ours && may_go && nobody_holds(&entry.path()) {
            let _ = remove(&entry.path());
        }
    }
}

/// Whether a file or folder is locked by no process. Links are let alone.
fn nobody_holds(path: &Path) -> bool {
    let is_content = path.symlink_metadata().is_ok_and(|m| m.is_file() || m.is_dir());
    is_content && File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

fn remove(path: &Path) -> Result<()> {
    match path.symlink_metadata()? {
        found if found.is_dir() => std::fs::remove_dir_all(path),
        found if found.is_file() => std::fs::remove_file(path),
        _ => Err(Error::from(ErrorKind::Unsupported)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let name = |e: Result<std::fs::DirEntry>| e.unwrap().file_name().to_string_lossy().into_owned();
        let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn what_a_killed_process_left_is_removed_by_the_next_and_what_grows_is_not() {
        let root = tempfile::tempdir().unwrap();
        let model = root.path().join("model");
        let growing = Temporary::folder(&model).unwrap();
        std::fs::create_dir_all(root.path().join(".model.7-0.tmp/1_Pooling")).unwrap();
        std::fs::write(root.path().join(".model.7-1.tmp"), "").unwrap();
        let others = [".model.7.tmp", ".model.a-0.tmp", ".model.7-0.tmp.bak", ".models.7-0.tmp", "model.7-0.tmp"];
        others.iter().for_each(|name| std::fs::write(root.path().join(name), "").unwrap());
        let second = Temporary::folder(&model).unwrap();
        let mut left: Vec<String> = others.map(String::from).to_vec();
        left.extend([&growing, &second].map(|t| t.path().file_name().unwrap().to_string_lossy().into_owned()));
        left.sort();
        assert_eq!(names(root.path()), left);
        drop((growing, second));
        assert_eq!(names(root.path()).len(), others.len());
    }

    #[test]
    fn the_old_content_is_kept_while_nothing_is_in_its_place() {
        let root = tempfile::tempdir().unwrap();
        let (model, old) = (root.path().join("model"), root.path().join(".model.7-0.old"));
        std::fs::create_dir(&old).unwrap();
        Temporary::folder(&model).unwrap().replace(&model).unwrap();
        assert!(old.is_dir(), "killed between two renames: the only copy");
        std::fs::write(model.join("config.json"), "1").unwrap();
        let new = Temporary::folder(&model).unwrap();
        assert!(!old.exists());
        std::fs::write(new.path().join("config.json"), "2").unwrap();
        new.replace(&model).unwrap();
        assert_eq!(std::fs::read_to_string(model.join("config.json")).unwrap(), "2");
        assert_eq!(names(root.path()), ["model"]);
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("quant.json");
        write_atomic(&path, b"old").unwrap();
        let mut temporary = Temporary::file(&path).unwrap();
        temporary.file.write_all(b"ne").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        drop(temporary);
        write_atomic(&path, b"new").unwrap();
        assert_eq!((std::fs::read(&path).unwrap(), names(root.path())), (b"new".to_vec(), vec!["quant.json".into()]));
    }
}
