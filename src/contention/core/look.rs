//! What is seen of a lock, and counted.

use std::time::Duration;

use super::super::records::{Counts, Entry};
use super::super::word::Seen;
use super::{Core, Place, Shard};
use crate::call::Holder;
use crate::error::HolderInfo;
use crate::util::sync::Ordering;
use crate::util::time::Tick;

impl Core {
    pub(in super::super) fn seen(&self) -> Seen {
        self.word.look()
    }

    /// How many permits have to be free before this waiter gets its own; `None` once it has them.
    pub(in super::super) fn needs(&self, place: Place, now: Tick) -> Option<u32> {
        self.queue().needs(place.at, now)
    }

    /// What is recorded of a permit in use.
    pub(in super::super) fn look_at<T>(
        &self,
        place: Place,
        look: impl FnOnce(&Entry) -> T,
    ) -> Option<T> {
        self.shard(place).lock().get(place.at).map(look)
    }

    /// Each permit in use with its place, one shard after the other: what is released meanwhile may be missed.
    pub(in super::super) fn for_each_holder(&self, mut each: impl FnMut(Place, &Entry)) {
        for (shard, records) in (0u32..).zip(self.shards.all()) {
            for (at, entry) in records.lock().holders() {
                each(
                    Place {
                        shard,
                        at,
                        n: entry.n,
                    },
                    entry,
                );
            }
        }
    }

    /// The longest holders, at most so many. No more are looked at in each shard, however many hold and wait.
    pub(in super::super) fn holders(&self, most: usize, now: Tick) -> Vec<HolderInfo> {
        let mut longest = Vec::new();
        for shard in self.shards.all() {
            let records = shard.lock();
            longest.extend(records.holders().take(most).map(|(_, it)| it.info(now)));
        }
        longest.sort_by_key(|info| std::cmp::Reverse(info.held_for));
        longest.truncate(most);
        longest
    }

    pub(in super::super) fn waiting(&self) -> usize {
        self.queue().waiting() as usize
    }

    /// The first of those who wait, at most so many.
    pub(in super::super) fn waiters(&self, most: usize, now: Tick) -> Vec<(Holder, Duration)> {
        let queue = self.queue();
        let first = queue.queue().take(most);
        first
            .map(|it| (it.holder.clone(), now.since(it.since)))
            .collect()
    }

    /// Counts and times of all shards.
    pub(in super::super) fn counts(&self, now: Tick) -> Counts {
        let of_shard = |shard: &Shard| {
            let mut records = shard.lock();
            records.counts.turn(now);
            records.counts.clone()
        };
        let mut shards = self.shards.all().map(of_shard);
        let mut counts = shards.next().unwrap_or_default();
        shards.for_each(|it| counts.add(&it));
        counts
    }

    /// For how long permits were held that came back lately, on average; else since the beginning.
    pub(in super::super) fn mean_hold(&self, now: Tick) -> Option<Duration> {
        let mut totals = [(0, 0); 2];
        for shard in self.shards.all() {
            let mut records = shard.lock();
            records.counts.turn(now);
            for (total, more) in totals.iter_mut().zip(records.counts.hold.totals()) {
                *total = (total.0 + more.0, total.1 + more.1);
            }
        }
        let (count, sum) = totals.into_iter().find(|it| it.0 > 0)?;
        let mean = sum / u128::from(count);
        Some(Duration::from_nanos(
            u64::try_from(mean).unwrap_or(u64::MAX),
        ))
    }

    /// Who has had permits for at least `threshold` and has not been reported; now it has. With `claimed`, who holds
    /// them; else who was granted them and has not run since.
    pub(in super::super) fn report_long(
        &self,
        threshold: Duration,
        claimed: bool,
        now: Tick,
    ) -> Vec<HolderInfo> {
        let report = |shard: &Shard| shard.lock().report_long(threshold, claimed, now);
        self.shards.all().flat_map(report).collect()
    }

    /// Whether somebody who wants one permit now finds it.
    pub(in super::super) fn has_free(&self) -> bool {
        let seen = self.word.look();
        !seen.is_closed() && seen.in_use() < seen.capacity() && self.waiting() == 0
    }

    /// How often somebody found the queue full.
    pub(in super::super) fn queue_full(&self) -> u64 {
        self.queue().counts.queue_full
    }

    /// Waits that an overloaded or full queue has ended.
    pub(in super::super) fn shed(&self) -> u64 {
        self.queue().counts.shed
    }

    pub(in super::super) fn peak_in_use(&self) -> u32 {
        self.word.peak()
    }

    /// Refusals without a wait, except by a full queue.
    pub(in super::super) fn refused(&self) -> u64 {
        let counts = self.shards.all();
        counts.fold(0, |sum, shard| {
            sum.wrapping_add(shard.refused.load(Ordering::Relaxed))
        })
    }

    pub(in super::super) fn reset_counts(&self) {
        self.word.reset_peak();
        for shard in self.shards.all() {
            shard.refused.store(0, Ordering::Relaxed);
            shard.lock().reset_counts();
        }
    }
}
