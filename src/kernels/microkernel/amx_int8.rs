//! The integer kernel on tiles: `tdpbusd` adds the product of 16 rows of 64 u8 and 64 x 16 s8 to 16 x 16 i32, exactly.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::{LINE, Layout, Out, Product};
use crate::kernels::gemm::{Panels, Rows};
use crate::kernels::tiles::{self, ROW_BYTES, SIDE, Tiles};

/// Blocks of 32 rows by 32 channels, or of 16 by 64; both are four tiles of sums.
pub(crate) struct AmxInt8;

/// Values of `k` that one instruction multiplies.
const STEP: usize = ROW_BYTES;
/// Most steps before the next block has its turn: those of two tiles of rows and of a group of panels, 36 KiB, fit the
/// nearest cache.
const MAX_STEPS: usize = 6;
/// Panels that all rows of a row block meet before the next ones are read.
const GROUP: usize = 4;
/// Bytes of activations in a row block: with the weights of a group they fit the second-level cache of CPUs with tiles,
/// which has 2 MiB.
const ROW_BLOCK_BYTES: usize = 768 * 1024;
/// Most tiles of rows in it.
const MAX_TILES: usize = 16;
/// Bytes of the tile of 16 channels of one step.
const TILE: usize = SIDE * STEP;
/// Sums of half a block.
const HALF: usize = 2 * SIDE * SIDE;

/// Sums of a block: of each half, rows of 32.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Sums(MaybeUninit<[i32; 2 * HALF]>);

impl Product for AmxInt8 {
    fn layout() -> Layout {
        Layout { columns: SIDE, group: 4, step: STEP }
    }

    unsafe fn product(a: Rows<'_>, w: Panels<'_>, out: Out, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { product(a, w, out, stride) };
    }
}

/// A product whose rows are cut into tiles of one height.
#[derive(Clone, Copy)]
struct Job<'a> {
    a: Rows<'a>,
    w: Panels<'a>,
    out: Out,
    stride: usize,
    height: usize,
}

/// Where half a block is: a tile of rows by two panels.
#[derive(Clone, Copy)]
struct Half {
    row: usize,
    panel: usize,
}

/// Two halves, of the same two panels or of the same rows.
type Block = [Half; 2];

/// # Safety
/// As [`Product::product`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn product(a: Rows<'_>, w: Panels<'_>, out: Out, stride: usize) {
    let (m, panels) = (a.scale.len(), w.n.div_ceil(SIDE));
    if m == 0 || panels == 0 {
        return;
    }
    let row_tiles = m.div_ceil(SIDE);
    let job = Job { a, w, out, stride, height: m.div_ceil(row_tiles) };
    // The last tile and the last group may overlap those before: what is computed twice is written twice.
    let row = |tile: usize| (tile * job.height).min(m - job.height);
    // SAFETY: the caller promises tiles.
    let _tiles = unsafe { Tiles::configure(job.height) };
    if panels < GROUP {
        for (tile, panel) in (0..row_tiles).flat_map(|tile| (0..panels).map(move |panel| (tile, panel))) {
            // SAFETY: tiles are configured for `height` rows, which start at `row(tile)` within `m`.
            unsafe { job.single(row(tile), panel) };
        }
        return;
    }
    let steps = w.depth / STEP;
    let row_block = (ROW_BLOCK_BYTES / (job.height * w.depth).max(1)).clamp(2, MAX_TILES).next_multiple_of(2);
    let mut sums = [Sums(MaybeUninit::uninit()); MAX_TILES];
    for first in (0..row_tiles).step_by(row_block) {
        let tiles = row_block.min(row_tiles - first);
        for group in (0..panels).step_by(GROUP) {
            let panel = group.min(panels - GROUP);
            // From the second pair of tiles on, rows find the weights of a turn in the nearest cache and leave time to fetch
            // the next ones; before, there is nothing to keep, and nothing to fetch beside.
            let (turns, mut ahead) = match tiles {
                ..=2 => (1, Ahead::nothing()),
                _ => (steps.div_ceil(MAX_STEPS).max(1), Ahead::new(w, panel + GROUP, tiles)),
            };
            for turn in 0..turns {
                let steps = steps * turn / turns..steps * (turn + 1) / turns;
                for tile in 0..tiles {
                    // Two tiles of rows meet two panels, then the next two; one without a second meets all four.
                    let block = match (tile % 2, tile + 1 == tiles) {
                        (0, true) => [(tile, 0), (tile, 2)],
                        (0, false) => [(tile, 0), (tile + 1, 0)],
                        _ => [(tile - 1, 2), (tile, 2)],
                    };
                    let block = block.map(|(tile, at)| Half { row: row(first + tile), panel: panel + at });
                    // Sums that wait for their next turn have a place each; others stay in the nearest cache.
                    let sums = &mut sums[if turns > 1 { tile } else { 0 }];
                    // SAFETY: tiles are configured for `height` rows, which start at each row within `m`; `GROUP` panels
                    // start at `panel`.
                    unsafe {
                        job.multiply(block, steps.clone(), turn > 0, sums, &mut ahead);
                        if turn + 1 == turns {
                            job.finish(block, sums);
                        }
                    }
                }
            }
        }
    }
}

/// Weights that are needed soon, on their way to the second-level cache.
struct Ahead {
    next: *const i8,
    /// Lines not yet asked for.
    lines: usize,
    /// Lines to ask for in each step.
    rate: usize,
}

impl Ahead {
    fn nothing() -> Self {
        Ahead { next: std::ptr::null(), lines: 0, rate: 0 }
    }

    /// The group of panels from `panel` on, as slowly as the products of `tiles` tiles of rows with the group before allow.
    fn new(w: Panels<'_>, panel: usize, tiles: usize) -> Self {
        let panels = w.n.div_ceil(SIDE).saturating_sub(panel).min(GROUP);
        Ahead {
            next: w.weights.as_ptr().wrapping_add(panel * SIDE * w.depth),
            lines: panels * SIDE * w.depth / LINE,
            rate: (GROUP * TILE / LINE).div_ceil(tiles),
        }
    }

    #[inline(always)]
    fn step(&mut self) {
        let lines = self.rate.min(self.lines);
        self.lines -= lines;
        for _ in 0..lines {
            // SAFETY: prefetching never faults, so the address may lie outside of the panels.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.next) };
            self.next = self.next.wrapping_add(LINE);
        }
    }
}

impl Job<'_> {
    /// The activations from row `i` on.
    #[inline(always)]
    fn rows(&self, i: usize) -> *const u8 {
        self.a.bytes[i * self.a.stride..].as_ptr()
    }

    #[inline(always)]
    fn panel(&self, panel: usize) -> *const i8 {
        self.w.weights[panel * SIDE * self.w.depth..].as_ptr()
    }

    /// Some steps of a block, on top of its sums when it has some.
    ///
    /// # Safety
    /// Tiles are configured for `height` rows, which exist from the rows of both halves on, as do two panels from their
    /// panels on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn multiply(
        &self,
        [half, other]: Block,
        steps: Range<usize>,
        has_sums: bool,
        sums: &mut Sums,
        ahead: &mut Ahead,
    ) {
        let sums = sums.0.as_mut_ptr().cast::<i32>();
        let second = sums.wrapping_add(HALF);
        let (places, stride) =
            ([sums, sums.wrapping_add(SIDE), second, second.wrapping_add(SIDE)], 2 * SIDE * size_of::<i32>());
        let (a, other_a) = (self.rows(half.row), self.rows(other.row));
        let (b, next) = (self.panel(half.panel), SIDE * self.w.depth);
        // SAFETY: `Product::product` promises `depth` readable bytes from the start of each row, and whole panels; `sums`
        // holds two halves.
        unsafe {
            if has_sums {
                tiles::load(places, stride);
            } else {
                tiles::zero();
            }
            for step in steps {
                ahead.step();
                let (a, b) = (a.wrapping_add(step * STEP), b.wrapping_add(step * TILE));
                if half.panel == other.panel {
                    let other_a = other_a.wrapping_add(step * STEP);
                    tiles::multiply_2x2([a, other_a], self.a.stride, [b, b.wrapping_add(next)]);
                } else {
                    tiles::multiply_1x4(a, self.a.stride, b, next);
                }
            }
            tiles::store(places, stride);
        }
    }

    /// Writes a block.
    ///
    /// # Safety
    /// `sums` holds its sums, and its rows and panels exist.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn finish(&self, [half, other]: Block, sums: &Sums) {
        let sums = sums.0.as_ptr().cast::<i32>();
        // SAFETY: the caller's promise.
        unsafe {
            self.write::<2>(sums, half);
            self.write::<2>(sums.wrapping_add(HALF), other);
        }
    }

    /// One tile of rows by one panel.
    ///
    /// # Safety
    /// Tiles are configured for `height` rows, which exist from `row` on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn single(&self, row: usize, panel: usize) {
        let mut sums = Sums(MaybeUninit::uninit());
        let to = sums.0.as_mut_ptr().cast::<i32>();
        // SAFETY: as in `multiply`; all four tiles fit `sums`.
        unsafe {
            tiles::zero();
            for step in 0..self.w.depth / STEP {
                let (a, b) = (self.rows(row).wrapping_add(step * STEP), self.panel(panel).wrapping_add(step * TILE));
                tiles::multiply_1x1(a, self.a.stride, b);
            }
            let tile = SIDE * SIDE;
            tiles::store([to, to.add(tile), to.add(2 * tile), to.add(3 * tile)], SIDE * size_of::<i32>());
            self.write::<1>(to, Half { row, panel });
        }
    }

    /// Writes a tile of rows by `C` panels, scaled when floats are wanted.
    ///
    /// # Safety
    /// `sums` holds `height` rows of `16 * C` sums; the rows and panels exist.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn write<const C: usize>(&self, sums: *const i32, Half { row, panel }: Half) {
        let (column, n) = (panel * SIDE, self.w.n);
        let (minus_column_sum, column_scale, bias) =
            (&self.w.minus_column_sum[column..], &self.w.scale[column..], &self.w.bias[column..]);
        assert!(minus_column_sum.len() >= C * SIDE && column_scale.len() >= C * SIDE && bias.len() >= C * SIDE);
        // Loops, not closures: one that is not inlined is compiled without the instruction set.
        let (mut sum_lanes, mut scale_lanes) = ([_mm512_setzero_si512(); C], [_mm512_setzero_ps(); C]);
        let (mut bias_lanes, mut masks) = ([_mm512_setzero_ps(); C], [0; C]);
        for v in 0..C {
            // SAFETY: whole panels have sums, scales and biases (asserted above).
            unsafe {
                sum_lanes[v] = _mm512_loadu_si512(minus_column_sum.as_ptr().add(SIDE * v).cast());
                scale_lanes[v] = _mm512_loadu_ps(column_scale.as_ptr().add(SIDE * v));
                bias_lanes[v] = _mm512_loadu_ps(bias.as_ptr().add(SIDE * v));
            }
            masks[v] = ((1u32 << n.saturating_sub(column + v * SIDE).min(SIDE)) - 1) as __mmask16;
        }
        let (zero_point, row_scale) = (&self.a.zero_point[row..][..self.height], &self.a.scale[row..][..self.height]);
        for i in 0..self.height {
            let z = _mm512_set1_epi32(zero_point[i]);
            let scale = _mm512_set1_ps(row_scale[i]);
            let at = (row + i) * self.stride + column;
            for v in 0..C {
                // SAFETY: `sums` holds `height` rows of `16 * C`.
                let raw = unsafe { _mm512_loadu_si512(sums.add((i * C + v) * SIDE).cast()) };
                let sum = _mm512_add_epi32(raw, _mm512_mullo_epi32(z, sum_lanes[v]));
                match self.out {
                    // SAFETY: the output has `n` values in each row, `stride` apart; masked lanes are not touched in memory.
                    Out::Sums(out) => unsafe {
                        _mm512_mask_storeu_epi32(out.wrapping_add(at + SIDE * v), masks[v], sum);
                    },
                    Out::Floats(out) => {
                        let y = _mm512_fmadd_ps(
                            _mm512_cvtepi32_ps(sum),
                            _mm512_mul_ps(scale, scale_lanes[v]),
                            bias_lanes[v],
                        );
                        // SAFETY: as for the sums.
                        unsafe { _mm512_mask_storeu_ps(out.wrapping_add(at + SIDE * v), masks[v], y) };
                    }
                }
            }
        }
    }
}
