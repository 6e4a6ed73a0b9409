//! The encoder allocates nothing once its buffers have grown: not for other shapes, nor on any thread of a team.
//!
//! A program of its own with a single test, as it counts the allocations of the whole process.

use std::alloc::System;
use std::path::Path;
use std::sync::Barrier;

use octet::architectures::RaggedBatch;
use octet::kernels::{Isa, Kernels};
use octet::pipelines::{Loader, Precision};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const MODEL: &str = "models/all-MiniLM-L6-v2";
/// Times that everything runs before allocations are counted, and while they are.
const RUNS: usize = 2;

/// Sequences of some lengths.
fn batch(lengths: &[usize]) -> RaggedBatch {
    let mut batch = RaggedBatch::new();
    for length in lengths {
        batch.push(&(0..*length as u32).map(|i| 1_000 + 37 * i).collect::<Vec<_>>(), &vec![0; *length]);
    }
    batch
}

/// What all `threads` allocate in later runs of the work that `make` gives each of them; 0 when nothing is.
fn steady_state<W: FnMut()>(threads: usize, make: impl Fn(usize) -> W + Sync) -> Stats {
    let (meeting, make) = (&Barrier::new(threads), &make);
    let member = |index| {
        let mut work = make(index);
        (0..RUNS).for_each(|_| work());
        meeting.wait();
        let region = Region::new(ALLOCATOR);
        meeting.wait();
        (0..RUNS).for_each(|_| work());
        meeting.wait();
        let change = region.change();
        meeting.wait();
        change
    };
    std::thread::scope(|scope| {
        (1..threads).for_each(|index| _ = scope.spawn(move || member(index)));
        member(0)
    })
}

fn assert_nothing(of: &str, kernels: Kernels, found: Stats) {
    let calls = (found.allocations, found.reallocations, found.deallocations);
    assert_eq!(calls, (0, 0, 0), "{of} on {kernels:?} allocates in the steady state: {found:?}");
}

/// On the kernels of every instruction set but the slow scalar ones, each of which has scratch memory of its own kind.
#[test]
fn the_encoder_allocates_nothing_in_the_steady_state() {
    let one = steady_state(1, |_| || drop(std::hint::black_box(vec![0; 7])));
    assert_eq!((one.allocations, one.deallocations), (RUNS, RUNS), "the allocator does not count");

    let batches = [&[3][..], &[16], &[130], &[512], &[512, 1, 300], &[9, 70, 1, 128, 33, 200, 5, 256]].map(batch);
    // Short ones divide the weights, long ones the rows.
    let alone = [8, 33, 128, 129, 512].map(|tokens| batch(&[tokens]));
    for kernels in Kernels::available().into_iter().filter(|kernels| kernels.isa() != Isa::Scalar) {
        let model = Loader::new(kernels, Precision::Int8).load(MODEL, Path::new(MODEL)).unwrap();
        let encoder = model.encoder().as_ref();
        let forward = |_| {
            let (batches, mut workspace, mut hidden) = (&batches, encoder.workspace(), Vec::new());
            move || batches.iter().for_each(|batch| encoder.forward(batch, &mut workspace, &mut hidden))
        };
        assert_nothing("a thread", kernels, steady_state(1, forward));
        assert_nothing("two threads with a batch each", kernels, steady_state(2, forward));
        let (team, turn) = (encoder.team(2).expect("it splits a sequence"), Barrier::new(2));
        let together = |member| {
            let (alone, team, turn, mut workspace, mut hidden) =
                (&alone, &team, &turn, encoder.workspace(), Vec::new());
            move || {
                for sequence in alone {
                    // A team is free for the next sequence when member 0 is done.
                    turn.wait();
                    encoder.forward_together(sequence, team, member, &mut workspace, &mut hidden);
                }
            }
        };
        assert_nothing("a team of two", kernels, steady_state(2, together));
    }
}
