use super::check;
use super::kind::StackKind;
use crate::circuit_breaker::CircuitBreakerConfig;
use crate::contention::ContentionConfig;
use crate::error::ConfigError;
use crate::hedge::HedgeConfig;
use crate::rate_limit::RateLimitConfig;
use crate::retry::RetryConfig;
use crate::timeout::TimeoutConfig;

/// What the parts of a stack go by. A part that is `None` is left out.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct StackConfig {
    /// What the stack is for.
    pub kind: StackKind,
    /// How long all of it, and each attempt, may take; nothing is limited by the default of [`TimeoutConfig`].
    pub timeouts: TimeoutConfig,
    /// Calls again.
    pub retry: Option<RetryConfig>,
    /// Calls once more, beside the call that takes long.
    pub hedge: Option<HedgeConfig>,
    /// Refuses while the service is down.
    pub circuit_breaker: Option<CircuitBreakerConfig>,
    /// Waits for its turn.
    pub rate_limit: Option<RateLimitConfig>,
    /// Waits for a permit.
    pub lock: Option<ContentionConfig>,
}

impl StackConfig {
    /// All parts left out.
    #[cfg(feature = "config")]
    pub(crate) fn nothing(kind: StackKind) -> Self {
        Self {
            kind,
            timeouts: TimeoutConfig::default(),
            retry: None,
            hedge: None,
            circuit_breaker: None,
            rate_limit: None,
            lock: None,
        }
    }

    /// Finds parts that do not fit together. Each is right by itself.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        check::parts(&check::Rules {
            limits: self.timeouts,
            retry: self.retry.clone(),
            hedge: self.hedge.clone(),
            circuit_breaker: self.circuit_breaker.clone(),
            has_others: self.rate_limit.is_some() || self.lock.is_some(),
        })
    }
}
