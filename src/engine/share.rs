//! One sequence that idle compute threads help with.

use std::sync::Arc;

use crate::architectures::{Encoder, EncoderTeam, RaggedBatch};

use super::queue::Queue;

/// Tokens for each thread that computes a sequence together with others; with fewer, waking it takes longer than its
/// part.
const TOKENS_PER_MEMBER: usize = 8;

/// How many threads may compute a batch together; more than one only for a sequence alone. Several sequences are
/// divided between threads before they are batches.
pub(super) fn most_members(batch: &RaggedBatch) -> usize {
    if batch.len() == 1 { batch.tokens() / TOKENS_PER_MEMBER } else { 1 }
}

/// A sequence and the team that computes it. The thread that took the sequence is member 0.
pub(super) struct Share {
    /// Position in the registry.
    pub encoder: usize,
    /// One sequence.
    pub batch: RaggedBatch,
    pub team: EncoderTeam,
}

impl Share {
    /// None when the encoder cannot split a sequence.
    pub(super) fn new(encoder: &dyn Encoder, index: usize, batch: &RaggedBatch, members: usize) -> Option<Arc<Share>> {
        let team = encoder.team(members)?;
        Some(Arc::new(Share { encoder: index, batch: batch.clone(), team }))
    }
}

/// What an invited thread takes up. It counts as busy from the invitation until this is dropped.
pub(super) struct Invitation {
    pub share: Arc<Share>,
    pub member: usize,
    pub queue: Arc<Queue>,
}

impl Drop for Invitation {
    fn drop(&mut self) {
        self.queue.end_invitation();
    }
}
