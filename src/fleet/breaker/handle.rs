use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::agent::Agent;
use super::core::{Rules, SLICES};
use super::shared::Shared;
use super::snapshot::SharedBreakerSnapshot;
use super::store::{BreakerStore, Key};
use crate::circuit_breaker::CircuitBreaker;
use crate::error::ConfigError;
use crate::fleet::Fleet;
use crate::fleet::names::Names;
use crate::fleet::reporter::Reporter;

/// How a fleet shares a breaker. Plain data; checked by [`Fleet::share`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SharedBreaker {
    /// So many processes must have opened their breaker, or have seen failures, before all open. Default: 2: one process
    /// that is cut off, or has a bad configuration, opens its own breaker and not those of others.
    pub min_nodes: u32,
    /// The share of failures of all processes together, in (0, 1], that opens all breakers: also if the failures of each
    /// process are too few for its own rules. It is counted in thousandths, rounded up. Default: 0.5.
    pub failure_rate: f64,
    /// Below so many calls in the window the share says nothing. Default: 20.
    pub minimum_calls: u64,
    /// How far back calls count, and openings of single processes. Default: 10 s.
    pub window: Duration,
    /// For how long all are open because of the share. If it is because processes have opened by themselves, it is the time of
    /// the last of these. Default: 60 s, as that of a local breaker.
    pub open_for: Duration,
    /// How long the store may take to answer. No call waits for it. Default: 100 ms.
    pub store_timeout: Duration,
}

impl Default for SharedBreaker {
    fn default() -> Self {
        Self {
            min_nodes: 2,
            failure_rate: 0.5,
            minimum_calls: 20,
            window: Duration::from_secs(10),
            open_for: Duration::from_secs(60),
            store_timeout: Duration::from_millis(100),
        }
    }
}

impl SharedBreaker {
    fn check(&self) -> Result<(), ConfigError> {
        if self.min_nodes == 0 {
            let advice = "nobody has to find it bad: give at least 1";
            return Err(ConfigError::new("min_nodes", self.min_nodes, advice));
        }
        if !(self.failure_rate > 0.0 && self.failure_rate <= 1.0) {
            let advice = "a share is above 0 and at most 1, such as 0.5";
            return Err(ConfigError::new("failure_rate", self.failure_rate, advice));
        }
        let longest = Duration::from_secs(86_400);
        for (setting, given) in [
            ("window", self.window),
            ("open_for", self.open_for),
            ("store_timeout", self.store_timeout),
        ] {
            if given < Duration::from_millis(1) || given > longest {
                let advice = "give between a millisecond and a day";
                return Err(ConfigError::new(setting, given, advice));
            }
        }
        Ok(())
    }

    fn rules(&self) -> Rules {
        let micros = |it: Duration| u64::try_from(it.as_micros()).unwrap_or(u64::MAX);
        Rules {
            slice: micros(self.window) / SLICES,
            minimum_calls: self.minimum_calls.clamp(1, 1 << 40),
            permille: (self.failure_rate * 1_000.0).ceil() as u64,
            min_nodes: u64::from(self.min_nodes),
            open_for: micros(self.open_for),
        }
    }
}

impl Fleet {
    /// Shares a breaker with all breakers of that name in the fleet, as long as the handle that this returns is kept.
    ///
    /// The breaker goes on to decide by itself, and its calls cost what they did. Beside it a task tells the store what was
    /// counted, every 125 to 138 ms if there were calls, and at once when the breaker opens or a probe ends; and opens and
    /// closes the breaker as the fleet finds. See the [module](super).
    ///
    /// Share a breaker once in a fleet: shared twice, its calls count twice. Shared in two fleets it opens with either, and
    /// carries nothing from one to the other.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a setting that cannot work, and outside a tokio runtime.
    pub fn share(
        &self,
        breaker: &CircuitBreaker,
        settings: SharedBreaker,
    ) -> Result<BreakerShare, ConfigError> {
        let store: Arc<dyn BreakerStore> = self.shared.clone();
        let (names, reporter) = (&self.shared.names, &self.shared.reporter);
        BreakerShare::begin(breaker, settings, store, names, reporter)
    }
}

/// A breaker is shared as long as this is kept. Dropped, the breaker goes on alone; if the fleet has opened it, it probes when
/// that time is over.
#[must_use = "dropped, the breaker is shared no more"]
pub struct BreakerShare {
    breaker: CircuitBreaker,
    shared: Arc<Shared>,
    agent: AbortHandle,
}

impl BreakerShare {
    pub(super) fn begin(
        breaker: &CircuitBreaker,
        settings: SharedBreaker,
        store: Arc<dyn BreakerStore>,
        names: &Names,
        reporter: &Arc<Reporter>,
    ) -> Result<Self, ConfigError> {
        settings.check()?;
        let runtime = Handle::try_current().map_err(|_| {
            let advice = "a shared breaker has a task: share it inside a tokio runtime";
            ConfigError::new("runtime", "none", advice)
        })?;
        let breaker = breaker.clone();
        let shared = Arc::new(Shared::new(breaker.clone(), Arc::clone(reporter)));
        reporter.parts.add(&shared);
        let key = Key::new(names, breaker.name(), settings.store_timeout);
        let agent = Agent::new(
            breaker.clone(),
            store,
            key,
            settings.rules(),
            Arc::clone(&shared),
        );
        Ok(Self {
            breaker,
            shared,
            agent: runtime.spawn(agent.run()).abort_handle(),
        })
    }

    /// The breaker.
    #[must_use]
    pub fn breaker(&self) -> &CircuitBreaker {
        &self.breaker
    }

    /// What is known of the fleet. Does not ask the store.
    #[must_use]
    pub fn snapshot(&self) -> SharedBreakerSnapshot {
        self.shared.snapshot()
    }
}

impl Drop for BreakerShare {
    fn drop(&mut self) {
        self.agent.abort();
    }
}

impl fmt::Debug for BreakerShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BreakerShare")
            .field("breaker", &self.breaker.name())
            .field("fleet", &self.snapshot())
            .finish_non_exhaustive()
    }
}
