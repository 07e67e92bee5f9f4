//! What may be forgotten.

use tower_layer::{Identity, Layer};

use crate::chaos::{Chaos, ChaosLayer, ChaosSnapshot};
use crate::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer, CircuitBreakerSnapshot};
use crate::contention::{ContentionLayer, ResourceLock, ResourceSnapshot};
use crate::error::CircuitState;
use crate::hedge::{Hedge, HedgeLayer, HedgeSnapshot};
use crate::rate_limit::{RateLimit, RateLimitLayer, RateLimitSnapshot};
use crate::retry::{RetryLayer, RetryPolicy, RetrySnapshot};
use crate::throttle::{Throttle, ThrottleLayer, ThrottleSnapshot};
use crate::timeout::{TimeoutLayer, Timeouts, TimeoutsSnapshot};

/// Something that a map of keys may forget when it needs room: a handle or a layer of this crate, several layers as a
/// tuple (the outermost first), or a foreign layer that is [`Stateless`].
#[diagnostic::on_unimplemented(
    message = "it is not known when `{Self}` may be forgotten",
    note = "several layers are a tuple, the outermost first: `(breaker.layer(), lock.layer())`",
    note = "a layer that keeps nothing from one call to the next goes into `keyed::Stateless`"
)]
pub trait Idle {
    /// Whether there is nothing to remember: one that is made anew would do the same.
    fn is_idle(&self) -> bool;
}

impl Idle for CircuitBreaker {
    /// Closed for as long as it last was open, without a failure or a slow call that counts, and under no command.
    fn is_idle(&self) -> bool {
        self.remembers_nothing()
    }
}

impl Idle for ResourceLock {
    /// No permit is out, and nobody waits.
    fn is_idle(&self) -> bool {
        self.remembers_nothing()
    }
}

impl Idle for RetryPolicy {
    /// Its own budget is full.
    fn is_idle(&self) -> bool {
        self.remembers_nothing()
    }
}

impl Idle for RateLimit {
    /// Full quotas, nobody waits, and there is no pause.
    fn is_idle(&self) -> bool {
        self.remembers_nothing()
    }
}

impl Idle for Hedge {
    /// No latency is remembered, and its own budget is full.
    fn is_idle(&self) -> bool {
        self.remembers_nothing()
    }
}

impl<L, C, R, M> Idle for HedgeLayer<L, C, R, M> {
    fn is_idle(&self) -> bool {
        self.hedge().is_idle()
    }
}

impl<L, C, T, A> Idle for RateLimitLayer<L, C, T, A> {
    fn is_idle(&self) -> bool {
        Idle::is_idle(self.limit())
    }
}

impl Idle for Throttle {
    /// The service has accepted every call in the window.
    fn is_idle(&self) -> bool {
        self.remembers_nothing()
    }
}

impl<L, C, A> Idle for ThrottleLayer<L, C, A> {
    fn is_idle(&self) -> bool {
        self.throttle().is_idle()
    }
}

impl Idle for Chaos {
    /// It is not armed.
    fn is_idle(&self) -> bool {
        !self.is_armed()
    }
}

impl<F> Idle for ChaosLayer<F> {
    /// Always: its drill is remembered by whoever has its handle.
    fn is_idle(&self) -> bool {
        true
    }
}

impl Idle for Timeouts {
    /// Always: there is nothing to remember but counts.
    fn is_idle(&self) -> bool {
        true
    }
}

impl<L, A> Idle for TimeoutLayer<L, A> {
    fn is_idle(&self) -> bool {
        self.timeouts().is_idle()
    }
}

impl<L, C, A> Idle for CircuitBreakerLayer<L, C, A> {
    fn is_idle(&self) -> bool {
        self.breaker().is_idle()
    }
}

impl<L, H, A> Idle for ContentionLayer<L, H, A> {
    fn is_idle(&self) -> bool {
        self.resource().is_idle()
    }
}

impl<L, C, R> Idle for RetryLayer<L, C, R> {
    fn is_idle(&self) -> bool {
        self.policy().is_idle()
    }
}

impl Idle for Identity {
    fn is_idle(&self) -> bool {
        true
    }
}

/// Several layers are a tuple, the outermost first.
macro_rules! idle_tuples {
    ($($layer:ident)+) => {
        impl<$($layer: Idle),+> Idle for ($($layer,)+) {
            fn is_idle(&self) -> bool {
                #[expect(non_snake_case, reason = "named after their types")]
                let ($($layer,)+) = self;
                $($layer.is_idle())&&+
            }
        }
    };
}

idle_tuples!(A);
idle_tuples!(A B);
idle_tuples!(A B C);
idle_tuples!(A B C D);
idle_tuples!(A B C D E);
idle_tuples!(A B C D E F);

/// A layer of another crate that keeps nothing from one call to the next: it may be forgotten whenever there is no call.
///
/// ```
/// use std::time::Duration;
/// use tower::timeout::TimeoutLayer;
/// use tower_bulwark::CircuitBreaker;
/// use tower_bulwark::keyed::{PerKeyLayer, Stateless};
///
/// let per_host = PerKeyLayer::new(
///     1_000,
///     |host: &String| host.clone(),
///     |host: &String| {
///         let breaker = CircuitBreaker::new(format!("api {host}"));
///         (breaker.layer::<tower_bulwark::Boxed>(), Stateless(TimeoutLayer::new(Duration::from_secs(9))))
///     },
/// );
/// # let _ = per_host;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Stateless<L>(pub L);

impl<S, L: Layer<S>> Layer<S> for Stateless<L> {
    type Service = L::Service;

    fn layer(&self, inner: S) -> L::Service {
        self.0.layer(inner)
    }
}

impl<L> Idle for Stateless<L> {
    fn is_idle(&self) -> bool {
        true
    }
}

/// A handle of which there can be one for each key: those of this crate, and what you build around them.
pub trait Instance: Idle + Clone {
    /// What there is to see of it.
    type Snapshot;

    /// Whether nobody else has a handle of this instance, and no call of it is on its way.
    fn is_sole(&self) -> bool;

    /// Everything there is to know, at one moment.
    fn snapshot(&self) -> Self::Snapshot;

    /// How much is wrong, from 0: what is worst is looked at first.
    fn trouble(snapshot: &Self::Snapshot) -> f64;
}

impl Instance for CircuitBreaker {
    type Snapshot = CircuitBreakerSnapshot;

    fn is_sole(&self) -> bool {
        self.has_one_handle()
    }

    fn snapshot(&self) -> CircuitBreakerSnapshot {
        self.snapshot()
    }

    /// Whatever is not closed, then the share of failures.
    fn trouble(snapshot: &CircuitBreakerSnapshot) -> f64 {
        let state = match snapshot.state {
            CircuitState::Open | CircuitState::ForcedOpen => 2_000.0,
            CircuitState::HalfOpen => 1_000.0,
            CircuitState::Closed | CircuitState::Disabled | CircuitState::MetricsOnly => 0.0,
        };
        let failing = f64::from(snapshot.failure_count).min(100.0);
        state + failing + snapshot.failure_rate.unwrap_or(0.0)
    }
}

impl Instance for ResourceLock {
    type Snapshot = ResourceSnapshot;

    fn is_sole(&self) -> bool {
        self.has_one_handle()
    }

    fn snapshot(&self) -> ResourceSnapshot {
        self.snapshot()
    }

    /// Those for which somebody waits, then how much of them is in use.
    fn trouble(snapshot: &ResourceSnapshot) -> f64 {
        snapshot.waiting as f64 + snapshot.in_use as f64 / snapshot.capacity.max(1) as f64
    }
}

impl Instance for RateLimit {
    type Snapshot = RateLimitSnapshot;

    fn is_sole(&self) -> bool {
        self.has_one_handle()
    }

    fn snapshot(&self) -> RateLimitSnapshot {
        self.snapshot()
    }

    /// Those for which somebody waits, or that pause.
    fn trouble(snapshot: &RateLimitSnapshot) -> f64 {
        let pause = snapshot.paused_for.unwrap_or_default();
        snapshot.waiting as f64 + pause.as_secs_f64()
    }
}

impl Instance for Hedge {
    type Snapshot = HedgeSnapshot;

    fn is_sole(&self) -> bool {
        self.has_one_handle()
    }

    fn snapshot(&self) -> HedgeSnapshot {
        self.snapshot()
    }

    /// Those of which the most calls were hedged.
    fn trouble(snapshot: &HedgeSnapshot) -> f64 {
        snapshot.hedged as f64 / snapshot.calls.max(1) as f64
    }
}

impl Instance for Throttle {
    type Snapshot = ThrottleSnapshot;

    fn is_sole(&self) -> bool {
        self.has_one_handle()
    }

    fn snapshot(&self) -> ThrottleSnapshot {
        self.snapshot()
    }

    /// The probability of a refusal.
    fn trouble(snapshot: &ThrottleSnapshot) -> f64 {
        snapshot.probability
    }
}

impl Instance for Chaos {
    type Snapshot = ChaosSnapshot;

    fn is_sole(&self) -> bool {
        self.has_one_handle()
    }

    fn snapshot(&self) -> ChaosSnapshot {
        self.snapshot()
    }

    /// The armed ones, then how many faults there were for each call.
    fn trouble(snapshot: &ChaosSnapshot) -> f64 {
        let faults = snapshot.injected.sum() as f64 / snapshot.calls.max(1) as f64;
        faults + if snapshot.armed { 1_000.0 } else { 0.0 }
    }
}

impl Instance for Timeouts {
    type Snapshot = TimeoutsSnapshot;

    fn is_sole(&self) -> bool {
        self.is_disused()
    }

    fn snapshot(&self) -> TimeoutsSnapshot {
        self.snapshot()
    }

    /// The share of calls that took too long.
    fn trouble(snapshot: &TimeoutsSnapshot) -> f64 {
        snapshot.timed_out.sum() as f64 / snapshot.calls.max(1) as f64
    }
}

impl Instance for RetryPolicy {
    type Snapshot = RetrySnapshot;

    fn is_sole(&self) -> bool {
        self.has_one_handle()
    }

    fn snapshot(&self) -> RetrySnapshot {
        self.snapshot()
    }

    /// How many attempts there were for each call.
    fn trouble(snapshot: &RetrySnapshot) -> f64 {
        snapshot.attempts as f64 / snapshot.calls.max(1) as f64
    }
}
