use std::sync::Arc;
use std::time::Duration;

use super::shadow::RateLimitShadow;
use crate::util::histogram::DurationSummary;

/// What there is to know of a rate limit.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RateLimitSnapshot {
    /// The name.
    pub name: Arc<str>,
    /// The quotas, in order.
    pub quotas: Vec<QuotaSnapshot>,
    /// How many wait.
    pub waiting: usize,
    /// How long nobody passes yet, because the service asked for it.
    pub paused_for: Option<Duration>,
    /// What has been counted since the limit was made.
    pub totals: RateLimitTotals,
    /// How long those waited who had to, and went on.
    pub wait: DurationSummary,
    /// Another config that is [tried](crate::RateLimit::shadow) on the same calls.
    pub shadow: Option<RateLimitShadow>,
}

/// What there is to know of a quota.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct QuotaSnapshot {
    /// The name.
    pub name: Arc<str>,
    /// How much may be used at once.
    pub burst: u64,
    /// How much of it there is now.
    pub available: u64,
    /// How much was used that was not there: calls that cost more than they had asked for.
    pub owed: u64,
}

/// Calls, each counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RateLimitTotals {
    /// Passed at once.
    pub passed: u64,
    /// Passed after a wait.
    pub waited: u64,
    /// Refused, before or after a wait.
    pub refused: u64,
    /// Went away while they waited.
    pub abandoned: u64,
}
