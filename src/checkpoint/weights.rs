//! Named tensors of a model folder, read from safetensors files one at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::tensor::Dtype;

use crate::kernels::affine::{Granularity, Inputs, Levels, QParams, QuantizedWeights, Scheme};

use super::file::{OpenedFile, Stamp, open_in};
use super::header::{HeaderEntry, read_header};
use super::packing;
use super::{CheckpointError, QuantizationConfig, QuantizationGroup};

/// Values of one tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Tensor {
    /// Stored as F32, F16 or BF16; the latter two are widened, which is exact. All values are finite.
    F32 { shape: Vec<usize>, data: Vec<f32> },
    /// A matrix stored as I8, or packed into words, with scales beside it.
    Quantized(QuantizedWeights),
}

impl Tensor {
    /// Sizes of the dimensions.
    pub fn shape(&self) -> &[usize] {
        match self {
            Tensor::F32 { shape, .. } => shape,
            Tensor::Quantized(weights) => &weights.shape,
        }
    }

    /// The values in f32: as they are, or `(q - Z) S`.
    pub fn into_f32(self) -> Vec<f32> {
        match self {
            Tensor::F32 { data, .. } => data,
            Tensor::Quantized(weights) => weights.dequantize(),
        }
    }

    /// Bytes that the values take in a file that Octet writes, scales included.
    pub fn bytes(&self) -> usize {
        match self {
            Tensor::F32 { data, .. } => data.len() * 4,
            Tensor::Quantized(weights) => weights.bytes(),
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
    quantization: Option<QuantizationConfig>,
    /// What stands in the place of stored tensors, and how its inputs are quantized.
    replaced: BTreeMap<String, (Tensor, Inputs)>,
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
    /// Tensors that are in no file, each with how its inputs are quantized when it is the weight of a linear layer. What
    /// is float stays float, as in a folder that says how it is quantized.
    pub fn in_memory(tensors: impl IntoIterator<Item = (String, (Tensor, Inputs))>) -> Self {
        Weights {
            shards: Vec::new(),
            entries: BTreeMap::new(),
            quantization: Some(QuantizationConfig::default()),
            replaced: tensors.into_iter().collect(),
        }
    }

    /// Opens the weight files of a folder and checks that they are still those that were seen before.
    pub(super) fn open_files(
        folder: &Path,
        files: &[WeightFile],
        quantization: Option<&QuantizationConfig>,
    ) -> Result<Self, CheckpointError> {
        let mut weights = Weights {
            replaced: BTreeMap::new(),
            shards: Vec::new(),
            entries: BTreeMap::new(),
            quantization: quantization.cloned(),
        };
        for file in files {
            let path = folder.join(&file.name);
            let opened = open_in(folder, &file.name)?.ok_or_else(|| missing(&path))?;
            if opened.stamp != file.stamp {
                return Err(CheckpointError::invalid(&path, "changed while the model was loading; load it again"));
            }
            weights.add_shard(opened, path)?;
        }
        for module in quantization.iter().flat_map(|quantization| &quantization.smoothed) {
            weights.entry(&format!("{module}.weight_smoothing"))?;
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

    /// Whether there is a tensor of this name, plain or packed.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name) || self.entries.contains_key(&packed_name(name))
    }

    /// How the folder says that its modules are quantized; `None` when it says nothing. Float weights of a folder that
    /// does are meant to stay float.
    pub fn quantization(&self) -> Option<&QuantizationConfig> {
        self.quantization.as_ref()
    }

    /// Shape of a plain tensor, or `None` when there is none of this name.
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
        let is_weight = |e: &Entry| match e.header.dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::I8 => true,
            Dtype::I32 => e.header.name.ends_with("_packed"),
            _ => false,
        };
        self.entries.iter().filter(move |(_, e)| !e.taken && is_weight(e)).map(|(name, _)| name.as_str())
    }

    /// Reads one tensor, together with its `<name>_scale`, `<name>_zero_point` and `<name>_smoothing` when it is stored in
    /// integers: as I8, or as `<name>_packed` with `<name>_shape`.
    ///
    /// # Errors
    /// [`CheckpointError`] when it is missing, of another shape or of an unusable storage type, has values that are
    /// not finite or not of its scheme, or scales, zero points or factors that are missing, of another shape, not finite
    /// or not positive.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, CheckpointError> {
        if let Some((tensor, _)) = self.replaced.get(name).filter(|(tensor, _)| tensor.shape() == shape) {
            return Ok(tensor.clone());
        }
        if !self.entries.contains_key(name) && self.entries.contains_key(&packed_name(name)) {
            let mut weights = self.packed(name, shape)?;
            weights.smoothing = self.smoothing(name, weights.shape)?;
            for part in ["packed", "shape", "scale", "zero_point", "smoothing"] {
                self.mark_taken(&format!("{name}_{part}"));
            }
            return Ok(Tensor::Quantized(weights));
        }
        let entry = self.entry(name)?;
        self.check_shape(entry, shape)?;
        if entry.header.dtype == Dtype::I8 {
            let mut weights = self.int8(name, shape)?;
            weights.smoothing = self.smoothing(name, weights.shape)?;
            for part in ["", "_scale", "_zero_point", "_smoothing"] {
                self.mark_taken(&format!("{name}{part}"));
            }
            return Ok(Tensor::Quantized(weights));
        }
        if let [rows, columns] = *shape {
            self.smoothing(name, [rows, columns])?;
        }
        let data = self.read_f32(entry)?;
        self.mark_taken(name);
        Ok(Tensor::F32 { shape: shape.to_vec(), data })
    }

    /// How the inputs of a linear layer are quantized, by the name of its weight, from the folder's
    /// `quantization_config`; a folder without one is meant to run with dynamic inputs.
    ///
    /// # Errors
    /// [`CheckpointError`] when static parameters are missing, not one number, or not usable.
    pub fn inputs(&mut self, name: &str) -> Result<Inputs, CheckpointError> {
        if let Some((_, inputs)) = self.replaced.get(name) {
            return Ok(*inputs);
        }
        if self.quantization.is_none() {
            return Ok(Inputs::Dynamic);
        }
        let Some(inputs) = self.group_of(name).and_then(|group| group.inputs) else { return Ok(Inputs::Float) };
        if inputs.dynamic {
            return Ok(Inputs::Dynamic);
        }
        let module = module_of(name);
        let (scale_name, zero_name) = (format!("{module}.input_scale"), format!("{module}.input_zero_point"));
        let entry = self.entry(&scale_name)?;
        self.check_one_value(entry)?;
        let scale = self.read_f32(entry)?[0];
        if scale < f32::MIN_POSITIVE {
            return Err(self.bad(entry, format!("scale {scale}, expected a positive normal number")));
        }
        let mut zero_point = 0;
        if self.entries.contains_key(&zero_name) || !inputs.symmetric {
            let entry = self.entry(&zero_name)?;
            self.check_one_value(entry)?;
            zero_point = i32::from(self.read_i8(entry)?[0]);
        }
        self.mark_taken(&scale_name);
        self.mark_taken(&zero_name);
        // Integers of compressed-tensors are signed, those of the kernels are not.
        Ok(Inputs::Static(QParams { scale, zero_point: zero_point + 128 }))
    }

    /// Puts a tensor of the same shape in the place of a stored one, and says how its inputs are quantized when it is the
    /// weight of a linear layer: a candidate that is tried without being written. What is float then stays float, as in a
    /// folder that says how it is quantized.
    pub fn put(&mut self, name: &str, tensor: Tensor, inputs: Inputs) {
        self.replaced.insert(name.into(), (tensor, inputs));
        self.quantization.get_or_insert_default();
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
        self.entries.get(name).ok_or_else(|| self.missing_tensor(name))
    }

    fn missing_tensor(&self, name: &str) -> CheckpointError {
        CheckpointError::MissingTensor {
            name: name.into(),
            path: self.shards.first().map(|s| s.path.clone()).unwrap_or_default(),
            close: self.close_names(name),
        }
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

    fn check_shape(&self, entry: &Entry, expected: &[usize]) -> Result<(), CheckpointError> {
        if entry.header.shape == expected {
            return Ok(());
        }
        Err(CheckpointError::Shape {
            name: entry.header.name.clone(),
            expected: expected.to_vec(),
            found: entry.header.shape.clone(),
            dtype: entry.header.dtype.to_string(),
            path: self.path_of(entry).to_path_buf(),
        })
    }

    fn check_one_value(&self, entry: &Entry) -> Result<(), CheckpointError> {
        if entry.header.shape.is_empty() { Ok(()) } else { self.check_shape(entry, &[1]) }
    }

    /// The group of the module that owns a tensor.
    fn group_of(&self, name: &str) -> Option<&QuantizationGroup> {
        self.quantization.as_ref()?.group_of(module_of(name))
    }

    /// A matrix stored as I8.
    fn int8(&self, name: &str, shape: &[usize]) -> Result<QuantizedWeights, CheckpointError> {
        let entry = self.entry(name)?;
        let values = self.read_i8(entry)?;
        let shape = self.matrix(entry, shape)?;
        let (scale, granularity) = self.read_scale(name, shape)?;
        let group = self.group_of(name);
        if let Some(levels) = group.map(|group| group.weights.levels).filter(|&levels| levels != Levels::Int8) {
            return Err(self.bad(entry, format!("stored as I8, but \"config.json\" says {}", levels.name())));
        }
        let zero_point = self.int8_zero_point(name, group)?;
        let scheme = Scheme { levels: Levels::Int8, symmetric: zero_point.is_empty(), granularity };
        Ok(QuantizedWeights { scheme, shape, values, scale, zero_point, smoothing: Vec::new() })
    }

    /// Zero points beside an I8 matrix, in the shape of its scales; empty when there are none but zeros.
    fn int8_zero_point(&self, name: &str, group: Option<&QuantizationGroup>) -> Result<Vec<i8>, CheckpointError> {
        let zero_name = format!("{name}_zero_point");
        let Some(entry) = self.entries.get(&zero_name) else {
            // An asymmetric matrix needs them.
            return if group.is_some_and(|g| !g.weights.symmetric) {
                Err(self.missing_tensor(&zero_name))
            } else {
                Ok(vec![])
            };
        };
        let mut symmetric = true;
        self.for_each_chunk(entry, |bytes| symmetric &= bytes.iter().all(|&b| b == 0))?;
        if symmetric {
            return Ok(Vec::new());
        }
        if group.is_some_and(|group| group.weights.symmetric) {
            return Err(self.bad(entry, "not 0 everywhere, but \"config.json\" says symmetric".into()));
        }
        self.check_shape(entry, &self.entry(&format!("{name}_scale"))?.header.shape)?;
        self.read_i8(entry)
    }

    /// A matrix packed into words.
    fn packed(&self, name: &str, shape: &[usize]) -> Result<QuantizedWeights, CheckpointError> {
        let entry = self.entry(&packed_name(name))?;
        let [rows, columns] = self.matrix(entry, shape)?;
        let Some(group) = self.group_of(name) else {
            let reason = "packed, but no group of the \"quantization_config\" in config.json targets it";
            return Err(self.bad(entry, reason.into()));
        };
        let Scheme { levels, symmetric, .. } = group.weights;
        if levels == Levels::Int8 {
            return Err(self.bad(entry, "packed, but \"config.json\" says int8, which is stored as I8".into()));
        }
        if let Some(order) = self.entries.get(&format!("{name}_g_idx")) {
            return Err(
                self.bad(order, "columns in another order are not supported; supported: groups in order".into())
            );
        }
        let stated = self.entry(&format!("{name}_shape"))?;
        if self.read_integers(stated)? != [rows as i64, columns as i64] {
            return Err(self.bad(stated, format!("another shape than [{rows}, {columns}], which the model needs")));
        }
        let per_word = packing::per_word(levels.bits());
        self.check_shape(entry, &[rows, columns.div_ceil(per_word)])?;
        let values = packing::unpack(&self.read_words(entry)?, columns, levels.bits());
        if levels == Levels::Ternary
            && let Some(at) = values.iter().position(|&q| q < -1)
        {
            return Err(self.bad(entry, format!("integer {} at index {at}, expected -1, 0 or 1", values[at])));
        }
        let (scale, granularity) = self.read_scale(name, [rows, columns])?;
        let mut zero_point = Vec::new();
        if !symmetric {
            let zeros = self.entry(&format!("{name}_zero_point"))?;
            let groups = scale.len() / if granularity == Granularity::Tensor { 1 } else { rows };
            let zero_rows = scale.len() / groups;
            self.check_shape(zeros, &[zero_rows.div_ceil(per_word), groups])?;
            let words = packing::transpose(&self.read_words(zeros)?, groups);
            zero_point = packing::transpose(&packing::unpack(&words, zero_rows, levels.bits()), zero_rows);
        }
        let scheme = Scheme { levels, symmetric, granularity };
        let (shape, smoothing) = ([rows, columns], Vec::new());
        Ok(QuantizedWeights { scheme, shape, values, scale, zero_point, smoothing })
    }

    /// Whether the folder says that the module that owns a tensor is smoothed.
    fn is_smoothed(&self, name: &str) -> bool {
        let smoothed = self.quantization.as_ref().map_or(&[][..], |q| &q.smoothed);
        smoothed.iter().any(|module| module == module_of(name))
    }

    /// The factor of each column of a quantized matrix, by the name of its weight; empty when it is not smoothed.
    ///
    /// # Errors
    /// [`CheckpointError`] when the matrix is float but said to be smoothed, or factors are missing or not said, of another
    /// shape, not finite or not positive.
    pub fn smoothing(&self, name: &str, [_, columns]: [usize; 2]) -> Result<Vec<f32>, CheckpointError> {
        let smoothing = format!("{name}_smoothing");
        let is_smoothed = self.is_smoothed(name);
        if let Some(float) = self.entries.get(name).filter(|entry| is_smoothed && entry.header.dtype != Dtype::I8) {
            return Err(self.bad(float, "float, but \"config.json\" says that it is smoothed".into()));
        }
        match (is_smoothed, self.entries.get(&smoothing)) {
            (false, None) => Ok(Vec::new()),
            (false, Some(entry)) => Err(self.bad(
                entry,
                "not in \"quantization_config.smoothed\" of \"config.json\", so it would be ignored".into(),
            )),
            (true, _) => {
                let entry = self.entry(&smoothing)?;
                self.check_shape(entry, &[columns])?;
                let factors = self.read_f32(entry)?;
                match factors.iter().position(|&f| f < f32::MIN_POSITIVE) {
                    None => Ok(factors),
                    Some(at) => {
                        let reason =
                            format!("factor {} of column {at}, expected a positive normal number", factors[at]);
                        Err(self.bad(entry, reason))
                    }
                }
            }
        }
    }

    /// The two sizes of a quantized tensor.
    fn matrix(&self, entry: &Entry, shape: &[usize]) -> Result<[usize; 2], CheckpointError> {
        let reason = || format!("quantized, with {} dimensions; supported: 2", shape.len());
        shape.try_into().map_err(|_| self.bad(entry, reason()))
    }

    fn read_i8(&self, entry: &Entry) -> Result<Vec<i8>, CheckpointError> {
        self.check_dtype(entry, Dtype::I8)?;
        let mut data = Vec::with_capacity(entry.header.bytes as usize);
        self.for_each_chunk(entry, |bytes| data.extend(bytes.iter().map(|&b| b as i8)))?;
        Ok(data)
    }

    fn read_words(&self, entry: &Entry) -> Result<Vec<i32>, CheckpointError> {
        self.check_dtype(entry, Dtype::I32)?;
        let mut data = Vec::with_capacity(entry.header.bytes as usize / 4);
        self.for_each_chunk(entry, |bytes| data.extend(bytes.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b))))?;
        Ok(data)
    }

    /// A few integers of 32 or 64 bits.
    fn read_integers(&self, entry: &Entry) -> Result<Vec<i64>, CheckpointError> {
        if entry.header.dtype != Dtype::I64 {
            return Ok(self.read_words(entry)?.into_iter().map(i64::from).collect());
        }
        let mut data = Vec::new();
        self.for_each_chunk(entry, |bytes| data.extend(bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b))))?;
        Ok(data)
    }

    fn check_dtype(&self, entry: &Entry, expected: Dtype) -> Result<(), CheckpointError> {
        match entry.header.dtype {
            found if found == expected => Ok(()),
            found => Err(self.bad(entry, format!("stored as {found}, expected {expected}"))),
        }
    }

    /// The scales of a quantized matrix, and what they say about its granularity. A folder's `quantization_config` may
    /// promise one per row and hold a single one; it may not promise groups of another size.
    fn read_scale(&self, name: &str, [rows, columns]: [usize; 2]) -> Result<(Vec<f32>, Granularity), CheckpointError> {
        let entry = self.entry(&format!("{name}_scale"))?;
        let promised = self.group_of(name).map(|group| group.weights.granularity);
        let groups = match promised {
            Some(Granularity::Group(size)) if columns.is_multiple_of(size) => columns / size,
            Some(Granularity::Group(size)) => {
                return Err(self.bad(entry, format!("groups of {size} do not divide rows of {columns}")));
            }
            _ => 1,
        };
        let granularity = match *entry.header.shape.as_slice() {
            [found_rows, found] if found_rows == rows && found == groups && groups > 1 => {
                Granularity::Group(columns / groups)
            }
            [] | [1] if groups == 1 => Granularity::Tensor,
            [found_rows] | [found_rows, 1] if groups == 1 && found_rows == rows => Granularity::Channel,
            _ => return Err(self.check_shape(entry, &[rows, groups]).expect_err("the shape is another one")),
        };
        let scale = self.read_f32(entry)?;
        match scale.iter().position(|&s| s <= 0.0) {
            None => Ok((scale, granularity)),
            Some(at) => {
                let reason = format!("scale {} in row {}, expected a positive number", scale[at], at / groups);
                Err(self.bad(entry, reason))
            }
        }
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

fn packed_name(name: &str) -> String {
    format!("{name}_packed")
}

/// The module that owns a weight: its name without `.weight`.
pub(super) fn module_of(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
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
