//! Memory in which the weights of many matrices lie side by side, on pages of 2 MiB where the system has them.
//!
//! A product reads every weight once, so it goes through pages faster than through anything else. Of small pages, a
//! model has more than the CPU keeps the addresses of: each costs a look-up, which prefetches wait for too. The pages
//! are asked for here alone, since an allocator that asks for them everywhere keeps much more memory than it gives out.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::MmapMut;

use super::microkernel::LINE;

/// Bytes of a huge page of x86-64 (and of AArch64 with base pages of 4 KiB).
const HUGE_PAGE: usize = 2 << 20;

/// Room for weights, filled from its start and given back when the arena and all that lies in it are gone.
#[derive(Debug)]
pub struct Arena(Arc<Memory>);

#[derive(Debug)]
struct Memory {
    /// Unmaps the memory when it is dropped.
    _map: MmapMut,
    start: NonNull<i8>,
    bytes: usize,
    used: AtomicUsize,
}

// SAFETY: the memory is written by `Arena::store` alone, each byte at most once and before anybody is told of it; see
// there.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// Values that lie in an arena, from a cache line on.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    memory: Arc<Memory>,
    start: usize,
    len: usize,
}

impl Arena {
    /// Room for `bytes`; what is never stored takes no memory.
    ///
    /// # Panics
    /// When the system has no addresses left.
    pub fn new(bytes: usize) -> Arena {
        let mut map = MmapMut::map_anon(bytes + HUGE_PAGE).expect("the system has addresses for the weights");
        let offset = map.as_ptr().align_offset(HUGE_PAGE);
        // Whole pages only: the rest would take one for itself. When they are refused, all pages are small.
        #[cfg(target_os = "linux")]
        let _ = map.advise_range(memmap2::Advice::HugePage, offset, bytes / HUGE_PAGE * HUGE_PAGE);
        let start = NonNull::from(&mut map[offset..][..bytes]).cast();
        Arena(Arc::new(Memory { _map: map, start, bytes, used: AtomicUsize::new(0) }))
    }

    /// A copy of `values`; none when there is no room.
    pub(crate) fn store(&self, values: &[i8]) -> Option<Stored> {
        let Memory { start: memory, bytes, used, .. } = &*self.0;
        let len = values.len().next_multiple_of(LINE);
        let fits = |used: usize| used.checked_add(len).filter(|end| end <= bytes);
        let start = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        // SAFETY: `used` went past these bytes, which lie inside of the map, just now and will never come back: they
        // are this call's alone.
        unsafe { memory.add(start).copy_from_nonoverlapping(NonNull::from(values).cast(), values.len()) };
        Some(Stored { memory: self.0.clone(), start, len: values.len() })
    }
}

impl Stored {
    /// The values.
    pub(crate) fn as_slice(&self) -> &[i8] {
        // SAFETY: `store` wrote these bytes before it made `self`, nobody writes them again, and `self` keeps them
        // mapped.
        unsafe { NonNull::slice_from_raw_parts(self.memory.start.add(self.start), self.len).as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_stays_as_it_was_on_cache_lines() {
        let values = |len: usize| (0..len).map(|i| (i % 251) as u8 as i8).collect::<Vec<_>>();
        let lengths = [1, 64, 65, 3 * HUGE_PAGE, 0, 1000];
        let arena = Arena::new(lengths.iter().map(|len| len.next_multiple_of(LINE)).sum());
        let stored: Vec<_> = lengths.iter().map(|len| arena.store(&values(*len)).expect("there is room")).collect();
        assert!(arena.store(&[1]).is_none(), "the arena is full");
        drop(arena);
        for (stored, len) in stored.iter().zip(lengths) {
            assert_eq!(stored.as_slice(), values(len));
            assert_eq!(stored.as_slice().as_ptr().align_offset(LINE), 0);
        }
    }

    #[test]
    fn threads_that_store_at_once_get_places_of_their_own() {
        let arena = Arena::new(4 * 100 * LINE);
        std::thread::scope(|scope| {
            let fill = |value| {
                let arena = &arena;
                scope.spawn(move || (0..100).map(|_| arena.store(&[value; LINE]).unwrap()).collect::<Vec<_>>())
            };
            for (value, thread) in [1, 2, 3, 4].map(|value| (value, fill(value))) {
                assert!(thread.join().unwrap().iter().all(|stored| stored.as_slice() == [value; LINE]));
            }
        });
    }

    #[test]
    fn an_arena_without_room_holds_nothing() {
        assert!(Arena::new(0).store(&[1]).is_none());
    }
}
