//! Who holds a permit and, in the first shard of a lock, who waits for one, in their order. Plain data: no clock, no
//! lock, no waking.

use std::task::Waker;
use std::time::Duration;

use slab::Slab;

use super::owner::Owner;
use super::rules::{Priority, Rules};
use crate::call::Holder;
use crate::error::HolderInfo;
use crate::util::recent::RecentHistogram;
use crate::util::time::Tick;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Waits,
    /// Has its permits, and has not run since.
    Granted,
    Holds,
    /// Will never be granted any.
    Refused(Because),
}

/// Why a waiter will never be granted its permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Because {
    Closed,
    /// The lock has fewer by now.
    TooMany,
    /// It waited for too long in an overloaded queue.
    Shed,
    /// The queue was full, and somebody more important came.
    GaveWay,
}

/// Who asks, whose the permits are, and how important it is.
#[derive(Clone, Debug)]
pub(super) struct Who {
    pub(super) holder: Holder,
    pub(super) owner: Owner,
    pub(super) priority: Priority,
}

/// A holder or a waiter. A waiter becomes a holder in the same place: a grant copies nothing.
#[derive(Debug)]
#[repr(align(64))] // The slabs of two shards may lie side by side.
pub(super) struct Entry {
    pub(super) holder: Holder,
    pub(super) owner: Owner,
    /// When it asked.
    asked: Tick,
    /// When it got its permits; while it waits, when it asked.
    pub(super) since: Tick,
    pub(super) waker: Option<Waker>,
    /// How many permits it has or wants.
    pub(super) n: u32,
    before: u32,
    behind: u32,
    pub(super) stage: Stage,
    priority: Priority,
    /// A long hold, or a grant that nobody takes, has been reported.
    reported: bool,
    /// Its permits are among those that the rules have counted for its holder.
    counted: bool,
}

/// What is known of a holder that is gone.
#[derive(Debug, Default)]
pub(super) struct Settled {
    pub(super) held_for: Duration,
    /// Who it was, if it held its permits for long.
    pub(super) long: Option<Holder>,
    /// Who it was, if the rules of the first shard have counted its permits.
    pub(super) owed: Option<Holder>,
}

/// How a wait ended without a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndedBy {
    Timeout,
    Abandoned,
    Deadlock,
}

/// What became of a waiter that gave up.
#[derive(Debug)]
#[must_use]
pub(super) enum GaveUp {
    /// It left the queue after this time.
    Left(Duration),
    /// It had just been granted its permits. Somebody who ran out of time keeps them.
    HadPermits,
    /// It had just been granted its permits after this time, and went away: they are to be passed on.
    PassesOn(Duration),
}

/// Counts since the lock was made, or its statistics were reset.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// Permits that were free.
    pub(super) at_once: u64,
    pub(super) queued: u64,
    /// Waits that ended with a permit.
    pub(super) granted: u64,
    /// Waits that lasted for the threshold, or ended without a permit.
    pub(super) contended: u64,
    pub(super) timeouts: u64,
    pub(super) abandoned: u64,
    pub(super) deadlocks: u64,
    /// Waits that a close, or a cut of the capacity, ended.
    pub(super) closed: u64,
    /// Waits that an overloaded or full queue ended.
    pub(super) shed: u64,
    pub(super) queue_full: u64,
    pub(super) peak_waiting: u32,
    pub(super) wait: RecentHistogram,
    pub(super) hold: RecentHistogram,
}

impl Counts {
    /// Lets go of what is no longer recent.
    pub(super) fn turn(&mut self, now: Tick) {
        self.wait.turn(now);
        self.hold.turn(now);
    }

    /// Adds what was counted in another shard, where nobody ever waits.
    pub(super) fn add(&mut self, other: &Self) {
        self.at_once += other.at_once;
        self.wait.add(&other.wait);
        self.hold.add(&other.hold);
    }
}

const NOBODY: u32 = u32::MAX;

/// Entries in the order in which they joined. Each entry is in one order at a time.
#[derive(Clone, Copy, Debug)]
struct Order {
    first: u32,
    last: u32,
}

impl Order {
    const EMPTY: Self = Self {
        first: NOBODY,
        last: NOBODY,
    };

    /// Puts `at` behind the last.
    #[inline]
    fn push(&mut self, entries: &mut Slab<Entry>, at: u32) {
        match entries.get_mut(self.last as usize) {
            Some(last) => last.behind = at,
            None => self.first = at,
        }
        if let Some(entry) = entries.get_mut(at as usize) {
            (entry.before, entry.behind) = (self.last, NOBODY);
        }
        self.last = at;
    }

    /// Takes out what stands between these two.
    #[inline]
    fn unlink(&mut self, entries: &mut Slab<Entry>, before: u32, behind: u32) {
        match entries.get_mut(before as usize) {
            Some(entry) => entry.behind = behind,
            None => self.first = behind,
        }
        match entries.get_mut(behind as usize) {
            Some(entry) => entry.before = before,
            None => self.last = before,
        }
    }

    /// From the last to the first.
    fn iter_back<'a>(
        &self,
        entries: &'a Slab<Entry>,
    ) -> impl Iterator<Item = (u32, &'a Entry)> + use<'a> {
        let mut at = self.last;
        std::iter::from_fn(move || {
            let entry = entries.get(at as usize)?;
            let this = std::mem::replace(&mut at, entry.before);
            Some((this, entry))
        })
    }

    fn iter<'a>(
        &self,
        entries: &'a Slab<Entry>,
    ) -> impl Iterator<Item = (u32, &'a Entry)> + use<'a> {
        let mut at = self.first;
        std::iter::from_fn(move || {
            let entry = entries.get(at as usize)?;
            let this = std::mem::replace(&mut at, entry.behind);
            Some((this, entry))
        })
    }
}

#[derive(Debug)]
pub(super) struct Records {
    entries: Slab<Entry>,
    /// Who waits, by priority, the least important first.
    queues: [Order; Priority::COUNT],
    waiting: u32,
    /// Grants so far: now and then one goes to whoever waits longest.
    grants: u32,
    /// Other than first come, first served for all.
    pub(super) rules: Option<Box<Rules>>,
    /// The longest holder first.
    holders: Order,
    pub(super) counts: Counts,
}

impl Records {
    /// With more places than this, an empty list gives its memory back: one bad minute with a million waiters is not
    /// paid for until the process ends.
    const WORTH_KEEPING: usize = 8;

    pub(super) fn new() -> Self {
        Self {
            entries: Slab::new(),
            queues: [Order::EMPTY; Priority::COUNT],
            waiting: 0,
            grants: 0,
            rules: None,
            holders: Order::EMPTY,
            counts: Counts::default(),
        }
    }

    pub(super) fn waiting(&self) -> u32 {
        self.waiting
    }

    #[inline]
    fn insert(&mut self, entry: Entry) -> u32 {
        if self.entries.len() == self.entries.capacity() {
            // The first holder of an exclusive lock takes one place, not four.
            self.entries.reserve_exact(self.entries.len().max(1));
        }
        let at = self.entries.insert(entry);
        u32::try_from(at).unwrap_or(NOBODY)
    }

    /// Notes who has just taken `n`.
    #[inline]
    pub(super) fn hold(&mut self, who: Who, n: u32, now: Tick) -> u32 {
        self.counts.at_once += 1;
        self.counts.wait.record_zero(now);
        let counted = match &mut self.rules {
            Some(rules) => rules.takes(&who.holder, n),
            None => false,
        };
        let at = self.insert(Entry {
            holder: who.holder,
            owner: who.owner,
            priority: who.priority,
            asked: now,
            since: now,
            waker: None,
            n,
            before: NOBODY,
            behind: NOBODY,
            stage: Stage::Holds,
            reported: false,
            counted,
        });
        self.holders.push(&mut self.entries, at);
        at
    }

    /// Removes the record of a holder, before its permits are given back. Says for how long it held them, and whose
    /// they were only if that was at least `long`: nobody else wants to know.
    #[inline]
    pub(super) fn settle(&mut self, at: u32, long: Option<Duration>, now: Tick) -> Settled {
        let Some(entry) = self.entries.get(at as usize) else {
            return Settled::default();
        };
        let held_for = now.since(entry.since);
        let (before, behind) = (entry.before, entry.behind);
        let counted = entry.counted.then_some(entry.n);
        let owed = match (&mut self.rules, counted) {
            (Some(rules), Some(n)) => {
                rules.gives_back(&entry.holder, n);
                None
            }
            (None, Some(_)) => Some(entry.holder.clone()),
            (_, None) => None,
        };
        self.holders.unlink(&mut self.entries, before, behind);
        let entry = self.remove(at);
        self.counts.hold.record(held_for, now);
        let was_long = long.is_some_and(|long| held_for >= long);
        let long = entry.filter(|_| was_long).map(|entry| entry.holder);
        Settled {
            held_for,
            long,
            owed,
        }
    }

    /// A record of another shard is gone, whose permits the rules have counted.
    pub(super) fn gives_back(&mut self, holder: &Holder, n: u32) {
        if let Some(rules) = &mut self.rules {
            rules.gives_back(holder, n);
        }
    }

    #[inline]
    fn remove(&mut self, at: u32) -> Option<Entry> {
        let entry = self.entries.try_remove(at as usize);
        if self.entries.is_empty() && self.entries.capacity() > Self::WORTH_KEEPING {
            self.entries = Slab::new();
        }
        entry
    }

    /// Joins the queue.
    pub(super) fn enqueue(&mut self, who: Who, n: u32, waker: Waker, now: Tick) -> u32 {
        let priority = who.priority;
        let at = self.insert(Entry {
            holder: who.holder,
            owner: who.owner,
            priority,
            asked: now,
            since: now,
            waker: Some(waker),
            n,
            before: NOBODY,
            behind: NOBODY,
            stage: Stage::Waits,
            reported: false,
            counted: false,
        });
        if let Some(rules) = &mut self.rules
            && self.waiting == 0
        {
            rules.queue_begins(now);
        }
        self.queues[priority as usize].push(&mut self.entries, at);
        self.waiting += 1;
        self.counts.queued += 1;
        self.counts.peak_waiting = self.counts.peak_waiting.max(self.waiting);
        at
    }

    fn leave_queue(&mut self, at: u32) {
        if let Some(entry) = self.entries.get(at as usize) {
            let (before, behind) = (entry.before, entry.behind);
            self.queues[entry.priority as usize].unlink(&mut self.entries, before, behind);
            self.waiting -= 1;
        }
    }

    /// Who is served next, and how many permits it wants.
    #[inline]
    pub(super) fn next(&self, now: Tick) -> Option<(u32, u32)> {
        if self.waiting == 0 {
            return None;
        }
        let at = match &self.rules {
            None => self.next_by_priority(),
            Some(rules) => self.next_by_rules(rules, now),
        };
        let entry = self.entries.get(at? as usize)?;
        Some((at?, entry.n))
    }

    /// The first of the most important, and now and then whoever waits longest: so nobody starves.
    fn next_by_priority(&self) -> Option<u32> {
        let mut firsts = self.queues.iter().rev().map(|queue| queue.first);
        let mut there = firsts.by_ref().filter(|first| *first != NOBODY);
        let most_important = there.next()?;
        if !self.is_for_the_oldest() {
            return Some(most_important);
        }
        let asked = |at: &u32| self.entries.get(*at as usize).map(|entry| entry.asked);
        std::iter::once(most_important)
            .chain(there)
            .min_by_key(asked)
    }

    fn is_for_the_oldest(&self) -> bool {
        const EACH: u32 = 8;
        self.grants % EACH == EACH - 1
    }

    fn next_by_rules(&self, rules: &Rules, now: Tick) -> Option<u32> {
        if !rules.limits_holders() && !rules.last_comes_first(now) {
            return self.next_by_priority();
        }
        let may = |(_, entry): &(u32, &Entry)| rules.may_take(&entry.holder, entry.n);
        let queues = self.queues.iter().rev();
        let next = |queue: &Order| match rules.last_comes_first(now) {
            true => queue.iter_back(&self.entries).find(may),
            false => queue.iter(&self.entries).find(may),
        };
        let mut next = queues.filter_map(next);
        if rules.last_comes_first(now) || !self.is_for_the_oldest() {
            return next.next().map(|(at, _)| at);
        }
        next.min_by_key(|(_, entry)| entry.asked).map(|(at, _)| at)
    }

    /// Counts the permits of each holder anew, for rules that begin to limit them.
    pub(super) fn recount(&mut self, mut count: impl FnMut(&Holder, u32)) {
        for (_, entry) in &mut self.entries {
            if matches!(entry.stage, Stage::Granted | Stage::Holds) {
                entry.counted = true;
                count(&entry.holder, entry.n);
            }
        }
    }

    /// Whether anybody can have so many at once.
    pub(super) fn can_ever_take(&self, n: u32) -> bool {
        self.rules.as_ref().is_none_or(|it| n <= it.most())
    }

    /// Whether somebody who comes now may take `n` permits that are free, past those who wait.
    pub(super) fn may_pass(&self, holder: &Holder, n: u32, now: Tick) -> bool {
        let may = self.rules.as_ref().is_none_or(|it| it.may_take(holder, n));
        may && self.next(now).is_none()
    }

    /// How many permits have to be free before this waiter gets its own: those who come before it, come first.
    pub(super) fn needs(&self, at: u32, now: Tick) -> Option<u32> {
        let entry = self.entries.get(at as usize)?;
        let first = self.next(now).map_or(0, |(_, n)| n);
        (entry.stage == Stage::Waits).then(|| entry.n.max(first))
    }

    /// A waiter becomes a holder, where it is; says whom to wake.
    #[inline]
    pub(super) fn grant(&mut self, at: u32, now: Tick) -> Option<Waker> {
        self.leave_queue(at);
        self.grants = self.grants.wrapping_add(1);
        let entry = self.entries.get_mut(at as usize)?;
        let waker = entry.waker.take();
        (entry.stage, entry.since) = (Stage::Granted, now);
        if let Some(rules) = &mut self.rules {
            entry.counted = rules.takes(&entry.holder, entry.n);
        }
        self.holders.push(&mut self.entries, at);
        waker
    }

    /// A waiter will never be granted its permits; says whom to wake.
    pub(super) fn refuse(&mut self, at: u32, because: Because) -> Option<Waker> {
        self.leave_queue(at);
        let entry = self.entries.get_mut(at as usize)?;
        entry.stage = Stage::Refused(because);
        entry.waker.take()
    }

    /// Refuses the waiters of which `is_hopeless` is true.
    pub(super) fn refuse_all(
        &mut self,
        because: Because,
        is_hopeless: impl Fn(&Entry) -> bool,
        mut wake: impl FnMut(Waker),
    ) {
        for priority in 0..Priority::COUNT {
            let mut at = self.queues[priority].first;
            while let Some(entry) = self.entries.get(at as usize) {
                let (this, behind) = (at, entry.behind);
                if is_hopeless(entry) {
                    self.refuse(this, because).into_iter().for_each(&mut wake);
                }
                at = behind;
            }
        }
    }

    /// Whether the rules refuse a waiter that would be granted its permits now.
    pub(super) fn sheds(&mut self, at: u32, now: Tick) -> bool {
        let Some(rules) = &mut self.rules else {
            return false;
        };
        let asked = self.entries.get(at as usize).map(|entry| entry.asked);
        asked.is_some_and(|asked| rules.sheds(now.since(asked), now))
    }

    /// The first waiter that has waited for longer than the rules allow in an overloaded queue.
    pub(super) fn overdue(&self, now: Tick) -> Option<u32> {
        let longest = self.rules.as_ref()?.longest_wait(now)?;
        let firsts = self.queues.iter().map(|queue| queue.first);
        firsts.into_iter().find(|at| {
            let entry = self.entries.get(*at as usize);
            entry.is_some_and(|entry| now.since(entry.asked) > longest)
        })
    }

    /// The youngest of the least important, if it is less important than somebody who comes now.
    pub(super) fn gives_way_to(&self, priority: Priority) -> Option<u32> {
        let less = &self.queues[..priority as usize];
        less.iter()
            .map(|queue| queue.last)
            .find(|last| *last != NOBODY)
    }

    pub(super) fn get(&self, at: u32) -> Option<&Entry> {
        self.entries.get(at as usize)
    }

    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut Entry> {
        self.entries.get_mut(at as usize)
    }

    /// A waiter that was granted its permits takes them; says how long it waited until it was granted them, no matter
    /// when it runs.
    pub(super) fn take_granted(&mut self, at: u32, threshold: Duration) -> Option<Duration> {
        let entry = self.entries.get_mut(at as usize)?;
        if entry.stage != Stage::Granted {
            return None;
        }
        entry.stage = Stage::Holds;
        entry.reported = false;
        let granted = entry.since;
        let waited = granted.since(entry.asked);
        self.counts.granted += 1;
        self.counts.wait.record(waited, granted);
        self.counts.contended += u64::from(waited >= threshold);
        Some(waited)
    }

    /// A waiter that was refused learns of it, and is gone.
    pub(super) fn take_refused(&mut self, at: u32, now: Tick) -> Option<(Because, Duration)> {
        let Stage::Refused(because) = self.entries.get(at as usize)?.stage else {
            return None;
        };
        let waited = now.since(self.remove(at)?.asked);
        match because {
            Because::Closed | Because::TooMany => self.counts.closed += 1,
            Because::Shed | Because::GaveWay => self.counts.shed += 1,
        }
        self.counts.contended += 1;
        self.counts.wait.record(waited, now);
        Some((because, waited))
    }

    /// A waiter gives up. What it leaves behind, its waker with it, is to be dropped where no lock is held; `true` if it
    /// would have been served next.
    pub(super) fn give_up(
        &mut self,
        at: u32,
        by: EndedBy,
        threshold: Duration,
        now: Tick,
    ) -> Option<(GaveUp, Option<Entry>, bool)> {
        let entry = self.entries.get(at as usize)?;
        let (stage, asked, since) = (entry.stage, entry.asked, entry.since);
        let (before, behind) = (entry.before, entry.behind);
        let was_next = stage == Stage::Waits && self.next(now).is_some_and(|it| it.0 == at);
        let gave_up = match stage {
            Stage::Granted | Stage::Holds if by != EndedBy::Abandoned => {
                self.take_granted(at, threshold);
                return Some((GaveUp::HadPermits, None, false));
            }
            Stage::Granted | Stage::Holds => {
                if let Some(rules) = &mut self.rules
                    && entry.counted
                {
                    rules.gives_back(&entry.holder, entry.n);
                }
                self.holders.unlink(&mut self.entries, before, behind);
                // It waited until it was granted them, not until it went away.
                GaveUp::PassesOn(since.since(asked))
            }
            Stage::Waits => {
                self.leave_queue(at);
                GaveUp::Left(now.since(asked))
            }
            Stage::Refused(_) => GaveUp::Left(now.since(asked)),
        };
        let (GaveUp::Left(waited) | GaveUp::PassesOn(waited)) = gave_up else {
            return None;
        };
        self.counts.contended += 1;
        match by {
            EndedBy::Timeout => self.counts.timeouts += 1,
            EndedBy::Abandoned => self.counts.abandoned += 1,
            EndedBy::Deadlock => self.counts.deadlocks += 1,
        }
        self.counts.wait.record(waited, now);
        Some((gave_up, self.remove(at), was_next))
    }

    /// The longest first.
    pub(super) fn holders(&self) -> impl Iterator<Item = (u32, &Entry)> {
        self.holders.iter(&self.entries)
    }

    /// Those who wait: the most important first, and of these the first.
    pub(super) fn queue(&self) -> impl Iterator<Item = &Entry> {
        let queues = self.queues.iter().rev();
        queues.flat_map(|queue| queue.iter(&self.entries).map(|(_, entry)| entry))
    }

    /// Who has had permits for at least `threshold` and has not been reported; now it has. `claimed` says which of them:
    /// those who hold them, or those who were granted them and have not run since.
    pub(super) fn report_long(
        &mut self,
        threshold: Duration,
        claimed: bool,
        now: Tick,
    ) -> Vec<HolderInfo> {
        let mut long = Vec::new();
        let mut at = self.holders.first;
        while let Some(entry) = self.entries.get_mut(at as usize) {
            if now.since(entry.since) < threshold {
                break;
            }
            if !entry.reported && (entry.stage == Stage::Holds) == claimed {
                entry.reported = true;
                long.push(entry.info(now));
            }
            at = entry.behind;
        }
        long
    }

    pub(super) fn reset_counts(&mut self) {
        self.counts = Counts {
            peak_waiting: self.waiting,
            ..Counts::default()
        };
    }

    /// How many places there are in memory.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.entries.capacity()
    }
}

impl Who {
    /// Never: whoever asks is somebody.
    pub(super) fn nobody() -> Self {
        Self {
            holder: Holder::Anonymous(0),
            owner: Owner::Anybody,
            priority: Priority::Normal,
        }
    }
}

impl Entry {
    pub(super) fn info(&self, now: Tick) -> HolderInfo {
        let claimed = self.stage != Stage::Granted;
        HolderInfo::new(self.holder.clone(), now.since(self.since), claimed, self.n)
    }
}
