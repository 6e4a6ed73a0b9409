//! A run that can be taken up again: weights, moments, where it was, and what it was like so far.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Deserializer, Serialize};

use crate::checkpoint::LayerConfig;

use super::optimizer::Moments;
use super::prune::{Importance, Kept};
use super::{DevScores, FineTuneSettings, Network, TrainError, ValueScale};

const WEIGHTS: &str = "state.safetensors";
const POSITION: &str = "state.json";

/// One step of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// From 1.
    pub step: usize,
    /// Of its batch.
    pub loss: f32,
    /// Of the gradient before clipping.
    #[serde(deserialize_with = "or_nan")]
    pub norm: f32,
    /// Of the encoder.
    pub learning_rate: f32,
}

/// One epoch of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// From 1.
    pub epoch: usize,
    /// Mean over the epoch's steps.
    pub train_loss: f32,
    /// On dev, after the epoch.
    pub dev: DevScores,
}

/// What a run was like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Every step.
    pub steps: Vec<StepRecord>,
    /// Every epoch.
    pub epochs: Vec<EpochRecord>,
}

/// Everything that a run depends on, after a whole number of steps.
pub(super) struct State {
    pub position: Position,
    /// Values of the variables.
    pub weights: Vec<Vec<f32>>,
    pub moments: Vec<Moments>,
    /// Values at the best epoch so far.
    pub best: Option<Vec<Vec<f32>>>,
    /// What pruning goes by; empty when nothing is pruned.
    pub importance: Importance,
}

/// The small half of a state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Position {
    /// Steps taken.
    pub step: usize,
    pub optimizer_steps: i32,
    /// Which epoch `best` is from, from 1.
    pub best_epoch: usize,
    /// What the run must be taken up with.
    pub settings: FineTuneSettings,
    /// The examples to learn from, as [`Dataset::digest`](super::Dataset::digest) tells them apart.
    pub examples: String,
    pub scale: ValueScale,
    /// The heads and neurons that are left.
    pub layers: Vec<LayerConfig>,
    /// How modules are fake-quantized, in words.
    #[serde(default)]
    pub quantization: BTreeMap<String, String>,
    pub history: History,
}

/// Reads a number as JSON has it, which writes one that is not finite as null.
pub(super) fn or_nan<'de, D: Deserializer<'de>>(from: D) -> Result<f32, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f32::NAN))
}

impl State {
    /// Writes the state into `folder`; what was there is replaced when the new state is complete.
    pub fn write(&self, folder: &Path, network: &Network) -> Result<(), TrainError> {
        let bad = |path: &Path, reason: String| TrainError::State { path: path.to_path_buf(), reason };
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let mut tensors = Vec::new();
        for (index, variable) in network.variables().iter().enumerate() {
            let moments = &self.moments[index];
            let mut add = |kind: &str, values: &[f32]| {
                tensors.push((format!("{kind}:{}", variable.name), variable.var.dims().to_vec(), bytes(values)));
            };
            add("weight", &self.weights[index]);
            add("first", &moments.first);
            add("second", &moments.second);
            if let Some(best) = &self.best {
                add("best", &best[index]);
            }
        }
        for (means, gates) in self.importance.0.iter().zip(network.gates()) {
            let name = format!("importance:{}", network.variables()[gates.variable].name);
            tensors.push((name, vec![means.len()], bytes(means)));
        }
        let path = folder.join(WEIGHTS);
        let views = tensors.iter().map(|(name, shape, data)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), data);
            view.map(|view| (name.as_str(), view))
        });
        let views: Result<Vec<_>, _> = views.collect();
        let position = serde_json::to_string(&self.position).expect("a position has string keys only");
        let metadata = [("position".to_string(), position)].into();
        let content = views.and_then(|views| safetensors::serialize(views, Some(metadata)));
        let content = content.map_err(|e| bad(&path, format!("cannot be made: {e}")))?;
        write_file(folder, WEIGHTS, &content).map_err(|e| bad(&path, format!("cannot be written: {e}")))?;
        // For people; what is read is in the weights' file, so that both are always of the same step.
        let shown = serde_json::to_string_pretty(&self.position).expect("a position has string keys only");
        let path = folder.join(POSITION);
        write_file(folder, POSITION, shown.as_bytes()).map_err(|e| bad(&path, format!("cannot be written: {e}")))
    }

    /// Reads a state, and prunes the network to what it is of; none when the folder has none.
    pub fn read(folder: &Path, network: &mut Network) -> Result<Option<State>, TrainError> {
        let path = folder.join(WEIGHTS);
        let bad = |reason: String| TrainError::State { path: path.clone(), reason };
        let content = match std::fs::read(&path) {
            Ok(content) => content,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(bad(format!("cannot be read: {e}"))),
        };
        let unusable = |e: &dyn std::fmt::Display| bad(format!("is no checkpoint of a run: {e}"));
        let (_, header) = SafeTensors::read_metadata(&content).map_err(|e| unusable(&e))?;
        let position = header.metadata().as_ref().and_then(|m| m.get("position"));
        let position = position.ok_or_else(|| unusable(&"it has no position"))?;
        let position: Position = serde_json::from_str(position).map_err(|e| unusable(&e))?;
        let tensors = SafeTensors::deserialize(&content).map_err(|e| unusable(&e))?;
        // Which places are kept means nothing here, as their values are read.
        let kept = |(is, was): (&LayerConfig, &LayerConfig)| Kept {
            heads: was.heads.iter().enumerate().filter(|(_, head)| is.heads.contains(head)).map(|(i, _)| i).collect(),
            neurons: (0..is.intermediate_size.min(was.intermediate_size)).collect(),
        };
        if position.layers.len() != network.num_layers() {
            let (found, needed) = (position.layers.len(), network.num_layers());
            return Err(bad(format!("is of {found} layers, the model has {needed}")));
        }
        network.prune(&position.layers.iter().zip(network.layers()).map(kept).collect::<Vec<_>>())?;
        let network = &*network;
        let take = |kind: &str| -> Result<Vec<Vec<f32>>, TrainError> {
            let values = network.variables().iter().map(|variable| {
                let name = format!("{kind}:{}", variable.name);
                let view = tensors.tensor(&name).map_err(|e| unusable(&e))?;
                if view.shape() != variable.var.dims() || view.dtype() != Dtype::F32 {
                    return Err(bad(format!(
                        "{name} is {:?}, the model needs {:?}",
                        view.shape(),
                        variable.var.dims()
                    )));
                }
                Ok(floats(view.data()))
            });
            values.collect()
        };
        let moments = take("first")?.into_iter().zip(take("second")?);
        let moments = moments.map(|(first, second)| Moments { first, second }).collect();
        let best = if position.best_epoch > 0 { Some(take("best")?) } else { None };
        let importance = network.gates().into_iter().map(|gates| {
            let name = format!("importance:{}", network.variables()[gates.variable].name);
            let view = tensors.tensor(&name).map_err(|e| unusable(&e))?;
            if view.shape() != [gates.count] || view.dtype() != Dtype::F32 {
                return Err(bad(format!("{name} is {:?}, the model needs [{}]", view.shape(), gates.count)));
            }
            Ok(floats(view.data()))
        });
        let prunes = position.settings.prunes_structures();
        let importance = if prunes { importance.collect::<Result<_, _>>()? } else { Vec::new() };
        Ok(Some(State { weights: take("weight")?, moments, best, position, importance: Importance(importance) }))
    }

    /// Fails unless this state is of a run with the settings, the examples and the quantization of `wanted`.
    pub fn check(&self, folder: &Path, wanted: &Position) -> Result<(), TrainError> {
        let path = folder.join(WEIGHTS);
        let of = |position: &Position| -> BTreeMap<String, String> {
            let serde_json::Value::Object(map) = serde_json::json!(position.settings) else {
                unreachable!("settings are a map")
            };
            let examples = ("training examples".to_string(), position.examples.clone());
            let settings = map.into_iter().map(|(key, value)| (key, value.to_string()));
            settings.chain([examples]).chain(position.quantization.clone()).collect()
        };
        let (found, wanted) = (of(&self.position), of(wanted));
        match found.keys().chain(wanted.keys()).find(|key| found.get(*key) != wanted.get(*key)) {
            Some(key) => {
                let [found, wanted] = [&found, &wanted].map(|of| of.get(key).map_or("none", String::as_str));
                let reason =
                    format!("was made with {key} {found}, this run has {wanted}; start anew, or give the same");
                Err(TrainError::State { path, reason })
            }
            None => Ok(()),
        }
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("chunks of four"))).collect()
}

fn write_file(folder: &Path, name: &str, content: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let (temporary, path): (PathBuf, PathBuf) = (folder.join(format!(".{name}.new")), folder.join(name));
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(temporary, path)
}
