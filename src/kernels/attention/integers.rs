//! Queries, keys and values as integers.
//!
//! Scales need the largest magnitudes over the whole sequence, so these are found first, of one head at a time, whose values
//! are then in a near cache.

use std::f32::consts::LOG2_E;

use super::slices::{load_up_to_16, store, store_ints};
use super::{Attention, AttentionScratch, Head, Shape, TILE_ROWS, VALUE_MAX};
use crate::kernels::lanes::{Ints, LANES, Lanes};

/// The largest integer of queries and keys, so that a score is below 2^24, with a tenth to spare for the rounding to the 8
/// significant bits that it has.
pub(super) fn query_max(head_dim: usize) -> i32 {
    let max = ((1 << 24) / head_dim.max(1) as u32).isqrt() * 9 / 10;
    let below = (u32::BITS - max.leading_zeros()).saturating_sub(8);
    (max >> below << below) as i32
}

/// `x * inverse` for an `x` of the sequence, so that it rounds to `-max..=max`; a NaN becomes `max`.
#[inline(always)]
fn scaled<V: Lanes>(x: V, inverse: V, max: i32) -> V {
    x.mul(inverse).min(V::splat(max as f32))
}

/// `round(x * inverse)` in `-max..=max`; a NaN becomes `max`.
#[inline(always)]
pub(super) fn quantize<V: Lanes>(x: V, inverse: V, max: i32) -> V::Ints {
    scaled(x, inverse, max).to_ints()
}

/// An integer rounded to 8 significant bits (Dekker 1971, <https://doi.org/10.1007/BF01397083>).
#[inline(always)]
fn significant_8<V: Lanes>(x: V) -> V {
    let scaled = x.mul(V::splat(((1 << 16) + 1) as f32));
    scaled.sub(scaled.sub(x))
}

/// 32 channels of a row of a head from `at` on, in two halves. Of fewer, at most `first` are in the first half, and zeros
/// follow.
#[inline(always)]
fn load_two<V: Lanes>(row: &[f32], at: usize, first: usize) -> [V; 2] {
    match row.get(at..at + 2 * LANES) {
        Some(row) => [load_up_to_16(&row[..LANES]), load_up_to_16(&row[LANES..])],
        None => {
            let (low, high) = row[at..].split_at(first.min(row.len() - at));
            [load_up_to_16(low), load_up_to_16(high)]
        }
    }
}

/// Of 32 channels of a query or key from `at` on, or what is left, the first half below the second, as integers of 8
/// significant bits in i16 or (for tiles) in bf16. The order of channels does not matter to a score.
#[inline(always)]
fn quantize_pairs<V: Lanes>(row: &[f32], at: usize, inverse: V, max: i32, bf16: bool) -> V::Ints {
    let [low, high] = load_two(row, at, (row.len() - at).div_ceil(2));
    let low = significant_8(scaled(low, inverse, max).round());
    let high = significant_8(scaled(high, inverse, max).round());
    match bf16 {
        true => low.bits().shift_right::<16>().pair(high.bits().shift_right::<16>()),
        false => low.to_ints().pair(high.to_ints()),
    }
}

/// Quantizes 32 channels from `at` on of the key and the value in a row; gives the value.
#[inline(always)]
fn quantize_key_and_value<V: Lanes>(
    row: &[f32],
    shape: Shape,
    head: usize,
    at: usize,
    (key_inverse, value_inverse): (V, [V; 2]),
    key: &mut [i32],
) -> [V::Ints; 2] {
    let pairs = quantize_pairs(&row[shape.columns(1, head)], at, key_inverse, shape.query_max, false);
    store_ints(pairs, &mut key[at / 2..]);
    let [low, high] = load_two(&row[shape.columns(2, head)], at, LANES);
    [quantize(low, value_inverse[0], VALUE_MAX), quantize(high, value_inverse[1], VALUE_MAX)]
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
    /// Finds the largest magnitude of each channel of a head's queries, keys and values in the sequence; NaN where a value
    /// is NaN.
    #[inline(always)]
    fn measure<V: Lanes>(&mut self, head: usize) {
        let shape = self.shape;
        let parts = [0, 1, 2].map(|part| shape.columns(part, head));
        // The bits of magnitudes are in the order of the magnitudes, with NaN above all.
        let without_sign = V::Ints::splat(i32::MAX);
        for at in (0..shape.head_dim).step_by(2 * LANES) {
            let mut largest = [[V::Ints::splat(0); 2]; 3];
            for row in shape.rows(self.sequence) {
                for part in 0..3 {
                    let two: [V; 2] = load_two(&row[parts[part].clone()], at, LANES);
                    for g in 0..2 {
                        largest[part][g] = largest[part][g].max(two[g].bits().and(without_sign));
                    }
                }
            }
            let magnitudes = self.scratch.magnitudes.as_mut_slice().chunks_exact_mut(shape.padded_dim());
            for (two, to) in largest.into_iter().zip(magnitudes) {
                for (largest, to) in two.into_iter().zip(to[at..].chunks_exact_mut(LANES)) {
                    store(largest.bits_to_floats(), to);
                }
            }
        }
    }

    /// Quantizes the keys and values of a head.
    #[inline(always)]
    pub(super) fn prepare<V: Lanes>(&mut self, head: usize, on_tiles: bool) -> Head<V> {
        self.measure::<V>(head);
        let shape = self.shape;
        let (padded_dim, pairs) = (shape.padded_dim(), shape.padded_dim() / 2);
        let key_columns = shape.columns(1, head);
        let AttentionScratch {
            magnitudes,
            keys,
            values,
            value_scale,
            #[cfg(target_arch = "x86_64")]
            bytes,
            ..
        } = &mut *self.scratch;
        let (keys, values) = (keys.as_mut_slice(), values.as_mut_slice());
        let magnitudes = magnitudes.as_slice();
        let (query_scale, query_inverse) = scales(V::splat(largest::<V>(&magnitudes[..padded_dim])), shape.query_max);
        let key_magnitude = largest::<V>(&magnitudes[padded_dim..][..padded_dim]);
        let (key_scale, key_inverse) = scales(V::splat(key_magnitude), shape.query_max);
        for at in (0..shape.head_dim).step_by(2 * LANES) {
            let mut inverse = [key_inverse; 2];
            for (g, inverse) in inverse.iter_mut().enumerate() {
                let (scale, of_value) =
                    scales::<V>(load_up_to_16(&magnitudes[2 * padded_dim + at + g * LANES..]), VALUE_MAX);
                store(scale, &mut value_scale.as_mut_slice()[at + g * LANES..]);
                *inverse = of_value;
            }
            let mut rows = shape.rows(self.sequence);
            if on_tiles {
                for (row, to) in rows.zip(keys.chunks_exact_mut(pairs)) {
                    let key = quantize_pairs(&row[key_columns.clone()], at, key_inverse, shape.query_max, on_tiles);
                    store_ints(key, &mut to[at / 2..]);
                }
                #[cfg(target_arch = "x86_64")]
                bytes.pack_values(self.sequence, shape, head, at, inverse);
                continue;
            }
            for (keys, values) in keys.chunks_exact_mut(2 * pairs).zip(values.chunks_exact_mut(padded_dim)) {
                let (low_key, high_key) = keys.split_at_mut(pairs);
                let Some(row) = rows.next() else { break };
                let low = quantize_key_and_value::<V>(row, shape, head, at, (key_inverse, inverse), low_key);
                let high = match rows.next() {
                    Some(row) => quantize_key_and_value::<V>(row, shape, head, at, (key_inverse, inverse), high_key),
                    None => [V::Ints::splat(0); 2],
                };
                store_ints(low[0].pair(high[0]), &mut values[at..]);
                store_ints(low[1].pair(high[1]), &mut values[at + LANES..]);
            }
        }
        // Rows up to a whole tile are copies of the last one, which change no maximum.
        for row in shape.tokens..shape.tokens.next_multiple_of(TILE_ROWS) {
            keys.copy_within((shape.tokens - 1) * pairs..shape.tokens * pairs, row * pairs);
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
        let shape = self.shape;
        let (width, columns) = (3 * shape.hidden(), shape.columns(0, head.index));
        let queries = self.scratch.queries.as_mut_slice();
        for row in self.queries.chunks_exact(width).skip(first + G * LANES).take(G * LANES) {
            for line in row[columns.clone()].chunks(LANES) {
                V::prefetch(line.as_ptr().cast());
            }
        }
        for g in 0..G {
            let from = self.queries.get((first + g * LANES) * width..).unwrap_or_default();
            for at in (0..shape.head_dim).step_by(2 * LANES) {
                let mut block = [V::Ints::splat(0); LANES];
                for (block, row) in block.iter_mut().zip(from.chunks_exact(width)) {
                    *block = quantize_pairs(&row[columns.clone()], at, head.query_inverse, shape.query_max, on_tiles);
                }
                let packed = V::Ints::transpose(block);
                for (l, column) in packed.iter().enumerate() {
                    store_ints(*column, &mut queries[((at / 2 + l) * G + g) * LANES..]);
                }
            }
        }
    }
}
