//! The quotas and the queue before them: pure, but for the wakers that it keeps for others to call.

use std::collections::BTreeMap;
use std::task::Waker;

use super::bucket::{Pace, Time};
use super::cost::{Cost, MOST_QUOTAS};

/// A timer of tokio's is up to 2 ms late. Who waits is served as of the time that was its own, up to so much ago: else a
/// quota of 1,000 a second would let 500 through.
const LATE: Time = 2 * 8_000_000;

/// So many waiters are served before the lock is given up.
const AT_ONCE: usize = 64;

#[derive(Debug)]
pub(super) struct State {
    quotas: Vec<Bucket>,
    queue: BTreeMap<u64, Waiter>,
    /// What all in the queue ask for together.
    queued: [u64; MOST_QUOTAS],
    next_ticket: u64,
    /// The first in the queue that knows when its turn comes.
    told: Option<u64>,
    paused_until: Time,
    /// The times of changes of the rules: what was taken before is not given back after.
    pub(super) version: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    pub(super) pace: Pace,
    pub(super) full: Time,
}

#[derive(Debug)]
struct Waiter {
    cost: Cost,
    waker: Option<Waker>,
}

/// Why a call cannot have what it asks for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Not {
    /// It never can: more than this quota holds.
    Ever { quota: usize },
    /// Before this time, because of this quota. `None`: of a pause.
    Before { at: Time, quota: Option<usize> },
}

/// Who is to be woken, when the lock is gone.
pub(super) type Wake = Vec<Waker>;

impl State {
    pub(super) fn new(paces: impl IntoIterator<Item = Pace>) -> Self {
        let quotas = paces.into_iter().map(|pace| Bucket { pace, full: 0 });
        Self {
            quotas: quotas.collect(),
            queue: BTreeMap::new(),
            queued: [0; MOST_QUOTAS],
            next_ticket: 0,
            told: None,
            paused_until: 0,
            version: 0,
        }
    }

    pub(super) fn quotas(&mut self) -> &mut [Bucket] {
        &mut self.quotas
    }

    pub(super) fn is_quiet(&self, now: Time) -> bool {
        self.queue.is_empty() && self.paused_until <= now
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn paused_until(&self) -> Time {
        self.paused_until
    }

    /// When `cost` beside what is `ahead` of it can be had, and which quota decides.
    fn when(&self, cost: Cost, ahead: [u64; MOST_QUOTAS]) -> (Time, Option<usize>) {
        let mut decides = (self.paused_until, None);
        for (i, bucket) in self.quotas.iter().enumerate() {
            if cost.of(i) == 0 {
                continue;
            }
            let units = cost.of(i).saturating_add(ahead[i]);
            let at = bucket.pace.free_at(bucket.full, units);
            if at > decides.0 {
                decides = (at, Some(i));
            }
        }
        decides
    }

    /// What `cost` would have to wait for, behind all that wait already.
    pub(super) fn outlook(&self, cost: Cost, now: Time) -> Result<(), Not> {
        let too_much = |(i, bucket): (usize, &Bucket)| {
            (!bucket.pace.can_hold(cost.of(i))).then_some(Not::Ever { quota: i })
        };
        if let Some(never) = self.quotas.iter().enumerate().find_map(too_much) {
            return Err(never);
        }
        let (at, quota) = self.when(cost, self.queued);
        match at > now {
            true => Err(Not::Before { at, quota }),
            false if !self.queue.is_empty() => Err(Not::Before { at: now, quota }),
            false => Ok(()),
        }
    }

    /// Takes `cost`, as of `now`.
    pub(super) fn take(&mut self, cost: Cost, now: Time) {
        for (bucket, units) in self.quotas.iter_mut().zip(cost.each()) {
            if units > 0 {
                bucket.full = bucket.pace.taken(bucket.full, units, now);
            }
        }
    }

    /// Puts `cost` back.
    pub(super) fn give_back(&mut self, cost: Cost, now: Time) {
        for (bucket, units) in self.quotas.iter_mut().zip(cost.each()) {
            bucket.full = bucket.pace.given_back(bucket.full, units, now);
        }
        // The turn of the first comes sooner.
        self.told = None;
    }

    /// A place at the end of the queue.
    pub(super) fn enqueue(&mut self, cost: Cost) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        for (queued, units) in self.queued.iter_mut().zip(cost.each()) {
            *queued = queued.saturating_add(units);
        }
        self.queue.insert(ticket, Waiter { cost, waker: None });
        ticket
    }

    fn leaves(&mut self, ticket: u64) -> Option<Waiter> {
        let waiter = self.queue.remove(&ticket)?;
        for (queued, units) in self.queued.iter_mut().zip(waiter.cost.each()) {
            *queued = queued.saturating_sub(units);
        }
        Some(waiter)
    }

    /// Somebody goes away. `false`: it had been served.
    pub(super) fn abandon(&mut self, ticket: u64) -> bool {
        self.leaves(ticket).is_some()
    }

    /// Whether it still waits; it is woken by `waker`. If it is the first, when its turn comes.
    pub(super) fn look(&mut self, ticket: u64, waker: &Waker) -> Option<Option<Time>> {
        let is_first = self.queue.first_key_value().map(|(first, _)| *first) == Some(ticket);
        let waiter = self.queue.get_mut(&ticket)?;
        match &mut waiter.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        let cost = waiter.cost;
        if is_first {
            self.told = Some(ticket);
        }
        Some(is_first.then(|| self.when(cost, [0; MOST_QUOTAS]).0))
    }

    /// Serves those whose turn has come. Whoever is the first then is woken too, to look when its own comes, unless it
    /// knows.
    pub(super) fn serve(&mut self, now: Time, wake: &mut Wake) {
        for _ in 0..AT_ONCE {
            let Some((ticket, waiter)) = self.queue.first_key_value() else {
                return;
            };
            let (ticket, cost) = (*ticket, waiter.cost);
            let (at, _) = self.when(cost, [0; MOST_QUOTAS]);
            if at > now {
                break;
            }
            self.take(cost, at.max(now.saturating_sub(LATE)));
            wake.extend(self.leaves(ticket).and_then(|waiter| waiter.waker));
        }
        if let Some(mut first) = self.queue.first_entry()
            && self.told != Some(*first.key())
        {
            wake.extend(first.get_mut().waker.take());
        }
    }

    /// Nobody is served before `until`.
    pub(super) fn pause(&mut self, until: Time) {
        self.paused_until = self.paused_until.max(until);
    }

    /// Everything as at the beginning, but for those who wait.
    pub(super) fn reset(&mut self) {
        self.paused_until = 0;
        self.version += 1;
        self.told = None;
        for bucket in &mut self.quotas {
            bucket.full = 0;
        }
    }

    /// Other rules; what is left of a quota stays, as far as the new one holds it.
    pub(super) fn change(&mut self, paces: impl IntoIterator<Item = Pace>, now: Time) {
        self.version += 1;
        self.told = None;
        for (bucket, pace) in self.quotas.iter_mut().zip(paces) {
            let (left, owed) = (
                bucket.pace.available(bucket.full, now),
                bucket.pace.debt(bucket.full, now),
            );
            bucket.full = match owed {
                0 => pace.with(left, now),
                owed => pace.taken(pace.with(0, now), owed, now),
            };
            bucket.pace = pace;
        }
    }
}
