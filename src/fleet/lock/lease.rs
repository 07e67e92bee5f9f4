//! A lease in hand: until when it is sure, and what ends it early.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout_at;

use super::op::{Member, Micros};
use crate::call::Holder;
use crate::util::time::{self, Tick};

/// Proof of a lease for the resource itself. A later lease of the same slot has a higher token, on any server and after any
/// failover that keeps the clock.
///
/// A resource that wants to be sure remembers the highest token *of each slot*, and refuses what comes with a lower one.
/// One highest token for all slots would refuse holders that are in the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Fence {
    /// Which of the permits: from 0 to `max_concurrent - 1`, unless that was cut.
    pub slot: u32,
    /// Higher than that of every lease before it.
    pub token: u64,
}

/// Why a lease is not held any more, although its guard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum LostReason {
    /// It could not be renewed in time: the store was not reached, or this process stood still.
    Expired,
    /// The store says so: it has lapsed there, and somebody else may have the slot.
    Refused,
}

impl fmt::Display for LostReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "the lease could not be renewed in time",
            Self::Refused => "the shared store has ended the lease",
        })
    }
}

/// A slot, and until when: by the clock of this process and by that of the store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grant {
    pub(super) fence: Fence,
    pub(super) until: Tick,
    pub(super) expiry: Micros,
}

pub(super) struct Lease {
    pub(super) fence: Fence,
    pub(super) member: Member,
    pub(super) holder: Holder,
    pub(super) since: Tick,
    /// Whether a call for it was not answered, and may be done yet.
    pub(super) is_doubtful: bool,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Clone, Copy)]
pub(super) struct State {
    /// Nobody else has the slot before this, as far as clocks can be trusted.
    pub(super) until: Tick,
    /// The same by the clock of the store.
    pub(super) expiry: Micros,
    pub(super) renew_at: Tick,
    pub(super) lost: Option<LostReason>,
    /// Whether it was reported that it is held for long.
    pub(super) reported: bool,
    /// The store has heard that it was given back.
    pub(super) is_released: bool,
}

impl Lease {
    pub(super) fn new(
        grant: Grant,
        member: Member,
        holder: Holder,
        is_doubtful: bool,
        now: Tick,
    ) -> Self {
        let state = State {
            until: grant.until,
            expiry: grant.expiry,
            renew_at: now.after(grant.until.since(now) / 3),
            lost: None,
            reported: false,
            is_released: false,
        };
        Self {
            fence: grant.fence,
            member,
            holder,
            since: now,
            is_doubtful,
            state: Mutex::new(state),
            changed: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn renewed(&self, until: Tick, expiry: Micros, now: Tick) {
        let mut state = self.lock();
        // It was lost meanwhile, or its time is over and only the agent has not seen that yet: whoever was told so has stopped.
        if state.lost.is_none() && now < state.until {
            state.until = until;
            state.expiry = expiry;
            state.renew_at = now.after(until.since(now) / 3);
        }
    }

    /// Whether that is new.
    pub(super) fn lose(&self, reason: LostReason) -> bool {
        let is_new = self.lock().lost.replace(reason).is_none();
        self.changed.notify_waiters();
        is_new
    }

    pub(super) fn lost_by(&self, now: Tick) -> Option<LostReason> {
        let state = self.lock();
        state
            .lost
            .or_else(|| (now >= state.until).then_some(LostReason::Expired))
    }

    pub(super) fn valid_for(&self) -> Duration {
        let now = time::now();
        let state = self.lock();
        match state.lost {
            Some(_) => Duration::ZERO,
            None => state.until.since(now),
        }
    }

    pub(super) async fn lost(&self) -> LostReason {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(reason) = self.lost_by(time::now()) {
                return reason;
            }
            let until = self.lock().until.to_instant();
            let _ = timeout_at(until, changed).await;
        }
    }
}
