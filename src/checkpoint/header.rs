//! The header of a safetensors file, with limits far below what the format allows.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use super::CheckpointError;
use super::file::OpenedFile;

/// A BERT-large header is 40 KB.
const MAX_HEADER_BYTES: u64 = 8 << 20;
const MAX_TENSORS: usize = 10_000;
const MAX_NAME_BYTES: usize = 512;
const MAX_RANK: usize = 4;
const MAX_DIM: usize = 1 << 24;
/// Bytes before the header: its length, u64 little-endian.
const LENGTH_BYTES: u64 = 8;

/// One tensor of a file.
#[derive(Clone, Debug)]
pub(super) struct HeaderEntry {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// First byte of the values, from the start of the file.
    pub offset: u64,
    /// Size of the values in bytes.
    pub bytes: u64,
}

/// Reads and checks the header of an open safetensors file; `path` is for messages.
///
/// The values must fill the rest of the file without holes or overlaps (checked by the `safetensors` crate), names
/// must differ (the crate keeps the last of two), and sizes must be within the limits above.
///
/// # Errors
/// [`CheckpointError`] saying what is wrong.
pub(super) fn read_header(opened: &mut OpenedFile, path: &Path) -> Result<Vec<HeaderEntry>, CheckpointError> {
    let invalid = |reason: String| CheckpointError::invalid(path, reason);
    let truncated = || invalid(format!("truncated: {} bytes are too few for its header", opened.bytes));
    if opened.bytes < LENGTH_BYTES {
        return Err(truncated());
    }
    let mut length = [0u8; LENGTH_BYTES as usize];
    opened.file.read_exact(&mut length).map_err(CheckpointError::io("read", path))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        return Err(invalid(format!(
            "header of {length} bytes, at most {MAX_HEADER_BYTES} allowed; is it a safetensors file?"
        )));
    }
    if length > opened.bytes - LENGTH_BYTES {
        return Err(truncated());
    }
    let mut header = vec![0u8; length as usize];
    opened.file.read_exact(&mut header).map_err(CheckpointError::io("read", path))?;
    let header: Header = serde_json::from_slice(&header).map_err(|e| invalid(format!("bad header: {e}")))?;

    let mut tensors = header.tensors;
    for (name, info) in &tensors {
        check_sizes(name, info).map_err(invalid)?;
    }
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let metadata =
        Metadata::new(Some(header.metadata), tensors.clone()).map_err(|e| invalid(format!("bad header: {e}")))?;
    let start = LENGTH_BYTES + length;
    let expected = start + metadata.data_len() as u64;
    if expected != opened.bytes {
        let reason = format!("{} bytes long, its header describes {expected}: truncated or damaged", opened.bytes);
        return Err(invalid(reason));
    }
    Ok(tensors
        .into_iter()
        .map(|(name, info)| HeaderEntry {
            name,
            dtype: info.dtype,
            shape: info.shape,
            offset: start + info.data_offsets.0 as u64,
            bytes: (info.data_offsets.1 - info.data_offsets.0) as u64,
        })
        .collect())
}

fn check_sizes(name: &str, info: &TensorInfo) -> Result<(), String> {
    if info.shape.len() > MAX_RANK {
        return Err(format!("tensor \"{name}\" has {} dimensions, at most {MAX_RANK} allowed", info.shape.len()));
    }
    if let Some(dim) = info.shape.iter().find(|d| !(1..=MAX_DIM).contains(*d)) {
        return Err(format!("tensor \"{name}\" has a dimension of {dim}, allowed are 1 to {MAX_DIM}"));
    }
    Ok(())
}

/// The header as it is written, duplicates refused.
struct Header {
    metadata: HashMap<String, String>,
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensor names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut metadata = None;
        let mut tensors: Vec<(String, TensorInfo)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                if metadata.replace(map.next_value()?).is_some() {
                    return Err(A::Error::custom("\"__metadata__\" twice"));
                }
                continue;
            }
            if name.is_empty() || name.len() > MAX_NAME_BYTES {
                let length = name.len();
                return Err(A::Error::custom(format!(
                    "a tensor name of {length} bytes, allowed are 1 to {MAX_NAME_BYTES}"
                )));
            }
            if tensors.len() == MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("tensor \"{name}\" twice")));
            }
            let info = map.next_value()?;
            tensors.push((name, info));
        }
        Ok(Header { metadata: metadata.unwrap_or_default(), tensors })
    }
}
