//! From the hidden states of one sequence to one row: pooling, then an optional stack of dense layers.

use crate::architectures::{DenseActivation, DenseSpec, Pooling};
use crate::checkpoint::{CheckpointError, Weights};
use crate::kernels::{FloatWeights, Kernels};

use super::Row;

/// One dense layer in f32: `y = act(W x + b)`.
#[derive(Clone, Debug)]
pub struct Dense {
    kernels: Kernels,
    weights: FloatWeights,
    activation: Option<DenseActivation>,
}

/// Pooling, then dense layers.
#[derive(Clone, Debug)]
pub struct Head {
    /// First step.
    pub pooling: Pooling,
    /// Applied in order; empty for embeddings.
    pub layers: Vec<Dense>,
}

impl Head {
    /// A head with the weights of its layers, from `weights`.
    ///
    /// # Errors
    /// [`CheckpointError`] naming a weight that is missing or has another shape.
    pub fn load(
        pooling: Pooling,
        layers: &[DenseSpec],
        kernels: Kernels,
        weights: &mut Weights,
    ) -> Result<Self, CheckpointError> {
        let dense = |layer: &DenseSpec| {
            let names = &layer.names;
            let weight = weights.take(&names.weight, &[names.outputs, names.inputs])?.into_f32();
            let bias = weights.take(&names.bias, &[names.outputs])?.into_f32();
            Ok(Dense::new(kernels, &weight, &bias, layer.activation))
        };
        Ok(Head { pooling, layers: layers.iter().map(dense).collect::<Result<_, _>>()? })
    }

    /// Hidden states of one sequence, `[tokens, width]` → one row.
    ///
    /// Sums run in a fixed order in f32, so a row depends on its sequence alone.
    ///
    /// # Panics
    /// When `hidden` is empty or a layer does not fit.
    pub fn apply(&self, hidden: &[f32], width: usize) -> Row {
        self.apply_to_all([hidden], width).remove(0)
    }

    /// [`Head::apply`] to each sequence.
    ///
    /// # Panics
    /// As there.
    pub fn apply_to_all<'a>(&self, sequences: impl IntoIterator<Item = &'a [f32]>, width: usize) -> Vec<Row> {
        self.apply_dense(sequences.into_iter().map(|hidden| self.pool(hidden, width)).collect())
    }

    /// All but the first step, on the pooled rows of some sequences; the weights are read once for all of them.
    ///
    /// # Panics
    /// When a layer does not fit.
    pub fn apply_dense(&self, pooled: Vec<Row>) -> Vec<Row> {
        let Some(last) = self.layers.last() else { return pooled };
        let rows = self.layers.iter().fold(pooled.concat(), |rows, layer| layer.apply(&rows, pooled.len()));
        rows.chunks_exact(last.weights.n()).map(<[f32]>::to_vec).collect()
    }

    /// The first step: hidden states of one sequence, `[tokens, width]` → one row of `width`.
    ///
    /// # Panics
    /// When `hidden` is empty.
    pub fn pool(&self, hidden: &[f32], width: usize) -> Row {
        let mut tokens = hidden.chunks_exact(width);
        let mut row = tokens.next().expect("a sequence has at least one token").to_vec();
        match self.pooling {
            Pooling::Cls => {}
            Pooling::Mean => {
                let count = (hidden.len() / width) as f32;
                for token in tokens {
                    row.iter_mut().zip(token).for_each(|(r, t)| *r += t);
                }
                row.iter_mut().for_each(|r| *r /= count);
            }
            Pooling::Max => {
                for token in tokens {
                    row.iter_mut().zip(token).for_each(|(r, t)| *r = r.max(*t));
                }
            }
        }
        row
    }
}

impl Dense {
    /// The layer with `weight` `[out, in]`, row-major, and `bias` `[out]`.
    ///
    /// # Panics
    /// When the lengths do not fit together.
    pub fn new(kernels: Kernels, weight: &[f32], bias: &[f32], activation: Option<DenseActivation>) -> Self {
        let inputs = weight.len() / bias.len().max(1);
        Dense { kernels, weights: FloatWeights::pack(weight, bias, bias.len(), inputs), activation }
    }

    /// Weights and biases.
    pub fn parameters(&self) -> usize {
        self.weights.n() * (self.weights.k() + 1)
    }

    /// `[rows, in]` → `[rows, out]`.
    fn apply(&self, x: &[f32], rows: usize) -> Vec<f32> {
        let (inputs, outputs) = (self.weights.k(), self.weights.n());
        assert_eq!(x.len(), rows * inputs, "a dense layer of {inputs} inputs got {} values in {rows} rows", x.len());
        let mut y = vec![0.0; rows * outputs];
        self.kernels.gemm_f32(x, &self.weights, &mut y);
        match self.activation {
            None => {}
            Some(DenseActivation::Tanh) => self.kernels.tanh(&mut y),
            Some(DenseActivation::Relu) => self.kernels.relu(&mut y),
        }
        y
    }
}

/// Dot product: sixteen partial sums, then their sum: a fixed order that the compiler can vectorize.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (a, b) = (a.chunks_exact(16), b.chunks_exact(16));
    let tail: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for i in 0..16 {
            lanes[i] += a[i] * b[i];
        }
    }
    lanes.iter().sum::<f32>() + tail
}

/// Scales a vector to length 1; a zero vector stays zero.
pub(super) fn to_unit_length(x: &mut [f32]) {
    let norm = dot(x, x).sqrt().max(1e-12);
    x.iter_mut().for_each(|v| *v /= norm);
}
