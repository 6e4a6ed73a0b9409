//! The products of attention on vector registers: pairs of i16, summed in i32 (`vpdpwssd`, `vpmaddwd`).

use std::ops::Range;

use super::slices::{load_up_to_16, store, store_up_to_16};
use super::weights::{add_pairs, factor_of, weights_of};
use super::{Attention, AttentionScratch, Head, KEY_BLOCK, SCORE_MIN, TILE_ROWS};
use crate::kernels::lanes::{Ints, LANES, Lanes};

/// Groups of 16 queries worked on together, at most.
pub(super) const MAX_GROUPS: usize = 2;

/// `TILE_ROWS` rows of pairs (row `r`, pair `l` at `a + r * row_step + l * pair_step`) times `G` groups of columns (row `l`
/// at `b + l * b_step`).
///
/// # Safety
/// All of these pairs are readable, those of `a` aligned.
#[inline(always)]
unsafe fn tile<I: Ints, const G: usize>(
    a: *const i32,
    row_step: usize,
    pair_step: usize,
    b: *const i32,
    b_step: usize,
    depth: usize,
) -> [[I; G]; TILE_ROWS] {
    let mut sums = [[I::splat(0); G]; TILE_ROWS];
    for l in 0..depth {
        let mut row = [I::splat(0); G];
        for (g, b_group) in row.iter_mut().enumerate() {
            // SAFETY: row `l` of `b` is `16 * G` readable pairs.
            *b_group = unsafe { I::load(b.add(l * b_step + g * LANES)) };
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let a = I::splat(unsafe { *a.add(r * row_step + l * pair_step) });
            for g in 0..G {
                sums[g] = sums[g].dot_pairs(a, row[g]);
            }
        }
    }
    sums
}

/// What the weights of a block of keys say of the values.
struct BlockSums {
    head: usize,
    /// The first query's row.
    first: usize,
    /// Queries, some perhaps past the end.
    width: usize,
    keys: Range<usize>,
    /// What each query's sums so far are multiplied with.
    factors: [f32; MAX_GROUPS * LANES],
    /// What each query's sums are multiplied with after the last keys.
    inverses: [f32; MAX_GROUPS * LANES],
}

impl Attention<'_> {
    /// All heads and queries.
    #[inline(always)]
    pub(super) fn run_on_vectors<V: Lanes>(&mut self) {
        let queries = self.out.len() / self.shape.hidden();
        for head in 0..self.shape.heads {
            let head = self.prepare::<V>(head, false);
            let mut first = 0;
            while first < queries {
                if V::TILE_GROUPS >= MAX_GROUPS && queries - first > LANES {
                    self.attend::<V, MAX_GROUPS>(head, first);
                    first += MAX_GROUPS * LANES;
                } else {
                    self.attend::<V, 1>(head, first);
                    first += LANES;
                }
            }
        }
    }

    /// The context of `G` groups of queries from row `first` on.
    #[inline(always)]
    fn attend<V: Lanes, const G: usize>(&mut self, head: Head<V>, first: usize) {
        self.pack_queries::<V, G>(head, first, false);
        let tokens = self.shape.tokens;
        let mut weight_sums = [V::splat(0.0); G];
        let mut max = [V::splat(SCORE_MIN); G];
        for block in (0..tokens).step_by(KEY_BLOCK) {
            let keys = block..tokens.min(block + KEY_BLOCK);
            let before = max;
            max = self.score(keys.clone(), max);
            let block_sums = self.weights(keys.len(), max, head.exponent);
            let (mut factors, mut inverses) = ([0.0; MAX_GROUPS * LANES], [0.0; MAX_GROUPS * LANES]);
            for g in 0..G {
                let factor = factor_of(before[g], max[g], head.exponent);
                weight_sums[g] = weight_sums[g].mul_add(factor, block_sums[g].to_floats());
                store(factor, &mut factors[g * LANES..]);
                store(V::splat(1.0).div(weight_sums[g]).add(head.poison), &mut inverses[g * LANES..]);
            }
            self.weigh::<V>(&BlockSums { head: head.index, first, width: G * LANES, keys, factors, inverses });
        }
    }

    /// The scores of the queries with some keys, up to a whole tile; gives the largest of `max` and them.
    #[inline(always)]
    fn score<V: Lanes, const G: usize>(&mut self, keys: Range<usize>, mut max: [V; G]) -> [V; G] {
        let (pairs, depth) = (self.shape.padded_dim() / 2, self.shape.head_dim.div_ceil(2));
        let AttentionScratch { keys: key_rows, queries, scores, .. } = &mut *self.scratch;
        let (key_rows, queries) = (key_rows.as_slice(), queries.as_slice());
        assert!(queries.len() >= depth * G * LANES);
        let scores = scores.as_mut_slice()[..KEY_BLOCK * G * LANES].chunks_exact_mut(TILE_ROWS * G * LANES);
        for (key, scores) in keys.step_by(TILE_ROWS).zip(scores) {
            let rows = &key_rows[key * pairs..][..TILE_ROWS * pairs];
            // SAFETY: `rows` holds the pairs of `TILE_ROWS` keys, and `queries` `depth` rows of `G` groups.
            let sums = unsafe { tile::<V::Ints, G>(rows.as_ptr(), pairs, 1, queries.as_ptr(), G * LANES, depth) };
            for (r, to) in scores.chunks_exact_mut(G * LANES).enumerate() {
                for g in 0..G {
                    let score = sums[r][g].to_floats();
                    max[g] = max[g].max(score);
                    store(score, &mut to[g * LANES..]);
                }
            }
        }
        max
    }

    /// Pairs of weights in place of every second score; gives their sums.
    #[inline(always)]
    fn weights<V: Lanes, const G: usize>(&mut self, keys: usize, max: [V; G], exponent: V) -> [V::Ints; G] {
        let scores = self.scratch.scores.as_mut_slice();
        // A key that is missing in a pair weighs nothing.
        scores[keys * G * LANES..][..keys % 2 * G * LANES].fill(f32::NEG_INFINITY);
        let mut sums = [V::Ints::splat(0); G];
        for rows in scores.chunks_exact_mut(2 * G * LANES).take(keys.div_ceil(2)) {
            for g in 0..G {
                let low = weights_of(load_up_to_16::<V>(&rows[g * LANES..][..LANES]), max[g], exponent);
                let high = weights_of(load_up_to_16::<V>(&rows[(G + g) * LANES..][..LANES]), max[g], exponent);
                let pair = low.pair(high);
                sums[g] = add_pairs(sums[g], pair);
                store(pair.bits_to_floats(), &mut rows[g * LANES..]);
            }
        }
        sums
    }

    /// Weighted sums of values; after the last keys the context.
    #[inline(always)]
    fn weigh<V: Lanes>(&mut self, block: &BlockSums) {
        let shape = self.shape;
        let queries = block.width.min(self.out.len() / shape.hidden() - block.first);
        for query in (0..queries).step_by(TILE_ROWS) {
            let mut channel = 0;
            while channel < shape.head_dim {
                if V::TILE_GROUPS >= MAX_GROUPS && shape.head_dim - channel > LANES {
                    self.weigh_tile::<V, MAX_GROUPS>(block, query..queries, channel);
                    channel += MAX_GROUPS * LANES;
                } else {
                    self.weigh_tile::<V, 1>(block, query..queries, channel);
                    channel += LANES;
                }
            }
        }
    }

    /// [`Attention::weigh`] of the first `TILE_ROWS` of some queries and `C` groups of channels.
    #[inline(always)]
    fn weigh_tile<V: Lanes, const C: usize>(&mut self, block: &BlockSums, queries: Range<usize>, channel: usize) {
        let (shape, padded_dim) = (self.shape, self.shape.padded_dim());
        let (is_first, is_last) = (block.keys.start == 0, block.keys.end == shape.tokens);
        let AttentionScratch { values, value_scale, scores, totals, .. } = &mut *self.scratch;
        let depth = block.keys.len().div_ceil(2);
        let values = &values.as_slice()[block.keys.start / 2 * padded_dim..][..depth * padded_dim];
        let weights = &scores.as_slice()[..2 * depth * block.width];
        assert!(queries.start + TILE_ROWS <= block.width && channel + C * LANES <= padded_dim);
        // SAFETY: `weights` holds `depth` rows of twice `width` queries, of which `TILE_ROWS` are left, and `values` as many
        // of all channels with padding, of which `C` groups are left.
        let sums = unsafe {
            let (weights, values) = (weights.as_ptr().add(queries.start).cast(), values.as_ptr().add(channel));
            tile::<V::Ints, C>(weights, 1, 2 * block.width, values, padded_dim, depth)
        };
        for (query, sums) in queries.zip(sums) {
            let (factor, inverse) = (V::splat(block.factors[query]), V::splat(block.inverses[query]));
            let totals = &mut totals.as_mut_slice()[query * padded_dim..][..padded_dim];
            let out = &mut self.out[(block.first + query) * shape.hidden()..][shape.columns(0, block.head)];
            for (g, sum) in sums.into_iter().enumerate() {
                let at = channel + g * LANES;
                let mut total = sum.to_floats();
                if !is_first {
                    total = load_up_to_16::<V>(&totals[at..]).mul_add(factor, total);
                }
                if is_last {
                    let to = &mut out[at..shape.head_dim.min(at + LANES)];
                    store_up_to_16(total.mul(inverse).mul(load_up_to_16(&value_scale.as_slice()[at..])), to);
                } else {
                    store(total, &mut totals[at..]);
                }
            }
        }
    }
}
