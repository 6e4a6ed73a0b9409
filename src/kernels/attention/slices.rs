//! Lanes out of slices and back, with the bounds checked.

use crate::kernels::lanes::{Ints, LANES, Lanes};

/// The first 16 values, or what is there and zeros.
#[inline(always)]
pub(super) fn load_up_to_16<V: Lanes>(from: &[f32]) -> V {
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
pub(super) fn load_ints<I: Ints>(from: &[i32]) -> I {
    let from = &from[..LANES];
    // SAFETY: `from` holds 16 values.
    unsafe { I::load(from.as_ptr()) }
}

/// Writes 16 integers.
#[inline(always)]
pub(super) fn store_ints<I: Ints>(ints: I, to: &mut [i32]) {
    let to = &mut to[..LANES];
    // SAFETY: `to` holds 16 values.
    unsafe { ints.store(to.as_mut_ptr()) }
}

/// Writes 16 values.
#[inline(always)]
pub(super) fn store<V: Lanes>(x: V, to: &mut [f32]) {
    let to = &mut to[..LANES];
    // SAFETY: `to` holds 16 values.
    unsafe { x.store(to.as_mut_ptr()) }
}

/// Writes as many of the first values as fit, at most 16.
#[inline(always)]
pub(super) fn store_up_to_16<V: Lanes>(x: V, to: &mut [f32]) {
    // SAFETY: no more values are written than `to` holds.
    unsafe {
        match to.len() {
            LANES.. => x.store(to.as_mut_ptr()),
            count => x.store_first(to.as_mut_ptr(), count),
        }
    }
}
