use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::core::Place;
use super::handle::{ResourceLock, Shared};
use super::records::Entry;
use crate::call::Holder;
use crate::call::context::Frame;
use crate::error::Look;
use crate::util::sharded::ArcShard;
use crate::util::time;

/// What leads to the lock that a permit is of.
pub(super) trait Lends {
    fn shared(&self) -> &Arc<Shared>;

    /// What a refusal keeps of it.
    fn look(&self) -> Arc<dyn Look>;
}

impl Lends for ResourceLock {
    fn shared(&self) -> &Arc<Shared> {
        self.shared.whole()
    }

    fn look(&self) -> Arc<dyn Look> {
        self.shared.mine().into_arc()
    }
}

impl Lends for &ResourceLock {
    fn shared(&self) -> &Arc<Shared> {
        self.shared.whole()
    }

    fn look(&self) -> Arc<dyn Look> {
        self.shared.mine().into_arc()
    }
}

impl Lends for ArcShard<Shared> {
    #[inline]
    fn shared(&self) -> &Arc<Shared> {
        self.whole()
    }

    fn look(&self) -> Arc<dyn Look> {
        self.clone().into_arc()
    }
}

/// A permit in hand; given back when dropped.
pub(super) struct Slot<B: Lends> {
    lock: B,
    permit: Place,
}

impl<B: Lends> Slot<B> {
    #[inline]
    pub(super) fn new(lock: B, permit: Place) -> Self {
        Self::after(lock, permit, Duration::ZERO)
    }

    /// After a wait.
    #[inline]
    pub(super) fn after(lock: B, permit: Place, waited: Duration) -> Self {
        lock.shared().taken(permit, waited);
        Self { lock, permit }
    }

    #[inline]
    pub(super) fn shared(&self) -> &Arc<Shared> {
        self.lock.shared()
    }

    /// Its number among the permits of all locks.
    #[inline]
    pub(super) fn number(&self) -> u64 {
        self.shared().number_of(self.permit)
    }

    /// What waits inside of the call that holds this permit, and for it, is refused.
    #[inline]
    pub(super) fn refuse_reentry(&self, frame: &Frame) {
        if frame.is_waiting() {
            self.shared().refuse_reentry(frame);
        }
    }

    /// The call that holds the permit has succeeded.
    #[inline]
    pub(super) fn succeeded(&self, frame: &Frame) {
        if self.shared().wants_samples() {
            self.sample(frame);
        }
    }

    #[cold]
    fn sample(&self, frame: &Frame) {
        let now = time::now();
        if let Some(since) = self.look_at(|held| held.since) {
            self.shared().sample(frame.spent(since, now), now);
        }
    }

    fn look_at<T>(&self, look: impl FnOnce(&Entry) -> T) -> Option<T> {
        self.shared().core.look_at(self.permit, look)
    }

    fn holder(&self) -> Holder {
        let found = self.look_at(|held| held.holder.clone());
        // Never: the record is there until the permit is given back.
        found.unwrap_or(Holder::Anonymous(0))
    }

    pub(super) fn held_for(&self) -> Duration {
        let now = time::now();
        self.look_at(|held| now.since(held.since))
            .unwrap_or_default()
    }
}

impl<B: Lends> Drop for Slot<B> {
    #[inline]
    fn drop(&mut self) {
        self.shared().release(self.permit);
    }
}

macro_rules! guard {
    ($(#[$doc:meta])* $name:ident<$($life:lifetime)?> over $lock:ty) => {
        $(#[$doc])*
        #[must_use = "the permit is given back as soon as the guard is dropped"]
        pub struct $name<$($life)?>(pub(super) Slot<$lock>);

        impl<$($life)?> $name<$($life)?> {
            /// Who holds the permit.
            #[must_use]
            pub fn holder(&self) -> Holder {
                self.0.holder()
            }

            /// The name of the resource.
            #[must_use]
            pub fn resource(&self) -> &str {
                self.0.shared().name()
            }

            /// How many permits these are.
            #[must_use]
            pub fn permits(&self) -> usize {
                self.0.permit.permits() as usize
            }

            /// For how long the permit has been held.
            #[must_use]
            pub fn held_for(&self) -> Duration {
                self.0.held_for()
            }
        }

        impl<$($life)?> fmt::Debug for $name<$($life)?> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("resource", &self.resource())
                    .field("holder", &self.holder())
                    .finish_non_exhaustive()
            }
        }
    };
}

guard! {
    /// A permit of a [`ResourceLock`], given back when dropped.
    ///
    /// It counts as held by the task that acquired it: if that task, under the same holder id, waits for
    /// something that cannot become free before this guard is dropped, that is a deadlock. A guard that
    /// is going to be handed to another task should be an [`OwnedResourceGuard`].
    ResourceGuard<'a> over &'a ResourceLock
}

guard! {
    /// A permit of a [`ResourceLock`] that borrows nothing: it can be sent to another task, or kept in a
    /// struct. Because nobody knows where it is, it is not part of the search for deadlocks.
    OwnedResourceGuard<> over ResourceLock
}
