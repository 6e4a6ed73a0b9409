//! Named tensors of a model folder, read from safetensors files one at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::tensor::Dtype;

use super::CheckpointError;
use super::file::{OpenedFile, Stamp, open_in};
use super::header::{HeaderEntry, read_header};

/// Values of one tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Tensor {
    /// Stored as F32, F16 or BF16; the latter two are widened, which is exact. All values are finite.
    F32 { shape: Vec<usize>, data: Vec<f32> },
    /// Stored as I8: value `[r, ...]` is `data[r, ...] * scale[r]`. `data` is in -127..=127; `scale` has one finite,
    /// positive entry per index of the first dimension.
    Int8 { shape: Vec<usize>, data: Vec<i8>, scale: Vec<f32> },
}

impl Tensor {
    /// Sizes of the dimensions.
    pub fn shape(&self) -> &[usize] {
        match self {
            Tensor::F32 { shape, .. } | Tensor::Int8 { shape, .. } => shape,
        }
    }

    /// The values in f32: as they are, or `q * scale`.
    pub fn into_f32(self) -> Vec<f32> {
        match self {
            Tensor::F32 { data, .. } => data,
            Tensor::Int8 { data, scale, .. } => {
                let row = data.len() / scale.len();
                data.chunks_exact(row).zip(&scale).flat_map(|(q, s)| q.iter().map(move |&q| f32::from(q) * s)).collect()
            }
        }
    }

    /// Bytes that the values take in a file, scales included.
    pub fn bytes(&self) -> usize {
        match self {
            Tensor::F32 { data, .. } => data.len() * 4,
            Tensor::Int8 { data, scale, .. } => data.len() + scale.len() * 4,
        }
    }
}

/// A tensor's entry in the header: what is known without reading its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// Name in the file.
    pub name: String,
    /// Storage type as safetensors names it: `F32`, `BF16`, `I8`, ...
    pub dtype: String,
    /// Sizes of the dimensions.
    pub shape: Vec<usize>,
    /// Size of the values in bytes.
    pub bytes: u64,
}

/// The tensors of a model folder, by name. Values are read and checked when they are taken.
///
/// Files are read, not mapped: a mapped file that is truncated by somebody kills the process.
#[derive(Debug)]
pub struct Weights {
    shards: Vec<Shard>,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: File,
}

#[derive(Debug)]
struct Entry {
    shard: usize,
    header: HeaderEntry,
    taken: bool,
}

/// A weight file of a folder as it was when the folder was opened.
#[derive(Clone, Debug)]
pub(super) struct WeightFile {
    pub name: String,
    pub bytes: u64,
    pub stamp: Stamp,
}

/// Bytes read from a file at once.
const CHUNK_BYTES: usize = 1 << 20;

impl Weights {
    /// Opens the weight files of a folder and checks that they are still those that were seen before.
    pub(super) fn open_files(folder: &Path, files: &[WeightFile]) -> Result<Self, CheckpointError> {
        let mut weights = Weights { shards: Vec::new(), entries: BTreeMap::new() };
        for file in files {
            let path = folder.join(&file.name);
            let opened = open_in(folder, &file.name)?.ok_or_else(|| missing(&path))?;
            if opened.stamp != file.stamp {
                return Err(CheckpointError::invalid(&path, "changed while the model was loading; load it again"));
            }
            weights.add_shard(opened, path)?;
        }
        Ok(weights)
    }

    fn add_shard(&mut self, mut opened: OpenedFile, path: PathBuf) -> Result<(), CheckpointError> {
        let shard = self.shards.len();
        for header in read_header(&mut opened, &path)? {
            let name = header.name.clone();
            if let Some(other) = self.entries.insert(name.clone(), Entry { shard, header, taken: false }) {
                let reason = format!("tensor \"{name}\" is also in {}", self.shards[other.shard].path.display());
                return Err(CheckpointError::invalid(&path, reason));
            }
        }
        self.shards.push(Shard { path, file: opened.file });
        Ok(())
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Shape of a tensor, or `None` when there is none of this name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|e| e.header.shape.as_slice())
    }

    /// Names of all tensors, scales included, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Name, type and size of all tensors, in alphabetical order.
    pub fn entries(&self) -> impl Iterator<Item = TensorEntry> {
        self.entries.values().map(|e| TensorEntry {
            name: e.header.name.clone(),
            dtype: e.header.dtype.to_string(),
            shape: e.header.shape.clone(),
            bytes: e.header.bytes,
        })
    }

    /// Names of tensors in a weight format that were never taken, in alphabetical order: weights that the
    /// architecture did not ask for. Integer buffers such as `position_ids` (I64) are not weights.
    pub fn remaining(&self) -> impl Iterator<Item = &str> {
        let is_weight = |e: &Entry| matches!(e.header.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::I8);
        self.entries.iter().filter(move |(_, e)| !e.taken && is_weight(e)).map(|(name, _)| name.as_str())
    }

    /// Reads one tensor, together with its `<name>_scale` when it is stored as I8.
    ///
    /// # Errors
    /// [`CheckpointError`] when it is missing, of another shape or of an unusable storage type, has values that are
    /// not finite, or scales that are missing, not finite or not positive.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, CheckpointError> {
        let entry = self.entry(name)?;
        let header = &entry.header;
        if header.shape != shape {
            return Err(CheckpointError::Shape {
                name: name.into(),
                expected: shape.to_vec(),
                found: header.shape.clone(),
                dtype: header.dtype.to_string(),
                path: self.path_of(entry).to_path_buf(),
            });
        }
        let shape = shape.to_vec();
        if header.dtype == Dtype::I8 {
            let data = self.read_i8(entry)?;
            let scale = self.read_scale(name, &shape)?;
            self.check_symmetric(name)?;
            self.mark_taken(name);
            self.mark_taken(&format!("{name}_scale"));
            return Ok(Tensor::Int8 { shape, data, scale });
        }
        let data = self.read_f32(entry)?;
        self.mark_taken(name);
        Ok(Tensor::F32 { shape, data })
    }

    fn mark_taken(&mut self, name: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.taken = true;
        }
    }

    fn path_of(&self, entry: &Entry) -> &Path {
        &self.shards[entry.shard].path
    }

    fn entry(&self, name: &str) -> Result<&Entry, CheckpointError> {
        self.entries.get(name).ok_or_else(|| CheckpointError::MissingTensor {
            name: name.into(),
            path: self.shards.first().map(|s| s.path.clone()).unwrap_or_default(),
            close: self.close_names(name),
        })
    }

    /// Up to three names that look like `name`.
    fn close_names(&self, name: &str) -> Vec<String> {
        let mut scored: Vec<(usize, &str)> = self.names().map(|n| (edit_distance(n, name), n)).collect();
        scored.retain(|(distance, _)| *distance <= name.len() / 2);
        scored.sort();
        scored.into_iter().take(3).map(|(_, n)| n.to_string()).collect()
    }

    fn bad(&self, entry: &Entry, reason: String) -> CheckpointError {
        CheckpointError::Tensor { name: entry.header.name.clone(), reason, path: self.path_of(entry).to_path_buf() }
    }

    fn read_i8(&self, entry: &Entry) -> Result<Vec<i8>, CheckpointError> {
        let mut data = Vec::with_capacity(entry.header.bytes as usize);
        // Writers that scale by absmax / 127.5 use -128; the kernels need a symmetric range.
        self.for_each_chunk(entry, |bytes| data.extend(bytes.iter().map(|&b| (b as i8).max(-127))))?;
        Ok(data)
    }

    /// One scale per row of an I8 tensor; a single scale holds for all rows.
    fn read_scale(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let rows = shape.first().copied().unwrap_or(1);
        let entry = self.entry(&format!("{name}_scale"))?;
        let found = entry.header.shape.as_slice();
        if found != [rows] && found != [rows, 1] && found != [1] && !found.is_empty() {
            return Err(CheckpointError::Shape {
                name: entry.header.name.clone(),
                expected: vec![rows, 1],
                found: found.to_vec(),
                dtype: entry.header.dtype.to_string(),
                path: self.path_of(entry).to_path_buf(),
            });
        }
        let mut scale = self.read_f32(entry)?;
        if let Some(row) = scale.iter().position(|&s| s <= 0.0) {
            let reason = format!("scale {} in row {row}, expected a positive number", scale[row]);
            return Err(self.bad(entry, reason));
        }
        if scale.len() == 1 {
            scale.resize(rows, scale[0]);
        }
        Ok(scale)
    }

    /// Refuses an I8 tensor that has a zero point other than 0.
    fn check_symmetric(&self, name: &str) -> Result<(), CheckpointError> {
        let Some(entry) = self.entries.get(&format!("{name}_zero_point")) else { return Ok(()) };
        let mut symmetric = true;
        self.for_each_chunk(entry, |bytes| symmetric &= bytes.iter().all(|&b| b == 0))?;
        if symmetric {
            return Ok(());
        }
        Err(self.bad(entry, "weights with a zero point are not supported; supported: symmetric weights".into()))
    }

    fn read_f32(&self, entry: &Entry) -> Result<Vec<f32>, CheckpointError> {
        let width = entry.header.dtype.bitsize() / 8;
        let mut data: Vec<f32> = Vec::new();
        match entry.header.dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => data.reserve_exact(entry.header.bytes as usize / width),
            other => {
                let reason = format!("stored as {other}; supported: F32, F16, BF16, and I8 with a scale beside it");
                return Err(self.bad(entry, reason));
            }
        }
        self.for_each_chunk(entry, |bytes| match entry.header.dtype {
            Dtype::F16 => data.extend(bytes.as_chunks().0.iter().map(|&b| half::f16::from_le_bytes(b).to_f32())),
            Dtype::BF16 => data.extend(bytes.as_chunks().0.iter().map(|&b| half::bf16::from_le_bytes(b).to_f32())),
            _ => data.extend(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b))),
        })?;
        match data.iter().position(|v| !v.is_finite()) {
            None => Ok(data),
            Some(at) => Err(self.bad(entry, format!("value {} at index {at}, expected finite numbers", data[at]))),
        }
    }

    /// Feeds the values of a tensor to `use_bytes`, in pieces of whole elements.
    fn for_each_chunk(&self, entry: &Entry, mut use_bytes: impl FnMut(&[u8])) -> Result<(), CheckpointError> {
        let shard = &self.shards[entry.shard];
        let mut buffer = vec![0u8; CHUNK_BYTES.min(entry.header.bytes as usize)];
        let (mut offset, end) = (entry.header.offset, entry.header.offset + entry.header.bytes);
        while offset < end {
            let n = buffer.len().min((end - offset) as usize);
            let part = &mut buffer[..n];
            shard.file.read_exact_at(part, offset).map_err(CheckpointError::io("read", &shard.path))?;
            use_bytes(part);
            offset += n as u64;
        }
        Ok(())
    }
}

fn missing(path: &Path) -> CheckpointError {
    CheckpointError::Missing { path: path.to_path_buf(), hint: "it holds the model's weights".into() }
}

/// Insertions, deletions and replacements that turn `a` into `b` (Levenshtein 1966), over bytes.
fn edit_distance(a: &str, b: &str) -> usize {
    let b = b.as_bytes();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replace = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
