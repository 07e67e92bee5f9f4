use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::handle::{ResourceLock, Shared};
use super::list::Key;
use super::state::Held;
use crate::call::Holder;
use crate::call::context::Frame;
use crate::util::sharded::ArcShard;
use crate::util::time;

/// What leads to the lock that a permit is of.
pub(super) trait Lends {
    fn shared(&self) -> &Arc<Shared>;
}

impl Lends for ResourceLock {
    fn shared(&self) -> &Arc<Shared> {
        self.shared.whole()
    }
}

impl Lends for &ResourceLock {
    fn shared(&self) -> &Arc<Shared> {
        self.shared.whole()
    }
}

impl Lends for ArcShard<Shared> {
    #[inline]
    fn shared(&self) -> &Arc<Shared> {
        self.whole()
    }
}

/// A permit in hand; given back when dropped.
pub(super) struct Slot<B: Lends> {
    lock: B,
    permit: Key,
}

impl<B: Lends> Slot<B> {
    #[inline]
    pub(super) fn new(lock: B, permit: Key) -> Self {
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

    fn holder(&self) -> Holder {
        let holder = |held: &Held| held.holder.clone();
        let found = self.shared().permits.look_at(self.permit, holder);
        // Never: the permit is ours until it is dropped.
        found.unwrap_or_else(|| Holder::from(""))
    }

    pub(super) fn held_for(&self) -> Duration {
        let now = time::now();
        let held_for = |held: &Held| now.since(held.since);
        let found = self.shared().permits.look_at(self.permit, held_for);
        found.unwrap_or_default()
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
    /// It counts as held by the task that acquired it: should that task, under the same holder id, wait for
    /// something that cannot become free before this guard is dropped, it is told so at once. A guard that
    /// is going to be handed to another task should be an [`OwnedResourceGuard`].
    ResourceGuard<'a> over &'a ResourceLock
}

guard! {
    /// A permit of a [`ResourceLock`] that borrows nothing: it can be sent to another task, or kept in a
    /// struct. Because nobody knows where it is, it is not part of the search for deadlocks.
    OwnedResourceGuard<> over ResourceLock
}
