use std::fmt;

use super::cost::Cost;
use super::shared::Shared;
use crate::util::sharded::ArcShard;

/// What a call has taken. Dropped, it stays taken: the call was made, and the service has counted it.
pub struct Reservation {
    pub(super) shared: ArcShard<Shared>,
    pub(super) cost: Cost,
    pub(super) version: u64,
}

impl Reservation {
    /// What was taken.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// Says what was used in truth: what is left over is given back, and what was used beyond it is owed: the next calls
    /// wait for it.
    pub fn settle(self, used: impl Into<Cost>) {
        self.shared.settle(self.version, self.cost, used.into());
    }

    /// The call was not made: all of it is given back.
    pub fn cancel(self) {
        self.settle(0);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("limit", self.shared.name())
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}
