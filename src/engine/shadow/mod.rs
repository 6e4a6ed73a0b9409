//! Some answers beside those of the float originals, aside from everything that answers.
//!
//! An answer that is chosen by lot goes, as token ids and the row that was served, into a short line; when that is full it
//! is dropped and counted. The `keeper`, a thread that mostly sleeps, takes one at a time, when no request waits for a compute
//! thread and its budget of time allows, and has it computed by a thread of the lowest priority. That thread shares no
//! lock with anyone who answers, so whatever it does, or fails to do, nobody waits for it.

mod compare;
mod keeper;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::ShadowSettings;
use crate::pipelines::{Model, Row};
use crate::telemetry::{Metrics, ShadowDrop};
use crate::text::Encoding;

use super::job::Job;
use super::queue::Queue;

pub(super) use compare::kind;

use keeper::Keeper;

/// A served model beside the float model it was made from.
#[derive(Clone)]
pub(super) struct Pair {
    pub served: Arc<Model>,
    pub original: Arc<Model>,
}

/// One served answer that is to be compared.
struct Sample {
    /// Position of the pair.
    pair: usize,
    sequence: Encoding,
    /// What the served model computed.
    row: Row,
}

/// Where answers are handed in.
pub(super) struct Shadow {
    /// Position of the pair by model id.
    pairs: HashMap<String, usize>,
    lot: Lot,
    line: Arc<Line>,
}

impl Shadow {
    /// Starts the two threads.
    ///
    /// # Panics
    /// When the operating system refuses a thread.
    pub(super) fn start(
        pairs: Vec<Pair>,
        settings: &ShadowSettings,
        queue: Arc<Queue>,
        metrics: Arc<Metrics>,
    ) -> Shadow {
        let by_id = pairs.iter().enumerate().map(|(at, pair)| (pair.served.info.id.clone(), at)).collect();
        let line = Arc::new(Line {
            limit: settings.max_queue_inputs,
            models: pairs.iter().map(|pair| pair.served.info.id.clone()).collect(),
            metrics: metrics.clone(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        Keeper { pairs, line: line.clone(), queue, metrics, budget: settings.budget.value() }.start();
        Shadow { pairs: by_id, lot: Lot::new(settings.rate.value()), line }
    }

    /// Draws lots among the answers of a request, and takes those that win. Never waits for a comparison.
    pub(super) fn offer(&self, job: &Job, rows: &[Row]) {
        let Some(&pair) = self.pairs.get(&job.spec.model) else { return };
        let finite = |row: &Row| row.iter().all(|x| x.is_finite());
        for (sequence, row) in job.spec.sequences.iter().zip(rows) {
            if self.lot.wins() && finite(row) {
                self.line.push(Sample { pair, sequence: sequence.clone(), row: row.clone() });
            }
        }
    }

    /// Drops what waits, and takes nothing more.
    pub(super) fn close(&self) {
        self.line.close();
    }
}

/// Says yes at random with a fixed probability: a counter, hashed with keys of this process.
struct Lot {
    /// Hashes up to here win; none when none do.
    limit: Option<u64>,
    hasher: RandomState,
    drawn: AtomicU64,
}

impl Lot {
    /// `rate` is the probability, 0..=1, in steps of 2^-53 or coarser.
    fn new(rate: f64) -> Self {
        // The cast saturates, so that a rate of 1 always wins.
        let limit = (rate > 0.0).then_some((rate * u64::MAX as f64) as u64);
        Lot { limit, hasher: RandomState::new(), drawn: AtomicU64::new(0) }
    }

    fn wins(&self) -> bool {
        let Some(limit) = self.limit else { return false };
        self.hasher.hash_one(self.drawn.fetch_add(1, Ordering::Relaxed)) <= limit
    }
}

/// Answers that wait for their comparison.
struct Line {
    /// Most answers.
    limit: usize,
    /// Model ids by position of the pair.
    models: Vec<String>,
    metrics: Arc<Metrics>,
    state: Mutex<LineState>,
    /// Signalled when an answer came, or the line was closed.
    changed: Condvar,
}

#[derive(Default)]
struct LineState {
    waiting: VecDeque<Sample>,
    closed: bool,
}

impl Line {
    fn push(&self, sample: Sample) {
        let mut state = self.state();
        let refused = match () {
            () if state.closed => Some(ShadowDrop::Draining),
            () if state.waiting.len() >= self.limit => Some(ShadowDrop::QueueFull),
            () => None,
        };
        if let Some(reason) = refused {
            drop(state);
            return self.drop_sample(&sample, reason);
        }
        state.waiting.push_back(sample);
        self.metrics.shadow_waiting(state.waiting.len());
        drop(state);
        self.changed.notify_one();
    }

    /// Waits for the next answer; none when the line is closed.
    fn next(&self) -> Option<Sample> {
        let waits = |state: &mut LineState| state.waiting.is_empty() && !state.closed;
        let mut state = self.changed.wait_while(self.state(), waits).unwrap_or_else(PoisonError::into_inner);
        let sample = state.waiting.pop_front();
        self.metrics.shadow_waiting(state.waiting.len());
        sample
    }

    /// Does nothing for `time`, or until the line is closed; says whether it is still open.
    fn rest(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut state = self.state();
        while !state.closed {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        !state.closed
    }

    fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let left = std::mem::take(&mut state.waiting);
        self.metrics.shadow_waiting(0);
        drop(state);
        self.changed.notify_all();
        left.iter().for_each(|sample| self.drop_sample(sample, ShadowDrop::Draining));
    }

    fn drop_sample(&self, sample: &Sample, reason: ShadowDrop) {
        self.metrics.shadow_dropped(&self.models[sample.pair], reason);
    }

    fn state(&self) -> MutexGuard<'_, LineState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lots_win_as_often_as_the_rate_says() {
        let wins = |rate: f64| {
            let lot = Lot::new(rate);
            (0..100_000).filter(|_| lot.wins()).count()
        };
        assert_eq!((wins(0.0), wins(1.0)), (0, 100_000));
        // Six standard deviations.
        assert!(wins(0.01).abs_diff(1000) < 190, "{}", wins(0.01));
        assert!(wins(0.5).abs_diff(50_000) < 950, "{}", wins(0.5));
    }
}
