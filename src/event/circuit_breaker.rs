use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Cause, CircuitState, OpenReason};

/// What a circuit breaker reports to observers.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum CircuitBreakerEvent {
    /// The state changed. (`WARN` when it opens, `INFO` otherwise)
    #[non_exhaustive]
    StateChanged {
        /// The state before.
        from: CircuitState,
        /// The state now.
        to: CircuitState,
        /// Why.
        cause: Cause,
        /// How long it will stay open, if it opened and the end is known.
        open_for: Option<Duration>,
        /// The message of the last failure, if there was one.
        last_failure: Option<Arc<str>>,
    },
    /// In metrics-only mode: the breaker would have changed its state. (`INFO`)
    #[non_exhaustive]
    WouldChange {
        /// The state it would have had before.
        from: CircuitState,
        /// The state it would have now.
        to: CircuitState,
        /// Why.
        cause: Cause,
    },
    /// A call was refused. (`INFO`, at most one a second)
    #[non_exhaustive]
    Rejected {
        /// Why.
        reason: OpenReason,
        /// When a probe will be let through, if that is known.
        retry_after: Option<Duration>,
    },
    /// A probe did not end within `probe_timeout`: it counts as a failed one. (`WARN`)
    #[non_exhaustive]
    ProbeLost {
        /// How long its lease was.
        lease: Duration,
    },
    /// Everything was forgotten at an operator's word. (`INFO`)
    Reset,
}

impl CircuitBreakerEvent {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::StateChanged { .. } => "state_changed",
            Self::WouldChange { .. } => "would_change",
            Self::Rejected { .. } => "rejected",
            Self::ProbeLost { .. } => "probe_lost",
            Self::Reset => "reset",
        }
    }
}

impl fmt::Display for CircuitBreakerEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StateChanged {
                from,
                to,
                cause,
                open_for,
                last_failure,
            } => {
                write!(f, "{from} -> {to}: {cause}")?;
                if let Some(open_for) = open_for {
                    write!(f, "; open for {open_for:.3?}")?;
                }
                match last_failure {
                    Some(message) => write!(f, " (last failure: {message})"),
                    None => Ok(()),
                }
            }
            Self::WouldChange { from, to, cause } => {
                write!(f, "would change {from} -> {to}: {cause}")
            }
            Self::Rejected {
                reason,
                retry_after,
            } => {
                write!(f, "refused a call: {reason}")?;
                match retry_after {
                    Some(delay) => write!(f, ", retry after {delay:.3?}"),
                    None => Ok(()),
                }
            }
            Self::ProbeLost { lease } => write!(f, "a probe did not end within {lease:.3?}"),
            Self::Reset => f.write_str("reset"),
        }
    }
}
