//! Token ids → vectors: the sum of word, position and segment embeddings, normalized.

use candle_core::{Device, Result, Tensor};

use crate::architectures::{EncoderNames, EncoderSpec, RaggedBatch};
use crate::kernels::affine::Scheme;

use super::Parameters;
use super::fake_quantize::FakeQuantizeWeights;
use super::fused::Dropout;
use super::norm::LayerNorm;

/// The embedding layer of BERT and its descendants (Devlin et al. 2018, section 3).
#[derive(Clone, Debug)]
pub struct Embeddings {
    /// `[vocab_size, hidden]`.
    word: Tensor,
    /// `[max_positions, hidden]`.
    position: Tensor,
    /// `[type_vocab_size, hidden]`, in families that have it.
    token_type: Option<Tensor>,
    norm: LayerNorm,
    position_offset: usize,
    /// How rows of the tables are fake-quantized, when they are.
    scheme: Option<Scheme>,
}

impl Embeddings {
    /// Takes the tables and the norm from `parameters`.
    ///
    /// # Errors
    /// As [`Parameters::tensor`].
    pub fn load<P: Parameters>(
        spec: &EncoderSpec,
        names: &EncoderNames,
        parameters: &mut P,
    ) -> std::result::Result<Self, P::Error> {
        let width = spec.hidden_size;
        let word = parameters.tensor(&names.word_embeddings.weight, &[names.word_embeddings.rows, width])?;
        let position =
            parameters.tensor(&names.position_embeddings.weight, &[names.position_embeddings.rows, width])?;
        let token_type = match &names.token_type_embeddings {
            Some(table) => Some(parameters.tensor(&table.weight, &[table.rows, width])?),
            None => None,
        };
        let norm = LayerNorm::load(&names.embedding_norm, width, spec.layer_norm_eps, parameters)?;
        Ok(Embeddings {
            word,
            position,
            token_type,
            norm,
            position_offset: spec.position_offset,
            scheme: parameters.tables(),
        })
    }

    /// Puts another table in the place of the words, the positions or the segments, counted in this order.
    ///
    /// # Panics
    /// When there is no such table.
    pub fn replace(&mut self, index: usize, table: Tensor) {
        let tables = [Some(&mut self.word), Some(&mut self.position), self.token_type.as_mut()];
        *tables.into_iter().flatten().nth(index).expect("the encoder has this table") = table;
    }

    /// The word table, `[vocab_size, hidden]`.
    pub fn words(&self) -> &Tensor {
        &self.word
    }

    /// The tokens' rows of the word table, `[tokens, hidden]` → their embeddings, `[tokens, hidden]`.
    ///
    /// # Errors
    /// When a segment is outside its table, or a sequence is longer than the position table.
    pub fn forward(&self, batch: &RaggedBatch, words: &Tensor) -> Result<Tensor> {
        let offset = self.position_offset as u32;
        let positions: Vec<u32> = batch.ranges().flat_map(|r| (0..r.len() as u32).map(|i| i + offset)).collect();
        let stored = |rows: &Tensor| match self.scheme {
            Some(scheme) => rows.contiguous()?.apply_op1(FakeQuantizeWeights(scheme)),
            None => Ok(rows.clone()),
        };
        let rows = |table: &Tensor, ids: &[u32]| stored(&table.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?);
        let mut places = rows(&self.position, &positions)?;
        if let Some(table) = &self.token_type {
            places = (places + rows(table, &batch.type_ids)?)?;
        }
        self.norm.forward(&stored(words)?, &places, Dropout::NONE)
    }
}
