//! A compute thread: takes a batch, runs the encoder once and each request's own head, hands in the rows.
//!
//! A panic costs one batch: its requests are run again one by one, so that only the guilty one is answered with an
//! error. What the panic may have left half written, the workspace, is thrown away.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::architectures::{EncoderWorkspace, RaggedBatch};
use crate::pipelines::Row;
use crate::telemetry::Metrics;

use super::job::Portion;
use super::queue::{Batch, Queue, Work};
use super::share::{Invitation, Share, Teams, most_members};
use super::{EngineError, Registry};

/// What every compute thread needs.
pub(super) struct Worker {
    pub registry: Registry,
    pub queue: Arc<Queue>,
    pub metrics: Arc<Metrics>,
    pub teams: Arc<Teams>,
    pub max_batch_tokens: usize,
}

/// Reused between batches, whatever their encoder.
#[derive(Default)]
struct Memory {
    /// Made when it is first needed.
    workspace: Option<EncoderWorkspace>,
    batch: RaggedBatch,
    /// Hidden states of a sequence that was computed together.
    hidden: Vec<f32>,
}

/// A run of the encoder or a head panicked.
struct Panicked;

impl Worker {
    /// Computes until the queue is closed.
    pub(super) fn run(&self) {
        let mut memory = Memory::default();
        while let Some(work) = self.queue.take() {
            let run = || match work {
                Work::Batch(batch) => self.run_batch(batch, &mut memory),
                Work::Share(invitation) => self.run_share(&invitation, &mut memory),
            };
            // Panics of encoders and heads are caught inside, for each request; this one is for faults of our own, of
            // which the unwinding answers the requests, and for shares, whose first member answers.
            if catch_unwind(AssertUnwindSafe(run)).is_err() {
                memory = Memory::default();
                self.metrics.worker_restarted();
            }
        }
    }

    fn run_share(&self, invitation: &Invitation, memory: &mut Memory) {
        let Share { encoder: index, batch, team, .. } = &*invitation.share;
        let encoder = &self.registry.encoders()[*index].encoder;
        let workspace = memory.workspace.get_or_insert_with(|| encoder.workspace());
        encoder.forward_together(batch, team, invitation.member, workspace, &mut memory.hidden);
    }

    fn run_batch(&self, mut batch: Batch, memory: &mut Memory) {
        let index = batch.encoder;
        let encoder = &self.registry.encoders()[index];
        let mut portions = std::mem::take(&mut batch.portions);
        portions.retain(|p| !p.job.is_settled());
        if portions.is_empty() {
            return;
        }
        let inputs: usize = portions.iter().map(|p| p.range.len()).sum();
        let tokens: usize = portions.iter().flat_map(|p| p.sequences()).map(|s| s.len()).sum();
        let done = match self.compute(index, &portions, memory) {
            Err(Panicked) if portions.len() > 1 => {
                let alone = |portion| {
                    let portion = vec![portion];
                    let rows = self.compute(index, &portion, memory);
                    (portion, rows)
                };
                portions.into_iter().map(alone).collect::<Vec<_>>()
            }
            rows => vec![(portions, rows)],
        };
        // Who has an answer finds its batch counted, and the thread idle.
        self.metrics.batch(&encoder.model, batch.trigger, inputs, tokens, self.max_batch_tokens);
        batch.computed_tokens = tokens;
        drop(batch);
        for (portions, rows) in done {
            match rows {
                Ok(rows) => hand_in(portions, rows, inputs),
                Err(Panicked) => self.give_up(portions),
            }
        }
    }

    /// One row per sequence, portion after portion.
    fn compute(&self, index: usize, portions: &[Portion], memory: &mut Memory) -> Result<Vec<Row>, Panicked> {
        let encoder = &self.registry.encoders()[index];
        let done = catch_unwind(AssertUnwindSafe(|| self.rows(index, portions, memory)));
        done.map_err(|_| {
            let model = match portions {
                [only] => &only.job.spec.model,
                _ => &encoder.model,
            };
            self.metrics.panic_caught(model);
            self.metrics.worker_restarted();
            *memory = Memory::default();
            Panicked
        })
    }

    fn rows(&self, index: usize, portions: &[Portion], memory: &mut Memory) -> Vec<Row> {
        let Memory { workspace, batch, hidden } = memory;
        let encoder = &self.registry.encoders()[index].encoder;
        let workspace = workspace.get_or_insert_with(|| encoder.workspace());
        batch.clear();
        for sequence in portions.iter().flat_map(|p| p.sequences()) {
            batch.push(&sequence.ids, &sequence.type_ids);
        }
        let width = encoder.spec().hidden_size;
        let mut heads = portions.iter().flat_map(|p| std::iter::repeat_n(&p.job.spec.head, p.range.len()));
        let mut pooled = Vec::with_capacity(batch.len());
        let mut pool = |hidden: &[f32]| {
            let head = heads.next().expect("every sequence of the batch is of a portion");
            pooled.push(head.pool(hidden, width));
        };
        let share = |members| self.teams.share(encoder.as_ref(), index, batch, members);
        match self.queue.invite(most_members(batch), share) {
            Some(share) => {
                encoder.forward_together(batch, &share.team, 0, workspace, hidden);
                self.teams.put_back(&share);
                pool(hidden);
            }
            None => encoder.forward_each(batch, workspace, &mut pool),
        }
        let mut pooled = pooled.into_iter();
        let same_head = portions.chunk_by(|a, b| Arc::ptr_eq(&a.job.spec.head, &b.job.spec.head));
        let rows = same_head.flat_map(|portions| {
            let count = portions.iter().map(|p| p.range.len()).sum();
            portions[0].job.spec.head.apply_dense(pooled.by_ref().take(count).collect())
        });
        rows.collect()
    }

    fn give_up(&self, portions: Vec<Portion>) {
        for portion in portions {
            let reason = format!("panic in the encoder or a head, model {:?}", portion.job.spec.model);
            portion.job.fail(EngineError::Backend { reason });
            self.queue.remove(&portion.job);
        }
    }
}

fn hand_in(portions: Vec<Portion>, rows: Vec<Row>, batch_inputs: usize) {
    let mut rows = rows.into_iter();
    for portion in portions {
        let own = rows.by_ref().take(portion.range.len()).collect();
        portion.deliver(own, batch_inputs);
    }
}
