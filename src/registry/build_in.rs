//! One more method for each builder: to make its handle in a registry.

use std::sync::Arc;

use super::Registry;
use super::error::RegistryError;
use crate::chaos::{Chaos, ChaosBuilder, ChaosConfig};
use crate::circuit_breaker::{CircuitBreaker, CircuitBreakerBuilder, CircuitBreakerConfig};
use crate::contention::{ContentionConfig, ResourceLock, ResourceLockBuilder};
use crate::hedge::{Hedge, HedgeBuilder};
use crate::rate_limit::{RateLimit, RateLimitBuilder, RateLimitConfig};
use crate::retry::{RetryConfig, RetryPolicy, RetryPolicyBuilder};
use crate::throttle::{Throttle, ThrottleBuilder, ThrottleConfig};
use crate::timeout::{TimeoutConfig, Timeouts, TimeoutsBuilder};

macro_rules! build_in {
    ($builder:ty, $handle:ty, $rules:ty, $kind:literal, $map:ident) => {
        impl $builder {
            /// Registers the handle under its name, or gives the one that is registered with the same
            /// rules. Callbacks and observers of a builder that finds a registered handle are dropped
            /// with it: they belong to whoever registers first.
            ///
            /// # Errors
            ///
            /// [`RegistryError::Config`] for a setting that cannot work, [`RegistryError::Conflict`] if
            /// the name stands for other rules.
            pub fn build_in(self, registry: &Registry) -> Result<$handle, RegistryError> {
                let rules: $rules = self.checked_config()?;
                let name = Arc::clone(self.name_ref());
                let make = || self.build_with(registry.observer());
                registry.shared.$map.build(
                    $kind,
                    &name,
                    &rules,
                    |it| <$rules>::clone(&it.config()),
                    make,
                )
            }
        }
    };
}

build_in!(
    CircuitBreakerBuilder,
    CircuitBreaker,
    CircuitBreakerConfig,
    "circuit breaker",
    circuit_breakers
);
build_in!(
    ResourceLockBuilder,
    ResourceLock,
    ContentionConfig,
    "resource lock",
    resource_locks
);
build_in!(
    RateLimitBuilder,
    RateLimit,
    RateLimitConfig,
    "rate limit",
    rate_limits
);
build_in!(
    ThrottleBuilder,
    Throttle,
    ThrottleConfig,
    "throttle",
    throttles
);
build_in!(ChaosBuilder, Chaos, ChaosConfig, "chaos", chaos);
build_in!(
    TimeoutsBuilder,
    Timeouts,
    TimeoutConfig,
    "timeouts",
    timeouts
);
build_in!(
    RetryPolicyBuilder,
    RetryPolicy,
    RetryConfig,
    "retry policy",
    retries
);

impl HedgeBuilder {
    /// Registers the handle under its name, or gives the one that is registered with the same rules and the same
    /// budget. Observers of a builder that finds a registered handle are dropped with it.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Config`] for a setting that cannot work, [`RegistryError::Conflict`] if the name stands for
    /// other rules or another budget.
    pub fn build_in(self, registry: &Registry) -> Result<Hedge, RegistryError> {
        let rules = self.checked_config()?;
        let name = Arc::clone(self.name_ref());
        let make = || self.build_with(registry.observer());
        let hedges = &registry.shared.hedges;
        hedges.build("hedge", &name, &rules, Hedge::rules, make)
    }
}
