use std::borrow::Borrow;
use std::fmt;
use std::time::Duration;

use super::handle::ResourceLock;
use super::holder::Holder;
use super::list::Key;
use crate::time;

/// A permit in hand; given back when dropped.
pub(super) struct Slot<B: Borrow<ResourceLock>> {
    lock: B,
    permit: Key,
}

impl<B: Borrow<ResourceLock>> Slot<B> {
    pub(super) fn new(lock: B, permit: Key) -> Self {
        Self { lock, permit }
    }

    pub(super) fn lock(&self) -> &ResourceLock {
        self.lock.borrow()
    }

    pub(super) fn permit(&self) -> Key {
        self.permit
    }

    fn holder(&self) -> Holder {
        let state = self.lock().shared.state();
        match state.get_held(self.permit) {
            Some(held) => held.holder.clone(),
            None => Holder::from(""), // Never: the permit is ours until it is dropped.
        }
    }

    pub(super) fn held_for(&self) -> Duration {
        let now = time::now();
        let state = self.lock().shared.state();
        state
            .get_held(self.permit)
            .map_or(Duration::ZERO, |held| now.since(held.since))
    }
}

impl<B: Borrow<ResourceLock>> Drop for Slot<B> {
    fn drop(&mut self) {
        self.lock.borrow().shared.release(self.permit);
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
                self.0.lock().name()
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
