//! What a wait does when it begins, when it is woken, when its time comes, and when it is dropped. Used by the future
//! and by the blocking twin alike.

use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::config::OnDeadlock;
use super::core::{Claimed, Place, Why};
use super::graph::{Looks, Registration};
use super::guard::{Lends, Slot};
use super::handle::Shared;
use super::owner::{Line, Owner};
use super::records::{Because, EndedBy, GaveUp, Who};
use super::rules::Priority;
use super::word::{MOST, Seen};
use crate::call::Holder;
use crate::call::context::WaitPlace;
use crate::call::deadline::{self, Deadline};
use crate::error::{Contended, ContendedReason, CycleStep, HolderInfo, Look};
use crate::event::ContentionEvent;
use crate::util::time::{self, Tick};

/// What asks for a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    Guard,
    OwnedGuard,
    /// The permit lives as long as the future that asks.
    Call,
}

impl Asker {
    /// Whose the permit will be. To be asked where the wait runs: a future may be made in one task and
    /// polled in another.
    fn owner(self, holder: &Holder) -> Owner {
        match (self, holder) {
            (Self::Call, _) => Owner::ItsFuture,
            // Nobody in particular is nobody twice.
            (Self::OwnedGuard, _) | (Self::Guard, Holder::Anonymous(_)) => Owner::Anybody,
            (Self::Guard, _) => Owner::Line(Line::current()),
        }
    }
}

/// Who asks, for how many permits, and how long it is ready to wait.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) holder: Holder,
    pub(super) asker: Asker,
    pub(super) permits: usize,
    pub(super) priority: Priority,
    pub(super) limit: WaitLimit,
}

/// How long a caller is ready to wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct WaitLimit {
    pub(super) timeout: Timeout,
    pub(super) deadline: Option<Deadline>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timeout {
    /// That of the lock.
    OfTheLock,
    Own(Duration),
    Never,
}

/// What came of asking for a permit.
pub(super) enum Asked<B: Lends> {
    Got(Slot<B>),
    Waits(WaitInQueue<B>),
}

/// A place in the queue of a lock. Dropping it leaves the queue.
pub(super) struct WaitInQueue<B: Lends> {
    /// Taken when the wait ends.
    lock: Option<B>,
    place: Place,
    holder: Holder,
    since: Tick,
    gives_up: Tick,
    by_deadline: bool,
    /// When the wait is to be reported; `None` once it has been.
    reports: Option<Tick>,
    /// From when on it is contention.
    threshold: Duration,
    /// When it looks for a deadlock next.
    looks: Tick,
    /// A deadlock has been reported.
    reported: bool,
    /// The line of work it is part of, as far as anybody knows.
    line: Option<Line>,
    /// Forgotten before the wait's place is free for another.
    known: Option<Registration>,
}

/// More than a lock can have is more than it has.
fn count(permits: usize) -> u32 {
    u32::try_from(permits).unwrap_or(MOST + 1)
}

impl Ask {
    /// Of one permit, with the lock's own timeout.
    pub(super) fn new(holder: Holder, asker: Asker) -> Self {
        Self {
            holder,
            asker,
            permits: 1,
            priority: Priority::Normal,
            limit: WaitLimit::OF_THE_LOCK,
        }
    }

    /// To be asked where the wait runs: see [`Asker::owner`].
    #[inline]
    fn who(self) -> Who {
        Who {
            owner: self.asker.owner(&self.holder),
            holder: self.holder,
            priority: self.priority,
        }
    }
}

/// Permits if they are free and nobody waits; else a refusal.
#[inline]
pub(super) fn try_now<B: Lends>(lock: B, ask: Ask) -> Result<Slot<B>, Contended> {
    let permits = ask.permits;
    let mut who = Some(ask.who());
    let taken = lock.shared().core.take(count(permits), time::now, &mut who);
    match taken {
        Ok(place) => Ok(Slot::new(lock, place)),
        Err(seen) => Err(refuse(&lock, holder_of(who), permits, seen)),
    }
}

/// Whoever asked is still there if there was no permit.
fn holder_of(who: Option<Who>) -> Holder {
    who.unwrap_or_else(Who::nobody).holder
}

#[inline(never)]
fn refuse<B: Lends>(lock: &B, holder: Holder, permits: usize, seen: Seen) -> Contended {
    let shared = lock.shared();
    let earlier = shared.core.count_refusal();
    shared.refused(permits, earlier, || ContentionEvent::Busy {
        holder: holder.clone(),
    });
    // One permit is never too many.
    if permits > 1 && !seen.is_closed() {
        let most = shared.most_at_once();
        if permits > most as usize {
            let reason = ContendedReason::ExceedsCapacity { permits };
            return Contended::at_once(lock.look(), holder, reason, most);
        }
    }
    let reason = match seen.is_closed() {
        true => ContendedReason::Closed,
        false => ContendedReason::Busy,
    };
    Contended::at_once(lock.look(), holder, reason, seen.capacity())
}

/// A permit for a call of a layer, if it is free and nobody waits. Says nothing if not: the call will ask again.
#[inline]
pub(super) fn take_free(shared: &Shared, holder: Holder, permits: usize) -> Result<Place, Holder> {
    let mut who = Some(Who {
        holder,
        owner: Owner::ItsFuture,
        priority: Priority::Normal,
    });
    let taken = shared.core.take(count(permits), time::now, &mut who);
    taken.map_err(|_| holder_of(who))
}

/// A call that would only be refused is refused here: that costs no place in a queue, no clone of a service, no
/// allocation.
pub(super) fn refuse_at_once<B: Lends>(lock: &B, ask: Ask) -> Result<Ask, Contended> {
    let shared = lock.shared();
    let config = shared.config();
    let seen = shared.core.seen();
    let is_hopeless = seen.is_closed() || ask.permits > seen.capacity() as usize;
    if is_hopeless || config.timeout.is_some_and(|it| it.is_zero()) {
        drop(config);
        return Err(refuse(lock, ask.holder, ask.permits, seen));
    }
    match config
        .max_waiting
        .and_then(|max| shared.core.refuse_if_full(max, ask.priority))
    {
        Some(why) => Err(turned_away(lock, ask.holder, ask.permits, why)),
        None => Ok(ask),
    }
}

/// Asks for permits; joins the queue if there are none and the caller is ready to wait. `waker` is woken when they are
/// there.
pub(super) fn ask<B: Lends>(lock: B, ask: Ask, waker: &Waker) -> Result<Asked<B>, Contended> {
    let timeout = match ask.limit.timeout {
        Timeout::OfTheLock => lock.shared().config().timeout,
        Timeout::Own(timeout) => Some(timeout),
        Timeout::Never => None,
    };
    if timeout.is_some_and(|timeout| timeout.is_zero()) {
        return try_now(lock, ask).map(Asked::Got);
    }
    let (permits, limit) = (ask.permits, ask.limit);
    let mut who = Some(ask.who());
    let taken = lock.shared().core.take(count(permits), time::now, &mut who);
    match (taken, who) {
        (Ok(place), _) => Ok(Asked::Got(Slot::new(lock, place))),
        (Err(_), who) => {
            let who = who.unwrap_or_else(Who::nobody);
            queue(lock, who, permits, (timeout, limit.deadline), waker)
        }
    }
}

/// Joins the queue, unless the permits are free by now.
fn queue<B: Lends>(
    lock: B,
    who: Who,
    permits: usize,
    (timeout, deadline): (Option<Duration>, Option<Deadline>),
    waker: &Waker,
) -> Result<Asked<B>, Contended> {
    let shared = lock.shared();
    let config = shared.config();
    let now = time::now();
    let (holder, owner) = (who.holder.clone(), who.owner);
    let queued = shared
        .core
        .enqueue(count(permits), who, waker.clone(), config.max_waiting, now);
    let place = match queued {
        Ok((place, Poll::Pending)) => place,
        Ok((place, Poll::Ready(()))) => {
            drop(config);
            return Ok(Asked::Got(Slot::new(lock, place)));
        }
        Err(why) => {
            drop(config);
            return Err(turned_away(&lock, holder, permits, why));
        }
    };
    let own = timeout.map_or(Tick::NEVER, |timeout| now.after(timeout));
    let ambient = deadline::earlier(deadline, deadline::current());
    let deadline = ambient.map_or(Tick::NEVER, |deadline| deadline.0);
    let (looks, threshold) = (config.deadlock_timeout, config.contention_threshold);
    drop(config);
    Ok(Asked::Waits(WaitInQueue {
        lock: Some(lock),
        place,
        holder,
        since: now,
        gives_up: own.min(deadline),
        by_deadline: deadline < own,
        reports: Some(now.after(threshold)),
        threshold,
        looks: looks.map_or(Tick::NEVER, |it| now.after(it)),
        reported: false,
        line: owner.line(),
        known: None,
    }))
}

/// Nobody may join the queue.
#[cold]
fn turned_away<B: Lends>(lock: &B, holder: Holder, permits: usize, why: Why) -> Contended {
    let shared = lock.shared();
    let capacity = match why {
        Why::TooMany => shared.most_at_once(),
        _ => shared.core.seen().capacity(),
    };
    let (earlier, reason) = match why {
        Why::QueueFull { waiting, earlier } => {
            let queue_length = waiting as usize;
            shared.refused(permits, earlier, || ContentionEvent::QueueFull {
                holder: holder.clone(),
                queue_length,
            });
            return Contended::at_once(lock.look(), holder, ContendedReason::QueueFull, capacity);
        }
        Why::Closed => (shared.core.count_refusal(), ContendedReason::Closed),
        Why::TooMany => (
            shared.core.count_refusal(),
            ContendedReason::ExceedsCapacity { permits },
        ),
    };
    shared.refused(permits, earlier, || ContentionEvent::Busy {
        holder: holder.clone(),
    });
    Contended::at_once(lock.look(), holder, reason, capacity)
}

impl<B: Lends> WaitInQueue<B> {
    /// How the wait ended, if it did; else `waker` is woken when it does.
    pub(super) fn claim(&mut self, waker: &Waker) -> Option<Result<Slot<B>, Contended>> {
        let shared = self.lock.as_ref()?.shared();
        if self.line.is_some_and(|line| line != Line::current()) {
            // It was taken to another task since: it proves nothing of this one, nor of that.
            (self.line, self.known) = (None, None);
            shared.core.disown(self.place);
        }
        match shared
            .core
            .claim(self.place, waker, self.threshold, time::now)
        {
            Claimed::Waits => None,
            Claimed::Permits(waited) => {
                self.known = None;
                shared.publish_detail(|| ContentionEvent::Acquired {
                    holder: self.holder.clone(),
                    waited,
                });
                let lock = self.lock.take()?;
                Some(Ok(Slot::after(lock, self.place, waited)))
            }
            Claimed::Refused(because, waited) => {
                self.known = None;
                Some(Err(self.refused(because, waited)?))
            }
        }
    }

    /// It will never be granted its permits.
    fn refused(&mut self, because: Because, waited: Duration) -> Option<Contended> {
        let lock = self.lock.take()?;
        let shared = lock.shared();
        let holder = self.holder.clone();
        let reason = match because {
            Because::Closed => ContendedReason::Closed,
            Because::TooMany => ContendedReason::ExceedsCapacity {
                permits: self.place.permits() as usize,
            },
            Because::Shed | Because::GaveWay => {
                let earlier = shared.core.shed().saturating_sub(1);
                let permits = self.place.permits() as usize;
                shared.refused(permits, earlier, || ContentionEvent::Shed {
                    holder: holder.clone(),
                    waited,
                });
                match because {
                    Because::GaveWay => ContendedReason::QueueFull,
                    _ => ContendedReason::Overloaded,
                }
            }
        };
        Some(shared.contended_after(waited, holder, reason))
    }

    /// When this wait has to be looked at, woken or not.
    pub(super) fn wakes_at(&self) -> Tick {
        let reports = self.reports.unwrap_or(Tick::NEVER);
        reports.min(self.gives_up).min(self.looks)
    }

    /// The number of the lock.
    pub(super) fn resource(&self) -> u64 {
        self.lock
            .as_ref()
            .map_or(0, |lock| lock.shared().resource())
    }

    /// A wait inside of a call that holds all that it waits for: nothing could end it.
    pub(super) fn reenters(&mut self, now: Tick) -> Option<Result<Slot<B>, Contended>> {
        let shared = self.lock.as_ref()?.shared();
        let step = CycleStep::new(self.holder.clone(), Arc::clone(shared.name()));
        let on_deadlock = shared.config().on_deadlock;
        self.deadlocked(vec![step], on_deadlock, now)
    }

    fn deadlocked(
        &mut self,
        cycle: Vec<CycleStep>,
        on_deadlock: OnDeadlock,
        now: Tick,
    ) -> Option<Result<Slot<B>, Contended>> {
        match on_deadlock {
            OnDeadlock::Refuse => self.end_as(EndedBy::Deadlock, Some(cycle), now),
            OnDeadlock::Report => {
                if !std::mem::replace(&mut self.reported, true) {
                    let holder = self.holder.clone();
                    let event = ContentionEvent::Deadlock { holder, cycle };
                    self.lock.as_ref()?.shared().publish(event);
                }
                None
            }
        }
    }

    /// Looks for a cycle that no release can break, and ends this wait if it is the one to give way.
    pub(super) fn look(
        &mut self,
        wait: Option<WaitPlace>,
        now: Tick,
    ) -> Option<Result<Slot<B>, Contended>> {
        let shared = self.lock.as_ref()?.shared();
        let config = shared.config();
        let (every, on_deadlock) = (config.deadlock_timeout?, config.on_deadlock);
        drop(config);
        self.looks = now.after(every);
        self.known = None;
        let (known, cycle) = Registration::look(Looks {
            lock: shared,
            place: self.place,
            holder: &self.holder,
            wait,
            line: self.line,
            gives_up: self.gives_up,
            now,
        });
        self.known = known;
        if self.known.is_none() {
            // It holds nothing: whatever it waits for, it keeps nobody waiting.
            self.looks = Tick::NEVER;
        }
        let cycle = cycle.filter(|cycle| cycle.is_victim)?;
        self.deadlocked(cycle.steps, on_deadlock, now)
    }

    /// Does what is due at `now`: reports the wait, or ends it.
    pub(super) fn on_time(
        &mut self,
        wait: impl FnOnce() -> Option<WaitPlace>,
        now: Tick,
    ) -> Option<Result<Slot<B>, Contended>> {
        if now >= self.gives_up {
            return self.end_as(EndedBy::Timeout, None, now);
        }
        if now >= self.looks
            && let Some(end) = self.look(wait(), now)
        {
            return Some(end);
        }
        if self.reports.is_some_and(|at| now >= at) {
            self.reports = None;
            self.report(now);
        }
        None
    }

    fn report(&self, now: Tick) {
        let Some(lock) = &self.lock else { return };
        let shared = lock.shared();
        let core = &shared.core;
        let holders = core.holders(HolderInfo::MOST_NAMED, now);
        let queue_length = core.waiting();
        if core.needs(self.place, now).is_none() {
            return; // Granted meanwhile: the holder would be the one who waits.
        }
        shared.publish(ContentionEvent::Contended {
            holder: self.holder.clone(),
            waited: now.since(self.since),
            holders,
            queue_length,
        });
        shared.report_long_holds(now);
    }

    fn end_as(
        &mut self,
        by: EndedBy,
        cycle: Option<Vec<CycleStep>>,
        now: Tick,
    ) -> Option<Result<Slot<B>, Contended>> {
        let lock = self.lock.take()?;
        self.known = None;
        let shared = lock.shared();
        // Granted at the last moment is granted.
        if let Some(GaveUp::HadPermits) = shared.core.give_up(self.place, by, self.threshold, now) {
            let waited = now.since(self.since);
            return Some(Ok(Slot::after(lock, self.place, waited)));
        }
        let waited = now.since(self.since);
        let holder = self.holder.clone();
        let Some(cycle) = cycle else {
            let reason = match self.by_deadline {
                true => ContendedReason::DeadlineExceeded,
                false => ContendedReason::TimedOut,
            };
            shared.gave_up(self.place.permits() as usize);
            let contended = shared.contended_after(waited, holder, reason);
            shared.publish(ContentionEvent::TimedOut {
                holder: self.holder.clone(),
                waited,
                holders: contended.holders().to_vec(),
                deadline: self.by_deadline,
            });
            return Some(Err(contended));
        };
        if !self.reported {
            shared.publish(ContentionEvent::Deadlock {
                holder: holder.clone(),
                cycle: cycle.clone(),
            });
        }
        let reason = ContendedReason::Deadlock(cycle);
        Some(Err(shared.contended_after(waited, holder, reason)))
    }
}

impl<B: Lends> Drop for WaitInQueue<B> {
    fn drop(&mut self) {
        let Some(lock) = self.lock.take() else {
            return;
        };
        self.known = None;
        let shared = lock.shared();
        let (by, now) = (EndedBy::Abandoned, time::now());
        let left = shared.core.give_up(self.place, by, self.threshold, now);
        if let Some(GaveUp::Left(waited) | GaveUp::PassesOn(waited)) = left {
            shared.publish(ContentionEvent::Abandoned {
                holder: self.holder.clone(),
                waited,
            });
        }
    }
}
