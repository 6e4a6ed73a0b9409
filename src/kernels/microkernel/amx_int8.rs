//! The integer kernel on tiles: `tdpbusd` adds the product of 16 rows of 64 u8 and 64 x 16 s8 to 16 x 16 i32, exactly.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::{Layout, Out, Product};
use crate::kernels::gemm::{Panels, ROW_BLOCK_BYTES, Rows};
use crate::kernels::tiles::{self, ROW_BYTES, SIDE, Tiles};

/// Blocks of 32 rows by 32 channels, or of 16 by 64; both are four tiles of sums.
pub(crate) struct AmxInt8;

/// Values of `k` that one instruction multiplies.
const STEP: usize = ROW_BYTES;
/// Panels that all rows of a row block meet before the next ones are read.
const GROUP: usize = 4;
/// Bytes of the tile of 16 channels of one step.
const TILE: usize = SIDE * STEP;

/// Sums of a block, in rows of up to 64.
#[repr(C, align(64))]
struct Sums(MaybeUninit<[i32; 4 * SIDE * SIDE]>);

impl Product for AmxInt8 {
    fn layout() -> Layout {
        Layout { columns: SIDE, group: 4, step: STEP }
    }

    unsafe fn product(a: Rows<'_>, w: Panels<'_>, out: Out) {
        // SAFETY: the caller's promise.
        unsafe { product(a, w, out) };
    }
}

/// A product whose rows are cut into tiles of one height.
#[derive(Clone, Copy)]
struct Job<'a> {
    a: Rows<'a>,
    w: Panels<'a>,
    out: Out,
    height: usize,
}

/// # Safety
/// As [`Product::product`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn product(a: Rows<'_>, w: Panels<'_>, out: Out) {
    let (m, panels) = (a.scale.len(), w.n.div_ceil(SIDE));
    if m == 0 || panels == 0 {
        return;
    }
    let row_tiles = m.div_ceil(SIDE);
    let job = Job { a, w, out, height: m.div_ceil(row_tiles) };
    // The last tile and the last group may overlap those before: what is computed twice is written twice.
    let row = |tile: usize| (tile * job.height).min(m - job.height);
    // SAFETY: the caller promises tiles.
    let _tiles = unsafe { Tiles::configure(job.height) };
    let row_block = (ROW_BLOCK_BYTES / (job.height * w.depth).max(1)).max(2).next_multiple_of(2);
    for block in (0..row_tiles).step_by(row_block) {
        let block_end = (block + row_block).min(row_tiles);
        for group in (0..panels).step_by(GROUP) {
            if panels < GROUP {
                for (tile, panel) in (block..block_end).flat_map(|tile| (0..panels).map(move |panel| (tile, panel))) {
                    // SAFETY: see below.
                    unsafe { job.block_1x1(row(tile), panel) };
                }
                break;
            }
            let panel = group.min(panels - GROUP);
            for tile in (block..block_end).step_by(2) {
                // While the last rows meet these channels, the weights of the next ones come nearer.
                let ahead = if tile + 2 >= block_end && group + GROUP < panels { GROUP * SIDE * w.depth } else { 0 };
                // SAFETY: tiles are configured for `height` rows, which start at `row(tile)` within `m`; `GROUP` panels
                // start at `panel`.
                unsafe {
                    if tile + 1 < block_end {
                        job.block_2x2([row(tile), row(tile + 1)], panel, ahead);
                        job.block_2x2([row(tile), row(tile + 1)], panel + 2, ahead);
                    } else {
                        job.block_1x4(row(tile), panel, ahead);
                    }
                }
            }
        }
    }
}

/// Brings lines that are needed soon into the second-level cache: one step of a panel.
#[inline(always)]
fn prefetch(panel: *const i8, ahead: usize) {
    for line in (0..TILE).step_by(64) {
        // SAFETY: prefetching never faults, so the address may lie outside of the panels.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(panel.wrapping_add(ahead + line)) };
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

    /// # Safety
    /// Tiles are configured for `height` rows, which exist from each row on, as does the panel after `panel`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn block_2x2(&self, rows: [usize; 2], panel: usize, ahead: usize) {
        let mut sums = Sums(MaybeUninit::uninit());
        let to = sums.0.as_mut_ptr().cast::<i32>();
        let a = [self.rows(rows[0]), self.rows(rows[1])];
        let b = [self.panel(panel), self.panel(panel + 1)];
        // SAFETY: `Product::product` promises `depth` readable bytes from the start of each row, and whole panels.
        // `sums` holds two tiles of rows of 32.
        unsafe {
            tiles::zero();
            for step in 0..self.w.depth / STEP {
                let b = [b[0].wrapping_add(step * TILE), b[1].wrapping_add(step * TILE)];
                if ahead > 0 {
                    prefetch(b[0], ahead);
                    prefetch(b[1], ahead);
                }
                let a = [a[0].wrapping_add(step * STEP), a[1].wrapping_add(step * STEP)];
                tiles::multiply_2x2(a, self.a.stride, b);
            }
            let second = to.add(2 * SIDE * SIDE);
            tiles::store([to, to.add(SIDE), second, second.add(SIDE)], 2 * SIDE * size_of::<i32>());
            self.finish::<2>(to, rows[0], panel);
            self.finish::<2>(second, rows[1], panel);
        }
    }

    /// # Safety
    /// Tiles are configured for `height` rows, which exist from `row` on, as do three panels after `panel`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn block_1x4(&self, row: usize, panel: usize, ahead: usize) {
        let mut sums = Sums(MaybeUninit::uninit());
        let to = sums.0.as_mut_ptr().cast::<i32>();
        let (a, b, next) = (self.rows(row), self.panel(panel), SIDE * self.w.depth);
        // SAFETY: as in `block_2x2`; `sums` holds one tile of rows of 64.
        unsafe {
            tiles::zero();
            for step in 0..self.w.depth / STEP {
                let b = b.wrapping_add(step * TILE);
                if ahead > 0 {
                    (0..GROUP).for_each(|panel| prefetch(b.wrapping_add(panel * next), ahead));
                }
                tiles::multiply_1x4(a.wrapping_add(step * STEP), self.a.stride, b, next);
            }
            tiles::store([to, to.add(SIDE), to.add(2 * SIDE), to.add(3 * SIDE)], 4 * SIDE * size_of::<i32>());
            self.finish::<4>(to, row, panel);
        }
    }

    /// # Safety
    /// Tiles are configured for `height` rows, which exist from `row` on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn block_1x1(&self, row: usize, panel: usize) {
        let mut sums = Sums(MaybeUninit::uninit());
        let to = sums.0.as_mut_ptr().cast::<i32>();
        // SAFETY: as in `block_2x2`; all four tiles fit `sums`.
        unsafe {
            tiles::zero();
            for step in 0..self.w.depth / STEP {
                let (a, b) = (self.rows(row).wrapping_add(step * STEP), self.panel(panel).wrapping_add(step * TILE));
                tiles::multiply_1x1(a, self.a.stride, b);
            }
            let tile = SIDE * SIDE;
            tiles::store([to, to.add(tile), to.add(2 * tile), to.add(3 * tile)], SIDE * size_of::<i32>());
            self.finish::<1>(to, row, panel);
        }
    }

    /// Writes a tile's rows of `C` panels, scaled when floats are wanted.
    ///
    /// # Safety
    /// `sums` holds `height` rows of `16 * C` sums of the rows from `row` and the panels from `panel` on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn finish<const C: usize>(&self, sums: *const i32, row: usize, panel: usize) {
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
            let at = (row + i) * n + column;
            for v in 0..C {
                // SAFETY: `sums` holds `height` rows of `16 * C`.
                let raw = unsafe { _mm512_loadu_si512(sums.add((i * C + v) * SIDE).cast()) };
                let sum = _mm512_add_epi32(raw, _mm512_mullo_epi32(z, sum_lanes[v]));
                match self.out {
                    // SAFETY: the output has `n` values in each row; masked lanes are not touched in memory.
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
