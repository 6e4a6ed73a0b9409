//! Closeness, equal bits everywhere, and bounds of memory.

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

/// Largest error for values up to 2 (found: 7.9e-3), and least signal to noise in dB (found: 48.0). The bits are the same
/// everywhere, so both can be tight.
const CLOSE: (f64, f64) = (8e-3, 47.9);

#[test]
fn attention_is_close_to_the_reference() {
    for (tokens, heads, head_dim) in SHAPES.into_iter().chain([(513, 1, 32)]) {
        let shape = (tokens, heads, head_dim);
        let qkv = Random::new(tokens as u64).floats(tokens * 3 * heads * head_dim, 2.0);
        let exact = reference::attention(&qkv, heads, head_dim);
        for kernels in Kernels::available() {
            let mut out = vec![0.0; tokens * heads * head_dim];
            kernels.attention(&qkv, &[&qkv], heads, head_dim, &mut AttentionScratch::new(), &mut out);
            let errors = || out.iter().zip(&exact).map(|(y, exact)| f64::from(*y) - exact);
            let worst = errors().fold(0.0, |worst: f64, error| worst.max(error.abs()));
            let power = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>();
            let sqnr = 10.0 * (power(&mut exact.iter().copied()) / power(&mut errors())).log10();
            println!("{} {shape:?}: {worst:.1e}, {sqnr:.1} dB", kernels.isa());
            assert!(worst <= CLOSE.0 && sqnr >= CLOSE.1, "{} {shape:?}: off by {worst}, {sqnr} dB", kernels.isa());
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
                        // On vectors wherever it is, with other integers in the same memory.
                        let short = Random::new(1).floats(MOST_ON_VECTORS * 3 * 140, 2.0);
                        let mut unused = vec![0.0; MOST_ON_VECTORS * 140];
                        kernels.attention(&short, &[&short], 1, 140, &mut scratch, &mut unused);
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
