//! Integers of a few bits in 32-bit words, as compressed-tensors packs them (`pack_to_int32` in
//! `src/compressed_tensors/compressors/pack_quantized`): lowest bits first, `q + 2^(bits - 1)`, each row in whole
//! words, unused bits 0. One bit is ours alone: 1 stands for 1 and 0 for -1, where compressed-tensors would mean 0
//! and -1.

/// Integers in one word.
pub(super) fn per_word(bits: u32) -> usize {
    (32 / bits) as usize
}

/// Rows of `columns` integers → rows of words.
pub(super) fn pack(values: &[i8], columns: usize, bits: u32) -> Vec<i32> {
    let mut words = Vec::with_capacity(values.len().div_ceil(per_word(bits)));
    for row in values.chunks(columns.max(1)) {
        for part in row.chunks(per_word(bits)) {
            let fields = part.iter().zip((0..).step_by(bits as usize));
            words.push(fields.fold(0u32, |word, (&q, shift)| word | field(q, bits) << shift) as i32);
        }
    }
    words
}

/// Rows of words → rows of `columns` integers.
///
/// # Panics
/// When there are not enough words for every row.
pub(super) fn unpack(words: &[i32], columns: usize, bits: u32) -> Vec<i8> {
    let row_words = columns.div_ceil(per_word(bits)).max(1);
    let mut values = Vec::with_capacity(words.len() / row_words * columns);
    for row in words.chunks_exact(row_words) {
        values.extend((0..columns).map(|l| {
            let (word, shift) = (row[l / per_word(bits)] as u32, l % per_word(bits) * bits as usize);
            integer(word >> shift & ((1 << bits) - 1), bits)
        }));
    }
    values
}

fn field(q: i8, bits: u32) -> u32 {
    match bits {
        1 => u32::from(q > 0),
        _ => (i32::from(q) + (1 << (bits - 1))) as u32,
    }
}

fn integer(field: u32, bits: u32) -> i8 {
    match bits {
        1 => 2 * field as i8 - 1,
        _ => (field as i32 - (1 << (bits - 1))) as i8,
    }
}

/// `[rows, columns]` → `[columns, rows]`.
pub(super) fn transpose<T: Copy>(values: &[T], columns: usize) -> Vec<T> {
    (0..columns).flat_map(|c| values.iter().skip(c).step_by(columns.max(1)).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_as_compressed_tensors_writes_them() {
        // Nine 4-bit integers: -8 is field 0, 7 is field 15; the ninth starts a new word.
        assert_eq!(pack(&[-8, 7, 0, 0, 0, 0, 0, 1, -1], 9, 4), [0x9888_88f0_u32 as i32, 7]);
        assert_eq!(pack(&[-1, 0, 1], 3, 2), [0b11_10_01]);
        assert_eq!(pack(&[1, -1, 1], 3, 1), [0b101]);
    }

    proptest! {
        #[test]
        fn what_is_packed_unpacks(
            bits in prop::sample::select(vec![1u32, 2, 4]), rows in 1usize..4, columns in 1usize..70, seed: u64
        ) {
            let half = 1i32 << (bits - 1);
            let at = |i: u64| (seed.wrapping_mul(2 * i + 1) >> 40) as i32;
            let values: Vec<i8> = (0..(rows * columns) as u64).map(|i| match bits {
                1 => (at(i) % 2 * 2 - 1) as i8,
                _ => (at(i).rem_euclid(2 * half) - half) as i8,
            }).collect();
            let words = pack(&values, columns, bits);
            prop_assert_eq!(words.len(), rows * columns.div_ceil(per_word(bits)));
            prop_assert_eq!(unpack(&words, columns, bits), values);
        }
    }

    #[test]
    fn transposing_twice_changes_nothing() {
        assert_eq!(transpose(&[1, 2, 3, 4, 5, 6], 3), [1, 4, 2, 5, 3, 6]);
        assert_eq!(transpose(&transpose(&[1, 2, 3, 4, 5, 6], 3), 2), [1, 2, 3, 4, 5, 6]);
    }
}
