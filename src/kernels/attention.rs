//! Multi-head self-attention of one sequence (Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>), in products of
//! integers.
//!
//! Queries, keys and values become integers with one scale per head (values: per channel) over the whole sequence, and
//! `e^(score - max)` becomes an integer of 14 bits. Ranges are such that all sums are exact both in i32, of pairs of i16
//! (`vpdpwssd`, `vpmaddwd`), and on tiles: queries and keys have 8 significant bits, which a bf16 holds, and their
//! products sum to less than 2^24, which an f32 holds (`tdpbf16ps`); values and weights are multiplied byte by byte
//! (`tdpbsud`, `tdpbuud`). The error is small beside that of the 8 bits of the linear layers: the output is within 8e-3
//! of the exact one for values up to 2, some 50 dB below it.
//!
//! Queries lie across the lanes of scores, so that their maxima and sums need no work across lanes, and on vectors channels
//! across those of the output, as they lie in memory. Queries meet the keys in blocks of 128, with a running maximum (Milakov & Gimelshein 2018, <https://arxiv.org/abs/1805.02867>), so that everything
//! stays in the first-level cache however long the sequence is. The order of all f32 steps is fixed.

use super::isa::{Isa, Kernels};
use super::lanes::{LANES, LaneKernel, Lanes};
use super::pack::AlignedVec;
use integers::query_max;
use on_vectors::MAX_GROUPS;

mod integers;
#[cfg(target_arch = "x86_64")]
mod on_tiles;
mod on_vectors;
mod slices;
#[cfg(test)]
mod tests;
mod weights;

/// Keys that queries meet together.
const KEY_BLOCK: usize = 128;
/// `e^(score - max)` is an integer up to this.
const WEIGHT_MAX: i32 = 1 << 14;
/// Values are integers up to this: a block of them times the largest weights stays in i32.
const VALUE_MAX: i32 = (1 << 10) - 1;
/// No score is below this, nor above its opposite.
const SCORE_MIN: f32 = -(1 << 24) as f32;
/// Tokens of the longest sequence that is quicker on vectors where there are tiles: these cost more to fill, and whole
/// chunks of keys.
const MOST_ON_VECTORS: usize = 48;
/// Keys that AMX tiles meet together; a multiple of `TILE_ROWS`.
const CHUNK: usize = 64;
/// Rows of a register tile, keys or queries.
const TILE_ROWS: usize = 8;

/// Memory of [`Kernels::attention`], reused between calls; grows to the longest sequence seen.
#[derive(Clone, Debug, Default)]
pub struct AttentionScratch {
    /// Largest magnitude of each channel of one head's queries, keys and values, `[3][head_dim]`.
    magnitudes: AlignedVec<f32>,
    /// Keys of one head, pairs of channels: `[tokens][head_dim / 2]`.
    keys: AlignedVec<i32>,
    /// Values of one head, pairs of tokens: `[tokens / 2][head_dim]`.
    values: AlignedVec<i32>,
    /// Scale of each channel of the values of one head, `[head_dim]`.
    value_scale: AlignedVec<f32>,
    /// Queries of one head, pairs of channels: `[head_dim / 2][16 * groups]`.
    queries: AlignedVec<i32>,
    /// Scores of a block of keys, `[128][16 * groups]`. On vectors the bits of weights then take the place of every second
    /// row, pairs of tokens.
    scores: AlignedVec<f32>,
    /// Weighted sums of values, `[16 * groups][head_dim]`, on tiles `[head_dim][16]`.
    totals: AlignedVec<f32>,
    /// What only tiles need.
    #[cfg(target_arch = "x86_64")]
    bytes: on_tiles::Bytes,
}

impl AttentionScratch {
    /// Empty scratch memory.
    pub fn new() -> Self {
        Self::default()
    }

    fn reserve(&mut self, shape: Shape) {
        let columns = MAX_GROUPS * LANES;
        self.magnitudes.resize(3 * shape.padded_dim());
        self.keys.resize(shape.tokens.next_multiple_of(CHUNK) * shape.padded_dim() / 2);
        self.values.resize(shape.tokens.div_ceil(2) * shape.padded_dim());
        self.value_scale.resize(shape.padded_dim());
        self.queries.resize(shape.padded_dim() / 2 * columns);
        self.scores.resize(KEY_BLOCK * columns);
        self.totals.resize(shape.padded_dim() * columns);
        #[cfg(target_arch = "x86_64")]
        self.bytes.reserve(shape);
    }
}

#[derive(Clone, Copy)]
struct Shape {
    heads: usize,
    head_dim: usize,
    tokens: usize,
    /// The largest integer of queries and keys.
    query_max: i32,
}

impl Shape {
    fn hidden(self) -> usize {
        self.heads * self.head_dim
    }

    /// Channels of a head with padding: whole groups of pairs, and whole tiles.
    fn padded_dim(self) -> usize {
        self.head_dim.next_multiple_of(2 * LANES)
    }

    /// The columns of one head's queries (part 0), keys (1) or values (2) in a row.
    fn columns(self, part: usize, head: usize) -> std::ops::Range<usize> {
        let start = part * self.hidden() + head * self.head_dim;
        start..start + self.head_dim
    }

    /// The rows of a sequence.
    #[inline(always)]
    fn rows<'a>(self, sequence: &'a [&'a [f32]]) -> impl Iterator<Item = &'a [f32]> {
        let width = 3 * self.hidden();
        sequence.iter().flat_map(move |rows| rows.chunks_exact(width))
    }
}

/// What one head needs besides its keys and values.
#[derive(Clone, Copy)]
struct Head<V> {
    index: usize,
    /// What to multiply queries with to quantize them, in all lanes.
    query_inverse: V,
    /// What to multiply a difference of scores with to get a power of 2, in all lanes.
    exponent: V,
    /// 0, or NaN when a query or a key of the head is not finite, in all lanes.
    poison: V,
}

struct Attention<'a> {
    /// Whether products run on AMX tiles; the process may use them then.
    on_tiles: bool,
    queries: &'a [f32],
    sequence: &'a [&'a [f32]],
    shape: Shape,
    scratch: &'a mut AttentionScratch,
    out: &'a mut [f32],
}

impl LaneKernel for Attention<'_> {
    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        self.scratch.reserve(self.shape);
        #[cfg(target_arch = "x86_64")]
        if V::BESIDE_TILES && self.on_tiles {
            return self.run_on_tiles::<V>();
        }
        self.run_on_vectors::<V>();
    }
}

impl Kernels {
    /// Softmax attention of queries over their sequence, all heads: `softmax(q k^T / sqrt(head_dim)) v`.
    ///
    /// - `queries` `[m, 3 * heads * head_dim]`: some or all rows of the sequence. In each row the queries of all heads,
    ///   then the keys, then the values.
    /// - `sequence`: all rows of the sequence, in order, in one or more pieces. How it is cut, and which of its rows
    ///   are the queries, does not change a result.
    /// - `out` `[m, heads * head_dim]`.
    ///
    /// # Panics
    /// When sizes do not fit together.
    pub fn attention(
        self,
        queries: &[f32],
        sequence: &[&[f32]],
        heads: usize,
        head_dim: usize,
        scratch: &mut AttentionScratch,
        out: &mut [f32],
    ) {
        let hidden = heads * head_dim;
        let rows = |len: usize| len.checked_div(3 * hidden).unwrap_or(0);
        assert_eq!(queries.len(), 3 * out.len(), "attention needs a query, a key and a value per output");
        for part in sequence.iter().chain([&queries]) {
            assert_eq!(part.len(), rows(part.len()) * 3 * hidden, "no whole number of rows of {}", 3 * hidden);
        }
        let tokens = sequence.iter().map(|part| rows(part.len())).sum();
        if !out.is_empty() {
            let shape = Shape { heads, head_dim, tokens, query_max: query_max(head_dim) };
            let on_tiles = self.isa() == Isa::AmxInt8 && tokens > MOST_ON_VECTORS;
            self.run(Attention { on_tiles, queries, sequence, shape, scratch, out });
        }
    }
}
