//! Everything that is registered, each at one moment.

use super::Registry;
use crate::chaos::{Chaos, ChaosSnapshot};
use crate::circuit_breaker::{CircuitBreaker, CircuitBreakerSnapshot};
use crate::contention::{ResourceLock, ResourceSnapshot};
use crate::fallback::{Fallback, FallbackSnapshot};
#[cfg(feature = "redis")]
use crate::fleet::{Fleet, FleetSnapshot};
use crate::hedge::{Hedge, HedgeSnapshot};
use crate::rate_limit::{RateLimit, RateLimitSnapshot};
use crate::retry::{RetryPolicy, RetrySnapshot};
use crate::throttle::{Throttle, ThrottleSnapshot};
use crate::timeout::{Timeouts, TimeoutsSnapshot};

/// Everything in a registry.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RegistrySnapshot {
    /// The retry policies, by name.
    pub retries: Vec<RetrySnapshot>,
    /// The circuit breakers, by name.
    pub circuit_breakers: Vec<CircuitBreakerSnapshot>,
    /// The resource locks, by name.
    pub resource_locks: Vec<ResourceSnapshot>,
    /// The rate limits, by name.
    pub rate_limits: Vec<RateLimitSnapshot>,
    /// The fallbacks, by name.
    pub fallbacks: Vec<FallbackSnapshot>,
    /// The hedges, by name.
    pub hedges: Vec<HedgeSnapshot>,
    /// The throttles, by name.
    pub throttles: Vec<ThrottleSnapshot>,
    /// The drills, by name.
    pub chaos: Vec<ChaosSnapshot>,
    /// The timeouts, by name.
    pub timeouts: Vec<TimeoutsSnapshot>,
    /// The fleets, by namespace. (feature `redis`)
    #[cfg(feature = "redis")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    pub fleets: Vec<FleetSnapshot>,
}

impl Registry {
    /// Everything that is registered here, each at one moment.
    #[must_use]
    pub fn snapshot(&self) -> RegistrySnapshot {
        RegistrySnapshot {
            retries: self.retries().iter().map(RetryPolicy::snapshot).collect(),
            circuit_breakers: self
                .circuit_breakers()
                .iter()
                .map(CircuitBreaker::snapshot)
                .collect(),
            resource_locks: self
                .resource_locks()
                .iter()
                .map(ResourceLock::snapshot)
                .collect(),
            rate_limits: self.rate_limits().iter().map(RateLimit::snapshot).collect(),
            fallbacks: self.fallbacks().iter().map(Fallback::snapshot).collect(),
            hedges: self.hedges().iter().map(Hedge::snapshot).collect(),
            throttles: self.throttles().iter().map(Throttle::snapshot).collect(),
            chaos: self.chaos().iter().map(Chaos::snapshot).collect(),
            timeouts: self.timeouts().iter().map(Timeouts::snapshot).collect(),
            #[cfg(feature = "redis")]
            fleets: self.fleets().iter().map(Fleet::snapshot).collect(),
        }
    }
}
