//! Speed of an encoder alone, and of its tokenizer: what `octet bench` times.

use std::ops::Range;
use std::time::Duration;

use crate::architectures::{Encoder, EncoderSpec, LayerSpec, RaggedBatch};
use crate::kernels::Kernels;
use crate::pipelines::SequenceModel;
use crate::text::{Tokenizer, TokenizerError};

use super::rounds::{Budget, Queue, Times, apart, together};

/// Steps of a peak's run: about 0.1 ms.
pub(super) const PEAK_STEPS: u32 = 32_768;
/// Texts that a thread tokenizes before it takes the next ones.
const TEXTS_TAKEN: usize = 32;

/// Multiply-adds that a batch costs by the sizes of the model: the linear layers, and `2 T heads head_dim` per layer for
/// the attention of each token of a sequence of `T`. Embeddings, norms and the like are not counted.
pub fn macs(spec: &EncoderSpec, batch: &RaggedBatch) -> u64 {
    let hidden = spec.hidden_size as u64;
    let of_layer = |layer: &LayerSpec| {
        let (attention, inner) = ((layer.num_heads * spec.head_dim) as u64, layer.intermediate_size as u64);
        let linear = 4 * hidden * attention + 2 * hidden * inner;
        let of_sequence = |tokens: u64| tokens * (linear + 2 * tokens * attention);
        batch.ranges().map(|r| of_sequence(r.len() as u64)).sum::<u64>()
    };
    spec.layers.iter().map(of_layer).sum()
}

/// Multiply-adds a second of the kernels' instruction on `threads` threads at once, operands in registers: the sum of
/// every thread's fastest tenth of a millisecond, as a slower one was disturbed. Threads beyond one for each CPU add
/// nothing, since their fastest moments are not the same ones. None for the scalar kernels.
pub fn peak(kernels: Kernels, threads: usize, duration: Duration) -> Option<f64> {
    let macs = kernels.multiply_in_registers(1)? * u64::from(PEAK_STEPS);
    let threads = threads.min(std::thread::available_parallelism().map_or(threads, usize::from));
    let budget = Budget { duration, at_least: 20, warm_up: true };
    let times = apart(threads, budget, |_| || _ = kernels.multiply_in_registers(PEAK_STEPS));
    Some(times.iter().map(|t| macs as f64 / t.least()).sum())
}

/// Times of one batch on `threads` threads together: it is cut into one part of whole sequences for each, or, when it
/// is one sequence, computed by a team.
///
/// # Panics
/// When the encoder does.
pub fn latency(encoder: &dyn Encoder, batch: &RaggedBatch, threads: usize, budget: Budget) -> Times {
    if let (1, Some(team)) = (batch.len(), encoder.team(threads)) {
        return together(
            threads,
            budget,
            || (),
            |member| {
                let (team, mut workspace, mut out) = (&team, encoder.workspace(), Vec::new());
                move || encoder.forward_together(batch, team, member, &mut workspace, &mut out)
            },
        );
    }
    let parts = split(batch, threads);
    together(parts.len(), budget, || (), |index| forward(encoder, &parts[index]))
}

/// Times of one sequence with its head on top, on `threads` threads together, as a server computes a text alone.
///
/// # Panics
/// When the encoder or the head does.
pub fn answer(model: &SequenceModel, sequence: &RaggedBatch, threads: usize, budget: Budget) -> Times {
    let encoder = model.encoder.as_ref();
    let Some(team) = encoder.team(threads) else {
        let work = |_| {
            let mut workspace = encoder.workspace();
            move || _ = std::hint::black_box(model.rows(sequence, &mut workspace))
        };
        return together(1, budget, || (), work);
    };
    let work = |member| {
        let (team, mut workspace, mut hidden) = (&team, encoder.workspace(), Vec::new());
        move || {
            encoder.forward_together(sequence, team, member, &mut workspace, &mut hidden);
            if member == 0 {
                std::hint::black_box(model.head.apply(&hidden, encoder.spec().hidden_size));
            }
        }
    };
    together(threads, budget, || (), work)
}

/// Times of one batch while each of `threads` threads runs one of its own, as a server under load does: those of each
/// thread.
///
/// # Panics
/// When the encoder does.
pub fn independent(encoder: &dyn Encoder, batch: &RaggedBatch, threads: usize, budget: Budget) -> Vec<Times> {
    apart(threads, budget, |_| forward(encoder, batch))
}

/// Times of all batches, each thread taking the next when it is done with one.
///
/// # Panics
/// When the encoder does.
pub fn stream(encoder: &dyn Encoder, batches: &[&RaggedBatch], threads: usize, budget: Budget) -> Times {
    let queue = Queue::default();
    let work = |_| {
        let (mut workspace, mut out, queue) = (encoder.workspace(), Vec::new(), &queue);
        move || {
            while let Some(batch) = queue.take(batches) {
                encoder.forward(batch, &mut workspace, &mut out);
            }
        }
    };
    together(threads, budget, || queue.restart(), work)
}

/// Seconds of all batches once, as in [`stream`], after a first time that warms up.
///
/// # Panics
/// When the encoder does.
pub fn stream_once(encoder: &dyn Encoder, batches: &[&RaggedBatch], threads: usize) -> f64 {
    stream(encoder, batches, threads, Budget { duration: Duration::ZERO, at_least: 1, warm_up: true }).least()
}

/// Times of tokenizing all texts, each thread taking the next few when it is done with some.
///
/// # Errors
/// [`TokenizerError`] of the first text that the tokenizer refuses.
pub fn tokenizing(
    tokenizer: &Tokenizer,
    texts: &[String],
    max_tokens: usize,
    threads: usize,
    budget: Budget,
) -> Result<Times, TokenizerError> {
    texts.iter().try_for_each(|text| tokenizer.encode(text, None, max_tokens).map(drop))?;
    let (queue, pieces) = (Queue::default(), texts.chunks(TEXTS_TAKEN).collect::<Vec<_>>());
    let work = |_| {
        || {
            while let Some(piece) = queue.take(&pieces) {
                for text in *piece {
                    std::hint::black_box(tokenizer.encode(text, None, max_tokens).is_ok());
                }
            }
        }
    };
    Ok(together(threads, budget, || queue.restart(), work))
}

/// One thread's forward passes of one batch.
fn forward(encoder: &dyn Encoder, batch: &RaggedBatch) -> impl FnMut() {
    let (mut workspace, mut out) = (encoder.workspace(), Vec::new());
    move || encoder.forward(batch, &mut workspace, &mut out)
}

/// Cuts a batch into at most `parts` runs of whole sequences of nearly the same number of tokens; a sequence alone is
/// one part.
fn split(batch: &RaggedBatch, parts: usize) -> Vec<RaggedBatch> {
    let mut found = Vec::new();
    let mut part = RaggedBatch::new();
    for range in batch.ranges() {
        // A sequence belongs to the part in which its middle lies.
        let middle = range.start + range.end;
        if !part.is_empty() && middle * parts > 2 * batch.tokens() * (found.len() + 1) {
            found.push(std::mem::take(&mut part));
        }
        part.push(&batch.ids[range.clone()], &batch.type_ids[range]);
    }
    found.push(part);
    found
}

/// `sequences` sequences of `tokens` tokens: the ids of `texts` one after another, from the start again after the end;
/// type ids are 0.
///
/// # Panics
/// When there are no ids.
pub fn batch_of_texts(texts: &RaggedBatch, sequences: usize, tokens: usize) -> RaggedBatch {
    let mut ids = texts.ids.iter().copied().cycle();
    uniform(sequences, |_| ids.by_ref().take(tokens).collect())
}

/// `sequences` sequences of `tokens` tokens in a fixed irregular order: speed does not depend on the ids.
pub fn synthetic_batch(vocab_size: usize, sequences: usize, tokens: usize) -> RaggedBatch {
    let id = |sequence: usize, i: usize| ((sequence * 7919 + i * 104_729) % vocab_size) as u32;
    uniform(sequences, |sequence| (0..tokens).map(|i| id(sequence, i)).collect())
}

fn uniform(sequences: usize, mut ids: impl FnMut(usize) -> Vec<u32>) -> RaggedBatch {
    let mut batch = RaggedBatch::new();
    for sequence in 0..sequences {
        let ids = ids(sequence);
        batch.push(&ids, &vec![0; ids.len()]);
    }
    batch
}

/// The sequences of a batch in their order, in batches of `size`.
pub fn in_batches_of(size: usize, texts: &RaggedBatch) -> Vec<RaggedBatch> {
    let ranges: Vec<_> = texts.ranges().collect();
    let batch = |ranges: &[Range<usize>]| {
        let mut batch = RaggedBatch::new();
        ranges.iter().for_each(|r| batch.push(&texts.ids[r.clone()], &texts.type_ids[r.clone()]));
        batch
    };
    ranges.chunks(size).map(batch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architectures::Activation;

    fn batch(lengths: &[usize]) -> RaggedBatch {
        let mut batch = RaggedBatch::new();
        let mut ids = 0..;
        lengths.iter().for_each(|l| batch.push(&ids.by_ref().take(*l).collect::<Vec<_>>(), &vec![0; *l]));
        batch
    }

    fn lengths(batches: &[RaggedBatch]) -> Vec<Vec<usize>> {
        batches.iter().map(|b| b.ranges().map(|r| r.len()).collect()).collect()
    }

    #[test]
    fn batches_are_split_between_whole_sequences_into_nearly_equal_parts() {
        let cut = |of: &[usize], parts| lengths(&split(&batch(of), parts));
        assert_eq!(cut(&[7], 4), [vec![7]], "one sequence is one part");
        assert_eq!(cut(&[5; 8], 2), [vec![5; 4], vec![5; 4]]);
        assert_eq!(cut(&[5; 3], 2), [vec![5; 2], vec![5]]);
        assert_eq!(cut(&[90, 10, 10, 10], 2), [vec![90], vec![10; 3]]);
        assert_eq!(cut(&[10, 10, 10, 90], 2), [vec![10; 3], vec![90]]);
        assert_eq!(cut(&[5; 3], 3), [[5], [5], [5]]);
        assert_eq!(cut(&[1, 100, 1], 3), [vec![1], vec![100], vec![1]]);
        let parts = split(&batch(&[3, 1, 2]), 2);
        assert_eq!(parts.iter().flat_map(|p| p.ids.clone()).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_cell_reads_on_through_the_texts_and_begins_again() {
        let cell = batch_of_texts(&batch(&[2, 3]), 3, 4);
        assert_eq!(cell.ids, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]);
        assert_eq!((cell.starts, cell.type_ids), (vec![0, 4, 8, 12], vec![0; 12]));
    }

    #[test]
    fn a_stream_keeps_its_order_in_batches() {
        let batches = in_batches_of(2, &batch(&[1, 2, 3]));
        assert_eq!(lengths(&batches), [vec![1, 2], vec![3]]);
        assert_eq!(batches[1].ids, [3, 4, 5]);
    }

    /// all-MiniLM-L6-v2: 10,616,832 multiply-adds a token in the linear layers, 4,608 T for attention.
    #[test]
    fn multiply_adds_are_those_of_the_model() {
        let mut spec = EncoderSpec {
            family: "bert".into(),
            vocab_size: 30_522,
            hidden_size: 384,
            head_dim: 32,
            layers: vec![LayerSpec { num_heads: 12, intermediate_size: 1536 }; 6],
            max_positions: 512,
            position_offset: 0,
            type_vocab_size: 2,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-12,
        };
        assert_eq!(macs(&spec, &batch(&[16])), 16 * (10_616_832 + 4_608 * 16));
        assert_eq!(macs(&spec, &batch(&[16, 3])), 19 * 10_616_832 + 4_608 * (16 * 16 + 3 * 3));
        spec.layers = vec![LayerSpec { num_heads: 3, intermediate_size: 32 }];
        assert_eq!(macs(&spec, &batch(&[16])), 16 * (4 * 384 * 96 + 2 * 384 * 32 + 2 * 96 * 16));
    }

    #[test]
    fn the_peak_is_a_rate_of_the_vector_kernels() {
        for kernels in Kernels::available() {
            let found = peak(kernels, 1, Duration::ZERO);
            assert_eq!(found.is_some_and(|p| p.is_finite() && p > 0.0), kernels.multiply_instruction().is_some());
        }
    }
}
