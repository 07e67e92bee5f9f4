use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::event::{Event, FallbackEvent, Funnel, Observer};

/// Where calls go when a service does not answer: a cheap clone of shared, named counts.
///
/// The targets are part of the [layer](super::FallbackLayer), for they are services of their own.
#[derive(Clone)]
pub struct Fallback {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    funnel: Funnel,
    calls: AtomicU64,
    fell_back: AtomicU64,
    failed: AtomicU64,
}

impl Fallback {
    /// A fallback without targets yet.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self::observed(name, Vec::new())
    }

    /// The same, and each of these receives every event of it.
    pub fn observed(name: impl Into<Arc<str>>, observers: Vec<Arc<dyn Observer>>) -> Self {
        Self {
            shared: Arc::new(Shared {
                funnel: Funnel::new(name.into(), observers),
                calls: AtomicU64::new(0),
                fell_back: AtomicU64::new(0),
                failed: AtomicU64::new(0),
            }),
        }
    }

    /// Whether nobody else has a handle.
    pub(crate) fn is_disused(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared.funnel.name()
    }

    /// What has been counted so far.
    #[must_use]
    pub fn snapshot(&self) -> FallbackSnapshot {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        FallbackSnapshot {
            name: Arc::clone(self.shared.funnel.name()),
            fell_back: of(&self.shared.calls),
            steps: of(&self.shared.fell_back),
            all_failed: of(&self.shared.failed),
        }
    }
}

impl Shared {
    pub(super) fn name(&self) -> &Arc<str> {
        self.funnel.name()
    }

    pub(super) fn fell_back(&self, is_first: bool, from: &Arc<str>, to: &Arc<str>, reason: String) {
        self.calls.fetch_add(is_first.into(), Ordering::Relaxed);
        self.fell_back.fetch_add(1, Ordering::Relaxed);
        let event = FallbackEvent::FellBack {
            from: Arc::clone(from),
            to: Arc::clone(to),
            reason,
        };
        self.funnel.publish(&Event::Fallback(event));
    }

    pub(super) fn all_failed(&self, targets: usize) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let event = FallbackEvent::AllFailed { targets };
        self.funnel.publish(&Event::Fallback(event));
    }
}

impl fmt::Debug for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fallback")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

/// What there is to know of a fallback.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct FallbackSnapshot {
    /// The name.
    pub name: Arc<str>,
    /// Calls that the service itself did not answer.
    pub fell_back: u64,
    /// How often a next target was asked, for all of them together.
    pub steps: u64,
    /// Calls that no target answered.
    pub all_failed: u64,
}
