//! Speed of an encoder alone: token ids in, hidden states out.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::architectures::{Encoder, RaggedBatch};

use super::metrics::quantile;

/// Times of one batch on some threads, each thread running its own copy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Median time of one batch, in seconds.
    pub median: f64,
    /// The time that 10 % of the runs stay below.
    pub p10: f64,
    /// The time that 90 % of the runs stay below.
    pub p90: f64,
    /// Batches timed, over all threads.
    pub runs: usize,
    /// Tokens per second over all threads, at the median.
    pub tokens_per_second: f64,
}

/// Runs `batch` on `threads` threads for about `duration` (at least 5 times each) after a warm-up.
///
/// # Panics
/// When the encoder panics.
pub fn measure(encoder: &dyn Encoder, batch: &RaggedBatch, threads: usize, duration: Duration) -> Speed {
    let start = Barrier::new(threads);
    let run = || {
        let mut workspace = encoder.workspace();
        let mut out = Vec::new();
        encoder.forward(batch, &mut workspace, &mut out);
        start.wait();
        let (began, mut times) = (Instant::now(), Vec::new());
        while times.len() < 5 || began.elapsed() < duration {
            let started = Instant::now();
            encoder.forward(batch, &mut workspace, &mut out);
            times.push(started.elapsed().as_secs_f64());
        }
        times
    };
    let mut times: Vec<f64> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        handles.into_iter().flat_map(|h| h.join().expect("the encoder runs")).collect()
    });
    times.sort_by(f64::total_cmp);
    let median = quantile(&times, 0.5);
    Speed {
        median,
        p10: quantile(&times, 0.1),
        p90: quantile(&times, 0.9),
        runs: times.len(),
        tokens_per_second: (batch.tokens() * threads) as f64 / median,
    }
}

/// A batch of `sequences` sequences of `tokens` tokens; ids repeat from a fixed sequence, as speed does not depend on them.
pub fn uniform_batch(encoder: &dyn Encoder, sequences: usize, tokens: usize) -> RaggedBatch {
    let spec = encoder.spec();
    let tokens = tokens.min(spec.max_tokens());
    let mut batch = RaggedBatch::new();
    for sequence in 0..sequences {
        let ids: Vec<u32> = (0..tokens).map(|i| ((sequence * 7919 + i * 104_729) % spec.vocab_size) as u32).collect();
        batch.push(&ids, &vec![0; tokens]);
    }
    batch
}
