use std::sync::Arc;

/// What there is to know of a throttle.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ThrottleSnapshot {
    /// The name.
    pub name: Arc<str>,
    /// With which probability a call is refused now.
    pub probability: f64,
    /// Calls in the window that have ended, or were refused here.
    pub requests: u64,
    /// Those of them that the service accepted.
    pub accepts: u64,
    /// Since the beginning.
    pub totals: ThrottleTotals,
}

/// What became of calls, each counted once. Those that say nothing about the service are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ThrottleTotals {
    /// The service accepted them.
    pub accepted: u64,
    /// It did not.
    pub not_accepted: u64,
    /// They were refused here.
    pub refused: u64,
}
