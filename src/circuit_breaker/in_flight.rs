//! Calls on their way, by when they started: so that a call that hangs is slow *now*, not when it
//! returns.
//!
//! Starting and ending a call is one atomic operation on a bucket of the thread that started it.
//! Whoever holds the breaker's lock sweeps the buckets that are older than the slow threshold; a call
//! that ends after its bucket was swept learns that it has been counted already.
//!
//! A bucket belongs to one epoch of the breaker: calls of another epoch are not counted in it, and
//! not taken out of it either.

use std::num::NonZeroU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::util::sharded::Sharded;
use crate::util::sync::AtomicU64;
use crate::util::time::{Tick, nanos};

/// Buckets to a threshold: a hanging call is noticed at most an eighth of the threshold late.
pub(super) const TO_THRESHOLD: u64 = 8;
pub(super) const BUCKETS: usize = 16;

/// A bucket is one word: an epoch, the bucket's number (the lower bits of both), and how many of its
/// calls still run.
const COUNT_BITS: u32 = 22;
const NUMBER_BITS: u32 = 22;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const NUMBER_MASK: u64 = (1 << NUMBER_BITS) - 1;
const EPOCH_MASK: u64 = (1 << (64 - COUNT_BITS - NUMBER_BITS)) - 1;

type Buckets = [AtomicU64; BUCKETS];

fn empty() -> Buckets {
    std::array::from_fn(|_| AtomicU64::new(0))
}

#[derive(Debug)]
pub(super) struct InFlight {
    width: u64,
    shards: Sharded<Buckets>,
    next_sweep: AtomicU64,
    /// When it was swept last; written by whoever holds the lock.
    last_sweep: AtomicU64,
}

/// Where a running call is counted: the bucket and the shard, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(NonZeroU64);

const SHARD_BITS: u32 = 16;
const TAKEN: NonZeroU64 = NonZeroU64::new(1 << 63).unwrap();

impl Entry {
    fn new(shard: usize, bucket: Bucket) -> Self {
        let tag = bucket.word(0) >> COUNT_BITS;
        let shard = shard as u64 & ((1 << SHARD_BITS) - 1);
        Self(TAKEN | tag << SHARD_BITS | shard)
    }

    pub(super) fn to_word(self) -> u64 {
        self.0.get()
    }

    pub(super) fn from_word(word: u64) -> Option<Self> {
        NonZeroU64::new(word).map(Self)
    }

    fn shard(self) -> usize {
        (self.0.get() & ((1 << SHARD_BITS) - 1)) as usize
    }

    fn bucket(self) -> Bucket {
        let tag = (self.0.get() ^ TAKEN.get()) >> SHARD_BITS;
        Bucket::read(tag << COUNT_BITS).0
    }
}

/// Which calls a bucket counts: those that started in this epoch, in this eighth of a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket {
    epoch: u64,
    number: u64,
}

impl Bucket {
    const fn word(self, count: u64) -> u64 {
        (self.epoch << NUMBER_BITS | self.number) << COUNT_BITS | count
    }

    const fn read(word: u64) -> (Self, u64) {
        let bucket = Self {
            epoch: word >> (COUNT_BITS + NUMBER_BITS),
            number: word >> COUNT_BITS & NUMBER_MASK,
        };
        (bucket, word & COUNT_MASK)
    }
}

impl InFlight {
    pub(super) fn new(threshold: Duration) -> Self {
        Self {
            width: nanos(threshold).div_ceil(TO_THRESHOLD).max(1),
            shards: Sharded::new(empty()),
            next_sweep: AtomicU64::new(0),
            last_sweep: AtomicU64::new(0),
        }
    }

    fn bucket(&self, epoch: u32, now: Tick) -> Bucket {
        Bucket {
            epoch: u64::from(epoch) & EPOCH_MASK,
            number: (now.0 / self.width) & NUMBER_MASK,
        }
    }

    /// Counts a call of `epoch` that starts at `now`. `None` if other calls are in its bucket, of long
    /// ago or of another epoch: sweep first.
    pub(super) fn enter(&self, epoch: u32, now: Tick) -> Option<Entry> {
        let bucket = self.bucket(epoch, now);
        let (shard, words) = self.shards.mine_numbered();
        let word = &words[bucket.number as usize % BUCKETS];
        let mut seen = word.load(Ordering::Relaxed);
        let mut collided = false;
        loop {
            let new = match Bucket::read(seen) {
                (b, count) if b == bucket && count < COUNT_MASK => bucket.word(count + 1),
                (b, 0) if b != bucket => bucket.word(1),
                (_, _) => return None,
            };
            match word.compare_exchange_weak(seen, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    // Nothing is in a new shard: it can come at any time.
                    if collided && self.shards.collided() {
                        self.shards.grow(empty);
                    }
                    return Some(Entry::new(shard, bucket));
                }
                Err(other) => {
                    collided = other != seen;
                    seen = other;
                }
            }
        }
    }

    /// A call ended. `false` if it was swept before: if its epoch still goes on, it has been counted as
    /// slow.
    pub(super) fn exit(&self, entry: Entry) -> bool {
        let (shard, wanted) = (entry.shard(), entry.bucket());
        let word = &self.shards.at(shard)[wanted.number as usize % BUCKETS];
        let mut seen = word.load(Ordering::Relaxed);
        loop {
            let new = match Bucket::read(seen) {
                (bucket, count @ 1..) if bucket == wanted => bucket.word(count - 1),
                (_, _) => return false,
            };
            match word.compare_exchange_weak(seen, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(other) => seen = other,
            }
        }
    }

    /// Whether it is worth taking the lock to look for calls that hang.
    pub(super) fn is_due(&self, now: Tick) -> bool {
        now.0 >= self.next_sweep.load(Ordering::Relaxed)
    }

    /// Takes out all calls that have run for at least the threshold, and says how many of `epoch` they
    /// were. Calls of other epochs are taken out, and not counted.
    pub(super) fn sweep(&self, epoch: u32, now: Tick) -> u64 {
        self.next_sweep
            .store(now.0.saturating_add(self.width), Ordering::Relaxed);
        let newest = self.bucket(epoch, now);
        let last = Tick(self.last_sweep.swap(now.0, Ordering::Relaxed));
        // A call that starts more than a bucket after a sweep sweeps first. So nothing is younger than that, and
        // after a long pause all that is left is overdue, whatever the cut numbers of the buckets say.
        let longest = self.width.saturating_mul(TO_THRESHOLD + 3);
        let all_are_old = now.0.saturating_sub(last.0) > longest;
        let mut overdue = 0;
        for word in self.shards.all().flatten() {
            let mut seen = word.load(Ordering::Acquire);
            while let (bucket, count @ 1..) = Bucket::read(seen) {
                let foreign = bucket.epoch != newest.epoch;
                // A bucket one wider than the threshold ago ended at least a threshold ago. One that is
                // ahead (of a clock read a little later) looks very old, and is not.
                let age = newest.number.wrapping_sub(bucket.number) & NUMBER_MASK;
                if !foreign && !all_are_old && !(TO_THRESHOLD + 1..NUMBER_MASK / 2).contains(&age) {
                    break;
                }
                let new = bucket.word(0);
                match word.compare_exchange_weak(seen, new, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => {
                        overdue += if foreign { 0 } else { count };
                        break;
                    }
                    Err(other) => seen = other,
                }
            }
        }
        overdue
    }
}
