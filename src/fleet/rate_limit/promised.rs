//! What those of this process wait for whom the store has given a turn: pure, behind a lock.
//!
//! While the store is away a turn is a part of the share of this process: the share owes it, once, however often the store goes
//! and comes back meanwhile.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::words::MOST_QUOTAS;

type Units = [u64; MOST_QUOTAS];

#[derive(Debug, Default)]
pub(super) struct Promised(Mutex<Sum>);

#[derive(Debug, Default)]
struct Sum {
    all: Units,
    /// What of it the share owes.
    owed: Units,
    /// How often the store has gone away.
    outages: u64,
}

/// One turn.
#[derive(Debug)]
pub(super) struct Promise {
    units: Units,
    outages: u64,
}

impl Promised {
    fn sum(&self) -> MutexGuard<'_, Sum> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, units: Units) -> Promise {
        let mut sum = self.sum();
        for (all, units) in sum.all.iter_mut().zip(units) {
            *all = all.saturating_add(units);
        }
        let outages = sum.outages;
        Promise { units, outages }
    }

    /// The turn has come, or is given up. Whether the share owes it.
    pub(super) fn end(&self, promise: &Promise) -> bool {
        let mut sum = self.sum();
        let is_owed = promise.outages < sum.outages;
        let Sum { all, owed, .. } = &mut *sum;
        for ((all, owed), units) in all.iter_mut().zip(owed).zip(promise.units) {
            *all = all.saturating_sub(units);
            if is_owed {
                *owed = owed.saturating_sub(units);
            }
        }
        is_owed
    }

    /// The store is away: what the share owes from now on, and has not owed before.
    pub(super) fn owe(&self) -> Units {
        let mut sum = self.sum();
        sum.outages += 1;
        let all = sum.all;
        let before = std::mem::replace(&mut sum.owed, all);
        std::array::from_fn(|i| all[i].saturating_sub(before[i]))
    }
}
