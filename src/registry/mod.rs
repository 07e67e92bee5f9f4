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
mod error;
pub mod explain;
#[cfg(feature = "redis")]
mod fleets;
mod handles;

pub use error::RegistryError;
use handles::Handles;

use arc_swap::ArcSwap;

use crate::chaos::{Chaos, ChaosSnapshot};
use crate::circuit_breaker::{CircuitBreaker, CircuitBreakerSnapshot};
use crate::contention::{ResourceLock, ResourceSnapshot, WaitEdge};
#[cfg(feature = "config")]
use crate::event::{ConfigEvent, Funnel};
use crate::event::{Event, Feed, Observer, guarded};
use crate::fallback::{Fallback, FallbackSnapshot};
#[cfg(feature = "redis")]
use crate::fleet::{Fleet, FleetSnapshot};
use crate::hedge::{Hedge, HedgeSnapshot};
use crate::rate_limit::{RateLimit, RateLimitSnapshot};
use crate::retry::{RetryPolicy, RetrySnapshot};
use crate::throttle::{Throttle, ThrottleSnapshot};
use crate::timeout::{Timeouts, TimeoutsSnapshot};

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

    /// The circuit breaker of that name, whatever its policy; made with the default policy if there is
    /// none yet. To give it a policy: `CircuitBreaker::builder(name)..build_in(&registry)`.
    #[must_use]
    pub fn circuit_breaker(&self, name: impl Into<Arc<str>>) -> CircuitBreaker {
        let name = name.into();
        let make = || CircuitBreaker::builder(Arc::clone(&name)).build_with(self.observer());
        let default = || CircuitBreaker::new(Arc::clone(&name));
        self.shared
            .circuit_breakers
            .get_or(&name, || make().unwrap_or_else(|_| default()))
    }

    /// The resource lock of that name, whatever its policy; made with the default policy if there is
    /// none yet. To give it a policy: `ResourceLock::builder(name)..build_in(&registry)`.
    #[must_use]
    pub fn resource_lock(&self, name: impl Into<Arc<str>>) -> ResourceLock {
        let name = name.into();
        let make = || ResourceLock::builder(Arc::clone(&name)).build_with(self.observer());
        let default = || ResourceLock::new(Arc::clone(&name));
        self.shared
            .resource_locks
            .get_or(&name, || make().unwrap_or_else(|_| default()))
    }

    /// The retry policy of that name, whatever its rules; made with the default rules if there is none
    /// yet. To give it rules: `RetryPolicy::builder().name(name)..build_in(&registry)`.
    #[must_use]
    pub fn retry(&self, name: impl Into<Arc<str>>) -> RetryPolicy {
        let name = name.into();
        let make = || {
            RetryPolicy::builder()
                .name(Arc::clone(&name))
                .build_with(self.observer())
        };
        self.shared
            .retries
            .get_or(&name, || make().unwrap_or_default())
    }

    /// All circuit breakers, by name.
    #[must_use]
    pub fn circuit_breakers(&self) -> Vec<CircuitBreaker> {
        self.shared.circuit_breakers.all()
    }

    /// All resource locks, by name.
    #[must_use]
    pub fn resource_locks(&self) -> Vec<ResourceLock> {
        self.shared.resource_locks.all()
    }

    /// All retry policies, by name.
    #[must_use]
    pub fn retries(&self) -> Vec<RetryPolicy> {
        self.shared.retries.all()
    }

    /// All rate limits, by name.
    #[must_use]
    pub fn rate_limits(&self) -> Vec<RateLimit> {
        self.shared.rate_limits.all()
    }

    /// The rate limit of that name, if there is one. There is no default: what is limited has to be said.
    #[must_use]
    pub fn get_rate_limit(&self, name: &str) -> Option<RateLimit> {
        self.shared.rate_limits.get(name)
    }

    /// Forgets the rate limit of that name, as [`remove_circuit_breaker`](Self::remove_circuit_breaker) does.
    #[expect(clippy::must_use_candidate, reason = "to forget is the point")]
    pub fn remove_rate_limit(&self, name: &str) -> Option<RateLimit> {
        self.shared.rate_limits.remove(name)
    }

    /// The fallback of that name; made if there is none yet.
    #[must_use]
    pub fn fallback(&self, name: impl Into<Arc<str>>) -> Fallback {
        let name = name.into();
        let observers = || self.observer().into_iter().collect();
        self.shared
            .fallbacks
            .get_or(&name, || Fallback::observed(Arc::clone(&name), observers()))
    }

    /// All fallbacks, by name.
    #[must_use]
    pub fn fallbacks(&self) -> Vec<Fallback> {
        self.shared.fallbacks.all()
    }

    /// The fallback of that name, if there is one.
    #[must_use]
    pub fn get_fallback(&self, name: &str) -> Option<Fallback> {
        self.shared.fallbacks.get(name)
    }

    /// Forgets the fallback of that name, as [`remove_circuit_breaker`](Self::remove_circuit_breaker) does.
    #[expect(clippy::must_use_candidate, reason = "to forget is the point")]
    pub fn remove_fallback(&self, name: &str) -> Option<Fallback> {
        self.shared.fallbacks.remove(name)
    }

    /// The hedge of that name, whatever its rules; made with the default rules if there is none yet. To give it rules:
    /// `Hedge::builder(name)..build_in(&registry)`.
    #[must_use]
    pub fn hedge(&self, name: impl Into<Arc<str>>) -> Hedge {
        let name = name.into();
        let make = || Hedge::builder(Arc::clone(&name)).build_with(self.observer());
        let default = || Hedge::new(Arc::clone(&name));
        self.shared
            .hedges
            .get_or(&name, || make().unwrap_or_else(|_| default()))
    }

    /// All hedges, by name.
    #[must_use]
    pub fn hedges(&self) -> Vec<Hedge> {
        self.shared.hedges.all()
    }

    /// The hedge of that name, if there is one.
    #[must_use]
    pub fn get_hedge(&self, name: &str) -> Option<Hedge> {
        self.shared.hedges.get(name)
    }

    /// Forgets the hedge of that name, as [`remove_circuit_breaker`](Self::remove_circuit_breaker) does.
    #[expect(clippy::must_use_candidate, reason = "to forget is the point")]
    pub fn remove_hedge(&self, name: &str) -> Option<Hedge> {
        self.shared.hedges.remove(name)
    }

    /// The throttle of that name, whatever its rules; made with the default rules if there is none yet. To give it rules:
    /// `Throttle::builder(name)..build_in(&registry)`.
    #[must_use]
    pub fn throttle(&self, name: impl Into<Arc<str>>) -> Throttle {
        let name = name.into();
        let make = || Throttle::builder(Arc::clone(&name)).build_with(self.observer());
        let default = || Throttle::new(Arc::clone(&name));
        self.shared
            .throttles
            .get_or(&name, || make().unwrap_or_else(|_| default()))
    }

    /// All throttles, by name.
    #[must_use]
    pub fn throttles(&self) -> Vec<Throttle> {
        self.shared.throttles.all()
    }

    /// The throttle of that name, if there is one.
    #[must_use]
    pub fn get_throttle(&self, name: &str) -> Option<Throttle> {
        self.shared.throttles.get(name)
    }

    /// Forgets the throttle of that name, as [`remove_circuit_breaker`](Self::remove_circuit_breaker) does.
    #[expect(clippy::must_use_candidate, reason = "to forget is the point")]
    pub fn remove_throttle(&self, name: &str) -> Option<Throttle> {
        self.shared.throttles.remove(name)
    }

    /// All drills, by name.
    #[must_use]
    pub fn chaos(&self) -> Vec<Chaos> {
        self.shared.chaos.all()
    }

    /// The drill of that name, if there is one. There is no default: what is to fail has to be said.
    #[must_use]
    pub fn get_chaos(&self, name: &str) -> Option<Chaos> {
        self.shared.chaos.get(name)
    }

    /// Forgets the drill of that name, as [`remove_circuit_breaker`](Self::remove_circuit_breaker) does. It stays armed if it is.
    #[expect(clippy::must_use_candidate, reason = "to forget is the point")]
    pub fn remove_chaos(&self, name: &str) -> Option<Chaos> {
        self.shared.chaos.remove(name)
    }

    /// All timeouts, by name.
    #[must_use]
    pub fn timeouts(&self) -> Vec<Timeouts> {
        self.shared.timeouts.all()
    }

    /// The timeouts of that name, if there are any. There is no default: what is limited has to be said.
    #[must_use]
    pub fn get_timeouts(&self, name: &str) -> Option<Timeouts> {
        self.shared.timeouts.get(name)
    }

    /// Forgets the timeouts of that name, as [`remove_circuit_breaker`](Self::remove_circuit_breaker) does.
    #[expect(clippy::must_use_candidate, reason = "to forget is the point")]
    pub fn remove_timeouts(&self, name: &str) -> Option<Timeouts> {
        self.shared.timeouts.remove(name)
    }

    /// Forgets the circuit breaker of that name. Whoever has its handle keeps it; the next to ask for the
    /// name gets a new one.
    #[expect(clippy::must_use_candidate, reason = "to forget is the point")]
    pub fn remove_circuit_breaker(&self, name: &str) -> Option<CircuitBreaker> {
        self.shared.circuit_breakers.remove(name)
    }

    /// Forgets the resource lock of that name, as
    /// [`remove_circuit_breaker`](Self::remove_circuit_breaker) does.
    #[expect(clippy::must_use_candidate, reason = "to forget is the point")]
    pub fn remove_resource_lock(&self, name: &str) -> Option<ResourceLock> {
        self.shared.resource_locks.remove(name)
    }

    /// Forgets the retry policy of that name, as
    /// [`remove_circuit_breaker`](Self::remove_circuit_breaker) does.
    #[expect(clippy::must_use_candidate, reason = "to forget is the point")]
    pub fn remove_retry(&self, name: &str) -> Option<RetryPolicy> {
        self.shared.retries.remove(name)
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

    /// Everything that is registered here, each at one moment.
    #[must_use]
    pub fn snapshot(&self) -> RegistrySnapshot {
        RegistrySnapshot {
            retries: self.retries().iter().map(RetryPolicy::snapshot).collect(),
            circuit_breakers: self
                .circuit_breakers()
                .iter()
                .map(CircuitBreaker::snapshot)
                .collect(),
            resource_locks: self
                .resource_locks()
                .iter()
                .map(ResourceLock::snapshot)
                .collect(),
            rate_limits: self.rate_limits().iter().map(RateLimit::snapshot).collect(),
            fallbacks: self.fallbacks().iter().map(Fallback::snapshot).collect(),
            hedges: self.hedges().iter().map(Hedge::snapshot).collect(),
            throttles: self.throttles().iter().map(Throttle::snapshot).collect(),
            chaos: self.chaos().iter().map(Chaos::snapshot).collect(),
            timeouts: self.timeouts().iter().map(Timeouts::snapshot).collect(),
            #[cfg(feature = "redis")]
            fleets: self.fleets().iter().map(Fleet::snapshot).collect(),
        }
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

    /// The circuit breaker of that name, if there is one.
    #[must_use]
    pub fn get_circuit_breaker(&self, name: &str) -> Option<CircuitBreaker> {
        self.shared.circuit_breakers.get(name)
    }

    /// The resource lock of that name, if there is one.
    #[must_use]
    pub fn get_resource_lock(&self, name: &str) -> Option<ResourceLock> {
        self.shared.resource_locks.get(name)
    }

    /// The retry policy of that name, if there is one.
    #[must_use]
    pub fn get_retry(&self, name: &str) -> Option<RetryPolicy> {
        self.shared.retries.get(name)
    }

    /// Forgets everything of that name that nobody has a handle of and that has nothing to remember: a lock without
    /// holders and waiters, a breaker that is closed and has seen no failure since its last success. Says whether
    /// something was forgotten.
    ///
    /// Two of one name never live side by side: what somebody still holds, or what a call is on its way through, stays.
    #[expect(clippy::must_use_candidate, reason = "to forget is the point")]
    pub fn remove_if_idle(&self, name: &str) -> bool {
        let removed = Pattern::ALL.map(|pattern| self.remove_disused(pattern, name));
        removed.contains(&true)
    }

    /// The same, for one pattern.
    pub(crate) fn remove_disused(&self, pattern: Pattern, name: &str) -> bool {
        let shared = &self.shared;
        match pattern {
            Pattern::Retry => shared.retries.remove_if(name, RetryPolicy::is_disused),
            Pattern::CircuitBreaker => shared
                .circuit_breakers
                .remove_if(name, CircuitBreaker::is_disused),
            Pattern::ResourceLock => shared
                .resource_locks
                .remove_if(name, ResourceLock::is_disused),
            Pattern::RateLimit => shared.rate_limits.remove_if(name, RateLimit::is_disused),
            Pattern::Fallback => shared.fallbacks.remove_if(name, Fallback::is_disused),
            Pattern::Hedge => shared.hedges.remove_if(name, Hedge::is_disused),
            Pattern::Throttle => shared.throttles.remove_if(name, Throttle::is_disused),
            Pattern::Chaos => shared.chaos.remove_if(name, Chaos::is_disused),
            Pattern::Timeouts => shared.timeouts.remove_if(name, Timeouts::is_disused),
        }
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

/// Everything in a registry.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RegistrySnapshot {
    /// The retry policies, by name.
    pub retries: Vec<RetrySnapshot>,
    /// The circuit breakers, by name.
    pub circuit_breakers: Vec<CircuitBreakerSnapshot>,
    /// The resource locks, by name.
    pub resource_locks: Vec<ResourceSnapshot>,
    /// The rate limits, by name.
    pub rate_limits: Vec<RateLimitSnapshot>,
    /// The fallbacks, by name.
    pub fallbacks: Vec<FallbackSnapshot>,
    /// The hedges, by name.
    pub hedges: Vec<HedgeSnapshot>,
    /// The throttles, by name.
    pub throttles: Vec<ThrottleSnapshot>,
    /// The drills, by name.
    pub chaos: Vec<ChaosSnapshot>,
    /// The timeouts, by name.
    pub timeouts: Vec<TimeoutsSnapshot>,
    /// The fleets, by namespace. (feature `redis`)
    #[cfg(feature = "redis")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    pub fleets: Vec<FleetSnapshot>,
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;
    use crate::circuit_breaker::CircuitState;

    #[test]
    fn a_name_gives_the_same_handle_to_whoever_asks() {
        let registry = Registry::new();
        registry.circuit_breaker("api").force_open();
        assert_eq!(
            registry.circuit_breaker("api").state(),
            CircuitState::ForcedOpen
        );
        assert_eq!(
            Registry::new().circuit_breaker("api").state(),
            CircuitState::Closed
        );
    }

    #[test]
    fn other_rules_under_a_taken_name_are_an_error_that_shows_both() {
        let registry = Registry::new();
        let ask = |n| {
            CircuitBreaker::builder("api")
                .consecutive_failures(n)
                .build_in(&registry)
        };
        ask(50).unwrap();
        ask(50).unwrap();
        let conflict = ask(3).unwrap_err().to_string();
        assert!(
            conflict.contains("consecutive_failures: Some(50)"),
            "{conflict}"
        );
        assert!(
            conflict.contains("consecutive_failures: Some(3)"),
            "{conflict}"
        );

        let ask = |n| {
            ResourceLock::builder("db")
                .max_concurrent(n)
                .build_in(&registry)
        };
        ask(1).unwrap();
        assert!(matches!(
            ask(10),
            Err(RegistryError::Conflict {
                kind: "resource lock",
                ..
            })
        ));

        let ask = |n| {
            RetryPolicy::builder()
                .name("r")
                .max_retries(n)
                .build_in(&registry)
        };
        ask(1).unwrap();
        assert!(matches!(
            ask(2),
            Err(RegistryError::Conflict {
                kind: "retry policy",
                ..
            })
        ));
    }

    #[test]
    fn a_setting_that_cannot_work_registers_nothing() {
        let registry = Registry::new();
        let wrong = CircuitBreaker::builder("api")
            .consecutive_failures(0)
            .build_in(&registry);
        assert!(matches!(wrong, Err(RegistryError::Config(_))));
        assert!(registry.circuit_breakers().is_empty());
    }

    #[test]
    fn everything_registered_is_listed_and_in_the_snapshot() {
        let registry = Registry::new();
        let _ = (registry.circuit_breaker("b"), registry.circuit_breaker("a"));
        let _ = (registry.resource_lock("db"), registry.retry("calls"));
        let snapshot = registry.snapshot();
        let names: Vec<_> = snapshot.circuit_breakers.iter().map(|b| &*b.name).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(&*snapshot.resource_locks[0].name, "db");
        assert_eq!(&*snapshot.retries[0].name, "calls");
    }

    #[test]
    fn the_feed_hears_everything_registered() {
        let registry = Registry::new();
        registry
            .circuit_breaker("api")
            .open_for(Duration::from_secs(1));
        let heard = registry.feed().recent();
        assert_eq!(heard.len(), 1);
        assert_eq!(
            heard[0].event.to_string(),
            "closed -> open: opened by an operator; open for 1.000s"
        );
    }

    #[test]
    fn a_removed_handle_lives_on_for_those_who_have_it() {
        let registry = Registry::new();
        let old = registry.circuit_breaker("api");
        old.force_open();
        assert!(registry.remove_circuit_breaker("api").is_some());
        assert_eq!(
            registry.circuit_breaker("api").state(),
            CircuitState::Closed
        );
        assert_eq!(old.state(), CircuitState::ForcedOpen);
    }

    #[test]
    fn an_observer_of_the_registry_hears_of_what_was_made_before_and_after_it() {
        let registry = Registry::new();
        let before = registry.circuit_breaker("before");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&heard);
        registry.observe(move |name: &str, _: &Event| list.lock().unwrap().push(name.to_owned()));
        before.force_open();
        registry.circuit_breaker("after").force_open();
        assert_eq!(*heard.lock().unwrap(), ["before", "after"]);
    }

    #[test]
    fn a_name_that_stands_for_nothing_is_none_and_makes_nothing() {
        let registry = Registry::new();
        assert!(registry.get_circuit_breaker("api").is_none());
        assert!(registry.get_resource_lock("api").is_none());
        assert!(registry.get_retry("api").is_none());
        assert!(registry.circuit_breakers().is_empty());
        let _ = registry.circuit_breaker("api");
        assert!(registry.get_circuit_breaker("api").is_some());
    }

    #[test]
    fn only_what_nobody_holds_and_what_has_nothing_to_remember_is_forgotten_as_idle() {
        let registry = Registry::new();
        let lock = registry.resource_lock("db");
        assert!(!registry.remove_if_idle("db"), "a handle is out");
        let permit = lock.acquire("job").owned().now().unwrap();
        drop(lock);
        assert!(!registry.remove_if_idle("db"), "a permit is out");
        drop(permit);
        assert!(registry.remove_if_idle("db"));
        assert!(!registry.remove_if_idle("db"), "it is gone");

        registry.circuit_breaker("api").force_open();
        assert!(!registry.remove_if_idle("api"), "it is forced open");
        registry.circuit_breaker("api").reset();
        let permit = registry.circuit_breaker("api").try_acquire().unwrap();
        assert!(!registry.remove_if_idle("api"), "a call is in flight");
        permit.failure();
        assert!(!registry.remove_if_idle("api"), "it remembers a failure");
        registry.circuit_breaker("api").reset();
        assert!(registry.remove_if_idle("api"));
        let _ = registry.retry("calls");
        assert!(registry.remove_if_idle("calls"));
    }
}
