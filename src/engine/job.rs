//! One accepted request on its way through the compute threads, and its one answer.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use crate::pipelines::{Head, Row};
use crate::telemetry::{RequestRecord, Stage};
use crate::text::Encoding;

use super::EngineError;

/// What is to be computed for one request.
pub(super) struct JobSpec {
    /// Model id.
    pub model: String,
    /// Position of the encoder in the registry.
    pub encoder: usize,
    /// Turns hidden states into rows.
    pub head: Arc<Head>,
    /// At least one.
    pub sequences: Vec<Encoding>,
    /// Never computed after it.
    pub deadline: Option<Instant>,
    /// Follows the request.
    pub record: RequestRecord,
}

/// Rows of one request, one per sequence.
#[derive(Debug)]
pub(super) struct Computed {
    /// In the order of the sequences.
    pub rows: Vec<Row>,
    /// Sequences in the largest batch that held some of them.
    pub batch_inputs: usize,
}

/// An accepted request. Threads share it, since its sequences may run in several batches.
pub(super) struct Job {
    /// What is to be computed.
    pub spec: JobSpec,
    /// Tokens of each sequence.
    pub lengths: Vec<usize>,
    /// Answered, or given up by the caller: nothing more is computed.
    settled: AtomicBool,
    progress: Mutex<Progress>,
}

struct Progress {
    rows: Vec<Row>,
    missing: usize,
    batch_inputs: usize,
    /// Taken when the answer is sent, so that there is only one.
    reply: Option<oneshot::Sender<Result<Computed, EngineError>>>,
}

impl Job {
    /// A job, and where its answer will arrive.
    pub(super) fn new(spec: JobSpec) -> (Arc<Job>, oneshot::Receiver<Result<Computed, EngineError>>) {
        let (reply, answer) = oneshot::channel();
        let count = spec.sequences.len();
        let progress = Progress { rows: vec![Row::new(); count], missing: count, batch_inputs: 0, reply: Some(reply) };
        let lengths = spec.sequences.iter().map(Encoding::len).collect();
        let job = Job { spec, lengths, settled: AtomicBool::new(false), progress: Mutex::new(progress) };
        (Arc::new(job), answer)
    }

    /// Whether nothing more needs to be computed.
    pub(super) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// The caller no longer wants the answer; false when it was already given.
    pub(super) fn abandon(&self) -> bool {
        !self.settled.swap(true, Ordering::AcqRel)
    }

    /// Hands in the rows of the sequences in `range`; the last ones send the answer.
    pub(super) fn deliver(&self, range: Range<usize>, rows: Vec<Row>, batch_inputs: usize) {
        let mut progress = self.progress();
        progress.missing -= range.len();
        progress.rows[range].iter_mut().zip(rows).for_each(|(slot, row)| *slot = row);
        progress.batch_inputs = progress.batch_inputs.max(batch_inputs);
        if progress.missing == 0 {
            self.spec.record.end_stage(Stage::Compute, Instant::now());
            let computed = Computed { rows: std::mem::take(&mut progress.rows), batch_inputs: progress.batch_inputs };
            self.answer(progress, Ok(computed));
        }
    }

    /// Answers with an error, if there was no answer yet.
    pub(super) fn fail(&self, error: EngineError) {
        self.answer(self.progress(), Err(error));
    }

    fn answer(&self, mut progress: MutexGuard<'_, Progress>, answer: Result<Computed, EngineError>) {
        let reply = progress.reply.take();
        drop(progress);
        self.settled.store(true, Ordering::Release);
        if let Some(reply) = reply {
            // The caller may have gone away meanwhile; then nobody wants the answer.
            drop(reply.send(answer));
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Some sequences of one request in the hands of a thread. If the thread fails to hand in their rows, the request is
/// answered with an error.
pub(super) struct Portion {
    /// The request.
    pub job: Arc<Job>,
    /// Which of its sequences.
    pub range: Range<usize>,
}

impl Portion {
    /// Tokenized sequences.
    pub(super) fn sequences(&self) -> &[Encoding] {
        &self.job.spec.sequences[self.range.clone()]
    }

    /// Hands in the rows.
    pub(super) fn deliver(mut self, rows: Vec<Row>, batch_inputs: usize) {
        let range = std::mem::take(&mut self.range);
        self.job.deliver(range, rows, batch_inputs);
    }
}

impl Drop for Portion {
    fn drop(&mut self) {
        if !self.range.is_empty() && !self.job.is_settled() {
            let reason = "a compute thread gave the request up".to_string();
            self.job.fail(EngineError::Backend { reason });
        }
    }
}
