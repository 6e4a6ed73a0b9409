//! The thread that takes answers from the line, and the one of the lowest priority that computes their originals.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use thread_priority::unix::{NormalThreadSchedulePolicy, ThreadSchedulePolicy};
use thread_priority::{ThreadPriority, set_thread_priority_and_policy, thread_native_id};

use crate::architectures::{EncoderWorkspace, RaggedBatch};
use crate::pipelines::{Model, Row, SequenceModel};
use crate::telemetry::{Metrics, ShadowDrop};
use crate::text::Encoding;

use super::compare::compare;
use super::{Line, Pair, Queue};

/// Pause while requests wait for a compute thread, before looking again.
const COURTESY: Duration = Duration::from_millis(5);

/// Compares one answer after the other. Sleeps most of the time, so its priority does not matter; it is an ordinary one, as
/// it takes locks that those who answer take too.
pub(super) struct Keeper {
    pub pairs: Vec<Pair>,
    pub line: Arc<Line>,
    pub queue: Arc<Queue>,
    pub metrics: Arc<Metrics>,
    /// Share of the time that the originals may compute, above 0.
    pub budget: f64,
}

impl Keeper {
    pub(super) fn start(self) {
        let thread = std::thread::Builder::new().name("octet-shadow".into());
        thread.spawn(move || self.run()).expect("the operating system gives the process a thread for the shadow");
    }

    fn run(self) {
        let originals = Originals::start(self.pairs.iter().map(|pair| pair.original.clone()).collect());
        while let Some(sample) = self.line.next() {
            if !self.until_quiet() {
                return self.line.drop_sample(&sample, ShadowDrop::Draining);
            }
            let started = Instant::now();
            let row = originals.compute(sample.pair, &sample.sequence);
            let busy = started.elapsed();
            self.metrics.shadow_busy(busy);
            let served = &self.pairs[sample.pair].served;
            match row.and_then(|row| compare(served, &sample.row, &row)) {
                Some(comparison) => self.metrics.shadow_compared(&served.info.id, comparison),
                None => {
                    tracing::error!(model = served.info.id, "the float original failed; the answer was not compared");
                    self.line.drop_sample(&sample, ShadowDrop::Failed);
                }
            }
            self.line.rest(busy.mul_f64(1.0 / self.budget - 1.0));
        }
    }

    /// Waits until no request waits; false when the line is closed first.
    fn until_quiet(&self) -> bool {
        while self.queue.is_waited_in() {
            if !self.line.rest(COURTESY) {
                return false;
            }
        }
        true
    }
}

/// The float originals, on a thread of the lowest priority.
struct Originals {
    orders: Sender<(usize, RaggedBatch)>,
    /// None for one that panicked.
    rows: Receiver<Option<Row>>,
}

impl Originals {
    fn start(models: Vec<Arc<Model>>) -> Self {
        let (orders, taken) = channel::<(usize, RaggedBatch)>();
        let (done, rows) = channel();
        let thread = std::thread::Builder::new().name("octet-original".into());
        let run = move || {
            // Threads that an executor starts from here inherit it.
            lower_priority();
            let mut workspaces: Vec<Option<EncoderWorkspace>> = models.iter().map(|_| None).collect();
            for (index, batch) in taken {
                let model = sequence_model(&models[index]);
                let compute = || {
                    let workspace = workspaces[index].get_or_insert_with(|| model.encoder.workspace());
                    model.rows(&batch, workspace).pop()
                };
                let row = catch_unwind(AssertUnwindSafe(compute)).unwrap_or_else(|_| {
                    // What the panic may have left half written.
                    workspaces[index] = None;
                    None
                });
                if done.send(row).is_err() {
                    return;
                }
            }
        };
        thread.spawn(run).expect("the operating system gives the process a thread for the float originals");
        Originals { orders, rows }
    }

    /// The row of one sequence; none when it could not be computed.
    fn compute(&self, model: usize, sequence: &Encoding) -> Option<Row> {
        let mut batch = RaggedBatch::new();
        batch.push(&sequence.ids, &sequence.type_ids);
        self.orders.send((model, batch)).ok()?;
        self.rows.recv().ok()?
    }
}

/// What computes the rows of a model.
fn sequence_model(model: &Model) -> &SequenceModel {
    let classifier = model.classifier.as_ref().map(|classifier| &classifier.model);
    classifier.or(model.embedder.as_ref().map(|embedder| &embedder.model)).expect("a model classifies or embeds")
}

/// The calling thread runs when nothing else wants a CPU (`SCHED_IDLE`).
fn lower_priority() {
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle) {
        tracing::warn!(?error, "the shadow runs at the ordinary priority, which its budget still limits");
    }
}
