use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::core::Change;
use super::shared::Shared;
use super::words::MOST_QUOTAS;
use crate::rate_limit::{Cost, Reservation, Taken};

/// What a call has taken from a shared limit. Dropped, it stays taken: the call was made, and the service has counted it.
pub struct FleetReservation {
    shared: Arc<Shared>,
    cost: Cost,
    /// It was taken from this process's share.
    share: Option<Reservation>,
}

impl FleetReservation {
    pub(super) fn new(shared: Arc<Shared>, cost: Cost) -> Self {
        Self {
            shared,
            cost,
            share: None,
        }
    }

    pub(super) fn of_share(self, share: Reservation) -> Self {
        Self {
            share: Some(share),
            ..self
        }
    }

    /// What was taken.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// Whether it was taken from this process's share, because the store was away.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.share.is_some()
    }

    /// Says what was used in truth: what is left over is given back, and what was used beyond it is owed, up to one burst:
    /// a number that is wrong must not stop a fleet for years. The store is told in the background. If it cannot be told,
    /// what was taken stays taken: also outside a tokio runtime.
    pub fn settle(self, used: impl Into<Cost>) {
        Taken::settle(&self, used.into());
    }

    /// The call was not made: all of it is given back.
    pub fn cancel(self) {
        self.settle(0);
    }
}

/// What was used beyond what was taken: of each quota up to one burst.
fn more(changes: &[Change]) -> [u64; MOST_QUOTAS] {
    let more = |i: usize| changes.get(i).map(|it| it.more.min(it.pace.burst));
    std::array::from_fn(|i| more(i).unwrap_or_default())
}

impl Taken for FleetReservation {
    fn cost(&self) -> Cost {
        self.cost
    }

    fn settle(&self, used: Cost) {
        if let Some(share) = &self.share {
            self.shared.settled_share(self.cost, used);
            return Taken::settle(share, used);
        }
        let pairs = self.cost.each().into_iter().zip(used.each());
        let changes = pairs
            .zip(&self.shared.paces)
            .map(|((taken, used), pace)| Change {
                back: taken.saturating_sub(used),
                more: used.saturating_sub(taken),
                ..Change::nothing(*pace)
            });
        let changes: Vec<_> = changes.collect();
        if changes.iter().all(|it| it.back == it.more) {
            return;
        }
        if self.shared.is_degraded() {
            return self.shared.owes(more(&changes));
        }
        if let Ok(runtime) = Handle::try_current() {
            let shared = Arc::clone(&self.shared);
            runtime.spawn(async move {
                let _place = shared.places.acquire().await;
                if shared.is_degraded() {
                    return shared.owes(more(&changes));
                }
                if let Err(error) = shared.settle(0, &changes).await {
                    shared.degrade(&error);
                    if !error.may_have_been_done() {
                        shared.owes(more(&changes));
                    }
                }
            });
        }
    }

    fn pause(&self, pause: Duration) {
        self.shared.pause(pause);
    }

    fn left(&self, quota: &str, units: u64) {
        self.shared.left_by_service(quota, units);
    }

    fn boxed(&self) -> Box<dyn Taken> {
        Box::new(Self {
            shared: Arc::clone(&self.shared),
            cost: self.cost,
            share: self.share.as_ref().map(Reservation::copied),
        })
    }
}

impl fmt::Debug for FleetReservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetReservation")
            .field("limit", self.shared.funnel.name())
            .field("cost", &self.cost)
            .field("is_local", &self.is_local())
            .finish_non_exhaustive()
    }
}
