//! What has been counted in this process.

use std::time::Duration;

use crate::contention::ResourceStats;
use crate::util::recent::RecentHistogram;
use crate::util::time::Tick;

#[derive(Default)]
pub(super) struct Counts {
    pub(super) attempts: u64,
    pub(super) acquisitions: u64,
    pub(super) contentions: u64,
    pub(super) timeouts: u64,
    pub(super) abandoned: u64,
    pub(super) rejected: u64,
    pub(super) queue_full: u64,
    /// Refused because the store was away.
    pub(super) unavailable: u64,
    /// Admitted without the store.
    pub(super) local: u64,
    pub(super) lost: u64,
    pub(super) store_errors: u64,
    pub(super) peak_in_use: usize,
    pub(super) peak_waiting: usize,
    wait: RecentHistogram,
    hold: RecentHistogram,
}

impl Counts {
    pub(super) fn waited(&mut self, time: Duration, now: Tick) {
        self.wait.record(time, now);
    }

    pub(super) fn held(&mut self, time: Duration, now: Tick) {
        self.hold.record(time, now);
    }

    pub(super) fn mean_hold(&mut self, now: Tick) -> Option<Duration> {
        self.hold.turn(now);
        let recent = self.hold.recent();
        (recent.count > 0).then_some(recent.mean)
    }

    pub(super) fn stats(&mut self, now: Tick) -> ResourceStats {
        self.wait.turn(now);
        self.hold.turn(now);
        ResourceStats {
            attempts: self.attempts,
            acquisitions: self.acquisitions,
            contentions: self.contentions,
            contention_rate: self.contentions as f64
                / self.attempts.max(self.contentions).max(1) as f64,
            timeouts: self.timeouts,
            abandoned: self.abandoned,
            rejected: self.rejected,
            queue_full: self.queue_full,
            peak_in_use: self.peak_in_use,
            peak_waiting: self.peak_waiting,
            wait: self.wait.since_the_start(),
            hold: self.hold.since_the_start(),
            recent_wait: self.wait.recent(),
            recent_hold: self.hold.recent(),
            ..ResourceStats::default()
        }
    }
}
