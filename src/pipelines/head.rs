//! From the hidden states of one sequence to one row: pooling, then an optional stack of dense layers.

use crate::architectures::{DenseActivation, Pooling};

/// One dense layer in f32: `y = act(W x + b)`.
#[derive(Clone, Debug)]
pub struct Dense {
    /// `[out, in]`, row-major.
    pub weight: Vec<f32>,
    /// `[out]`.
    pub bias: Vec<f32>,
    /// Applied to the result, when there is one.
    pub activation: Option<DenseActivation>,
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
    /// Hidden states of one sequence, `[tokens, width]` → one row.
    ///
    /// Sums run in a fixed order in f32, so a row depends on its sequence alone.
    ///
    /// # Panics
    /// When `hidden` is empty or a layer does not fit.
    pub fn apply(&self, hidden: &[f32], width: usize) -> Vec<f32> {
        let pooled = self.pool(hidden, width);
        self.layers.iter().fold(pooled, |row, layer| layer.apply(&row))
    }

    fn pool(&self, hidden: &[f32], width: usize) -> Vec<f32> {
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
    /// `[in]` → `[out]`.
    fn apply(&self, x: &[f32]) -> Vec<f32> {
        assert_eq!(
            self.weight.len(),
            self.bias.len() * x.len(),
            "a dense layer with {} outputs got {} inputs",
            self.bias.len(),
            x.len()
        );
        let rows = self.weight.chunks_exact(x.len());
        rows.zip(&self.bias)
            .map(|(w, b)| {
                let y = dot(w, x) + b;
                match self.activation {
                    None => y,
                    Some(DenseActivation::Tanh) => y.tanh(),
                    Some(DenseActivation::Relu) => y.max(0.0),
                }
            })
            .collect()
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
