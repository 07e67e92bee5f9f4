//! Another config, tried on the calls of a breaker: it decides and is told as if it were in force, and nothing comes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::config::CircuitBreakerConfig;
use super::shared::{Callbacks, Shared, Trial};
use super::state::{Command, Effects, Phase};
use crate::error::CircuitState;
use crate::util::time;

/// What a config that is [tried](crate::CircuitBreaker::shadow) beside the one in force would have done otherwise.
///
/// It sees the calls that were made. Of those that the breaker refused nothing is known, so while the breaker is open it hears
/// nothing, and it cannot close before the breaker does.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CircuitBreakerShadow {
    /// What it goes by.
    pub config: CircuitBreakerConfig,
    /// The state that it would have.
    pub state: CircuitState,
    /// Calls that it has seen the end of.
    pub calls: u64,
    /// Those of them that it would have refused.
    pub would_refuse: u64,
    /// Those of these that succeeded: refused without need.
    pub would_refuse_succeeded: u64,
    /// Calls that the breaker has refused, and it would not have.
    pub would_pass: u64,
}

impl Trial {
    /// The config has been checked.
    pub(super) fn new(name: &str, config: CircuitBreakerConfig) -> Self {
        let name = Arc::from(format!("{name} (shadow)"));
        let trial = Shared::new(name, config, Callbacks::default());
        let now = time::now();
        trial.with_core(now, |state, config| {
            // That it is one is no news.
            let _ = state.command(config, Command::MetricsOnly, now);
            ((), Effects::default())
        });
        Self {
            breaker: trial,
            would_pass: AtomicU64::new(0),
        }
    }

    /// The breaker in force refuses a call.
    pub(super) fn refused_in_force(&self) {
        let now = time::now();
        let passes = self.breaker.with_core(now, |state, config| {
            let passes = match &state.phase {
                Phase::Closed { .. } => true,
                Phase::Open { until } => now >= *until,
                Phase::HalfOpen { leases, .. } => leases.len() < config.max_probes as usize,
            };
            (passes, Effects::default())
        });
        self.would_pass.fetch_add(passes.into(), Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> CircuitBreakerShadow {
        let now = time::now();
        let (state, totals) = self.breaker.with_core(now, |state, _| {
            ((state.by_phase(now), state.totals), Effects::default())
        });
        let ended = [
            totals.successes,
            totals.failures,
            totals.overloads,
            totals.ignored,
            totals.cancelled,
        ];
        CircuitBreakerShadow {
            config: CircuitBreakerConfig::clone(&self.breaker.config()),
            state,
            calls: ended.iter().sum(),
            would_refuse: totals.would_reject,
            would_refuse_succeeded: totals.would_reject_succeeded,
            would_pass: self.would_pass.load(Ordering::Relaxed),
        }
    }
}
