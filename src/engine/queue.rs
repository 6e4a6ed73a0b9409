//! The line of accepted requests, bounded in tokens. Full is an answer, and so is closed.
//!
//! A request is admitted as a whole or not at all. It is charged for its waiting tokens, but for no more than half
//! of the bound: so the largest request that the server reads still fits into an empty queue, and while it waits
//! there is room for others. The lock is held for bookkeeping only, never while anything is computed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::telemetry::{Metrics, Stage, Trigger};

use super::EngineError;
use super::batcher::{Limits, Picks, Plan, Threads, Waiting, plan};
use super::job::{Job, Portion};
use super::seat::Seat;
use super::share::{Invitation, Share};

/// Bounds for [`EngineError::Overloaded`]'s advice.
const RETRY_AFTER: std::ops::RangeInclusive<f64> = 1.0..=60.0;

/// Weight of the newest batch in the measured speed.
const SPEED_SMOOTHING: f64 = 0.2;

pub(super) struct Queue {
    limits: Limits,
    max_tokens: usize,
    threads: usize,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    line: VecDeque<Entry>,
    /// What the requests in line are charged for, in tokens.
    charged: usize,
    /// Tokens in line.
    tokens: usize,
    busy: usize,
    closed: bool,
    /// Threads that wait for work and were not called yet; the last one has waited least, so it is called first.
    free: Vec<Arc<Seat>>,
    /// For threads that were called.
    invitations: Vec<Invitation>,
    /// Tokens per second of one thread, measured; 0 before the first batch.
    speed: f64,
}

struct Entry {
    job: Arc<Job>,
    since: Instant,
    /// The first sequence that no thread has taken.
    next: usize,
    /// Tokens of the sequences from there on.
    tokens: usize,
}

impl Entry {
    fn lengths(&self) -> &[usize] {
        &self.job.lengths[self.next..]
    }
}

/// What a thread does next.
pub(super) enum Work {
    /// Sequences of its own.
    Batch(Batch),
    /// Some rows of another thread's sequence.
    Share(Invitation),
}

/// Sequences for one run of one encoder. The thread that took it counts as busy until it is dropped.
pub(super) struct Batch {
    queue: Arc<Queue>,
    started: Instant,
    /// Position in the registry.
    pub encoder: usize,
    /// By request.
    pub portions: Vec<Portion>,
    /// Tokens that were really computed, for the measured speed; set by the worker.
    pub computed_tokens: usize,
    /// Why it runs now.
    pub trigger: Trigger,
}

impl Drop for Batch {
    fn drop(&mut self) {
        let speed = self.computed_tokens as f64 / self.started.elapsed().as_secs_f64().max(1e-6);
        let mut state = self.queue.state();
        state.busy -= 1;
        if self.computed_tokens == 0 {
            return;
        }
        state.speed = match state.speed {
            0.0 => speed,
            old => old + SPEED_SMOOTHING * (speed - old),
        };
    }
}

impl Queue {
    pub(super) fn new(limits: Limits, max_tokens: usize, threads: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        let state = State::default();
        Arc::new(Queue { limits, max_tokens, threads, metrics, state: Mutex::new(state) })
    }

    /// Refuses early, before a request is tokenized, what could not be admitted anyway.
    pub(super) fn check_room(&self) -> Result<(), EngineError> {
        let state = self.state();
        self.room_for(1, &state)
    }

    /// Puts a request at the end of the line.
    ///
    /// # Errors
    /// [`EngineError::Overloaded`] when it does not fit, [`EngineError::Draining`] when the queue is closed.
    pub(super) fn submit(&self, job: Arc<Job>, now: Instant) -> Result<(), EngineError> {
        let tokens: usize = job.lengths.iter().sum();
        let mut state = self.state();
        if state.closed {
            return Err(EngineError::Draining);
        }
        self.room_for(tokens, &state)?;
        job.spec.record.end_stage(Stage::Tokenize, now);
        self.metrics.queue_changed(&job.spec.model, job.lengths.len() as i64, tokens as i64);
        state.charged += self.charge(tokens);
        state.tokens += tokens;
        state.line.push_back(Entry { job, since: now, next: 0, tokens });
        self.call_one(state);
        Ok(())
    }

    /// Whether requests wait for a thread.
    pub(super) fn is_waited_in(&self) -> bool {
        !self.state().line.is_empty()
    }

    /// Takes a request whose caller has gone, or that has failed, out of the line.
    pub(super) fn remove(&self, job: &Arc<Job>) {
        let mut state = self.state();
        if let Some(at) = state.line.iter().position(|e| Arc::ptr_eq(&e.job, job)) {
            self.remove_at(&mut state, at);
        }
    }

    /// Waits for work; none when the queue is closed.
    pub(super) fn take(self: &Arc<Self>) -> Option<Work> {
        let mut state = self.state();
        loop {
            // Before all else, also when closed: another thread waits for this one.
            if let Some(invitation) = state.invitations.pop() {
                return Some(Work::Share(invitation));
            }
            if state.closed {
                return None;
            }
            let now = Instant::now();
            self.expire(&mut state, now);
            let threads = Threads { idle: self.threads.saturating_sub(state.busy).max(1), busy: state.busy };
            let waiting: Vec<_> = state
                .line
                .iter()
                .map(|e| Waiting { encoder: e.job.spec.encoder, since: e.since, lengths: e.lengths() })
                .collect();
            let next = plan(&waiting, now, threads, &self.limits);
            state = match next {
                Plan::Run(picks) => {
                    let batch = self.start(&mut state, picks, now);
                    if !state.line.is_empty() {
                        self.call_one(state);
                    }
                    return Some(Work::Batch(batch));
                }
                Plan::WaitUntil(time) => self.wait(state, Some(time.saturating_duration_since(now))),
                Plan::Idle => self.wait(state, None),
            };
        }
    }

    /// Asks threads that wait for work to join the calling one, `most` members together. `share` makes what they work
    /// on. None when nobody is there to join, or others wait for a thread.
    pub(super) fn invite(
        self: &Arc<Self>,
        most: usize,
        share: impl FnOnce(usize) -> Option<Arc<Share>>,
    ) -> Option<Arc<Share>> {
        let mut state = self.state();
        let members = most.min(state.free.len() + 1);
        if members < 2 || !state.line.is_empty() || state.closed {
            return None;
        }
        let share = share(members)?;
        for member in 1..members {
            state.busy += 1;
            state.invitations.push(Invitation { share: share.clone(), member, queue: self.clone() });
        }
        let left = state.free.len() + 1 - members;
        let called = state.free.split_off(left);
        drop(state);
        called.iter().for_each(|seat| seat.call());
        Some(share)
    }

    /// An invited thread is free again.
    pub(super) fn end_invitation(&self) {
        self.state().busy -= 1;
    }

    /// Waits until there may be work, no longer than `pause`.
    fn wait<'a>(&'a self, mut state: MutexGuard<'a, State>, pause: Option<Duration>) -> MutexGuard<'a, State> {
        let seat = Seat::take();
        state.free.push(seat.clone());
        drop(state);
        seat.wait(pause);
        let mut state = self.state();
        // It is still there when nobody called.
        state.free.retain(|other| !Arc::ptr_eq(other, &seat));
        state
    }

    /// Calls a thread that waits for work, if there is one. A thread that does not wait looks at the line before it does.
    fn call_one(&self, mut state: MutexGuard<'_, State>) {
        let seat = state.free.pop();
        drop(state);
        seat.iter().for_each(|seat| seat.call());
    }

    /// Admits and hands out nothing more, and answers every request in line with [`EngineError::Draining`].
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        while !state.line.is_empty() {
            let job = self.remove_at(&mut state, 0);
            job.fail(EngineError::Draining);
        }
        let called = std::mem::take(&mut state.free);
        drop(state);
        called.iter().for_each(|seat| seat.call());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn charge(&self, tokens: usize) -> usize {
        tokens.min(self.max_tokens / 2)
    }

    fn room_for(&self, tokens: usize, state: &State) -> Result<(), EngineError> {
        if state.line.is_empty() || state.charged + self.charge(tokens) <= self.max_tokens {
            return Ok(());
        }
        let speed = state.speed * self.threads as f64;
        let seconds = if speed > 0.0 { state.tokens as f64 / speed } else { 0.0 };
        let seconds = seconds.ceil().clamp(*RETRY_AFTER.start(), *RETRY_AFTER.end());
        Err(EngineError::Overloaded { retry_after: Duration::from_secs_f64(seconds) })
    }

    /// Answers requests whose deadline has passed.
    fn expire(&self, state: &mut State, now: Instant) {
        let mut at = 0;
        while at < state.line.len() {
            if state.line[at].job.spec.deadline.is_some_and(|deadline| deadline <= now) {
                let job = self.remove_at(state, at);
                job.fail(EngineError::Deadline);
            } else {
                at += 1;
            }
        }
    }

    /// Hands out the picked sequences; requests with more to come go to the end of the line.
    fn start(self: &Arc<Self>, state: &mut State, picks: Picks, now: Instant) -> Batch {
        let mut portions = Vec::with_capacity(picks.requests.len());
        let mut unfinished = Vec::new();
        for (at, count) in picks.requests.iter().rev() {
            let mut entry = state.line.remove(*at).expect("a plan picks from the line");
            let range = entry.next..entry.next + count;
            let tokens: usize = entry.job.lengths[range.clone()].iter().sum();
            self.metrics.queue_changed(&entry.job.spec.model, -(*count as i64), -(tokens as i64));
            state.charged -= self.charge(entry.tokens);
            state.tokens -= tokens;
            entry.next = range.end;
            entry.tokens -= tokens;
            entry.job.spec.record.end_stage(Stage::Queue, now);
            portions.push(Portion { job: entry.job.clone(), range });
            if entry.next < entry.job.lengths.len() {
                state.charged += self.charge(entry.tokens);
                unfinished.push(entry);
            }
        }
        portions.reverse();
        state.line.extend(unfinished.into_iter().rev());
        state.busy += 1;
        let Picks { encoder, trigger, .. } = picks;
        Batch { queue: self.clone(), started: now, encoder, portions, computed_tokens: 0, trigger }
    }

    fn remove_at(&self, state: &mut State, at: usize) -> Arc<Job> {
        let entry = state.line.remove(at).expect("the caller found it there");
        let inputs = entry.lengths().len() as i64;
        self.metrics.queue_changed(&entry.job.spec.model, -inputs, -(entry.tokens as i64));
        state.charged -= self.charge(entry.tokens);
        state.tokens -= entry.tokens;
        entry.job
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architectures::Pooling;
    use crate::engine::job::JobSpec;
    use crate::pipelines::Head;
    use crate::telemetry::RequestRecord;
    use crate::text::Encoding;

    fn queue(max_batch_tokens: usize, max_tokens: usize, threads: usize) -> Arc<Queue> {
        let limits = Limits { max_batch_tokens, max_wait: Duration::ZERO };
        Queue::new(limits, max_tokens, threads, Arc::new(Metrics::new(&[])))
    }

    /// A job with `count` sequences of `length` tokens.
    fn job(count: usize, length: usize) -> Arc<Job> {
        let sequence = Encoding { ids: vec![1; length], type_ids: vec![0; length], truncated: false };
        let spec = JobSpec {
            model: "m".into(),
            encoder: 0,
            head: Arc::new(Head { pooling: Pooling::Cls, layers: Vec::new() }),
            sequences: vec![sequence; count],
            deadline: None,
            record: RequestRecord::new(Instant::now()),
        };
        Job::new(spec).0
    }

    /// Takes one batch and computes nothing; gives the ranges of each job in it.
    fn take(queue: &Arc<Queue>, jobs: &[&Arc<Job>]) -> Vec<(usize, std::ops::Range<usize>)> {
        let Some(Work::Batch(batch)) = queue.take() else { panic!("a batch waits") };
        let index = |p: &Portion| jobs.iter().position(|j| Arc::ptr_eq(j, &p.job)).expect("a known job");
        batch.portions.iter().map(|p| (index(p), p.range.clone())).collect()
    }

    #[test]
    fn nobody_is_invited_who_does_not_sleep() {
        let queue = queue(16, 1000, 2);
        assert!(queue.invite(2, |_| panic!("nobody sleeps")).is_none());
    }

    #[test]
    fn a_served_request_with_more_to_come_goes_to_the_end_of_the_line() {
        let queue = queue(16, 1000, 1);
        // A turn is one sequence and a batch four, so the fifth request must wait for the second batch, no longer.
        let jobs: Vec<_> = (0..5).map(|_| job(2, 4)).collect();
        for job in &jobs {
            queue.submit(job.clone(), Instant::now()).unwrap();
        }
        let jobs: Vec<_> = jobs.iter().collect();
        assert_eq!(take(&queue, &jobs), [(0, 0..1), (1, 0..1), (2, 0..1), (3, 0..1)]);
        assert_eq!(take(&queue, &jobs), [(4, 0..1), (0, 1..2), (1, 1..2), (2, 1..2)]);
        assert_eq!(take(&queue, &jobs), [(3, 1..2), (4, 1..2)]);
        let state = queue.state();
        assert_eq!((state.charged, state.tokens, state.busy, state.line.len()), (0, 0, 0, 0));
    }

    #[test]
    fn one_request_is_charged_for_at_most_half_of_the_bound() {
        let queue = queue(16, 100, 1);
        queue.submit(job(100, 4), Instant::now()).unwrap();
        queue.submit(job(100, 4), Instant::now()).unwrap();
        assert!(matches!(queue.submit(job(1, 1), Instant::now()), Err(EngineError::Overloaded { .. })));
        assert!(matches!(queue.check_room(), Err(EngineError::Overloaded { .. })));
    }

    #[test]
    fn the_advice_when_to_try_again_is_queued_tokens_by_measured_speed() {
        for (speed, seconds) in [(0.0, 1), (1e9, 1), (50.0, 4), (51.0, 4), (1.0, 60)] {
            let queue = queue(16, 400, 2);
            queue.state().speed = speed;
            queue.submit(job(100, 4), Instant::now()).unwrap();
            queue.state().charged = 400;
            let expected = EngineError::Overloaded { retry_after: Duration::from_secs(seconds) };
            assert_eq!(queue.submit(job(1, 1), Instant::now()), Err(expected), "{speed} tokens/s and thread");
        }
    }

    #[test]
    fn a_closed_queue_refuses_and_hands_out_nothing() {
        let queue = queue(16, 100, 1);
        let waiting = job(1, 4);
        queue.submit(waiting.clone(), Instant::now()).unwrap();
        queue.close();
        assert!(waiting.is_settled());
        assert_eq!(queue.submit(job(1, 4), Instant::now()), Err(EngineError::Draining));
        assert!(queue.take().is_none());
    }
}
