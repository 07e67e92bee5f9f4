//! What is registered under a name: made, found, listed, forgotten.

use std::sync::Arc;

use super::{Pattern, Registry};
use crate::chaos::Chaos;
use crate::circuit_breaker::CircuitBreaker;
use crate::contention::ResourceLock;
use crate::fallback::Fallback;
use crate::hedge::Hedge;
use crate::rate_limit::RateLimit;
use crate::retry::RetryPolicy;
use crate::throttle::Throttle;
use crate::timeout::Timeouts;

impl Registry {
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

    /// The retry policy of that name, if there is one.
    #[must_use]
    pub fn get_retry(&self, name: &str) -> Option<RetryPolicy> {
        self.shared.retries.get(name)
    }

    /// All retry policies, by name.
    #[must_use]
    pub fn retries(&self) -> Vec<RetryPolicy> {
        self.shared.retries.all()
    }

    /// Forgets the retry policy of that name, as
    /// [`remove_circuit_breaker`](Self::remove_circuit_breaker) does.
    #[expect(clippy::must_use_candidate, reason = "to forget is the point")]
    pub fn remove_retry(&self, name: &str) -> Option<RetryPolicy> {
        self.shared.retries.remove(name)
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

    /// The circuit breaker of that name, if there is one.
    #[must_use]
    pub fn get_circuit_breaker(&self, name: &str) -> Option<CircuitBreaker> {
        self.shared.circuit_breakers.get(name)
    }

    /// All circuit breakers, by name.
    #[must_use]
    pub fn circuit_breakers(&self) -> Vec<CircuitBreaker> {
        self.shared.circuit_breakers.all()
    }

    /// Forgets the circuit breaker of that name. Whoever has its handle keeps it; the next to ask for the
    /// name gets a new one.
    #[expect(clippy::must_use_candidate, reason = "to forget is the point")]
    pub fn remove_circuit_breaker(&self, name: &str) -> Option<CircuitBreaker> {
        self.shared.circuit_breakers.remove(name)
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

    /// The resource lock of that name, if there is one.
    #[must_use]
    pub fn get_resource_lock(&self, name: &str) -> Option<ResourceLock> {
        self.shared.resource_locks.get(name)
    }

    /// All resource locks, by name.
    #[must_use]
    pub fn resource_locks(&self) -> Vec<ResourceLock> {
        self.shared.resource_locks.all()
    }

    /// Forgets the resource lock of that name, as
    /// [`remove_circuit_breaker`](Self::remove_circuit_breaker) does.
    #[expect(clippy::must_use_candidate, reason = "to forget is the point")]
    pub fn remove_resource_lock(&self, name: &str) -> Option<ResourceLock> {
        self.shared.resource_locks.remove(name)
    }

    /// The rate limit of that name, if there is one. There is no default: what is limited has to be said.
    #[must_use]
    pub fn get_rate_limit(&self, name: &str) -> Option<RateLimit> {
        self.shared.rate_limits.get(name)
    }

    /// All rate limits, by name.
    #[must_use]
    pub fn rate_limits(&self) -> Vec<RateLimit> {
        self.shared.rate_limits.all()
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

    /// The fallback of that name, if there is one.
    #[must_use]
    pub fn get_fallback(&self, name: &str) -> Option<Fallback> {
        self.shared.fallbacks.get(name)
    }

    /// All fallbacks, by name.
    #[must_use]
    pub fn fallbacks(&self) -> Vec<Fallback> {
        self.shared.fallbacks.all()
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

    /// The hedge of that name, if there is one.
    #[must_use]
    pub fn get_hedge(&self, name: &str) -> Option<Hedge> {
        self.shared.hedges.get(name)
    }

    /// All hedges, by name.
    #[must_use]
    pub fn hedges(&self) -> Vec<Hedge> {
        self.shared.hedges.all()
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

    /// The throttle of that name, if there is one.
    #[must_use]
    pub fn get_throttle(&self, name: &str) -> Option<Throttle> {
        self.shared.throttles.get(name)
    }

    /// All throttles, by name.
    #[must_use]
    pub fn throttles(&self) -> Vec<Throttle> {
        self.shared.throttles.all()
    }

    /// Forgets the throttle of that name, as [`remove_circuit_breaker`](Self::remove_circuit_breaker) does.
    #[expect(clippy::must_use_candidate, reason = "to forget is the point")]
    pub fn remove_throttle(&self, name: &str) -> Option<Throttle> {
        self.shared.throttles.remove(name)
    }

    /// The drill of that name, if there is one. There is no default: what is to fail has to be said.
    #[must_use]
    pub fn get_chaos(&self, name: &str) -> Option<Chaos> {
        self.shared.chaos.get(name)
    }

    /// All drills, by name.
    #[must_use]
    pub fn chaos(&self) -> Vec<Chaos> {
        self.shared.chaos.all()
    }

    /// Forgets the drill of that name, as [`remove_circuit_breaker`](Self::remove_circuit_breaker) does. It stays armed if it is.
    #[expect(clippy::must_use_candidate, reason = "to forget is the point")]
    pub fn remove_chaos(&self, name: &str) -> Option<Chaos> {
        self.shared.chaos.remove(name)
    }

    /// The timeouts of that name, if there are any. There is no default: what is limited has to be said.
    #[must_use]
    pub fn get_timeouts(&self, name: &str) -> Option<Timeouts> {
        self.shared.timeouts.get(name)
    }

    /// All timeouts, by name.
    #[must_use]
    pub fn timeouts(&self) -> Vec<Timeouts> {
        self.shared.timeouts.all()
    }

    /// Forgets the timeouts of that name, as [`remove_circuit_breaker`](Self::remove_circuit_breaker) does.
    #[expect(clippy::must_use_candidate, reason = "to forget is the point")]
    pub fn remove_timeouts(&self, name: &str) -> Option<Timeouts> {
        self.shared.timeouts.remove(name)
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
}
