//! rten as a peer: `peer-rten MODEL.onnx` answers the tasks that ../worker.py describes, with RTEN_NUM_THREADS threads.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use rten::{Model, ModelOptions, NodeId, ValueOrView};
use rten_tensor::prelude::*;
use rten_tensor::NdTensor;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Sequences in a batch of the stream.
const STREAM_BATCH: usize = 32;
/// A cell is run at least so often, or twice when one run takes longer than the time for it.
const MIN_RUNS: usize = 5;

#[derive(Deserialize)]
#[serde(tag = "task", rename_all = "snake_case")]
enum Task {
    Grid { ids: PathBuf, cell: String, seconds: f64 },
    Stream { ids: PathBuf, order: Order, passes: usize },
    Vectors { ids: PathBuf, out: PathBuf },
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Order {
    Arrival,
    Sorted,
}

/// Ids and mask of a padded batch, both [sequences, longest].
struct Batch {
    ids: NdTensor<i32, 2>,
    mask: NdTensor<i32, 2>,
    types: NdTensor<i32, 2>,
}

impl Batch {
    /// Pads with 0 ([PAD]) on the right.
    fn padded(sequences: &[Vec<i32>]) -> Self {
        let longest = sequences.iter().map(Vec::len).max().unwrap_or(0);
        let shape = [sequences.len(), longest];
        let id = |[row, column]: [usize; 2]| sequences[row].get(column).copied();
        Batch {
            ids: NdTensor::from_fn(shape, |at| id(at).unwrap_or(0)),
            mask: NdTensor::from_fn(shape, |at| id(at).is_some().into()),
            types: NdTensor::zeros(shape),
        }
    }
}

struct Engine {
    model: Model,
    /// input_ids, attention_mask, token_type_ids.
    inputs: [NodeId; 3],
    output: NodeId,
}

impl Engine {
    fn load(file: &str) -> Result<Self> {
        let model = ModelOptions::with_all_ops()
            .prepack_weights(true)
            .load_file(file)
            .with_context(|| format!("cannot load {file}"))?;
        let node = |name| model.node_id(name);
        let inputs = [node("input_ids")?, node("attention_mask")?, node("token_type_ids")?];
        let output = node("last_hidden_state")?;
        Ok(Engine { inputs, output, model })
    }

    /// Last hidden states, [sequences, longest, hidden].
    fn run(&self, batch: &Batch) -> Result<NdTensor<f32, 3>> {
        let values = [&batch.ids, &batch.mask, &batch.types].map(|tensor| ValueOrView::from(tensor.view().as_dyn()));
        let [hidden] = self.model.run_n(self.inputs.into_iter().zip(values).collect(), [self.output], None)?;
        Ok(hidden.try_into()?)
    }

    fn answer(&self, task: Task) -> Result<Value> {
        match task {
            Task::Grid { ids, cell, seconds } => {
                let sequences = grid_cell(&read_ids(&ids)?, &cell)?;
                let batch = Batch::padded(&sequences);
                let run = || timed(|| self.run(&batch).map(drop));
                let first = run()?;
                let mut spent = first;
                while spent < seconds / 3.0 {
                    spent += run()?;
                }
                let least = if first < seconds { MIN_RUNS } else { 2 };
                let mut times = Vec::new();
                while times.len() < least || times.iter().sum::<f64>() < seconds {
                    times.push(run()?);
                }
                Ok(json!({ "times": times, "ids_sha256": digest(&sequences) }))
            }
            Task::Stream { ids, order, passes } => {
                let mut sequences = read_ids(&ids)?;
                if order == Order::Sorted {
                    sequences.sort_by_key(Vec::len);
                }
                let batches: Vec<Batch> = sequences.chunks(STREAM_BATCH).map(Batch::padded).collect();
                let pass = || timed(|| batches.iter().try_for_each(|batch| self.run(batch).map(drop)));
                pass()?;
                let times = (0..passes).map(|_| pass()).collect::<Result<Vec<f64>>>()?;
                Ok(json!({ "times": times, "ids_sha256": digest(&sequences) }))
            }
            Task::Vectors { ids, out } => {
                let sequences = read_ids(&ids)?;
                let mut bytes = Vec::new();
                for sequence in &sequences {
                    let hidden = self.run(&Batch::padded(std::slice::from_ref(sequence)))?;
                    let [_, tokens, width] = hidden.shape();
                    for column in 0..width {
                        let sum: f32 = (0..tokens).map(|token| hidden[[0, token, column]]).sum();
                        bytes.extend((sum / tokens as f32).to_le_bytes());
                    }
                }
                std::fs::write(&out, bytes).with_context(|| format!("cannot write {}", out.display()))?;
                Ok(json!({ "ids_sha256": digest(&sequences) }))
            }
        }
    }
}

/// One JSON array of ids a line.
fn read_ids(file: &PathBuf) -> Result<Vec<Vec<i32>>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// The sequences of a cell such as 8x128, cut from the concatenation of all ids, which is repeated when it is too short.
fn grid_cell(sequences: &[Vec<i32>], cell: &str) -> Result<Vec<Vec<i32>>> {
    let (batch, tokens) = cell.split_once('x').with_context(|| format!("{cell} is not a cell such as 8x128"))?;
    let (batch, tokens): (usize, usize) = (batch.parse()?, tokens.parse()?);
    let ids: Vec<i32> = sequences.concat().into_iter().cycle().take(batch * tokens).collect();
    Ok(ids.chunks(tokens).map(<[i32]>::to_vec).collect())
}

/// SHA-256 over all ids, in order, as little-endian u32.
fn digest(sequences: &[Vec<i32>]) -> String {
    let mut hash = Sha256::new();
    sequences.iter().flatten().for_each(|id| hash.update(id.to_le_bytes()));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Seconds that `run` takes.
fn timed(run: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    run()?;
    Ok(start.elapsed().as_secs_f64())
}

fn main() -> Result<()> {
    let file = std::env::args().nth(1).context("usage: peer-rten MODEL.onnx")?;
    let engine = Engine::load(&file)?;
    let mut answers = std::io::stdout().lock();
    writeln!(answers, "{}", json!({ "ready": true }))?;
    for line in std::io::stdin().lock().lines() {
        let task = serde_json::from_str(&line?).context("not a task")?;
        writeln!(answers, "{}", engine.answer(task)?)?;
    }
    Ok(())
}
