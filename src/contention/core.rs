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

use std::collections::HashMap;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::TryLockError;
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use super::codel::Queue;
use super::owner::Owner;
use super::records::{Because, Counts, EndedBy, Entry, GaveUp, Records, Settled, Stage, Who};
use super::rules::{Priority, Rules};
use super::word::{Asked, Seen, Word};
use crate::call::Holder;
use crate::error::HolderInfo;
use crate::util::sharded::Sharded;
use crate::util::sync::{AtomicU64, GRANTS_AT_ONCE, Mutex, MutexGuard, Ordering, PoisonError};
use crate::util::time::Tick;

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

/// Why somebody who is ready to wait is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// So many wait already, and so many were refused for that before.
    QueueFull {
        waiting: u32,
        earlier: u64,
    },
    Closed,
    /// More were asked for than there are.
    TooMany,
}

/// A wait at the moment at which it is looked at.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Claimed {
    /// It was granted its permits after this time.
    Permits(Duration),
    Waits,
    /// It will never be granted any.
    Refused(Because, Duration),
}

/// What a release says.
#[derive(Debug)]
pub(super) struct Released {
    pub(super) held_for: Duration,
    /// Whose the permits were, if they were held for long.
    pub(super) long: Option<Holder>,
}

/// Whom to wake when no lock is held: seldom more than one.
#[derive(Debug, Default)]
struct Wakes {
    one: Option<Waker>,
    more: Vec<Waker>,
}

impl Wakes {
    #[inline]
    fn extend(&mut self, waker: Option<Waker>) {
        match &self.one {
            None => self.one = waker,
            Some(_) => self.more.extend(waker),
        }
    }

    /// All of them, also if one panics. Says what the first panicked with.
    #[inline]
    fn wake(self) -> thread::Result<()> {
        let mut result = Ok(());
        for waker in self.one.into_iter().chain(self.more) {
            let woken = catch_unwind(AssertUnwindSafe(|| waker.wake()));
            result = result.and(woken);
        }
        result
    }
}

/// A waker is somebody else's code: its panic goes on where everything is done.
fn go_on_with(panic: thread::Result<()>) {
    if let Err(panic) = panic {
        resume_unwind(panic);
    }
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

    pub(super) fn seen(&self) -> Seen {
        self.word.look()
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

    /// Refusals without a wait, except by a full queue.
    pub(super) fn refused(&self) -> u64 {
        let counts = self.shards.all();
        counts.fold(0, |sum, shard| {
            sum.wrapping_add(shard.refused.load(Ordering::Relaxed))
        })
    }

    /// Counts a refusal if so many wait already, and nobody of them would give way.
    pub(super) fn refuse_if_full(&self, max_waiting: usize, priority: Priority) -> Option<Why> {
        if max_waiting > 0 && !self.word.look().is_queued() {
            return None;
        }
        let mut queue = self.queue();
        let is_full = queue.waiting() as usize >= max_waiting;
        (is_full && queue.gives_way_to(priority).is_none()).then(|| Self::full(&mut queue))
    }

    fn full(queue: &mut Records) -> Why {
        let earlier = queue.counts.queue_full;
        queue.counts.queue_full += 1;
        Why::QueueFull {
            waiting: queue.waiting(),
            earlier,
        }
    }

    /// Joins the queue, unless the permits are free by now: then it is ready.
    pub(super) fn enqueue(
        &self,
        n: u32,
        who: Who,
        waker: Waker,
        max_waiting: Option<usize>,
        now: Tick,
    ) -> Result<(Place, Poll<()>), Why> {
        let mut queue = self.queue();
        let seen = self.word.look();
        if seen.is_closed() {
            return Err(Why::Closed);
        }
        if n > seen.capacity() || !queue.can_ever_take(n) {
            return Err(Why::TooMany);
        }
        if queue.may_pass(&who.holder, n, now) && self.word.take_past_queue(n).is_ok() {
            return Ok((self.recorded(&mut queue, who, n, now), Poll::Ready(())));
        }
        let is_full = max_waiting.is_some_and(|max| queue.waiting() as usize >= max);
        let mut evicted = None;
        if is_full {
            match queue.gives_way_to(who.priority) {
                Some(at) => evicted = queue.refuse(at, Because::GaveWay),
                None => return Err(Self::full(&mut queue)),
            }
        }
        let queued = match self.word.is_locked() {
            false => self.word.take_or_queue(n),
            true => {
                self.word.set_queued();
                Asked::Queue
            }
        };
        let asked = match queued {
            Asked::Closed => Err(Why::Closed),
            Asked::Took => Ok((self.recorded(&mut queue, who, n, now), Poll::Ready(()))),
            Asked::Queue => {
                let at = queue.enqueue(who, n, waker, now);
                Ok((Place { shard: 0, at, n }, Poll::Pending))
            }
        };
        self.joined(queue, &asked, evicted, now);
        asked
    }

    /// Somebody has asked under the lock: wakes whom that concerns. If that panics, nobody learns of the place, and it is
    /// free again.
    fn joined(
        &self,
        queue: MutexGuard<'_, Records>,
        asked: &Result<(Place, Poll<()>), Why>,
        evicted: Option<Waker>,
        now: Tick,
    ) {
        // Who comes may be the next, and want no more than is free.
        let is_next = match asked {
            Ok((place, Poll::Pending)) => {
                let is_alone = queue.waiting() == 1 && evicted.is_none();
                !is_alone && queue.next(now).is_some_and(|next| next.0 == place.at)
            }
            _ => false,
        };
        let handed = catch_unwind(AssertUnwindSafe(|| match is_next {
            true => self.hand_on(queue, 0, now),
            false => drop(queue),
        }));
        let mut wakes = Wakes::default();
        wakes.extend(evicted);
        let panic = wakes.wake().and(handed);
        if panic.is_err() {
            match asked {
                Ok((place, Poll::Pending)) => {
                    let _ = self.give_up(*place, EndedBy::Abandoned, Duration::MAX, now);
                }
                Ok((place, Poll::Ready(()))) => {
                    self.release(*place, None, now);
                }
                Err(_) => {}
            }
        }
        go_on_with(panic);
    }

    fn recorded(&self, queue: &mut Records, who: Who, n: u32, now: Tick) -> Place {
        let at = queue.hold(who, n, now);
        Place { shard: 0, at, n }
    }

    /// Whether a waiter has its permits; else `waker` is woken when that changes.
    pub(super) fn claim(
        &self,
        place: Place,
        waker: &Waker,
        threshold: Duration,
        now: impl FnOnce() -> Tick,
    ) -> Claimed {
        let mut fresh = None;
        loop {
            let mut queue = self.queue();
            if let Some(waited) = queue.take_granted(place.at, threshold) {
                return Claimed::Permits(waited);
            }
            match queue.get_mut(place.at) {
                Some(entry) if entry.stage == Stage::Waits => {
                    if entry.waker.as_ref().is_some_and(|it| it.will_wake(waker)) {
                        return Claimed::Waits;
                    }
                    // A waker is somebody else's code: it is cloned and dropped where no lock is held.
                    if fresh.is_some() {
                        std::mem::swap(&mut entry.waker, &mut fresh);
                        drop(queue);
                        return Claimed::Waits;
                    }
                }
                _ => {
                    let refused = queue.take_refused(place.at, now());
                    let (because, waited) = refused.unwrap_or((Because::Closed, Duration::ZERO));
                    return Claimed::Refused(because, waited);
                }
            }
            drop(queue);
            fresh = Some(waker.clone());
        }
    }

    /// A waiter gives up. One that was granted its permits keeps them when its time is over, and passes them on when
    /// it goes away.
    pub(super) fn give_up(
        &self,
        place: Place,
        by: EndedBy,
        threshold: Duration,
        now: Tick,
    ) -> Option<GaveUp> {
        let mut queue = self.queue();
        let (gave_up, entry, was_next) = queue.give_up(place.at, by, threshold, now)?;
        match gave_up {
            GaveUp::PassesOn(_) => self.hand_on(queue, place.n, now),
            // Those behind it may want less.
            GaveUp::Left(_) if was_next => self.hand_on(queue, 0, now),
            GaveUp::Left(_) | GaveUp::HadPermits => drop(queue),
        }
        drop(entry); // With its waker, where no lock is held.
        Some(gave_up)
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

    /// Grants what is free, and the permits that the caller has in hand, to those who wait, in their order, and wakes
    /// them.
    #[inline(never)]
    fn hand_on<'a>(&'a self, mut queue: MutexGuard<'a, Records>, mut in_hand: u32, now: Tick) {
        let mut panic = Ok(());
        loop {
            let (wakes, is_done) = self.grant_some(&mut queue, in_hand, now);
            drop(queue);
            let woken = wakes.wake();
            panic = panic.and(woken);
            if is_done {
                return go_on_with(panic);
            }
            (queue, in_hand) = (self.queue(), 0);
        }
    }

    /// What goes from hand to hand leaves the word as it is.
    fn grant_some(&self, queue: &mut Records, mut in_hand: u32, now: Tick) -> (Wakes, bool) {
        let mut wakes = Wakes::default();
        let mut left = GRANTS_AT_ONCE;
        let seen = loop {
            let seen = self.word.look();
            if left > 0
                && let Some(overdue) = queue.overdue(now)
            {
                left -= 1;
                wakes.extend(queue.refuse(overdue, Because::Shed));
                continue;
            }
            match queue.next(now) {
                Some((at, n)) if left > 0 && seen.leaves_room(n, in_hand) => {
                    left -= 1;
                    if queue.sheds(at, now) {
                        wakes.extend(queue.refuse(at, Because::Shed));
                        continue;
                    }
                    if n > in_hand {
                        self.word.take_for_waiter(n - in_hand);
                    }
                    in_hand = in_hand.saturating_sub(n);
                    wakes.extend(queue.grant(at, now));
                }
                _ => break seen,
            }
        };
        if queue.waiting() == 0 && seen.is_queued() {
            self.word.clear_queued();
        }
        if in_hand > 0 {
            // Whoever gave back since the look waits for the queue's lock, to hand on.
            let _ = self.word.give(in_hand);
        }
        (wakes, left > 0)
    }

    /// Changes the number of permits; says what it was. Those who hold more keep them; who waits for more than there are
    /// is refused.
    pub(super) fn resize(&self, capacity: u32, now: Tick) -> u32 {
        let mut queue = self.queue();
        let from = self.word.resize(capacity);
        let mut refused = Wakes::default();
        if capacity < from {
            queue.refuse_all(
                Because::TooMany,
                |entry| entry.n > capacity,
                |waker| refused.extend(Some(waker)),
            );
        }
        let handed = catch_unwind(AssertUnwindSafe(|| self.hand_on(queue, 0, now)));
        go_on_with(refused.wake().and(handed));
        from
    }

    /// Nobody gets a permit any more; those who hold some keep them.
    pub(super) fn close(&self) {
        let mut queue = self.queue();
        self.word.close();
        let mut refused = Wakes::default();
        queue.refuse_all(
            Because::Closed,
            |_| true,
            |waker| refused.extend(Some(waker)),
        );
        self.word.clear_queued();
        drop(queue);
        go_on_with(refused.wake());
    }

    /// A waiter runs on another line of work than the one it began on: its permits are nobody's in particular.
    pub(super) fn disown(&self, place: Place) {
        if let Some(entry) = self.queue().get_mut(place.at) {
            entry.owner = Owner::Anybody;
        }
    }

    /// How many permits have to be free before this waiter gets its own; `None` once it has them.
    pub(super) fn needs(&self, place: Place, now: Tick) -> Option<u32> {
        self.queue().needs(place.at, now)
    }

    /// What is recorded of a permit in use.
    pub(super) fn look_at<T>(&self, place: Place, look: impl FnOnce(&Entry) -> T) -> Option<T> {
        self.shard(place).lock().get(place.at).map(look)
    }

    /// Each permit in use with its place, one shard after the other: what is released meanwhile may be missed.
    pub(super) fn for_each_holder(&self, mut each: impl FnMut(Place, &Entry)) {
        for (shard, records) in (0u32..).zip(self.shards.all()) {
            for (at, entry) in records.lock().holders() {
                each(
                    Place {
                        shard,
                        at,
                        n: entry.n,
                    },
                    entry,
                );
            }
        }
    }

    /// The longest holders, at most so many. No more are looked at in each shard, however many hold and wait.
    pub(super) fn holders(&self, most: usize, now: Tick) -> Vec<HolderInfo> {
        let mut longest = Vec::new();
        for shard in self.shards.all() {
            let records = shard.lock();
            longest.extend(records.holders().take(most).map(|(_, it)| it.info(now)));
        }
        longest.sort_by_key(|info| std::cmp::Reverse(info.held_for));
        longest.truncate(most);
        longest
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue().waiting() as usize
    }

    /// The first of those who wait, at most so many.
    pub(super) fn waiters(&self, most: usize, now: Tick) -> Vec<(Holder, Duration)> {
        let queue = self.queue();
        let first = queue.queue().take(most);
        first
            .map(|it| (it.holder.clone(), now.since(it.since)))
            .collect()
    }

    /// Counts and times of all shards.
    pub(super) fn counts(&self, now: Tick) -> Counts {
        let of_shard = |shard: &Shard| {
            let mut records = shard.lock();
            records.counts.turn(now);
            records.counts.clone()
        };
        let mut shards = self.shards.all().map(of_shard);
        let mut counts = shards.next().unwrap_or_default();
        shards.for_each(|it| counts.add(&it));
        counts
    }

    /// For how long permits were held that came back lately, on average; else since the beginning.
    pub(super) fn mean_hold(&self, now: Tick) -> Option<Duration> {
        let mut totals = [(0, 0); 2];
        for shard in self.shards.all() {
            let mut records = shard.lock();
            records.counts.turn(now);
            for (total, more) in totals.iter_mut().zip(records.counts.hold.totals()) {
                *total = (total.0 + more.0, total.1 + more.1);
            }
        }
        let (count, sum) = totals.into_iter().find(|it| it.0 > 0)?;
        let mean = sum / u128::from(count);
        Some(Duration::from_nanos(
            u64::try_from(mean).unwrap_or(u64::MAX),
        ))
    }

    /// Who has had permits for at least `threshold` and has not been reported; now it has. With `claimed`, who holds
    /// them; else who was granted them and has not run since.
    pub(super) fn report_long(
        &self,
        threshold: Duration,
        claimed: bool,
        now: Tick,
    ) -> Vec<HolderInfo> {
        let report = |shard: &Shard| shard.lock().report_long(threshold, claimed, now);
        self.shards.all().flat_map(report).collect()
    }

    /// Whether somebody who wants one permit now finds it.
    pub(super) fn has_free(&self) -> bool {
        let seen = self.word.look();
        !seen.is_closed() && seen.in_use() < seen.capacity() && self.waiting() == 0
    }

    /// How often somebody found the queue full.
    pub(super) fn queue_full(&self) -> u64 {
        self.queue().counts.queue_full
    }

    /// Waits that an overloaded or full queue has ended.
    pub(super) fn shed(&self) -> u64 {
        self.queue().counts.shed
    }

    pub(super) fn peak_in_use(&self) -> u32 {
        self.word.peak()
    }

    pub(super) fn reset_counts(&self) {
        self.word.reset_peak();
        for shard in self.shards.all() {
            shard.refused.store(0, Ordering::Relaxed);
            shard.lock().reset_counts();
        }
    }
}
