use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::budget::RetryBudget;
use super::config::RetryConfig;
use crate::error::Rejection;
use crate::event::RetryEvent;
use crate::event::{Event, Funnel, Observer, guarded};
use crate::util::random::Random;
use crate::util::sharded::ShardedArc;

/// What an attempt ended with, as `on_retry` sees it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum AttemptOutcome<'a> {
    /// The service's own error: `error.downcast_ref::<MyError>()` gives it back typed.
    Error(&'a (dyn std::error::Error + 'static)),
    /// A response that was judged a failure.
    Response,
    /// The attempt took too long.
    TimedOut,
    /// A layer below refused the call.
    Rejected(&'a Rejection),
}

pub(super) type OnRetry = Arc<dyn Fn(u32, Duration, &AttemptOutcome<'_>) + Send + Sync>;

/// When, how often, and after which waits a call is tried again: a cheap clone of shared, named rules.
///
/// Clones share the budget, the source of random numbers and the counters.
#[derive(Clone)]
pub struct RetryPolicy {
    pub(super) shared: ShardedArc<Shared>,
}

pub(super) struct Shared {
    pub(super) config: RetryConfig,
    pub(super) random: Random,
    funnel: Funnel,
    on_retry: Vec<OnRetry>,
    retries: AtomicU64,
    recovered: AtomicU64,
    gave_up: AtomicU64,
}

impl RetryPolicy {
    pub(super) fn from_parts(
        name: Arc<str>,
        config: RetryConfig,
        on_retry: Vec<OnRetry>,
        observers: Vec<Arc<dyn Observer>>,
        seed: Option<u64>,
    ) -> Self {
        Self {
            shared: ShardedArc::new(Shared {
                config,
                random: Random::new(seed),
                funnel: Funnel::new(name, observers),
                on_retry,
                retries: AtomicU64::new(0),
                recovered: AtomicU64::new(0),
                gave_up: AtomicU64::new(0),
            }),
        }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared.funnel.name()
    }

    /// What it goes by.
    #[must_use]
    pub fn config(&self) -> &RetryConfig {
        &self.shared.config
    }

    /// What has happened so far.
    #[must_use]
    pub fn snapshot(&self) -> RetrySnapshot {
        let shared = &self.shared;
        RetrySnapshot {
            name: Arc::clone(shared.funnel.name()),
            retries: shared.retries.load(Ordering::Relaxed),
            recovered: shared.recovered.load(Ordering::Relaxed),
            gave_up: shared.gave_up.load(Ordering::Relaxed),
            budget_available: shared
                .config
                .budget
                .as_ref()
                .and_then(RetryBudget::available),
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.funnel.name().fmt(f)
    }
}

impl Shared {
    pub(super) fn name(&self) -> &Arc<str> {
        self.funnel.name()
    }

    /// Counts an event, tells of it, and, if a retry follows, calls back.
    pub(super) fn tell(&self, event: RetryEvent, outcome: Option<&AttemptOutcome<'_>>) {
        let count = match &event {
            RetryEvent::Scheduled { .. } => &self.retries,
            RetryEvent::Recovered { .. } => &self.recovered,
            RetryEvent::GaveUp { .. } => &self.gave_up,
        };
        count.fetch_add(1, Ordering::Relaxed);
        if let (RetryEvent::Scheduled { attempt, delay, .. }, Some(outcome)) = (&event, outcome) {
            for callback in &self.on_retry {
                guarded(self.funnel.name(), || callback(*attempt, *delay, outcome));
            }
        }
        self.funnel.publish(&Event::Retry(event));
    }
}

impl fmt::Debug for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryPolicy")
            .field("name", &self.name())
            .field("config", self.config())
            .finish_non_exhaustive()
    }
}

/// A retry policy at one moment. The counts start when the policy is made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RetrySnapshot {
    /// The name.
    pub name: Arc<str>,
    /// Retries that were scheduled.
    pub retries: u64,
    /// Calls that succeeded after at least one retry.
    pub recovered: u64,
    /// Calls that failed although another attempt was wanted.
    pub gave_up: u64,
    /// How many retries the budget would pay for, if there is one that says.
    pub budget_available: Option<u64>,
}
