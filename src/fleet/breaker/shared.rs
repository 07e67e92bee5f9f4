//! What the handle and the agent share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::snapshot::SharedBreakerSnapshot;
use crate::fleet::StoreError;
use crate::util::time::{self, Tick};

#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) commands: AtomicU64,
    pub(super) probes: AtomicU64,
    epoch: AtomicU64,
    is_open: AtomicBool,
    link: Mutex<Link>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    failures: u32,
    away_since: Option<Tick>,
    answered: Option<Tick>,
    lag: Duration,
}

/// So many answers that do not come are no accident.
const AWAY_AFTER: u32 = 2;

impl Shared {
    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn heard(&self, epoch: u64, is_open: bool) {
        self.epoch.store(epoch, Ordering::Relaxed);
        self.is_open.store(is_open, Ordering::Relaxed);
    }

    pub(super) fn answered(&self, name: &str, asked: Tick) {
        let now = time::now();
        let mut link = self.link();
        let was_away = link.away_since;
        *link = Link {
            answered: Some(now),
            lag: now.since(asked),
            ..Link::default()
        };
        drop(link);
        if let Some(since) = was_away {
            tracing::info!(breaker = name, away = ?now.since(since), "a shared breaker is shared again");
        }
    }

    pub(super) fn failed(&self, name: &str, error: &StoreError) {
        let mut link = self.link();
        link.failures = link.failures.saturating_add(1);
        if link.failures < AWAY_AFTER || link.away_since.is_some() {
            return;
        }
        link.away_since = Some(time::now());
        drop(link);
        tracing::warn!(breaker = name, %error, "a shared breaker goes by this process alone");
    }

    pub(super) fn snapshot(&self) -> SharedBreakerSnapshot {
        let (link, now) = (*self.link(), time::now());
        SharedBreakerSnapshot {
            epoch: self.epoch.load(Ordering::Relaxed),
            fleet_is_open: self.is_open.load(Ordering::Relaxed),
            away_for: link.away_since.map(|it| now.since(it)),
            answered_before: link.answered.map(|it| now.since(it)),
            lag: link.lag,
            commands: self.commands.load(Ordering::Relaxed),
            probes: self.probes.load(Ordering::Relaxed),
        }
    }
}
