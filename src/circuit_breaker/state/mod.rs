//! What a breaker decides, and nothing else: no clock, no lock, no waiting, no name.
//!
//! [`State`] is plain data. Every change of phase or mode begins a new *epoch*, and a [`Ticket`] is
//! only good in the epoch that gave it out: a late answer changes nothing.

use std::sync::Arc;
use std::time::Duration;

mod command;
mod phase;
mod recent;

pub(super) use command::Command;
pub(super) use phase::{
    Admission, Change, Effects, Ended, Lease, Mode, Opening, Phase, Ticket, Totals,
};
use recent::Recent;

use super::config::{self, CircuitBreakerConfig, SlowCalls};
use super::group::Seat;
use crate::call::outcome::Outcome;
use crate::error::{Cause, CircuitState, OpenReason, Refusal};
use crate::util::time::{Tick, nanos};
use crate::util::window::{Call, Counts};

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

    /// The probe of `ticket` begins to wait for something of this crate, or goes on: what is left of its lease
    /// stands still for the wait, at most for the length of a lease, so that a probe that is lost in a wait does not
    /// keep its place for ever.
    pub(in crate::circuit_breaker) fn pause(
        &mut self,
        policy: &CircuitBreakerConfig,
        ticket: Ticket,
        waits: bool,
        now: Tick,
    ) {
        let Some(lease) = self.lease(ticket) else {
            return;
        };
        match (waits, lease.paused) {
            (true, None) => {
                let left = lease.until.since(now);
                lease.paused = Some(left);
                lease.until = now.after(left).after(policy.probe_timeout);
            }
            (false, Some(left)) => {
                lease.paused = None;
                lease.until = now.after(left);
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    /// The probe of `ticket` has an answer that began like this, and whose body is on its way.
    #[cfg(feature = "http")]
    pub(in crate::circuit_breaker) fn answered(&mut self, ticket: Ticket, head: Outcome) {
        if let Some(lease) = self.lease(ticket) {
            lease.answered = Some(head);
        }
    }

    fn lease(&mut self, ticket: Ticket) -> Option<&mut Lease> {
        match &mut self.phase {
            Phase::HalfOpen { leases, .. } if ticket.epoch == self.epoch => {
                leases.iter_mut().find(|lease| lease.id == ticket.lease)
            }
            _ => None,
        }
    }

    /// Probes whose leases are over have failed, if they have no answer. Those that have one are what its head was:
    /// that a body is long, or read slowly, is no fault.
    fn end_leases(
        &mut self,
        policy: &CircuitBreakerConfig,
        now: Tick,
        unit: f64,
        effects: &mut Effects,
    ) -> Option<Change> {
        let Phase::HalfOpen {
            leases,
            succeeded,
            failed,
        } = &mut self.phase
        else {
            return None;
        };
        let (mut lost, mut healthy) = (0, 0);
        leases.retain(|lease| {
            let is_over = now >= lease.until;
            match lease.answered {
                _ if !is_over => {}
                None => lost += 1,
                Some(Outcome::Success) => healthy += 1,
                Some(_) => {}
            }
            !is_over
        });
        effects.lost_probes = lost;
        *failed = failed.saturating_add(lost);
        *succeeded = succeeded.saturating_add(healthy);
        let too_many = lost > 0 && *failed > policy.probes_that_may_fail();
        let (failures, succeeded) = (u64::from(*failed), *succeeded);
        if too_many {
            self.opening = Opening {
                failures,
                ..Opening::by(Cause::ProbeLost)
            };
            return Some(self.open(policy, None, now, unit));
        }
        (healthy > 0)
            .then(|| self.close_if_enough(policy, succeeded, now))
            .flatten()
    }

    /// Closes if so many successes of probes are enough.
    fn close_if_enough(
        &mut self,
        policy: &CircuitBreakerConfig,
        succeeded: u32,
        now: Tick,
    ) -> Option<Change> {
        (succeeded >= policy.success_threshold).then(|| {
            let closed = Phase::Closed {
                ramp_since: policy.ramp.map(|_| now),
            };
            let change = self.enter(closed, Cause::ProbesSucceeded(succeeded), now);
            self.closed = now;
            self.forget_recent(policy);
            change
        })
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

    fn trip(
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

    fn open_because(
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

    fn cause_to_trip(&self, policy: &CircuitBreakerConfig, counts: Counts) -> Option<Cause> {
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

    fn settle_probe(
        &mut self,
        policy: &CircuitBreakerConfig,
        ticket: Ticket,
        ended: &Ended,
        now: Tick,
        unit: f64,
    ) -> Option<Change> {
        let Phase::HalfOpen {
            leases,
            succeeded,
            failed,
        } = &mut self.phase
        else {
            return None;
        };
        let before = leases.len();
        leases.retain(|lease| lease.id != ticket.lease);
        if leases.len() == before {
            return None; // It was counted when its lease ended.
        }
        let has_failed = match ended.outcome {
            Outcome::Failure => true,
            Outcome::Overload if policy.overload_is_failure => true,
            // Where rates are watched, work refused is work not done; else the next probe will tell.
            Outcome::Overload if policy.failure_rate.is_some() => true,
            Outcome::Overload => return None,
            // The user has said that a service this slow is not well.
            Outcome::Success => ended.slow && policy.slow_calls.is_some(),
            Outcome::Ignored | Outcome::Cancelled => return None,
        };
        if has_failed {
            *failed = failed.saturating_add(1);
            if *failed <= policy.probes_that_may_fail() {
                return None;
            }
            let failures = u64::from(*failed);
            self.opening = Opening {
                cause: Cause::ProbeFailed,
                failures,
                last_failure: ended.message.clone(),
            };
            return Some(self.open(policy, ended.retry_after, now, unit));
        }
        *succeeded += 1;
        let succeeded = *succeeded;
        self.close_if_enough(policy, succeeded, now)
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

    /// Opens for the time that the policy gives, or for the longer one that the service asked for.
    fn open(
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
    fn has_rested(&self, now: Tick) -> bool {
        nanos(now.since(self.closed)) >= self.open_nanos
    }

    fn open_until(&mut self, until: Tick, cause: Cause, now: Tick) -> Change {
        self.opened = now;
        self.open_nanos = nanos(until.since(now));
        let change = self.enter(Phase::Open { until }, cause, now);
        Change {
            open_for: Some(until.since(now)),
            ..change
        }
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

    /// The state by phase; what a breaker that only watches would be in.
    fn shown(&self) -> CircuitState {
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
