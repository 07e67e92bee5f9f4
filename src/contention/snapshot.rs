use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::permits::All;
use crate::call::Holder;
use crate::error::HolderInfo;
use crate::util::histogram::DurationSummary;
use crate::util::time::Tick;

/// A resource lock at one moment.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ResourceSnapshot {
    /// The name.
    pub name: Arc<str>,
    /// How many permits there are.
    pub capacity: usize,
    /// How many are in use; more than there are, for a while, after their number was cut.
    pub in_use: usize,
    /// How many wait.
    pub waiting: usize,
    /// Who has a permit, the longest first: one entry for each permit, also where a holder has several.
    pub holders: Vec<HolderInfo>,
    /// Who waits, the next first.
    pub waiters: Vec<WaiterInfo>,
    /// What has been counted since the lock was made, or its statistics were reset.
    pub stats: ResourceStats,
}

/// Somebody who waits for a permit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct WaiterInfo {
    /// Who.
    pub holder: Holder,
    /// For how long so far.
    pub waiting_for: Duration,
}

/// Counts and times of a resource lock.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ResourceStats {
    /// How often somebody asked for a permit.
    pub attempts: u64,
    /// How often somebody got one.
    pub acquisitions: u64,
    /// How often the lock was contended: a wait of at least the threshold, whatever it ended with, or any
    /// wait that ended without a permit, or a refusal.
    pub contentions: u64,
    /// Contentions as a share of attempts; 0 before the first attempt.
    pub contention_rate: f64,
    /// Waits that took too long.
    pub timeouts: u64,
    /// Waits whose caller went away.
    pub abandoned: u64,
    /// Refusals without a wait: the queue was full, or the caller did not want to wait.
    pub rejected: u64,
    /// Waits that were refused because they could never have ended.
    pub deadlocks: u64,
    /// The most permits in use at once. Of a lock with many, which are kept apart for groups of threads, an upper
    /// bound: the most of each group, added up.
    pub peak_in_use: usize,
    /// The most waiters at once.
    pub peak_waiting: usize,
    /// Time waited: of acquisitions (zero for those that found a free permit), timeouts and abandoned waits.
    pub wait: DurationSummary,
    /// Time held, of permits that have been given back.
    pub hold: DurationSummary,
}

impl ResourceSnapshot {
    pub(super) fn new(name: &Arc<str>, all: All<'_, Waker>, now: Tick) -> Self {
        let stats = all.stats();
        let capacity = all.capacity();
        let in_use = all.in_use();
        let waiting = all.queue().waiting();
        let holders = all.holders(usize::MAX, now);
        let waiters = all.queue().queue().map(|(holder, since)| WaiterInfo {
            holder: holder.clone(),
            waiting_for: now.since(since),
        });
        let waiters = waiters.collect();
        // Quantiles are worked out when nobody waits for it.
        drop(all);
        // After a reset, what began before it may end after it.
        let attempts = stats.attempts.max(stats.contentions).max(1);
        Self {
            name: Arc::clone(name),
            capacity,
            in_use,
            waiting,
            holders,
            waiters,
            stats: ResourceStats {
                attempts: stats.attempts,
                acquisitions: stats.acquisitions,
                contentions: stats.contentions,
                contention_rate: stats.contentions as f64 / attempts as f64,
                timeouts: stats.timeouts,
                abandoned: stats.abandoned,
                rejected: stats.rejected,
                deadlocks: stats.deadlocks,
                peak_in_use: stats.peak_in_use,
                peak_waiting: stats.peak_waiting,
                wait: stats.wait.summary(),
                hold: stats.hold.summary(),
            },
        }
    }
}

/// One edge of the graph of waits: who waits for what, and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct WaitEdge {
    /// Who waits.
    pub waiter: Holder,
    /// The resource it waits for.
    pub resource: Arc<str>,
    /// Who has a permit of it.
    pub holder: Holder,
}
