//! What happened, reported to observers after the fact.
//!
//! Every pattern says what happens in it as an [`Event`], and there is one funnel: it writes the
//! event to `tracing` (always; see [`observe`](crate::observe) for the levels), then hands it to each
//! [`Observer`]. Events are made on the paths where something fails, waits or changes; a healthy
//! call makes none.
//!
//! An observer runs on a task that uses the handle, after every lock is gone and everything is settled. It cannot
//! change what happens to the call, and if it panics, the panic is caught and logged.
//!
//! State changes of one handle reach its observers one at a time and in the order in which they happened. What is
//! frequent (a retry, a wait that ended, a refusal) is reported by the call that caused it, so two of them may be reported
//! at the same time; their numbers say which came first.

use std::fmt;

mod chaos;
mod circuit_breaker;
mod config;
mod contention;
mod fallback;
mod feed;
mod fleet;
mod funnel;
mod hedge;
mod log;
mod rate_limit;
mod retry;
mod text;
mod throttle;
mod timeout;
pub(crate) mod words;

pub use crate::error::{Cause, CircuitState};
pub use chaos::{ChaosEvent, ChaosFault};
pub use circuit_breaker::CircuitBreakerEvent;
pub use config::ConfigEvent;
pub use contention::ContentionEvent;
pub use fallback::FallbackEvent;
pub use feed::{Entry, Feed};
pub use fleet::{FleetEvent, FleetPart};
pub(crate) use funnel::{Funnel, guarded};
pub use hedge::{HedgeEvent, NotHedged};
pub use rate_limit::RateLimitEvent;
pub use retry::RetryEvent;
pub use throttle::ThrottleEvent;
pub use timeout::TimeoutEvent;

/// Something that happened in one of the patterns.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Event {
    /// Something happened in a retry policy.
    Retry(RetryEvent),
    /// Something happened in a circuit breaker.
    CircuitBreaker(CircuitBreakerEvent),
    /// Something happened around a resource lock.
    Contention(ContentionEvent),
    /// Something happened at a rate limit.
    RateLimit(RateLimitEvent),
    /// Something happened in a fallback.
    Fallback(FallbackEvent),
    /// Something happened in a hedge.
    Hedge(HedgeEvent),
    /// Something happened at a throttle.
    Throttle(ThrottleEvent),
    /// Something happened in a drill.
    Chaos(ChaosEvent),
    /// Something took too long.
    Timeout(TimeoutEvent),
    /// A config was applied, or refused.
    Config(ConfigEvent),
    /// Something happened to a fleet.
    Fleet(FleetEvent),
}

impl Event {
    /// The pattern it happened in: `retry`, `circuit_breaker`, `contention`, `rate_limit`, `fallback`, `hedge`,
    /// `throttle`, `chaos` or `timeout`; or `config`, or `fleet`.
    #[must_use]
    pub fn pattern(&self) -> &'static str {
        match self {
            Self::Retry(_) => "retry",
            Self::CircuitBreaker(_) => "circuit_breaker",
            Self::Contention(_) => "contention",
            Self::RateLimit(_) => "rate_limit",
            Self::Fallback(_) => "fallback",
            Self::Hedge(_) => "hedge",
            Self::Throttle(_) => "throttle",
            Self::Chaos(_) => "chaos",
            Self::Timeout(_) => "timeout",
            Self::Config(_) => "config",
            Self::Fleet(_) => "fleet",
        }
    }

    /// Whether it is of a kind that happens call by call. The others explain an outage.
    #[must_use]
    pub fn is_frequent(&self) -> bool {
        match self {
            Self::Retry(
                RetryEvent::Scheduled { .. }
                | RetryEvent::Recovered { .. }
                | RetryEvent::GaveUp { .. },
            ) => true,
            Self::CircuitBreaker(event) => match event {
                CircuitBreakerEvent::Rejected { .. } => true,
                CircuitBreakerEvent::StateChanged { .. }
                | CircuitBreakerEvent::WouldChange { .. }
                | CircuitBreakerEvent::ProbeLost { .. }
                | CircuitBreakerEvent::Reset => false,
            },
            Self::Contention(event) => match event {
                ContentionEvent::Acquired { .. }
                | ContentionEvent::TimedOut { .. }
                | ContentionEvent::Abandoned { .. }
                | ContentionEvent::QueueFull { .. }
                | ContentionEvent::Busy { .. }
                | ContentionEvent::Shed { .. } => true,
                ContentionEvent::Contended { .. }
                | ContentionEvent::Deadlock { .. }
                | ContentionEvent::LongHold { .. }
                | ContentionEvent::NotPolled { .. }
                | ContentionEvent::Closed { .. }
                | ContentionEvent::CapacityChanged { .. } => false,
            },
            Self::Fallback(FallbackEvent::FellBack { .. } | FallbackEvent::AllFailed { .. })
            | Self::Hedge(
                HedgeEvent::Started { .. } | HedgeEvent::Won { .. } | HedgeEvent::NotStarted { .. },
            )
            | Self::Timeout(TimeoutEvent::TimedOut { .. }) => true,
            Self::Config(ConfigEvent::Applied { .. } | ConfigEvent::Refused { .. })
            | Self::Fleet(_) => false,
            Self::RateLimit(event) => match event {
                RateLimitEvent::Refused { .. }
                | RateLimitEvent::Waited { .. }
                | RateLimitEvent::Abandoned { .. } => true,
                RateLimitEvent::Paused { .. } => false,
            },
            Self::Chaos(event) => match event {
                ChaosEvent::Injected { .. } => true,
                ChaosEvent::Armed { .. } | ChaosEvent::Disarmed => false,
            },
            Self::Throttle(event) => match event {
                ThrottleEvent::Refused { .. } => true,
                ThrottleEvent::Began { .. } | ThrottleEvent::Ended { .. } => false,
            },
        }
    }

    /// A short name of what happened, the same for every event of its kind.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Retry(event) => event.kind(),
            Self::CircuitBreaker(event) => event.kind(),
            Self::Contention(event) => event.kind(),
            Self::RateLimit(event) => event.kind(),
            Self::Fallback(event) => event.kind(),
            Self::Hedge(event) => event.kind(),
            Self::Throttle(event) => event.kind(),
            Self::Chaos(event) => event.kind(),
            Self::Timeout(event) => event.kind(),
            Self::Config(event) => event.kind(),
            Self::Fleet(event) => event.kind(),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry(event) => event.fmt(f),
            Self::CircuitBreaker(event) => event.fmt(f),
            Self::Contention(event) => event.fmt(f),
            Self::RateLimit(event) => event.fmt(f),
            Self::Fallback(event) => event.fmt(f),
            Self::Hedge(event) => event.fmt(f),
            Self::Throttle(event) => event.fmt(f),
            Self::Chaos(event) => event.fmt(f),
            Self::Timeout(event) => event.fmt(f),
            Self::Config(event) => event.fmt(f),
            Self::Fleet(event) => event.fmt(f),
        }
    }
}

/// Receives what happens. Any `Fn(&str, &Event) + Send + Sync + 'static` is one: the first argument is
/// the name of the policy, breaker or resource.
///
/// ```
/// use tower_bulwark::{CircuitBreaker, Event};
///
/// let breaker = CircuitBreaker::builder("openai")
///     .observer(|name: &str, event: &Event| println!("{name}: {event}"))
///     .build()?;
/// # Ok::<(), tower_bulwark::ConfigError>(())
/// ```
pub trait Observer: Send + Sync + 'static {
    /// Called after the event, on a task that uses the handle. Should be quick: the call waits.
    fn observe(&self, name: &str, event: &Event);

    /// The same, with the number of the event: the events of one handle are numbered from 1 in the order in which
    /// they happened. Calls [`observe`](Self::observe) unless it is implemented.
    fn observe_numbered(&self, name: &str, number: u64, event: &Event) {
        let _ = number;
        self.observe(name, event);
    }
}

impl<F: Fn(&str, &Event) + Send + Sync + 'static> Observer for F {
    fn observe(&self, name: &str, event: &Event) {
        self(name, event);
    }
}
