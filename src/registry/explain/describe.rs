//! What matters of each layer and each handle for the stack it is part of.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::chaos::{Chaos, ChaosLayer};
use crate::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer};
use crate::contention::{ContentionLayer, Permits, ResourceLock};
use crate::fallback::{Fallback, FallbackLayer};
#[cfg(feature = "redis")]
use crate::fleet::{FleetRateLimit, lock::FleetLock};
use crate::hedge::{Hedge, HedgeLayer};
use crate::rate_limit::{RateLimit, RateLimitLayer};
use crate::retry::{RetryLayer, RetryPolicy};
use crate::throttle::{Throttle, ThrottleLayer};
use crate::timeout::{TimeoutConfig, TimeoutLayer, Timeouts};

/// Can be part of [`Layers`](super::Layers): the handles and the layers of this crate.
pub trait Describe {
    /// What matters for the stack.
    fn describe(&self) -> LayerDescription;
}

/// What matters of one layer for the stack it is part of.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(tag = "layer", rename_all = "snake_case"))]
#[non_exhaustive]
pub enum LayerDescription {
    /// Calls again.
    #[non_exhaustive]
    Retry {
        /// The name.
        name: Arc<str>,
        /// Calls after the first.
        max_retries: u32,
        /// All backoffs together, each as long as it can be.
        worst_case_delay: Duration,
        /// How long one attempt may take.
        attempt_timeout: Option<Duration>,
        /// How long all of it may take.
        total_timeout: Option<Duration>,
        /// Whether a budget bounds the retries.
        has_budget: bool,
    },
    /// Refuses.
    #[non_exhaustive]
    CircuitBreaker {
        /// The name.
        name: Arc<str>,
    },
    /// Waits for a permit.
    #[non_exhaustive]
    Contention {
        /// The name.
        name: Arc<str>,
        /// How many permits there are.
        capacity: usize,
        /// How long a call may wait.
        timeout: Option<Duration>,
    },
    /// Asks other services when this one does not answer: each a stack of its own, and not counted here.
    #[non_exhaustive]
    Fallback {
        /// The name.
        name: Arc<str>,
    },
    /// Waits for its turn.
    #[non_exhaustive]
    RateLimit {
        /// The name.
        name: Arc<str>,
        /// How long a call may wait.
        max_wait: Duration,
    },
    /// Calls once more, beside the call that takes long.
    #[non_exhaustive]
    Hedge {
        /// The name.
        name: Arc<str>,
        /// Calls beside the first.
        max_extra: u32,
        /// How long an attempt takes at most before the next starts, if that is fixed.
        delay: Option<Duration>,
        /// Whether a budget bounds the hedges.
        has_budget: bool,
    },
    /// Refuses a share of the calls.
    #[non_exhaustive]
    Throttle {
        /// The name.
        name: Arc<str>,
        /// How many times what is accepted may be sent.
        k: f64,
        /// The highest probability of a refusal.
        max_reject: f64,
    },
    /// Adds faults on purpose.
    #[non_exhaustive]
    Chaos {
        /// The name.
        name: Arc<str>,
        /// Whether it does now.
        armed: bool,
    },
    /// Ends what takes too long.
    #[non_exhaustive]
    Timeout {
        /// The name.
        name: Arc<str>,
        /// The phases that this layer is there for.
        limits: TimeoutConfig,
    },
}

impl LayerDescription {
    pub(super) fn name(&self) -> &Arc<str> {
        match self {
            Self::Retry { name, .. }
            | Self::CircuitBreaker { name }
            | Self::Contention { name, .. }
            | Self::Fallback { name }
            | Self::RateLimit { name, .. }
            | Self::Hedge { name, .. }
            | Self::Throttle { name, .. }
            | Self::Chaos { name, .. }
            | Self::Timeout { name, .. } => name,
        }
    }
}

/// One line of a report.
impl fmt::Display for LayerDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry {
                name,
                max_retries,
                worst_case_delay,
                ..
            } => write!(
                f,
                "retry `{name}`: up to {max_retries} retries, {worst_case_delay:.1?} of backoff"
            ),
            Self::CircuitBreaker { name } => {
                write!(f, "circuit breaker `{name}`")
            }
            Self::Contention {
                name,
                capacity,
                timeout,
            } => {
                write!(f, "resource `{name}`: {capacity} at a time, ")?;
                match timeout {
                    Some(timeout) => write!(f, "wait at most {timeout:.1?}"),
                    None => write!(f, "wait without end"),
                }
            }
            Self::Fallback { name } => {
                write!(f, "fallback `{name}`: other services after this one")
            }
            Self::Hedge {
                name, max_extra, ..
            } => {
                write!(
                    f,
                    "hedge `{name}`: up to {max_extra} more, beside the first"
                )
            }
            Self::RateLimit { name, max_wait } => {
                write!(f, "rate limit `{name}`: wait at most {max_wait:.1?}")
            }
            Self::Throttle {
                name,
                k,
                max_reject,
            } => {
                let most = 100.0 * max_reject;
                write!(
                    f,
                    "throttle `{name}`: about {k} times what is accepted, refuses up to {most:.0} %"
                )
            }
            Self::Chaos { name, armed } => {
                let state = if *armed { "armed" } else { "off" };
                write!(f, "chaos `{name}`: {state}")
            }
            Self::Timeout { name, limits } => {
                write!(f, "timeouts `{name}`: ")?;
                write_limits(f, limits)
            }
        }
    }
}

fn write_limits(f: &mut fmt::Formatter<'_>, limits: &TimeoutConfig) -> fmt::Result {
    let phases = [
        ("ready", limits.ready),
        ("head", limits.head),
        ("first frame", limits.first_frame),
        ("idle", limits.idle),
        ("total", limits.total),
    ];
    let mut parts: Vec<String> = phases
        .into_iter()
        .filter_map(|(phase, limit)| Some(format!("{phase} {:.1?}", limit?)))
        .collect();
    if limits.end_at_deadline {
        parts.push("ends at the deadline".to_owned());
    }
    write!(f, "{}", parts.join(", "))
}

impl<T: Describe + ?Sized> Describe for &T {
    fn describe(&self) -> LayerDescription {
        (**self).describe()
    }
}

impl Describe for LayerDescription {
    fn describe(&self) -> LayerDescription {
        self.clone()
    }
}

impl Describe for RetryPolicy {
    fn describe(&self) -> LayerDescription {
        LayerDescription::Retry {
            name: self.name().into(),
            max_retries: self.config().max_retries(),
            worst_case_delay: self.config().worst_case_delay(),
            attempt_timeout: self.config().attempt_timeout(),
            total_timeout: self.config().total_timeout(),
            has_budget: self.config().has_budget(),
        }
    }
}

impl Describe for CircuitBreaker {
    fn describe(&self) -> LayerDescription {
        LayerDescription::CircuitBreaker {
            name: self.name().into(),
        }
    }
}

impl Describe for ResourceLock {
    fn describe(&self) -> LayerDescription {
        LayerDescription::Contention {
            name: self.name().into(),
            capacity: self.config().max_concurrent,
            timeout: self.config().timeout,
        }
    }
}

#[cfg(feature = "redis")]
impl Describe for FleetLock {
    fn describe(&self) -> LayerDescription {
        LayerDescription::Contention {
            name: self.name().into(),
            capacity: self.capacity(),
            timeout: self.timeout(),
        }
    }
}

impl Describe for Fallback {
    fn describe(&self) -> LayerDescription {
        LayerDescription::Fallback {
            name: self.name().into(),
        }
    }
}

impl<Req, Res, L, C, R> Describe for FallbackLayer<Req, Res, L, C, R> {
    fn describe(&self) -> LayerDescription {
        self.fallback().describe()
    }
}

impl Describe for RateLimit {
    fn describe(&self) -> LayerDescription {
        LayerDescription::RateLimit {
            name: self.name().into(),
            max_wait: self.config().max_wait,
        }
    }
}

#[cfg(feature = "redis")]
impl Describe for FleetRateLimit {
    fn describe(&self) -> LayerDescription {
        LayerDescription::RateLimit {
            name: self.name().into(),
            max_wait: self.max_wait(),
        }
    }
}

impl Describe for Hedge {
    fn describe(&self) -> LayerDescription {
        let config = self.config();
        let is_fixed = config.percentile.is_none() && !config.hedge_failures;
        LayerDescription::Hedge {
            name: self.name().into(),
            max_extra: config.max_extra,
            delay: config.after.filter(|_| is_fixed),
            has_budget: self.budget().is_some(),
        }
    }
}

impl<L, C, R, M> Describe for HedgeLayer<L, C, R, M> {
    fn describe(&self) -> LayerDescription {
        self.hedge().describe()
    }
}

impl<L, C, T, A, K: Describe> Describe for RateLimitLayer<L, C, T, A, K> {
    fn describe(&self) -> LayerDescription {
        self.limit().describe()
    }
}

impl Describe for Throttle {
    fn describe(&self) -> LayerDescription {
        let config = self.config();
        LayerDescription::Throttle {
            name: self.name().into(),
            k: config.k,
            max_reject: config.max_reject,
        }
    }
}

impl<L, C, A> Describe for ThrottleLayer<L, C, A> {
    fn describe(&self) -> LayerDescription {
        self.throttle().describe()
    }
}

impl Describe for Chaos {
    fn describe(&self) -> LayerDescription {
        LayerDescription::Chaos {
            name: self.name().into(),
            armed: self.is_armed(),
        }
    }
}

impl<F> Describe for ChaosLayer<F> {
    fn describe(&self) -> LayerDescription {
        self.chaos().describe()
    }
}

impl Describe for Timeouts {
    fn describe(&self) -> LayerDescription {
        LayerDescription::Timeout {
            name: self.name().into(),
            limits: *self.config(),
        }
    }
}

impl<L, A> Describe for TimeoutLayer<L, A> {
    fn describe(&self) -> LayerDescription {
        LayerDescription::Timeout {
            name: self.timeouts().name().into(),
            limits: self.limits(),
        }
    }
}

impl<L, C, R> Describe for RetryLayer<L, C, R> {
    fn describe(&self) -> LayerDescription {
        self.policy().describe()
    }
}

impl<L, C, A> Describe for CircuitBreakerLayer<L, C, A> {
    fn describe(&self) -> LayerDescription {
        self.breaker().describe()
    }
}

impl<L, H, A, K: Permits<Lock: Describe>> Describe for ContentionLayer<L, H, A, K> {
    fn describe(&self) -> LayerDescription {
        self.resource().describe()
    }
}
