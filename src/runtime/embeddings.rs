//! Token ids → the first hidden states.

use std::ops::Range;

use crate::architectures::{EncoderNames, EncoderSpec, RaggedBatch, TableName};
use crate::checkpoint::{CheckpointError, Weights};
use crate::kernels::{Kernels, LayerNorm};

use super::matrix::{Table, vector};

/// Word, position and token-type tables, and the norm after their sum.
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
    pub(super) fn lookup(
        &self,
        kernels: Kernels,
        batch: &RaggedBatch,
        sequence: usize,
        positions: Range<usize>,
        out: &mut [f32],
    ) {
        let (width, index) = (self.norm.gamma.len(), |id: &u32| *id as usize);
        let start = batch.starts[sequence];
        let tokens = start + positions.start..start + positions.end;
        self.word.gather::<false>(kernels, batch.ids[tokens.clone()].iter().map(index), width, out);
        let positions = self.position_offset + positions.start..self.position_offset + positions.end;
        self.position.gather::<true>(kernels, positions, width, out);
        if let Some(table) = &self.token_type {
            table.gather::<true>(kernels, batch.type_ids[tokens].iter().map(index), width, out);
        }
    }

    /// Bytes held as (int8, f32).
    pub(super) fn bytes(&self) -> (u64, u64) {
        let tables = [Some(&self.word), Some(&self.position), self.token_type.as_ref()];
        let norm = self.norm.bytes();
        tables.into_iter().flatten().map(Table::bytes).fold((0, norm), |sum, table| (sum.0 + table.0, sum.1 + table.1))
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
