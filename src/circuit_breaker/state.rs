//! What a breaker decides, and nothing else: no clock, no lock, no waiting, no name.
//!
//! [`State`] is plain data. Every change of phase or mode begins a new *epoch*, and a [`Ticket`] is
//! only good in the epoch that gave it out: a late answer changes nothing.

use std::sync::Arc;
use std::time::Duration;

use super::CircuitState;
use super::config::{CircuitBreakerConfig, Window};
use crate::call::outcome::Outcome;
use crate::error::OpenReason;
use crate::event::Cause;
use crate::util::time::Tick;
use crate::util::window::{Call, Counts, LastCalls, LastSlices};

/// Who is in command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Normal,
    ForcedOpen,
    Disabled,
    MetricsOnly,
}

#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// With the moment of closing, while the traffic is let in gradually.
    Closed {
        ramp_since: Option<Tick>,
    },
    Open {
        until: Tick,
    },
    HalfOpen {
        leases: Vec<Lease>,
        succeeded: u32,
    },
}

/// The place of one probe.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    id: u64,
    until: Tick,
}

/// Proof of admission. `lease` is the id of the probe's place, 0 if it is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) epoch: u32,
    pub(super) lease: u64,
}

/// May a call start?
#[must_use]
#[derive(Debug)]
pub(super) enum Admission {
    Go(Ticket),
    /// Metrics only: it goes, but would have been refused, and its outcome decides nothing.
    GoAnyway(Ticket),
    /// The breaker is disabled: it goes, and nobody counts how it ends.
    GoUncounted(Ticket),
    Refuse(OpenReason, Option<Duration>),
}

/// How an admitted call ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    pub(super) slow: bool,
    /// It was counted as slow while it still ran.
    pub(super) counted: bool,
    pub(super) message: Option<Arc<str>>,
}

/// What the shell has to tell.
#[must_use]
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) change: Option<Change>,
    pub(super) lost_probe: bool,
}

#[derive(Debug)]
pub(super) struct Change {
    pub(super) from: CircuitState,
    pub(super) to: CircuitState,
    pub(super) cause: Cause,
    pub(super) open_for: Option<Duration>,
    /// Nothing was refused or let through because of it: the breaker only watches.
    pub(super) shadow: bool,
}

/// Outcomes since the breaker was made or reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) successes: u64,
    pub(super) failures: u64,
    pub(super) overloads: u64,
    pub(super) ignored: u64,
    pub(super) cancelled: u64,
    pub(super) slow: u64,
    pub(super) would_reject: u64,
    pub(super) would_reject_succeeded: u64,
}

#[derive(Clone, Debug)]
enum Recent {
    Nothing,
    Calls(LastCalls),
    Slices(Box<LastSlices>),
}

impl Recent {
    fn new(policy: &CircuitBreakerConfig) -> Self {
        match policy.window {
            _ if !policy.uses_rates() => Self::Nothing,
            Window::LastCalls(size) => Self::Calls(LastCalls::new(size)),
            Window::LastTime(length) => Self::Slices(Box::new(LastSlices::new(length))),
        }
    }

    fn record(&mut self, call: Call, now: Tick) {
        match self {
            Self::Nothing => {}
            Self::Calls(calls) => calls.record(call),
            Self::Slices(slices) => slices.record(call, now),
        }
    }

    fn fail_a_slow_one(&mut self, now: Tick) {
        match self {
            Self::Nothing => {}
            Self::Calls(calls) => calls.fail_a_slow_one(),
            Self::Slices(slices) => slices.fail_a_slow_one(now),
        }
    }

    fn counts(&self, now: Tick) -> Counts {
        match self {
            Self::Nothing => Counts::default(),
            Self::Calls(calls) => calls.counts(),
            Self::Slices(slices) => slices.counts(now),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) epoch: u32,
    pub(super) mode: Mode,
    pub(super) phase: Phase,
    /// Failures in a row.
    pub(super) streak: u32,
    /// How often it opened since it was last closed.
    pub(super) openings: u32,
    /// The failures that opened it; what a rejection reports.
    pub(super) tripped_by: u64,
    pub(super) opened: Tick,
    pub(super) changed: Tick,
    pub(super) totals: Totals,
    pub(super) last_failure: Option<Arc<str>>,
    recent: Recent,
    next_lease: u64,
}

impl State {
    pub(super) fn new(policy: &CircuitBreakerConfig, now: Tick) -> Self {
        Self {
            epoch: 1,
            mode: Mode::Normal,
            phase: Phase::Closed { ramp_since: None },
            streak: 0,
            openings: 0,
            tripped_by: 0,
            opened: now,
            changed: now,
            totals: Totals::default(),
            last_failure: None,
            recent: Recent::new(policy),
            next_lease: 1,
        }
    }

    /// May a call start at `now`? `unit` is a random number in [0, 1).
    pub(super) fn admit(
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
            };
            effects.change = Some(self.enter(probing, Cause::OpenTimeOver, now));
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
                    // A probe that hangs may not keep its place for ever.
                    let Some(lost) = leases.iter().position(|lease| now >= lease.until) else {
                        return Admission::Refuse(OpenReason::ProbesBusy, None);
                    };
                    leases.swap_remove(lost);
                    effects.lost_probe = true;
                }
                let until = now.after(policy.probe_timeout);
                leases.push(Lease {
                    id: ticket.lease,
                    until,
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

    /// Whether `ticket` may still start a call at `now`. The lease of a probe begins anew: it was
    /// taken when the service became ready, which may be long ago.
    pub(super) fn renew(
        &mut self,
        policy: &CircuitBreakerConfig,
        ticket: Ticket,
        now: Tick,
    ) -> bool {
        if ticket.epoch != self.epoch {
            return false;
        }
        match &mut self.phase {
            Phase::HalfOpen { leases, .. } => {
                match leases.iter_mut().find(|lease| lease.id == ticket.lease) {
                    Some(lease) => lease.until = now.after(policy.probe_timeout),
                    None => return false,
                }
            }
            Phase::Closed { .. } | Phase::Open { .. } => {}
        }
        true
    }

    /// Takes back a ticket that no call was made with.
    pub(super) fn forgo(&mut self, ticket: Ticket) {
        if ticket.epoch == self.epoch
            && let Phase::HalfOpen { leases, .. } = &mut self.phase
        {
            leases.retain(|lease| lease.id != ticket.lease);
        }
    }

    /// Fast successes that were counted elsewhere, in slice `slice` of the window.
    pub(super) fn add_successes(&mut self, n: u64, slice: u64) {
        self.totals.successes += n;
        match &mut self.recent {
            Recent::Nothing => {}
            Recent::Calls(calls) => calls.record_successes(n),
            Recent::Slices(slices) => slices.record_successes(n, slice),
        }
    }

    /// The slice of the window that `now` lies in; 0 if the window is not one of time.
    pub(super) fn slice(&self, now: Tick) -> u64 {
        match &self.recent {
            Recent::Slices(slices) => slices.number(now),
            Recent::Nothing | Recent::Calls(_) => 0,
        }
    }

    /// The call that held `ticket` ended.
    pub(super) fn settle(
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
        if let Some(message) = ended.message.clone() {
            self.last_failure = Some(message);
        }
        let change = match self.phase {
            Phase::Closed { .. } => self.settle_closed(policy, ended, now, unit),
            Phase::HalfOpen { .. } => self.settle_probe(policy, ticket, ended, now, unit),
            Phase::Open { .. } => None, // An open circuit gives out no tickets.
        };
        Effects {
            change,
            lost_probe: false,
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
    pub(super) fn settle_anyway(&mut self, ended: &Ended) {
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
            Outcome::Success => self.streak = 0,
            Outcome::Failure => self.streak = self.streak.saturating_add(1),
            Outcome::Overload if policy.overload_is_failure => {
                self.streak = self.streak.saturating_add(1);
            }
            // It answers, so this is no outage; it refuses, so it is no recovery either.
            Outcome::Overload => {}
            Outcome::Cancelled if ended.slow => {}
            Outcome::Ignored | Outcome::Cancelled => return None,
        }
        match (ended.counted, failed) {
            (false, _) => self.recent.record(
                Call {
                    failed,
                    slow: ended.slow,
                },
                now,
            ),
            (true, true) => self.recent.fail_a_slow_one(now),
            (true, false) => {}
        }
        // Only bad news can open a circuit: never a success that makes an old one leave the window.
        (failed || ended.slow).then(|| self.trip(policy, now, unit))?
    }

    /// `n` calls of this epoch have been running for longer than the slow threshold.
    pub(super) fn add_overdue(
        &mut self,
        policy: &CircuitBreakerConfig,
        n: u64,
        now: Tick,
        unit: f64,
    ) -> Option<Change> {
        if !matches!(self.phase, Phase::Closed { .. }) || n == 0 {
            return None;
        }
        for _ in 0..n {
            self.recent.record(
                Call {
                    failed: false,
                    slow: true,
                },
                now,
            );
        }
        self.trip(policy, now, unit)
    }

    fn trip(&mut self, policy: &CircuitBreakerConfig, now: Tick, unit: f64) -> Option<Change> {
        let counts = self.recent.counts(now);
        let cause = self.cause_to_trip(policy, counts)?;
        self.tripped_by = match &cause {
            Cause::ConsecutiveFailures(streak) => u64::from(*streak),
            _ => counts.failures,
        };
        Some(self.open(policy, cause, now, unit))
    }

    fn cause_to_trip(&self, policy: &CircuitBreakerConfig, counts: Counts) -> Option<Cause> {
        if policy
            .consecutive_failures
            .is_some_and(|n| self.streak >= n)
        {
            return Some(Cause::ConsecutiveFailures(self.streak));
        }
        let Counts {
            calls,
            failures,
            slow,
        } = counts;
        if calls == 0 || calls < u64::from(policy.minimum_calls) {
            return None;
        }
        // Divided, not multiplied: 7 of 100 is 0.07, but 0.07 * 100 is more than 7.
        let reached = |part: u64, rate: f64| part as f64 / calls as f64 >= rate;
        if policy
            .failure_rate
            .is_some_and(|rate| reached(failures, rate))
        {
            return Some(Cause::FailureRate { failures, calls });
        }
        if policy.slow_calls.is_some_and(|it| reached(slow, it.rate)) {
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
        let Phase::HalfOpen { leases, succeeded } = &mut self.phase else {
            return None;
        };
        // The place may be another's by now; what the probe found out is of this epoch all the same.
        leases.retain(|lease| lease.id != ticket.lease);
        let failed = match ended.outcome {
            Outcome::Failure => true,
            Outcome::Overload if policy.overload_is_failure => true,
            // Where rates are watched, work refused is work not done; else the next probe will tell.
            Outcome::Overload if policy.failure_rate.is_some() => true,
            Outcome::Overload => return None,
            // By the user's own message a service this slow is not well.
            Outcome::Success => ended.slow && policy.slow_calls.is_some(),
            Outcome::Ignored | Outcome::Cancelled => return None,
        };
        if failed {
            self.tripped_by = self.tripped_by.saturating_add(1);
            return Some(self.open(policy, Cause::ProbeFailed, now, unit));
        }
        *succeeded += 1;
        let succeeded = *succeeded;
        (succeeded >= policy.success_threshold).then(|| {
            let closed = Phase::Closed {
                ramp_since: policy.ramp.map(|_| now),
            };
            let change = self.enter(closed, Cause::ProbesSucceeded(succeeded), now);
            self.openings = 0;
            self.forget_recent(policy);
            change
        })
    }

    fn open(
        &mut self,
        policy: &CircuitBreakerConfig,
        cause: Cause,
        now: Tick,
        unit: f64,
    ) -> Change {
        let delay = policy.recovery.delay(self.openings, unit);
        self.openings = self.openings.saturating_add(1);
        self.open_until(now.after(delay), cause, now)
    }

    fn open_until(&mut self, until: Tick, cause: Cause, now: Tick) -> Change {
        self.opened = now;
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
            cause,
            open_for: None,
            shadow: self.mode == Mode::MetricsOnly,
        }
    }

    fn begin_epoch(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
    }

    fn forget_recent(&mut self, policy: &CircuitBreakerConfig) {
        self.streak = 0;
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
    pub(super) fn effective(&self, now: Tick) -> CircuitState {
        match self.mode {
            Mode::ForcedOpen => CircuitState::ForcedOpen,
            Mode::Disabled => CircuitState::Disabled,
            Mode::MetricsOnly => CircuitState::MetricsOnly,
            Mode::Normal => self.by_phase(now),
        }
    }

    /// The state at `now` if nobody but the breaker itself were in command.
    pub(super) fn by_phase(&self, now: Tick) -> CircuitState {
        match self.phase {
            Phase::Open { until } if now >= until => CircuitState::HalfOpen,
            _ => self.shown(),
        }
    }

    /// When the state that [`effective`](Self::effective) gives at `now` began.
    pub(super) fn since(&self, now: Tick) -> Tick {
        match (self.mode, &self.phase) {
            (Mode::Normal, Phase::Open { until }) if now >= *until => *until,
            _ => self.changed,
        }
    }

    pub(super) fn counts(&self, now: Tick) -> Counts {
        self.recent.counts(now)
    }

    /// An operator's word. Returns what changed, if anything did.
    pub(super) fn command(
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
            Command::OpenFor(delay) => return self.open_for(policy, delay, now),
        };
        let from = self.effective(now);
        self.mode = mode;
        self.phase = Phase::Closed { ramp_since: None };
        self.openings = 0;
        self.opened = now;
        self.tripped_by = 0;
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
        Some(Change {
            from,
            to,
            cause: Cause::Operator,
            open_for: None,
            shadow: false,
        })
    }

    /// Opens at somebody's word. The word of an operator that stands until further notice is stronger.
    fn open_for(
        &mut self,
        policy: &CircuitBreakerConfig,
        delay: Duration,
        now: Tick,
    ) -> Option<Change> {
        match self.mode {
            Mode::ForcedOpen | Mode::Disabled => return None,
            Mode::Normal | Mode::MetricsOnly => {}
        }
        if let Phase::Open { until } = &mut self.phase
            && now < *until
        {
            *until = now.after(delay); // What opened it, and when, stays true.
            self.begin_epoch();
            return None;
        }
        let from = self.by_phase(now);
        self.openings = self.openings.max(1);
        self.tripped_by = 0;
        self.forget_recent(policy);
        let change = self.open_until(now.after(delay), Cause::Operator, now);
        Some(Change { from, ..change })
    }
}

/// What an operator can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Reset,
    ForceClose,
    ForceOpen,
    Disable,
    MetricsOnly,
    OpenFor(Duration),
}

/// The share of traffic that is let in `passed` after closing.
pub(super) fn ramp_share(passed: Duration, ramp: Duration) -> f64 {
    let start = CircuitBreakerConfig::RAMP_START;
    let way = (passed.as_secs_f64() / ramp.as_secs_f64()).min(1.0);
    start + (1.0 - start) * way
}
