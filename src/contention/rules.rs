//! What a queue may do other than first come, first served: pure.

use std::collections::HashMap;
use std::time::Duration;

use super::codel::{Codel, Queue};
use crate::call::Holder;
use crate::util::time::Tick;

/// How important it is that somebody gets a permit.
///
/// The most important are served first, and each eighth grant goes to whoever waits longest, so nobody starves. (While a
/// queue serves the last first, it refuses those who wait longest instead.) A full
/// queue refuses the youngest of the least important if somebody more important comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Priority {
    /// Can wait, and is refused first: prefetching, reports.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Somebody waits for it.
    High,
    /// Health checks, and what keeps the service alive.
    Critical,
}

impl Priority {
    pub(super) const COUNT: usize = 4;
}

/// The rules of a queue, and what they remember. Only a lock that has such rules has this.
#[derive(Debug)]
pub(super) struct Rules {
    queue: Queue,
    codel: Codel,
    /// Since when somebody has been waiting.
    not_empty_since: Tick,
    max_per_holder: u32,
    /// The permits of each holder that has some.
    pub(super) held: HashMap<Holder, u32>,
}

impl Rules {
    /// The rules, or none if all are first come, first served.
    pub(super) fn new(queue: Queue, max_per_holder: Option<u32>) -> Option<Box<Self>> {
        let is_plain = queue == Queue::Fifo && max_per_holder.is_none();
        (!is_plain).then(|| {
            Box::new(Self {
                queue,
                codel: Codel::new(),
                not_empty_since: Tick(0),
                max_per_holder: max_per_holder.unwrap_or(u32::MAX),
                held: HashMap::new(),
            })
        })
    }

    /// Other rules, which remember what these do.
    pub(super) fn change(&mut self, queue: Queue, max_per_holder: Option<u32>) {
        self.queue = queue;
        self.max_per_holder = max_per_holder.unwrap_or(u32::MAX);
    }

    /// The most permits that one holder may have.
    pub(super) fn most(&self) -> u32 {
        self.max_per_holder
    }

    pub(super) fn limits_holders(&self) -> bool {
        self.max_per_holder < u32::MAX
    }

    /// Whether a holder may have `n` more.
    pub(super) fn may_take(&self, holder: &Holder, n: u32) -> bool {
        if !self.limits_holders() {
            return true;
        }
        let held = self.held.get(holder).copied().unwrap_or(0);
        held.saturating_add(n) <= self.max_per_holder
    }

    /// Whether they are counted: only those are to be given back.
    pub(super) fn takes(&mut self, holder: &Holder, n: u32) -> bool {
        let counts = self.limits_holders();
        if counts {
            *self.held.entry(holder.clone()).or_default() += n;
        }
        counts
    }

    pub(super) fn gives_back(&mut self, holder: &Holder, n: u32) {
        if let Some(held) = self.held.get_mut(holder) {
            *held = held.saturating_sub(n);
            if *held == 0 {
                self.held.remove(holder);
            }
        }
    }

    /// Somebody waits, and nobody did before.
    pub(super) fn queue_begins(&mut self, now: Tick) {
        self.not_empty_since = now;
    }

    fn is_standing(&self, interval: Duration, now: Tick) -> bool {
        now.since(self.not_empty_since) > interval
    }

    /// Whether the last comes first, by now.
    pub(super) fn last_comes_first(&self, now: Tick) -> bool {
        match self.queue {
            Queue::LifoWhenOverloaded { interval } => self.is_standing(interval, now),
            Queue::Fifo | Queue::Codel { .. } => false,
        }
    }

    /// From how long a wait on somebody is refused, if the queue is overloaded.
    pub(super) fn longest_wait(&self, now: Tick) -> Option<Duration> {
        match self.queue {
            Queue::LifoWhenOverloaded { interval } => {
                self.is_standing(interval, now).then_some(interval)
            }
            Queue::Fifo | Queue::Codel { .. } => None,
        }
    }

    /// Whether somebody who would be served now, after this wait, is refused instead.
    pub(super) fn sheds(&mut self, waited: Duration, now: Tick) -> bool {
        match self.queue {
            Queue::Codel { target, interval } => self.codel.sheds(waited, now, (target, interval)),
            Queue::Fifo | Queue::LifoWhenOverloaded { .. } => false,
        }
    }
}
