//! How many permits there are and how many are in use, in one atomic word.
//!
//! ```text
//!  63 .. 33   32 .. 2   1        0
//!  capacity   in use    CLOSED   QUEUED
//! ```
//!
//! After the capacity was cut, more permits may be in use than there are. Then none is free until enough are back.
//!
//! Every change is a read-modify-write, so the word has one history, and an acquire that reads any value follows every
//! release before it. QUEUED is set exactly while somebody waits in the queue; it changes only under the queue's lock.
//! While it is set, nobody takes a permit past those who wait.

use crate::util::sync::{AtomicU64, Ordering};

/// The most permits that a lock can have.
pub(super) const MOST: u32 = (1 << 31) - 1;

const QUEUED: u64 = 1;
const CLOSED: u64 = 2;
const ONE: u64 = 4;
const CAPACITY: u32 = 33;

#[derive(Debug)]
pub(super) struct Word {
    bits: AtomicU64,
    /// The most that were in use at once.
    peak: AtomicU64,
    /// Not 0 if all permits are taken and given back under the queue's lock. Here, because every call reads it.
    is_locked: AtomicU64,
}

/// The word at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen(u64);

/// What a caller got that is ready to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Took,
    Queue,
    Closed,
}

impl Seen {
    pub(super) fn capacity(self) -> u32 {
        (self.0 >> CAPACITY) as u32
    }

    pub(super) fn in_use(self) -> u32 {
        (self.0 / ONE) as u32 & MOST
    }

    pub(super) fn is_queued(self) -> bool {
        self.0 & QUEUED != 0
    }

    pub(super) fn is_closed(self) -> bool {
        self.0 & CLOSED != 0
    }

    /// Whether `n` are free and nobody waits.
    fn has(self, n: u32) -> bool {
        self.0 & (QUEUED | CLOSED) == 0 && self.leaves_room(n, 0)
    }

    /// Whether `n` more would fit if `in_hand` of those in use were given back.
    pub(super) fn leaves_room(self, n: u32, in_hand: u32) -> bool {
        u64::from(self.in_use()) + u64::from(n) <= u64::from(self.capacity()) + u64::from(in_hand)
    }
}

impl Word {
    pub(super) fn new(capacity: u32) -> Self {
        Self {
            bits: AtomicU64::new(u64::from(capacity.min(MOST)) << CAPACITY),
            peak: AtomicU64::new(0),
            is_locked: AtomicU64::new(0),
        }
    }

    /// Acquire, because who is granted a permit under the queue's lock follows everybody who gave one back, also those
    /// whom this thread only counted.
    pub(super) fn look(&self) -> Seen {
        Seen(self.bits.load(Ordering::Acquire))
    }

    /// Takes `n` if they are free and nobody waits. A refusal writes nothing.
    #[inline]
    pub(super) fn take(&self, n: u32) -> Result<(), Seen> {
        self.take_if(n, |seen| seen.has(n))
    }

    #[inline]
    fn take_if(&self, n: u32, may: impl Fn(Seen) -> bool) -> Result<(), Seen> {
        let mut seen = Seen(self.bits.load(Ordering::Relaxed));
        loop {
            if !may(seen) {
                return Err(seen);
            }
            match self.swap(seen, seen.0 + u64::from(n) * ONE) {
                Ok(()) => {
                    self.note_peak(seen.in_use() + n);
                    return Ok(());
                }
                Err(now) => seen = now,
            }
        }
    }

    #[inline]
    fn swap(&self, from: Seen, to: u64) -> Result<(), Seen> {
        let swapped =
            self.bits
                .compare_exchange_weak(from.0, to, Ordering::Acquire, Ordering::Relaxed);
        swapped.map(drop).map_err(Seen)
    }

    /// Whoever takes knows how many are in use with it. The largest such number is the peak, exactly.
    #[inline]
    fn note_peak(&self, in_use: u32) {
        let in_use = u64::from(in_use);
        if in_use > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(in_use, Ordering::Relaxed);
        }
    }

    /// Gives `n` back. Says whether somebody waits, who then has to be granted them.
    #[inline]
    #[must_use = "somebody may wait for them"]
    pub(super) fn give(&self, n: u32) -> bool {
        Seen(self.bits.fetch_sub(u64::from(n) * ONE, Ordering::Release)).is_queued()
    }

    /// Takes `n`, or marks that somebody waits. Under the queue's lock only.
    pub(super) fn take_or_queue(&self, n: u32) -> Asked {
        let mut seen = Seen(self.bits.load(Ordering::Relaxed));
        loop {
            let (to, asked) = match seen {
                _ if seen.is_closed() => return Asked::Closed,
                _ if seen.has(n) => (seen.0 + u64::from(n) * ONE, Asked::Took),
                _ if seen.is_queued() => return Asked::Queue,
                _ => (seen.0 | QUEUED, Asked::Queue),
            };
            match self.swap(seen, to) {
                Ok(()) if asked == Asked::Took => {
                    self.note_peak(seen.in_use() + n);
                    return asked;
                }
                Ok(()) => return asked,
                Err(now) => seen = now,
            }
        }
    }

    /// Takes `n` if there is room, whoever waits. Under the queue's lock only.
    pub(super) fn take_past_queue(&self, n: u32) -> Result<(), Seen> {
        self.take_if(n, |seen| !seen.is_closed() && seen.leaves_room(n, 0))
    }

    /// Whether all permits are taken under the queue's lock.
    #[inline]
    pub(super) fn is_locked(&self) -> bool {
        self.is_locked.load(Ordering::Relaxed) != 0
    }

    pub(super) fn set_locked(&self, is_locked: bool) {
        self.is_locked.store(is_locked.into(), Ordering::Relaxed);
    }

    /// Somebody waits. Under the queue's lock only.
    pub(super) fn set_queued(&self) {
        self.bits.fetch_or(QUEUED, Ordering::Relaxed);
    }

    /// Takes `n` that were seen free while QUEUED is set. Under the queue's lock only.
    pub(super) fn take_for_waiter(&self, n: u32) {
        let before = Seen(self.bits.fetch_add(u64::from(n) * ONE, Ordering::Acquire));
        self.note_peak(before.in_use() + n);
    }

    /// Nobody waits any more. Under the queue's lock only.
    pub(super) fn clear_queued(&self) {
        self.bits.fetch_and(!QUEUED, Ordering::Relaxed);
    }

    /// Under the queue's lock only.
    pub(super) fn close(&self) {
        self.bits.fetch_or(CLOSED, Ordering::Relaxed);
    }

    /// Changes the capacity; says what it was. Under the queue's lock only.
    pub(super) fn resize(&self, capacity: u32) -> u32 {
        let mut seen = Seen(self.bits.load(Ordering::Relaxed));
        loop {
            let rest = seen.0 & ((1 << CAPACITY) - 1);
            match self.swap(seen, rest | u64::from(capacity.min(MOST)) << CAPACITY) {
                Ok(()) => return seen.capacity(),
                Err(now) => seen = now,
            }
        }
    }

    pub(super) fn peak(&self) -> u32 {
        u32::try_from(self.peak.load(Ordering::Relaxed)).unwrap_or(MOST)
    }

    pub(super) fn reset_peak(&self) {
        let in_use = self.look().in_use();
        self.peak.store(u64::from(in_use), Ordering::Relaxed);
    }
}
