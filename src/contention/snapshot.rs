use std::sync::Arc;
use std::time::Duration;

use super::handle::ResourceLock;
use super::shadow::ResourceShadow;
use crate::call::Holder;
use crate::error::{HolderInfo, Look};
use crate::util::histogram::DurationSummary;
#[cfg(feature = "metrics")]
use crate::util::histogram::Histogram;
use crate::util::time;

/// So many holders and waiters are named: to name all of a hundred thousand would keep callers waiting.
const MOST: usize = 100;

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
    /// Whether it was closed.
    pub closed: bool,
    /// Who has permits, the longest first, at most 100: one entry for each acquisition, also where a holder has several.
    pub holders: Vec<HolderInfo>,
    /// Who waits, the next first, at most 100.
    pub waiters: Vec<WaiterInfo>,
    /// What has been counted since the lock was made, or its statistics were reset.
    pub stats: ResourceStats,
    /// Another config that is [tried](ResourceLock::shadow) on the same calls.
    pub shadow: Option<ResourceShadow>,
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
    /// Those of them by a full queue.
    pub queue_full: u64,
    /// Waits that were refused because they could never have ended.
    pub deadlocks: u64,
    /// Waits that were refused because the lock was closed, or had too few permits after a cut.
    pub closed: u64,
    /// Waits that were refused because the queue was overloaded, or full and somebody more important came.
    pub shed: u64,
    /// The most permits in use at once, exactly.
    pub peak_in_use: usize,
    /// The most waiters at once.
    pub peak_waiting: usize,
    /// Time waited: of acquisitions (zero for those that found a free permit), timeouts and abandoned waits.
    pub wait: DurationSummary,
    /// Time held, of permits that have been given back.
    pub hold: DurationSummary,
    /// Of the waits that ended in the last 30 to 60 seconds.
    pub recent_wait: DurationSummary,
    /// Of the permits that came back in the last 30 to 60 seconds.
    pub recent_hold: DurationSummary,
}

impl ResourceLock {
    /// What there is to know: counts are exact, and of holders and waiters the first 100 are named.
    ///
    /// The shards of a lock are looked at one after the other, so that no caller waits long: what happens meanwhile may
    /// show in one figure and not yet in another.
    #[must_use]
    pub fn snapshot(&self) -> ResourceSnapshot {
        let now = time::now();
        self.shared.report_long_holds(now);
        let core = &self.shared.core;
        let counts = core.counts(now);
        let rejected = core.refused() + counts.queue_full;
        let seen = core.seen();
        let waiters = core.waiters(MOST, now).into_iter();
        let ended =
            counts.timeouts + counts.abandoned + counts.deadlocks + counts.closed + counts.shed;
        let attempts = counts.at_once + counts.queued + rejected;
        let contentions = counts.contended + rejected;
        // After a reset, what began before it may end after it.
        let share_of = attempts.max(contentions).max(ended).max(1);
        ResourceSnapshot {
            name: Arc::clone(self.shared.name()),
            capacity: seen.capacity() as usize,
            in_use: seen.in_use() as usize,
            waiting: core.waiting(),
            closed: seen.is_closed(),
            holders: core.holders(MOST, now),
            waiters: waiters
                .map(|(holder, waiting_for)| WaiterInfo {
                    holder,
                    waiting_for,
                })
                .collect(),
            stats: ResourceStats {
                attempts,
                acquisitions: counts.at_once + counts.granted,
                contentions,
                contention_rate: contentions as f64 / share_of as f64,
                timeouts: counts.timeouts,
                abandoned: counts.abandoned,
                rejected,
                queue_full: counts.queue_full,
                deadlocks: counts.deadlocks,
                closed: counts.closed,
                shed: counts.shed,
                peak_in_use: core.peak_in_use() as usize,
                peak_waiting: counts.peak_waiting as usize,
                wait: counts.wait.since_the_start(),
                hold: counts.hold.since_the_start(),
                recent_wait: counts.wait.recent(),
                recent_hold: counts.hold.recent(),
            },
            shadow: self.shared.shadow_snapshot(now),
        }
    }

    /// For how long permits were held that have come back.
    #[cfg(feature = "metrics")]
    pub(crate) fn hold_times(&self) -> Histogram {
        self.shared.core.counts(time::now()).hold.all()
    }

    /// Who waits for whom here: an edge from each of the first 100 waiters to each of the 16 longest holders.
    #[must_use]
    pub fn wait_edges(&self) -> Vec<WaitEdge> {
        let now = time::now();
        let core = &self.shared.core;
        let holders = core.holders(HolderInfo::MOST_NAMED, now);
        let waiters = core.waiters(MOST, now);
        let edges = waiters.iter().flat_map(|(waiter, _)| {
            holders.iter().map(|it| WaitEdge {
                waiter: waiter.clone(),
                resource: Arc::clone(self.shared.name()),
                holder: it.holder.clone(),
            })
        });
        edges.collect()
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
