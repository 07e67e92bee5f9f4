//! Counters that every healthy call touches: one shard at first, and one for each group of threads once threads
//! are seen to collide at it.
//!
//! A shard holds its count together with a *tag*, in one word: adding to a shard under an outdated tag fails, so
//! whoever drains the shards under a new tag knows that nothing is added to the old one afterwards.

use std::sync::atomic::Ordering;

use super::shards::Sharded;
use crate::util::sync::AtomicU64;

/// One count in as many parts as there are shards, all under one tag.
#[derive(Debug)]
pub(crate) struct TaggedCounter {
    pub(crate) words: Sharded<AtomicU64>,
}

/// What became of an attempt to add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Added {
    Yes,
    /// Yes, and threads collide here so often that it should [grow](TaggedCounter::grow).
    Crowded,
    /// The shard has another tag, or is full: it must be drained first.
    No,
}

pub(crate) const fn word(tag: u32, count: u32) -> u64 {
    (tag as u64) << 32 | count as u64
}

const fn tag_of(word: u64) -> u32 {
    (word >> 32) as u32
}

const fn count_of(word: u64) -> u32 {
    word as u32
}

impl TaggedCounter {
    pub(crate) fn new() -> Self {
        Self {
            words: Sharded::new(AtomicU64::new(word(0, 0))),
        }
    }

    /// Adds one under `tag`.
    #[inline]
    pub(crate) fn add(&self, tag: u32) -> Added {
        let shard = self.words.mine();
        let seen = shard.load(Ordering::Relaxed);
        if tag_of(seen) != tag || count_of(seen) == u32::MAX {
            return Added::No;
        }
        // Release, so that a drain that takes this one also sees what came before it.
        match shard.compare_exchange(seen, seen + 1, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => Added::Yes,
            Err(other) => self.add_again(shard, other, tag),
        }
    }

    #[cold]
    fn add_again(&self, shard: &AtomicU64, mut seen: u64, tag: u32) -> Added {
        while tag_of(seen) == tag && count_of(seen) < u32::MAX {
            let new = seen + 1;
            match shard.compare_exchange(seen, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) if self.words.collided() => return Added::Crowded,
                Ok(_) => return Added::Yes,
                Err(other) => seen = other,
            }
        }
        Added::No
    }

    /// Makes a shard for each group of threads. Under the lock that is held to drain, with the tag that was
    /// drained to last: so no shard ever has a tag that a drain has ended.
    pub(crate) fn grow(&self, tag: u32) {
        self.words.grow(|| AtomicU64::new(word(tag, 0)));
    }

    /// Empties all shards, gives them `new_tag`, and hands what was in them to `take`.
    pub(crate) fn drain(&self, new_tag: u32, mut take: impl FnMut(u32, u32)) {
        for shard in self.words.all() {
            let old = shard.swap(word(new_tag, 0), Ordering::AcqRel);
            if count_of(old) > 0 {
                take(tag_of(old), count_of(old));
            }
        }
    }

    /// The sum of all shards, for tests.
    #[cfg(test)]
    pub(crate) fn sum(&self) -> u64 {
        let count = |shard: &AtomicU64| u64::from(count_of(shard.load(Ordering::Acquire)));
        self.words.all().map(count).sum()
    }
}

/// A plain counter.
#[derive(Debug)]
pub(crate) struct ShardedCounter {
    counts: Sharded<AtomicU64>,
}

impl ShardedCounter {
    pub(crate) fn new() -> Self {
        Self {
            counts: Sharded::new(AtomicU64::new(0)),
        }
    }

    /// `true` if it has just grown: what is taken at the same time may have to grow as well.
    #[inline]
    pub(crate) fn add_one(&self) -> bool {
        let shard = self.counts.mine();
        let seen = shard.load(Ordering::Relaxed);
        let new = seen.wrapping_add(1);
        match shard.compare_exchange(seen, new, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => false,
            Err(_) => {
                shard.fetch_add(1, Ordering::Relaxed);
                self.collided()
            }
        }
    }

    #[cold]
    fn collided(&self) -> bool {
        let crowded = self.counts.collided();
        if crowded {
            self.counts.grow(|| AtomicU64::new(0));
        }
        crowded
    }

    pub(crate) fn sum(&self) -> u64 {
        self.counts.all().fold(0, |sum, count| {
            sum.wrapping_add(count.load(Ordering::Relaxed))
        })
    }

    /// Starts again at zero; what is added meanwhile is in the old count or in the new one.
    pub(crate) fn reset(&self) {
        for count in self.counts.all() {
            count.store(0, Ordering::Relaxed);
        }
    }
}
