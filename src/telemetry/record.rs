//! What is known about one request while it runs: which model, how far it came, why it was refused.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Why a request was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// The queue had no room.
    QueueFull,
    /// A text has more tokens than the model takes, and truncation was refused.
    TooLong,
    /// Too many texts in one request.
    TooMany,
    /// The deadline passed first.
    Deadline,
    /// The client went away.
    Canceled,
    /// The request is malformed, or names an unknown model or task.
    Invalid,
    /// The server is shutting down.
    Draining,
    /// The key is missing or wrong.
    Auth,
}

impl Rejection {
    /// Every reason.
    pub const ALL: [Rejection; 8] = [
        Rejection::QueueFull,
        Rejection::TooLong,
        Rejection::TooMany,
        Rejection::Deadline,
        Rejection::Canceled,
        Rejection::Invalid,
        Rejection::Draining,
        Rejection::Auth,
    ];

    /// Value of the label `reason`.
    pub fn name(self) -> &'static str {
        match self {
            Rejection::QueueFull => "queue_full",
            Rejection::TooLong => "too_long",
            Rejection::TooMany => "too_many",
            Rejection::Deadline => "deadline",
            Rejection::Canceled => "canceled",
            Rejection::Invalid => "invalid",
            Rejection::Draining => "draining",
            Rejection::Auth => "auth",
        }
    }
}

/// One part of a request's time. The parts follow each other without a gap, so they add up to the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// From arrival until the token sequences stand in the queue: reading, parsing, tokenizing.
    Tokenize,
    /// Until a worker takes the first sequence.
    Queue,
    /// Until the last row is computed.
    Compute,
    /// Until the response is built.
    Postprocess,
}

impl Stage {
    /// Every stage, in the order of time.
    pub const ALL: [Stage; 4] = [Stage::Tokenize, Stage::Queue, Stage::Compute, Stage::Postprocess];

    /// Value of the label `stage`.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Tokenize => "tokenize",
            Stage::Queue => "queue",
            Stage::Compute => "compute",
            Stage::Postprocess => "postprocess",
        }
    }
}

/// When an answered request passed each border between stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The request came in.
    pub arrived: Instant,
    /// Its token sequences stood in the queue.
    pub prepared: Instant,
    /// A worker took the first of them.
    pub compute_start: Instant,
    /// The last row was computed.
    pub compute_end: Instant,
    /// The outputs were ready.
    pub finished: Instant,
}

impl Timing {
    /// Time in `stage`; the four add up to [`Timing::total`].
    pub fn stage(&self, stage: Stage) -> Duration {
        match stage {
            Stage::Tokenize => self.prepared - self.arrived,
            Stage::Queue => self.compute_start - self.prepared,
            Stage::Compute => self.compute_end - self.compute_start,
            Stage::Postprocess => self.finished - self.compute_end,
        }
    }

    /// From arrival to the outputs.
    pub fn total(&self) -> Duration {
        self.finished - self.arrived
    }
}

/// Follows one request. Clones share the same record; every mark is set at most once, the first one stays.
#[derive(Clone, Debug)]
pub struct RequestRecord(Arc<Marks>);

#[derive(Debug)]
struct Marks {
    arrived: Instant,
    prepared: OnceLock<Instant>,
    compute_start: OnceLock<Instant>,
    compute_end: OnceLock<Instant>,
    target: OnceLock<(String, &'static str)>,
    rejection: OnceLock<Rejection>,
}

impl RequestRecord {
    /// A request that came in at `arrived`.
    pub fn new(arrived: Instant) -> Self {
        RequestRecord(Arc::new(Marks {
            arrived,
            prepared: OnceLock::new(),
            compute_start: OnceLock::new(),
            compute_end: OnceLock::new(),
            target: OnceLock::new(),
            rejection: OnceLock::new(),
        }))
    }

    /// When the request came in.
    pub fn arrived(&self) -> Instant {
        self.0.arrived
    }

    /// Says which loaded model the request is for, and the name of the task.
    pub fn set_target(&self, model: &str, task: &'static str) {
        self.0.target.get_or_init(|| (model.to_string(), task));
    }

    /// The model, once it is known.
    pub fn model(&self) -> Option<&str> {
        self.0.target.get().map(|(model, _)| model.as_str())
    }

    /// The task, once the model is known.
    pub fn task(&self) -> Option<&'static str> {
        self.0.target.get().map(|(_, task)| *task)
    }

    /// Says why the request is not served.
    pub fn reject(&self, reason: Rejection) {
        self.0.rejection.get_or_init(|| reason);
    }

    /// Why the request was not served, if it was not.
    pub fn rejection(&self) -> Option<Rejection> {
        self.0.rejection.get().copied()
    }

    /// Ends `stage` at `now`. The last stage ends when the request does, so it cannot be ended here.
    pub fn end_stage(&self, stage: Stage, now: Instant) {
        let mark = match stage {
            Stage::Tokenize => &self.0.prepared,
            Stage::Queue => &self.0.compute_start,
            Stage::Compute => &self.0.compute_end,
            Stage::Postprocess => return,
        };
        mark.get_or_init(|| now);
    }

    /// The borders, when every stage but the last has ended; the last ends at `finished`.
    pub fn timing(&self, finished: Instant) -> Option<Timing> {
        let marks = &self.0;
        Some(Timing {
            arrived: marks.arrived,
            prepared: *marks.prepared.get()?,
            compute_start: *marks.compute_start.get()?,
            compute_end: *marks.compute_end.get()?,
            finished,
        })
    }

    /// Time in each stage that the request reached, when it ended at `end`. They add up to `end - arrived`.
    pub fn stages(&self, end: Instant) -> Vec<(Stage, Duration)> {
        let marks = [&self.0.prepared, &self.0.compute_start, &self.0.compute_end];
        let mut stages = Vec::with_capacity(Stage::ALL.len());
        let mut start = self.0.arrived;
        for (stage, mark) in Stage::ALL.into_iter().zip(marks.map(|m| m.get().copied()).into_iter().chain([None])) {
            let stop = mark.unwrap_or(end).min(end);
            stages.push((stage, stop.saturating_duration_since(start)));
            start = stop;
            if mark.is_none() {
                break;
            }
        }
        stages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stage_in_which_a_request_ends_takes_the_rest_of_its_time() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let ends = [(Stage::Tokenize, 3), (Stage::Queue, 5), (Stage::Compute, 11)];
        let expected: [&[u64]; 4] = [&[20], &[3, 17], &[3, 2, 15], &[3, 2, 6, 9]];
        for (reached, expected) in expected.into_iter().enumerate() {
            let record = RequestRecord::new(start);
            ends[..reached].iter().for_each(|(stage, ms)| record.end_stage(*stage, at(*ms)));
            let stages = record.stages(at(20));
            let times: Vec<_> = stages.iter().map(|(_, time)| time.as_millis() as u64).collect();
            assert_eq!(times, expected, "{reached} stages ended");
            assert!(stages.iter().map(|(stage, _)| *stage).eq(Stage::ALL[..=reached].iter().copied()));
            assert_eq!(record.timing(at(20)).is_some(), reached == 3);
        }
    }

    #[test]
    fn the_first_mark_stays() {
        let record = RequestRecord::new(Instant::now());
        record.reject(Rejection::Deadline);
        record.clone().reject(Rejection::Canceled);
        record.set_target("a", "classify");
        record.set_target("b", "embed");
        assert_eq!(record.rejection(), Some(Rejection::Deadline));
        assert_eq!((record.model(), record.task()), (Some("a"), Some("classify")));
    }
}
