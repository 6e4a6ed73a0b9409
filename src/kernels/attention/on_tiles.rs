//! The products of attention on AMX tiles: the same integers as in i16, at several times the speed.
//!
//! Scores are products of bf16, whose sums in f32 are exact. Values and weights do not fit 8 bits; each is split into its
//! bytes, `v = 256 h + l` with `h` signed, and the four products of bytes are put together in i32.

use super::integers::quantize;
use super::slices::{load_ints, load_up_to_16, store, store_ints, store_up_to_16};
use super::weights::{add_pairs, factor_of, weights_of};
use super::{Attention, AttentionScratch, CHUNK, Head, KEY_BLOCK, SCORE_MIN, Shape, VALUE_MAX};
use crate::kernels::lanes::{Ints, LANES, Lanes};
use crate::kernels::pack::AlignedVec;
use crate::kernels::tiles::{self, ROW_BYTES, SIDE, Tiles};

/// 32-bit elements of a tile.
const TILE: usize = SIDE * SIDE;
/// Keys whose bytes lie together in a lane.
const QUAD: usize = 4;
/// Bytes of a row of queries, pairs of bf16, that a step multiplies: 32 channels.
const STEP: usize = ROW_BYTES;

/// Values and weights in bytes, low ones and high ones; the four keys of a quad in the order 0, 2, 1, 3.
#[derive(Clone, Debug, Default)]
pub(super) struct Bytes {
    /// Values of one head, `[tokens / 64][channels / 16][16 channels][64 tokens]`.
    values: [AlignedVec<i32>; 2],
    /// Weights of a block of keys, `[128 / 4][16 queries][4 keys]`.
    weights: [AlignedVec<i32>; 2],
    /// Four tiles of sums.
    sums: AlignedVec<i32>,
}

impl Bytes {
    pub(super) fn reserve(&mut self, shape: Shape) {
        let chunks = shape.tokens.div_ceil(CHUNK);
        self.values.iter_mut().for_each(|values| values.resize(chunks * CHUNK / QUAD * shape.padded_dim()));
        self.weights.iter_mut().for_each(|weights| weights.resize(KEY_BLOCK / QUAD * LANES));
        self.sums.resize(4 * TILE);
    }

    /// Quantizes 32 channels of the values of a head, from channel `at` on; past the last token they are 0.
    #[inline(always)]
    pub(super) fn pack_values<V: Lanes>(
        &mut self,
        sequence: &[&[f32]],
        shape: Shape,
        head: usize,
        at: usize,
        inverse: [V; 2],
    ) {
        for (g, inverse) in inverse.into_iter().enumerate() {
            if at + g * LANES < shape.head_dim {
                self.pack_16_values(sequence, shape, head, at + g * LANES, inverse);
            }
        }
    }

    #[inline(always)]
    fn pack_16_values<V: Lanes>(&mut self, sequence: &[&[f32]], shape: Shape, head: usize, at: usize, inverse: V) {
        let columns = shape.columns(2, head);
        let mut rows = shape.rows(sequence);
        let [low, high] = &mut self.values;
        let per_chunk = shape.padded_dim() / SIDE * TILE;
        let chunks =
            low.as_mut_slice().chunks_exact_mut(per_chunk).zip(high.as_mut_slice().chunks_exact_mut(per_chunk));
        for (low, high) in chunks {
            let (mut low_quads, mut high_quads) = ([V::Ints::splat(0); LANES], [V::Ints::splat(0); LANES]);
            for (low, high) in low_quads.iter_mut().zip(&mut high_quads) {
                let mut four = [V::Ints::splat(0); QUAD];
                for value in &mut four {
                    if let Some(row) = rows.next() {
                        *value = quantize(load_up_to_16::<V>(&row[columns.clone()][at..]), inverse, VALUE_MAX);
                    }
                }
                [*low, *high] = V::Ints::bytes(four[0].pair(four[1]), four[2].pair(four[3]));
            }
            for (to, quads) in [(low, low_quads), (high, high_quads)] {
                for (to, channel) in to[at * SIDE..].chunks_exact_mut(LANES).zip(V::Ints::transpose(quads)) {
                    store_ints(channel, to);
                }
            }
        }
    }
}

impl Attention<'_> {
    /// All heads and queries.
    #[inline(always)]
    pub(super) fn run_on_tiles<V: Lanes>(&mut self) {
        // SAFETY: `Kernels::attention` says `on_tiles` for kernels that proved that tiles are available.
        let _tiles = unsafe { Tiles::configure(SIDE) };
        let queries = self.out.len() / self.shape.hidden();
        for head in 0..self.shape.heads {
            let head = self.prepare::<V>(head, true);
            for first in (0..queries).step_by(LANES) {
                self.attend_on_tiles::<V>(head, first);
            }
        }
    }

    /// The context of 16 queries from row `first` on.
    #[inline(always)]
    fn attend_on_tiles<V: Lanes>(&mut self, head: Head<V>, first: usize) {
        self.pack_queries::<V, 1>(head, first, true);
        self.scratch.totals.as_mut_slice()[..self.shape.padded_dim() * LANES].fill(0.0);
        let mut weight_sum = V::splat(0.0);
        let mut max = V::splat(SCORE_MIN);
        for block in (0..self.shape.tokens).step_by(KEY_BLOCK) {
            let tokens = KEY_BLOCK.min(self.shape.tokens - block);
            let before = max;
            max = self.score_on_tiles(block, tokens, max);
            let factor = factor_of(before, max, head.exponent);
            weight_sum = weight_sum.mul_add(factor, self.weights_on_tiles(tokens, max, head.exponent).to_floats());
            self.weigh_on_tiles(block, tokens, factor);
        }
        self.finish(head, first, weight_sum);
    }

    /// The scores of 16 queries with the keys of a block, minus infinity up to a whole quad; gives the largest of `max` and
    /// them.
    #[inline(always)]
    fn score_on_tiles<V: Lanes>(&mut self, block: usize, tokens: usize, max: V) -> V {
        let padded_dim = self.shape.padded_dim();
        let row = padded_dim * size_of::<i16>();
        let (keys, queries) = (self.scratch.keys.as_slice(), self.scratch.queries.as_slice());
        let scores = self.scratch.scores.as_mut_slice();
        for chunk in (0..tokens).step_by(CHUNK) {
            let keys = &keys[(block + chunk) * padded_dim / 2..][..CHUNK * padded_dim / 2];
            let queries = &queries[..padded_dim / 2 * LANES];
            let scores = &mut scores[chunk * LANES..][..CHUNK * LANES];
            // SAFETY: tiles are configured (`run_on_tiles`). `keys` holds 64 rows of `padded_dim` bf16, `queries` as many
            // pairs for 16 queries, `scores` four tiles.
            unsafe {
                tiles::zero();
                for step in 0..row / STEP {
                    let keys = keys.as_ptr().cast::<u8>().add(step * STEP);
                    tiles::multiply_bf16_4x1(keys, row, queries.as_ptr().add(step * TILE).cast());
                }
                let to = scores.as_mut_ptr().cast::<i32>();
                tiles::store([to, to.add(TILE), to.add(2 * TILE), to.add(3 * TILE)], SIDE * size_of::<f32>());
            }
        }
        let scores = &mut scores[..tokens.next_multiple_of(QUAD) * LANES];
        scores[tokens * LANES..].fill(f32::NEG_INFINITY);
        // Four maxima take turns, so that none waits for the one before.
        let mut maxima = [max; QUAD];
        for rows in scores.chunks_exact(QUAD * LANES) {
            for (key, max) in maxima.iter_mut().enumerate() {
                *max = max.max(load_up_to_16(&rows[key * LANES..][..LANES]));
            }
        }
        maxima[0].max(maxima[1]).max(maxima[2].max(maxima[3]))
    }

    /// The weights of the keys of a block, 0 up to a whole chunk; gives their sum.
    #[inline(always)]
    fn weights_on_tiles<V: Lanes>(&mut self, tokens: usize, max: V, exponent: V) -> V::Ints {
        let AttentionScratch { scores, bytes, .. } = &mut *self.scratch;
        let [low, high] = &mut bytes.weights;
        let [low, high] = [low.as_mut_slice(), high.as_mut_slice()];
        let mut sum = V::Ints::splat(0);
        let quads = low.chunks_exact_mut(LANES).zip(high.chunks_exact_mut(LANES));
        let rows = scores.as_slice()[..tokens.next_multiple_of(QUAD) * LANES].chunks_exact(QUAD * LANES);
        for (rows, (low, high)) in rows.zip(quads) {
            let mut four = [V::Ints::splat(0); QUAD];
            for (key, weight) in four.iter_mut().enumerate() {
                *weight = weights_of(load_up_to_16(&rows[key * LANES..][..LANES]), max, exponent);
            }
            let pairs = [four[0].pair(four[1]), four[2].pair(four[3])];
            sum = add_pairs(add_pairs(sum, pairs[0]), pairs[1]);
            let bytes = V::Ints::bytes(pairs[0], pairs[1]);
            store_ints(bytes[0], low);
            store_ints(bytes[1], high);
        }
        let unused = tokens.div_ceil(QUAD) * LANES..tokens.next_multiple_of(CHUNK) / QUAD * LANES;
        low[unused.clone()].fill(0);
        high[unused].fill(0);
        sum
    }

    /// `totals = totals * factor + values * weights` over the keys of a block.
    #[inline(always)]
    fn weigh_on_tiles<V: Lanes>(&mut self, block: usize, tokens: usize, factor: V) {
        let shape = self.shape;
        let channel_tiles = shape.padded_dim() / SIDE;
        let bytes = &mut self.scratch.bytes;
        let ([value_low, value_high], [weight_low, weight_high]) = (&bytes.values, &bytes.weights);
        let values = [value_low.as_slice(), value_high.as_slice()];
        let weights = [weight_low.as_slice(), weight_high.as_slice()];
        let sums = &mut bytes.sums.as_mut_slice()[..4 * TILE];
        let totals = self.scratch.totals.as_mut_slice().chunks_exact_mut(TILE);
        for (tile, totals) in totals.enumerate().take(shape.head_dim.div_ceil(SIDE)) {
            // SAFETY: tiles are configured (`run_on_tiles`).
            unsafe { tiles::zero() };
            for chunk in 0..tokens.div_ceil(CHUNK) {
                let value = ((block / CHUNK + chunk) * channel_tiles + tile) * TILE;
                let weight = chunk * TILE;
                let values = [&values[0][value..][..TILE], &values[1][value..][..TILE]];
                let weights = [&weights[0][weight..][..TILE], &weights[1][weight..][..TILE]];
                // SAFETY: as above; all four are whole tiles.
                unsafe {
                    tiles::multiply_bytes(
                        [values[0].as_ptr().cast(), values[1].as_ptr().cast()],
                        [weights[0].as_ptr().cast(), weights[1].as_ptr().cast()],
                    );
                }
            }
            let to = sums.as_mut_ptr();
            // SAFETY: as above; `sums` holds four tiles.
            unsafe {
                tiles::store([to, to.add(TILE), to.add(2 * TILE), to.add(3 * TILE)], SIDE * size_of::<i32>());
            }
            for (l, to) in totals.chunks_exact_mut(LANES).enumerate() {
                let middle =
                    load_ints::<V::Ints>(&sums[TILE + l * LANES..]).add(load_ints(&sums[2 * TILE + l * LANES..]));
                let upper = load_ints::<V::Ints>(&sums[l * LANES..]).shift_left::<8>().add(middle);
                let low = load_ints(&sums[3 * TILE + l * LANES..]);
                let sum = upper.shift_left::<8>().add(low);
                let total: V = load_up_to_16(to);
                store(total.mul_add(factor, sum.to_floats()), to);
            }
        }
    }

    /// Writes the context of 16 queries from row `first` on: `totals / weight_sum`.
    #[inline(always)]
    fn finish<V: Lanes>(&mut self, head: Head<V>, first: usize, weight_sum: V) {
        let shape = self.shape;
        let AttentionScratch { value_scale, totals, .. } = &*self.scratch;
        let totals = totals.as_slice();
        let inverse = V::splat(1.0).div(weight_sum).add(head.poison);
        for channel in (0..shape.head_dim).step_by(LANES) {
            let mut block = [V::splat(0.0); LANES];
            for (l, block) in block.iter_mut().enumerate() {
                *block = load_up_to_16::<V>(&totals[(channel + l) * LANES..]).mul(inverse);
            }
            let scale = load_up_to_16(&value_scale.as_slice()[channel..]);
            let column = shape.columns(0, head.index).start + channel;
            let count = LANES.min(shape.head_dim - channel);
            let rows = V::transpose(block);
            let out = self.out[first * shape.hidden()..].chunks_exact_mut(shape.hidden());
            for (row, to) in rows.iter().zip(out) {
                store_up_to_16(row.mul(scale), &mut to[column..][..count]);
            }
        }
    }
}
