//! ONNX graphs of BERT-family encoders: float, with dynamic int8 (`DynamicQuantizeLinear`, `MatMulInteger`, and the fused
//! nodes of ONNX Runtime), with weights that are int8 alone, and in the quantize-dequantize form.
//!
//! Graphs are not run. [`graph`] reads what flows into what, `flow::roles` says what each weight is for, and the weights
//! become those of an ordinary model folder.

mod graph;
mod proto;

use std::collections::BTreeMap;
use std::path::{Component, Path};

use super::InterchangeError;
use super::encoder::Encoder;
use super::flow::Value;
use super::flow::roles::{self, Roles};
use super::import::read_bounded;

/// What protobuf itself allows.
const MAX_FILE_BYTES: u64 = 2 << 30;
const MAX_EXTERNAL_BYTES: u64 = 8 << 30;

/// A file beside the model that holds the values of its tensors.
#[derive(Debug, Default)]
struct External {
    name: String,
    bytes: Vec<u8>,
}

impl External {
    /// Reads the file that the tensors name, if any do.
    fn read(model: &proto::Model<'_>, path: &Path) -> Result<Self, String> {
        let mut names = model.initializers.iter().filter_map(|t| t.external.as_ref()).map(|e| e.location);
        let Some(name) = names.next() else { return Ok(External::default()) };
        if let Some(other) = names.find(|other| *other != name) {
            return Err(format!("values in two files, {name:?} and {other:?}; supported: one"));
        }
        let plain = matches!(Path::new(name).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
        let file = path.with_file_name(name);
        if !plain || file.is_symlink() {
            return Err(format!("values in {name:?}, which is no file beside the model"));
        }
        let bytes = read_bounded(&file, MAX_EXTERNAL_BYTES).map_err(|e| e.to_string())?;
        Ok(External { name: name.into(), bytes })
    }

    fn slice(&self, place: &proto::External<'_>) -> Result<&[u8], String> {
        let start = usize::try_from(place.offset).map_err(|e| e.to_string())?;
        let length = place.length.map_or(Some(self.bytes.len().saturating_sub(start)), |l| usize::try_from(l).ok());
        let end = length.and_then(|l| start.checked_add(l));
        end.and_then(|end| self.bytes.get(start..end)).ok_or_else(|| {
            format!(
                "bytes {} to {:?} after that of {:?}, which has {}",
                place.offset,
                place.length,
                self.name,
                self.bytes.len()
            )
        })
    }
}

/// Reads the encoder of an ONNX file.
///
/// # Errors
/// [`InterchangeError::Refused`] naming the node or tensor that is not supported.
pub(super) fn read(path: &Path) -> Result<Encoder, InterchangeError> {
    let file = read_bounded(path, MAX_FILE_BYTES)?;
    let read = || {
        let model = proto::Model::parse(&file)?;
        let external = External::read(&model, path)?;
        let graph = graph::read(&model, &external, file.len())?;
        let name = |node: usize| {
            let node = &model.nodes[node];
            format!("node \"{}\" ({})", node.name, node.op)
        };
        let roles = best(&graph, &name)?;
        let mut arrays = BTreeMap::new();
        // f16 doubles, and layers may share some weights.
        let (mut bytes, most) = (0, 4 * (file.len() + external.bytes.len()));
        for id in roles.constants() {
            bytes += graph.flow.constants[id].array_bytes();
            if bytes > most {
                return Err("the same weights are used again and again".into());
            }
            arrays.insert(id, graph.flow.constants[id].to_array()?);
        }
        Ok(Encoder { roles, arrays })
    };
    read().map_err(|reason: String| InterchangeError::refused(path, reason))
}

/// The roles that lead to one of the outputs: to logits when there are some, else to hidden states.
fn best(graph: &graph::Graph<'_>, name: &dyn Fn(usize) -> String) -> Result<Roles, String> {
    let mut outputs = graph.outputs.clone();
    // A linear layer is a head, a norm the last hidden states; other outputs are poolers and the like.
    outputs.sort_by_key(|(_, id)| match graph.flow.get(*id) {
        Value::Linear { .. } => 0,
        Value::Norm { .. } => 1,
        _ => 2,
    });
    let (output, id) = outputs.first().ok_or("a graph without outputs")?;
    roles::find(&graph.flow, *id, name).map_err(|reason| format!("output \"{output}\": {reason}"))
}

#[cfg(test)]
mod tests;
