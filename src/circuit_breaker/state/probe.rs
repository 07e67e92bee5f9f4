//! The probes of a half-open circuit: their leases, and what becomes of the circuit when they end.

use super::super::config::CircuitBreakerConfig;
use super::State;
use super::phase::{Change, Effects, Ended, Lease, Opening, Phase, Ticket};
use crate::call::outcome::Outcome;
use crate::error::Cause;
use crate::util::time::Tick;

impl State {
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

    pub(super) fn lease(&mut self, ticket: Ticket) -> Option<&mut Lease> {
        match &mut self.phase {
            Phase::HalfOpen { leases, .. } if ticket.epoch == self.epoch => {
                leases.iter_mut().find(|lease| lease.id == ticket.lease)
            }
            _ => None,
        }
    }

    /// Probes whose leases are over have failed, if they have no answer. Those that have one are what its head was:
    /// that a body is long, or read slowly, is no fault.
    pub(super) fn end_leases(
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
    pub(super) fn close_if_enough(
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

    pub(super) fn settle_probe(
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
}
