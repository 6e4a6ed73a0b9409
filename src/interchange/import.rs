//! A foreign model → a model folder.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::architectures::{self, Architecture};
use crate::checkpoint::{
    self, Existing, InputConfig, ModelConfig, ModelFiles, QuantizationConfig, QuantizationGroup, Tensor, write_model,
};
use crate::kernels::affine::Scheme;

use super::InterchangeError;
use super::onnx;
use super::tensors::Named;
use super::torch::StateDicts;

const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// What an import should do.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// Folder with the config.json, the tokenizer and the sentence-transformers files; the one of the foreign file when
    /// `None`.
    pub companions: Option<PathBuf>,
    /// What to do when the destination exists.
    pub existing: Existing,
}

/// A foreign format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `torch.save` of a state dict.
    Torch,
    /// An ONNX graph.
    Onnx,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Torch => "a PyTorch state dict",
            Format::Onnx => "an ONNX graph",
        })
    }
}

/// What an import did.
#[derive(Clone, Debug)]
pub struct ImportReport {
    /// What the source was.
    pub format: Format,
    /// Family, such as `bert`.
    pub family: String,
    /// Tensors that are integers in the new folder, with the integers and scales of the source.
    pub integers: usize,
    /// Tensors that are floats.
    pub floats: usize,
    /// Tensors of the source that the architecture has no use for.
    pub left_out: Vec<String>,
}

/// Imports the model of `source`, a foreign file or a folder that holds one, into the folder `destination`.
///
/// # Errors
/// [`InterchangeError`] naming what is not supported; the destination is then as it was.
pub fn import(source: &Path, destination: &Path, options: &ImportOptions) -> Result<ImportReport, InterchangeError> {
    let Found { files, format } = find(source)?;
    let file = &files[0];
    let companions = options.companions.clone().unwrap_or_else(|| beside(file));
    let companions = companions.as_path();
    let config_path = companions.join("config.json");
    let config = read_config(&config_path)?;
    let (config, mut tensors): (_, Box<dyn Named>) = match format {
        Format::Torch => (config.ok_or_else(|| no_config(&config_path))?, Box::new(StateDicts::open(&files)?)),
        Format::Onnx => {
            let encoder = onnx::read(file)?;
            let config = match config {
                Some(config) => config,
                None => encoder.config(&config_path)?,
            };
            let tensors = encoder.name(&config, file)?;
            (config, Box::new(tensors))
        }
    };
    let architecture = architectures::describe(&config, &|name| tensors.contains(name))
        .map_err(|source| InterchangeError::Architecture { path: config_path, source })?;
    let taken = take_all(&architecture, &mut *tensors, file)?;
    let left_out = tensors.names().into_iter().filter(|name| !taken.contains_key(name)).collect();
    let is_integer = |tensor: &&Tensor| matches!(tensor, Tensor::Quantized(_));
    let integers = taken.values().filter(is_integer).count();
    let report =
        ImportReport { format, family: config.model_type.clone(), integers, floats: taken.len() - integers, left_out };
    let quantization = quantization(&architecture, &taken);
    let files = ModelFiles {
        config: config.raw,
        quantization: quantization.as_ref(),
        tensors: taken,
        copy_from: Some(companions),
        ..ModelFiles::default()
    };
    write_model(destination, &files, options.existing)?;
    Ok(report)
}

/// Files of one foreign model.
struct Found {
    files: Vec<PathBuf>,
    format: Format,
}

/// What a model file is called in a folder, in the order that they are looked for.
const FILE_NAMES: [&str; 4] = ["pytorch_model.bin", TORCH_INDEX, "model.onnx", "onnx/model.onnx"];
const TORCH_INDEX: &str = "pytorch_model.bin.index.json";

/// The model file of a folder, or the file itself, and what it is by its first bytes.
fn find(source: &Path) -> Result<Found, InterchangeError> {
    let metadata = std::fs::metadata(source).map_err(InterchangeError::io("open", source))?;
    if metadata.is_file() {
        return Ok(Found { files: vec![source.to_path_buf()], format: recognize(source)? });
    }
    if source.join("quantization_map.json").exists() {
        let reason = "a model of optimum-quanto, which is not read; quantize the float model: octet quantize SRC DST";
        return Err(InterchangeError::refused(source, reason));
    }
    if source.join("model.safetensors").exists() || source.join("model.safetensors.index.json").exists() {
        let reason = "a model folder with safetensors weights needs no import: octet serve and octet quantize read it";
        return Err(InterchangeError::refused(source, reason));
    }
    let Some(name) = FILE_NAMES.into_iter().find(|name| source.join(name).exists()) else {
        let reason = format!("no {} in this folder; name the file itself", FILE_NAMES.join(", no "));
        return Err(InterchangeError::refused(source, reason));
    };
    let path = source.join(name);
    if name == TORCH_INDEX {
        return Ok(Found { files: shards(&path)?, format: Format::Torch });
    }
    Ok(Found { format: recognize(&path)?, files: vec![path] })
}

/// The files that `pytorch_model.bin.index.json` names, which lie beside it.
fn shards(index: &Path) -> Result<Vec<PathBuf>, InterchangeError> {
    let names = checkpoint::shard_names(&read_bounded(index, MAX_CONFIG_BYTES)?, index, ".bin")?;
    Ok(names.into_iter().map(|name| index.with_file_name(name)).collect())
}

/// The folder that a model file belongs to: its own, or, as in `onnx/model.onnx`, the one above.
fn beside(file: &Path) -> PathBuf {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let above = folder.join("..");
    let is_part = folder.file_name().is_some_and(|name| name == "onnx");
    match is_part && !folder.join("tokenizer.json").exists() && above.join("tokenizer.json").exists() {
        true => above,
        false => folder.to_path_buf(),
    }
}

/// What a file is by its first bytes, or, as ONNX has no such sign, by its name.
fn recognize(path: &Path) -> Result<Format, InterchangeError> {
    let mut start = [0u8; 8];
    let read = File::open(path).and_then(|file| file.take(8).read(&mut start));
    read.map_err(InterchangeError::io("read", path))?;
    let refused = |what: &str| Err(InterchangeError::refused(path, what));
    match &start {
        [b'P', b'K', 3, 4, ..] => Ok(Format::Torch),
        [0x80, 2..=5, ..] => refused(
            "a bare pickle: a file from before PyTorch 1.6, or none of PyTorch's; load it with PyTorch and save it again \
             with torch.save(model.state_dict(), file)",
        ),
        [0x89, b'H', b'D', b'F', ..] => refused(
            "a Keras file; load it with Transformers and save it for PyTorch: \
             AutoModel.from_pretrained(folder, from_tf=True).save_pretrained(folder)",
        ),
        [_, _, _, _, b'T', b'F', b'L', b'3'] => refused(
            "a TensorFlow Lite model, whose converters fold layer norms into the integers of the layers after them, so that \
             they cannot be kept; import the PyTorch or ONNX model that it was converted from",
        ),
        [b'G', b'G', b'U', b'F', ..] => {
            refused("a GGUF file, which is not read; import the model that it was made from")
        }
        _ if path.extension().is_some_and(|e| e == "onnx") => Ok(Format::Onnx),
        _ => refused("not a file of a format that is imported; those are: PyTorch state dicts and .onnx graphs"),
    }
}

/// A whole file of at most `max_bytes`.
pub(super) fn read_bounded(path: &Path, max_bytes: u64) -> Result<Vec<u8>, InterchangeError> {
    let mut content = Vec::new();
    let read = File::open(path).and_then(|file| file.take(max_bytes + 1).read_to_end(&mut content));
    read.map_err(InterchangeError::io("read", path))?;
    match content.len() as u64 > max_bytes {
        true => Err(InterchangeError::refused(path, format!("longer than {max_bytes} bytes"))),
        false => Ok(content),
    }
}

fn read_config(path: &Path) -> Result<Option<ModelConfig>, InterchangeError> {
    if !path.exists() {
        return Ok(None);
    }
    let config = ModelConfig::parse(&read_bounded(path, MAX_CONFIG_BYTES)?, path)?;
    match config.octet {
        None => Ok(Some(config)),
        Some(_) => {
            Err(InterchangeError::refused(path, "belongs to a head of Octet; give the config.json of a whole model"))
        }
    }
}

fn no_config(path: &Path) -> InterchangeError {
    let reason = "missing: an import needs the model's config.json and tokenizer.json beside the file, or in the folder \
                  that --with names";
    InterchangeError::refused(path, reason)
}

fn take_all(
    architecture: &Architecture,
    source: &mut dyn Named,
    path: &Path,
) -> Result<BTreeMap<String, Tensor>, InterchangeError> {
    let mut taken = BTreeMap::new();
    for (name, shape) in architecture.weights() {
        let refused = |reason: String| InterchangeError::refused(path, format!("tensor \"{name}\": {reason}"));
        if !source.contains(&name) {
            return Err(refused("missing".into()));
        }
        let array = source.take(&name)?;
        if array.shape() != shape {
            return Err(refused(format!("expected shape {shape:?}, found {:?}", array.shape())));
        }
        let tensor = array.into_tensor().map_err(refused)?;
        taken.insert(name, tensor);
    }
    Ok(taken)
}

/// How the tensors are quantized, for `config.json`; `None` when all are float. The scheme that most matrices of a class
/// have is that of the class; others are named.
fn quantization(architecture: &Architecture, tensors: &BTreeMap<String, Tensor>) -> Option<QuantizationConfig> {
    let names = &architecture.encoder;
    let linears = names.layers.iter().flat_map(|l| l.linears()).chain(architecture.head_linears());
    let linears: Vec<_> = linears.map(|l| &l.weight).collect();
    let tables: Vec<_> = names.tables().map(|t| &t.weight).collect();
    let mut config = QuantizationConfig::default();
    for (class, weights, inputs) in [("Linear", linears, Some(InputConfig::DYNAMIC)), ("Embedding", tables, None)] {
        let mut schemes: BTreeMap<Scheme, Vec<String>> = BTreeMap::new();
        let mut floats = Vec::new();
        for weight in weights {
            let module = weight.trim_end_matches(".weight").to_string();
            match tensors.get(weight) {
                Some(Tensor::Quantized(q)) => schemes.entry(q.scheme).or_default().push(module),
                _ => floats.push(module),
            }
        }
        let mut schemes: Vec<_> = schemes.into_iter().collect();
        schemes.sort_by_key(|(_, modules)| std::cmp::Reverse(modules.len()));
        if !schemes.is_empty() {
            config.ignore.extend(floats);
        }
        for (i, (weights, modules)) in schemes.into_iter().enumerate() {
            let targets = if i == 0 { vec![class.to_string()] } else { modules };
            config.groups.push(QuantizationGroup { targets, weights, inputs });
        }
    }
    (!config.groups.is_empty()).then_some(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart_by_their_first_bytes() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        let recognized = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            recognize(&path).map_err(|e| e.to_string())
        };
        assert_eq!(recognized(b"PK\x03\x04rest"), Ok(Format::Torch));
        for (content, part) in [
            (&b"\x20\0\0\0TFL3rest"[..], "a TensorFlow Lite model"),
            (b"GGUF\x03\0\0\0", "a GGUF file"),
            (b"\x80\x02}q\0.", "a bare pickle"),
            (b"\x89HDF\r\n\x1a\n", "a Keras file"),
            (b"", "not a file of a format that is imported"),
            (b"hello, world", "those are: PyTorch state dicts and .onnx graphs"),
        ] {
            let message = recognized(content).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn folders_without_a_foreign_model_are_refused_with_what_was_looked_for() {
        let root = tempfile::tempdir().unwrap();
        let message = || find(root.path()).err().unwrap().to_string();
        assert!(message().contains("no pytorch_model.bin") && message().contains("name the file itself"));
        std::fs::write(root.path().join("model.safetensors"), "").unwrap();
        assert!(message().contains("needs no import"));
        std::fs::write(root.path().join("quantization_map.json"), "{}").unwrap();
        assert!(message().contains("optimum-quanto"));
    }

    #[test]
    fn shards_are_read_as_one_file() {
        let root = tempfile::tempdir().unwrap();
        let index = |map: &str| {
            let index = format!("{{\"weight_map\": {map}}}");
            std::fs::write(root.path().join(TORCH_INDEX), index).unwrap();
            find(root.path())
        };
        let found = index(r#"{"a": "b-2.bin", "b": "b-1.bin", "c": "b-2.bin"}"#).unwrap();
        assert_eq!(found.files, ["b-1.bin", "b-2.bin"].map(|name| root.path().join(name)));
        for map in [r#"{"a": "../b.bin"}"#, r#"{"a": "b.safetensors"}"#, "{}"] {
            assert!(index(map).is_err(), "{map}");
        }
    }
}
