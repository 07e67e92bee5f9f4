//! What an operator says, and what becomes of it.

use std::time::Duration;

use super::super::config::CircuitBreakerConfig;
use super::phase::{Change, Mode, Opening, Phase};
use super::{State, Totals};
use crate::error::Cause;
use crate::util::time::Tick;

/// What an operator can say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::circuit_breaker) enum Command {
    Reset,
    ForceClose,
    ForceOpen,
    Disable,
    MetricsOnly,
    OpenFor(Duration),
    /// It is much worse than others of its kind: so many failures of so many calls.
    Eject {
        delay: Duration,
        failures: u64,
        calls: u64,
    },
    /// With a random number in [0, 1).
    Trip(f64),
    /// The fleet has opened it: for so long from now, whatever it was open for.
    #[cfg(feature = "redis")]
    FleetOpen(Duration),
    /// The fleet has closed it.
    #[cfg(feature = "redis")]
    FleetClose,
}

impl State {
    /// An operator's command. Returns what changed, if anything did.
    pub(in crate::circuit_breaker) fn command(
        &mut self,
        policy: &CircuitBreakerConfig,
        command: Command,
        now: Tick,
    ) -> Option<Change> {
        let mode = match command {
            Command::Reset | Command::ForceClose => Mode::Normal,
            Command::ForceOpen => Mode::ForcedOpen,
            Command::Disable => Mode::Disabled,
            Command::MetricsOnly => Mode::MetricsOnly,
            Command::OpenFor(delay) => {
                return self.open_for(policy, delay, Cause::Operator, now);
            }
            #[cfg(feature = "redis")]
            Command::FleetOpen(delay) => return self.open_for(policy, delay, Cause::Fleet, now),
            #[cfg(feature = "redis")]
            Command::FleetClose => return self.close_by_fleet(policy, now),
            Command::Eject {
                delay,
                failures,
                calls,
            } => return self.eject(delay, failures, calls, now),
            Command::Trip(unit) => return self.trip_by_operator(policy, unit, now),
        };
        let from = self.effective(now);
        #[cfg(feature = "redis")]
        {
            self.operators_until = Tick(0);
        }
        self.mode = mode;
        self.phase = Phase::Closed { ramp_since: None };
        self.openings = 0;
        self.opened = now;
        self.opening = Opening::by(Cause::Operator);
        self.forget_recent(policy);
        self.begin_epoch();
        if command == Command::Reset {
            self.totals = Totals::default();
            self.last_failure = None;
        }
        let to = self.effective(now);
        if from == to {
            return None;
        }
        self.changed = now;
        self.commanded = now;
        Some(Change {
            from,
            to,
            cause: Cause::Operator,
            open_for: None,
            last_failure: None,
            shadow: false,
        })
    }

    /// Opens as if a rule had said so, for the time that the policy gives.
    fn trip_by_operator(
        &mut self,
        policy: &CircuitBreakerConfig,
        unit: f64,
        now: Tick,
    ) -> Option<Change> {
        match (self.mode, &self.phase) {
            (Mode::ForcedOpen | Mode::Disabled, _) => return None,
            (_, Phase::Open { until }) if now < *until => return None,
            (Mode::Normal | Mode::MetricsOnly, _) => {}
        }
        let from = self.by_phase(now);
        self.opening = Opening::by(Cause::Operator);
        let change = self.open(policy, None, now, unit);
        self.forget_recent(policy);
        Some(Change { from, ..change })
    }

    /// Opens a circuit that is closed, because others of its kind do much better.
    fn eject(&mut self, delay: Duration, failures: u64, calls: u64, now: Tick) -> Option<Change> {
        let is_closed = matches!(self.phase, Phase::Closed { .. });
        if self.mode != Mode::Normal || !is_closed {
            return None;
        }
        let cause = Cause::Outlier { failures, calls };
        self.openings = self.openings.saturating_add(1);
        self.opening = Opening {
            cause: cause.clone(),
            failures,
            last_failure: self.last_failure.clone(),
        };
        Some(self.open_until(now.after(delay), cause, now))
    }

    /// Opens for this long. A state that an operator has set until further notice stays.
    fn open_for(
        &mut self,
        policy: &CircuitBreakerConfig,
        delay: Duration,
        cause: Cause,
        now: Tick,
    ) -> Option<Change> {
        match self.mode {
            Mode::ForcedOpen | Mode::Disabled => return None,
            Mode::Normal | Mode::MetricsOnly => {}
        }
        let ends = now.after(delay);
        #[cfg(feature = "redis")]
        let ends = match cause {
            Cause::Operator => {
                self.operators_until = ends;
                ends
            }
            // What an operator has said is not cut short.
            _ => ends.max(self.operators_until),
        };
        if let Phase::Open { until } = &mut self.phase
            && now < *until
        {
            *until = ends; // What opened it, and when, stays true.
            self.begin_epoch();
            return None;
        }
        let from = self.by_phase(now);
        self.openings = self.openings.max(1);
        self.opening = Opening::by(cause.clone());
        self.forget_recent(policy);
        let change = self.open_until(ends, cause, now);
        Some(Change { from, ..change })
    }

    /// Closes, if a rule or the fleet has opened it. A state that an operator has set stays: until further notice, or for the
    /// time that was given.
    #[cfg(feature = "redis")]
    fn close_by_fleet(&mut self, policy: &CircuitBreakerConfig, now: Tick) -> Option<Change> {
        let is_closed = matches!(self.phase, Phase::Closed { .. });
        if is_closed || matches!(self.mode, Mode::ForcedOpen | Mode::Disabled) {
            return None;
        }
        if let Phase::Open { until } = &mut self.phase
            && now < self.operators_until
        {
            *until = self.operators_until;
            self.begin_epoch();
            return None;
        }
        let from = self.by_phase(now);
        let ramp_since = policy.ramp.map(|_| now);
        let change = self.enter(Phase::Closed { ramp_since }, Cause::Fleet, now);
        self.closed = now;
        self.forget_recent(policy);
        Some(Change { from, ..change })
    }
}
