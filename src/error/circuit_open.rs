use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::util::time::Tick;

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
    /// So many failures came one after the other.
    ConsecutiveFailures(u32),
    /// So many calls in the window failed.
    #[non_exhaustive]
    FailureCount {
        /// Failures in the window.
        failures: u64,
        /// Calls in the window.
        calls: u64,
    },
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
        /// Slow calls in the window, and calls that still run past the threshold.
        slow: u64,
        /// Calls in the window, and calls that still run past the threshold.
        calls: u64,
    },
    /// The open time was over, and a call came to probe the service.
    OpenTimeOver,
    /// So many probes succeeded.
    ProbesSucceeded(u32),
    /// Too many probes failed.
    ProbeFailed,
    /// A probe did not end within its lease.
    ProbeLost,
    /// It was much worse than others of its kind: see [`Outliers`](crate::keyed::Outliers).
    #[non_exhaustive]
    Outlier {
        /// Failures in the interval that was compared.
        failures: u64,
        /// Calls in that interval.
        calls: u64,
    },
    /// The processes of a fleet found so together: see the module `fleet` (feature `redis`).
    Fleet,
    /// The closure of `trip_when` said so.
    Custom,
    /// An operator said so.
    Operator,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConsecutiveFailures(n) => write!(f, "{n} consecutive failures"),
            Self::FailureRate { failures, calls } | Self::FailureCount { failures, calls } => {
                write!(f, "{failures} of the last {calls} calls failed")
            }
            Self::SlowCallRate { slow, calls } => {
                write!(f, "slow calls: {slow} of the last {calls}")
            }
            Self::Outlier { failures, calls } => {
                write!(
                    f,
                    "{failures} of {calls} calls failed, many more than of others of its kind"
                )
            }
            Self::OpenTimeOver => f.write_str("the open time is over"),
            Self::ProbesSucceeded(n) => write!(f, "{n} probes succeeded"),
            Self::ProbeFailed => f.write_str("a probe failed"),
            Self::ProbeLost => f.write_str("a probe did not end in time"),
            Self::Fleet => f.write_str("the fleet said so"),
            Self::Custom => f.write_str("the rule of its own said so"),
            Self::Operator => f.write_str("opened by an operator"),
        }
    }
}

/// Why a circuit breaker refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum OpenReason {
    /// The circuit is open: the service failed too often a short while ago.
    Open,
    /// The circuit is half-open, and all probes are on their way.
    ProbesBusy,
    /// The circuit has closed and lets traffic in gradually; this call was not among the first.
    Ramping,
    /// An operator opened it, until further notice.
    ForcedOpen,
    /// The circuit was open when the service was asked whether it is ready, so the service behind it was not made
    /// ready. The circuit admits calls again: ask again.
    NotMadeReady,
}

impl fmt::Display for OpenReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "the circuit is open",
            Self::ProbesBusy => "all probes are on their way",
            Self::Ramping => "traffic is let in gradually",
            Self::ForcedOpen => "forced open by an operator",
            Self::NotMadeReady => "open when asked for readiness",
        })
    }
}

/// What is known of the moment a circuit opened. Shared by all rejections of that opening.
#[derive(Clone, Debug)]
pub(crate) struct Trip {
    pub(crate) name: Arc<str>,
    pub(crate) opened: Tick,
    pub(crate) cause: Cause,
    pub(crate) failures: u64,
    pub(crate) last_failure: Option<Arc<str>>,
}

/// A circuit breaker refused the call; the service was neither called nor asked whether it is ready.
///
/// Cheap to clone, and made without an allocation.
#[derive(Clone, Debug)]
pub struct CircuitOpen {
    trip: Arc<Trip>,
    refusal: Refusal,
}

/// What a breaker found when it was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    pub(crate) at: Tick,
    /// When it is worth asking again; never, if nobody can say.
    pub(crate) until: Tick,
    pub(crate) reason: OpenReason,
}

impl Refusal {
    pub(crate) fn retry_after(self) -> Option<Duration> {
        (self.until != Tick::NEVER).then(|| self.until.since(self.at))
    }
}

impl CircuitOpen {
    #[inline]
    pub(crate) fn new(trip: Arc<Trip>, refusal: Refusal) -> Self {
        Self { trip, refusal }
    }

    /// The name of the breaker.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.trip.name
    }

    /// Why it refused.
    #[must_use]
    pub fn reason(&self) -> OpenReason {
        self.refusal.reason
    }

    /// Why the circuit opened, with the numbers. After a probe that failed it says that.
    #[must_use]
    pub fn cause(&self) -> &Cause {
        &self.trip.cause
    }

    /// How many failures opened it: consecutive ones, those in the window, or probes. 0 if an operator or slow calls
    /// did.
    #[must_use]
    pub fn failure_count(&self) -> u64 {
        self.trip.failures
    }

    /// How long the circuit had been open when it refused this call.
    #[must_use]
    pub fn open_for(&self) -> Duration {
        self.refusal.at.since(self.trip.opened)
    }

    /// When the circuit opened.
    #[must_use]
    pub fn opened_at(&self) -> tokio::time::Instant {
        self.trip.opened.to_instant()
    }

    /// How long after the refusal it is worth asking again: when the open time is over. `None` when nobody can say: an
    /// operator forced it open, or its probes are on their way, which may end at any moment.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self.reason() {
            OpenReason::ProbesBusy => None,
            _ => self.refusal.retry_after(),
        }
    }

    /// If all probes were on their way: how long after the refusal the lease of the earliest ends. Then it has ended or
    /// counts as failed.
    #[must_use]
    pub fn probe_lease(&self) -> Option<Duration> {
        match self.reason() {
            OpenReason::ProbesBusy => self.refusal.retry_after(),
            _ => None,
        }
    }

    /// The message of the failure that opened it, if a failure did.
    #[must_use]
    pub fn last_failure(&self) -> Option<&str> {
        self.trip.last_failure.as_deref()
    }
}

impl fmt::Display for CircuitOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        match self.reason() {
            OpenReason::Open => write!(f, "circuit breaker `{name}` is open")?,
            OpenReason::ProbesBusy => {
                write!(
                    f,
                    "circuit breaker `{name}` is half-open and its probes are busy"
                )?;
            }
            OpenReason::Ramping => {
                write!(f, "circuit breaker `{name}` lets traffic back in gradually")?;
            }
            OpenReason::ForcedOpen => {
                write!(f, "circuit breaker `{name}` was forced open by an operator")?;
            }
            OpenReason::NotMadeReady => {
                write!(
                    f,
                    "circuit breaker `{name}` was open when asked for readiness"
                )?;
            }
        }
        if self.reason() == OpenReason::Open {
            write!(f, ": {}", self.cause())?;
        }
        if let Some(delay) = self.retry_after() {
            write!(f, ", retry after {delay:.3?}")?;
        }
        if let Some(last) = self.last_failure() {
            write!(f, " (last failure: {last})")?;
        }
        Ok(())
    }
}

impl StdError for CircuitOpen {}
