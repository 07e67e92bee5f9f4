//! What a breaker decides, and nothing else: no clock, no lock, no waiting, no name.
//!
//! [`State`] is plain data. Every change of phase or mode begins a new *epoch*, and a [`Ticket`] is
//! only good in the epoch that gave it out: a late answer changes nothing.

use std::sync::Arc;
use std::time::Duration;

mod command;
mod look;
mod open;
mod phase;
mod probe;
mod recent;

pub(super) use command::Command;
pub(super) use phase::{
    Admission, Change, Effects, Ended, Lease, Mode, Opening, Phase, Ticket, Totals,
};
use recent::Recent;

use super::config::CircuitBreakerConfig;
use super::group::Seat;
use crate::call::outcome::Outcome;
use crate::error::{Cause, OpenReason};
use crate::util::time::Tick;
use crate::util::window::Call;

#[derive(Clone, Debug)]
pub(in crate::circuit_breaker) struct State {
    pub(in crate::circuit_breaker) epoch: u32,
    pub(in crate::circuit_breaker) mode: Mode,
    pub(in crate::circuit_breaker) phase: Phase,
    /// Failures, one after the other.
    pub(in crate::circuit_breaker) consecutive: u32,
    /// Calls of this epoch that still run past the slow threshold.
    pub(in crate::circuit_breaker) overdue: u64,
    /// How often it opened without having stayed closed for as long as it last was open.
    pub(in crate::circuit_breaker) openings: u32,
    /// What opened it last; what a rejection reports.
    pub(in crate::circuit_breaker) opening: Opening,
    pub(in crate::circuit_breaker) opened: Tick,
    /// How long the last opening was meant to last.
    open_nanos: u64,
    closed: Tick,
    /// When an operator's command began.
    commanded: Tick,
    /// Until when an operator has opened it: it is open for as long as that is to come.
    #[cfg(feature = "redis")]
    pub(in crate::circuit_breaker) operators_until: Tick,
    pub(in crate::circuit_breaker) changed: Tick,
    pub(in crate::circuit_breaker) totals: Totals,
    pub(in crate::circuit_breaker) last_failure: Option<Arc<str>>,
    recent: Recent,
    next_lease: u64,
    /// If it is one of a group, of which only a share may be open.
    seat: Option<Arc<Seat>>,
}

impl State {
    pub(in crate::circuit_breaker) fn join(&mut self, seat: Arc<Seat>) {
        self.seat = Some(seat);
        self.tell_group();
    }

    /// After each step.
    pub(in crate::circuit_breaker) fn tell_group(&self) {
        if let Some(seat) = &self.seat {
            let is_open = !matches!(self.phase, Phase::Closed { .. });
            seat.set(match self.mode {
                Mode::Normal => is_open,
                Mode::ForcedOpen => true,
                Mode::Disabled | Mode::MetricsOnly => false,
            });
        }
    }

    pub(in crate::circuit_breaker) fn new(policy: &CircuitBreakerConfig, now: Tick) -> Self {
        Self {
            epoch: 1,
            mode: Mode::Normal,
            phase: Phase::Closed { ramp_since: None },
            consecutive: 0,
            overdue: 0,
            openings: 0,
            opening: Opening::by(Cause::Operator),
            opened: now,
            open_nanos: 0,
            closed: now,
            commanded: now,
            #[cfg(feature = "redis")]
            operators_until: Tick(0),
            changed: now,
            totals: Totals::default(),
            last_failure: None,
            recent: Recent::new(policy),
            next_lease: 1,
            seat: None,
        }
    }

    /// May a call start at `now`? `unit` is a random number in [0, 1).
    pub(in crate::circuit_breaker) fn admit(
        &mut self,
        policy: &CircuitBreakerConfig,
        now: Tick,
        unit: f64,
    ) -> (Admission, Effects) {
        let mut effects = Effects::default();
        let admission = match self.mode {
            Mode::Disabled => Admission::GoUncounted(self.ticket(0)),
            Mode::ForcedOpen => Admission::Refuse(OpenReason::ForcedOpen, None),
            Mode::Normal => self.admit_by_phase(policy, now, unit, &mut effects),
            Mode::MetricsOnly => match self.admit_by_phase(policy, now, unit, &mut effects) {
                Admission::Refuse(..) => Admission::GoAnyway(self.ticket(0)),
                go => go,
            },
        };
        (admission, effects)
    }

    fn admit_by_phase(
        &mut self,
        policy: &CircuitBreakerConfig,
        now: Tick,
        unit: f64,
        effects: &mut Effects,
    ) -> Admission {
        if let Phase::Open { until } = self.phase
            && now >= until
        {
            let probing = Phase::HalfOpen {
                leases: Vec::new(),
                succeeded: 0,
                failed: 0,
            };
            effects
                .changes
                .push(self.enter(probing, Cause::OpenTimeOver, now));
        }
        if let Some(change) = self.end_leases(policy, now, unit, effects) {
            effects.changes.push(change);
        }
        let ticket = self.ticket(self.next_lease);
        match &mut self.phase {
            Phase::Closed { ramp_since } => match ramp_since.zip(policy.ramp) {
                Some((since, ramp)) if unit >= ramp_share(now.since(since), ramp) => {
                    Admission::Refuse(OpenReason::Ramping, None)
                }
                Some((since, ramp)) => {
                    if now.since(since) >= ramp {
                        *ramp_since = None;
                    }
                    Admission::Go(Ticket { lease: 0, ..ticket })
                }
                None => Admission::Go(Ticket { lease: 0, ..ticket }),
            },
            Phase::Open { until } => Admission::Refuse(OpenReason::Open, Some(until.since(now))),
            Phase::HalfOpen { leases, .. } => {
                if leases.len() >= policy.max_probes as usize {
                    let earliest = leases.iter().map(|lease| lease.until.since(now)).min();
                    return Admission::Refuse(OpenReason::ProbesBusy, earliest);
                }
                let until = now.after(policy.probe_timeout);
                leases.push(Lease {
                    id: ticket.lease,
                    until,
                    paused: None,
                    answered: None,
                });
                self.next_lease += 1;
                Admission::Go(ticket)
            }
        }
    }

    fn ticket(&self, lease: u64) -> Ticket {
        Ticket {
            epoch: self.epoch,
            lease,
        }
    }

    /// Fast successes that were counted elsewhere, in slice `slice` of the window.
    pub(in crate::circuit_breaker) fn add_successes(&mut self, n: u64, slice: u64) {
        self.totals.successes += n;
        match &mut self.recent {
            Recent::Nothing => {}
            Recent::Calls(calls) => calls.record_successes(n),
            Recent::Slices(slices) => slices.record_successes(n, slice),
        }
    }

    /// The call that held `ticket` ended.
    pub(in crate::circuit_breaker) fn settle(
        &mut self,
        policy: &CircuitBreakerConfig,
        ticket: Ticket,
        ended: &Ended,
        now: Tick,
        unit: f64,
    ) -> Effects {
        self.count(ended);
        if ticket.epoch != self.epoch {
            return Effects::default(); // A late answer says nothing about this epoch.
        }
        if matches!(ended.outcome, Outcome::Failure | Outcome::Overload) {
            self.last_failure.clone_from(&ended.message);
        }
        self.overdue = self.overdue.saturating_sub(u64::from(ended.overdue));
        let change = match self.phase {
            Phase::Closed { .. } => self.settle_closed(policy, ended, now, unit),
            Phase::HalfOpen { .. } => self.settle_probe(policy, ticket, ended, now, unit),
            Phase::Open { .. } => None, // An open circuit gives out no tickets.
        };
        Effects {
            changes: change.into_iter().collect(),
            lost_probes: 0,
        }
    }

    fn count(&mut self, ended: &Ended) {
        match ended.outcome {
            Outcome::Success => self.totals.successes += 1,
            Outcome::Failure => self.totals.failures += 1,
            Outcome::Overload => self.totals.overloads += 1,
            Outcome::Ignored => self.totals.ignored += 1,
            Outcome::Cancelled => self.totals.cancelled += 1,
        }
        self.totals.slow += u64::from(ended.slow);
    }

    /// A call that metrics-only mode let through although the breaker would have refused it.
    pub(in crate::circuit_breaker) fn settle_anyway(&mut self, ended: &Ended) {
        self.count(ended);
        self.totals.would_reject += 1;
        self.totals.would_reject_succeeded += u64::from(ended.outcome == Outcome::Success);
    }

    fn settle_closed(
        &mut self,
        policy: &CircuitBreakerConfig,
        ended: &Ended,
        now: Tick,
        unit: f64,
    ) -> Option<Change> {
        let failed = matches!(ended.outcome, Outcome::Failure | Outcome::Overload);
        match ended.outcome {
            Outcome::Success => self.consecutive = 0,
            Outcome::Failure => self.consecutive = self.consecutive.saturating_add(1),
            Outcome::Overload if policy.overload_is_failure => {
                self.consecutive = self.consecutive.saturating_add(1);
            }
            // It answers, so this is no outage; it refuses, so it is no recovery either.
            Outcome::Overload => {}
            Outcome::Cancelled if ended.slow => {}
            Outcome::Ignored | Outcome::Cancelled => return None,
        }
        let slow = ended.slow;
        self.recent.record(Call { failed, slow }, now);
        // Only a failure or a slow call opens a circuit: never a success that makes an old one leave the window.
        let retry_after = ended.retry_after;
        (failed || slow).then(|| self.trip(policy, retry_after, now, unit))?
    }

    /// Every way from one phase to another leads through here.
    fn enter(&mut self, phase: Phase, cause: Cause, now: Tick) -> Change {
        let from = self.shown();
        self.phase = phase;
        self.changed = now;
        self.begin_epoch();
        Change {
            from,
            to: self.shown(),
            last_failure: match self.phase {
                Phase::Open { .. } => self.opening.last_failure.clone(),
                _ => None,
            },
            cause,
            open_for: None,
            shadow: self.mode == Mode::MetricsOnly,
        }
    }

    fn begin_epoch(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        self.overdue = 0;
    }

    fn forget_recent(&mut self, policy: &CircuitBreakerConfig) {
        self.consecutive = 0;
        self.recent = Recent::new(policy);
    }

    /// The rules have changed: what the new window can hold of the old one is kept.
    pub(in crate::circuit_breaker) fn adapt(
        &mut self,
        old: &CircuitBreakerConfig,
        new: &CircuitBreakerConfig,
    ) {
        if old.window != new.window || old.uses_window() != new.uses_window() {
            self.recent = Recent::new(new);
        }
        // Calls that run are not timed by the new threshold. Probes are not among them: they keep their leases.
        if old.slow_calls != new.slow_calls && matches!(self.phase, Phase::Closed { .. }) {
            self.begin_epoch();
        }
    }
}

/// The share of traffic that is let in `passed` after closing.
pub(in crate::circuit_breaker) fn ramp_share(passed: Duration, ramp: Duration) -> f64 {
    let start = CircuitBreakerConfig::RAMP_START;
    let way = (passed.as_secs_f64() / ramp.as_secs_f64()).min(1.0);
    start + (1.0 - start) * way
}
