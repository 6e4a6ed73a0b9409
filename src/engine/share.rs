//! One sequence that idle compute threads help with.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
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
    pub team: Arc<EncoderTeam>,
}

/// The teams a thread has led, by encoder and size: their memory is used again.
#[derive(Default)]
pub(super) struct Teams(HashMap<(usize, usize), Arc<EncoderTeam>>);

impl Teams {
    /// A team of `members` for the sequence of `batch`; none when the encoder cannot split one.
    pub(super) fn share(
        &mut self,
        encoder: &dyn Encoder,
        index: usize,
        batch: &RaggedBatch,
        members: usize,
    ) -> Option<Arc<Share>> {
        let team = match self.0.entry((index, members)) {
            Entry::Occupied(team) => team.get().clone(),
            Entry::Vacant(place) => place.insert(Arc::new(encoder.team(members)?)).clone(),
        };
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
