//! The training loop.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rayon::prelude::*;

use crate::architectures::ProblemType;
use crate::checkpoint::{self, LayerConfig};
use crate::kernels::affine::{Inputs, QuantizedWeights};
use crate::nn::Dropout;
use crate::pipelines::softmax_temperature;

use super::dataset::Item;
use super::network::{Outputs, Part, Variable};
use super::objective::loss;
use super::optimizer::{AdamW, Gradient, Moments, Step};
use super::prune::{Importance, zero_smallest};
use super::state::{Position, State};
use super::{
    Dataset, DevScores, EpochRecord, FineTuneSettings, History, Network, StepRecord, Task, Teacher, TrainError,
    ValueScale,
};

/// Texts of dev that run together.
const DEV_TEXTS: usize = 64;

/// What a run tells while it goes on.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A step was taken; the run has `steps` at most.
    Step { record: StepRecord, steps: usize },
    /// Dev was scored; the weights are kept when they are the best so far.
    Epoch { record: EpochRecord, best: bool, history: &'a History },
}

/// What a run gave.
pub struct FineTuned {
    /// Encoder and head at the best epoch, by name.
    pub tensors: BTreeMap<String, checkpoint::Tensor>,
    /// The modules of the encoder as they are stored, by the names of their weights, when training was
    /// quantization-aware: the integers and scales that it saw, and how inputs are rounded.
    pub stored: BTreeMap<String, (QuantizedWeights, Inputs)>,
    /// The heads and neurons of each block that are left.
    pub layers: Vec<LayerConfig>,
    /// Which epoch that was, from 1.
    pub epoch: usize,
    /// Its scores.
    pub dev: DevScores,
    /// Softmax temperature that minimizes dev's negative log likelihood (Guo et al. 2017), for one class per text.
    pub temperature: Option<f32>,
    /// What this network makes of dev, `[examples][outputs]`; numbers are standardized. When training was
    /// quantization-aware these are the outputs of the exported folder, bit for bit.
    pub dev_outputs: Vec<Vec<f32>>,
    /// What the run was like.
    pub history: History,
}

/// What a run learns, from what.
#[derive(Clone, Copy)]
pub struct Lesson<'a> {
    /// What the outputs mean.
    pub task: &'a Task,
    /// The examples to learn from.
    pub train: &'a Dataset,
    /// The examples that choose the epoch.
    pub dev: &'a Dataset,
    /// Of the numbers to learn.
    pub scale: ValueScale,
    /// A trained network of the same task, when there is one to learn from too.
    pub teacher: Option<&'a Teacher>,
}

/// Trains `network` until dev has not got better for `patience` epochs, or all epochs are done; keeps the weights of
/// the best epoch, after pruning when there is some. After each epoch the state is written to `checkpoints`, and a run that finds one there goes on from
/// it, by bits as if it had never stopped. Runs on the rayon pool it is called in.
///
/// # Errors
/// [`TrainError`] when training diverges, or a checkpoint cannot be written or is of another run.
pub fn fine_tune(
    network: &Network,
    lesson: Lesson<'_>,
    settings: &FineTuneSettings,
    checkpoints: Option<&Path>,
    mut progress: impl FnMut(Event<'_>),
) -> Result<FineTuned, TrainError> {
    let Lesson { train, dev, .. } = lesson;
    if settings.prunes_structures() && network.has_groups() {
        let reason = "pruning takes columns out of groups that share a scale; give weights one scale for each channel";
        return Err(TrainError::Data(reason.into()));
    }
    let mut run = Run::new(network, lesson, settings);
    if let Some(folder) = checkpoints {
        run.take_up(folder)?;
    }
    let per_epoch = train.len().div_ceil(settings.batch_size);
    let steps = per_epoch * settings.epochs;
    while run.position.step < steps && !run.is_over() {
        let epoch = run.position.step / per_epoch;
        let order = order(train.len(), settings.seed, epoch);
        let mut losses = Vec::with_capacity(per_epoch);
        for chosen in order.chunks(settings.batch_size) {
            let record = run.step(train, chosen, steps)?;
            losses.push(f64::from(record.loss));
            progress(Event::Step { record, steps });
        }
        let train_loss = (losses.iter().sum::<f64>() / losses.len() as f64) as f32;
        let record = EpochRecord { epoch: epoch + 1, train_loss, dev: run.score(dev)?.0 };
        let best = run.keep_if_best(record, steps)?;
        progress(Event::Epoch { record, best, history: &run.position.history });
        if let Some(folder) = checkpoints {
            run.state()?.write(folder, &run.network)?;
        }
    }
    run.finish(dev)
}

/// The order of the examples in an epoch.
fn order(examples: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..examples).collect();
    order.shuffle(&mut StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ epoch as u64));
    order
}

struct Run<'a> {
    /// Shares its variables with the caller's until some of it is pruned.
    network: Network,
    /// Heads and neurons before pruning.
    whole: [usize; 2],
    importance: Importance,
    lesson: Lesson<'a>,
    settings: &'a FineTuneSettings,
    optimizer: AdamW,
    position: Position,
    best: Option<Vec<Vec<f32>>>,
}

impl<'a> Run<'a> {
    fn new(network: &'a Network, lesson: Lesson<'a>, settings: &'a FineTuneSettings) -> Self {
        let position = Position {
            step: 0,
            optimizer_steps: 0,
            best_epoch: 0,
            settings: settings.clone(),
            examples: lesson.train.digest(),
            scale: lesson.scale,
            layers: network.layers().to_vec(),
            quantization: network.forms(),
            history: History::default(),
        };
        let optimizer = AdamW::new(network.variables().iter().map(|v| v.var.elem_count()));
        let importance = if settings.prunes_structures() { Importance::new(network) } else { Importance::default() };
        let heads = network.layers().iter().map(|layer| layer.heads.len()).sum();
        let neurons = network.layers().iter().map(|layer| layer.intermediate_size).sum();
        let (network, whole) = (network.clone(), [heads, neurons]);
        Run { network, whole, importance, lesson, settings, optimizer, position, best: None }
    }

    /// Goes on from a checkpoint, when there is one.
    fn take_up(&mut self, folder: &Path) -> Result<(), TrainError> {
        let Some(state) = State::read(folder, &mut self.network)? else { return Ok(()) };
        state.check(folder, &self.position)?;
        self.network.restore(&state.weights)?;
        self.optimizer.set_state(state.position.optimizer_steps, state.moments);
        (self.position, self.best, self.importance) = (state.position, state.best, state.importance);
        Ok(())
    }

    fn state(&self) -> Result<State, TrainError> {
        let (optimizer_steps, moments) = self.optimizer.state();
        Ok(State {
            position: Position { optimizer_steps, ..self.position.clone() },
            weights: self.network.snapshot()?,
            moments: moments.to_vec(),
            best: self.best.clone(),
            importance: self.importance.clone(),
        })
    }

    /// Whether dev has not got better for as many epochs as one waits.
    fn is_over(&self) -> bool {
        let epochs = self.position.history.epochs.len();
        self.position.best_epoch > 0 && epochs - self.position.best_epoch >= self.settings.patience
    }

    /// One step on the chosen examples.
    fn step(&mut self, train: &Dataset, chosen: &[usize], steps: usize) -> Result<StepRecord, TrainError> {
        let step = self.position.step;
        self.prune(step, steps)?;
        let dropout = Dropout::new(self.settings.dropout as f32, self.settings.seed).at(step as u64);
        let batch = train.batch(chosen);
        let outputs = self.network.forward(&batch, dropout)?;
        let items: Vec<&Item> = chosen.iter().map(|i| &train.items[*i]).collect();
        let mut loss = loss(&outputs.logits, &items, self.lesson.task, self.position.scale, self.settings)?;
        if let Some(teacher) = self.lesson.teacher {
            let weight = self.settings.teacher_weight;
            let taught = teacher.loss(&self.network, &outputs, &batch, self.lesson.task, self.settings)?;
            loss = ((loss * (1.0 - weight))? + (taught * weight)?)?;
        }
        let value = loss.to_scalar::<f32>()?;
        let gradients = loss.backward()?;
        drop(loss);
        if self.settings.prunes_structures() && self.settings.pruned(step, steps) < 1.0 {
            self.importance.observe(&self.network, &gradients)?;
        }
        let schedule = self.settings.schedule(step, steps);
        let norm = self.update(&outputs, &gradients, schedule)?;
        if !value.is_finite() || !norm.is_finite() {
            return Err(TrainError::Diverged { step: step + 1, loss: value });
        }
        self.position.step += 1;
        let learning_rate = (self.settings.learning_rate * schedule) as f32;
        let record = StepRecord { step: step + 1, loss: value, norm: norm as f32, learning_rate };
        self.position.history.steps.push(record);
        Ok(record)
    }

    /// Takes out what is due before a step: heads and neurons with their moments, and single weights.
    fn prune(&mut self, step: usize, steps: usize) -> Result<(), TrainError> {
        let settings = self.settings;
        let done = settings.pruned(step, steps);
        let before = if step == 0 { 0.0 } else { settings.pruned(step - 1, steps) };
        if !settings.prunes() || done <= before {
            return Ok(());
        }
        if settings.prunes_structures() {
            let left = |share: f64, whole: usize| whole - (share * done * whole as f64).round() as usize;
            let [heads, neurons] = self.whole;
            let kept = self.importance.keep(left(settings.prune_heads, heads), left(settings.prune_ffn, neurons));
            let cuts = self.network.prune(&kept)?;
            self.importance.cut(&kept);
            self.position.layers = self.network.layers().to_vec();
            let (steps, moments) = self.optimizer.state();
            let mut moments = moments.to_vec();
            for cut in cuts {
                let Moments { first, second } = &mut moments[cut.variable];
                (*first, *second) = (cut.apply(first), cut.apply(second));
            }
            self.optimizer.set_state(steps, moments);
        }
        if settings.prune_magnitude > 0.0 {
            for variable in self.network.matrices() {
                let var = &self.network.variables()[variable].var;
                let mut values = var.flatten_all()?.to_vec1::<f32>()?;
                zero_smallest(&mut values, settings.prune_magnitude * done);
                var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
            }
        }
        Ok(())
    }

    fn update(&mut self, outputs: &Outputs, gradients: &GradStore, schedule: f64) -> Result<f64, TrainError> {
        let missing = |name: &str| candle_core::Error::Msg(format!("{name} has no gradient"));
        let pruned: HashSet<usize> = match self.settings.prune_magnitude > 0.0 {
            true => self.network.matrices().collect(),
            false => HashSet::new(),
        };
        let step = |(index, variable)| {
            let variable: &Variable = variable;
            let rate = match variable.part {
                Part::Encoder => self.settings.learning_rate,
                Part::Head => self.settings.head_learning_rate,
                Part::Scales => self.settings.scale_learning_rate,
            };
            let gradient = if index == self.network.words() {
                let rows = gradients.get(outputs.words.as_tensor()).ok_or_else(|| missing(&variable.name))?;
                Gradient::Rows(&outputs.word_ids, rows)
            } else {
                Gradient::Whole(gradients.get(variable.var.as_tensor()).ok_or_else(|| missing(&variable.name))?)
            };
            let weight_decay = if variable.decay { self.settings.weight_decay } else { 0.0 };
            let (learning_rate, keep_zeros) = (rate * schedule, pruned.contains(&index));
            Ok(Step { variable: &variable.var, gradient, learning_rate, weight_decay, keep_zeros })
        };
        let steps = self.network.variables().iter().enumerate().map(step);
        let steps = steps.collect::<Result<Vec<_>, candle_core::Error>>()?;
        Ok(self.optimizer.step(&steps, self.settings.clip)?)
    }

    /// Scores of dev, and the outputs they are of: of a network that is fake-quantized those of the folder that would be
    /// written of it, by the executor that serves.
    fn score(&self, dev: &Dataset) -> Result<(DevScores, Vec<Vec<f32>>), TrainError> {
        let plain = FineTuneSettings { label_smoothing: 0.0, ..self.settings.clone() };
        let (mut rows, mut total) = (Vec::with_capacity(dev.len()), 0.0);
        let indices: Vec<usize> = (0..dev.len()).collect();
        let chunks = indices.par_chunks(DEV_TEXTS);
        let logits: Vec<Tensor> = match self.network.is_quantized() {
            true => {
                let model = self.network.served(&self.network.snapshot()?, self.lesson.task)?;
                let rows = |chosen| model.rows(&dev.batch(chosen), &mut model.encoder.workspace());
                chunks.map(|chosen| Tensor::new(rows(chosen), &Device::Cpu)).collect::<Result<_, _>>()?
            }
            false => {
                let logits = |chosen| self.network.logits(&dev.batch(chosen));
                indices.chunks(DEV_TEXTS).map(logits).collect::<candle_core::Result<_>>()?
            }
        };
        for (chosen, logits) in indices.chunks(DEV_TEXTS).zip(logits) {
            let items: Vec<&Item> = chosen.iter().map(|i| &dev.items[*i]).collect();
            let loss = loss(&logits, &items, self.lesson.task, self.position.scale, &plain)?;
            total += f64::from(loss.to_scalar::<f32>()?) * chosen.len() as f64;
            rows.extend(logits.to_vec2::<f32>()?);
        }
        let mean = (total / dev.len() as f64) as f32;
        Ok((DevScores::of(mean, &rows, &dev.items, self.lesson.task), rows))
    }

    /// Keeps the weights after an epoch when dev was never better; not before pruning is done.
    fn keep_if_best(&mut self, record: EpochRecord, steps: usize) -> Result<bool, TrainError> {
        let is_pruning = self.settings.prunes() && self.settings.pruned(self.position.step - 1, steps) < 1.0;
        let history = &mut self.position.history;
        let best = match self.position.best_epoch {
            0 => !is_pruning,
            epoch => record.dev.score() > history.epochs[epoch - 1].dev.score(),
        };
        history.epochs.push(record);
        if best {
            self.position.best_epoch = record.epoch;
            self.best = Some(self.network.snapshot()?);
        }
        Ok(best)
    }

    fn finish(self, dev: &Dataset) -> Result<FineTuned, TrainError> {
        let best = self.best.as_ref().expect("at least one epoch ran");
        self.network.restore(best)?;
        let (dev_scores, rows) = self.score(dev)?;
        let task = self.lesson.task;
        let temperature = (task.problem_type == ProblemType::SingleLabel).then(|| {
            let logits = rows.iter().map(|row| &row[..task.classes()]);
            let class = |i: &Item| i.classes.iter().position(|c| *c == 1.0).unwrap_or(0);
            softmax_temperature(logits.zip(dev.items.iter().map(class)))
        });
        Ok(FineTuned {
            tensors: self.network.tensors(best, task, self.position.scale),
            stored: self.network.stored(best),
            layers: self.network.layers().to_vec(),
            epoch: self.position.best_epoch,
            dev: dev_scores,
            temperature,
            dev_outputs: rows,
            history: self.position.history,
        })
    }
}
