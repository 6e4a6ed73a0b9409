//! Queries, keys and values as integers.
//!
//! Scales need the largest magnitudes over the whole sequence, so these are found first, for all heads at once.

use std::f32::consts::LOG2_E;

use super::slices::{load_up_to_16, store, store_ints};
use super::{Attention, AttentionScratch, Head, TILE_ROWS, VALUE_MAX};
use crate::kernels::lanes::{Ints, LANES, Lanes};

/// The largest integer of queries and keys, so that a score is below 2^24, with a tenth to spare for the rounding to the 8
/// significant bits that it has.
pub(super) fn query_max(head_dim: usize) -> i32 {
    let max = ((1 << 24) / head_dim.max(1) as u32).isqrt() * 9 / 10;
    let below = (u32::BITS - max.leading_zeros()).saturating_sub(8);
    (max >> below << below) as i32
}

/// `x * inverse` in `-max..=max`; a NaN becomes `-max`.
#[inline(always)]
fn clamp<V: Lanes>(x: V, inverse: V, max: i32) -> V {
    x.mul(inverse).max(V::splat(-max as f32)).min(V::splat(max as f32))
}

/// `round(x * inverse)` in `-max..=max`; a NaN becomes `-max`.
#[inline(always)]
pub(super) fn quantize<V: Lanes>(x: V, inverse: V, max: i32) -> V::Ints {
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

impl Attention<'_> {
    /// Finds the largest magnitude of each column of the sequence; NaN where a value is NaN.
    #[inline(always)]
    pub(super) fn measure<V: Lanes>(&mut self) {
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
    pub(super) fn prepare<V: Lanes>(&mut self, head: usize, on_tiles: bool) -> Head<V> {
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
        // Rows up to a whole tile are copies of the last one, which change no maximum.
        let last = (shape.tokens - 1) * padded_dim..shape.tokens * padded_dim;
        for row in shape.tokens..shape.tokens.next_multiple_of(TILE_ROWS) {
            keys.as_mut_slice().copy_within(last.clone(), row * padded_dim);
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

    /// Quantizes the queries of `G` groups from row `first` on; those past the end are 0. Asks for the next ones, as rows
    /// lie pages apart, so that the CPU does not see by itself what comes next.
    #[inline(always)]
    pub(super) fn pack_queries<V: Lanes, const G: usize>(&mut self, head: Head<V>, first: usize, on_tiles: bool) {
        let (shape, padded_dim) = (self.shape, self.shape.padded_dim());
        let AttentionScratch { rows, queries, .. } = &mut *self.scratch;
        for row in self.queries.chunks_exact(3 * shape.hidden()).skip(first + G * LANES).take(G * LANES) {
            for line in row[shape.columns(0, head.index)].chunks(LANES) {
                V::prefetch(line.as_ptr().cast());
            }
        }
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
}
