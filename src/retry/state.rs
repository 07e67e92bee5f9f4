//! What one call decides after each attempt, and nothing else: no clock, no dice, no waiting.

use std::time::Duration;

use super::policy::RetryRules;
use crate::error::{AttemptEnd, AttemptRecord, StopReason};
use crate::time::Tick;

/// One call, from its first attempt to its end.
#[derive(Clone, Debug, Default)]
pub(super) struct Session {
    /// How many attempts have begun.
    pub(super) attempts: u32,
    /// How many may follow the first.
    pub(super) limit: u32,
    previous: Option<Duration>,
    history: Vec<AttemptRecord>,
}

/// What follows an attempt that was worth another one.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Stop(StopReason),
    After(Duration),
}

/// What is known when an attempt has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    /// When the service asked to come back.
    pub(super) hint: Option<Duration>,
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
        self.attempts <= self.limit
    }

    /// May there be another attempt, and when? Asks everything but the budget, which is asked last
    /// because it is spent by the answer.
    pub(super) fn next(&mut self, rules: &RetryRules, ended: Ended) -> Next {
        if !self.may_retry() {
            return Next::Stop(StopReason::MaxRetries);
        }
        if !ended.cloneable {
            return Next::Stop(StopReason::NotCloneable);
        }
        let n = self.attempts.saturating_sub(1);
        let delay = match ended.hint {
            Some(hint) if hint > rules.max_retry_after => {
                return Next::Stop(StopReason::RetryAfterTooLong);
            }
            // "Now" from a service that has just failed is no reason to hammer it.
            Some(hint) if !hint.is_zero() => hint,
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
