//! Compares the keys of one group, and opens the circuits of those that are much worse.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::time::sleep;

use super::map::Keyed;
use super::outlier::{Calls, OutlierConfig};
use crate::circuit_breaker::CircuitBreaker;
use crate::error::{CircuitState, ConfigChange, ConfigError};

/// Opens the circuits of keys that are much worse than the others of their group, before they are bad enough for their own
/// breakers: outlier ejection, by the rules of gRFC A50.
///
/// It reads the totals that the breakers keep anyway, at intervals: calls pay nothing for it. An ejected key is a breaker
/// that is open (its cause is [`Cause::Outlier`](crate::circuit_breaker::Cause::Outlier)); when its time is over it is
/// probed as after any opening.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_bulwark::CircuitBreaker;
/// use tower_bulwark::keyed::{Keyed, OutlierConfig, Outliers};
///
/// let hosts = Keyed::new("hosts", 1_000, |host: &String| CircuitBreaker::new(format!("api {host}")))?;
/// let outliers = Outliers::new(&hosts, OutlierConfig::default())?;
/// let comparing = tokio::spawn(async move { outliers.run().await });
/// # comparing.abort();
/// # Ok(())
/// # }
/// ```
///
/// A cheap clone of shared state.
pub struct Outliers<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    keys: Keyed<K, CircuitBreaker>,
    config: ArcSwap<OutlierConfig>,
    known: Mutex<HashMap<K, Known>>,
}

/// What is known of a key from the interval before.
#[derive(Clone, Copy, Default)]
struct Known {
    totals: Calls,
    /// Ejections, less the intervals without one.
    times: u32,
}

impl<K: Hash + Eq + Clone> Outliers<K> {
    /// Compares the breakers of `keys`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a setting that cannot work.
    pub fn new(
        keys: &Keyed<K, CircuitBreaker>,
        config: OutlierConfig,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        // What was before is nobody's interval.
        let known = keys.each(|_, breaker| Seen::of(breaker, None).known);
        Ok(Self {
            shared: Arc::new(Shared {
                keys: keys.clone(),
                config: ArcSwap::from_pointee(config),
                known: Mutex::new(known.into_iter().collect()),
            }),
        })
    }

    /// What it goes by.
    #[must_use]
    pub fn config(&self) -> OutlierConfig {
        **self.shared.config.load()
    }

    /// Goes by another config from the next comparison on, and returns what that changes.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a setting that cannot work; nothing is changed then.
    pub fn update(&self, config: OutlierConfig) -> Result<ConfigChange, ConfigError> {
        config.check()?;
        let old = self.shared.config.swap(Arc::new(config));
        Ok(old.difference(&config))
    }

    /// Compares at every interval, for ever. Needs a tokio runtime with its timer. Dropping it ends it; circuits that are
    /// open stay that for their time.
    pub async fn run(&self) {
        loop {
            sleep(self.config().interval).await;
            self.check();
        }
    }

    /// Compares now what there was since the last time, and opens the circuits of outliers. Returns their keys.
    ///
    /// For who has a timer of his own; [`run`](Self::run) calls it. Takes time and memory that grow with the number of keys.
    #[expect(
        clippy::must_use_candidate,
        reason = "it acts; who was ejected is told by the events, too"
    )]
    pub fn check(&self) -> Vec<K> {
        let config = self.config();
        let mut known = self.known();
        let before = std::mem::take(&mut *known);
        let all = &self.shared.keys;
        let mut seen = all.each(|key, breaker| Seen::of(breaker, before.get(key).copied()));
        let calls: Vec<_> = seen.iter().map(|(_, it)| it.calls).collect();
        let keys = seen
            .iter()
            .filter(|(_, it)| it.is_out || it.calls.all() > 0);
        let keys = keys.count();
        let mut out = seen.iter().filter(|(_, it)| it.is_out).count();
        let mut ejected = Vec::new();
        for place in config.outliers(&calls) {
            if !config.allows_one_more(out, keys) {
                break;
            }
            let (key, one) = &mut seen[place];
            let Some(breaker) = all.get_known(key) else {
                continue;
            };
            let time = config.ejection_time(one.known.times.saturating_add(1));
            // One that has opened by itself meanwhile, or is under an operator's command, stays as it is.
            if breaker.eject(time, one.calls.failures, one.calls.all()) {
                one.known.times = one.known.times.saturating_add(1);
                one.is_out = true;
                out += 1;
                ejected.push(key.clone());
            }
        }
        for (key, one) in seen {
            let mut next = one.known;
            if !one.is_out {
                next.times = next.times.saturating_sub(1);
            }
            known.insert(key, next);
        }
        ejected
    }

    fn known(&self) -> MutexGuard<'_, HashMap<K, Known>> {
        self.shared
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// One key in one interval.
struct Seen {
    known: Known,
    calls: Calls,
    is_out: bool,
}

impl Seen {
    fn of(breaker: &CircuitBreaker, before: Option<Known>) -> Self {
        let snapshot = breaker.snapshot();
        let totals = Calls {
            successes: snapshot.totals.successes,
            failures: snapshot.totals.failures + snapshot.totals.overloads,
        };
        let before = before.unwrap_or_default();
        let calls = totals.since(&before.totals);
        Self {
            known: Known { totals, ..before },
            calls,
            is_out: match snapshot.state {
                CircuitState::Open | CircuitState::ForcedOpen => true,
                // Its time is over: it is as good as any other, until somebody asks it.
                CircuitState::HalfOpen => calls.all() > 0,
                CircuitState::Closed | CircuitState::Disabled | CircuitState::MetricsOnly => false,
            },
        }
    }
}

impl<K> Clone for Outliers<K> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<K> fmt::Debug for Outliers<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outliers")
            .field("keys", &self.shared.keys)
            .field("config", &self.shared.config.load())
            .finish_non_exhaustive()
    }
}
