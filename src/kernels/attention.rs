//! Multi-head self-attention of one sequence (Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>), in products of
//! integers.
//!
//! Queries, keys and values become integers with one scale per head (values: per channel) over the whole sequence, and
//! `e^(score - max)` becomes an integer of 14 bits. Ranges are such that all sums are exact both in i32, of pairs of i16
//! (`vpdpwssd`, `vpmaddwd`), and on tiles: queries and keys have 8 significant bits, which a bf16 holds, and their
//! products sum to less than 2^24, which an f32 holds (`tdpbf16ps`); values and weights are multiplied byte by byte
//! (`tdpbsud`, `tdpbuud`). The error is small beside that of the 8 bits of the linear layers: the output is within 1e-2
//! of the exact one for values up to 2.
//!
//! Queries lie across the lanes, so that their maxima and sums need no work across lanes. They meet the keys in blocks
//! of 128, with a running maximum (Milakov & Gimelshein 2018, <https://arxiv.org/abs/1805.02867>), so that everything
//! stays in the first-level cache however long the sequence is. The order of all f32 steps is fixed.

use std::f32::consts::LOG2_E;

use super::isa::{Isa, Kernels};
use super::lanes::{Ints, LANES, LaneKernel, Lanes};
use super::pack::AlignedVec;

#[cfg(target_arch = "x86_64")]
mod on_tiles;

/// Keys that queries meet together.
const KEY_BLOCK: usize = 128;
/// `e^(score - max)` is an integer up to this.
const WEIGHT_MAX: i32 = 1 << 14;
/// Values are integers up to this: a block of them times the largest weights stays in i32.
const VALUE_MAX: i32 = (1 << 10) - 1;
/// No score is below this, nor above its opposite.
const SCORE_MIN: f32 = -(1 << 24) as f32;
/// Keys that AMX tiles meet together; a multiple of `TILE_ROWS`.
const CHUNK: usize = 64;
/// Rows of a register tile, keys or channels.
const TILE_ROWS: usize = 8;
/// Groups of 16 queries worked on together, at most.
const MAX_GROUPS: usize = 2;

/// The largest integer of queries and keys, so that a score is below 2^24, with a tenth to spare for the rounding to the 8
/// significant bits that it has.
fn query_max(head_dim: usize) -> i32 {
    let max = ((1 << 24) / head_dim.max(1) as u32).isqrt() * 9 / 10;
    let below = (u32::BITS - max.leading_zeros()).saturating_sub(8);
    (max >> below << below) as i32
}

/// Memory of [`Kernels::attention`], reused between calls; grows to the longest sequence seen.
#[derive(Clone, Debug, Default)]
pub struct AttentionScratch {
    /// Largest magnitude of each column of the sequence, `[3 * heads * head_dim]`.
    magnitudes: AlignedVec<f32>,
    /// Keys of one head, `[tokens][head_dim]`.
    keys: AlignedVec<i16>,
    /// Values of one head, pairs of tokens: `[tokens / 2][head_dim]`.
    values: AlignedVec<i32>,
    /// Scale of each channel of the values of one head, `[head_dim]`.
    value_scale: AlignedVec<f32>,
    /// Sixteen quantized queries, `[16][head_dim]`.
    rows: AlignedVec<i16>,
    /// Queries of one head, pairs of channels: `[head_dim / 2][16 * groups]`.
    queries: AlignedVec<i32>,
    /// Scores of a block of keys, `[128][16 * groups]`.
    scores: AlignedVec<f32>,
    /// Weights of a block of keys, pairs of tokens: `[64][16 * groups]`.
    weights: AlignedVec<i32>,
    /// Weighted sums of values, `[head_dim][16 * groups]`.
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
        self.magnitudes.resize((3 * shape.hidden()).next_multiple_of(LANES));
        self.keys.resize(shape.tokens.next_multiple_of(CHUNK) * shape.padded_dim());
        self.values.resize(shape.tokens.div_ceil(2) * shape.padded_dim());
        self.value_scale.resize(shape.padded_dim());
        self.rows.resize(LANES * shape.padded_dim());
        self.queries.resize(shape.padded_dim() / 2 * columns);
        self.scores.resize(KEY_BLOCK * columns);
        self.weights.resize(KEY_BLOCK / 2 * columns);
        self.totals.resize(shape.padded_dim() * columns);
        #[cfg(target_arch = "x86_64")]
        self.bytes.reserve(shape);
    }
}

/// `TILE_ROWS` rows of pairs (row `r`, pair `l` at `a + r * row_step + l * pair_step`) times `G` groups of columns
/// `[depth][16 * G]` at `b`.
///
/// # Safety
/// All of these pairs are readable.
#[inline(always)]
unsafe fn tile<I: Ints, const G: usize>(
    a: *const i32,
    row_step: usize,
    pair_step: usize,
    b: *const i32,
    depth: usize,
) -> [[I; G]; TILE_ROWS] {
    let mut sums = [[I::splat(0); G]; TILE_ROWS];
    for l in 0..depth {
        let mut row = [I::splat(0); G];
        for (g, b_group) in row.iter_mut().enumerate() {
            // SAFETY: row `l` of `b` is `16 * G` readable pairs.
            *b_group = unsafe { I::load(b.add((l * G + g) * LANES)) };
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

/// The first 16 values, or what is there and zeros.
#[inline(always)]
fn load_up_to_16<V: Lanes>(from: &[f32]) -> V {
    // SAFETY: no more values are read than `from` holds.
    unsafe {
        match from.len() {
            LANES.. => V::load(from.as_ptr()),
            count => V::load_first(from.as_ptr(), count, 0.0),
        }
    }
}

/// 16 integers.
#[inline(always)]
fn load_ints<I: Ints>(from: &[i32]) -> I {
    let from = &from[..LANES];
    // SAFETY: `from` holds 16 values.
    unsafe { I::load(from.as_ptr()) }
}

/// Writes 16 integers.
#[inline(always)]
fn store_ints<I: Ints>(ints: I, to: &mut [i32]) {
    let to = &mut to[..LANES];
    // SAFETY: `to` holds 16 values.
    unsafe { ints.store(to.as_mut_ptr()) }
}

/// Writes 16 values.
#[inline(always)]
fn store<V: Lanes>(x: V, to: &mut [f32]) {
    let to = &mut to[..LANES];
    // SAFETY: `to` holds 16 values.
    unsafe { x.store(to.as_mut_ptr()) }
}

/// `x * inverse` in `-max..=max`; a NaN becomes `-max`.
#[inline(always)]
fn clamp<V: Lanes>(x: V, inverse: V, max: i32) -> V {
    x.mul(inverse).max(V::splat(-max as f32)).min(V::splat(max as f32))
}

/// `round(x * inverse)` in `-max..=max`; a NaN becomes `-max`.
#[inline(always)]
fn quantize<V: Lanes>(x: V, inverse: V, max: i32) -> V::Ints {
    clamp(x, inverse, max).to_ints()
}

/// An integer rounded to 8 significant bits (Dekker 1971, <https://doi.org/10.1007/BF01397083>).
#[inline(always)]
fn significant_8<V: Lanes>(x: V) -> V {
    let scaled = x.mul(V::splat(((1 << 16) + 1) as f32));
    scaled.sub(scaled.sub(x))
}

/// Quantizes one row of a head to integers of 8 significant bits, in i16 or (for tiles) in bf16; `to` has room for whole
/// groups, and what lies past the row becomes 0.
#[inline(always)]
fn quantize_row<V: Lanes>(row: &[f32], inverse: V, max: i32, bf16: bool, to: &mut [i16]) {
    for (g, to) in to.chunks_exact_mut(LANES).enumerate() {
        let x: V = load_up_to_16(row.get(g * LANES..).unwrap_or_default());
        let x = significant_8(clamp(x, inverse, max).round());
        let half = if bf16 { x.bits().shift_right::<16>() } else { x.to_ints() };
        // SAFETY: `to` holds 16 values.
        unsafe { half.store_i16(to.as_mut_ptr()) };
    }
}

/// The scales that map `magnitudes` to `max`, and what to multiply with to quantize. Magnitudes too small for a scale
/// become 0; the scale is NaN when the magnitude is not finite.
#[inline(always)]
fn scales<V: Lanes>(magnitudes: V, max: i32) -> (V, V) {
    let scale = magnitudes.mul(V::splat(1.0 / max as f32));
    let inverse = scale.if_below(V::splat(f32::MIN_POSITIVE), V::splat(0.0), V::splat(1.0).div(scale));
    (scale.mul_add(V::splat(0.0), scale), inverse)
}

/// The largest of magnitudes, or NaN when there is one.
#[inline(always)]
fn largest<V: Lanes>(magnitudes: &[f32]) -> f32 {
    let mut largest = V::Ints::splat(0);
    for from in magnitudes.chunks(LANES) {
        largest = largest.max(load_up_to_16::<V>(from).bits());
    }
    f32::from_bits(largest.max_lane() as u32)
}

/// `WEIGHT_MAX * 2^t` for `t` up to 0, with `t` below -30 taken as -30, within 1.5e-4 of it: `t = n + f` with
/// `|f| <= 1/2`, and the cubic polynomial that is 1 at 0 and has the smallest largest error.
#[inline(always)]
fn weight<V: Lanes>(t: V) -> V {
    const C: f32 = WEIGHT_MAX as f32;
    let t = t.max(V::splat(-30.0));
    let n = t.round();
    let f = t.sub(n);
    let p = V::splat(5.517_566e-2 * C);
    let p = p.mul_add(f, V::splat(2.4262862e-1 * C));
    let p = p.mul_add(f, V::splat(6.9331086e-1 * C));
    let p = p.mul_add(f, V::splat(C));
    p.mul_exp2(n)
}

/// The integer weights of 16 scores.
#[inline(always)]
fn weights_of<V: Lanes>(scores: &[f32], max: V, exponent: V) -> V::Ints {
    weight(load_up_to_16::<V>(scores).sub(max).mul(exponent)).to_ints()
}

/// What sums so far are multiplied with when the maximum rises.
#[inline(always)]
fn factor_of<V: Lanes>(before: V, max: V, exponent: V) -> V {
    weight(before.sub(max).mul(exponent)).mul(V::splat(1.0 / WEIGHT_MAX as f32))
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

impl Attention<'_> {
    /// Finds the largest magnitude of each column of the sequence; NaN where a value is NaN.
    #[inline(always)]
    fn measure<V: Lanes>(&mut self) {
        let width = 3 * self.shape.hidden();
        // The bits of magnitudes are in the order of the magnitudes, with NaN above all.
        let without_sign = V::Ints::splat(i32::MAX);
        for (block, to) in self.scratch.magnitudes.as_mut_slice().chunks_mut(4 * LANES).enumerate() {
            let mut largest = [V::Ints::splat(0); 4];
            for rows in self.sequence {
                for row in rows.chunks_exact(width) {
                    for (g, largest) in largest.iter_mut().enumerate() {
                        let x: V = load_up_to_16(row.get((4 * block + g) * LANES..).unwrap_or_default());
                        *largest = largest.max(x.bits().and(without_sign));
                    }
                }
            }
            for (g, to) in to.chunks_exact_mut(LANES).enumerate() {
                store(largest[g].bits_to_floats(), to);
            }
        }
    }

    /// Quantizes the keys and values of a head.
    #[inline(always)]
    fn prepare<V: Lanes>(&mut self, head: usize, on_tiles: bool) -> Head<V> {
        let shape = self.shape;
        let padded_dim = shape.padded_dim();
        let AttentionScratch {
            magnitudes,
            keys,
            values,
            value_scale,
            #[cfg(target_arch = "x86_64")]
            bytes,
            ..
        } = &mut *self.scratch;
        let magnitudes = magnitudes.as_slice();
        let (query_scale, query_inverse) =
            scales(V::splat(largest::<V>(&magnitudes[shape.columns(0, head)])), shape.query_max);
        let (key_scale, key_inverse) =
            scales(V::splat(largest::<V>(&magnitudes[shape.columns(1, head)])), shape.query_max);
        let rows = self.sequence.iter().flat_map(|rows| rows.chunks_exact(3 * shape.hidden()));
        for (row, to) in rows.zip(keys.as_mut_slice().chunks_exact_mut(padded_dim)) {
            quantize_row(&row[shape.columns(1, head)], key_inverse, shape.query_max, on_tiles, to);
        }
        let value_magnitudes = &magnitudes[shape.columns(2, head)];
        for at in (0..shape.head_dim).step_by(LANES) {
            let (scale, inverse) = scales::<V>(load_up_to_16(&value_magnitudes[at..]), VALUE_MAX);
            store(scale, &mut value_scale.as_mut_slice()[at..]);
            #[cfg(target_arch = "x86_64")]
            if on_tiles {
                bytes.pack_values(self.sequence, shape, head, at, inverse);
                continue;
            }
            let mut rows = self.sequence.iter().flat_map(|rows| rows.chunks_exact(3 * shape.hidden()));
            for to in values.as_mut_slice().chunks_exact_mut(padded_dim) {
                let columns = shape.columns(2, head);
                let low = rows.next().map_or(&[][..], |row| &row[columns.clone()][at..]);
                let high = rows.next().map_or(&[][..], |row| &row[columns][at..]);
                let low = quantize(load_up_to_16::<V>(low), inverse, VALUE_MAX);
                let high = quantize(load_up_to_16::<V>(high), inverse, VALUE_MAX);
                store_ints(low.pair(high), &mut to[at..]);
            }
        }
        let exponent = query_scale.mul(key_scale).mul(V::splat(LOG2_E / (shape.head_dim as f32).sqrt()));
        Head {
            index: head,
            query_inverse,
            // An infinite factor would make a NaN of a difference of 0.
            exponent: exponent.min(V::splat(f32::MAX)),
            poison: query_scale.add(key_scale).mul(V::splat(0.0)),
        }
    }

    /// Quantizes the queries of `G` groups from row `first` on; those past the end are 0.
    #[inline(always)]
    fn pack_queries<V: Lanes, const G: usize>(&mut self, head: Head<V>, first: usize, on_tiles: bool) {
        let (shape, padded_dim) = (self.shape, self.shape.padded_dim());
        let AttentionScratch { rows, queries, .. } = &mut *self.scratch;
        for g in 0..G {
            let from = self.queries.chunks_exact(3 * shape.hidden()).skip(first + g * LANES);
            let rows = &mut rows.as_mut_slice()[..LANES * padded_dim];
            let mut there = 0;
            for (row, to) in from.zip(rows.chunks_exact_mut(padded_dim)) {
                let row = &row[shape.columns(0, head.index)];
                quantize_row(row, head.query_inverse, shape.query_max, on_tiles, to);
                there += 1;
            }
            rows[there * padded_dim..].fill(0);
            for pairs in (0..padded_dim / 2).step_by(LANES) {
                let mut block = [V::Ints::splat(0); LANES];
                for (block, row) in block.iter_mut().zip(rows.chunks_exact(padded_dim)) {
                    let from = &row[2 * pairs..][..2 * LANES];
                    // SAFETY: `from` holds 16 pairs; reads need no alignment.
                    *block = unsafe { V::Ints::load(from.as_ptr().cast()) };
                }
                let columns = V::Ints::transpose(block);
                for (l, column) in columns.iter().enumerate() {
                    store_ints(*column, &mut queries.as_mut_slice()[((pairs + l) * G + g) * LANES..]);
                }
            }
        }
    }

    /// The context of `G` groups of queries from row `first` on.
    #[inline(always)]
    fn attend<V: Lanes, const G: usize>(&mut self, head: Head<V>, first: usize) {
        self.pack_queries::<V, G>(head, first, false);
        let (shape, padded_dim) = (self.shape, self.shape.padded_dim());
        let AttentionScratch { keys, values, queries, scores, weights, totals, .. } = &mut *self.scratch;
        let (keys, values, queries) = (keys.as_slice(), values.as_slice(), queries.as_slice());
        let scores = &mut scores.as_mut_slice()[..KEY_BLOCK * G * LANES];
        let weights = &mut weights.as_mut_slice()[..KEY_BLOCK / 2 * G * LANES];
        let totals = &mut totals.as_mut_slice()[..padded_dim * G * LANES];
        totals.fill(0.0);
        let mut weight_sums = [V::splat(0.0); G];
        let mut max = [V::splat(SCORE_MIN); G];
        for block in (0..shape.tokens).step_by(KEY_BLOCK) {
            let tokens = KEY_BLOCK.min(shape.tokens - block);
            let depth = shape.head_dim.div_ceil(2);
            assert!(queries.len() >= depth * G * LANES);
            for (key, scores) in (0..tokens).step_by(TILE_ROWS).zip(scores.chunks_exact_mut(TILE_ROWS * G * LANES)) {
                let rows = &keys[(block + key) * padded_dim..][..TILE_ROWS * padded_dim];
                // SAFETY: `rows` holds the pairs of `TILE_ROWS` keys, and `queries` `depth` rows of `G` groups.
                let sums =
                    unsafe { tile::<V::Ints, G>(rows.as_ptr().cast(), padded_dim / 2, 1, queries.as_ptr(), depth) };
                for (r, to) in scores.chunks_exact_mut(G * LANES).enumerate() {
                    for g in 0..G {
                        store(sums[r][g].to_floats(), &mut to[g * LANES..]);
                    }
                }
            }
            let before = max;
            for row in scores[..tokens * G * LANES].chunks_exact(G * LANES) {
                for (g, max) in max.iter_mut().enumerate() {
                    *max = max.max(load_up_to_16(&row[g * LANES..]));
                }
            }
            let mut block_sums = [V::Ints::splat(0); G];
            let mut rows = scores[..tokens * G * LANES].chunks_exact(G * LANES);
            for to in weights.chunks_exact_mut(G * LANES).take(tokens.div_ceil(2)) {
                let (low, high) = (rows.next().unwrap_or_default(), rows.next());
                for g in 0..G {
                    let low = weights_of(&low[g * LANES..], max[g], head.exponent);
                    let high = match high {
                        Some(high) => weights_of(&high[g * LANES..], max[g], head.exponent),
                        None => V::Ints::splat(0),
                    };
                    block_sums[g] = block_sums[g].add(low).add(high);
                    store_ints(low.pair(high), &mut to[g * LANES..]);
                }
            }
            let mut factor = [V::splat(0.0); G];
            for g in 0..G {
                factor[g] = factor_of(before[g], max[g], head.exponent);
                weight_sums[g] = weight_sums[g].mul_add(factor[g], block_sums[g].to_floats());
            }
            let depth = tokens.div_ceil(2);
            let values = &values[block / 2 * padded_dim..][..depth * padded_dim];
            let weights = &weights[..depth * G * LANES];
            let channels = (0..shape.head_dim).step_by(TILE_ROWS);
            for (channel, totals) in channels.zip(totals.chunks_exact_mut(TILE_ROWS * G * LANES)) {
                // SAFETY: `values` holds `depth` rows of all channels with padding, and `weights` of `G` groups.
                let sums =
                    unsafe { tile::<V::Ints, G>(values.as_ptr().add(channel), 1, padded_dim, weights.as_ptr(), depth) };
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

    /// Writes the context of `G` groups of queries from row `first` on: `totals / weight_sums`.
    #[inline(always)]
    fn finish<V: Lanes, const G: usize>(&mut self, head: Head<V>, first: usize, weight_sums: [V; G]) {
        let shape = self.shape;
        let AttentionScratch { value_scale, totals, .. } = &*self.scratch;
        let totals = totals.as_slice();
        for g in 0..G {
            let inverse = V::splat(1.0).div(weight_sums[g]).add(head.poison);
            let rows = LANES.min(self.out.len() / shape.hidden() - (first + g * LANES));
            for channel in (0..shape.head_dim).step_by(LANES) {
                let mut block = [V::splat(0.0); LANES];
                for (l, block) in block.iter_mut().enumerate() {
                    *block = load_up_to_16::<V>(&totals[((channel + l) * G + g) * LANES..]).mul(inverse);
                }
                let scale = load_up_to_16(&value_scale.as_slice()[channel..]);
                let columns = V::transpose(block);
                let column = shape.columns(0, head.index).start + channel;
                let count = LANES.min(shape.head_dim - channel);
                for (l, row) in columns.iter().enumerate().take(rows) {
                    let y = row.mul(scale);
                    let to = &mut self.out[(first + g * LANES + l) * shape.hidden() + column..][..count];
                    if count == LANES {
                        store(y, to);
                    } else {
                        // SAFETY: `to` holds `count` values.
                        unsafe { y.store_first(to.as_mut_ptr(), count) };
                    }
                }
            }
        }
    }
}

impl LaneKernel for Attention<'_> {
    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        self.scratch.reserve(self.shape);
        self.measure::<V>();
        let queries = self.out.len() / self.shape.hidden();
        #[cfg(target_arch = "x86_64")]
        if V::BESIDE_TILES && self.on_tiles {
            return self.run_on_tiles::<V>();
        }
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
            self.run(Attention { on_tiles: self.isa() == Isa::AmxInt8, queries, sequence, shape, scratch, out });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::reference;
    use crate::kernels::testing::{GUARDS, Guarded, Random, same_on_every_isa};

    const SHAPES: [(usize, usize, usize); 12] = [
        (1, 1, 1),
        (2, 3, 5),
        (6, 1, 16),
        (7, 2, 17),
        (16, 2, 32),
        (17, 3, 64),
        (65, 1, 80),
        (70, 2, 31),
        (129, 1, 130),
        (64, 2, 32),
        (128, 1, 64),
        (300, 1, 32),
    ];

    #[test]
    fn attention_is_close_to_the_reference() {
        for (tokens, heads, head_dim) in SHAPES.into_iter().chain([(513, 1, 32)]) {
            let qkv = Random::new(tokens as u64).floats(tokens * 3 * heads * head_dim, 2.0);
            let exact = reference::attention(&qkv, heads, head_dim);
            for kernels in Kernels::available() {
                let mut out = vec![0.0; tokens * heads * head_dim];
                kernels.attention(&qkv, &[&qkv], heads, head_dim, &mut AttentionScratch::new(), &mut out);
                for (at, (&y, exact)) in out.iter().zip(&exact).enumerate() {
                    let shape = (tokens, heads, head_dim);
                    assert!((f64::from(y) - exact).abs() <= 1e-2, "{} {shape:?} {at}: {y} for {exact}", kernels.isa());
                }
            }
        }
    }

    #[test]
    fn attention_is_the_same_bits_on_every_isa_and_with_used_scratch_memory() {
        for (tokens, heads, head_dim) in SHAPES {
            let mut random = Random::new(tokens as u64);
            let len = tokens * 3 * heads * head_dim;
            for qkv in [random.floats(len, 2.0), random.floats(len, 30.0), random.wild_floats(len)] {
                for used in [false, true] {
                    same_on_every_isa((tokens, heads, head_dim, used), |kernels| {
                        let mut out = vec![0.0; tokens * heads * head_dim];
                        let mut scratch = AttentionScratch::new();
                        if used {
                            let garbage = vec![f32::NAN; 200 * 3 * 140];
                            kernels.attention(&garbage, &[&garbage], 1, 140, &mut scratch, &mut vec![0.0; 200 * 140]);
                        }
                        kernels.attention(&qkv, &[&qkv], heads, head_dim, &mut scratch, &mut out);
                        out
                    });
                }
            }
        }
    }

    #[test]
    fn neither_the_pieces_of_a_sequence_nor_the_choice_of_queries_change_a_bit() {
        for (tokens, heads, head_dim) in [(2, 3, 5), (17, 3, 64), (70, 2, 31), (129, 1, 32)] {
            let width = 3 * heads * head_dim;
            let qkv = Random::new(7).floats(tokens * width, 2.0);
            for kernels in Kernels::available() {
                let attend = |queries: &[f32], sequence: &[&[f32]]| {
                    let mut out = vec![0.0; queries.len() / 3];
                    kernels.attention(queries, sequence, heads, head_dim, &mut AttentionScratch::new(), &mut out);
                    out
                };
                let whole = attend(&qkv, &[&qkv]);
                for cut in [1, tokens / 2, tokens - 1] {
                    let (front, back) = qkv.split_at(cut * width);
                    let mut parts = attend(front, &[front, back]);
                    parts.extend(attend(back, &[front, &[], back]));
                    assert_eq!(parts, whole, "{} cut at {cut} of {tokens}", kernels.isa());
                }
            }
        }
    }

    #[test]
    fn attention_stays_inside_its_slices() {
        for (tokens, heads, head_dim) in SHAPES {
            for guard in GUARDS {
                let qkv = Guarded::new(&vec![0.5f32; tokens * 3 * heads * head_dim], guard);
                let mut out = Guarded::new(&vec![0f32; tokens * heads * head_dim], guard);
                for kernels in Kernels::available() {
                    kernels.attention(&qkv, &[&qkv], heads, head_dim, &mut AttentionScratch::new(), &mut out);
                    assert!(out.iter().all(|y| (y - 0.5).abs() < 1e-3));
                }
            }
        }
    }

    #[test]
    fn no_tokens_and_no_heads_are_fine() {
        Kernels::detect().attention(&[], &[], 2, 3, &mut AttentionScratch::new(), &mut []);
        Kernels::detect().attention(&[], &[], 0, 3, &mut AttentionScratch::new(), &mut []);
    }

    #[test]
    #[should_panic(expected = "a query, a key and a value per output")]
    fn rows_of_another_size_are_refused() {
        Kernels::detect().attention(&[0.0; 17], &[], 1, 2, &mut AttentionScratch::new(), &mut [0.0; 6]);
    }
}
