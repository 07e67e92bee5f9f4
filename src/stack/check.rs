//! Whether the parts of a stack fit together.

use std::time::Duration;

use crate::circuit_breaker::{CircuitBreakerConfig, Window};
use crate::error::ConfigError;
use crate::hedge::HedgeConfig;
use crate::retry::RetryConfig;
use crate::timeout::TimeoutConfig;

/// What the parts go by. Each is right by itself.
pub(super) struct Rules {
    pub(super) limits: TimeoutConfig,
    pub(super) retry: Option<RetryConfig>,
    pub(super) hedge: Option<HedgeConfig>,
    pub(super) circuit_breaker: Option<CircuitBreakerConfig>,
    /// Whether there is a rate limit or a lock.
    pub(super) has_others: bool,
}

pub(super) fn parts(rules: &Rules) -> Result<(), ConfigError> {
    let limits = &rules.limits;
    let is_empty = rules.retry.is_none()
        && rules.hedge.is_none()
        && rules.circuit_breaker.is_none()
        && !rules.has_others;
    if is_empty && *limits == TimeoutConfig::default() {
        let advice = "nothing would be done: keep at least one part";
        return Err(ConfigError::new("without", "all parts", advice));
    }
    phases(limits)?;
    if let Some(retry) = &rules.retry {
        own_times(retry, limits)?;
    }
    if let (Some(breaker), Some(attempt)) = (&rules.circuit_breaker, limits.head) {
        window(breaker, attempt)?;
    }
    match &rules.hedge {
        Some(hedge) => hedge_delays(hedge, limits),
        None => Ok(()),
    }
}

/// Each phase ends before all of it does.
fn phases(limits: &TimeoutConfig) -> Result<(), ConfigError> {
    let Some(total) = limits.total else {
        return Ok(());
    };
    let advice = "it has to be below `total_timeout`, or it never ends anything: make it shorter";
    for (setting, limit) in [
        ("attempt_timeout", limits.head),
        ("first_frame", limits.first_frame),
        ("idle", limits.idle),
    ] {
        if let Some(limit) = limit.filter(|it| *it >= total) {
            return Err(ConfigError::new(setting, limit, advice));
        }
    }
    Ok(())
}

/// The retry has timeouts too: they are within those of the stack.
fn own_times(retry: &RetryConfig, limits: &TimeoutConfig) -> Result<(), ConfigError> {
    let advice = "it is above that of the stack: leave it out, or make it shorter";
    for (setting, own, all) in [
        (
            "retry.attempt_timeout",
            retry.attempt_timeout(),
            limits.head,
        ),
        ("retry.total_timeout", retry.total_timeout(), limits.total),
    ] {
        match own.zip(all) {
            Some((own, all)) if own > all => return Err(ConfigError::new(setting, own, advice)),
            _ => {}
        }
    }
    match (
        retry.attempt_timeout(),
        retry.total_timeout().or(limits.total),
    ) {
        (Some(attempt), Some(total)) if attempt >= total => {
            let advice = "no attempt can be as long as all of it: make it shorter";
            Err(ConfigError::new("retry.attempt_timeout", attempt, advice))
        }
        _ => Ok(()),
    }
}

/// Two attempts that hang are in the window together.
fn window(breaker: &CircuitBreakerConfig, attempt: Duration) -> Result<(), ConfigError> {
    match breaker.window {
        Window::LastTime(length) if breaker.uses_window() && length < attempt.saturating_mul(2) => {
            let advice = "it is shorter than two attempts, so that a service that hangs hardly fills it: make it at least twice `attempt_timeout`";
            Err(ConfigError::new("window", length, advice))
        }
        _ => Ok(()),
    }
}

/// There is time for the hedges.
fn hedge_delays(hedge: &HedgeConfig, limits: &TimeoutConfig) -> Result<(), ConfigError> {
    let (setting, delay) = match hedge.after {
        Some(after) => ("after", after),
        None => ("at_least", hedge.at_least),
    };
    if limits.head.is_some_and(|head| delay >= head) && hedge.max_extra > 0 {
        let advice = "an attempt has ended by then: make it shorter than `attempt_timeout`";
        return Err(ConfigError::new(setting, delay, advice));
    }
    let all = delay.saturating_mul(hedge.max_extra);
    match limits.total {
        Some(total) if all >= total => {
            let advice = "with all hedges it is not below `total_timeout`: make it shorter, or hedge less often";
            Err(ConfigError::new(setting, delay, advice))
        }
        _ => Ok(()),
    }
}
