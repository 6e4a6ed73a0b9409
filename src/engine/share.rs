//! One sequence that idle compute threads help with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::architectures::{Encoder, EncoderTeam, RaggedBatch};

use super::queue::Queue;

/// Tokens for each thread that computes a sequence together with others; with fewer, waking it takes longer than its
/// part.
const TOKENS_PER_MEMBER: usize = 4;

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
    pub members: usize,
    pub team: Arc<EncoderTeam>,
}

/// The teams that compute nothing at the moment: whoever leads the next one uses their memory again.
#[derive(Default)]
pub(super) struct Teams(Mutex<Free>);

/// Teams by encoder and size.
type Free = HashMap<(usize, usize), Vec<Arc<EncoderTeam>>>;

impl Teams {
    /// A team of `members` for the sequence of `batch`; none when the encoder cannot split one.
    pub(super) fn share(
        &self,
        encoder: &dyn Encoder,
        index: usize,
        batch: &RaggedBatch,
        members: usize,
    ) -> Option<Arc<Share>> {
        let free = self.free().get_mut(&(index, members)).and_then(Vec::pop);
        let team = match free {
            Some(team) => team,
            None => Arc::new(encoder.team(members)?),
        };
        Some(Arc::new(Share { encoder: index, batch: batch.clone(), members, team }))
    }

    /// The sequence of `share` has been computed. Not to be said when a member panicked: its team is of no more use.
    pub(super) fn put_back(&self, share: &Share) {
        self.free().entry((share.encoder, share.members)).or_default().push(share.team.clone());
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
