//! One shard for all threads, until they collide; then one for each group of them.

use std::iter;

use crossbeam_utils::CachePadded;

use super::collisions::Collisions;
use crate::util::sync::{OnceLock, shard_count, thread_number};

#[derive(Debug)]
pub(crate) struct Sharded<C> {
    /// For all, and later for those who looked before there were more. It stays one of them for ever.
    first: C,
    more: OnceLock<Box<[CachePadded<C>]>>,
    collisions: Collisions,
}

impl<C> Sharded<C> {
    pub(crate) fn new(first: C) -> Self {
        Self {
            first,
            more: OnceLock::new(),
            collisions: Collisions::default(),
        }
    }

    /// The shard of this thread.
    #[inline]
    pub(crate) fn mine(&self) -> &C {
        match self.more.get() {
            Some(more) => &more[thread_number() & (more.len() - 1)],
            None => &self.first,
        }
    }

    /// The shard of this thread, and by what number [`at`](Self::at) finds it again.
    #[inline]
    pub(crate) fn mine_numbered(&self) -> (usize, &C) {
        match self.more.get() {
            Some(more) => {
                let index = thread_number() & (more.len() - 1);
                (index + 1, &more[index])
            }
            None => (0, &self.first),
        }
    }

    #[inline]
    pub(crate) fn at(&self, number: usize) -> &C {
        match (number.checked_sub(1), self.more.get()) {
            (Some(index), Some(more)) => &more[index],
            (_, _) => &self.first,
        }
    }

    #[inline]
    pub(crate) fn has_grown(&self) -> bool {
        self.more.get().is_some()
    }

    /// All shards that anybody can have written.
    pub(crate) fn all(&self) -> impl Iterator<Item = &C> {
        let more = self.more.get().into_iter().flatten();
        iter::once(&self.first).chain(more.map(|shard| &**shard))
    }

    /// Two threads have met at a shard. Whether that happens so often that it should grow.
    #[cold]
    pub(crate) fn collided(&self) -> bool {
        self.collisions.collided() && self.more.get().is_none()
    }

    pub(crate) fn grow(&self, shard: impl Fn() -> C) {
        self.more.get_or_init(|| {
            let shards = iter::repeat_with(|| CachePadded::new(shard()));
            shards.take(shard_count()).collect()
        });
    }
}
