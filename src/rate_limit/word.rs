//! A limit with one quota, in a word: whoever finds it open takes from it without a lock.

use super::bucket::{Pace, Time};
use crate::util::sync::{AtomicU64, Ordering};

/// When the quota is full again; or that it is closed, because somebody waits or there is a pause: then whoever has the
/// lock knows, and nobody else changes it. Of a limit with several quotas it always is.
pub(super) struct Word(AtomicU64);

/// The lowest bit.
const CLOSED: u64 = 1;

impl Word {
    pub(super) fn new(is_open: bool) -> Self {
        Self(AtomicU64::new(match is_open {
            true => 0,
            false => CLOSED,
        }))
    }

    /// Takes `units`, or says when they can be taken. `None`: it is closed.
    #[inline]
    pub(super) fn try_take(&self, pace: Pace, units: u64, now: Time) -> Option<Result<(), Time>> {
        let mut word = self.0.load(Ordering::Acquire);
        while word & CLOSED == 0 {
            let full = word >> 1;
            let at = pace.free_at(full, units);
            if at > now {
                return Some(Err(at));
            }
            let taken = pace.taken(full, units, now) << 1;
            let swapped =
                self.0
                    .compare_exchange_weak(word, taken, Ordering::AcqRel, Ordering::Acquire);
            match swapped {
                Ok(_) => return Some(Ok(())),
                Err(seen) => word = seen,
            }
        }
        None
    }

    /// From here on only whoever has the lock changes the quota. What it was, if it was open.
    pub(super) fn close(&self) -> Option<Time> {
        let word = self.0.fetch_or(CLOSED, Ordering::AcqRel);
        (word & CLOSED == 0).then_some(word >> 1)
    }

    /// With the lock still in hand.
    pub(super) fn open(&self, full: Time) {
        self.0.store(full << 1, Ordering::Release);
    }
}
