//! Name -> handle: get, list, snapshot.
//!
//! A name stands for one policy. Asking for a name again gives the same handle, whoever asks; asking
//! for it with *other rules* is an error that shows both, never a silent first-come-first-served.

#[cfg(feature = "config")]
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
#[cfg(feature = "config")]
use std::sync::{Mutex, MutexGuard, PoisonError};

mod build_in;
mod by_name;
mod error;
pub mod explain;
#[cfg(feature = "redis")]
mod fleets;
mod handles;
mod snapshot;
#[cfg(test)]
mod tests;

pub use error::RegistryError;
use handles::Handles;
pub use snapshot::RegistrySnapshot;

use arc_swap::ArcSwap;

use crate::chaos::Chaos;
use crate::circuit_breaker::CircuitBreaker;
use crate::contention::{ResourceLock, WaitEdge};
#[cfg(feature = "config")]
use crate::event::{ConfigEvent, Funnel};
use crate::event::{Event, Feed, Observer, guarded};
use crate::fallback::Fallback;
#[cfg(feature = "redis")]
use crate::fleet::Fleet;
use crate::hedge::Hedge;
use crate::rate_limit::RateLimit;
use crate::retry::RetryPolicy;
use crate::throttle::Throttle;
use crate::timeout::Timeouts;

/// The handles of a process, a tenant, or a test. A cheap clone of one shared registry.
///
/// ```
/// use std::time::Duration;
/// use tower_bulwark::{CircuitBreaker, Registry};
///
/// let registry = Registry::new();
/// let breaker = CircuitBreaker::builder("openai")
///     .recovery_timeout(Duration::from_secs(10))
///     .build_in(&registry)?;
/// breaker.force_open();
///
/// // Elsewhere, by name: the same breaker.
/// assert_eq!(registry.circuit_breaker("openai").state(), breaker.state());
///
/// // Other rules under the same name: an error that shows both.
/// let conflict = CircuitBreaker::builder("openai")
///     .recovery_timeout(Duration::from_secs(60))
///     .build_in(&registry)
///     .unwrap_err();
/// println!("{conflict}");
/// # Ok::<(), tower_bulwark::RegistryError>(())
/// ```
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

/// What a handle is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pattern {
    Retry,
    CircuitBreaker,
    ResourceLock,
    RateLimit,
    Fallback,
    Hedge,
    Throttle,
    Chaos,
    Timeouts,
}

/// The handles that come from a config.
#[cfg(feature = "config")]
pub(crate) type Configured = BTreeMap<(Pattern, Arc<str>), Named>;

/// Which config names a handle.
#[cfg(feature = "config")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// The one that was applied last.
    InConfig,
    /// One before that. It is still in use.
    Before,
}

impl Pattern {
    const ALL: [Self; 9] = [
        Self::Retry,
        Self::CircuitBreaker,
        Self::ResourceLock,
        Self::RateLimit,
        Self::Fallback,
        Self::Hedge,
        Self::Throttle,
        Self::Chaos,
        Self::Timeouts,
    ];
}

struct Shared {
    retries: Handles<RetryPolicy>,
    circuit_breakers: Handles<CircuitBreaker>,
    resource_locks: Handles<ResourceLock>,
    rate_limits: Handles<RateLimit>,
    fallbacks: Handles<Fallback>,
    hedges: Handles<Hedge>,
    throttles: Handles<Throttle>,
    chaos: Handles<Chaos>,
    timeouts: Handles<Timeouts>,
    #[cfg(feature = "redis")]
    fleets: Handles<Fleet>,
    feed: Feed,
    observers: Arc<Observers>,
    #[cfg(feature = "config")]
    configured: Mutex<Configured>,
    #[cfg(feature = "config")]
    config_events: Funnel,
}

/// What everything in a registry is observed by, also what is made later.
struct Observers {
    feed: Feed,
    added: ArcSwap<Vec<Arc<dyn Observer>>>,
}

impl Observer for Observers {
    fn observe(&self, name: &str, event: &Event) {
        self.observe_numbered(name, 0, event);
    }

    fn observe_numbered(&self, name: &str, number: u64, event: &Event) {
        self.feed.observe_numbered(name, number, event);
        for observer in self.added.load().iter() {
            guarded(name, || observer.observe_numbered(name, number, event));
        }
    }
}

impl Registry {
    /// An empty registry, for a test or a tenant. Its feed keeps the last 256 events.
    #[must_use]
    pub fn new() -> Self {
        Self::with_feed(Feed::default())
    }

    /// An empty registry that reports what happens to this feed: one with more room, or one that is shared.
    #[must_use]
    pub fn with_feed(feed: Feed) -> Self {
        let observers = Arc::new(Observers {
            feed: feed.clone(),
            added: ArcSwap::default(),
        });
        Self {
            shared: Arc::new(Shared {
                #[cfg(feature = "config")]
                configured: Mutex::default(),
                #[cfg(feature = "config")]
                config_events: Funnel::new("config".into(), vec![observers.clone()]),
                retries: Handles::new(),
                circuit_breakers: Handles::new(),
                resource_locks: Handles::new(),
                rate_limits: Handles::new(),
                fallbacks: Handles::new(),
                hedges: Handles::new(),
                throttles: Handles::new(),
                chaos: Handles::new(),
                timeouts: Handles::new(),
                #[cfg(feature = "redis")]
                fleets: Handles::new(),
                observers,
                feed,
            }),
        }
    }

    /// The registry of the process.
    #[must_use]
    pub fn global() -> &'static Self {
        static GLOBAL: OnceLock<Registry> = OnceLock::new();
        GLOBAL.get_or_init(Self::new)
    }

    /// The last events of everything that is registered here.
    #[must_use]
    pub fn feed(&self) -> &Feed {
        &self.shared.feed
    }

    /// Who waits for whom, over all locks that are registered here: what a deadlock, or a jam, looks like. Made anew
    /// each time, and each lock at a moment of its own.
    #[must_use]
    pub fn wait_for_graph(&self) -> Vec<WaitEdge> {
        let locks = self.resource_locks();
        locks.iter().flat_map(ResourceLock::wait_edges).collect()
    }

    fn observer(&self) -> Option<Arc<dyn Observer>> {
        Some(self.shared.observers.clone())
    }

    /// Tells `observer` of every event of everything that is registered here, now or later. It cannot be removed.
    pub fn observe(&self, observer: impl Observer) {
        let observer: Arc<dyn Observer> = Arc::new(observer);
        self.shared.observers.added.rcu(|added| {
            let mut added = Vec::clone(added);
            added.push(Arc::clone(&observer));
            added
        });
    }

    /// What came from a config. Held while one is applied.
    #[cfg(feature = "config")]
    pub(crate) fn configured(&self) -> MutexGuard<'_, Configured> {
        let configured = self.shared.configured.lock();
        configured.unwrap_or_else(PoisonError::into_inner)
    }

    /// Which registry of the process this is.
    #[cfg(feature = "config")]
    pub(crate) fn id(&self) -> usize {
        Arc::as_ptr(&self.shared) as usize
    }

    /// Reports what happened to the config.
    #[cfg(feature = "config")]
    pub(crate) fn tell_config(&self, event: ConfigEvent) {
        self.shared.config_events.publish(&Event::Config(event));
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("retries", &self.shared.retries.names())
            .field("circuit_breakers", &self.shared.circuit_breakers.names())
            .field("resource_locks", &self.shared.resource_locks.names())
            .field("rate_limits", &self.shared.rate_limits.names())
            .field("fallbacks", &self.shared.fallbacks.names())
            .field("hedges", &self.shared.hedges.names())
            .field("throttles", &self.shared.throttles.names())
            .field("chaos", &self.shared.chaos.names())
            .field("timeouts", &self.shared.timeouts.names())
            .finish()
    }
}
