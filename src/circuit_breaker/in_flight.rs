//! Calls on their way, by when they started: so that a call that hangs is slow *now*, not when it
//! returns.
//!
//! Starting and ending a call is one atomic operation on a bucket of the thread that started it.
//! Whoever holds the breaker's lock sweeps the buckets that are older than the slow threshold; a call
//! that ends after its bucket was swept learns that it has been counted already.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicU64, stripe_count, thread_number};
use crate::time::{Tick, nanos};

/// Buckets to a threshold: a hanging call is noticed at most an eighth of the threshold late.
pub(super) const TO_THRESHOLD: u64 = 8;
pub(super) const BUCKETS: usize = 16;

/// One word a bucket: its number (the lower half of it) and how many of its calls still run.
type Lane = CachePadded<[AtomicU64; BUCKETS]>;

#[derive(Debug)]
pub(super) struct InFlight {
    width: u64,
    lanes: Box<[Lane]>,
    next_sweep: AtomicU64,
}

/// Where a running call is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    lane: u32,
    number: u32,
}

const fn word(number: u32, count: u32) -> u64 {
    (number as u64) << 32 | count as u64
}

const fn split(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

impl InFlight {
    pub(super) fn new(threshold: Duration) -> Self {
        let lane = || CachePadded::new(std::array::from_fn(|_| AtomicU64::new(0)));
        Self {
            width: nanos(threshold).div_ceil(TO_THRESHOLD).max(1),
            lanes: std::iter::repeat_with(lane).take(stripe_count()).collect(),
            next_sweep: AtomicU64::new(0),
        }
    }

    fn number(&self, now: Tick) -> u32 {
        (now.0 / self.width) as u32
    }

    /// Counts a call that starts at `now`. `None` if calls of long ago are in its bucket: sweep first.
    pub(super) fn enter(&self, now: Tick) -> Option<Seat> {
        let number = self.number(now);
        let lane = thread_number() & (self.lanes.len() - 1);
        let bucket = &self.lanes[lane][number as usize % BUCKETS];
        let mut seen = bucket.load(Ordering::Relaxed);
        loop {
            let new = match split(seen) {
                (n, count) if n == number => word(number, count.checked_add(1)?),
                (_, 0) => word(number, 1),
                (_, _) => return None,
            };
            match bucket.compare_exchange_weak(seen, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    return Some(Seat {
                        lane: lane as u32,
                        number,
                    });
                }
                Err(other) => seen = other,
            }
        }
    }

    /// A call ended. `false` if it was swept before: it has been counted as slow.
    pub(super) fn exit(&self, seat: Seat) -> bool {
        let bucket = &self.lanes[seat.lane as usize][seat.number as usize % BUCKETS];
        let mut seen = bucket.load(Ordering::Relaxed);
        loop {
            let new = match split(seen) {
                (n, count) if n == seat.number && count > 0 => word(n, count - 1),
                (_, _) => return false,
            };
            match bucket.compare_exchange_weak(seen, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(other) => seen = other,
            }
        }
    }

    /// Whether it is worth taking the lock to look for calls that hang.
    pub(super) fn is_due(&self, now: Tick) -> bool {
        now.0 >= self.next_sweep.load(Ordering::Relaxed)
    }

    /// Takes out all calls that have run for at least the threshold, and says how many they were.
    pub(super) fn sweep(&self, now: Tick) -> u64 {
        self.next_sweep
            .store(now.0.saturating_add(self.width), Ordering::Relaxed);
        let newest = self.number(now);
        // A bucket one wider than the threshold ago ended at least a threshold ago.
        self.take(|number| u64::from(newest.wrapping_sub(number)) > TO_THRESHOLD)
    }

    /// Forgets all calls: a new epoch has begun.
    pub(super) fn clear(&self) {
        self.take(|_| true);
    }

    fn take(&self, wanted: impl Fn(u32) -> bool) -> u64 {
        let mut taken = 0;
        for bucket in self.lanes.iter().flat_map(|lane| lane.iter()) {
            let mut seen = bucket.load(Ordering::Acquire);
            while let (number, count @ 1..) = split(seen)
                && wanted(number)
            {
                let empty = word(number, 0);
                match bucket.compare_exchange_weak(seen, empty, Ordering::AcqRel, Ordering::Acquire)
                {
                    Ok(_) => {
                        taken += u64::from(count);
                        break;
                    }
                    Err(other) => seen = other,
                }
            }
        }
        taken
    }
}
