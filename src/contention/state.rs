//! Who has a permit and who waits for one: plain data, no clock, no lock, no waking.
//!
//! What a waiter is woken with is its business (`W`); the methods return those to be woken. A permit that
//! becomes free is handed to the first waiter at once, so nobody overtakes; the waiter *claims* it when it
//! runs next.

use std::time::Duration;

use super::graph::Line;
use super::list::{Key, List};
use crate::call::Holder;
use crate::error::HolderInfo;
use crate::util::histogram::Histogram;
use crate::util::time::Tick;

/// A permit in use.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) holder: Holder,
    pub(super) owner: Owner,
    pub(super) since: Tick,
    pub(super) claimed: bool,
    reported: bool,
}

impl Held {
    pub(super) fn info(&self, now: Tick) -> HolderInfo {
        HolderInfo::new(self.holder.clone(), now.since(self.since), self.claimed)
    }
}

/// Whose progress the release of a permit depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Nobody's in particular: it may be released at any time.
    Anybody,
    /// The permit itself is what blocks: it is released when the future that holds it ends.
    ItsFuture,
    /// A line of work of its holder, which does one thing at a time.
    Line(Line),
}

impl Owner {
    pub(super) fn line(self) -> Option<Line> {
        match self {
            Self::Line(line) => Some(line),
            Self::Anybody | Self::ItsFuture => None,
        }
    }
}

#[derive(Clone, Debug)]
struct Waiter<W> {
    holder: Holder,
    owner: Owner,
    since: Tick,
    granted: Option<Key>,
    waker: Option<W>,
}

/// Counts since the lock was made, or its statistics were reset.
#[derive(Clone, Debug)]
pub(super) struct Stats {
    pub(super) attempts: u64,
    pub(super) acquisitions: u64,
    pub(super) contentions: u64,
    pub(super) timeouts: u64,
    pub(super) abandoned: u64,
    pub(super) rejected: u64,
    pub(super) deadlocks: u64,
    pub(super) peak_in_use: usize,
    pub(super) peak_waiting: usize,
    pub(super) wait: Histogram,
    pub(super) hold: Histogram,
}

impl Stats {
    fn new() -> Self {
        Self {
            attempts: 0,
            acquisitions: 0,
            contentions: 0,
            timeouts: 0,
            abandoned: 0,
            rejected: 0,
            deadlocks: 0,
            peak_in_use: 0,
            peak_waiting: 0,
            wait: Histogram::new(),
            hold: Histogram::new(),
        }
    }

    /// Adds what was counted elsewhere; the most at once of both is at most the sum.
    pub(super) fn add(&mut self, other: &Self) {
        self.attempts += other.attempts;
        self.acquisitions += other.acquisitions;
        self.contentions += other.contentions;
        self.timeouts += other.timeouts;
        self.abandoned += other.abandoned;
        self.rejected += other.rejected;
        self.deadlocks += other.deadlocks;
        self.peak_in_use += other.peak_in_use;
        self.peak_waiting += other.peak_waiting;
        self.wait.add(&other.wait);
        self.hold.add(&other.hold);
    }
}

/// How a wait ended without a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndedBy {
    Timeout,
    Abandoned,
    Deadlock,
}

/// What became of a waiter that gave up.
#[must_use]
#[derive(Debug)]
pub(super) enum GaveUp<W> {
    /// It left the queue, and this need not be woken any more.
    Left {
        waited: Duration,
        unwoken: Option<W>,
    },
    /// It had a permit already, and keeps it.
    HadPermit(Key),
    /// It had a permit already, and passed it on.
    PassedOn { waited: Duration, wake: Option<W> },
}

/// A permit that was given back: how long it was held, whose it was if that was long, and whom to wake.
#[derive(Debug)]
pub(super) struct Released<W> {
    pub(super) held_for: Duration,
    pub(super) long: Option<Holder>,
    pub(super) wake: Option<W>,
}

#[derive(Clone, Debug)]
pub(super) struct State<W> {
    pub(super) capacity: usize,
    /// The longest holder first.
    held: List<Held>,
    /// In their order; those that were granted a permit stand aside until they claim it.
    waiters: List<Waiter<W>>,
    pub(super) stats: Stats,
}

impl<W> State<W> {
    pub(super) fn new(capacity: usize) -> Self {
        Self::numbered(0, capacity)
    }

    /// One of several among which permits move; the keys of its permits tell which.
    pub(super) fn numbered(list: usize, capacity: usize) -> Self {
        Self {
            capacity,
            held: List::new(list),
            waiters: List::new(0),
            stats: Stats::new(),
        }
    }

    pub(super) fn in_use(&self) -> usize {
        self.held.len()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// How many permits nobody has.
    pub(super) fn free(&self) -> usize {
        self.capacity.saturating_sub(self.in_use())
    }

    fn is_free(&self) -> bool {
        self.free() > 0 && self.waiting() == 0
    }

    /// Takes up to so many permits away that nobody has, and says how many.
    pub(super) fn take_out(&mut self, most: usize) -> usize {
        let out = self.free().min(most);
        self.capacity -= out;
        out
    }

    /// One permit more; says whom to wake.
    #[must_use = "somebody may have to be woken"]
    pub(super) fn put_in(&mut self, now: Tick) -> Option<W> {
        self.capacity += 1;
        self.grant(now)
    }

    #[inline(always)]
    fn hold(&mut self, holder: Holder, owner: Owner, claimed: bool, now: Tick) -> Key {
        let key = self.held.push(Held {
            holder,
            owner,
            since: now,
            claimed,
            reported: false,
        });
        self.stats.peak_in_use = self.stats.peak_in_use.max(self.in_use());
        key
    }

    /// A permit, if one is free and nobody waits. Counts as an attempt only if it succeeds.
    #[inline(always)]
    pub(super) fn try_acquire(&mut self, holder: &Holder, owner: Owner, now: Tick) -> Option<Key> {
        if !self.is_free() {
            return None;
        }
        self.stats.attempts += 1;
        self.stats.acquisitions += 1;
        self.stats.wait.record_zero();
        Some(self.hold(holder.clone(), owner, true, now))
    }

    /// Somebody was refused without waiting.
    pub(super) fn refuse(&mut self) {
        self.stats.attempts += 1;
        self.stats.contentions += 1;
        self.stats.rejected += 1;
    }

    /// Joins the queue.
    pub(super) fn enqueue(&mut self, holder: Holder, owner: Owner, now: Tick) -> Key {
        self.stats.attempts += 1;
        let key = self.waiters.push(Waiter {
            holder,
            owner,
            since: now,
            granted: None,
            waker: None,
        });
        self.stats.peak_waiting = self.stats.peak_waiting.max(self.waiting());
        key
    }

    /// Hands a free permit to the first waiter, and says whom to wake.
    fn grant(&mut self, now: Tick) -> Option<W> {
        if self.in_use() >= self.capacity {
            return None;
        }
        let first = self.waiters.first()?;
        let waiter = self.waiters.get(first)?;
        let (holder, owner) = (waiter.holder.clone(), waiter.owner);
        self.waiters.set_aside(first);
        let permit = self.hold(holder, owner, false, now);
        let waiter = self.waiters.get_mut(first)?;
        waiter.granted = Some(permit);
        waiter.waker.take()
    }

    /// The permit of a waiter and how long it waited, if it has been granted one. Else remembers `waker`,
    /// and leaves there who was to be woken before: to drop a waker is for the caller, without a lock.
    pub(super) fn claim(
        &mut self,
        key: Key,
        waker: &mut Option<W>,
        threshold: Duration,
    ) -> Option<(Key, Duration)> {
        let waiter = self.waiters.get_mut(key)?;
        let Some(permit) = waiter.granted else {
            std::mem::swap(&mut waiter.waker, waker);
            return None;
        };
        let waited = self.take_granted(key, permit, threshold);
        Some((permit, waited))
    }

    /// A waiter runs on another line of work than the one it began on: its permit is nobody's in
    /// particular.
    pub(super) fn disown(&mut self, key: Key) {
        let Some(waiter) = self.waiters.get_mut(key) else {
            return;
        };
        waiter.owner = Owner::Anybody;
        if let Some(held) = waiter.granted.and_then(|permit| self.held.get_mut(permit)) {
            held.owner = Owner::Anybody;
        }
    }

    /// It waited until it was granted the permit: no matter when it looks.
    fn take_granted(&mut self, key: Key, permit: Key, threshold: Duration) -> Duration {
        let waiter = self.waiters.remove(key);
        let waited = match (waiter, self.held.get_mut(permit)) {
            (Some(waiter), Some(held)) => {
                held.claimed = true;
                held.since.since(waiter.since)
            }
            _ => Duration::ZERO,
        };
        self.stats.acquisitions += 1;
        self.stats.wait.record(waited);
        self.stats.contentions += u64::from(waited >= threshold);
        waited
    }

    /// A waiter gives up. One that has been granted a permit meanwhile keeps it when it ran out of time,
    /// and passes it on when it went away.
    pub(super) fn give_up(
        &mut self,
        key: Key,
        by: EndedBy,
        threshold: Duration,
        now: Tick,
    ) -> Option<GaveUp<W>> {
        let waiter = self.waiters.get(key)?;
        let (since, granted) = (waiter.since, waiter.granted);
        let Some(permit) = granted else {
            let unwoken = self.waiters.remove(key).and_then(|waiter| waiter.waker);
            let waited = now.since(since);
            self.count_ended(by, waited);
            return Some(GaveUp::Left { waited, unwoken });
        };
        if by != EndedBy::Abandoned {
            self.take_granted(key, permit, threshold);
            return Some(GaveUp::HadPermit(permit));
        }
        self.waiters.remove(key);
        // It waited until it was granted the permit, not until it went away.
        let waited = self.held.remove(permit)?.since.since(since);
        self.count_ended(by, waited);
        let wake = self.grant(now);
        Some(GaveUp::PassedOn { waited, wake })
    }

    fn count_ended(&mut self, by: EndedBy, waited: Duration) {
        self.stats.contentions += 1;
        match by {
            EndedBy::Timeout => self.stats.timeouts += 1,
            EndedBy::Abandoned => self.stats.abandoned += 1,
            EndedBy::Deadlock => self.stats.deadlocks += 1,
        }
        self.stats.wait.record(waited);
    }

    /// Gives a permit back. Says whose it was only if it was held for at least `long`: nobody else wants to know.
    #[must_use = "somebody may have to be woken"]
    #[inline(always)]
    pub(super) fn release(
        &mut self,
        permit: Key,
        long: Option<Duration>,
        now: Tick,
    ) -> Option<Released<W>> {
        let held_for = now.since(self.held.get(permit)?.since);
        let holder = self.held.remove_with(permit, |held| {
            let was_long = long.is_some_and(|long| held_for >= long);
            was_long.then(|| held.holder.clone())
        })?;
        self.stats.hold.record(held_for);
        Some(Released {
            held_for,
            long: holder,
            wake: match self.waiting() {
                0 => None,
                _ => self.grant(now),
            },
        })
    }

    /// Changes the number of permits, and says whom to wake. Holders beyond it keep theirs.
    #[must_use = "these have to be woken"]
    pub(super) fn set_capacity(&mut self, capacity: usize, now: Tick) -> Vec<W> {
        self.capacity = capacity;
        let mut wake = Vec::new();
        while self.in_use() < self.capacity && self.waiting() > 0 {
            wake.extend(self.grant(now));
        }
        wake
    }

    /// Whether a waiter still waits in the queue.
    pub(super) fn is_queued(&self, key: Key) -> bool {
        self.waiters
            .get(key)
            .is_some_and(|waiter| waiter.granted.is_none())
    }

    /// The permits in use.
    pub(super) fn held(&self) -> impl Iterator<Item = (Key, &Held)> {
        self.held.iter()
    }

    pub(super) fn get_held(&self, permit: Key) -> Option<&Held> {
        self.held.get(permit)
    }

    /// The waiters in their order.
    pub(super) fn queue(&self) -> impl Iterator<Item = (&Holder, Tick)> {
        let queue = self.waiters.iter();
        queue.map(|(_, waiter)| (&waiter.holder, waiter.since))
    }

    /// Holders that have held for at least `threshold` and have not been reported; now they have.
    pub(super) fn report_long_holds(&mut self, threshold: Duration, now: Tick) -> Vec<HolderInfo> {
        let mut long = Vec::new();
        for held in self.held.values_mut() {
            let held_for = now.since(held.since);
            if held_for >= threshold && !held.reported {
                held.reported = true;
                long.push(held.info(now));
            }
        }
        long
    }

    /// How many places there are in memory, for permits and for waiters.
    #[cfg(test)]
    pub(super) fn places(&self) -> (usize, usize) {
        (self.held.places(), self.waiters.places())
    }

    pub(super) fn reset_stats(&mut self) {
        self.stats = Stats::new();
        self.stats.peak_in_use = self.in_use();
        self.stats.peak_waiting = self.waiting();
    }
}
