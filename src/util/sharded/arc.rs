//! Shared ownership by many threads at once, without one count that they all write.
//!
//! Every call in flight owns a shard of its handle's state, so the state lives as long as the call. At first
//! there is one count, as of any `Arc`. Once threads are seen to collide at it there is one for each group of
//! threads, in a cache line of its own.

use std::fmt;
use std::ops::Deref;
use std::slice;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use crossbeam_utils::CachePadded;

use crate::util::sharded::Collisions;
use crate::util::sync::{shard_count, thread_number};

/// What handles and services hold.
pub(crate) struct ShardedArc<T>(Arc<Inner<T>>);

#[repr(C)]
struct Inner<T> {
    // The count of `Inner` is written whenever a service is cloned; what follows is read by every call.
    _apart: [u64; 6],
    more: OnceLock<Box<[ArcShard<T>]>>,
    first: ArcShard<T>,
    value: Arc<T>,
    collisions: Collisions,
}

/// What a call in flight holds.
pub(crate) struct ArcShard<T>(Arc<ShardValue<T>>);

/// What a shard points to.
#[repr(C)]
pub(crate) struct ShardValue<T> {
    value: Arc<T>,
    // So that the counts of two allocations side by side are in different lines.
    _apart: [u64; 6],
}

impl<T> ShardValue<T> {
    pub(crate) fn value(&self) -> &T {
        &self.value
    }
}

impl<T> ArcShard<T> {
    /// For those who keep it under another type.
    pub(crate) fn into_arc(self) -> Arc<ShardValue<T>> {
        self.0
    }

    fn new(value: &Arc<T>) -> Self {
        Self(Arc::new(ShardValue {
            value: Arc::clone(value),
            _apart: [0; 6],
        }))
    }
}

impl<T> ShardedArc<T> {
    pub(crate) fn new(value: T) -> Self {
        let value = Arc::new(value);
        Self(Arc::new(Inner {
            _apart: [0; 6],
            more: OnceLock::new(),
            first: ArcShard::new(&value),
            value,
            collisions: Collisions::default(),
        }))
    }

    /// The shard of this thread's group.
    #[inline(always)]
    pub(crate) fn mine(&self) -> ArcShard<T> {
        self.mine_if(false)
    }

    /// The same; `crowded` says that threads have been seen to collide at something else of this handle.
    #[inline(always)]
    pub(crate) fn mine_if(&self, crowded: bool) -> ArcShard<T> {
        let inner = &*self.0;
        if crowded && inner.more.get().is_none() {
            inner.grow();
        }
        let shards = match inner.more.get() {
            Some(shards) => &**shards,
            None => slice::from_ref(&inner.first),
        };
        let shard = &shards[thread_number() & (shards.len() - 1)];
        let before = Arc::strong_count(&shard.0);
        let taken = shard.clone();
        // Somebody else has come or gone meanwhile: that is a collision.
        if Arc::strong_count(&shard.0) != before + 1 {
            inner.collided();
        }
        taken
    }
}

impl<T> Inner<T> {
    #[cold]
    fn collided(&self) {
        if self.collisions.collided() {
            self.grow();
        }
    }

    #[cold]
    fn grow(&self) {
        let shard = |_| ArcShard::new(&self.value);
        self.more
            .get_or_init(|| (0..shard_count()).map(shard).collect());
    }
}

impl<T> ShardedArc<T> {
    /// Whether nobody else holds it: no other handle, and no call in flight.
    pub(crate) fn is_sole(&self) -> bool {
        let shards = self.0.more.get().into_iter().flatten();
        let free = |shard: &ArcShard<T>| Arc::strong_count(&shard.0) == 1;
        Arc::strong_count(&self.0) == 1 && free(&self.0.first) && { shards }.all(free)
    }

    /// What it is all about, for those who compare or keep it.
    pub(crate) fn whole(&self) -> &Arc<T> {
        &self.0.value
    }
}

impl<T> ArcShard<T> {
    /// What it is a shard of.
    pub(crate) fn whole(&self) -> &Arc<T> {
        &self.0.value
    }
}

impl<T> Clone for ShardedArc<T> {
    #[inline]
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for ShardedArc<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T> Deref for ArcShard<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T> Clone for ArcShard<T> {
    #[inline]
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: fmt::Debug> fmt::Debug for ArcShard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// Something that is written seldom, and taken by many threads at once. Whoever writes it, or lets it grow,
/// holds a lock of its own.
pub(crate) struct ShardedSlot<T> {
    first: ArcSwapOption<T>,
    more: OnceLock<Box<[CachePadded<ArcSwapOption<T>>]>>,
}

impl<T: Clone> ShardedSlot<T> {
    pub(crate) const fn empty() -> Self {
        Self {
            first: ArcSwapOption::const_empty(),
            more: OnceLock::new(),
        }
    }

    /// Each group of threads gets a copy of its own.
    pub(crate) fn store(&self, value: &T) {
        for copy in self.more.get().into_iter().flatten() {
            copy.store(Some(Arc::new(value.clone())));
        }
        self.first.store(Some(Arc::new(value.clone())));
    }

    pub(crate) fn grow(&self) {
        let value = self.first.load_full();
        let copy = |_| {
            let copy = value.as_deref().cloned().map(Arc::new);
            CachePadded::new(ArcSwapOption::new(copy))
        };
        self.more
            .get_or_init(|| (0..shard_count()).map(copy).collect());
    }

    #[inline]
    pub(crate) fn take(&self) -> Option<Arc<T>> {
        match self.more.get() {
            Some(copies) => copies[thread_number() & (copies.len() - 1)].load_full(),
            None => self.first.load_full(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_lives_as_long_as_the_last_shard_and_no_longer() {
        let state = Arc::new(());
        let spread = ShardedArc::new(Arc::clone(&state));
        let clone = spread.clone();
        let shard = spread.mine();
        drop((spread, clone));
        assert_eq!(Arc::strong_count(&state), 2, "the call still runs");
        assert!(Arc::ptr_eq(&shard, &state));
        drop(shard);
        assert_eq!(Arc::strong_count(&state), 1);
    }

    #[test]
    fn a_shard_taken_before_it_grew_keeps_the_state_as_one_taken_after() {
        let state = Arc::new(());
        let spread = ShardedArc::new(Arc::clone(&state));
        let early = spread.mine();
        for _ in 0..1_000 {
            spread.0.collided();
        }
        assert!(spread.0.more.get().is_some());
        let late = spread.mine();
        drop(spread);
        drop(early);
        assert_eq!(Arc::strong_count(&state), 2);
        drop(late);
        assert_eq!(Arc::strong_count(&state), 1);
    }
}
