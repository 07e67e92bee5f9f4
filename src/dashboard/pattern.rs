use std::fmt;

use serde::{Deserialize, Serialize};

/// Which kind of handle: `circuit_breaker`, `resource_lock`, `rate_limit`, `retry`, `hedge`, `fallback`, `throttle`,
/// `timeouts` or `chaos`; or `fleet`, `fleet_circuit_breaker`, `fleet_lock` or `fleet_rate_limit`.
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
    /// A fleet of processes. (feature `redis`)
    Fleet,
    /// A circuit breaker that a fleet shares.
    FleetCircuitBreaker,
    /// A lock that a fleet shares.
    FleetLock,
    /// A rate limit that a fleet shares.
    FleetRateLimit,
}

impl Pattern {
    pub(super) const ALL: [Self; 13] = [
        Self::CircuitBreaker,
        Self::ResourceLock,
        Self::RateLimit,
        Self::Fleet,
        Self::FleetCircuitBreaker,
        Self::FleetLock,
        Self::FleetRateLimit,
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
            Self::Fleet => "fleet",
            Self::FleetCircuitBreaker => "fleet_circuit_breaker",
            Self::FleetLock => "fleet_lock",
            Self::FleetRateLimit => "fleet_rate_limit",
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
            Self::Fleet => "Fleets",
            Self::FleetCircuitBreaker => "Shared circuit breakers",
            Self::FleetLock => "Shared locks",
            Self::FleetRateLimit => "Shared rate limits",
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
            Self::Fleet => "fleet",
            Self::FleetCircuitBreaker => "shared circuit breaker",
            Self::FleetLock => "shared lock",
            Self::FleetRateLimit => "shared rate limit",
        })
    }
}
