//! What is seen of a breaker. Nothing here changes it.

use super::super::config::{self, CircuitBreakerConfig};
use super::State;
use super::phase::{Mode, Phase};
use crate::error::{CircuitState, OpenReason, Refusal};
use crate::util::time::Tick;
use crate::util::window::Counts;

impl State {
    /// Whether a call that asked for admission at `now` would certainly be refused. Changes nothing.
    pub(in crate::circuit_breaker) fn peek(
        &self,
        policy: &CircuitBreakerConfig,
        now: Tick,
    ) -> Option<Refusal> {
        let refusal = |reason, until| {
            Some(Refusal {
                at: now,
                until,
                reason,
            })
        };
        match (self.mode, &self.phase) {
            (Mode::ForcedOpen, _) => refusal(OpenReason::ForcedOpen, Tick::NEVER),
            (Mode::Normal, Phase::Open { until }) if now < *until => {
                refusal(OpenReason::Open, *until)
            }
            (Mode::Normal, Phase::HalfOpen { leases, .. }) => {
                let busy = leases.iter().filter(|lease| now < lease.until);
                if busy.clone().count() < policy.max_probes as usize {
                    return None;
                }
                let earliest = busy.map(|lease| lease.until).min();
                refusal(OpenReason::ProbesBusy, earliest.unwrap_or(now))
            }
            (Mode::Normal | Mode::Disabled | Mode::MetricsOnly, _) => None,
        }
    }

    /// Whether a new one would do the same.
    pub(in crate::circuit_breaker) fn remembers_nothing(&self, now: Tick) -> bool {
        let is_closed = matches!(self.phase, Phase::Closed { ramp_since: None });
        let counts = self.counts(now);
        let has_rested = self.openings == 0 || self.has_rested(now);
        self.mode == Mode::Normal
            && is_closed
            && has_rested
            && self.consecutive == 0
            && self.overdue == 0
            && counts.failures == 0
            && counts.slow == 0
    }

    /// The state by phase; what a breaker that only watches would be in.
    pub(super) fn shown(&self) -> CircuitState {
        match self.phase {
            Phase::Closed { .. } => CircuitState::Closed,
            Phase::Open { .. } => CircuitState::Open,
            Phase::HalfOpen { .. } => CircuitState::HalfOpen,
        }
    }

    /// The state as a caller at `now` would meet it.
    pub(in crate::circuit_breaker) fn effective(&self, now: Tick) -> CircuitState {
        match self.mode {
            Mode::ForcedOpen => CircuitState::ForcedOpen,
            Mode::Disabled => CircuitState::Disabled,
            Mode::MetricsOnly => CircuitState::MetricsOnly,
            Mode::Normal => self.by_phase(now),
        }
    }

    /// The state at `now` if nobody but the breaker itself were in command.
    pub(in crate::circuit_breaker) fn by_phase(&self, now: Tick) -> CircuitState {
        match self.phase {
            Phase::Open { until } if now >= until => CircuitState::HalfOpen,
            _ => self.shown(),
        }
    }

    /// When the state that [`effective`](Self::effective) gives at `now` began.
    pub(in crate::circuit_breaker) fn since(&self, now: Tick) -> Tick {
        match (self.mode, &self.phase) {
            (Mode::Normal, Phase::Open { until }) if now >= *until => *until,
            (Mode::Normal, _) => self.changed,
            (Mode::ForcedOpen | Mode::Disabled | Mode::MetricsOnly, _) => self.commanded,
        }
    }

    pub(in crate::circuit_breaker) fn counts(&self, now: Tick) -> Counts {
        self.recent.counts(now)
    }

    /// What a rule of the user's own looks at.
    pub(in crate::circuit_breaker) fn window_counts(&self, now: Tick) -> config::WindowCounts {
        let Counts {
            calls,
            failures,
            slow,
        } = self.counts(now);
        config::WindowCounts {
            calls,
            failures,
            slow,
            overdue: self.overdue,
            consecutive_failures: self.consecutive,
        }
    }
}
