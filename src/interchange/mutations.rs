//! Damage for readers of foreign files; tests only.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Gives `read` damaged copies of a file. Half of the damage is in `places`, where the structure of the file is; the
/// rest is anywhere. `read` says whether it found the content sound; a panic fails the test and names the case.
pub(super) fn run(original: &[u8], places: &[(usize, usize)], cases: usize, read: impl Fn(&[u8]) -> bool) {
    const SEED: u64 = 0x0c7e7;
    let mut random = StdRng::seed_from_u64(SEED);
    let (mut sound, mut refused) = (0, 0);
    for case in 0..cases {
        let mut content = original.to_vec();
        for _ in 0..random.random_range(1..=3) {
            let (from, to) = match random.random_bool(0.5) {
                true => places[random.random_range(0..places.len())],
                false => (0, content.len()),
            };
            let at = random.random_range(from..to).min(content.len() - 1);
            match random.random_range(0..6) {
                0 | 1 => content[at] ^= 1 << random.random_range(0..8),
                2 => content[at] = [0, 1, 0x7f, 0x80, 0xff][random.random_range(0..5)],
                3 => content.insert(at, random.random()),
                4 => content.truncate(at.max(1)),
                _ => {
                    let length = random.random_range(1..32);
                    let from = random.random_range(0..content.len());
                    let piece = content[from..content.len().min(from + length)].to_vec();
                    content.splice(at..content.len().min(at + length), piece);
                }
            }
        }
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(&content))) {
            Ok(true) => sound += 1,
            Ok(false) => refused += 1,
            Err(_) => panic!("case {case} of seed {SEED:#x} panicked"),
        }
    }
    println!("{refused} refused, {sound} sound");
    assert!(refused > cases / 4, "{refused} refused, {sound} sound");
}
