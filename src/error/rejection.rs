use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use super::circuit_open::CircuitOpen;
use super::contended::{Contended, ContendedReason};
use super::rate_limited::{RateLimitReason, RateLimited};
use super::throttled::Throttled;
use super::timed_out::{TimedOut, TimeoutPhase};

/// A call that one of this crate's layers refused: the service behind it was not called.
///
/// Found in any chain of errors, through tower's boxes and foreign wrappers, with [`Rejection::find`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Rejection {
    /// A circuit breaker refused.
    CircuitOpen(CircuitOpen),
    /// A resource was busy.
    Contended(Contended),
    /// A rate limit had not enough left.
    RateLimited(RateLimited),
    /// The service accepts too few calls.
    Throttled(Throttled),
    /// It took longer than it may. A refusal only if the service was never ready, and only then
    /// [`Error::rejection`](crate::Error::rejection) and [`Rejection::find`] give it; `reject_with` of a
    /// [`TimeoutLayer`](crate::timeout::TimeoutLayer) is given every timeout, and [`TimedOut::was_called`] tells them apart.
    TimedOut(TimedOut),
}

impl Rejection {
    /// The name of the breaker, resource, limit, throttle or timeouts that refused.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::CircuitOpen(open) => open.name(),
            Self::Contended(contended) => contended.resource(),
            Self::RateLimited(limited) => limited.name(),
            Self::Throttled(throttled) => throttled.name(),
            Self::TimedOut(late) => late.name(),
        }
    }

    /// What refused, for machines: `circuit_open`, `contended`, `rate_limited`, `throttled`, `not_ready`, or `deadline` where the caller's
    /// own deadline came before its turn, or before the end. `timed_out` is no refusal: the service did not answer.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::CircuitOpen(_) => "circuit_open",
            Self::Contended(contended) => match contended.reason() {
                ContendedReason::DeadlineExceeded => "deadline",
                _ => "contended",
            },
            Self::RateLimited(limited) => match limited.reason() {
                RateLimitReason::DeadlineExceeded => "deadline",
                _ => "rate_limited",
            },
            Self::Throttled(_) => "throttled",
            Self::TimedOut(late) => match late.phase() {
                TimeoutPhase::Ready => "not_ready",
                TimeoutPhase::Total | TimeoutPhase::Deadline => "deadline",
                _ => "timed_out",
            },
        }
    }

    /// When another try has a chance, if that is known. A lock does not know; it can
    /// [guess](Contended::expected_wait). A throttle gives every try the same chance.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::CircuitOpen(open) => open.retry_after(),
            Self::Contended(_) | Self::Throttled(_) | Self::TimedOut(_) => None,
            Self::RateLimited(limited) => limited.retry_after(),
        }
    }
}

impl From<CircuitOpen> for Rejection {
    fn from(open: CircuitOpen) -> Self {
        Self::CircuitOpen(open)
    }
}

impl From<Contended> for Rejection {
    fn from(contended: Contended) -> Self {
        Self::Contended(contended)
    }
}

impl From<RateLimited> for Rejection {
    fn from(limited: RateLimited) -> Self {
        Self::RateLimited(limited)
    }
}

impl From<Throttled> for Rejection {
    fn from(throttled: Throttled) -> Self {
        Self::Throttled(throttled)
    }
}

impl From<TimedOut> for Rejection {
    fn from(late: TimedOut) -> Self {
        Self::TimedOut(late)
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CircuitOpen(open) => open.fmt(f),
            Self::Contended(contended) => contended.fmt(f),
            Self::RateLimited(limited) => limited.fmt(f),
            Self::Throttled(throttled) => throttled.fmt(f),
            Self::TimedOut(late) => late.fmt(f),
        }
    }
}

impl StdError for Rejection {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(match self {
            Self::CircuitOpen(open) => open,
            Self::Contended(contended) => contended,
            Self::RateLimited(limited) => limited,
            Self::Throttled(throttled) => throttled,
            Self::TimedOut(late) => late,
        })
    }
}
