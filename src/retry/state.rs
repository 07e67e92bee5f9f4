//! What one call decides after each attempt, and nothing else: no clock, no dice, no waiting.

use std::time::Duration;

use super::policy::RetryRules;
use crate::error::{AttemptEnd, AttemptRecord, StopReason};
use crate::outcome::RetryDelay;
use crate::time::Tick;

/// One call, from its first attempt to its end.
#[derive(Clone, Debug, Default)]
pub(super) struct Session {
    /// How many attempts have begun.
    pub(super) attempts: u32,
    /// How many may follow the first.
    pub(super) limit: u32,
    /// Attempts that cost nothing: those after a request that was certainly not done.
    free: u32,
    /// Where the backoff last started anew.
    backoff_from: u32,
    /// What the last retry cost the budget.
    pub(super) paid: u32,
    previous: Option<Duration>,
    history: Vec<AttemptRecord>,
}

/// What follows an attempt that was worth another one.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Stop(StopReason),
    After(Duration),
    /// Now, and nothing is to be paid for it.
    AtOnce,
}

/// What is known when an attempt has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    /// When the service asked to come back.
    pub(super) hint: Option<RetryDelay>,
    /// The request was certainly not done: the next attempt may follow at once, once.
    pub(super) at_once: bool,
    /// Whether what the request is, and how the attempt ended, allow another.
    pub(super) repeatable: bool,
    pub(super) cloneable: bool,
    pub(super) deadline: Option<Tick>,
    pub(super) now: Tick,
    /// A random number in [0, 1).
    pub(super) unit: f64,
}

impl Session {
    pub(super) const HISTORY: usize = 16;

    pub(super) fn new(limit: u32) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// Whether another attempt may follow those that have begun.
    pub(super) fn may_retry(&self) -> bool {
        self.attempts - self.free.min(self.attempts) <= self.limit
    }

    /// The number of the running attempt as the service may know it, from 1.
    pub(super) fn shown_attempt(&self) -> u32 {
        self.attempts.saturating_sub(self.free)
    }

    /// May there be another attempt, and when? Asks everything but the budget, which is asked last
    /// because it is spent by the answer.
    pub(super) fn next(&mut self, rules: &RetryRules, ended: Ended) -> Next {
        if !ended.repeatable {
            return Next::Stop(StopReason::NotIdempotent);
        }
        if ended.at_once && self.free == 0 && ended.cloneable && self.limit > 0 {
            return match ended.deadline {
                Some(deadline) if ended.now >= deadline => Next::Stop(StopReason::Deadline),
                _ => {
                    self.free = 1;
                    Next::AtOnce
                }
            };
        }
        if !self.may_retry() {
            return Next::Stop(StopReason::MaxRetries);
        }
        if !ended.cloneable {
            return Next::Stop(StopReason::NotCloneable);
        }
        let n = self
            .attempts
            .saturating_sub(1 + self.free + self.backoff_from);
        let delay = match ended.hint {
            Some(RetryDelay::After(hint) | RetryDelay::ExactlyAfter(hint))
                if hint > rules.max_retry_after =>
            {
                return Next::Stop(StopReason::RetryAfterTooLong);
            }
            Some(RetryDelay::ExactlyAfter(hint)) => {
                self.backoff_from = self.attempts.saturating_sub(self.free);
                self.previous = None;
                hint
            }
            // "Now" from a service that has just failed is no reason to hammer it.
            Some(RetryDelay::After(hint)) if !hint.is_zero() => hint,
            Some(_) | None => {
                let own = rules.jitter.delay(
                    &rules.backoff,
                    n,
                    rules.max_delay,
                    self.previous,
                    ended.unit,
                );
                self.previous = Some(own);
                own
            }
        };
        match ended.deadline {
            Some(deadline) if ended.now.after(delay) >= deadline => {
                Next::Stop(StopReason::Deadline)
            }
            _ => Next::After(delay),
        }
    }

    /// Remembers what an attempt ended with, and what followed.
    pub(super) fn remember(&mut self, end: AttemptEnd, delay: Option<Duration>) {
        if self.history.len() == Self::HISTORY {
            self.history.remove(0);
        }
        self.history.push(AttemptRecord {
            attempt: self.attempts,
            end,
            delay,
        });
    }

    pub(super) fn take_history(&mut self) -> Vec<AttemptRecord> {
        std::mem::take(&mut self.history)
    }
}
