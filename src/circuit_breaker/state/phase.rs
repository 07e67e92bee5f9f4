//! What a breaker is in, what it gives out, and what it says of a change.

use std::sync::Arc;
use std::time::Duration;

use crate::call::outcome::Outcome;
use crate::error::{Cause, CircuitState, OpenReason};
use crate::util::time::Tick;

/// Who is in command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::circuit_breaker) enum Mode {
    Normal,
    ForcedOpen,
    Disabled,
    MetricsOnly,
}

#[derive(Clone, Debug)]
pub(in crate::circuit_breaker) enum Phase {
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
        failed: u32,
    },
}

/// The place of one probe.
#[derive(Clone, Copy, Debug)]
pub(in crate::circuit_breaker) struct Lease {
    pub(super) id: u64,
    pub(super) until: Tick,
    /// What is left of the lease while the probe waits for something of this crate.
    pub(super) paused: Option<Duration>,
    /// What the head of the answer was, while its body is on its way.
    pub(super) answered: Option<Outcome>,
}

/// Proof of admission. `lease` is the id of the probe's place, 0 if it is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::circuit_breaker) struct Ticket {
    pub(in crate::circuit_breaker) epoch: u32,
    pub(in crate::circuit_breaker) lease: u64,
}

/// May a call start?
#[must_use]
#[derive(Debug)]
pub(in crate::circuit_breaker) enum Admission {
    Go(Ticket),
    /// Metrics only: it goes, but would have been refused, and its outcome decides nothing.
    GoAnyway(Ticket),
    /// The breaker is disabled: it goes, and nobody counts how it ends.
    GoUncounted(Ticket),
    Refuse(OpenReason, Option<Duration>),
}

/// How an admitted call ended.
#[derive(Clone, Debug)]
pub(in crate::circuit_breaker) struct Ended {
    pub(in crate::circuit_breaker) outcome: Outcome,
    pub(in crate::circuit_breaker) slow: bool,
    /// It was found overdue while it still ran.
    pub(in crate::circuit_breaker) overdue: bool,
    pub(in crate::circuit_breaker) message: Option<Arc<str>>,
    /// When the service asked to be called again.
    pub(in crate::circuit_breaker) retry_after: Option<Duration>,
}

/// What the shell has to report.
#[must_use]
#[derive(Debug, Default)]
pub(in crate::circuit_breaker) struct Effects {
    pub(in crate::circuit_breaker) changes: Vec<Change>,
    pub(in crate::circuit_breaker) lost_probes: u32,
}

/// What opened the circuit.
#[derive(Clone, Debug)]
pub(in crate::circuit_breaker) struct Opening {
    pub(in crate::circuit_breaker) cause: Cause,
    pub(in crate::circuit_breaker) failures: u64,
    /// The message of the failure that did, if a failure did.
    pub(in crate::circuit_breaker) last_failure: Option<Arc<str>>,
}

impl Opening {
    pub(super) fn by(cause: Cause) -> Self {
        Self {
            cause,
            failures: 0,
            last_failure: None,
        }
    }
}

#[derive(Debug)]
pub(in crate::circuit_breaker) struct Change {
    pub(in crate::circuit_breaker) from: CircuitState,
    pub(in crate::circuit_breaker) to: CircuitState,
    pub(in crate::circuit_breaker) cause: Cause,
    pub(in crate::circuit_breaker) open_for: Option<Duration>,
    pub(in crate::circuit_breaker) last_failure: Option<Arc<str>>,
    /// Nothing was refused or let through because of it: the breaker only watches.
    pub(in crate::circuit_breaker) shadow: bool,
}

/// Outcomes since the breaker was made or reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::circuit_breaker) struct Totals {
    pub(in crate::circuit_breaker) successes: u64,
    pub(in crate::circuit_breaker) failures: u64,
    pub(in crate::circuit_breaker) overloads: u64,
    pub(in crate::circuit_breaker) ignored: u64,
    pub(in crate::circuit_breaker) cancelled: u64,
    pub(in crate::circuit_breaker) slow: u64,
    pub(in crate::circuit_breaker) would_reject: u64,
    pub(in crate::circuit_breaker) would_reject_succeeded: u64,
}
