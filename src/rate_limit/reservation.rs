use std::fmt;
use std::time::Duration;

use super::cost::Cost;
use super::request::Taken;
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
        Taken::settle(&self, used.into());
    }

    /// The same, to be settled in place of this.
    pub(crate) fn copied(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            ..*self
        }
    }

    /// The call was not made: all of it is given back.
    pub fn cancel(self) {
        self.settle(0);
    }
}

impl Taken for Reservation {
    fn cost(&self) -> Cost {
        self.cost
    }

    fn settle(&self, used: Cost) {
        self.shared.settle(self.version, self.cost, used);
    }

    fn pause(&self, pause: Duration) {
        self.shared.pause(pause);
    }

    fn left(&self, quota: &str, units: u64) {
        self.shared.left_of(quota, units);
    }

    fn boxed(&self) -> Box<dyn Taken> {
        Box::new(self.copied())
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
