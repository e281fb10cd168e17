//! The allocator of the process: mimalloc, with a tally of what each thread holds.
//!
//! A script's memory budget needs to know what a run has allocated, and the interpreter offers no seam for it but
//! this one. The tally is three words of thread-local storage, so the cost is a few instructions per call. Memory that
//! one thread allocates and another frees is booked where it happens: a [`Meter`] is therefore only meaningful on a
//! thread that keeps what it allocates while it measures, as a bench does. This is the one file with unsafe code.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::marker::PhantomData;

use mimalloc::MiMalloc;

/// mimalloc that counts bytes per thread.
#[derive(Debug)]
pub struct CountingAllocator;

#[global_allocator]
static GLOBAL: CountingAllocator = CountingAllocator;

/// What one thread holds, in bytes. Only differences between two readings mean anything.
struct Tally {
    held: Cell<i64>,
    peak: Cell<i64>,
    ceiling: Cell<i64>,
}

thread_local! {
    // Const-initialised and without a destructor: access neither allocates nor fails, not even while a thread ends.
    static TALLY: Tally = const { Tally { held: Cell::new(0), peak: Cell::new(0), ceiling: Cell::new(i64::MAX) } };
}

/// Books a change. `try_with` because an allocator must not panic, whatever the state of the thread.
fn book(change: i64) {
    let _ = TALLY.try_with(|tally| {
        let held = tally.held.get().wrapping_add(change);
        tally.held.set(held);
        if held > tally.peak.get() {
            tally.peak.set(held);
        }
    });
}

/// A size as a signed number. A layout never exceeds `isize::MAX`, so nothing is lost.
fn signed(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

// SAFETY: every call is handed to mimalloc unchanged and its answer returned unchanged; the tally touches only
// thread-local cells, does not allocate and does not unwind.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for CountingAllocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        book(signed(layout.size()));
        // SAFETY: the caller's promises about `layout` are passed on.
        unsafe { MiMalloc.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        book(signed(layout.size()));
        // SAFETY: the caller's promises about `layout` are passed on.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        book(-signed(layout.size()));
        // SAFETY: `ptr` came from this allocator, thus from mimalloc, with this layout.
        unsafe { MiMalloc.dealloc(ptr, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        book(signed(new_size).wrapping_sub(signed(layout.size())));
        // SAFETY: `ptr` came from this allocator, thus from mimalloc, with this layout.
        unsafe { MiMalloc.realloc(ptr, layout, new_size) }
    }
}

/// Measures what the current thread allocates and does not free from [`Meter::begin`] on. Stays on its thread; where
/// two overlap, the later one takes over the peak.
#[derive(Debug)]
pub struct Meter {
    start: i64,
    stays: PhantomData<*const ()>,
}

impl Meter {
    /// Starts at zero.
    pub fn begin() -> Meter {
        let start = TALLY.with(|tally| {
            tally.peak.set(tally.held.get());
            tally.held.get()
        });
        Meter { start, stays: PhantomData }
    }

    /// Bytes held now; negative if more was freed than allocated.
    pub fn net_bytes(&self) -> i64 {
        TALLY.with(|tally| tally.held.get().wrapping_sub(self.start))
    }

    /// The most that was held at once.
    pub fn peak_bytes(&self) -> u64 {
        let peak = TALLY.with(|tally| tally.peak.get().wrapping_sub(self.start));
        u64::try_from(peak).unwrap_or(0)
    }

    /// From now on [`is_over_budget`] is true while this thread holds more than `bytes` beyond the start.
    pub fn set_budget(&self, bytes: u64) {
        let ceiling = self.start.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
        TALLY.with(|tally| tally.ceiling.set(ceiling));
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        TALLY.with(|tally| tally.ceiling.set(i64::MAX));
    }
}

/// Does `work` without counting what it allocates and keeps: it is the house's, or another thread's, and not the
/// run's. What it frees must have been allocated so, too. Whoever calls this bounds that memory by other means.
pub fn outside<T>(work: impl FnOnce() -> T) -> T {
    /// Puts the books back, also when the work panics.
    struct Books {
        held: i64,
        peak: i64,
    }
    impl Drop for Books {
        fn drop(&mut self) {
            TALLY.with(|tally| {
                tally.held.set(self.held);
                tally.peak.set(self.peak);
            });
        }
    }
    let _books = TALLY.with(|tally| Books { held: tally.held.get(), peak: tally.peak.get() });
    work()
}

/// Whether this thread holds more than its budget. Asked once per operation of the interpreter.
#[inline]
pub fn is_over_budget() -> bool {
    TALLY.with(|tally| tally.held.get() > tally.ceiling.get())
}

/// Whether this thread is within a budget, that is, in a run.
pub fn is_metered() -> bool {
    TALLY.with(|tally| tally.ceiling.get() != i64::MAX)
}

/// Bytes that this thread may still allocate within its budget.
pub fn room() -> usize {
    let room = TALLY.with(|tally| tally.ceiling.get().saturating_sub(tally.held.get()));
    usize::try_from(room).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_outside_does_not_count() {
        let meter = Meter::begin();
        let kept = outside(|| vec![0_u8; 1_000_000]);
        assert_eq!((meter.net_bytes(), meter.peak_bytes()), (0, 0));
        outside(|| drop(kept));
        let caught = std::panic::catch_unwind(|| outside(|| std::panic::resume_unwind(Box::new(1))));
        drop(outside(|| caught));
        assert!(meter.net_bytes() < 100, "{}", meter.net_bytes());
    }

    #[test]
    fn counts_what_is_held_and_the_most_that_was() {
        let meter = Meter::begin();
        let kept = vec![0_u8; 1000];
        drop(vec![0_u8; 5000]);
        assert_eq!(meter.net_bytes(), 1000);
        assert_eq!(meter.peak_bytes(), 6000);
        drop(kept);
        assert_eq!(meter.net_bytes(), 0);
    }

    #[test]
    fn what_is_the_houses_is_not_counted() {
        let meter = Meter::begin();
        let kept = outside(|| vec![0_u8; 1000]);
        assert_eq!(meter.net_bytes(), 0);
        outside(|| drop(kept));
        assert_eq!(meter.net_bytes(), 0);
    }

    #[test]
    fn follows_growth() {
        let meter = Meter::begin();
        let mut bytes = Vec::with_capacity(10);
        bytes.extend_from_slice(&[0_u8; 10]);
        bytes.reserve_exact(90);
        assert_eq!(meter.net_bytes(), 100);
        bytes.shrink_to_fit();
        assert_eq!(meter.net_bytes(), 10);
    }

    #[test]
    fn a_budget_ends_with_its_meter() {
        let meter = Meter::begin();
        meter.set_budget(1000);
        let kept = vec![0_u8; 2000];
        assert!(is_over_budget() && room() == 0);
        drop(meter);
        assert!(!is_over_budget());
        drop(kept);
    }
}
