//! Another config, tried on the calls of a breaker: it decides and is told as if it were in force, and nothing comes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use slab::Slab;

use super::admitted::Admitted;
use super::config::CircuitBreakerConfig;
use super::shared::{Callbacks, Shadowed, Shared, Trial};
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

/// A call is known here by its place and the number of the trial, in the bits that an admitted call has left.
const PLACE_BITS: u32 = 20;
const NUMBER: u64 = Admitted::MOST_SHADOWS >> PLACE_BITS;
static NEXT: AtomicU64 = AtomicU64::new(0);

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
            calls: Mutex::default(),
            would_pass: AtomicU64::new(0),
            probes: Mutex::default(),
            number: NEXT.fetch_add(1, Ordering::Relaxed) & NUMBER,
        }
    }

    pub(super) fn number_of(shadow: u64) -> u64 {
        shadow >> PLACE_BITS
    }

    fn calls(&self) -> MutexGuard<'_, Slab<Shadowed>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call is made; which one it is here. `None` if more are on their way than can be told apart.
    pub(super) fn admit(&self) -> Option<u64> {
        let admitted = self.breaker.acquire().ok()?;
        self.keep(Shadowed {
            admitted,
            head: None,
            is_counted: false,
        })
    }

    /// Keeps a call that goes on.
    pub(super) fn keep(&self, call: Shadowed) -> Option<u64> {
        let mut calls = self.calls();
        let place = calls.vacant_key() as u64 + 1;
        let has_room = place < 1 << PLACE_BITS;
        has_room.then(|| {
            calls.insert(call);
            self.number << PLACE_BITS | place
        })
    }

    /// The call ends, or something becomes of it.
    pub(super) fn take(&self, shadow: u64) -> Option<Shadowed> {
        let place = (shadow & ((1 << PLACE_BITS) - 1)) as usize;
        self.calls().try_remove(place.checked_sub(1)?)
    }

    /// The breaker in force refuses a call.
    pub(super) fn refused_in_force(&self) {
        let now = time::now();
        let passes = self.breaker.with_core(now, |state, config| {
            let probes = match &state.phase {
                Phase::Closed { .. } => u32::MAX,
                Phase::Open { until } if now < *until => 0,
                Phase::Open { .. } => config.max_probes,
                Phase::HalfOpen { leases, .. } => {
                    let busy = u32::try_from(leases.len()).unwrap_or(u32::MAX);
                    config.max_probes.saturating_sub(busy)
                }
            };
            // Nobody hears how a probe would have ended: there are no more than fit at once.
            let mut sent = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
            if sent.0 != state.epoch {
                *sent = (state.epoch, 0);
            }
            let passes = probes == u32::MAX || sent.1 < probes;
            sent.1 += u32::from(passes && probes != u32::MAX);
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
