//! What the kernels' tests share: memory that faults just outside a slice, values, comparing instruction sets.

use std::fmt::Debug;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::isa::Kernels;
use super::lanes::LANES;
use super::pack::Plain;

/// Sizes around the edges of groups of lanes and of tiles.
pub(crate) const EDGE_SIZES: [usize; 12] =
    [0, 1, 3, LANES - 1, LANES, LANES + 1, 31, 33, 63, 64, 65, 4 * LANES + LANES / 2];

/// Which end of the slice touches the page that faults.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Guard {
    /// The first byte after the slice faults.
    After,
    /// The last byte before the slice faults.
    Before,
}

/// Both ends, one after the other.
pub(crate) const GUARDS: [Guard; 2] = [Guard::After, Guard::Before];

/// A slice in its own mapping that touches an inaccessible page at one end.
pub(crate) struct Guarded<T: Plain> {
    mapping: NonNull<libc::c_void>,
    mapped: usize,
    at: NonNull<T>,
    len: usize,
}

impl<T: Plain> Guarded<T> {
    /// Copies `values` to a guarded place.
    pub(crate) fn new(values: &[T], guard: Guard) -> Self {
        // SAFETY: asking for a constant of the system.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let bytes = size_of_val(values);
        let inner = bytes.next_multiple_of(page).max(page);
        let mapped = inner + 2 * page;
        // SAFETY: a new private mapping at an address of the system's choice; nothing else is touched.
        let mapping = unsafe {
            libc::mmap(std::ptr::null_mut(), mapped, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
        };
        assert_ne!(mapping, libc::MAP_FAILED, "no memory for guard pages");
        // SAFETY: the inner pages of the mapping just made.
        let opened = unsafe { libc::mprotect(mapping.add(page), inner, libc::PROT_READ | libc::PROT_WRITE) };
        assert_eq!(opened, 0, "guard pages could not be opened");
        let offset = match guard {
            Guard::After => page + inner - bytes,
            Guard::Before => page,
        };
        // SAFETY: `offset + bytes` lies within the readable and writable pages; both places are aligned for `T`,
        // whose size divides the page.
        let at = unsafe {
            let at = mapping.add(offset).cast::<T>();
            std::ptr::copy_nonoverlapping(values.as_ptr(), at, values.len());
            NonNull::new_unchecked(at)
        };
        Guarded { mapping: NonNull::new(mapping).unwrap(), mapped, at, len: values.len() }
    }
}

impl<T: Plain> Deref for Guarded<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `new` put `len` values there, and the mapping lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }
}

impl<T: Plain> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, given back once.
        unsafe { libc::munmap(self.mapping.as_ptr(), self.mapped) };
    }
}

/// Reproducible pseudo-random numbers (Marsaglia's xorshift64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From -1 to 1.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// `len` values from `-scale` to `scale`.
    pub(crate) fn floats(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| self.unit() * scale).collect()
    }

    /// `len` values of very different magnitudes, with zeros of both signs, subnormals and the largest numbers.
    pub(crate) fn wild_floats(&mut self, len: usize) -> Vec<f32> {
        const SPECIAL: [f32; 10] =
            [0.0, -0.0, 1.0, -1.0, 1e-42, f32::MIN_POSITIVE, -88.0, 88.5, f32::MAX / 1e4, f32::MIN / 1e4];
        (0..len)
            .map(|_| match self.bits() % 4 {
                0 => SPECIAL[(self.bits() >> 33) as usize % SPECIAL.len()],
                1 => self.unit() * 1e-3,
                2 => self.unit() * 100.0,
                _ => self.unit(),
            })
            .collect()
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.bits() >> 32) as u8).collect()
    }

    pub(crate) fn signed_bytes(&mut self, len: usize) -> Vec<i8> {
        (0..len).map(|_| (self.bits() >> 32) as i8).collect()
    }
}

/// Runs `f` on every instruction set this CPU has and asserts that all give what the scalar kernels give, by bits.
/// All NaNs count as equal.
pub(crate) fn same_on_every_isa(what: impl Debug, f: impl Fn(Kernels) -> Vec<f32>) {
    let bits = |y: Vec<f32>| -> Vec<u32> {
        y.into_iter().map(|y| if y.is_nan() { f32::NAN.to_bits() } else { y.to_bits() }).collect()
    };
    let mut expected: Option<Vec<u32>> = None;
    for kernels in Kernels::available() {
        let got = bits(f(kernels));
        let expected = expected.get_or_insert_with(|| got.clone());
        if let Some(at) = (0..got.len().max(expected.len())).find(|&i| got.get(i) != expected.get(i)) {
            let float = |bits: &[u32]| bits.get(at).copied().map(f32::from_bits);
            panic!("{what:?}: {} gives {:?} at {at}, scalar {:?}", kernels.isa(), float(&got), float(expected));
        }
    }
}
