//! What a layer takes permits of.

use std::fmt;

use super::handle::ResourceLock;

/// What a [`ContentionLayer`](crate::ContentionLayer) takes permits of: a [`ResourceLock`], or (with the feature `redis`) a `FleetLock`, which a whole
/// fleet shares. Sealed.
pub trait Permits: sealed::Sealed + Clone + fmt::Debug {
    /// The lock.
    type Lock;

    #[doc(hidden)]
    fn lock(&self) -> &Self::Lock;
}

pub(crate) mod sealed {
    #[expect(unnameable_types, reason = "that is how a trait is sealed")]
    pub trait Sealed {}
    impl Sealed for super::ResourceLock {}
}

impl Permits for ResourceLock {
    type Lock = Self;

    fn lock(&self) -> &Self {
        self
    }
}
