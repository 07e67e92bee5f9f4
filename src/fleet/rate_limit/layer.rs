//! The layer of a shared limit is that of a local one.

use super::acquire::FleetRateAcquire;
use super::handle::FleetRateLimit;
use super::reservation::FleetReservation;
use crate::error::AsError;
use crate::rate_limit::{Cost, LearnNothing, Limit, OneEach, RateLimitLayer, sealed::Sealed};

/// A [`RateLimitLayer`] of a [`FleetRateLimit`].
pub type FleetRateLimitLayer<L, C = OneEach, T = LearnNothing, A = AsError> =
    RateLimitLayer<L, C, T, A, FleetRateLimit>;

impl FleetRateLimit {
    /// A layer whose calls go by this limit: that of a [`RateLimit`](crate::RateLimit). `L` is the service's own error, and inferred.
    ///
    /// A call for which there are leased tokens is made at once, by the instance that is ready. Any other is made by a clone,
    /// which is made ready when its turn has come.
    #[must_use]
    pub fn layer<L>(&self) -> FleetRateLimitLayer<L> {
        RateLimitLayer::new(self.clone())
    }
}

impl Sealed for FleetRateLimit {}

impl Limit for FleetRateLimit {
    type Taken = FleetReservation;
    type Wait = FleetRateAcquire;

    fn take(&self, cost: Cost) -> Result<FleetReservation, FleetRateAcquire> {
        let mut acquire = self.acquire(cost);
        acquire.take_ready().ok_or(acquire)
    }
}
