use std::fmt;

use serde::{Deserialize, Serialize};

/// Which kind of handle: `circuit_breaker`, `resource_lock`, `rate_limit`, `retry`, `hedge`, `fallback`, `throttle`,
/// `timeouts` or `chaos`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Pattern {
    /// A [`CircuitBreaker`](crate::CircuitBreaker).
    CircuitBreaker,
    /// A [`ResourceLock`](crate::ResourceLock).
    ResourceLock,
    /// A [`RateLimit`](crate::RateLimit).
    RateLimit,
    /// A [`RetryPolicy`](crate::RetryPolicy).
    Retry,
    /// A [`Hedge`](crate::Hedge).
    Hedge,
    /// A [`Fallback`](crate::Fallback).
    Fallback,
    /// A [`Throttle`](crate::Throttle).
    Throttle,
    /// [`Timeouts`](crate::Timeouts).
    Timeouts,
    /// A [`Chaos`](crate::Chaos) drill.
    Chaos,
}

impl Pattern {
    pub(super) const ALL: [Self; 9] = [
        Self::CircuitBreaker,
        Self::ResourceLock,
        Self::RateLimit,
        Self::Retry,
        Self::Throttle,
        Self::Timeouts,
        Self::Hedge,
        Self::Fallback,
        Self::Chaos,
    ];

    /// As it stands in JSON.
    pub(super) fn id(self) -> &'static str {
        match self {
            Self::CircuitBreaker => "circuit_breaker",
            Self::ResourceLock => "resource_lock",
            Self::RateLimit => "rate_limit",
            Self::Retry => "retry",
            Self::Hedge => "hedge",
            Self::Fallback => "fallback",
            Self::Throttle => "throttle",
            Self::Timeouts => "timeouts",
            Self::Chaos => "chaos",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::CircuitBreaker => "Circuit breakers",
            Self::ResourceLock => "Locks",
            Self::RateLimit => "Rate limits",
            Self::Retry => "Retries",
            Self::Hedge => "Hedges",
            Self::Fallback => "Fallbacks",
            Self::Throttle => "Throttles",
            Self::Timeouts => "Timeouts",
            Self::Chaos => "Drills",
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CircuitBreaker => "circuit breaker",
            Self::ResourceLock => "lock",
            Self::RateLimit => "rate limit",
            Self::Retry => "retry policy",
            Self::Hedge => "hedge",
            Self::Fallback => "fallback",
            Self::Throttle => "throttle",
            Self::Timeouts => "timeouts",
            Self::Chaos => "drill",
        })
    }
}
