//! A state dict: names → tensors, with quantized linear layers taken apart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::interchange::InterchangeError;
use crate::interchange::tensors::{Array, Named};

use super::archive::Archive;
use super::pickle::{Element, Global, Object, Pickle, Quantizer, Storage, Tensor};

const MAX_RANK: usize = 4;
const MAX_NAME_BYTES: usize = 512;
/// What `quantize_dynamic` calls the parameters of a linear layer: version 3 of torch's `LinearPackedParams`.
const PACKED: &str = "._packed_params._packed_params";

/// The tensors of one checkpoint, in one file or several.
#[derive(Debug)]
pub(in crate::interchange) struct StateDicts {
    files: Vec<StateDict>,
    /// Index of the file that holds each tensor.
    names: BTreeMap<String, usize>,
}

/// The tensors of one file, read one at a time.
#[derive(Debug)]
struct StateDict {
    path: PathBuf,
    archive: Archive,
    pickle: Pickle,
    /// An [`Object::Tensor`] for each name.
    names: BTreeMap<String, usize>,
}

impl StateDict {
    fn open(path: &Path) -> Result<Self, InterchangeError> {
        let read = || {
            let mut archive = Archive::open(path)?;
            let pickle = Pickle::parse(&archive.pickle()?)?;
            let names = names(&pickle)?;
            Ok((archive, pickle, names))
        };
        let (archive, pickle, names) = read().map_err(|reason: String| InterchangeError::refused(path, reason))?;
        Ok(StateDict { path: path.to_path_buf(), archive, pickle, names })
    }

    fn read(&mut self, name: &str) -> Result<Array, String> {
        let Object::Tensor(tensor) = self.pickle.get(self.names[name]).clone() else {
            return Err("not a tensor".into());
        };
        let shape: Vec<usize> = tensor.shape.iter().map(|d| *d as usize).collect();
        let (bytes, element) = self.elements(&tensor)?;
        let Some(quantizer) = &tensor.quantizer else {
            return Ok(Array::F32 { shape, data: floats(&bytes, element)? });
        };
        if element != Element::QInt8 {
            return Err(format!("quantized as {element:?}; supported: qint8"));
        }
        let data = bytes.iter().map(|b| *b as i8).collect();
        let (scale, zero_point) = self.parameters(quantizer, &shape)?;
        Ok(Array::Int8 { shape, data, scale, zero_point })
    }

    /// Scales and zero points, one of each or one for each row.
    fn parameters(&mut self, quantizer: &Quantizer, shape: &[usize]) -> Result<(Vec<f32>, Vec<i8>), String> {
        let zero_point = |z: i64| i8::try_from(z).map_err(|_| format!("zero point {z}, allowed are -128 to 127"));
        match quantizer {
            Quantizer::PerTensor { scale, zero_point: z } => Ok((vec![*scale as f32], vec![zero_point(*z)?])),
            Quantizer::PerChannel { scales, zero_points, axis } => {
                if *axis != 0 {
                    return Err(format!("quantized along dimension {axis}, supported is 0"));
                }
                let mut column = |id: usize, wanted: Element| {
                    let Object::Tensor(tensor) = self.pickle.get(id).clone() else {
                        return Err("scales that are no tensor".to_string());
                    };
                    let (bytes, element) = self.elements(&tensor)?;
                    match tensor.quantizer.is_none() && element == wanted && tensor.shape[..] == [shape[0] as u64] {
                        true => Ok(bytes.as_chunks::<8>().0.to_vec()),
                        false => Err(format!("scales of type {element:?} and shape {:?}", tensor.shape)),
                    }
                };
                let scales = column(*scales, Element::F64)?;
                let zero_points = column(*zero_points, Element::I64)?;
                let zero_points = zero_points.iter().map(|b| zero_point(i64::from_le_bytes(*b)));
                Ok((
                    scales.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
                    zero_points.collect::<Result<_, _>>()?,
                ))
            }
        }
    }

    /// The bytes of a tensor's elements in row-major order.
    fn elements(&mut self, tensor: &Tensor) -> Result<(Vec<u8>, Element), String> {
        let Object::Storage(Storage { element, key, len }) = self.pickle.get(tensor.storage).clone() else {
            return Err("a tensor without a storage".into());
        };
        let places = Places::of(tensor, len)?;
        let width = element.bytes();
        let storage_bytes = len.checked_mul(width).ok_or("a storage whose size overflows")?;
        let storage = self.archive.storage(&key, storage_bytes)?;
        if places.contiguous {
            let start = (tensor.offset * width) as usize;
            return Ok((storage[start..start + places.count * width as usize].to_vec(), element));
        }
        let width = width as usize;
        let mut bytes = Vec::with_capacity(places.count * width);
        places.for_each(tensor, |at| bytes.extend_from_slice(&storage[at * width..(at + 1) * width]));
        Ok((bytes, element))
    }
}

impl StateDicts {
    /// Opens files that `torch.save` wrote.
    ///
    /// # Errors
    /// [`InterchangeError::Refused`] naming what is not a state dict, or a tensor that is in two of them.
    pub(in crate::interchange) fn open(paths: &[PathBuf]) -> Result<Self, InterchangeError> {
        let mut names = BTreeMap::new();
        let mut files = Vec::new();
        for path in paths {
            let file = StateDict::open(path)?;
            for name in file.names.keys() {
                if names.insert(name.clone(), files.len()).is_some() {
                    return Err(InterchangeError::refused(path, format!("tensor \"{name}\" is also in another file")));
                }
            }
            files.push(file);
        }
        Ok(StateDicts { files, names })
    }
}

impl Named for StateDicts {
    fn contains(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    fn take(&mut self, name: &str) -> Result<Array, InterchangeError> {
        let file = &mut self.files[self.names[name]];
        let read = file.read(name).map_err(|reason| format!("tensor \"{name}\": {reason}"));
        read.map_err(|reason| InterchangeError::refused(&file.path, reason))
    }
}

/// Where the elements of a tensor lie in its storage; all of them were found to be inside.
struct Places {
    count: usize,
    contiguous: bool,
}

impl Places {
    fn of(tensor: &Tensor, len: u64) -> Result<Self, String> {
        let (shape, stride) = (&tensor.shape, &tensor.stride);
        if shape.len() > MAX_RANK || shape.len() != stride.len() {
            return Err(format!("shape {shape:?} with strides {stride:?}, at most {MAX_RANK} dimensions allowed"));
        }
        let outside = || format!("shape {shape:?} with strides {stride:?} leads out of its storage of {len} elements");
        let count = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).filter(|n| (1..=len).contains(n));
        let last = shape
            .iter()
            .zip(stride)
            .try_fold(tensor.offset, |at, (d, s)| at.checked_add(d.checked_sub(1)?.checked_mul(*s)?));
        match (count, last) {
            (Some(count), Some(last)) if last < len => {
                let row_major = shape
                    .iter()
                    .zip(stride)
                    .rev()
                    .try_fold(1u64, |expected, (d, s)| (*d == 1 || *s == expected).then_some(expected * d));
                Ok(Places { count: count as usize, contiguous: row_major.is_some() })
            }
            _ => Err(outside()),
        }
    }

    /// Every element's index in the storage, in row-major order.
    fn for_each(&self, tensor: &Tensor, mut visit: impl FnMut(usize)) {
        for index in 0..self.count as u64 {
            let (mut rest, mut at) = (index, tensor.offset);
            for (d, s) in tensor.shape.iter().zip(&tensor.stride).rev() {
                at += rest % d * s;
                rest /= d;
            }
            visit(at as usize);
        }
    }
}

fn floats(bytes: &[u8], element: Element) -> Result<Vec<f32>, String> {
    match element {
        Element::F32 => Ok(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        Element::F16 => Ok(bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect()),
        Element::Bf16 => Ok(bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect()),
        other => Err(format!("stored as {other:?}; supported: F32, F16, BF16 and qint8")),
    }
}

/// Names of the weights of a state dict. What `quantize_dynamic` packs becomes `X.weight` and `X.bias` again; the
/// scale and the zero point that it stores for a layer's output are not used by dynamic layers.
fn names(pickle: &Pickle) -> Result<BTreeMap<String, usize>, String> {
    let Object::Dict(entries) = pickle.get(pickle.root) else {
        return Err("not a state dict: its pickle holds something other than a dictionary; save \
                    torch.save(model.state_dict(), file)"
            .into());
    };
    let mut names = BTreeMap::new();
    let mut unused = Vec::new();
    let mut add = |name: String, id: usize| match names.insert(name.clone(), id) {
        None => Ok(()),
        Some(_) => Err(format!("tensor \"{name}\" twice")),
    };
    for (key, value) in entries {
        let Object::Text(name) = pickle.get(*key) else {
            return Err("not a state dict: a key that is no text".into());
        };
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(format!("a tensor name of {} bytes, allowed are 1 to {MAX_NAME_BYTES}", name.len()));
        }
        match pickle.get(*value) {
            Object::Tensor(_) => add(name.clone(), *value)?,
            Object::Global(Global::Dtype("qint8")) if name.ends_with("_packed_params.dtype") => {}
            Object::Global(Global::Dtype(dtype)) => {
                return Err(format!("\"{name}\" is {dtype}; supported are layers that were quantized to qint8"));
            }
            Object::Tuple(items) if name.ends_with(PACKED) => {
                let module = &name[..name.len() - PACKED.len()];
                unused.extend([format!("{module}.scale"), format!("{module}.zero_point")]);
                let [weight, bias] = items[..] else {
                    return Err(format!("\"{name}\" has {} parts, expected weight and bias", items.len()));
                };
                for (part, id) in [("weight", weight), ("bias", bias)] {
                    match pickle.get(id) {
                        Object::Tensor(_) => add(format!("{module}.{part}"), id)?,
                        _ => return Err(format!("\"{name}\" has no {part}")),
                    }
                }
            }
            _ => {
                return Err(format!(
                    "not a state dict: \"{name}\" is no tensor; save torch.save(model.state_dict(), file)"
                ));
            }
        }
    }
    names.retain(|name, _| !unused.contains(name));
    Ok(names)
}
