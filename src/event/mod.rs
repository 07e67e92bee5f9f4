//! What happened, told to observers after the fact.
//!
//! Every pattern says what happens in it as an [`Event`], and there is one funnel: it writes the
//! event to `tracing` (always; see [`observe`](crate::observe) for the levels), then hands it to each
//! [`Observer`]. Events are made on the paths where something fails, waits or changes; a healthy
//! call makes none.
//!
//! An observer runs on the task whose call caused the event, after every lock is gone. It cannot
//! change what happens to the call, and if it panics, the panic is caught and logged.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

mod circuit_breaker;
mod contention;
mod feed;
mod log;
mod retry;

pub use circuit_breaker::{Cause, CircuitBreakerEvent, CircuitState};
pub use contention::ContentionEvent;
pub use feed::{Entry, Feed};
pub use retry::RetryEvent;

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
}

impl Event {
    /// The pattern it happened in: `retry`, `circuit_breaker` or `contention`.
    #[must_use]
    pub fn pattern(&self) -> &'static str {
        match self {
            Self::Retry(_) => "retry",
            Self::CircuitBreaker(_) => "circuit_breaker",
            Self::Contention(_) => "contention",
        }
    }

    /// A short name of what happened, the same for every event of its kind.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Retry(event) => event.kind(),
            Self::CircuitBreaker(event) => event.kind(),
            Self::Contention(event) => event.kind(),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry(event) => event.fmt(f),
            Self::CircuitBreaker(event) => event.fmt(f),
            Self::Contention(event) => event.fmt(f),
        }
    }
}

/// Is told what happens. Any `Fn(&str, &Event) + Send + Sync + 'static` is one: the first argument is
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
    /// Called after the event, on the task that caused it. Should be quick: the call waits.
    fn observe(&self, name: &str, event: &Event);
}

impl<F: Fn(&str, &Event) + Send + Sync + 'static> Observer for F {
    fn observe(&self, name: &str, event: &Event) {
        self(name, event);
    }
}

/// The one way from a pattern to the outside.
#[derive(Clone)]
pub(crate) struct Funnel {
    name: Arc<str>,
    observers: Arc<[Arc<dyn Observer>]>,
}

impl Funnel {
    pub(crate) fn new(name: Arc<str>, observers: Vec<Arc<dyn Observer>>) -> Self {
        Self {
            name,
            observers: observers.into(),
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether anybody listens to what happens call by call.
    pub(crate) fn hears_details(&self) -> bool {
        !self.observers.is_empty() || log::logs_details()
    }

    /// Tells everybody. Never call this with a lock in hand.
    pub(crate) fn publish(&self, event: &Event) {
        log::log(&self.name, event);
        for observer in self.observers.iter() {
            guarded(&self.name, || observer.observe(&self.name, event));
        }
    }
}

impl fmt::Debug for Funnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Funnel")
            .field("name", &self.name)
            .field("observers", &self.observers.len())
            .finish()
    }
}

/// Runs a user's callback. A panic in it is logged, and is not the caller's problem.
pub(crate) fn guarded(name: &str, callback: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(callback)) {
        let message = panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        tracing::error!(
            name,
            panic = message,
            "a callback panicked; the call goes on"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn an_observer_that_panics_silences_nobody() {
        let heard = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&heard);
        let funnel = Funnel::new(
            "db".into(),
            vec![
                Arc::new(|_: &str, _: &Event| panic!("observer")),
                Arc::new(move |name: &str, _: &Event| {
                    assert_eq!(name, "db");
                    count.fetch_add(1, Ordering::Relaxed);
                }),
            ],
        );
        funnel.publish(&Event::Retry(RetryEvent::Recovered { attempts: 2 }));
        assert_eq!(heard.load(Ordering::Relaxed), 1);
    }
}
