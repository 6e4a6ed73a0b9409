//! The zip archive around a pickle.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use zip::ZipArchive;
use zip::read::{ArchiveOffset, Config};
use zip::result::ZipError;

/// A pickle of BERT-large has 100 KB.
const MAX_PICKLE_BYTES: u64 = 4 << 20;
const MAX_ENTRIES: usize = 20_000;

/// An open archive; entries are stored without compression, as torch writes them.
#[derive(Debug)]
pub(super) struct Archive {
    zip: ZipArchive<File>,
    /// The folder inside the archive that everything is in, with its slash.
    prefix: String,
    /// Bytes that may still be read: an archive whose entries overlap cannot make more of itself than it is.
    budget: u64,
}

impl Archive {
    /// Opens a file that `torch.save` wrote; the error says what it is instead.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(|e| e.to_string())?;
        let bytes = file.metadata().map_err(|e| e.to_string())?.len();
        // torch puts nothing before the archive.
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let zip = ZipArchive::with_config(config, file).map_err(|e| match e {
            ZipError::InvalidArchive(_) => {
                "not a zip archive; files from before PyTorch 1.6 and other pickles are not \
                                            read: load it with PyTorch and save it again with \
                                            torch.save(model.state_dict(), file)"
                    .to_string()
            }
            other => other.to_string(),
        })?;
        if zip.len() > MAX_ENTRIES {
            return Err(format!("{} entries in the archive, at most {MAX_ENTRIES} allowed", zip.len()));
        }
        let names = zip.file_names().map(|name| name.map(|n| n.into_owned()));
        let names: Vec<String> = names.collect::<Result<_, _>>().map_err(|e| e.to_string())?;
        let mut prefixes: Vec<String> =
            names.iter().filter_map(|n| n.strip_suffix("data.pkl")).map(str::to_string).collect();
        if names.iter().any(|n| n.contains("/code/") || n.ends_with("/constants.pkl")) {
            return Err("a TorchScript module, which is code; load it with torch.jit.load and save its weights with \
                        torch.save(module.state_dict(), file)"
                .into());
        }
        let prefix = match (prefixes.pop(), prefixes.is_empty()) {
            (Some(prefix), true) if prefix.is_empty() || prefix.ends_with('/') => prefix,
            _ => return Err("not one \"data.pkl\" in the archive; was it written by torch.save?".into()),
        };
        let mut archive = Archive { zip, prefix, budget: 2 * bytes };
        if let Some(order) = archive.entry("byteorder", 16)?
            && order != b"little"
        {
            return Err(format!("byte order {:?}, expected little", String::from_utf8_lossy(&order)));
        }
        Ok(archive)
    }

    /// The pickle.
    pub(super) fn pickle(&mut self) -> Result<Vec<u8>, String> {
        self.entry("data.pkl", MAX_PICKLE_BYTES)?.ok_or_else(|| "no \"data.pkl\" in the archive".into())
    }

    /// The bytes of a storage, which must be `bytes` many.
    pub(super) fn storage(&mut self, key: &str, bytes: u64) -> Result<Vec<u8>, String> {
        let name = format!("data/{key}");
        let content = self.entry(&name, bytes)?.ok_or_else(|| format!("no \"{name}\" in the archive"))?;
        match content.len() as u64 == bytes {
            true => Ok(content),
            false => Err(format!("\"{name}\" has {} bytes, its storage needs {bytes}", content.len())),
        }
    }

    /// A whole entry of at most `max_bytes`; `None` when there is none of this name.
    fn entry(&mut self, name: &str, max_bytes: u64) -> Result<Option<Vec<u8>>, String> {
        let full = format!("{}{name}", self.prefix);
        let entry = match self.zip.by_name(&full) {
            Ok(entry) => entry,
            Err(ZipError::FileNotFound) => return Ok(None),
            Err(e) => return Err(format!("\"{name}\": {e}")),
        };
        if entry.compression() != zip::CompressionMethod::Stored {
            return Err(format!("\"{name}\" is compressed; torch.save stores entries as they are"));
        }
        let limit = max_bytes.min(self.budget);
        let mut content = Vec::new();
        entry.take(limit + 1).read_to_end(&mut content).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => format!("\"{name}\" is cut short"),
            _ => format!("\"{name}\": {e}"),
        })?;
        if content.len() as u64 > limit {
            return Err(format!("\"{name}\" has more than the {limit} bytes that are allowed"));
        }
        self.budget -= content.len() as u64;
        Ok(Some(content))
    }
}
