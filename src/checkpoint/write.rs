//! Weights → a model folder that Octet, Transformers and vLLM can read.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde_json::{Map, Value};

use crate::kernels::affine::{Granularity, Levels, QParams, QuantizedWeights};

use super::file::read_in;
use super::model_dir::WEIGHTS_FILE;
use super::packing;
use super::temporary::Temporary;
use super::weights::module_of;
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
    /// How the tensors are quantized; `None` for float weights. Which modules are smoothed, the tensors say.
    pub quantization: Option<&'a QuantizationConfig>,
    /// All weights by name; quantized ones get their scales beside them as `<name>_scale`, and so on.
    pub tensors: BTreeMap<String, Tensor>,
    /// Parameters of static inputs by module.
    pub inputs: BTreeMap<String, QParams>,
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

/// Writes a model folder, as [`write_folder`] does. The same input gives the same bytes.
///
/// # Errors
/// As [`write_folder`], and when a source file cannot be read.
pub fn write_model(destination: &Path, files: &ModelFiles, existing: Existing) -> Result<(), CheckpointError> {
    write_folder(destination, existing, |folder| write_content(folder, files))
}

/// Makes a folder of what `write` puts into the folder that it gets. It appears complete or not at all: everything is
/// written to a hidden folder beside it, which is then renamed. One that a killed process left there is removed.
///
/// # Errors
/// [`CheckpointError`] when the destination is taken, or writing fails; the destination is then as it was.
pub fn write_folder(
    destination: &Path,
    existing: Existing,
    write: impl FnOnce(&Path) -> Result<(), CheckpointError>,
) -> Result<(), CheckpointError> {
    check_destination(destination, existing)?;
    let destination = with_file_name(destination)?;
    let parent = destination.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent).map_err(CheckpointError::io("create", parent))?;
    let failed = CheckpointError::io("write", &destination);
    let folder = match Temporary::folder(&destination) {
        Ok(folder) => folder,
        Err(e) => return Err(failed(e)),
    };
    write(folder.path())?;
    folder.replace(&destination).map_err(failed)
}

/// Fails unless `destination` is free, empty, or a model folder that may be replaced; [`write_model`] does the same, so
/// this is for asking before long work.
///
/// # Errors
/// [`CheckpointError`] that says what is there.
pub fn check_destination(destination: &Path, existing: Existing) -> Result<(), CheckpointError> {
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
        return taken("exists and is not empty; choose another folder, or replace it with --force");
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
        let quantization = QuantizationConfig { smoothed: smoothed(&files.tensors), ..quantization.clone() };
        config.insert("quantization_config".into(), quantization.to_json());
    }
    let mut config = serde_json::to_vec_pretty(&config).expect("a JSON object can be written");
    config.push(b'\n');
    write_file(folder, "config.json", &config)?;
    write_safetensors(&folder.join(WEIGHTS_FILE), files)?;
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

/// The modules with factors for their inputs.
fn smoothed(tensors: &BTreeMap<String, Tensor>) -> Vec<String> {
    let is_smoothed = |tensor: &Tensor| matches!(tensor, Tensor::Quantized(weights) if !weights.smoothing.is_empty());
    let names = tensors.iter().filter(|(_, tensor)| is_smoothed(tensor)).map(|(name, _)| name);
    names.map(|name| module_of(name).to_string()).collect()
}

/// Writes a file of a folder, to the disk.
///
/// # Errors
/// [`CheckpointError::Io`].
pub fn write_file(folder: &Path, name: &str, content: &[u8]) -> Result<(), CheckpointError> {
    let path = folder.join(name);
    let write = || {
        std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
        let mut file = File::create(&path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(CheckpointError::io("write", &path))
}

/// One tensor as it is stored.
enum Stored<'a> {
    F32(&'a [f32]),
    I8(&'a [i8]),
    I32(Vec<i32>),
    Scale(f32),
    ZeroPoint(i8),
}

impl Stored<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Stored::F32(_) | Stored::Scale(_) => Dtype::F32,
            Stored::I32(_) => Dtype::I32,
            Stored::I8(_) | Stored::ZeroPoint(_) => Dtype::I8,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Stored::F32(data) => data.len() * 4,
            Stored::I32(data) => data.len() * 4,
            Stored::I8(data) => data.len(),
            Stored::Scale(_) => 4,
            Stored::ZeroPoint(_) => 1,
        }
    }

    fn write(&self, file: &mut impl Write) -> std::io::Result<()> {
        fn each<T: Copy, const N: usize>(
            data: &[T],
            bytes: impl Fn(T) -> [u8; N],
            file: &mut impl Write,
        ) -> std::io::Result<()> {
            data.chunks(ELEMENTS_AT_ONCE)
                .try_for_each(|part| file.write_all(&part.iter().flat_map(|&v| bytes(v)).collect::<Vec<u8>>()))
        }
        match self {
            Stored::F32(data) => each(data, f32::to_le_bytes, file),
            Stored::I32(data) => each(data, i32::to_le_bytes, file),
            Stored::I8(data) => each(data, i8::to_le_bytes, file),
            Stored::Scale(scale) => file.write_all(&scale.to_le_bytes()),
            Stored::ZeroPoint(zero) => file.write_all(&zero.to_le_bytes()),
        }
    }
}

/// The parts of a quantized matrix, by what is added to its name.
fn parts(weights: &QuantizedWeights) -> Vec<(&'static str, Vec<usize>, Stored<'_>)> {
    let [rows, columns] = weights.shape;
    let (levels, groups) = (weights.scheme.levels, weights.groups());
    let parameters = match weights.scheme.granularity {
        Granularity::Tensor => vec![1],
        _ => vec![rows, groups],
    };
    let mut parts = vec![("_scale", parameters.clone(), Stored::F32(&weights.scale))];
    if !weights.smoothing.is_empty() {
        parts.push(("_smoothing", vec![columns], Stored::F32(&weights.smoothing)));
    }
    let has_zeros = !weights.zero_point.is_empty();
    if levels == Levels::Int8 {
        parts.push(("", vec![rows, columns], Stored::I8(&weights.values)));
        if has_zeros {
            parts.push(("_zero_point", parameters, Stored::I8(&weights.zero_point)));
        }
        return parts;
    }
    let words = |count: usize| count.div_ceil(packing::per_word(levels.bits()));
    let packed = packing::pack(&weights.values, columns, levels.bits());
    parts.push(("_packed", vec![rows, words(columns)], Stored::I32(packed)));
    parts.push(("_shape", vec![2], Stored::I32(vec![rows as i32, columns as i32])));
    if has_zeros {
        // Packed down the columns, as compressed-tensors does.
        let zero_rows = weights.scale.len() / groups;
        let turned = packing::pack(&packing::transpose(&weights.zero_point, groups), zero_rows, levels.bits());
        let packed = packing::transpose(&turned, words(zero_rows));
        parts.push(("_zero_point", vec![words(zero_rows), groups], Stored::I32(packed)));
    }
    parts
}

/// Writes a safetensors file as the crate of that name does (largest element type first, then by name), but with
/// the permissions of an ordinary file: the crate's are for the owner only, and a container runs as another user.
fn write_safetensors(path: &Path, files: &ModelFiles) -> Result<(), CheckpointError> {
    let mut stored: BTreeMap<String, (Vec<usize>, Stored)> = BTreeMap::new();
    let mut add = |name: String, shape: Vec<usize>, values| {
        assert!(stored.insert(name.clone(), (shape, values)).is_none(), "tensor \"{name}\" twice");
    };
    for (name, tensor) in &files.tensors {
        match tensor {
            Tensor::F32 { shape, data } => add(name.clone(), shape.clone(), Stored::F32(data)),
            Tensor::Quantized(weights) => {
                parts(weights)
                    .into_iter()
                    .for_each(|(part, shape, values)| add(format!("{name}{part}"), shape, values));
            }
        }
    }
    for (module, params) in &files.inputs {
        // Integers of compressed-tensors are signed, those of the kernels are not.
        let zero_point = i8::try_from(params.zero_point - 128).expect("a zero point of u8 is in 0..=255");
        add(format!("{module}.input_scale"), vec![1], Stored::Scale(params.scale));
        add(format!("{module}.input_zero_point"), vec![1], Stored::ZeroPoint(zero_point));
    }
    let mut stored: Vec<_> = stored.into_iter().collect();
    stored.sort_by_key(|(_, (_, values))| std::cmp::Reverse(values.dtype().bitsize()));

    let mut end = 0;
    let mut entries = Vec::with_capacity(stored.len());
    for (name, (shape, values)) in &stored {
        let data_offsets = (end, end + values.bytes());
        entries.push((name.clone(), TensorInfo { dtype: values.dtype(), shape: shape.clone(), data_offsets }));
        end = data_offsets.1;
    }
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let header = Metadata::new(Some(metadata), entries).map_err(|e| CheckpointError::invalid(path, e.to_string()))?;
    let mut header = serde_json::to_vec(&header).expect("a header has string keys only");
    header.resize(header.len().next_multiple_of(8), b' ');

    let write = || {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        stored.iter().try_for_each(|(_, (_, values))| values.write(&mut file))?;
        file.into_inner()?.sync_all()
    };
    write().map_err(CheckpointError::io("write", path))
}
