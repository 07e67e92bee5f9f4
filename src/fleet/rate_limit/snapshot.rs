use std::sync::Arc;
use std::time::Duration;

/// What this process knows of a shared rate limit.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct FleetRateLimitSnapshot {
    /// The name.
    pub name: Arc<str>,
    /// How long leased tokens live; `None`: each call asks the store.
    pub leases: Option<Duration>,
    /// What this process has leased of each quota.
    pub leased: Vec<u64>,
    /// What was left of each quota in the whole fleet, by the last answer of the store.
    pub left: Vec<u64>,
    /// How many processes use the limit, as far as is known. Each handle that was built counts, clones do not. A share may be
    /// of more: see [`expected_nodes`](super::FleetRateLimitBuilder::expected_nodes).
    pub nodes: u64,
    /// How many calls of this process wait in line for leased tokens.
    pub waiting: usize,
    /// How long nobody passes, because a service has asked for a pause.
    pub paused_for: Option<Duration>,
    /// How long this process has gone by its share, because the store is away.
    pub degraded_for: Option<Duration>,
    /// What has been counted since the handle was made.
    pub totals: FleetRateLimitTotals,
}

/// What one process has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct FleetRateLimitTotals {
    /// Passed at once.
    pub passed: u64,
    /// Passed after a wait.
    pub waited: u64,
    /// Refused.
    pub refused: u64,
    /// Went away while their turn was still to come.
    pub abandoned: u64,
    /// Of those that passed: by this process's share, while the store was away.
    pub local: u64,
    /// How often the store was asked.
    pub asked: u64,
    /// How often it did not answer.
    pub failed: u64,
}
