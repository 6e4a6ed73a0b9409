//! Times of work on threads that stay between rounds, woken as a server wakes its workers.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{ScopedJoinHandle, Thread};
use std::time::{Duration, Instant};

use super::metrics::quantile;

/// Looks at a counter before a waiting thread parks: some tens of microseconds.
const SPINS: usize = 2_000;
/// How long a parked thread sleeps at most before it looks whether the others still live.
const NAP: Duration = Duration::from_millis(5);
/// The number of the round after the last.
const END: usize = usize::MAX;

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Rounds begin until so much time has gone by.
    pub duration: Duration,
    /// Rounds there are in any case.
    pub at_least: usize,
    /// Whether a tenth of the duration, at least one round, comes before, unmeasured.
    pub warm_up: bool,
}

/// Seconds of several runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Times {
    sorted: Vec<f64>,
}

impl Times {
    /// The runs in any order.
    pub fn new(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        Times { sorted: seconds }
    }

    /// Takes over the runs of `other`.
    pub fn extend(&mut self, other: Times) {
        self.sorted.extend(other.sorted);
        self.sorted.sort_by(f64::total_cmp);
    }

    /// Seconds of a run on average: what waiting for a CPU took counts in full.
    pub fn mean(&self) -> f64 {
        self.sorted.iter().sum::<f64>() / self.sorted.len() as f64
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        quantile(&self.sorted, 0.5)
    }

    /// What 10 % of the runs stay below.
    pub fn p10(&self) -> f64 {
        quantile(&self.sorted, 0.1)
    }

    /// What 90 % of the runs stay below.
    pub fn p90(&self) -> f64 {
        quantile(&self.sorted, 0.9)
    }

    /// The shortest.
    pub fn least(&self) -> f64 {
        quantile(&self.sorted, 0.0)
    }

    /// How many there are.
    pub fn runs(&self) -> usize {
        self.sorted.len()
    }
}

impl Budget {
    /// Runs and times `round`, which returns its own seconds.
    fn spend(self, mut round: impl FnMut() -> f64) -> Times {
        let began = Instant::now();
        if self.warm_up {
            round();
            while began.elapsed() < self.duration / 10 {
                round();
            }
        }
        let (began, mut seconds) = (Instant::now(), Vec::new());
        while seconds.len() < self.at_least || began.elapsed() < self.duration {
            seconds.push(round());
        }
        Times::new(seconds)
    }
}

/// Rounds in which all threads do their part of one piece of work: a round's time is from before they are woken until
/// the last is done. `make(index)` runs on thread `index` and gives what that thread does in each round; `prepare` runs
/// before each round and is not counted.
///
/// # Panics
/// When the work does.
pub fn together<W: FnMut()>(
    threads: usize,
    budget: Budget,
    prepare: impl Fn(),
    make: impl Fn(usize) -> W + Sync,
) -> Times {
    on_team(threads, make, |team, work| {
        budget.spend(|| {
            prepare();
            let began = Instant::now();
            team.round(&mut *work);
            began.elapsed().as_secs_f64()
        })
    })
}

/// Every thread does the work of `make` by itself, again and again, while the others do; the times of each, in no
/// order.
///
/// # Panics
/// When the work does.
pub fn apart<W: FnMut()>(threads: usize, budget: Budget, make: impl Fn(usize) -> W + Sync) -> Vec<Times> {
    let times = Mutex::new(Vec::new());
    let make = |index| {
        let mut work = make(index);
        let times = &times;
        move || {
            let found = budget.spend(|| {
                let began = Instant::now();
                work();
                began.elapsed().as_secs_f64()
            });
            times.lock().expect("no thread panics with the times").push(found);
        }
    };
    on_team(threads, make, |team, work| team.round(work));
    times.into_inner().expect("no thread panics with the times")
}

/// Items that threads take one after the other.
#[derive(Debug, Default)]
pub struct Queue {
    next: AtomicUsize,
}

impl Queue {
    /// Begins again at item 0.
    pub fn restart(&self) {
        self.next.store(0, Ordering::Relaxed);
    }

    /// The next item of `items` that nobody has.
    pub fn take<'a, T>(&self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// The threads beside the calling one, which leads.
struct Team<'scope, 'a> {
    signal: &'a Signal,
    helpers: Vec<ScopedJoinHandle<'scope, ()>>,
}

#[derive(Default)]
struct Signal {
    /// The round that helpers shall run.
    round: AtomicUsize,
    /// Helpers that have run it.
    done: AtomicUsize,
}

/// Runs `lead` with a team of `threads` (this one included) and this thread's own work.
fn on_team<W: FnMut(), R>(
    threads: usize,
    make: impl Fn(usize) -> W + Sync,
    lead: impl FnOnce(&Team, &mut W) -> R,
) -> R {
    let (signal, leader, make) = (Signal::default(), std::thread::current(), &make);
    std::thread::scope(|scope| {
        let (signal, leader) = (&signal, &leader);
        let helper = |index| scope.spawn(move || help(signal, leader, make(index)));
        let team = Team { signal, helpers: (1..threads).map(helper).collect() };
        lead(&team, &mut make(0))
    })
}

/// What a helper does: its part of each round until the last.
fn help(signal: &Signal, leader: &Thread, mut work: impl FnMut()) {
    let mut round = 0;
    loop {
        wait_until(|| signal.round.load(Ordering::Acquire) != round, || ());
        round = signal.round.load(Ordering::Acquire);
        if round == END {
            return;
        }
        work();
        signal.done.fetch_add(1, Ordering::Release);
        leader.unpark();
    }
}

impl Team<'_, '_> {
    /// All do their part once; returns when the last has.
    fn round(&self, mut work: impl FnMut()) {
        self.signal.done.store(0, Ordering::Relaxed);
        self.signal.round.fetch_add(1, Ordering::Release);
        self.wake();
        work();
        let alive = || assert!(self.helpers.iter().all(|h| !h.is_finished()), "a thread of the team panicked");
        wait_until(|| self.signal.done.load(Ordering::Acquire) == self.helpers.len(), alive);
    }

    fn wake(&self) {
        self.helpers.iter().for_each(|helper| helper.thread().unpark());
    }
}

impl Drop for Team<'_, '_> {
    fn drop(&mut self) {
        self.signal.round.store(END, Ordering::Release);
        self.wake();
    }
}

/// Spins a little, then parks; whoever changes the condition unparks. `check` runs after each nap.
fn wait_until(condition: impl Fn() -> bool, check: impl Fn()) {
    for _ in 0..SPINS {
        if condition() {
            return;
        }
        std::hint::spin_loop();
    }
    while !condition() {
        std::thread::park_timeout(NAP);
        check();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: Budget = Budget { duration: Duration::ZERO, at_least: 3, warm_up: true };

    #[test]
    fn every_thread_works_once_in_each_round() {
        for threads in [1, 2, 5] {
            let (prepared, worked) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let prepare = || {
                let rounds = prepared.fetch_add(1, Ordering::SeqCst);
                assert_eq!(worked.load(Ordering::SeqCst), threads * rounds, "a round began before the last ended");
            };
            let times = together(threads, THREE, prepare, |_| || _ = worked.fetch_add(1, Ordering::SeqCst));
            // One round is the warm-up.
            assert_eq!((times.runs(), prepared.into_inner(), worked.into_inner()), (3, 4, 4 * threads));
        }
    }

    #[test]
    fn threads_on_their_own_are_timed_each() {
        let times = apart(3, THREE, |index| move || std::thread::sleep(Duration::from_millis(index as u64)));
        assert_eq!(times.iter().map(Times::runs).collect::<Vec<_>>(), [3, 3, 3]);
        assert!(times.iter().any(|t| t.least() >= 2e-3));
    }

    #[test]
    fn a_queue_gives_each_item_once() {
        let (queue, items) = (Queue::default(), [5, 6]);
        assert_eq!([queue.take(&items), queue.take(&items), queue.take(&items)], [Some(&5), Some(&6), None]);
        queue.restart();
        assert_eq!(queue.take(&items), Some(&5));
    }

    #[test]
    fn a_panic_in_a_thread_ends_the_measurement() {
        for culprit in 0..2 {
            let panics = |index| move || assert_ne!(index, culprit, "on purpose");
            let result = std::panic::catch_unwind(|| together(2, THREE, || (), panics));
            assert!(result.is_err(), "thread {culprit} panicked and nobody noticed");
        }
    }

    #[test]
    fn times_are_told_by_quantiles() {
        let mut times = Times::new((5..=10).rev().map(f64::from).collect());
        times.extend(Times::new((0..5).map(f64::from).collect()));
        assert_eq!((times.least(), times.p10(), times.median(), times.p90()), (0.0, 1.0, 5.0, 9.0));
    }
}
