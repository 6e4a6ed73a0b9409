//! Counts of the last hour and the last day, in bounded memory.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The windows that live accuracy is told for: value of the label `window`, and length.
pub(super) const WINDOWS: [(&str, Duration); 2] =
    [("1h", Duration::from_secs(3600)), ("24h", Duration::from_secs(24 * 3600))];

/// Slots that a window is divided into: it forgets in steps of a minute and of 24 minutes.
const SLOTS: u64 = 60;

/// Several counts over one window of time: a ring of slots, of which the oldest is forgotten when a new one begins. It
/// covers the last 59 to 60 slots.
struct Window {
    slot: Duration,
    width: usize,
    /// Number of the slot since the start, and its counts; the newest last.
    slots: VecDeque<(u64, Vec<u64>)>,
}

impl Window {
    fn new(span: Duration, width: usize) -> Self {
        Window { slot: span / SLOTS as u32, width, slots: VecDeque::new() }
    }

    fn add(&mut self, elapsed: Duration, counts: &[(usize, u64)]) {
        let number = self.number(elapsed);
        self.forget(number);
        if self.slots.back().is_none_or(|(newest, _)| *newest < number) {
            self.slots.push_back((number, vec![0; self.width]));
        }
        let (_, newest) = self.slots.back_mut().expect("a slot was just made when there was none");
        counts.iter().for_each(|(index, amount)| newest[*index] += amount);
    }

    fn totals(&mut self, elapsed: Duration) -> Vec<u64> {
        self.forget(self.number(elapsed));
        let mut totals = vec![0; self.width];
        for (_, counts) in &self.slots {
            totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
        }
        totals
    }

    fn number(&self, elapsed: Duration) -> u64 {
        (elapsed.as_nanos() / self.slot.as_nanos()) as u64
    }

    fn forget(&mut self, now: u64) {
        while self.slots.front().is_some_and(|(number, _)| number + SLOTS <= now) {
            self.slots.pop_front();
        }
    }
}

/// The same counts over each of [`WINDOWS`].
pub(super) struct Recent {
    start: Instant,
    windows: [Window; WINDOWS.len()],
}

impl Recent {
    /// So many counts, all zero.
    pub(super) fn new(start: Instant, width: usize) -> Self {
        Recent { start, windows: WINDOWS.map(|(_, span)| Window::new(span, width)) }
    }

    /// Adds amounts to counts, each by its index.
    ///
    /// # Panics
    /// When an index is not below the number of counts.
    pub(super) fn add(&mut self, now: Instant, counts: &[(usize, u64)]) {
        let elapsed = now.saturating_duration_since(self.start);
        self.windows.iter_mut().for_each(|window| window.add(elapsed, counts));
    }

    /// Name and counts of each window.
    pub(super) fn totals(&mut self, now: Instant) -> [(&'static str, Vec<u64>); WINDOWS.len()] {
        let elapsed = now.saturating_duration_since(self.start);
        std::array::from_fn(|i| (WINDOWS[i].0, self.windows[i].totals(elapsed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_forgotten_after_their_window() {
        let start = Instant::now();
        let minutes = |n: u64| start + Duration::from_secs(60 * n);
        let mut recent = Recent::new(start, 2);
        recent.add(minutes(0), &[(0, 1)]);
        recent.add(minutes(30), &[(0, 2), (1, 5)]);
        let mut at = |n| recent.totals(minutes(n)).map(|(_, counts)| counts);
        assert_eq!(at(59), [vec![3, 5], vec![3, 5]]);
        assert_eq!(at(60), [vec![2, 5], vec![3, 5]], "the first minute is an hour ago");
        assert_eq!(at(89), [vec![2, 5], vec![3, 5]]);
        assert_eq!(at(90), [vec![0, 0], vec![3, 5]]);
        assert_eq!(at(24 * 60 - 1), [vec![0, 0], vec![3, 5]]);
        assert_eq!(at(24 * 60 + 48), [vec![0, 0], vec![0, 0]]);
    }

    #[test]
    fn memory_is_bounded() {
        let start = Instant::now();
        let mut recent = Recent::new(start, 1);
        for second in 0..200_000 {
            recent.add(start + Duration::from_secs(second), &[(0, 1)]);
        }
        assert!(recent.windows.iter().all(|window| window.slots.len() <= SLOTS as usize));
        let [(_, hour), (_, day)] = recent.totals(start + Duration::from_secs(199_999));
        assert!((3540..=3600).contains(&hour[0]) && (84_960..=86_400).contains(&day[0]), "{hour:?} {day:?}");
    }

    #[test]
    fn a_clock_that_seems_to_go_back_adds_to_the_newest_slot() {
        let start = Instant::now();
        let mut recent = Recent::new(start, 1);
        recent.add(start + Duration::from_secs(600), &[(0, 1)]);
        recent.add(start + Duration::from_secs(60), &[(0, 1)]);
        assert_eq!(recent.totals(start + Duration::from_secs(600))[0].1, [2]);
    }
}
