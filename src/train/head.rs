//! A classification head on pooled vectors: `logits = W2 tanh(W1 x + b1) + b2`, RoBERTa's head without its dropout at
//! serving time.
//!
//! Cross-entropy with AdamW (Loshchilov & Hutter 2019) and linear decay; the weights of the epoch with the best dev
//! accuracy are kept. Inputs are standardized per dimension while training, and the first layer takes that over at the end.

use candle_core::{D, Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::pipelines::softmax_temperature;

/// How to train a head. The defaults are those of `octet train`.
#[derive(Clone, Debug)]
pub struct HeadSettings {
    /// Passes over the training vectors.
    pub epochs: usize,
    /// Vectors per step.
    pub batch_size: usize,
    /// Of the first step; falls linearly to 0.
    pub learning_rate: f64,
    /// AdamW's decay of the weights.
    pub weight_decay: f64,
    /// Share of inputs and hidden values that a training step drops.
    pub dropout: f32,
    /// Of the initial weights, the order of examples and dropout.
    pub seed: u64,
}

impl Default for HeadSettings {
    fn default() -> Self {
        HeadSettings { epochs: 12, batch_size: 64, learning_rate: 1e-3, weight_decay: 0.01, dropout: 0.3, seed: 1 }
    }
}

/// Pooled vectors and their classes.
#[derive(Clone, Debug, Default)]
pub struct Vectors {
    /// `[examples, width]`, row-major.
    pub values: Vec<f32>,
    /// Class index of each example.
    pub classes: Vec<u32>,
}

/// Weights of a trained head.
#[derive(Clone, Debug)]
pub struct TrainedHead {
    /// `[width, width]`.
    pub dense_weight: Vec<f32>,
    /// `[width]`.
    pub dense_bias: Vec<f32>,
    /// `[classes, width]`.
    pub out_weight: Vec<f32>,
    /// `[classes]`.
    pub out_bias: Vec<f32>,
    /// Softmax temperature that minimizes the dev set's negative log likelihood (Guo et al. 2017).
    pub temperature: f32,
    /// Which epoch the weights are from, from 1.
    pub epoch: usize,
}

/// What one epoch came to.
#[derive(Clone, Copy, Debug)]
pub struct Epoch {
    /// From 1.
    pub number: usize,
    /// Mean cross-entropy over the epoch's steps.
    pub train_loss: f32,
    /// Mean cross-entropy on dev.
    pub dev_loss: f32,
    /// Share of right classes on dev, 0..1.
    pub dev_accuracy: f32,
}

/// Trains a head for `classes` classes on vectors of `width`; `progress` is told every epoch.
///
/// # Errors
/// candle's, which means a bug: all shapes are made here.
///
/// # Panics
/// When the vectors do not fit `width`, or there are none.
pub fn train_head(
    train: &Vectors,
    dev: &Vectors,
    width: usize,
    classes: usize,
    settings: &HeadSettings,
    mut progress: impl FnMut(Epoch),
) -> candle_core::Result<TrainedHead> {
    for set in [train, dev] {
        assert!(!set.classes.is_empty(), "training a head needs train and dev examples");
        assert_eq!(set.values.len(), set.classes.len() * width, "one vector of {width} values per class");
    }
    let mut rng = StdRng::seed_from_u64(settings.seed);
    let network = Network::new(width, classes, &mut rng)?;
    let parameters =
        ParamsAdamW { lr: settings.learning_rate, weight_decay: settings.weight_decay, ..Default::default() };
    let mut optimizer = AdamW::new(network.vars(), parameters)?;
    let mut order: Vec<usize> = (0..train.classes.len()).collect();
    let steps = order.len().div_ceil(settings.batch_size) * settings.epochs;
    let scaling = Scaling::of(train, width);
    let (train, dev) = (&scaling.apply(train), &scaling.apply(dev));
    let (dev_x, dev_y) = dev.tensors(width)?;
    let (mut step, mut best): (usize, Option<(f32, TrainedHead)>) = (0, None);
    for number in 1..=settings.epochs {
        order.shuffle(&mut rng);
        let mut losses = Vec::new();
        for chosen in order.chunks(settings.batch_size) {
            let (x, y) = train.pick(chosen, width).tensors(width)?;
            let logits = network.forward(&x, Some((settings.dropout, &mut rng)))?;
            let loss = candle_nn::loss::cross_entropy(&logits, &y)?;
            optimizer.set_learning_rate(settings.learning_rate * (1.0 - step as f64 / steps as f64));
            optimizer.backward_step(&loss)?;
            losses.push(loss.to_scalar::<f32>()?);
            step += 1;
        }
        let logits = network.forward(&dev_x, None)?;
        let dev_loss = candle_nn::loss::cross_entropy(&logits, &dev_y)?.to_scalar::<f32>()?;
        let dev_accuracy = accuracy(&logits, &dev.classes)?;
        let train_loss = losses.iter().sum::<f32>() / losses.len() as f32;
        progress(Epoch { number, train_loss, dev_loss, dev_accuracy });
        if best.as_ref().is_none_or(|(accuracy, _)| dev_accuracy > *accuracy) {
            let dev_logits: Vec<Vec<f32>> = logits.to_vec2()?;
            let classes = dev.classes.iter().map(|class| *class as usize);
            let temperature = softmax_temperature(dev_logits.iter().map(Vec::as_slice).zip(classes));
            best = Some((dev_accuracy, network.weights(&scaling, temperature, number)?));
        }
    }
    Ok(best.expect("at least one epoch ran").1)
}

impl Vectors {
    fn pick(&self, chosen: &[usize], width: usize) -> Vectors {
        let values = chosen.iter().flat_map(|i| &self.values[i * width..(i + 1) * width]).copied().collect();
        Vectors { values, classes: chosen.iter().map(|i| self.classes[*i]).collect() }
    }

    fn tensors(&self, width: usize) -> candle_core::Result<(Tensor, Tensor)> {
        let count = self.classes.len();
        let x = Tensor::from_slice(&self.values, (count, width), &Device::Cpu)?;
        Ok((x, Tensor::from_slice(&self.classes, count, &Device::Cpu)?))
    }
}

/// Mean and standard deviation of each dimension over the training vectors.
struct Scaling {
    mean: Vec<f32>,
    deviation: Vec<f32>,
}

impl Scaling {
    fn of(train: &Vectors, width: usize) -> Self {
        let count = train.classes.len() as f64;
        let average = |of: &dyn Fn(usize, f32) -> f64| {
            let mut sums = vec![0f64; width];
            for row in train.values.chunks_exact(width) {
                sums.iter_mut().zip(row).enumerate().for_each(|(i, (sum, x))| *sum += of(i, *x));
            }
            sums.into_iter().map(|sum| (sum / count) as f32).collect::<Vec<_>>()
        };
        let mean = average(&|_, x| f64::from(x));
        let variance = average(&|i, x| f64::from(x - mean[i]).powi(2));
        // A dimension that never changes stays as it is.
        let deviation = variance.into_iter().map(|v| if v > 1e-12 { v.sqrt() } else { 1.0 }).collect();
        Scaling { mean, deviation }
    }

    fn apply(&self, vectors: &Vectors) -> Vectors {
        let width = self.mean.len();
        let scaled = |(i, x): (usize, &f32)| (x - self.mean[i % width]) / self.deviation[i % width];
        Vectors { values: vectors.values.iter().enumerate().map(scaled).collect(), classes: vectors.classes.clone() }
    }

    /// The dense layer for raw inputs that equals `weight` `[outputs, width]` and `bias` for standardized ones:
    /// `W (x - m) / d + b = (W / d) x + (b - (W / d) m)`.
    fn fold(&self, weight: &mut [f32], bias: &mut [f32]) {
        for (row, bias) in weight.chunks_exact_mut(self.mean.len()).zip(bias) {
            row.iter_mut().zip(&self.deviation).for_each(|(w, d)| *w /= d);
            *bias -= row.iter().zip(&self.mean).map(|(w, m)| w * m).sum::<f32>();
        }
    }
}

struct Network {
    dense_weight: Var,
    dense_bias: Var,
    out_weight: Var,
    out_bias: Var,
}

impl Network {
    /// Weights uniform in ±sqrt(6 / (inputs + outputs)) (Glorot & Bengio 2010), biases 0.
    fn new(width: usize, classes: usize, rng: &mut StdRng) -> candle_core::Result<Self> {
        let mut glorot = |outputs: usize| {
            let bound = (6.0 / (width + outputs) as f32).sqrt();
            let values: Vec<f32> = (0..outputs * width).map(|_| rng.random_range(-bound..bound)).collect();
            Var::from_vec(values, (outputs, width), &Device::Cpu)
        };
        let zeros = |n: usize| Var::from_vec(vec![0f32; n], n, &Device::Cpu);
        Ok(Network {
            dense_weight: glorot(width)?,
            out_weight: glorot(classes)?,
            dense_bias: zeros(width)?,
            out_bias: zeros(classes)?,
        })
    }

    fn vars(&self) -> Vec<Var> {
        vec![self.dense_weight.clone(), self.dense_bias.clone(), self.out_weight.clone(), self.out_bias.clone()]
    }

    /// `[examples, width]` → logits `[examples, classes]`; with dropout while training.
    fn forward(&self, x: &Tensor, mut dropout: Option<(f32, &mut StdRng)>) -> candle_core::Result<Tensor> {
        let mut drop = |x: &Tensor| match dropout.as_mut() {
            Some((rate, rng)) if *rate > 0.0 => {
                let keep = 1.0 - *rate;
                let mask: Vec<f32> =
                    (0..x.elem_count()).map(|_| if rng.random::<f32>() < keep { 1.0 / keep } else { 0.0 }).collect();
                x.mul(&Tensor::from_vec(mask, x.shape(), x.device())?)
            }
            _ => Ok(x.clone()),
        };
        let hidden = drop(x)?.matmul(&self.dense_weight.t()?)?.broadcast_add(&self.dense_bias)?.tanh()?;
        drop(&hidden)?.matmul(&self.out_weight.t()?)?.broadcast_add(&self.out_bias)
    }

    fn weights(&self, scaling: &Scaling, temperature: f32, epoch: usize) -> candle_core::Result<TrainedHead> {
        let values = |v: &Var| v.flatten_all()?.to_vec1::<f32>();
        let (mut dense_weight, mut dense_bias) = (values(&self.dense_weight)?, values(&self.dense_bias)?);
        scaling.fold(&mut dense_weight, &mut dense_bias);
        Ok(TrainedHead {
            dense_weight,
            dense_bias,
            out_weight: values(&self.out_weight)?,
            out_bias: values(&self.out_bias)?,
            temperature,
            epoch,
        })
    }
}

fn accuracy(logits: &Tensor, classes: &[u32]) -> candle_core::Result<f32> {
    let predicted = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
    let right = predicted.iter().zip(classes).filter(|(p, c)| p == c).count();
    Ok(right as f32 / classes.len() as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two classes on either side of a circle: no straight line parts them, one hidden layer does.
    fn rings(count: usize, seed: u64) -> Vectors {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut set = Vectors::default();
        for i in 0..count {
            let (class, angle) = ((i % 2) as u32, rng.random::<f32>() * std::f32::consts::TAU);
            let radius = if class == 0 { 0.5 } else { 1.5 };
            let (x, y) = (radius * angle.cos(), radius * angle.sin());
            set.values.extend([x, y, x * y, x * x, y, x, 1.0, 0.5]);
            set.classes.push(class);
        }
        set
    }

    #[test]
    fn a_head_learns_what_no_line_can_part_and_repeats_itself() {
        let (train, dev) = (rings(400, 1), rings(100, 2));
        let settings = HeadSettings { epochs: 60, learning_rate: 2e-2, dropout: 0.0, ..Default::default() };
        let mut last = None;
        let head = train_head(&train, &dev, 8, 2, &settings, |e| last = Some(e)).unwrap();
        assert!(last.unwrap().dev_accuracy > 0.95, "{last:?}");
        let again = train_head(&train, &dev, 8, 2, &settings, |_| {}).unwrap();
        assert_eq!(head.out_weight, again.out_weight);
    }

    #[test]
    fn folded_scaling_gives_the_same_layer_on_raw_inputs() {
        let raw = rings(50, 3);
        let scaling = Scaling::of(&raw, 8);
        let scaled = scaling.apply(&raw);
        let (weight, bias): (Vec<f32>, f32) = ((0..8).map(|i| i as f32 / 4.0 - 1.0).collect(), 0.5);
        let (mut folded, mut folded_bias) = (weight.clone(), [bias]);
        scaling.fold(&mut folded, &mut folded_bias);
        let dot = |w: &[f32], x: &[f32]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f32>();
        for (raw, scaled) in raw.values.chunks_exact(8).zip(scaled.values.chunks_exact(8)) {
            let (a, b) = (dot(&folded, raw) + folded_bias[0], dot(&weight, scaled) + bias);
            assert!((a - b).abs() < 1e-4, "{a} for {b}");
        }
    }
}
