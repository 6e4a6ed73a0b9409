//! Threads that compute one sequence together, each some of its rows or some of the columns of each product.
//! Which of it is up to [`super::encoder`].
//!
//! What a member has for the others it writes into a slot of its own; it waits until all have, and reads all slots. The
//! locks around them are never waited for; they are what lets safe code share the slots.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use smallvec::SmallVec;

use crate::kernels::{AlignedVec, QuantizedRows, RowRange};

/// Looks at the others before a waiting member offers its CPU to other threads.
const SPINS: usize = 1 << 9;
/// Members whose slots are listed without allocating.
const USUAL_MEMBERS: usize = 32;

/// What the members share.
pub(super) struct Team {
    slots: Vec<Slots>,
    /// Members that wait.
    waiting: AtomicUsize,
    /// How often all have met.
    meetings: AtomicUsize,
    /// A member panicked and will not come.
    broken: AtomicBool,
}

/// What a member has for the others.
#[derive(Default)]
pub(super) struct Slots {
    /// Queries, keys and values of its rows, in turn for even and odd layers: a member that is one layer ahead writes the
    /// one that nobody reads any more.
    pub(super) layers: [RwLock<AlignedVec<f32>>; 2],
    /// A part of the input of a product.
    pub(super) input: RwLock<QuantizedRows>,
    /// The ranges of its part of each row of such an input.
    pub(super) ranges: RwLock<Vec<RowRange>>,
    /// Its columns of the output of a product.
    pub(super) output: RwLock<AlignedVec<f32>>,
}

/// A member at work; tells the others when it panics.
pub(super) struct Member<'a>(&'a Team);

impl Drop for Member<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broken.store(true, Ordering::Release);
        }
    }
}

impl Team {
    pub(super) fn new(members: usize) -> Self {
        Team {
            slots: (0..members).map(|_| Slots::default()).collect(),
            waiting: AtomicUsize::new(0),
            meetings: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
        }
    }

    /// Held by a member while it works.
    pub(super) fn enter(&self) -> Member<'_> {
        Member(self)
    }

    /// The rows of a member, of `tokens`.
    pub(super) fn rows(&self, tokens: usize, member: usize) -> Range<usize> {
        let members = self.slots.len();
        tokens * member / members..tokens * (member + 1) / members
    }

    /// Lets a member write one of its slots.
    pub(super) fn give<T>(&self, member: usize, slot: impl Fn(&Slots) -> &RwLock<T>, write: impl FnOnce(&mut T)) {
        write(&mut slot(&self.slots[member]).write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Shows a slot of each member, in their order.
    pub(super) fn see<T, R>(
        &self,
        slot: impl Fn(&Slots) -> &RwLock<T>,
        see: impl FnOnce(&[RwLockReadGuard<'_, T>]) -> R,
    ) -> R {
        let slots = self.slots.iter().map(|slots| slot(slots).read().unwrap_or_else(PoisonError::into_inner));
        see(&slots.collect::<SmallVec<[_; USUAL_MEMBERS]>>())
    }

    /// Lets a member write its slot of a layer.
    pub(super) fn publish(&self, layer: usize, member: usize, write: impl FnOnce(&mut AlignedVec<f32>)) {
        self.give(member, |slots| &slots.layers[layer % 2], write);
    }

    /// Shows the slots of a layer, in the order of the members.
    pub(super) fn read<R>(&self, layer: usize, see: impl FnOnce(&[&[f32]]) -> R) -> R {
        self.see(
            |slots| &slots.layers[layer % 2],
            |slots| see(&slots.iter().map(|slot| slot.as_slice()).collect::<SmallVec<[_; USUAL_MEMBERS]>>()),
        )
    }

    /// Waits until all members have come here as often as this one.
    ///
    /// # Panics
    /// When a member panicked.
    pub(super) fn wait(&self) {
        let meeting = self.meetings.load(Ordering::Acquire);
        if self.waiting.fetch_add(1, Ordering::AcqRel) + 1 == self.slots.len() {
            self.waiting.store(0, Ordering::Relaxed);
            self.meetings.store(meeting + 1, Ordering::Release);
            return;
        }
        let mut looks = 0;
        while self.meetings.load(Ordering::Acquire) == meeting {
            assert!(!self.broken.load(Ordering::Acquire), "another thread of the team panicked");
            looks += 1;
            if looks < SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_of_all_members_are_all_rows_in_order() {
        for (tokens, members) in [(0, 2), (1, 2), (16, 2), (17, 3), (2, 5), (512, 7)] {
            let team = Team::new(members);
            let rows: Vec<usize> = (0..members).flat_map(|member| team.rows(tokens, member)).collect();
            assert_eq!(rows, (0..tokens).collect::<Vec<_>>());
        }
    }

    #[test]
    fn everyone_reads_what_everyone_wrote_in_the_same_layer() {
        const MEMBERS: usize = 3;
        let team = Team::new(MEMBERS);
        std::thread::scope(|scope| {
            for member in 0..MEMBERS {
                let team = &team;
                scope.spawn(move || {
                    for layer in 0..2000 {
                        team.publish(layer, member, |slot| {
                            slot.resize(1);
                            slot.as_mut_slice()[0] = (layer * MEMBERS + member) as f32;
                        });
                        team.wait();
                        let expected: Vec<f32> = (0..MEMBERS).map(|m| (layer * MEMBERS + m) as f32).collect();
                        team.read(layer, |slots| assert_eq!(slots.concat(), expected));
                    }
                });
            }
        });
    }

    #[test]
    fn a_member_that_panics_frees_those_that_wait() {
        let team = Team::new(2);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let _member = team.enter();
                team.wait();
            });
            let broken = scope.spawn(|| {
                let _member = team.enter();
                panic!("on purpose");
            });
            assert!(broken.join().is_err());
            let panic = waiting.join().expect_err("it must not wait for ever");
            assert!(panic.downcast_ref::<&str>().is_some_and(|message| message.contains("team panicked")));
        });
    }
}
