use std::sync::Arc;
use std::time::Duration;

use super::config::CircuitBreakerConfig;
use super::shadow::CircuitBreakerShadow;
use super::state::{Mode, Phase, State, ramp_share};
use crate::error::{Cause, CircuitState};
use crate::util::time::Tick;

/// A circuit breaker at one moment.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CircuitBreakerSnapshot {
    /// The name.
    pub name: Arc<str>,
    /// The state as a call would meet it now.
    pub state: CircuitState,
    /// In metrics-only mode: the state the breaker would have.
    pub would_be: Option<CircuitState>,
    /// Consecutive failures, up to now.
    pub failure_count: u32,
    /// Probes that succeeded since the circuit became half-open.
    pub success_count: u32,
    /// So many consecutive failures open it.
    pub failure_threshold: Option<u32>,
    /// So many successful probes close it.
    pub success_threshold: u32,
    /// Calls in the window; 0 without a rate to watch.
    pub window_calls: u64,
    /// Failures in the window.
    pub window_failures: u64,
    /// Slow calls in the window.
    pub window_slow: u64,
    /// Calls that still run past the slow threshold.
    pub overdue: u64,
    /// The share of failures in the window, once it holds `minimum_calls`.
    pub failure_rate: Option<f64>,
    /// The share of slow and overdue calls among those of the window and the overdue, once they are `minimum_calls`.
    pub slow_call_rate: Option<f64>,
    /// How long ago the state last changed (or the breaker was made).
    pub since_state_change: Duration,
    /// How long it will stay open.
    pub remaining_open: Option<Duration>,
    /// How often it opened without having stayed closed for as long as it last was open.
    pub openings: u32,
    /// Probes on their way.
    pub probes: usize,
    /// The share of calls that is let in, while traffic is let in gradually.
    pub ramp: Option<f64>,
    /// While it is open or half-open: why it opened last, with the numbers.
    pub cause: Option<Cause>,
    /// The message of the last failure, if it had one; while the circuit is open, of the failure that opened it.
    pub last_failure: Option<Arc<str>>,
    /// What has been counted since the breaker was made or reset.
    pub totals: CircuitBreakerTotals,
    /// Another config that is [tried](crate::CircuitBreaker::shadow) on the same calls.
    pub shadow: Option<CircuitBreakerShadow>,
}

/// Counts since a breaker was made or reset. Every admitted call is in exactly one of the first five,
/// once it has ended; calls admitted while the breaker was disabled are in none. A call that was admitted
/// before a reset and ends after it is counted when it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CircuitBreakerTotals {
    /// Calls that succeeded.
    pub successes: u64,
    /// Calls that failed.
    pub failures: u64,
    /// Calls that the service had no room for.
    pub overloads: u64,
    /// Calls whose result said nothing about the service.
    pub ignored: u64,
    /// Calls that were dropped before there was a result.
    pub cancelled: u64,
    /// Calls that took at least the slow threshold, whatever they ended with.
    pub slow: u64,
    /// Calls that were refused.
    pub rejected: u64,
    /// In metrics-only mode: calls that would have been refused, once they have ended.
    pub would_reject: u64,
    /// Of those, the ones that succeeded all the same.
    pub would_reject_succeeded: u64,
}

/// The share of the traffic that is let in, while it is not all of it.
fn ramp(policy: &CircuitBreakerConfig, state: &State, now: Tick) -> Option<f64> {
    let Phase::Closed { ramp_since } = &state.phase else {
        return None;
    };
    let (since, ramp) = ramp_since.zip(policy.ramp)?;
    Some(ramp_share(now.since(since), ramp)).filter(|share| *share < 1.0)
}

/// All but the refusals, which are counted elsewhere.
fn totals(state: &State) -> CircuitBreakerTotals {
    let totals = &state.totals;
    CircuitBreakerTotals {
        successes: totals.successes,
        failures: totals.failures,
        overloads: totals.overloads,
        ignored: totals.ignored,
        cancelled: totals.cancelled,
        slow: totals.slow,
        rejected: 0,
        would_reject: totals.would_reject,
        would_reject_succeeded: totals.would_reject_succeeded,
    }
}

impl CircuitBreakerSnapshot {
    pub(super) fn new(
        name: &Arc<str>,
        policy: &CircuitBreakerConfig,
        state: &State,
        now: Tick,
    ) -> Self {
        let counts = state.counts(now);
        let minimum = u64::from(policy.minimum_calls);
        let rate = |part: u64, of: u64| {
            let enough = of > 0 && of >= minimum;
            enough.then(|| part as f64 / of as f64)
        };
        let overdue = state.overdue;
        let is_open = !matches!(state.phase, Phase::Closed { .. });
        let (success_count, probes) = match &state.phase {
            Phase::HalfOpen {
                leases, succeeded, ..
            } => (*succeeded, leases.len()),
            Phase::Closed { .. } | Phase::Open { .. } => (0, 0),
        };
        Self {
            name: Arc::clone(name),
            state: state.effective(now),
            would_be: (state.mode == Mode::MetricsOnly).then(|| state.by_phase(now)),
            failure_count: state.consecutive,
            success_count,
            failure_threshold: policy.consecutive_failures,
            success_threshold: policy.success_threshold,
            window_calls: counts.calls,
            window_failures: counts.failures,
            window_slow: counts.slow,
            overdue,
            failure_rate: rate(counts.failures, counts.calls),
            slow_call_rate: policy
                .slow_calls
                .and_then(|_| rate(counts.slow + overdue, counts.calls + overdue)),
            since_state_change: now.since(state.since(now)),
            remaining_open: match state.phase {
                Phase::Open { until } if now < until => Some(until.since(now)),
                _ => None,
            },
            openings: state.openings,
            probes,
            ramp: ramp(policy, state, now),
            cause: is_open.then(|| state.opening.cause.clone()),
            last_failure: match &state.phase {
                Phase::Open { .. } => state.opening.last_failure.clone(),
                Phase::Closed { .. } | Phase::HalfOpen { .. } => state.last_failure.clone(),
            },
            totals: totals(state),
            shadow: None,
        }
    }

    /// Refusals are counted beside the core, where it takes no lock.
    pub(super) fn with_rejected(mut self, rejected: u64) -> Self {
        self.totals.rejected = rejected;
        self
    }
}
