//! Multi-head self-attention of one sequence in f32 (Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>).
//!
//! The order of every sum is fixed: a score sums over the head's channels in order, the softmax sums as
//! [`Lanes::sum`] says, and the context sums over the keys in order. Tiles only choose which results are worked on
//! together: a few queries at a time meet all keys and values of a head, which were laid out for that first.

use super::isa::Kernels;
use super::lanes::{LANES, LaneKernel, Lanes};
use super::pack::AlignedVec;
use super::softmax::exp_row;

/// Most queries worked on together.
const MAX_QUERIES: usize = 6;

/// Memory of [`Kernels::attention`], reused between calls; grows to the longest sequence seen.
#[derive(Clone, Debug, Default)]
pub struct AttentionScratch {
    /// Keys of one head, transposed, in panels of 16 to 64 tokens: `[tokens / 64][head_dim][64]`.
    keys: AlignedVec<f32>,
    /// Values of one head, in panels of 16 to 64 channels: `[head_dim / 64][tokens][64]`.
    values: AlignedVec<f32>,
    /// Scores of a few queries, `[6][tokens padded to 16]`.
    scores: AlignedVec<f32>,
}

impl AttentionScratch {
    /// Empty scratch memory.
    pub fn new() -> Self {
        Self::default()
    }
}

/// A matrix `[depth, 16 * groups]` in panels of at most [`Lanes::TILE_GROUPS`] groups of 16 columns, each
/// `[depth, 16 * its groups]`.
#[derive(Clone, Copy)]
struct Panels {
    groups: usize,
    depth: usize,
}

impl Panels {
    /// Room for `columns` columns.
    fn new(columns: usize, depth: usize) -> Panels {
        Panels { groups: columns.div_ceil(LANES), depth }
    }

    /// Elements with padding.
    fn len(self) -> usize {
        self.groups * LANES * self.depth
    }

    /// Where group `group` of row 0 lies, and how far it is to the next row.
    #[inline(always)]
    fn position<V: Lanes>(self, group: usize) -> (usize, usize) {
        let first = group / V::TILE_GROUPS * V::TILE_GROUPS;
        let width = V::TILE_GROUPS.min(self.groups - first);
        ((first * self.depth + group - first) * LANES, width * LANES)
    }
}

/// `Q` rows of `a` (`depth` values each, `a_stride` apart) times `G` groups of columns of a panel at `b`.
///
/// # Safety
/// The rows and the panel are readable.
#[inline(always)]
unsafe fn tile<V: Lanes, const Q: usize, const G: usize>(
    a: *const f32,
    a_stride: usize,
    b: *const f32,
    depth: usize,
) -> [[V; G]; Q] {
    let mut sums = [[V::splat(0.0); G]; Q];
    for l in 0..depth {
        // SAFETY: row `l` of the panel is `16 * G` readable values.
        let mut row = [V::splat(0.0); G];
        for (g, b_group) in row.iter_mut().enumerate() {
            // SAFETY: row `l` of the panel is `16 * G` readable values.
            *b_group = unsafe { V::load(b.add((l * G + g) * LANES)) };
        }
        for (q, sums) in sums.iter_mut().enumerate() {
            // SAFETY: row `q` of `a` has `depth > l` readable values.
            let a = V::splat(unsafe { *a.add(q * a_stride + l) });
            for g in 0..G {
                sums[g] = a.mul_add(row[g], sums[g]);
            }
        }
    }
    sums
}

/// [`tile`] over all columns of `panels`; hands each group of sums to `put(row, group, sums)`.
///
/// # Safety
/// `Q` rows of `panels.depth` values from `a` on, `a_stride` apart, and `panels.len()` values from `b` on are readable.
#[inline(always)]
unsafe fn multiply<V: Lanes, const Q: usize>(
    a: *const f32,
    a_stride: usize,
    b: *const f32,
    panels: Panels,
    mut put: impl FnMut(usize, usize, V),
) {
    for first in (0..panels.groups).step_by(V::TILE_GROUPS) {
        let b = b.wrapping_add(panels.position::<V>(first).0);
        macro_rules! tile_of {
            ($groups:literal) => {{
                // SAFETY: the caller's promise; the panel has this many groups.
                let sums = unsafe { tile::<V, Q, $groups>(a, a_stride, b, panels.depth) };
                for q in 0..Q {
                    for g in 0..$groups {
                        put(q, first + g, sums[q][g]);
                    }
                }
            }};
        }
        match V::TILE_GROUPS.min(panels.groups - first) {
            4 => tile_of!(4),
            3 => tile_of!(3),
            2 => tile_of!(2),
            _ => tile_of!(1),
        }
    }
}

/// [`Lanes::load_first`] with zeros, quick when all 16 lanes are there.
///
/// # Safety
/// `from` points at `count` readable values, at most 16.
#[inline(always)]
unsafe fn load_up_to_16<V: Lanes>(from: *const f32, count: usize) -> V {
    // SAFETY: the caller's promise.
    unsafe { if count == LANES { V::load(from) } else { V::load_first(from, count, 0.0) } }
}

struct Attention<'a> {
    qkv: &'a [f32],
    heads: usize,
    head_dim: usize,
    tokens: usize,
    scratch: &'a mut AttentionScratch,
    out: &'a mut [f32],
}

impl Attention<'_> {
    /// Lays out the keys and values of a head.
    #[inline(always)]
    fn pack<V: Lanes>(&mut self, head: usize, key_panels: Panels, value_panels: Panels) {
        let (head_dim, hidden) = (self.head_dim, self.heads * self.head_dim);
        let keys = &mut self.scratch.keys.as_mut_slice()[..key_panels.len()];
        let values = &mut self.scratch.values.as_mut_slice()[..value_panels.len()];
        for (group, rows) in self.qkv.chunks(LANES * 3 * hidden).enumerate() {
            let (at, stride) = key_panels.position::<V>(group);
            for d in (0..head_dim).step_by(LANES) {
                let count = LANES.min(head_dim - d);
                let mut block = [V::splat(0.0); LANES];
                for (block, row) in block.iter_mut().zip(rows.chunks_exact(3 * hidden)) {
                    let key = &row[hidden + head * head_dim + d..][..count];
                    // SAFETY: `key` holds `count` values.
                    *block = unsafe { load_up_to_16(key.as_ptr(), count) };
                }
                let block = V::transpose(block);
                for (column, to) in block.iter().zip(keys[at + d * stride..].chunks_mut(stride)).take(count) {
                    // SAFETY: the slice checks that there are 16 values.
                    unsafe { column.store(to[..LANES].as_mut_ptr()) };
                }
            }
        }
        for (t, row) in self.qkv.chunks_exact(3 * hidden).enumerate() {
            let value = &row[2 * hidden + head * head_dim..][..head_dim];
            for (group, from) in value.chunks(LANES).enumerate() {
                let (at, stride) = value_panels.position::<V>(group);
                let to = &mut values[at + t * stride..][..LANES];
                // SAFETY: `from` holds its length of values, and `to` 16.
                unsafe { load_up_to_16::<V>(from.as_ptr(), from.len()).store(to.as_mut_ptr()) };
            }
        }
    }

    /// The context of `Q` queries from token `t` on.
    #[inline(always)]
    fn queries<V: Lanes, const Q: usize>(&mut self, head: usize, t: usize, key_panels: Panels, value_panels: Panels) {
        let (head_dim, hidden) = (self.head_dim, self.heads * self.head_dim);
        let padded_tokens = key_panels.groups * LANES;
        let query = &self.qkv[t * 3 * hidden + head * head_dim..][..(Q - 1) * 3 * hidden + head_dim];
        let context = &mut self.out[t * hidden + head * head_dim..][..(Q - 1) * hidden + head_dim];
        let (keys, values) = (self.scratch.keys.as_slice(), self.scratch.values.as_slice());
        let scores = &mut self.scratch.scores.as_mut_slice()[..Q * padded_tokens];
        assert!(keys.len() >= key_panels.len() && values.len() >= value_panels.len());
        let at = scores.as_mut_ptr();
        let scale = V::splat(1.0 / (head_dim as f32).sqrt());
        // SAFETY: `query` holds `Q` rows of `head_dim` values, and the keys their panels. Row `q`, group `g` of the
        // scores lies inside `Q * padded_tokens` values.
        unsafe {
            multiply::<V, Q>(
                query.as_ptr(),
                3 * hidden,
                keys.as_ptr(),
                key_panels,
                #[inline(always)]
                |q, g, score: V| {
                    score.mul(scale).store(at.add(q * padded_tokens + g * LANES));
                },
            );
        }
        let mut inverse = [0.0; Q];
        for (inverse, row) in inverse.iter_mut().zip(scores.chunks_exact_mut(padded_tokens)) {
            *inverse = 1.0 / exp_row::<V>(&mut row[..self.tokens]);
        }
        let to = context.as_mut_ptr();
        // SAFETY: `scores` holds `Q` rows of at least `tokens` values, and the values their panels. Row `q`, group
        // `g` of the context has the channels from `16 g` to `head_dim` at most.
        unsafe {
            multiply::<V, Q>(
                scores.as_ptr(),
                padded_tokens,
                values.as_ptr(),
                value_panels,
                #[inline(always)]
                |q, g, sum: V| {
                    let (y, to) = (sum.mul(V::splat(inverse[q])), to.add(q * hidden + g * LANES));
                    match head_dim - g * LANES {
                        LANES.. => y.store(to),
                        count => y.store_first(to, count),
                    }
                },
            );
        }
    }
}

impl LaneKernel for Attention<'_> {
    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        let key_panels = Panels::new(self.tokens, self.head_dim);
        let value_panels = Panels::new(self.head_dim, self.tokens);
        self.scratch.keys.resize(key_panels.len());
        self.scratch.values.resize(value_panels.len());
        self.scratch.scores.resize(MAX_QUERIES * key_panels.groups * LANES);
        for head in 0..self.heads {
            self.pack::<V>(head, key_panels, value_panels);
            let mut t = 0;
            while t < self.tokens {
                let rest = self.tokens - t;
                let queries = rest.div_ceil(rest.div_ceil(MAX_QUERIES));
                match queries {
                    1 => self.queries::<V, 1>(head, t, key_panels, value_panels),
                    2 => self.queries::<V, 2>(head, t, key_panels, value_panels),
                    3 => self.queries::<V, 3>(head, t, key_panels, value_panels),
                    4 => self.queries::<V, 4>(head, t, key_panels, value_panels),
                    5 => self.queries::<V, 5>(head, t, key_panels, value_panels),
                    _ => self.queries::<V, MAX_QUERIES>(head, t, key_panels, value_panels),
                }
                t += queries;
            }
        }
    }
}

impl Kernels {
    /// Softmax attention of one sequence over itself, all heads: `softmax(q k^T / sqrt(head_dim)) v`.
    ///
    /// - `qkv` `[tokens, 3 * heads * head_dim]`: in each row the queries of all heads, then the keys, then the values.
    /// - `out` `[tokens, heads * head_dim]`.
    ///
    /// # Panics
    /// When sizes do not fit together.
    pub fn attention(
        self,
        qkv: &[f32],
        heads: usize,
        head_dim: usize,
        scratch: &mut AttentionScratch,
        out: &mut [f32],
    ) {
        let hidden = heads * head_dim;
        let tokens = out.len().checked_div(hidden).unwrap_or(0);
        assert_eq!(out.len(), tokens * hidden, "the attention output is no whole number of rows of {hidden}");
        assert_eq!(qkv.len(), 3 * out.len(), "attention needs a query, a key and a value per output");
        if tokens > 0 {
            self.run(Attention { qkv, heads, head_dim, tokens, scratch, out });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::reference;
    use crate::kernels::testing::{GUARDS, Guarded, Random, same_on_every_isa};

    const SHAPES: [(usize, usize, usize); 9] = [
        (1, 1, 1),
        (2, 3, 5),
        (6, 1, 16),
        (7, 2, 17),
        (16, 2, 32),
        (17, 3, 64),
        (65, 1, 80),
        (70, 2, 31),
        (129, 1, 130),
    ];

    #[test]
    fn attention_is_close_to_the_reference() {
        for (tokens, heads, head_dim) in SHAPES.into_iter().chain([(513, 1, 32)]) {
            let qkv = Random::new(tokens as u64).floats(tokens * 3 * heads * head_dim, 2.0);
            let exact = reference::attention(&qkv, heads, head_dim);
            for kernels in Kernels::available() {
                let mut out = vec![0.0; tokens * heads * head_dim];
                kernels.attention(&qkv, heads, head_dim, &mut AttentionScratch::new(), &mut out);
                for (at, (&y, exact)) in out.iter().zip(&exact).enumerate() {
                    let shape = (tokens, heads, head_dim);
                    assert!((f64::from(y) - exact).abs() <= 1e-5, "{} {shape:?} {at}: {y} for {exact}", kernels.isa());
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
                            kernels.attention(&garbage, 1, 140, &mut scratch, &mut vec![0.0; 200 * 140]);
                        }
                        kernels.attention(&qkv, heads, head_dim, &mut scratch, &mut out);
                        out
                    });
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
                    kernels.attention(&qkv, heads, head_dim, &mut AttentionScratch::new(), &mut out);
                    assert!(out.iter().all(|y| (y - 0.5).abs() < 1e-6));
                }
            }
        }
    }

    #[test]
    fn no_tokens_and_no_heads_are_fine() {
        Kernels::detect().attention(&[], 2, 3, &mut AttentionScratch::new(), &mut []);
        Kernels::detect().attention(&[], 0, 3, &mut AttentionScratch::new(), &mut []);
    }

    #[test]
    #[should_panic(expected = "a query, a key and a value per output")]
    fn rows_of_another_size_are_refused() {
        Kernels::detect().attention(&[0.0; 17], 1, 2, &mut AttentionScratch::new(), &mut [0.0; 6]);
    }
}
