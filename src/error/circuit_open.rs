use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::util::time::Tick;

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
}

/// What is known of the moment a circuit opened. Shared by all rejections of that opening.
#[derive(Clone, Debug)]
pub(crate) struct Trip {
    pub(crate) name: Arc<str>,
    pub(crate) opened: Tick,
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

    /// How many failures the breaker had counted when it opened.
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

    /// How long after the refusal the breaker will let a probe through. `None` when nobody can say:
    /// an operator forced it open, or a probe is on its way.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal.retry_after()
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
        }
        if self.reason() == OpenReason::Open {
            write!(f, " after {} failures", self.failure_count())?;
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
