//! The texts of a measurement and their token ids.

use std::path::Path;

use anyhow::Context;
use sha2::{Digest, Sha256};

use crate::architectures::RaggedBatch;
use crate::data::read_examples;
use crate::pipelines::Model;

/// Tokens that are kept of a text, special ones included, when the model takes as many.
const MAX_TOKENS: usize = 256;

/// Texts in the order in which they arrive.
pub(super) struct Texts {
    pub(super) texts: Vec<String>,
    /// The ids of each text, special tokens included.
    pub(super) ids: RaggedBatch,
    /// Tokens that are kept of a text at most.
    pub(super) max_tokens: usize,
}

impl Texts {
    /// Reads and tokenizes the texts of a file.
    pub(super) fn read(file: &Path, model: &Model) -> anyhow::Result<Self> {
        let texts: Vec<String> = read_examples(file)?.into_iter().map(|e| e.text).collect();
        let max_tokens = model.encoder().spec().max_tokens().min(MAX_TOKENS);
        let mut ids = RaggedBatch::new();
        for (number, text) in texts.iter().enumerate() {
            let place = || format!("{}: text {}", file.display(), number + 1);
            let encoding = model.tokenizer.encode(text, None, max_tokens).with_context(place)?;
            ids.push(&encoding.ids, &encoding.type_ids);
        }
        Ok(Texts { texts, ids, max_tokens })
    }
}

/// SHA-256 in hex over the ids of all sequences in order, each as little-endian u32: rows with the same digest, here or
/// in another program, ran the same ids.
pub(super) fn ids_sha256(ids: &[u32]) -> String {
    let mut hasher = Sha256::new();
    ids.iter().for_each(|id| hasher.update(id.to_le_bytes()));
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checked with Python: `hashlib.sha256(struct.pack("<3I", 101, 2023, 102)).hexdigest()`.
    #[test]
    fn the_digest_of_ids_is_that_of_their_little_endian_bytes() {
        assert_eq!(ids_sha256(&[101, 2023, 102]), "58a16091d39a173663666ac0c27c79c75077984191084d9fcf9d763b84d97e59");
        assert_ne!(ids_sha256(&[101, 2023]), ids_sha256(&[101, 102, 2023]));
    }
}
