//! The products of attention on vector registers: pairs of i16, summed in i32 (`vpdpwssd`, `vpmaddwd`).

use super::slices::{load_up_to_16, store};
use super::weights::{add_pairs, factor_of, weights_of};
use super::{Attention, AttentionScratch, Head, KEY_BLOCK, SCORE_MIN, TILE_ROWS};
use crate::kernels::lanes::{Ints, LANES, Lanes};

/// Groups of 16 queries worked on together, at most.
pub(super) const MAX_GROUPS: usize = 2;

/// `TILE_ROWS` rows of pairs (row `r`, pair `l` at `a + r * row_step + l * pair_step`) times `G` groups of columns (row `l`
/// at `b + l * b_step`).
///
/// # Safety
/// All of these pairs are readable.
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
            // SAFETY: the caller's promise; the pair may start at any i16.
            let a = I::splat(unsafe { a.add(r * row_step + l * pair_step).read_unaligned() });
            for g in 0..G {
                sums[g] = sums[g].dot_pairs(a, row[g]);
            }
        }
    }
    sums
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
        let (shape, padded_dim) = (self.shape, self.shape.padded_dim());
        let AttentionScratch { keys, values, queries, scores, totals, .. } = &mut *self.scratch;
        let (keys, values, queries) = (keys.as_slice(), values.as_slice(), queries.as_slice());
        let scores = &mut scores.as_mut_slice()[..KEY_BLOCK * G * LANES];
        let totals = &mut totals.as_mut_slice()[..padded_dim * G * LANES];
        totals.fill(0.0);
        let mut weight_sums = [V::splat(0.0); G];
        let mut max = [V::splat(SCORE_MIN); G];
        for block in (0..shape.tokens).step_by(KEY_BLOCK) {
            let tokens = KEY_BLOCK.min(shape.tokens - block);
            let before = max;
            let depth = shape.head_dim.div_ceil(2);
            assert!(queries.len() >= depth * G * LANES);
            for (key, scores) in (0..tokens).step_by(TILE_ROWS).zip(scores.chunks_exact_mut(TILE_ROWS * G * LANES)) {
                let rows = &keys[(block + key) * padded_dim..][..TILE_ROWS * padded_dim];
                // SAFETY: `rows` holds the pairs of `TILE_ROWS` keys, and `queries` `depth` rows of `G` groups.
                let sums = unsafe {
                    tile::<V::Ints, G>(rows.as_ptr().cast(), padded_dim / 2, 1, queries.as_ptr(), G * LANES, depth)
                };
                for (r, to) in scores.chunks_exact_mut(G * LANES).enumerate() {
                    for g in 0..G {
                        let score = sums[r][g].to_floats();
                        max[g] = max[g].max(score);
                        store(score, &mut to[g * LANES..]);
                    }
                }
            }
            let mut block_sums = [V::Ints::splat(0); G];
            // A key that is missing in a pair weighs nothing.
            scores[tokens * G * LANES..][..tokens % 2 * G * LANES].fill(f32::NEG_INFINITY);
            for rows in scores.chunks_exact_mut(2 * G * LANES).take(tokens.div_ceil(2)) {
                for g in 0..G {
                    let low = weights_of(load_up_to_16::<V>(&rows[g * LANES..][..LANES]), max[g], head.exponent);
                    let high = weights_of(load_up_to_16::<V>(&rows[(G + g) * LANES..][..LANES]), max[g], head.exponent);
                    let pair = low.pair(high);
                    block_sums[g] = add_pairs(block_sums[g], pair);
                    store(pair.bits_to_floats(), &mut rows[g * LANES..]);
                }
            }
            let mut factor = [V::splat(0.0); G];
            for g in 0..G {
                factor[g] = factor_of(before[g], max[g], head.exponent);
                weight_sums[g] = weight_sums[g].mul_add(factor[g], block_sums[g].to_floats());
            }
            let depth = tokens.div_ceil(2);
            let values = &values[block / 2 * padded_dim..][..depth * padded_dim];
            let weights = &scores[..2 * depth * G * LANES];
            let channels = (0..shape.head_dim).step_by(TILE_ROWS);
            for (channel, totals) in channels.zip(totals.chunks_exact_mut(TILE_ROWS * G * LANES)) {
                // SAFETY: `values` holds `depth` rows of all channels with padding, and `weights` as many of twice `G` groups.
                let sums = unsafe {
                    let (values, weights) = (values.as_ptr().add(channel), weights.as_ptr().cast());
                    tile::<V::Ints, G>(values, 1, padded_dim, weights, 2 * G * LANES, depth)
                };
                for (r, to) in totals.chunks_exact_mut(G * LANES).enumerate() {
                    for g in 0..G {
                        let to = &mut to[g * LANES..];
                        let total: V = load_up_to_16(to);
                        store(total.mul_add(factor[g], sums[r][g].to_floats()), to);
                    }
                }
            }
        }
        self.finish::<V, G>(head, first, weight_sums);
    }
}
