//! A batch of sequences of different lengths, without padding.

/// Token ids of several sequences, one after another. No padding exists anywhere in Octet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaggedBatch {
    /// Token ids of all sequences, `[tokens]`.
    pub ids: Vec<u32>,
    /// Segment of each token (0, or 1 for the second text of a pair), `[tokens]`.
    pub type_ids: Vec<u32>,
    /// Where each sequence starts in `ids`, and the total: `[sequences + 1]`, first entry 0.
    pub starts: Vec<usize>,
}

impl RaggedBatch {
    /// An empty batch.
    pub fn new() -> Self {
        RaggedBatch { ids: Vec::new(), type_ids: Vec::new(), starts: vec![0] }
    }

    /// Appends one sequence.
    ///
    /// # Panics
    /// When `ids` and `type_ids` differ in length.
    pub fn push(&mut self, ids: &[u32], type_ids: &[u32]) {
        assert_eq!(ids.len(), type_ids.len(), "a sequence needs one type id per token");
        if self.starts.is_empty() {
            self.starts.push(0);
        }
        self.ids.extend_from_slice(ids);
        self.type_ids.extend_from_slice(type_ids);
        self.starts.push(self.ids.len());
    }

    /// Empties the batch, keeping its memory.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.type_ids.clear();
        self.starts.clear();
        self.starts.push(0);
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Whether there is no sequence.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of tokens over all sequences.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// The token range of each sequence, in order.
    pub fn ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        self.starts.windows(2).map(|w| w[0]..w[1])
    }
}
