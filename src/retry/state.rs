//! What one call decides after each attempt, and nothing else: no clock, no dice, no waiting.

use std::time::Duration;

use super::config::RetryConfig;
use crate::call::outcome::{Idempotency, RetryDelay};
use crate::error::{AttemptEnd, AttemptRecord, StopReason};
use crate::util::time::Tick;

/// One call, from its first attempt to its end.
#[derive(Debug)]
pub(super) struct Session {
    /// How many attempts have begun: a whole word, because a call is moved right after it has begun.
    attempts: u64,
    /// How many may follow the first, and above that what the request is.
    limits: u64,
    /// What only a call that has failed needs.
    trouble: Option<Box<Trouble>>,
}

#[derive(Debug, Default)]
struct Trouble {
    /// Attempts that cost nothing: those after a request that was certainly not done.
    free: u32,
    /// Where the backoff last started anew.
    backoff_from: u32,
    /// What the last retry cost the budget.
    paid: u32,
    previous: Option<Duration>,
    /// The one try that a deadlock is worth has been taken.
    deadlock: bool,
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

impl Trouble {
    /// How long to wait before the next attempt; `None` if the service asks for longer than anybody wants to wait.
    fn delay(&mut self, attempts: u32, rules: &RetryConfig, ended: &Ended) -> Option<Duration> {
        match ended.hint {
            Some(RetryDelay::After(hint) | RetryDelay::ExactlyAfter(hint))
                if hint > rules.max_retry_after =>
            {
                None
            }
            Some(RetryDelay::ExactlyAfter(hint)) => {
                self.backoff_from = attempts.saturating_sub(self.free);
                self.previous = None;
                Some(hint)
            }
            // Upwards: so that all who were given the same time do not come back in one instant. "Now" from a service that
            // has just failed is no reason to call it at once.
            Some(RetryDelay::After(hint)) if !hint.is_zero() => {
                let later = hint.mul_f64(1.0 + rules.retry_after_jitter * ended.unit);
                let later = later.min(rules.max_retry_after);
                let left = ended.deadline.map(|it| it.since(ended.now));
                Some(match left {
                    Some(left) if later >= left => hint,
                    _ => later,
                })
            }
            Some(_) | None => {
                let n = attempts.saturating_sub(1 + self.free + self.backoff_from);
                let own = rules.jitter.delay(
                    &rules.backoff,
                    n,
                    rules.max_delay,
                    self.previous,
                    ended.unit,
                );
                self.previous = Some(own);
                Some(own)
            }
        }
    }
}

impl Session {
    pub(super) const HISTORY: usize = 16;

    /// A call whose first attempt begins.
    #[inline]
    pub(super) fn begun(limit: u32, request: Idempotency) -> Self {
        Self {
            attempts: 1,
            limits: u64::from(limit) | (request as u64) << 32,
            trouble: None,
        }
    }

    pub(super) fn begin_attempt(&mut self) {
        self.attempts = self.attempts.saturating_add(1);
    }

    /// How many attempts have begun.
    #[inline]
    pub(super) fn attempts(&self) -> u32 {
        u32::try_from(self.attempts).unwrap_or(u32::MAX)
    }

    fn limit(&self) -> u32 {
        self.limits as u32
    }

    pub(super) fn idempotency(&self) -> Idempotency {
        const ALL: [Idempotency; 4] = [
            Idempotency::Forbidden,
            Idempotency::NotIdempotent,
            Idempotency::Idempotent,
            Idempotency::Keyed,
        ];
        ALL[(self.limits >> 32 & 3) as usize]
    }

    /// Whether another attempt may follow those that have begun.
    pub(super) fn may_retry(&self) -> bool {
        self.shown_attempt() <= self.limit()
    }

    /// The number of the running attempt as the service may know it, from 1.
    #[inline]
    pub(super) fn shown_attempt(&self) -> u32 {
        let free = self.trouble.as_ref().map_or(0, |trouble| trouble.free);
        self.attempts().saturating_sub(free)
    }

    /// Whether a request that was certainly not done would be sent again for nothing, if there is a copy.
    pub(super) fn has_free_retry(&self, rules: &RetryConfig) -> bool {
        self.attempts == 1 && (self.limit() > 0 || rules.free_retry)
    }

    /// Whether this is the first deadlock of the call.
    pub(super) fn take_deadlock(&mut self) -> bool {
        let trouble = self.trouble.get_or_insert_default();
        !std::mem::replace(&mut trouble.deadlock, true)
    }

    /// What the last retry cost the budget.
    pub(super) fn paid(&self) -> u32 {
        self.trouble.as_ref().map_or(0, |trouble| trouble.paid)
    }

    pub(super) fn pay(&mut self, cost: u32) {
        self.trouble.get_or_insert_default().paid = cost;
    }

    /// May there be another attempt, and when? Asks everything but the budget, which is asked last
    /// because it is spent by the answer.
    #[cfg(test)]
    pub(super) fn next(&mut self, rules: &RetryConfig, ended: Ended) -> Next {
        self.next_with(rules, ended, |planned| planned)
    }

    /// The same, with the last word on how long the wait is.
    pub(super) fn next_with(
        &mut self,
        rules: &RetryConfig,
        ended: Ended,
        delay: impl FnOnce(Duration) -> Duration,
    ) -> Next {
        if !ended.repeatable {
            return Next::Stop(StopReason::NotIdempotent);
        }
        let (may_retry, has_free_retry) = (self.may_retry(), self.has_free_retry(rules));
        let attempts = self.attempts();
        let trouble = self.trouble.get_or_insert_default();
        if ended.at_once && has_free_retry && ended.cloneable {
            return match ended.deadline {
                Some(deadline) if ended.now >= deadline => Next::Stop(StopReason::Deadline),
                _ => {
                    trouble.free = 1;
                    Next::AtOnce
                }
            };
        }
        if !may_retry {
            return Next::Stop(StopReason::MaxRetries);
        }
        if !ended.cloneable {
            return Next::Stop(StopReason::NotCloneable);
        }
        let Some(planned) = trouble.delay(attempts, rules, &ended) else {
            return Next::Stop(StopReason::RetryAfterTooLong);
        };
        let delay = delay(planned);
        match ended.deadline {
            Some(deadline) if is_too_late(ended.now.after(delay), rules.min_attempt, deadline) => {
                Next::Stop(StopReason::Deadline)
            }
            _ => Next::After(delay),
        }
    }

    /// Remembers what an attempt ended with, and what followed.
    pub(super) fn remember(&mut self, end: AttemptEnd, delay: Option<Duration>) {
        let attempt = self.attempts();
        let history = &mut self.trouble.get_or_insert_default().history;
        if history.len() == Self::HISTORY {
            history.remove(0);
        }
        history.push(AttemptRecord {
            attempt,
            end,
            delay,
        });
    }

    pub(super) fn take_history(&mut self) -> Vec<AttemptRecord> {
        let history = self.trouble.as_mut().map(|it| &mut it.history);
        history.map(std::mem::take).unwrap_or_default()
    }
}

/// Whether an attempt that begins at `begins` has no time before `deadline`, or less than it needs.
fn is_too_late(begins: Tick, least: Duration, deadline: Tick) -> bool {
    begins >= deadline || deadline.since(begins) < least
}
