//! A lock: a word, a queue, and records in shards.
//!
//! ```text
//!  take       swap the word while enough is free and nobody waits; record the holder in this thread's shard
//!  enqueue    lock the queue; set QUEUED, or take after all; join the queue
//!  release    remove the record; give back to the word; if QUEUED: lock the queue and grant to the first
//! ```
//!
//! The queue is in the first shard, under its mutex. The other shards hold records only, never permits, and come into
//! being when threads are seen to collide.
//!
//! 1. What the word says is in use is what was taken or granted and not given back. Only a cut of the capacity leaves it
//!    above the capacity.
//! 2. Whenever the first shard is unlocked, QUEUED is set if and only if somebody waits in it.
//! 3. While QUEUED is set, only who has locked the first shard raises what is in use.
//! 4. Whoever gives back under QUEUED grants afterwards, with the first shard locked: nobody waits beside free permits.
//!    QUEUED is set by a read-modify-write that saw too few free. A release before it was seen; a release after it sees
//!    QUEUED, and the first shard stays locked until the waiter has joined.
//! 5. A record is made after its permits are taken, and removed before they are given back.
//! 6. Only its owner removes an entry, so a place needs no generation.

mod look;
mod queue;
mod wakes;

use std::collections::HashMap;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::TryLockError;
use std::time::Duration;

use super::codel::Queue;
use super::records::{Because, Records, Settled, Who};
use super::rules::Rules;
use super::word::{Seen, Word};
use crate::call::Holder;
use crate::util::sharded::Sharded;
use crate::util::sync::{AtomicU64, Mutex, MutexGuard, Ordering, PoisonError};
use crate::util::time::Tick;

pub(super) use queue::{Claimed, Why};
use wakes::{Wakes, go_on_with};

#[derive(Debug)]
pub(super) struct Core {
    word: OwnLine,
    shards: Sharded<Shard>,
}

/// Every call writes the word: what is beside it is in other cache lines, wherever a line begins. An alignment would do
/// the same, and cost more memory.
#[derive(Debug)]
#[repr(C)]
struct OwnLine {
    _before: [u64; 7],
    word: Word,
    _after: [u64; 5],
}

impl Deref for OwnLine {
    type Target = Word;

    #[inline(always)]
    fn deref(&self) -> &Word {
        &self.word
    }
}

#[derive(Debug)]
struct Shard {
    records: Mutex<Records>,
    /// Refusals without a wait.
    refused: AtomicU64,
}

/// Where the record of a permit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    shard: u32,
    at: u32,
    n: u32,
}

/// What a release says.
#[derive(Debug)]
pub(super) struct Released {
    pub(super) held_for: Duration,
    /// Whose the permits were, if they were held for long.
    pub(super) long: Option<Holder>,
}

impl Place {
    pub(super) fn permits(self) -> u32 {
        self.n
    }

    /// A number that no other permit of the lock has at the same time.
    pub(super) fn number(self) -> u32 {
        self.shard << 25 | self.at & ((1 << 25) - 1)
    }
}

impl Shard {
    fn new() -> Self {
        Self {
            records: Mutex::new(Records::new()),
            refused: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    pub(super) fn new(capacity: u32) -> Self {
        Self {
            word: OwnLine {
                _before: [0; 7],
                word: Word::new(capacity),
                _after: [0; 5],
            },
            shards: Sharded::new(Shard::new()),
        }
    }

    /// How the queue is served, and how many permits a holder may have.
    pub(super) fn set_rules(&self, queue: Queue, max_per_holder: Option<u32>, now: Tick) {
        let mut records = self.queue();
        match &mut records.rules {
            Some(rules) => rules.change(queue, max_per_holder),
            None => records.rules = Rules::new(queue, max_per_holder),
        }
        self.word.set_locked(max_per_holder.is_some());
        let mut refused = Wakes::default();
        if let Some(most) = max_per_holder {
            let mut held = HashMap::new();
            let mut count = |holder: &Holder, n| *held.entry(holder.clone()).or_default() += n;
            records.recount(&mut count);
            let others = self.shards.all().skip(1);
            others.for_each(|shard| shard.lock().recount(&mut count));
            if let Some(rules) = &mut records.rules {
                rules.held = held;
            }
            records.refuse_all(
                Because::TooMany,
                |entry| entry.n > most,
                |waker| refused.extend(Some(waker)),
            );
        }
        let handed = catch_unwind(AssertUnwindSafe(|| self.hand_on(records, 0, now)));
        go_on_with(refused.wake().and(handed));
    }

    /// With a shard for each group of threads from the beginning.
    #[cfg(test)]
    pub(super) fn with_shards(capacity: u32) -> Self {
        let core = Self::new(capacity);
        core.shards.grow(Shard::new);
        core
    }

    fn queue(&self) -> MutexGuard<'_, Records> {
        self.shards.at(0).lock()
    }

    fn shard(&self, place: Place) -> &Shard {
        self.shards.at(place.shard as usize)
    }

    /// `n` permits, if they are free and nobody waits. The holder is made and the clock read only then.
    #[inline]
    pub(super) fn take(
        &self,
        n: u32,
        now: impl FnOnce() -> Tick,
        who: &mut Option<Who>,
    ) -> Result<Place, Seen> {
        if self.word.is_locked() {
            return self.take_within_limit(n, now(), who);
        }
        self.word.take(n)?;
        let now = now();
        let who = who.take().unwrap_or_else(Who::nobody);
        let (number, shard) = self.shards.mine_numbered();
        let at = self.lock_own(shard).hold(who, n, now);
        Ok(Place {
            shard: number as u32,
            at,
            n,
        })
    }

    #[inline(never)]
    fn take_within_limit(&self, n: u32, now: Tick, who: &mut Option<Who>) -> Result<Place, Seen> {
        let mut queue = self.queue();
        let may = who
            .as_ref()
            .is_some_and(|who| queue.may_pass(&who.holder, n, now));
        if !may {
            return Err(self.word.look());
        }
        self.word.take_past_queue(n)?;
        let who = who.take().unwrap_or_else(Who::nobody);
        Ok(self.recorded(&mut queue, who, n, now))
    }

    #[inline]
    fn lock_own<'a>(&self, shard: &'a Shard) -> MutexGuard<'a, Records> {
        match shard.records.try_lock() {
            Ok(records) => records,
            Err(TryLockError::Poisoned(records)) => records.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.collided();
                shard.lock()
            }
        }
    }

    /// Two threads have met at a shard.
    #[cold]
    #[inline(never)]
    fn collided(&self) {
        let seen = self.word.look();
        // Those who wait all meet at the queue, however many shards there are.
        if !seen.is_queued() && seen.capacity() > 1 && self.shards.collided() {
            self.shards.grow(Shard::new);
        }
    }

    /// Counts a refusal without a wait; says how many of this shard there were before it.
    #[inline]
    pub(super) fn count_refusal(&self) -> u64 {
        let shard = self.shards.mine();
        let seen = shard.refused.load(Ordering::Relaxed);
        let counted = shard.refused.compare_exchange(
            seen,
            seen.wrapping_add(1),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        match counted {
            Ok(_) => seen,
            Err(_) => self.count_refusal_again(shard),
        }
    }

    #[cold]
    fn count_refusal_again(&self, shard: &Shard) -> u64 {
        if self.shards.collided() {
            self.shards.grow(Shard::new);
        }
        shard.refused.fetch_add(1, Ordering::Relaxed)
    }

    /// Gives permits back, and wakes those who get them.
    #[inline]
    pub(super) fn release(&self, place: Place, long: Option<Duration>, now: Tick) -> Released {
        let mut records = self.shard(place).lock();
        let Settled {
            held_for,
            long,
            owed,
        } = records.settle(place.at, long, now);
        // Others wait only in the first shard.
        if records.waiting() > 0 {
            self.hand_on(records, place.n, now);
        } else {
            drop(records);
            if let Some(holder) = owed {
                self.queue().gives_back(&holder, place.n);
            }
            if self.word.give(place.n) {
                self.hand_on(self.queue(), 0, now);
            }
        }
        Released { held_for, long }
    }
}
