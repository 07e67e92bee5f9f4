use std::sync::Arc;
use std::time::Duration;

use crate::util::histogram::DurationSummary;

/// A hedge at one moment. The counts start when it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HedgeSnapshot {
    /// The name.
    pub name: Arc<str>,
    /// Calls that have begun.
    pub calls: u64,
    /// Those of them of which there was a hedge.
    pub hedged: u64,
    /// Hedges that have started.
    pub hedges: u64,
    /// Hedges whose answer ended their call.
    pub won: u64,
    /// Why hedges have not started.
    pub not_started: HedgesNotStarted,
    /// How long a call may be at the service now before a hedge starts; `None` as long as that is not known.
    pub delay: Option<Duration>,
    /// How long calls took in the last 30 to 60 seconds, if the delay depends on it.
    pub recent_latency: DurationSummary,
    /// How many hedges the budget would pay for, if there is one that says.
    pub budget_available: Option<u64>,
}

/// Hedges that have not started, each counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HedgesNotStarted {
    /// The budget was empty.
    pub no_budget: u64,
    /// The service below was not ready, a layer below refused, or the hedge would have had to wait in one.
    pub refused: u64,
    /// Calls whose request may not be sent twice, or cannot.
    pub not_repeatable: u64,
}
