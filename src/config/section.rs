//! The sections of a config, one for each pattern: what an entry is, and how one is checked, made and updated.

use std::fmt::Debug;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::chaos::{Chaos, ChaosConfig};
use crate::circuit_breaker::{CircuitBreaker, CircuitBreakerConfig};
use crate::contention::{ContentionConfig, ResourceLock};
use crate::error::{ConfigChange, ConfigError};
use crate::hedge::{Hedge, HedgeConfig};
use crate::rate_limit::{Quota, RateLimit, RateLimitConfig};
use crate::registry::{Pattern, Registry, RegistryError};
use crate::retry::{RetryConfig, RetryPolicy};
use crate::throttle::{Throttle, ThrottleConfig};
use crate::timeout::{TimeoutConfig, Timeouts};

/// A section: its names, and what its entries are.
pub(super) trait Section {
    /// The name of the section, as `circuit_breakers`.
    const MANY: &'static str;
    /// The name of one of it, under `defaults` and as a part of a stack, as `circuit_breaker`.
    const ONE: &'static str;
    /// What it is called in sentences.
    const KIND: &'static str;
    const PATTERN: Pattern;

    type Config: Clone + Debug + Default + PartialEq + Serialize + DeserializeOwned + 'static;
    type Handle: Clone + 'static;

    fn check(config: &Self::Config) -> Result<(), ConfigError>;
    /// A config that works, to put a part of one over.
    fn sample() -> Self::Config;
    fn get(registry: &Registry, name: &str) -> Option<Self::Handle>;
    /// Forgets it if nobody has it and it has nothing to remember.
    fn forget(registry: &Registry, name: &str) -> bool {
        registry.remove_disused(Self::PATTERN, name)
    }
    fn make(
        registry: &Registry,
        name: &Arc<str>,
        config: Self::Config,
    ) -> Result<Self::Handle, RegistryError>;
    fn config(handle: &Self::Handle) -> Self::Config;
    fn update(handle: &Self::Handle, config: Self::Config) -> Result<ConfigChange, ConfigError>;
    /// Whether [`update`](Self::update) would do, beyond what [`check`](Self::check) says.
    fn can_update(handle: &Self::Handle, config: &Self::Config) -> Result<(), ConfigError>;
}

macro_rules! sections {
    ($($section:ident: $many:literal, $one:literal, $kind:literal, $pattern:ident, $handle:ident, $config:ident, $get:ident, $builder:expr, $can:expr, $sample:expr;)*) => {
        $(
            pub(super) struct $section;

            impl Section for $section {
                const MANY: &'static str = $many;
                const ONE: &'static str = $one;
                const KIND: &'static str = $kind;
                const PATTERN: Pattern = Pattern::$pattern;

                type Config = $config;
                type Handle = $handle;

                fn check(config: &$config) -> Result<(), ConfigError> {
                    $builder(Arc::from("")).config(config.clone()).checked_config().map(drop)
                }

                fn sample() -> $config {
                    let mut sample = $config::default();
                    $sample(&mut sample);
                    sample
                }

                fn get(registry: &Registry, name: &str) -> Option<$handle> {
                    registry.$get(name)
                }

                fn make(
                    registry: &Registry,
                    name: &Arc<str>,
                    config: $config,
                ) -> Result<$handle, RegistryError> {
                    $builder(Arc::clone(name)).config(config).build_in(registry)
                }

                fn config(handle: &$handle) -> $config {
                    $config::clone(&handle.config())
                }

                fn update(handle: &$handle, config: $config) -> Result<ConfigChange, ConfigError> {
                    handle.update(config)
                }

                fn can_update(handle: &$handle, config: &$config) -> Result<(), ConfigError> {
                    $can(handle, config)
                }
            }
        )*
    };
}

fn always<H, C>(_: &H, _: &C) -> Result<(), ConfigError> {
    Ok(())
}

sections! {
    CircuitBreakers: "circuit_breakers", "circuit_breaker", "circuit breaker",
        CircuitBreaker, CircuitBreaker, CircuitBreakerConfig, get_circuit_breaker, CircuitBreaker::builder, always, |_: &mut _| ();
    ResourceLocks: "resource_locks", "resource_lock", "resource lock",
        ResourceLock, ResourceLock, ContentionConfig, get_resource_lock, ResourceLock::builder, always, |_: &mut _| ();
    Retries: "retries", "retry", "retry policy",
        Retry, RetryPolicy, RetryConfig, get_retry, |name: Arc<str>| RetryPolicy::builder().name(name), RetryPolicy::can_update, |_: &mut _| ();
    RateLimits: "rate_limits", "rate_limit", "rate limit",
        RateLimit, RateLimit, RateLimitConfig, get_rate_limit, RateLimit::builder, RateLimit::can_update,
        |it: &mut RateLimitConfig| it.quotas = vec![("any".into(), Quota::per_second(1))];
    TimeoutsOf: "timeouts", "timeouts", "timeouts",
        Timeouts, Timeouts, TimeoutConfig, get_timeouts, Timeouts::builder, always, |it: &mut TimeoutConfig| it.end_at_deadline = true;
    Hedges: "hedges", "hedge", "hedge",
        Hedge, Hedge, HedgeConfig, get_hedge, Hedge::builder, always, |_: &mut _| ();
    Throttles: "throttles", "throttle", "throttle",
        Throttle, Throttle, ThrottleConfig, get_throttle, Throttle::builder, always, |_: &mut _| ();
    Drills: "chaos", "chaos", "chaos",
        Chaos, Chaos, ChaosConfig, get_chaos, Chaos::builder, always, |_: &mut _| ();
}

/// Under which keys of data a setting may be found, beside its own name: that of the builder, which the error has.
pub(super) fn keys_of(setting: &'static str) -> [&'static str; 3] {
    match setting {
        "recovery_timeout" => [setting, "recovery", ""],
        "slow_call_rate" => [setting, "slow_calls", ""],
        "amount" | "period" | "burst" => [setting, "quotas", "budget"],
        "ratio" | "floor_per_second" => [setting, "budget", ""],
        "attempt_timeout" | "retry.attempt_timeout" => [setting, "attempt_timeout", "head"],
        "total_timeout" | "retry.total_timeout" => [setting, "total_timeout", "total"],
        _ => [setting, "", ""],
    }
}
