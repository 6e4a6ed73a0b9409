//! Token ids → vectors: the sum of word, position and segment embeddings, normalized.

use candle_core::{Device, Result, Tensor};

use crate::architectures::{EncoderNames, EncoderSpec};

use super::Parameters;
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
        Ok(Embeddings { word, position, token_type, norm, position_offset: spec.position_offset })
    }

    /// Puts another table in the place of the words, the positions or the segments, counted in this order.
    ///
    /// # Panics
    /// When there is no such table.
    pub fn replace(&mut self, index: usize, table: Tensor) {
        let tables = [Some(&mut self.word), Some(&mut self.position), self.token_type.as_mut()];
        *tables.into_iter().flatten().nth(index).expect("the encoder has this table") = table;
    }

    /// Ids and segments of one sequence, `[tokens]` each → `[tokens, hidden]`.
    ///
    /// # Errors
    /// When an id or a segment is outside its table, or the sequence is longer than the position table.
    pub fn forward(&self, ids: &[u32], type_ids: &[u32]) -> Result<Tensor> {
        let words = self.word.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
        let mut sum = (words + self.position.narrow(0, self.position_offset, ids.len())?)?;
        if let Some(table) = &self.token_type {
            sum = (sum + table.index_select(&Tensor::new(type_ids, &Device::Cpu)?, 0)?)?;
        }
        self.norm.forward(&sum)
    }
}
