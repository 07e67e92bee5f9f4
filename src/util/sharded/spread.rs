//! Shared ownership by many threads at once, without one count that they all write.
//!
//! Every call on its way owns a share of its handle's state, so the state lives as long as the call. With a
//! plain `Arc` the threads of a busy service would pass the cache line of its count around, twice a call.
//! Here there is an `Arc` for each group of threads, in a cache line of its own.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use arc_swap::ArcSwap;
use crossbeam_utils::CachePadded;

use crate::util::sync::{stripe_count, thread_number};

/// What handles and services hold.
pub(crate) struct Spread<T>(Arc<Hub<T>>);

struct Hub<T> {
    value: Arc<T>,
    shares: Box<[Share<T>]>,
}

/// What a call on its way holds.
pub(crate) struct Share<T>(Arc<CachePadded<Arc<T>>>);

impl<T> Spread<T> {
    pub(crate) fn new(value: T) -> Self {
        let value = Arc::new(value);
        let share = |_| Share(Arc::new(CachePadded::new(Arc::clone(&value))));
        Self(Arc::new(Hub {
            shares: (0..stripe_count()).map(share).collect(),
            value,
        }))
    }

    /// The share of this thread's group.
    #[inline]
    pub(crate) fn share(&self) -> Share<T> {
        let shares = &self.0.shares;
        shares[thread_number() & (shares.len() - 1)].clone()
    }
}

impl<T> Spread<T> {
    /// What it is all about, for those who compare or keep it.
    pub(crate) fn whole(&self) -> &Arc<T> {
        &self.0.value
    }
}

impl<T> Share<T> {
    /// What it is a share of.
    pub(crate) fn whole(&self) -> &Arc<T> {
        &self.0
    }
}

impl<T> Clone for Spread<T> {
    #[inline]
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for Spread<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T> Deref for Share<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Clone for Share<T> {
    #[inline]
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: fmt::Debug> fmt::Debug for Share<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// Something that is written seldom, and taken by many threads at once.
pub(crate) struct Board<T>(Box<[CachePadded<ArcSwap<T>>]>);

impl<T: Clone> Board<T> {
    pub(crate) fn new(value: &T) -> Self {
        let copy = |_| CachePadded::new(ArcSwap::from_pointee(value.clone()));
        Self((0..stripe_count()).map(copy).collect())
    }

    /// Each group of threads gets a copy of its own.
    pub(crate) fn store(&self, value: &T) {
        for copy in &self.0 {
            copy.store(Arc::new(value.clone()));
        }
    }

    #[inline]
    pub(crate) fn take(&self) -> Arc<T> {
        self.0[thread_number() & (self.0.len() - 1)].load_full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_lives_as_long_as_the_last_share_and_no_longer() {
        let state = Arc::new(());
        let spread = Spread::new(Arc::clone(&state));
        let clone = spread.clone();
        let share = spread.share();
        drop((spread, clone));
        assert_eq!(Arc::strong_count(&state), 2, "the call still runs");
        assert!(Arc::ptr_eq(&share, &state));
        drop(share);
        assert_eq!(Arc::strong_count(&state), 1);
    }
}
