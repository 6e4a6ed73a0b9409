//! Token ids → vectors: the sum of word, position and segment embeddings, normalized.

use candle_core::{Device, Result, Tensor};

use crate::architectures::{EncoderNames, EncoderSpec, RaggedBatch, TableName};
use crate::kernels::affine::{Granularity, Scheme};

use super::Parameters;
use super::fake_quantize::{FakeQuantizeWeights, StraightThrough};
use super::fused::Dropout;
use super::norm::LayerNorm;

/// The embedding layer of BERT and its descendants (Devlin et al. 2018, section 3).
#[derive(Clone, Debug)]
pub struct Embeddings {
    /// `[vocab_size, hidden]`.
    word: Table,
    /// `[max_positions, hidden]`.
    position: Table,
    /// `[type_vocab_size, hidden]`, in families that have it.
    token_type: Option<Table>,
    norm: LayerNorm,
    position_offset: usize,
}

/// One table, and how its rows are fake-quantized, when they are.
#[derive(Clone, Debug)]
struct Table {
    rows: Tensor,
    scheme: Option<Scheme>,
}

impl Table {
    fn load<P: Parameters>(name: &TableName, width: usize, parameters: &mut P) -> std::result::Result<Self, P::Error> {
        let (rows, scheme) = parameters.table(name, width)?;
        Ok(Table { rows, scheme })
    }

    /// The rows `ids`.
    fn select(&self, ids: &[u32]) -> Result<Tensor> {
        self.rows.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)
    }

    /// What is stored of the rows `ids`, whose values are `rows`.
    fn stored(&self, rows: &Tensor, ids: &[u32]) -> Result<Tensor> {
        let Some(scheme) = self.scheme else { return Ok(rows.clone()) };
        let rows = rows.contiguous()?;
        if scheme.granularity != Granularity::Tensor {
            return rows.apply_op1(FakeQuantizeWeights(scheme));
        }
        // The scale is that of all rows.
        let whole = self.rows.contiguous()?.apply_op1_no_bwd(&FakeQuantizeWeights(scheme))?;
        rows.apply_op2(&whole.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?, StraightThrough)
    }
}

impl Embeddings {
    /// Takes the tables and the norm from `parameters`.
    ///
    /// # Errors
    /// As [`Parameters::table`].
    pub fn load<P: Parameters>(
        spec: &EncoderSpec,
        names: &EncoderNames,
        parameters: &mut P,
    ) -> std::result::Result<Self, P::Error> {
        let width = spec.hidden_size;
        let word = Table::load(&names.word_embeddings, width, parameters)?;
        let position = Table::load(&names.position_embeddings, width, parameters)?;
        let token_type = match &names.token_type_embeddings {
            Some(table) => Some(Table::load(table, width, parameters)?),
            None => None,
        };
        let norm = LayerNorm::load(&names.embedding_norm, width, spec.layer_norm_eps, parameters)?;
        Ok(Embeddings { word, position, token_type, norm, position_offset: spec.position_offset })
    }

    /// Puts another table in the place of the words, the positions or the segments, counted in this order.
    ///
    /// # Panics
    /// When there is no such table.
    pub fn replace(&mut self, index: usize, table: Tensor) {
        let tables = [Some(&mut self.word), Some(&mut self.position), self.token_type.as_mut()];
        tables.into_iter().flatten().nth(index).expect("the encoder has this table").rows = table;
    }

    /// The word table, `[vocab_size, hidden]`.
    pub fn words(&self) -> &Tensor {
        &self.word.rows
    }

    /// The tokens' rows of the word table, `[tokens, hidden]` → their embeddings, `[tokens, hidden]`.
    ///
    /// # Errors
    /// When a segment is outside its table, or a sequence is longer than the position table.
    pub fn forward(&self, batch: &RaggedBatch, words: &Tensor) -> Result<Tensor> {
        let offset = self.position_offset as u32;
        let positions: Vec<u32> = batch.ranges().flat_map(|r| (0..r.len() as u32).map(|i| i + offset)).collect();
        let rows = |table: &Table, ids: &[u32]| table.stored(&table.select(ids)?, ids);
        let mut places = rows(&self.position, &positions)?;
        if let Some(table) = &self.token_type {
            places = (places + rows(table, &batch.type_ids)?)?;
        }
        self.norm.forward(&self.word.stored(words, &batch.ids)?, &places, Dropout::NONE)
    }
}
