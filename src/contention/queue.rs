//! A place in the queue: what a wait does when it is woken, when its time comes, and when it is dropped.
//! Used by the future and by the blocking twin alike.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::config::OnDeadlock;
use super::graph::{Line, Looks, Registration};
use super::guard::{Lends, Slot};
use super::list::Key;
use super::state::{EndedBy, GaveUp, Owner};
use crate::call::Holder;
use crate::call::context::WaitPlace;
use crate::call::deadline::{self, Deadline};
use crate::error::{Contended, ContendedReason, CycleStep, HolderInfo};
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

/// How long a caller is ready to wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// `None` is without end.
    pub(super) timeout: Option<Duration>,
    pub(super) deadline: Option<Deadline>,
}

/// What came of asking for a permit.
pub(super) enum Asked<B: Lends> {
    Got(Slot<B>),
    Queued(Queued<B>),
}

/// A place in the queue of a lock. Dropping it leaves the queue.
pub(super) struct Queued<B: Lends> {
    /// Taken when the wait ends with a permit.
    lock: Option<B>,
    key: Key,
    holder: Holder,
    since: Tick,
    gives_up: Tick,
    by_deadline: bool,
    /// When the wait is to be reported; `None` once it has been.
    reports: Option<Tick>,
    /// When it looks for a deadlock next.
    looks: Tick,
    /// A deadlock has been reported.
    reported: bool,
    /// The line of work it is part of, as far as anybody knows.
    line: Option<Line>,
    known: Option<Registration>,
}

/// A permit if one is free and nobody waits; else a refusal.
pub(super) fn try_now<B: Lends>(
    lock: B,
    holder: Holder,
    asker: Asker,
) -> Result<Slot<B>, Contended> {
    let now = time::now();
    let owner = asker.owner(&holder);
    let shared = lock.shared();
    let taken = shared.permits.take(&holder, owner, now);
    if let Ok(permit) = taken.map_err(|mut desk| desk.state.refuse()) {
        return Ok(Slot::new(lock, permit));
    }
    shared.refused(now, || ContentionEvent::Busy {
        holder: holder.clone(),
    });
    Err(shared.contended(holder, ContendedReason::Busy, Duration::ZERO, now))
}

/// Asks for a permit; joins the queue if there is none and the caller has patience.
pub(super) fn ask<B: Lends>(
    lock: B,
    holder: Holder,
    asker: Asker,
    patience: Patience,
) -> Result<Asked<B>, Contended> {
    if patience.timeout.is_some_and(|timeout| timeout.is_zero()) {
        return try_now(lock, holder, asker).map(Asked::Got);
    }
    let now = time::now();
    let owner = asker.owner(&holder);
    let shared = lock.shared();
    let max_waiting = shared.policy.max_waiting();
    let taken = shared.permits.take(&holder, owner, now);
    // Under one lock, so that no permit becomes free between the question and the place in the queue.
    let taken = taken.map_err(|mut desk| {
        let queue_length = desk.state.waiting();
        if max_waiting.is_some_and(|max| queue_length >= max) {
            desk.state.refuse();
            return Err(queue_length);
        }
        Ok(desk.state.enqueue(holder.clone(), owner, now))
    });
    let key = match taken {
        Ok(permit) => return Ok(Asked::Got(Slot::new(lock, permit))),
        Err(Ok(key)) => key,
        Err(Err(queue_length)) => {
            shared.refused(now, || ContentionEvent::QueueFull {
                holder: holder.clone(),
                queue_length,
            });
            let reason = ContendedReason::QueueFull;
            return Err(shared.contended(holder, reason, Duration::ZERO, now));
        }
    };
    let mut queued = Queued::new(lock, key, holder, now, patience);
    queued.line = owner.line();
    Ok(Asked::Queued(queued))
}

impl<W> GaveUp<W> {
    fn permit(self) -> Option<Key> {
        match self {
            Self::HadPermit(permit) => Some(permit),
            Self::Left { .. } | Self::PassedOn { .. } => None,
        }
    }
}

impl<B: Lends> Queued<B> {
    fn new(lock: B, key: Key, holder: Holder, now: Tick, patience: Patience) -> Self {
        let own = patience
            .timeout
            .map_or(Tick::NEVER, |timeout| now.after(timeout));
        let ambient = deadline::earlier(patience.deadline, deadline::current());
        let deadline = ambient.map_or(Tick::NEVER, |deadline| deadline.0);
        let threshold = lock.shared().policy.contention_threshold();
        let deadlock_timeout = lock.shared().policy.deadlock_timeout();
        Self {
            lock: Some(lock),
            key,
            holder,
            since: now,
            gives_up: own.min(deadline),
            by_deadline: deadline < own,
            reports: Some(now.after(threshold)),
            looks: deadlock_timeout.map_or(Tick::NEVER, |it| now.after(it)),
            reported: false,
            line: None,
            known: None,
        }
    }

    /// The permit, if it has been granted; else `waker` is woken when it is.
    pub(super) fn claim(&mut self, waker: &Waker) -> Option<Slot<B>> {
        let shared = self.lock.as_ref()?.shared();
        if self.line.is_some_and(|line| line != Line::current()) {
            // It was taken to another task since: it proves nothing of this one, nor of that.
            (self.line, self.known) = (None, None);
            shared.permits.desk().state.disown(self.key);
        }
        let threshold = shared.policy.contention_threshold();
        // Cloned before and dropped after the lock: a waker is somebody else's code.
        let mut waker = Some(waker.clone());
        let mut desk = shared.permits.desk();
        let claimed = desk.state.claim(self.key, &mut waker, threshold);
        drop(desk);
        let (permit, waited) = claimed?;
        shared.publish(ContentionEvent::Acquired {
            holder: self.holder.clone(),
            waited,
        });
        self.lock.take().map(|lock| Slot::new(lock, permit))
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
        let name = Arc::clone(self.lock.as_ref()?.shared().name());
        let step = CycleStep::new(self.holder.clone(), name);
        self.end_as(EndedBy::Deadlock, Some(vec![step]), now)
    }

    /// Looks for a cycle that no release can break, and ends this wait if it is the one to give way.
    pub(super) fn look(
        &mut self,
        place: Option<WaitPlace>,
        now: Tick,
    ) -> Option<Result<Slot<B>, Contended>> {
        let lock = self.lock.as_ref()?;
        let shared = lock.shared();
        let every = shared.policy.deadlock_timeout()?;
        self.looks = now.after(every);
        self.known = None;
        let (known, cycle) = Registration::look(Looks {
            lock: shared,
            waiter: self.key,
            holder: &self.holder,
            place,
            line: self.line,
            gives_up: self.gives_up,
        });
        self.known = known;
        if self.known.is_none() {
            // It holds nothing: whatever it waits for, it keeps nobody waiting.
            self.looks = Tick::NEVER;
        }
        let cycle = cycle.filter(|cycle| cycle.is_victim)?;
        match shared.policy.on_deadlock() {
            OnDeadlock::Refuse => self.end_as(EndedBy::Deadlock, Some(cycle.steps), now),
            OnDeadlock::Report => {
                if !std::mem::replace(&mut self.reported, true) {
                    shared.publish(ContentionEvent::Deadlock {
                        holder: self.holder.clone(),
                        cycle: cycle.steps,
                    });
                }
                None
            }
        }
    }

    /// Does what is due at `now`: reports the wait, or ends it.
    pub(super) fn on_time(
        &mut self,
        place: impl FnOnce() -> Option<WaitPlace>,
        now: Tick,
    ) -> Option<Result<Slot<B>, Contended>> {
        if now >= self.gives_up {
            return self.end_as(EndedBy::Timeout, None, now);
        }
        if now >= self.looks
            && let Some(end) = self.look(place(), now)
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
        let (holders, queue_length) = {
            let all = shared.permits.all();
            if !all.queue().is_queued(self.key) {
                return; // Granted meanwhile: the holder would be the one who waits.
            }
            (
                all.holders(HolderInfo::MOST_NAMED, now),
                all.queue().waiting(),
            )
        };
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
        if let Some(permit) = shared.give_up(self.key, by, now).and_then(GaveUp::permit) {
            return Some(Ok(Slot::new(lock, permit)));
        }
        let waited = now.since(self.since);
        let holder = self.holder.clone();
        let Some(cycle) = cycle else {
            let reason = match self.by_deadline {
                true => ContendedReason::DeadlineExceeded,
                false => ContendedReason::TimedOut,
            };
            let contended = shared.contended(holder, reason, waited, now);
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
        Some(Err(shared.contended(holder, reason, waited, now)))
    }
}

impl<B: Lends> Drop for Queued<B> {
    fn drop(&mut self) {
        let Some(lock) = self.lock.take() else {
            return;
        };
        let shared = lock.shared();
        let left = shared.give_up(self.key, EndedBy::Abandoned, time::now());
        if let Some(GaveUp::Left { waited, .. } | GaveUp::PassedOn { waited, .. }) = left {
            shared.publish(ContentionEvent::Abandoned {
                holder: self.holder.clone(),
                waited,
            });
        }
    }
}
