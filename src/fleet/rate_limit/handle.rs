use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::acquire::FleetRateAcquire;
use super::shared::Shared;
use super::snapshot::FleetRateLimitSnapshot;
use crate::error::{Error, IntoError};
use crate::rate_limit::{Cost, run};

/// A rate limit that all processes of a fleet share by its name. A cheap clone.
///
/// See the [module](super) for what is promised, and what happens while the store is away.
#[derive(Clone)]
pub struct FleetRateLimit {
    pub(super) shared: Arc<Shared>,
}

impl FleetRateLimit {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared.funnel.name()
    }

    pub(crate) fn max_wait(&self) -> std::time::Duration {
        self.shared.max_wait
    }

    /// Takes `cost`, when its turn has come. Refuses at once if it is known that this would take longer than `max_wait`, or
    /// until after the ambient [deadline](crate::deadline).
    ///
    /// Where each call asks the store, it gives the turns of the whole fleet in the order in which it was asked. Where tokens
    /// are leased, the calls of one process are served in order, and processes compete.
    ///
    /// The wait counts as time at no service: attempt timeouts and slow-call clocks around it stand still.
    ///
    /// Dropping the future gives up the turn: the store is told in the background, also if it is dropped while the store is being
    /// asked. Outside a tokio runtime the turn is lost, and is earned again.
    ///
    /// # Errors
    ///
    /// [`RateLimited`](crate::rate_limit::RateLimited), with the reason, the quota, and when to come back. That the store is away is no error: see
    /// the [module](super).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with its timer, if there are no leased tokens.
    pub fn acquire(&self, cost: impl Into<Cost>) -> FleetRateAcquire {
        FleetRateAcquire::new(&self.shared, cost.into(), true)
    }

    /// Takes `cost` if it is there. Waits for the answer of the store if it must be asked, and never for a turn.
    ///
    /// # Errors
    ///
    /// [`RateLimited`](crate::rate_limit::RateLimited), with the time at which there will be enough.
    ///
    /// # Panics
    ///
    /// As [`acquire`](Self::acquire).
    pub fn try_acquire(&self, cost: impl Into<Cost>) -> FleetRateAcquire {
        FleetRateAcquire::new(&self.shared, cost.into(), false)
    }

    /// Runs `operation` when its turn has come. It costs one of each quota.
    ///
    /// Dropped before its turn it is as [`acquire`](Self::acquire). An operation that has run stays counted; one that still
    /// waited for something of this crate, as for a permit of a lock, gives back what it has taken.
    ///
    /// # Errors
    ///
    /// [`Error::RateLimited`] if it was refused, else what the operation fails with.
    pub async fn run<T, E, L, Fut>(&self, operation: impl FnOnce() -> Fut) -> Result<T, Error<L>>
    where
        Fut: Future<Output = Result<T, E>>,
        E: IntoError<L>,
    {
        let reserved = self.acquire(Cost::ONE).await.map_err(Error::RateLimited)?;
        run(reserved, operation).await
    }

    /// Nobody of the fleet passes for so long, as the service has asked: up to
    /// [`max_pause`](super::FleetRateLimitBuilder::max_pause). A pause that is shorter than what is left of another changes nothing.
    ///
    /// This process pauses at once, and tells the store in the background; outside a tokio runtime this process alone pauses.
    /// The others are told by the store, and pause about 100 ms later if its message reaches them; see the [module](super).
    pub fn pause(&self, pause: Duration) {
        self.shared.pause(pause);
    }

    /// The service says how much is left of the quota of that name: no more is believed to be there than that. Other clients
    /// may have used it. A name that no quota has changes nothing.
    ///
    /// The store is told in the background, and only if that is less than there can be by its last answer.
    pub fn left(&self, quota: &str, units: u64) {
        self.shared.left_by_service(quota, units);
    }

    /// What this process knows. Does not ask the store.
    #[must_use]
    pub fn snapshot(&self) -> FleetRateLimitSnapshot {
        self.shared.snapshot()
    }
}

impl fmt::Debug for FleetRateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetRateLimit")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}
