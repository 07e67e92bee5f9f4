//! Somebody of this process who asks for a slot, and what it is told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::lease::Grant;
use super::op::Member;

pub(super) struct Waiter {
    pub(super) member: Member,
    state: Mutex<State>,
    told: Notify,
}

#[derive(Default)]
pub(super) struct State {
    /// Whether the store has it in its queue, as far as is known.
    pub(super) queued: bool,
    /// How many are before it.
    pub(super) rank: i64,
    grant: Option<Grant>,
    /// It is not in the queue any more: it has been granted something, or was forgotten.
    again: bool,
    /// The store is away.
    away: bool,
}

pub(super) enum Told {
    Granted(Grant),
    AskAgain,
    StoreIsAway,
}

impl Waiter {
    pub(super) fn new(member: Member) -> Self {
        Self {
            member,
            state: Mutex::default(),
            told: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn grant(&self, grant: Grant) {
        self.lock().grant = Some(grant);
        self.told.notify_one();
    }

    pub(super) fn ask_again(&self) {
        self.lock().again = true;
        self.told.notify_one();
    }

    pub(super) fn store_is_away(&self) {
        self.lock().away = true;
        self.told.notify_one();
    }

    pub(super) fn is_queued(&self) -> bool {
        self.lock().queued
    }

    /// A grant that came while something else was waited for.
    pub(super) fn take_grant(&self) -> Option<Grant> {
        self.lock().grant.take()
    }

    /// Cancel-safe.
    pub(super) async fn told(&self) -> Told {
        loop {
            {
                let mut state = self.lock();
                if let Some(grant) = state.grant.take() {
                    return Told::Granted(grant);
                }
                if std::mem::take(&mut state.again) {
                    return Told::AskAgain;
                }
                if std::mem::take(&mut state.away) {
                    return Told::StoreIsAway;
                }
            }
            self.told.notified().await;
        }
    }
}

/// A number that no other attempt of this process has.
pub(super) fn next_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{:x}", NEXT.fetch_add(1, Ordering::Relaxed))
}
