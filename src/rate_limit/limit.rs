//! What a layer goes by.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use super::acquire::Acquire;
use super::cost::Cost;
use super::handle::RateLimit;
use super::request::Taken;
use super::reservation::Reservation;
use super::shadow::InForce;
use crate::error::RateLimited;
use crate::util::time;

/// What a [`RateLimitLayer`](super::RateLimitLayer) goes by: a [`RateLimit`], or (with the feature `redis`) a `FleetRateLimit`,
/// which a whole fleet shares. Sealed.
pub trait Limit: sealed::Sealed + Clone + fmt::Debug {
    #[doc(hidden)]
    type Taken: Taken;

    #[doc(hidden)]
    type Wait: Future<Output = Result<Self::Taken, RateLimited>>;

    /// What there is at once, or else a wait for it.
    #[doc(hidden)]
    fn take(&self, cost: Cost) -> Result<Self::Taken, Self::Wait>;
}

pub(crate) mod sealed {
    #[expect(unnameable_types, reason = "that is how a trait is sealed")]
    pub trait Sealed {}
    impl Sealed for super::RateLimit {}
}

impl Limit for RateLimit {
    type Taken = Reservation;
    /// In a box: a call whose turn it is is not to carry the room for it.
    type Wait = Pin<Box<Acquire>>;

    #[inline(always)]
    fn take(&self, cost: Cost) -> Result<Reservation, Self::Wait> {
        let shared = &self.shared;
        let version = shared.version();
        let now = time::now();
        if shared.try_take(cost, now).is_err() {
            return Err(Box::pin(self.acquire(cost)));
        }
        let mark = shared.asked(cost, now, true, InForce::Passed);
        Ok(Reservation {
            shared: shared.mine(),
            cost,
            version: version | mark,
        })
    }
}
