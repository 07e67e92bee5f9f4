//! The way of a healthy call: one word that says what the core would answer while nothing changes, and the count of
//! successes that the core has not seen yet.

use std::sync::atomic::Ordering;

use crate::util::sharded::{Added, TaggedCounter};
use crate::util::sync::AtomicU64;
use crate::util::time::Tick;

/// Which way a call takes without asking the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Admit; a success changes nothing but its count.
    Closed,
    /// Admit; a success ends a run of consecutive failures, so the core must know.
    Wary,
    /// Refuse until the open time is over.
    Open,
    ForcedOpen,
    /// Admit and count nothing.
    Disabled,
    /// Every call is the core's decision.
    AskCore,
    /// Metrics only: the core is asked, and every call goes through.
    Watch,
}

impl Route {
    const ALL: [Self; 8] = [
        Self::Closed,
        Self::Wary,
        Self::Open,
        Self::ForcedOpen,
        Self::Disabled,
        Self::AskCore,
        Self::Watch,
        Self::AskCore,
    ];
}

/// A route, the epoch it is of, whether calls are timed, and whether another config is tried on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(u64);

impl Word {
    const TIMED: u64 = 1 << 3;
    const SHADOWED: u64 = 1 << 4;
    const FLAGS: u64 = Self::TIMED | Self::SHADOWED;

    const fn new(route: Route, epoch: u32, timed: bool) -> Self {
        let timed = if timed { Self::TIMED } else { 0 };
        Self((epoch as u64) << 8 | timed | route as u64)
    }

    #[inline]
    pub(super) fn route(self) -> Route {
        Route::ALL[(self.0 & 7) as usize]
    }

    #[inline]
    pub(super) fn epoch(self) -> u32 {
        (self.0 >> 8) as u32
    }

    #[inline]
    pub(super) fn is_timed(self) -> bool {
        self.0 & Self::TIMED != 0
    }

    #[inline]
    pub(super) fn is_shadowed(self) -> bool {
        self.0 & Self::SHADOWED != 0
    }

    /// Whether a call is admitted, and no clock is read for it.
    #[inline]
    pub(super) fn admits_plainly(self) -> bool {
        self.0 & (7 | Self::FLAGS) <= Route::Wary as u64
    }

    #[inline]
    fn is_closed(self, epoch: u32) -> bool {
        self.0 & !Self::FLAGS == Self::new(Route::Closed, epoch, false).0
    }
}

#[derive(Debug)]
pub(super) struct Fast {
    word: AtomicU64,
    successes: TaggedCounter,
    /// The length of a slice in nanoseconds, 0 if the window is not one of time.
    slice: AtomicU64,
    /// The number of the slice that the successes are counted for.
    current: AtomicU64,
}

/// A tag is the epoch and, with a window of time, the lower bits of the slice. That the slice is the current one in
/// full is checked beside it.
const SLICE_BITS: u32 = 12;
const SLICE_MASK: u64 = (1 << SLICE_BITS) - 1;

impl Fast {
    pub(super) fn new(epoch: u32, timed: bool, slice: u64) -> Self {
        Self {
            word: AtomicU64::new(Word::new(Route::Closed, epoch, timed).0),
            successes: TaggedCounter::new(),
            slice: AtomicU64::new(slice),
            current: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(super) fn read(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    fn tag(&self, epoch: u32, slice: u64) -> u32 {
        match self.has_slices() {
            true => epoch << SLICE_BITS | (slice & SLICE_MASK) as u32,
            false => epoch,
        }
    }

    #[inline]
    pub(super) fn has_slices(&self) -> bool {
        self.slice.load(Ordering::Relaxed) > 0
    }

    /// Counts a success, if that is all there is to it.
    #[inline]
    pub(super) fn add_success(&self, epoch: u32, now: impl FnOnce() -> Tick) -> Added {
        if !self.read().is_closed(epoch) {
            return Added::No;
        }
        let slice = match self.slice.load(Ordering::Relaxed) {
            0 => 0,
            length => now().0 / length,
        };
        if slice != self.current.load(Ordering::Relaxed) {
            return Added::No; // Only the core begins a new slice.
        }
        self.successes.add(self.tag(epoch, slice))
    }

    /// Whether threads have been seen to collide.
    #[inline]
    pub(super) fn is_crowded(&self) -> bool {
        self.successes.words.has_grown()
    }

    /// Under the core's lock.
    #[cold]
    pub(super) fn grow(&self, epoch: u32) {
        let current = self.current.load(Ordering::Relaxed);
        self.successes.grow(self.tag(epoch, current));
    }

    /// Under the core's lock: takes the successes counted so far, with the slice they are of. From here on they are
    /// counted for `epoch`, in the slice of `now` or in a later one that somebody has begun already.
    pub(super) fn drain(&self, epoch: u32, now: Tick) -> (u64, u64) {
        let counted_for = self.current.load(Ordering::Relaxed);
        let of_now = match self.slice.load(Ordering::Relaxed) {
            0 => 0,
            length => now.0 / length,
        };
        let current = counted_for.max(of_now);
        self.current.store(current, Ordering::Relaxed);
        let mut count = 0;
        let tag = self.tag(epoch, current);
        self.successes.drain(tag, |_, n| count += u64::from(n));
        (count, counted_for)
    }

    /// The same, and from here on the window has slices of that length. In one: what is counted between a drain and a
    /// change of the slices would be lost.
    pub(super) fn drain_and_slice_by(&self, slice: u64, epoch: u32, now: Tick) -> (u64, u64) {
        if self.slice.swap(slice, Ordering::Relaxed) == slice {
            return self.drain(epoch, now);
        }
        let counted_for = self.current.swap(0, Ordering::Relaxed);
        let (count, _) = self.drain(epoch, now);
        (count, counted_for)
    }

    /// Under the core's lock: what it would answer from here on, and whether another config is tried on the calls.
    pub(super) fn publish(&self, route: Route, epoch: u32, timed: bool, shadowed: bool) {
        let word = Word::new(route, epoch, timed);
        let shadowed = if shadowed { Word::SHADOWED } else { 0 };
        self.word.store(word.0 | shadowed, Ordering::Release);
    }
}
