//! Where a compute thread without work waits to be called.
//!
//! To wake a thread that sleeps takes tens of microseconds, since its CPU sleeps too; a short text is computed in a few
//! hundred. So a thread that has just worked stays awake for a moment, and offers its CPU to others all the while
//! ([decision 12](../../docs/decisions/0012-awake.md)).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Thread, current, park, park_timeout, yield_now};
use std::time::{Duration, Instant};

/// How long a thread without work stays awake: as long as a client on the same machine takes to read an answer and send
/// its next text.
const AWAKE: Duration = Duration::from_micros(200);
/// Looks at the seat before a thread that is awake offers its CPU to others: about a microsecond.
const LOOKS: usize = 32;

/// The place of one thread, for one wait.
pub(super) struct Seat {
    thread: Thread,
    called: AtomicBool,
}

impl Seat {
    /// A place for the calling thread.
    pub(super) fn take() -> Arc<Self> {
        Arc::new(Seat { thread: current(), called: AtomicBool::new(false) })
    }

    /// Ends the wait of the thread that sits here.
    pub(super) fn call(&self) {
        self.called.store(true, Ordering::Release);
        // Costs a system call only when the thread sleeps.
        self.thread.unpark();
    }

    /// Waits for a call, no longer than `pause`. For the thread that took the seat.
    pub(super) fn wait(&self, pause: Option<Duration>) {
        let since = Instant::now();
        let awake = AWAKE.min(pause.unwrap_or(AWAKE));
        while since.elapsed() < awake {
            for _ in 0..LOOKS {
                if self.is_called() {
                    return;
                }
                std::hint::spin_loop();
            }
            yield_now();
        }
        while !self.is_called() {
            match pause.map(|pause| pause.saturating_sub(since.elapsed())) {
                None => park(),
                Some(Duration::ZERO) => return,
                Some(left) => park_timeout(left),
            }
        }
    }

    fn is_called(&self) -> bool {
        self.called.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// A thread that sits down and waits; its seat, and how long the wait took and what it cost in CPU time.
    fn waiting(pause: Option<Duration>) -> (Arc<Seat>, std::thread::JoinHandle<(Duration, Duration)>) {
        let (send, seat) = channel();
        let thread = std::thread::spawn(move || {
            let seat = Seat::take();
            send.send(seat.clone()).unwrap();
            let (since, cpu) = (Instant::now(), cpu_time());
            seat.wait(pause);
            (since.elapsed(), cpu_time() - cpu)
        });
        (seat.recv().unwrap(), thread)
    }

    /// Of the calling thread; zero where the system does not tell.
    fn cpu_time() -> Duration {
        let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        Duration::from_nanos(schedstat.split_whitespace().next().map_or(0, |nanos| nanos.parse().unwrap()))
    }

    #[test]
    fn a_call_ends_the_wait_whether_the_thread_is_awake_or_sleeps() {
        for pause in [None, Some(Duration::from_secs(3600))] {
            for delay in [Duration::ZERO, AWAKE / 2, 50 * AWAKE] {
                let (seat, thread) = waiting(pause);
                std::thread::sleep(delay);
                seat.call();
                thread.join().unwrap();
            }
        }
    }

    #[test]
    fn a_wait_that_nobody_ends_is_as_long_as_asked_and_costs_next_to_nothing() {
        let pause = Duration::from_millis(500);
        let (seat, thread) = waiting(Some(pause));
        let (took, cpu) = thread.join().unwrap();
        assert!(!seat.is_called());
        assert!(took >= pause, "{took:?}");
        assert!(cpu < pause / 10, "a thread without work took {cpu:?} of CPU time in {took:?}");
    }
}
