//! Instead of the crate's own `sync`: simulated atomics and mutexes, and two shards.

pub(crate) use std::sync::{OnceLock, PoisonError};

pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
pub(crate) use loom::sync::{Mutex, MutexGuard};

pub(crate) const GRANTS_AT_ONCE: u32 = 1;

loom::thread_local! {
    static NUMBER: std::cell::Cell<usize> = std::cell::Cell::new(0);
}

pub(crate) fn shard_count() -> usize {
    2
}

pub(crate) fn thread_number() -> usize {
    NUMBER.with(std::cell::Cell::get)
}

pub(crate) fn set_thread_number(number: usize) {
    NUMBER.with(|it| it.set(number));
}
