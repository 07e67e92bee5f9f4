//! What is different when threads are simulated: the model checks in `tests/loom.rs` compile the files that
//! use this with a `sync` of their own.

use std::cell::Cell;
use std::sync::atomic::AtomicUsize;
use std::thread::available_parallelism;

pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
pub(crate) use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// So many waiters are granted their permits before their queue is unlocked: nobody else waits long for it.
pub(crate) const GRANTS_AT_ONCE: u32 = 32;

/// How many shards a counter has: as many as there are cores, rounded up to a power of two, at most 64.
pub(crate) fn shard_count() -> usize {
    let cores = available_parallelism().map_or(1, usize::from);
    cores.next_power_of_two().min(64)
}

const NONE_YET: usize = usize::MAX;

thread_local! {
    // Without a destructor and without a lazy beginning: reading it is reading a register and a word.
    static NUMBER: Cell<usize> = const { Cell::new(NONE_YET) };
}

/// The number of this thread; threads are numbered as they come.
#[inline]
pub(crate) fn thread_number() -> usize {
    #[cold]
    fn next() -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % NONE_YET;
        NUMBER.set(number);
        number
    }

    match NUMBER.get() {
        NONE_YET => next(),
        number => number,
    }
}

/// For tests in which threads, or one thread in several roles, are to be in certain groups.
#[cfg(test)]
pub(crate) fn set_thread_number(number: usize) {
    NUMBER.set(number);
}
