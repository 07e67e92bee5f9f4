//! Who waits, and who is granted permits.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Poll, Waker};
use std::time::Duration;

use super::super::owner::Owner;
use super::super::records::{Because, EndedBy, GaveUp, Records, Stage, Who};
use super::super::rules::Priority;
use super::super::word::Asked;
use super::wakes::{Wakes, go_on_with};
use super::{Core, Place};
use crate::util::sync::{GRANTS_AT_ONCE, MutexGuard};
use crate::util::time::Tick;

/// Why somebody who is ready to wait is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Why {
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
pub(in super::super) enum Claimed {
    /// It was granted its permits after this time.
    Permits(Duration),
    Waits,
    /// It will never be granted any.
    Refused(Because, Duration),
}

impl Core {
    /// Counts a refusal if so many wait already, and nobody of them would give way.
    pub(in super::super) fn refuse_if_full(
        &self,
        max_waiting: usize,
        priority: Priority,
    ) -> Option<Why> {
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
    pub(in super::super) fn enqueue(
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

    pub(super) fn recorded(&self, queue: &mut Records, who: Who, n: u32, now: Tick) -> Place {
        let at = queue.hold(who, n, now);
        Place { shard: 0, at, n }
    }

    /// Whether a waiter has its permits; else `waker` is woken when that changes.
    pub(in super::super) fn claim(
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
    pub(in super::super) fn give_up(
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

    /// Grants what is free, and the permits that the caller has in hand, to those who wait, in their order, and wakes
    /// them.
    #[inline(never)]
    pub(super) fn hand_on<'a>(
        &'a self,
        mut queue: MutexGuard<'a, Records>,
        mut in_hand: u32,
        now: Tick,
    ) {
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
    pub(super) fn grant_some(
        &self,
        queue: &mut Records,
        mut in_hand: u32,
        now: Tick,
    ) -> (Wakes, bool) {
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
    pub(in super::super) fn resize(&self, capacity: u32, now: Tick) -> u32 {
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
    pub(in super::super) fn close(&self) {
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
    pub(in super::super) fn disown(&self, place: Place) {
        if let Some(entry) = self.queue().get_mut(place.at) {
            entry.owner = Owner::Anybody;
        }
    }
}
