//! Which calls open a closed circuit, and for how long.

use std::time::Duration;

use super::super::config::{self, CircuitBreakerConfig, SlowCalls};
use super::State;
use super::phase::{Change, Mode, Opening, Phase};
use crate::error::Cause;
use crate::util::time::{Tick, nanos};
use crate::util::window::Counts;

impl State {
    /// `n` calls of this epoch have been running for longer than the slow threshold.
    pub(in crate::circuit_breaker) fn add_overdue(
        &mut self,
        policy: &CircuitBreakerConfig,
        n: u64,
        now: Tick,
        unit: f64,
    ) -> Option<Change> {
        if !matches!(self.phase, Phase::Closed { .. }) || n == 0 {
            return None;
        }
        self.overdue += n;
        self.trip(policy, None, now, unit)
    }

    pub(super) fn trip(
        &mut self,
        policy: &CircuitBreakerConfig,
        retry_after: Option<Duration>,
        now: Tick,
        unit: f64,
    ) -> Option<Change> {
        let counts = self.counts(now);
        let cause = self.cause_to_trip(policy, counts)?;
        self.open_because(policy, cause, counts, retry_after, now, unit)
    }

    /// A rule outside of the core says that these calls are too bad.
    pub(in crate::circuit_breaker) fn trip_by_custom(
        &mut self,
        policy: &CircuitBreakerConfig,
        epoch: u32,
        now: Tick,
        unit: f64,
    ) -> Option<Change> {
        if epoch != self.epoch || !matches!(self.phase, Phase::Closed { .. }) {
            return None;
        }
        let counts = self.counts(now);
        self.open_because(policy, Cause::Custom, counts, None, now, unit)
    }

    pub(super) fn open_because(
        &mut self,
        policy: &CircuitBreakerConfig,
        cause: Cause,
        counts: Counts,
        retry_after: Option<Duration>,
        now: Tick,
        unit: f64,
    ) -> Option<Change> {
        if let Some(seat) = &self.seat
            && self.mode == Mode::Normal
            && !seat.may_open()
        {
            return None;
        }
        let failures = match &cause {
            Cause::ConsecutiveFailures(n) => u64::from(*n),
            Cause::SlowCallRate { .. } => 0,
            _ => counts.failures,
        };
        self.opening = Opening {
            // Slow calls are nobody's message.
            last_failure: self.last_failure.clone().filter(|_| failures > 0),
            cause,
            failures,
        };
        Some(self.open(policy, retry_after, now, unit))
    }

    pub(super) fn cause_to_trip(
        &self,
        policy: &CircuitBreakerConfig,
        counts: Counts,
    ) -> Option<Cause> {
        if policy
            .consecutive_failures
            .is_some_and(|n| self.consecutive >= n)
        {
            return Some(Cause::ConsecutiveFailures(self.consecutive));
        }
        let Counts {
            calls,
            failures,
            slow,
        } = counts;
        let minimum = u64::from(policy.minimum_calls);
        // Divided, not multiplied: 7 of 100 is 0.07, but 0.07 * 100 is more than 7.
        let reached = |part: u64, of: u64, rate: f64| {
            of > 0 && of >= minimum && part as f64 / of as f64 >= rate
        };
        let failed = |rate| reached(failures, calls, rate);
        if policy.failure_rate.is_some_and(failed) {
            return Some(Cause::FailureRate { failures, calls });
        }
        if policy
            .failure_count
            .is_some_and(|n| failures >= u64::from(n))
        {
            return Some(Cause::FailureCount { failures, calls });
        }
        // A call that hangs is slow for as long as it hangs.
        let (slow, calls) = (slow + self.overdue, calls + self.overdue);
        let too_slow = |it: SlowCalls| reached(slow, calls, it.rate);
        if policy.slow_calls.is_some_and(too_slow) {
            return Some(Cause::SlowCallRate { slow, calls });
        }
        None
    }

    /// Opens for the time that the policy gives, or for the longer one that the service asked for.
    pub(super) fn open(
        &mut self,
        policy: &CircuitBreakerConfig,
        retry_after: Option<Duration>,
        now: Tick,
        unit: f64,
    ) -> Change {
        // A host that fails as soon as it is used again rests longer each time.
        if matches!(self.phase, Phase::Closed { .. }) && self.has_rested(now) {
            self.openings = 0;
        }
        let opening = config::Opening {
            reopened: self.openings,
            failures: self.opening.failures,
            calls: self.counts(now).calls,
        };
        let delay = policy.recovery.delay(&opening, unit);
        let asked = retry_after.map(|it| it.min(policy.max_retry_after));
        let delay = delay.max(asked.unwrap_or_default());
        self.openings = self.openings.saturating_add(1);
        self.open_until(now.after(delay), self.opening.cause.clone(), now)
    }

    /// Whether it has been closed for as long as it last was open.
    pub(super) fn has_rested(&self, now: Tick) -> bool {
        nanos(now.since(self.closed)) >= self.open_nanos
    }

    pub(super) fn open_until(&mut self, until: Tick, cause: Cause, now: Tick) -> Change {
        self.opened = now;
        self.open_nanos = nanos(until.since(now));
        let change = self.enter(Phase::Open { until }, cause, now);
        Change {
            open_for: Some(until.since(now)),
            ..change
        }
    }
}
