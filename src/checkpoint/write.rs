//! Weights → a model folder that Octet, Transformers and vLLM can read.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde_json::{Map, Value};

use super::file::{read_in, temporary_sibling};
use super::model_dir::WEIGHTS_FILE;
use super::{CheckpointError, MANIFEST_FILE, QuantManifest, QuantizationConfig, Tensor, sentence_transformer};

/// Longest file that is copied from a source folder; the tokenizer of XLM-RoBERTa has 17 MB.
const MAX_COPIED_BYTES: u64 = 256 << 20;

/// Elements that are turned into bytes before they are written.
const ELEMENTS_AT_ONCE: usize = 1 << 16;

/// What goes into a model folder.
#[derive(Clone, Debug, Default)]
pub struct ModelFiles<'a> {
    /// Content of `config.json`, without `quantization_config`.
    pub config: Map<String, Value>,
    /// How the tensors are quantized; `None` for float weights.
    pub quantization: Option<&'a QuantizationConfig>,
    /// All weights by name; `Int8` tensors get their scales beside them as `<name>_scale`.
    pub tensors: BTreeMap<String, Tensor>,
    /// Content of `quant.json`.
    pub manifest: Option<&'a QuantManifest>,
    /// Folder that the tokenizer and the sentence-transformers files are copied from.
    pub copy_from: Option<&'a Path>,
    /// Further files by name, such as the model card `README.md`.
    pub extra: BTreeMap<String, Vec<u8>>,
}

/// What to do when the destination already holds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Fail.
    Refuse,
    /// Replace it, if it is a model folder; other folders are never replaced.
    Replace,
}

/// Writes a model folder. It appears complete or not at all: everything is written to a hidden folder beside it,
/// which is then renamed. The same input gives the same bytes.
///
/// # Errors
/// [`CheckpointError`] when the destination is taken, a source file cannot be read, or writing fails; the destination
/// is then as it was.
pub fn write_model(destination: &Path, files: &ModelFiles, existing: Existing) -> Result<(), CheckpointError> {
    check_destination(destination, existing)?;
    let destination = with_file_name(destination)?;
    let parent = destination.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent).map_err(CheckpointError::io("create", parent))?;
    let temporary = temporary_sibling(&destination);
    std::fs::create_dir(&temporary).map_err(CheckpointError::io("create", &temporary))?;
    let result = write_content(&temporary, files).and_then(|()| move_into_place(&temporary, &destination));
    if result.is_err() {
        let _ = std::fs::remove_dir_all(&temporary);
    }
    result
}

/// Fails unless `destination` is free, empty, or a model folder that may be replaced.
fn check_destination(destination: &Path, existing: Existing) -> Result<(), CheckpointError> {
    let taken = |reason: &str| Err(CheckpointError::invalid(destination, reason));
    let mut content = match std::fs::read_dir(destination) {
        Ok(content) => content,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => return taken("exists and is not a folder"),
        Err(e) => return Err(CheckpointError::io("open", destination)(e)),
    };
    if content.next().is_none() {
        return Ok(());
    }
    if existing == Existing::Refuse {
        return taken("exists and is not empty; choose another folder or overwrite it");
    }
    if !destination.join("config.json").is_file() {
        return taken("exists, is not empty and is not a model folder (no config.json), so it is not overwritten");
    }
    Ok(())
}

/// An absolute path that ends in a name, so that a sibling can be made beside it.
fn with_file_name(path: &Path) -> Result<PathBuf, CheckpointError> {
    match path.canonicalize() {
        Ok(found) => Ok(found),
        Err(_) => std::path::absolute(path).map_err(CheckpointError::io("write", path)),
    }
}

fn write_content(folder: &Path, files: &ModelFiles) -> Result<(), CheckpointError> {
    let mut config = files.config.clone();
    config.shift_remove("quantization_config");
    if let Some(quantization) = files.quantization {
        config.insert("quantization_config".into(), quantization.to_json());
    }
    let mut config = serde_json::to_vec_pretty(&config).expect("a JSON object can be written");
    config.push(b'\n');
    write_file(folder, "config.json", &config)?;
    write_safetensors(&folder.join(WEIGHTS_FILE), &files.tensors)?;
    if let Some(manifest) = files.manifest {
        manifest.write(folder)?;
    }
    if let Some(source) = files.copy_from {
        let mut names =
            vec!["tokenizer.json".to_string(), "tokenizer_config.json".into(), "special_tokens_map.json".into()];
        names.extend(sentence_transformer::file_names(source)?);
        for name in names {
            if let Some(content) = read_in(source, &name, MAX_COPIED_BYTES)? {
                write_file(folder, &name, &content)?;
            }
        }
    }
    for (name, content) in &files.extra {
        assert!(
            name != WEIGHTS_FILE && name != "config.json" && name != MANIFEST_FILE,
            "{name} is written from its parts"
        );
        write_file(folder, name, content)?;
    }
    Ok(())
}

fn write_file(folder: &Path, name: &str, content: &[u8]) -> Result<(), CheckpointError> {
    let path = folder.join(name);
    let write = || {
        std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
        let mut file = File::create(&path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(CheckpointError::io("write", &path))
}

/// Renames the finished folder to its name. What was there before is moved aside first, and back if that fails.
fn move_into_place(finished: &Path, destination: &Path) -> Result<(), CheckpointError> {
    let failed = CheckpointError::io("write", destination);
    // Renaming over an empty folder, or over nothing, needs no preparation.
    let Err(first) = std::fs::rename(finished, destination) else { return Ok(()) };
    if !matches!(first.kind(), std::io::ErrorKind::DirectoryNotEmpty | std::io::ErrorKind::AlreadyExists) {
        return Err(failed(first));
    }
    let aside = temporary_sibling(destination);
    let replace = || {
        std::fs::rename(destination, &aside)?;
        std::fs::rename(finished, destination).inspect_err(|_| {
            let _ = std::fs::rename(&aside, destination);
        })?;
        std::fs::remove_dir_all(&aside)
    };
    replace().map_err(failed)
}

/// One tensor as it is stored: `Int8` becomes two of them.
enum Stored<'a> {
    F32(&'a [f32]),
    I8(&'a [i8]),
}

/// Writes a safetensors file as the crate of that name does (largest element type first, then by name), but with
/// the permissions of an ordinary file: the crate's are for the owner only, and a container runs as another user.
fn write_safetensors(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<(), CheckpointError> {
    let mut stored: BTreeMap<String, (Vec<usize>, Stored)> = BTreeMap::new();
    let mut add = |name: String, shape: Vec<usize>, values| {
        assert!(stored.insert(name.clone(), (shape, values)).is_none(), "tensor \"{name}\" twice");
    };
    for (name, tensor) in tensors {
        match tensor {
            Tensor::F32 { shape, data } => add(name.clone(), shape.clone(), Stored::F32(data)),
            Tensor::Int8 { shape, data, scale } => {
                assert_eq!(Some(&scale.len()), shape.first(), "tensor \"{name}\" needs one scale per row");
                add(name.clone(), shape.clone(), Stored::I8(data));
                add(format!("{name}_scale"), vec![scale.len(), 1], Stored::F32(scale));
            }
        }
    }
    let mut stored: Vec<_> = stored.into_iter().collect();
    stored.sort_by_key(|(_, (_, values))| matches!(values, Stored::I8(_)));

    let mut end = 0;
    let mut entries = Vec::with_capacity(stored.len());
    for (name, (shape, values)) in &stored {
        let (dtype, bytes) = match values {
            Stored::F32(data) => (Dtype::F32, data.len() * 4),
            Stored::I8(data) => (Dtype::I8, data.len()),
        };
        entries.push((name.clone(), TensorInfo { dtype, shape: shape.clone(), data_offsets: (end, end + bytes) }));
        end += bytes;
    }
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let header = Metadata::new(Some(metadata), entries).map_err(|e| CheckpointError::invalid(path, e.to_string()))?;
    let mut header = serde_json::to_vec(&header).expect("a header has string keys only");
    header.resize(header.len().next_multiple_of(8), b' ');

    let write = || {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (_, (_, values)) in &stored {
            match values {
                Stored::F32(data) => {
                    for part in data.chunks(ELEMENTS_AT_ONCE) {
                        file.write_all(&part.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())?;
                    }
                }
                Stored::I8(data) => {
                    for part in data.chunks(ELEMENTS_AT_ONCE) {
                        file.write_all(&part.iter().map(|&v| v as u8).collect::<Vec<u8>>())?;
                    }
                }
            }
        }
        file.into_inner()?.sync_all()
    };
    write().map_err(CheckpointError::io("write", path))
}
