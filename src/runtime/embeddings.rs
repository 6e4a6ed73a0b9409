//! Token ids → the first hidden states.

use std::ops::Range;

use crate::architectures::{EncoderNames, EncoderSpec, RaggedBatch, TableName};
use crate::checkpoint::{CheckpointError, Weights};
use crate::kernels::LayerNorm;

use super::matrix::{int8_rows, vector};

/// Word, position and token-type tables in int8 with one scale per row, and the norm after their sum.
pub(super) struct Embeddings {
    word: Table,
    position: Table,
    token_type: Option<Table>,
    pub(super) norm: Norm,
    position_offset: usize,
}

/// Gain and shift of a layer norm.
pub(super) struct Norm {
    gamma: Vec<f32>,
    beta: Vec<f32>,
    eps: f32,
}

struct Table {
    /// `[rows, hidden]`.
    values: Vec<i8>,
    /// `[rows]`.
    scale: Vec<f32>,
}

impl Embeddings {
    pub(super) fn load(
        spec: &EncoderSpec,
        names: &EncoderNames,
        weights: &mut Weights,
    ) -> Result<Self, CheckpointError> {
        let mut table = |name: &TableName| Table::load(name, spec.hidden_size, weights);
        Ok(Embeddings {
            word: table(&names.word_embeddings)?,
            position: table(&names.position_embeddings)?,
            token_type: names.token_type_embeddings.as_ref().map(table).transpose()?,
            norm: Norm::load(&names.embedding_norm, spec, weights)?,
            position_offset: spec.position_offset,
        })
    }

    /// The sums of the table rows for the tokens at some positions of a sequence, not yet normalized,
    /// `[positions, hidden]`.
    ///
    /// # Panics
    /// When an id is outside its table, or the sequence is longer than the position table.
    pub(super) fn lookup(&self, batch: &RaggedBatch, sequence: usize, positions: Range<usize>, out: &mut [f32]) {
        let start = batch.starts[sequence];
        for (position, row) in positions.zip(out.chunks_exact_mut(self.norm.gamma.len())) {
            self.word.write(batch.ids[start + position] as usize, row);
            self.position.add(self.position_offset + position, row);
            if let Some(table) = &self.token_type {
                table.add(batch.type_ids[start + position] as usize, row);
            }
        }
    }

    /// Bytes held as (int8, f32).
    pub(super) fn bytes(&self) -> (u64, u64) {
        let tables = [Some(&self.word), Some(&self.position), self.token_type.as_ref()];
        let norm = self.norm.bytes();
        tables.into_iter().flatten().fold((0, norm), |(int8, f32), table| {
            (int8 + table.values.len() as u64, f32 + 4 * table.scale.len() as u64)
        })
    }
}

impl Norm {
    pub(super) fn load(
        names: &crate::architectures::NormNames,
        spec: &EncoderSpec,
        weights: &mut Weights,
    ) -> Result<Self, CheckpointError> {
        Ok(Norm {
            gamma: vector(weights, &names.weight, spec.hidden_size)?,
            beta: vector(weights, &names.bias, spec.hidden_size)?,
            eps: spec.layer_norm_eps,
        })
    }

    pub(super) fn get(&self) -> LayerNorm<'_> {
        LayerNorm { gamma: &self.gamma, beta: &self.beta, eps: self.eps }
    }

    pub(super) fn bytes(&self) -> u64 {
        4 * (self.gamma.len() + self.beta.len()) as u64
    }
}

impl Table {
    fn load(name: &TableName, width: usize, weights: &mut Weights) -> Result<Self, CheckpointError> {
        let (values, scale) = int8_rows(weights.take(&name.weight, &[name.rows, width])?);
        Ok(Table { values, scale })
    }

    fn write(&self, index: usize, row: &mut [f32]) {
        let (values, scale) = self.row(index, row.len());
        row.iter_mut().zip(values).for_each(|(x, q)| *x = f32::from(*q) * scale);
    }

    fn add(&self, index: usize, row: &mut [f32]) {
        let (values, scale) = self.row(index, row.len());
        row.iter_mut().zip(values).for_each(|(x, q)| *x += f32::from(*q) * scale);
    }

    fn row(&self, index: usize, width: usize) -> (&[i8], f32) {
        (&self.values[index * width..(index + 1) * width], self.scale[index])
    }
}
