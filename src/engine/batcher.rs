//! Which sequences run next. A pure function of what waits, the time and the limits; no locks, no clocks, no threads.
//!
//! Batches are ragged, so a batch costs the sum of its tokens. Three rules:
//!
//! - **Turns.** Requests take turns in the order they came. In its turn a request gives at most a quarter of a batch
//!   (but at least one sequence); when all had a turn and there is room, a new round begins. A request that was served
//!   and still waits goes to the end of the line (the queue does that), so a text of a thousand sentences delays the
//!   others by a part of one batch and never starves them, nor they it. A request of up to a quarter of a batch runs
//!   whole, in the order of arrival.
//! - **Idle threads share.** With several threads idle, each takes its share of what waits and not everything, as long
//!   as the share is worth a run. One request with many texts then uses every core.
//! - **Waiting is the exception.** When nothing else runs, what is there runs at once: company could only come at
//!   the price of an idle machine. Only while another thread computes may a batch that is not full wait, `max_wait`
//!   at most, counted from its oldest request; the default of 0 never waits, since requests that arrive while all
//!   threads are busy form a batch by themselves.

use std::time::{Duration, Instant};

use crate::telemetry::Trigger;

/// Tokens below which a batch is not split between idle threads: a smaller matrix product would spend its time on
/// reading weights.
const MIN_SHARE_TOKENS: usize = 128;

/// How large and how old a batch may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Most tokens in a batch; a single longer sequence runs alone.
    pub max_batch_tokens: usize,
    /// Longest wait for company.
    pub max_wait: Duration,
}

/// What the compute threads do at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Threads {
    /// Threads without work, the asking one included; at least 1.
    pub idle: usize,
    /// Threads that compute.
    pub busy: usize,
}

/// One request in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting<'a> {
    /// Which encoder it needs.
    pub encoder: usize,
    /// When it came.
    pub since: Instant,
    /// Tokens of each sequence that no thread has taken yet, in order; at least one.
    pub lengths: &'a [usize],
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Compute these sequences together.
    Run(Picks),
    /// Nothing to do before this time, unless another request comes.
    WaitUntil(Instant),
    /// Nothing waits.
    Idle,
}

/// One batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Picks {
    /// The encoder that runs.
    pub encoder: usize,
    /// Position in line, and how many sequences from the front of `lengths`; by position.
    pub requests: Vec<(usize, usize)>,
    /// Sum over all sequences.
    pub tokens: usize,
    /// Why now.
    pub trigger: Trigger,
}

/// Decides what a thread that has nothing to do should do at `now`; `waiting` is the line, first come first.
pub(super) fn plan(waiting: &[Waiting<'_>], now: Instant, threads: Threads, limits: &Limits) -> Plan {
    let mut seen = Vec::new();
    let mut wake: Option<Instant> = None;
    for encoder in waiting.iter().map(|w| w.encoder) {
        if seen.contains(&encoder) {
            continue;
        }
        seen.push(encoder);
        let line: Vec<_> = waiting.iter().enumerate().filter(|(_, w)| w.encoder == encoder).collect();
        let (picks, full) = pick(encoder, &line, threads.idle, limits);
        let oldest = line.iter().map(|(_, w)| w.since).min().expect("an encoder seen in line has a request");
        let until = oldest + limits.max_wait;
        if full || threads.busy == 0 || until <= now {
            let trigger = match () {
                () if full => Trigger::Full,
                () if threads.busy == 0 || limits.max_wait.is_zero() => Trigger::Idle,
                () => Trigger::Wait,
            };
            return Plan::Run(Picks { trigger, ..picks });
        }
        wake = Some(wake.map_or(until, |w| w.min(until)));
    }
    wake.map_or(Plan::Idle, Plan::WaitUntil)
}

/// Takes turns over `line` until the batch is full or nothing is left; also says whether it is as full as can be.
fn pick(encoder: usize, line: &[(usize, &Waiting<'_>)], idle: usize, limits: &Limits) -> (Picks, bool) {
    let max = limits.max_batch_tokens;
    let budget = share(line, idle, max);
    let turn_tokens = max.div_ceil(4);
    let mut taken = vec![0; line.len()];
    let mut tokens = 0;
    let left_over = loop {
        let before = tokens;
        let mut left_over = false;
        for ((_, request), taken) in line.iter().zip(&mut taken) {
            let mut turn = 0;
            while let Some(length) = request.lengths.get(*taken) {
                let fits = tokens == 0 || tokens + length <= budget;
                if !fits || (turn > 0 && turn + length > turn_tokens) {
                    left_over = true;
                    break;
                }
                *taken += 1;
                turn += length;
                tokens += length;
            }
        }
        if tokens == before || tokens >= budget {
            break left_over;
        }
    };
    let requests = line.iter().zip(&taken).filter(|(_, taken)| **taken > 0).map(|((at, _), taken)| (*at, *taken));
    let picks = Picks { encoder, requests: requests.collect(), tokens, trigger: Trigger::Idle };
    (picks, tokens >= max || (left_over && budget == max))
}

/// The part of what waits that one of `idle` threads takes, in tokens.
fn share(line: &[(usize, &Waiting<'_>)], idle: usize, max: usize) -> usize {
    if idle <= 1 {
        return max;
    }
    let mut waiting = 0;
    for (_, request) in line {
        // No need to count on once every idle thread can fill a batch.
        for length in request.lengths {
            waiting += length;
            if waiting >= idle * max {
                return max;
            }
        }
    }
    waiting.div_ceil(idle).max(MIN_SHARE_TOKENS).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        name: &'static str,
        /// Encoder, age in milliseconds, sequence lengths.
        waiting: &'static [(usize, u64, &'static [usize])],
        threads: Threads,
        limits: Limits,
        /// Encoder, (position, count), tokens, trigger; or the time to wake in milliseconds from now; or idle.
        expected: Expected,
    }

    #[derive(Clone, Copy)]
    enum Expected {
        Run(usize, &'static [(usize, usize)], usize, Trigger),
        WakeIn(u64),
        Idle,
    }

    const ALONE: Threads = Threads { idle: 1, busy: 0 };
    const LAST_IDLE: Threads = Threads { idle: 1, busy: 1 };
    const TWO_IDLE: Threads = Threads { idle: 2, busy: 0 };

    const fn limits(max_batch_tokens: usize, max_wait_ms: u64) -> Limits {
        Limits { max_batch_tokens, max_wait: Duration::from_millis(max_wait_ms) }
    }

    #[test]
    fn plan_follows_the_table() {
        use Expected::*;
        let cases = [
            Case { name: "empty line", waiting: &[], threads: ALONE, limits: limits(64, 0), expected: Idle },
            Case {
                name: "one short request runs at once",
                waiting: &[(0, 0, &[7])],
                threads: ALONE,
                limits: limits(64, 5),
                expected: Run(0, &[(0, 1)], 7, Trigger::Idle),
            },
            Case {
                name: "a request waits for company while another thread computes",
                waiting: &[(0, 2, &[7])],
                threads: LAST_IDLE,
                limits: limits(64, 5),
                expected: WakeIn(3),
            },
            Case {
                name: "but not when the wait is 0",
                waiting: &[(0, 2, &[7])],
                threads: LAST_IDLE,
                limits: limits(64, 0),
                expected: Run(0, &[(0, 1)], 7, Trigger::Idle),
            },
            Case {
                name: "the wait is counted from the oldest and ends",
                waiting: &[(0, 5, &[7]), (0, 1, &[9])],
                threads: LAST_IDLE,
                limits: limits(64, 5),
                expected: Run(0, &[(0, 1), (1, 1)], 16, Trigger::Wait),
            },
            Case {
                name: "a full batch does not wait",
                waiting: &[(0, 0, &[40]), (0, 0, &[24])],
                threads: LAST_IDLE,
                limits: limits(64, 5),
                expected: Run(0, &[(0, 1), (1, 1)], 64, Trigger::Full),
            },
            Case {
                name: "what does not fit stays, what fits behind it goes along",
                waiting: &[(0, 0, &[40]), (0, 0, &[30]), (0, 0, &[20])],
                threads: ALONE,
                limits: limits(64, 0),
                expected: Run(0, &[(0, 1), (2, 1)], 60, Trigger::Full),
            },
            Case {
                name: "a sequence longer than the budget runs alone",
                waiting: &[(0, 0, &[100]), (0, 0, &[8])],
                threads: ALONE,
                limits: limits(64, 0),
                expected: Run(0, &[(0, 1)], 100, Trigger::Full),
            },
            Case {
                name: "a huge request leaves room for the small ones behind it",
                waiting: &[(0, 9, &[8; 100]), (0, 0, &[8]), (0, 0, &[8, 8])],
                threads: ALONE,
                limits: limits(64, 0),
                // 2 (a quarter of 64) + 1 + 2 in the first round, then what is left of the batch in turns.
                expected: Run(0, &[(0, 5), (1, 1), (2, 2)], 64, Trigger::Full),
            },
            Case {
                name: "two huge requests get equal parts",
                waiting: &[(0, 9, &[8; 100]), (0, 0, &[8; 100])],
                threads: ALONE,
                limits: limits(64, 0),
                expected: Run(0, &[(0, 4), (1, 4)], 64, Trigger::Full),
            },
            Case {
                name: "encoders never mix; the first in line goes first",
                waiting: &[(1, 0, &[8]), (0, 3, &[8]), (1, 0, &[9])],
                threads: ALONE,
                limits: limits(64, 0),
                expected: Run(1, &[(0, 1), (2, 1)], 17, Trigger::Idle),
            },
            Case {
                name: "an encoder that waits does not hold up one that is full",
                waiting: &[(0, 1, &[8]), (1, 0, &[64])],
                threads: LAST_IDLE,
                limits: limits(64, 5),
                expected: Run(1, &[(1, 1)], 64, Trigger::Full),
            },
            Case {
                name: "the earliest wake-up of all encoders counts",
                waiting: &[(0, 1, &[8]), (1, 4, &[8])],
                threads: LAST_IDLE,
                limits: limits(64, 5),
                expected: WakeIn(1),
            },
            Case {
                name: "idle threads share one large request",
                waiting: &[(0, 0, &[100; 8])],
                threads: TWO_IDLE,
                limits: limits(4096, 0),
                expected: Run(0, &[(0, 4)], 400, Trigger::Idle),
            },
            Case {
                name: "what is too small to share is not split",
                waiting: &[(0, 0, &[16; 8])],
                threads: TWO_IDLE,
                limits: limits(4096, 0),
                expected: Run(0, &[(0, 8)], 128, Trigger::Idle),
            },
            Case {
                name: "idle threads take whole batches when there is enough for all",
                waiting: &[(0, 0, &[64; 100])],
                threads: TWO_IDLE,
                limits: limits(1024, 0),
                expected: Run(0, &[(0, 16)], 1024, Trigger::Full),
            },
        ];
        let now = Instant::now() + Duration::from_secs(60);
        for case in cases {
            let request = |(encoder, age, lengths): &(usize, u64, &'static [usize])| Waiting {
                encoder: *encoder,
                since: now - Duration::from_millis(*age),
                lengths,
            };
            let waiting: Vec<_> = case.waiting.iter().map(request).collect();
            let expected = match case.expected {
                Run(encoder, requests, tokens, trigger) => {
                    Plan::Run(Picks { encoder, requests: requests.to_vec(), tokens, trigger })
                }
                WakeIn(ms) => Plan::WaitUntil(now + Duration::from_millis(ms)),
                Idle => Plan::Idle,
            };
            assert_eq!(plan(&waiting, now, case.threads, &case.limits), expected, "{}", case.name);
        }
    }

    #[test]
    fn batches_stay_within_the_budget_and_take_from_the_front() {
        // A plain pseudo-random walk over shapes; the seed is fixed.
        let mut seed = 7u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % below
        };
        let now = Instant::now();
        for round in 0..500 {
            let lengths: Vec<Vec<usize>> =
                (0..1 + random(12)).map(|_| (0..1 + random(20)).map(|_| 1 + random(100) as usize).collect()).collect();
            let waiting: Vec<_> =
                lengths.iter().map(|l| Waiting { encoder: random(2) as usize, since: now, lengths: l }).collect();
            let threads = Threads { idle: 1 + random(3) as usize, busy: 0 };
            let limits = limits(1 + random(300) as usize, 0);
            let Plan::Run(picks) = plan(&waiting, now, threads, &limits) else { panic!("round {round}: work waits") };
            let tokens: usize = picks.requests.iter().map(|(at, n)| lengths[*at][..*n].iter().sum::<usize>()).sum();
            let sequences: usize = picks.requests.iter().map(|(_, n)| n).sum();
            assert_eq!(picks.tokens, tokens, "round {round}");
            assert!(tokens <= limits.max_batch_tokens || sequences == 1, "round {round}: {picks:?}");
            assert!(picks.requests.iter().all(|(at, _)| waiting[*at].encoder == picks.encoder), "round {round}");
            assert_eq!(picks.requests[0].0, 0, "round {round}: the first in line always gets a turn");
        }
    }
}
