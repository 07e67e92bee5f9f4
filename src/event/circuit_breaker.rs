use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::OpenReason;

/// The state of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum CircuitState {
    /// Calls go through; failures are counted.
    Closed,
    /// Calls are refused until the open time is over.
    Open,
    /// A few calls go through to probe the service; the others are refused.
    HalfOpen,
    /// An operator opened it: calls are refused until further notice.
    ForcedOpen,
    /// An operator switched it off: calls go through, nothing is counted.
    Disabled,
    /// Calls go through; what the breaker would have done is counted and reported.
    MetricsOnly,
}

impl fmt::Display for CircuitState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
            Self::ForcedOpen => "forced open",
            Self::Disabled => "disabled",
            Self::MetricsOnly => "metrics only",
        })
    }
}

/// Why a breaker changed its state.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Cause {
    /// So many failures came in a row.
    ConsecutiveFailures(u32),
    /// The share of failures in the window reached the threshold.
    #[non_exhaustive]
    FailureRate {
        /// Failures in the window.
        failures: u64,
        /// Calls in the window.
        calls: u64,
    },
    /// The share of slow calls in the window reached the threshold.
    #[non_exhaustive]
    SlowCallRate {
        /// Slow calls in the window; a call still running past the threshold is one.
        slow: u64,
        /// Calls in the window.
        calls: u64,
    },
    /// The open time was over, and a call came to probe the service.
    OpenTimeOver,
    /// So many probes succeeded.
    ProbesSucceeded(u32),
    /// A probe failed.
    ProbeFailed,
    /// An operator said so.
    Operator,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConsecutiveFailures(n) => write!(f, "{n} failures in a row"),
            Self::FailureRate { failures, calls } => {
                write!(f, "{failures} of the last {calls} calls failed")
            }
            Self::SlowCallRate { slow, calls } => {
                write!(f, "{slow} of the last {calls} calls were slow")
            }
            Self::OpenTimeOver => f.write_str("the open time is over"),
            Self::ProbesSucceeded(n) => write!(f, "{n} probes succeeded"),
            Self::ProbeFailed => f.write_str("a probe failed"),
            Self::Operator => f.write_str("an operator said so"),
        }
    }
}

/// What a circuit breaker tells observers.
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
    /// A call was refused. (`DEBUG`)
    #[non_exhaustive]
    Rejected {
        /// Why.
        reason: OpenReason,
        /// When a probe will be let through, if that is known.
        retry_after: Option<Duration>,
    },
    /// A probe did not end within `probe_timeout`; its place was given to another call. (`WARN`)
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
                write!(f, "refused a call ({reason:?})")?;
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
