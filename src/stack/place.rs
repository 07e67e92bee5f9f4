//! Where the handles of a stack are made: by themselves, or in a registry.

use crate::circuit_breaker::{CircuitBreaker, CircuitBreakerBuilder};
use crate::contention::{ResourceLock, ResourceLockBuilder};
use crate::error::ConfigError;
use crate::hedge::{Hedge, HedgeBuilder};
use crate::rate_limit::{RateLimit, RateLimitBuilder};
use crate::registry::{Registry, RegistryError};
use crate::retry::{RetryPolicy, RetryPolicyBuilder};
use crate::timeout::{Timeouts, TimeoutsBuilder};

macro_rules! places {
    ($($part:ident: $builder:ty => $handle:ty,)*) => {
        pub(super) trait Place {
            type Error: From<ConfigError>;
            $(fn $part(&self, builder: $builder) -> Result<$handle, Self::Error>;)*
        }

        /// In no registry.
        pub(super) struct Alone;

        impl Place for Alone {
            type Error = ConfigError;
            $(fn $part(&self, builder: $builder) -> Result<$handle, ConfigError> {
                builder.build()
            })*
        }

        impl Place for Registry {
            type Error = RegistryError;
            $(fn $part(&self, builder: $builder) -> Result<$handle, RegistryError> {
                builder.build_in(self)
            })*
        }
    };
}

places! {
    timeouts: TimeoutsBuilder => Timeouts,
    retry: RetryPolicyBuilder => RetryPolicy,
    hedge: HedgeBuilder => Hedge,
    circuit_breaker: CircuitBreakerBuilder => CircuitBreaker,
    rate_limit: RateLimitBuilder => RateLimit,
    lock: ResourceLockBuilder => ResourceLock,
}
