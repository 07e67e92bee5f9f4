//! What the handle and the agent share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::snapshot::SharedBreakerSnapshot;
use crate::circuit_breaker::CircuitBreaker;
use crate::event::FleetPart;
use crate::fleet::StoreError;
use crate::fleet::reporter::Reporter;
use crate::fleet::snapshot::{FleetSnapshot, Part};
use crate::util::time::{self, Tick};

pub(super) struct Shared {
    name: Arc<str>,
    breaker: CircuitBreaker,
    reporter: Arc<Reporter>,
    pub(super) commands: AtomicU64,
    pub(super) probes: AtomicU64,
    epoch: AtomicU64,
    is_open: AtomicBool,
    failed: AtomicU64,
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
    pub(super) fn new(breaker: CircuitBreaker, reporter: Arc<Reporter>) -> Self {
        Self {
            name: breaker.name().into(),
            breaker,
            reporter,
            commands: AtomicU64::new(0),
            probes: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            is_open: AtomicBool::new(false),
            failed: AtomicU64::new(0),
            link: Mutex::default(),
        }
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn heard(&self, epoch: u64, is_open: bool) {
        self.epoch.store(epoch, Ordering::Relaxed);
        self.is_open.store(is_open, Ordering::Relaxed);
    }

    pub(super) fn answered(&self, asked: Tick) {
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
            let away = now.since(since);
            self.reporter
                .is_back(FleetPart::CircuitBreaker, &self.name, away);
        }
    }

    pub(super) fn failed(&self, error: &StoreError) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut link = self.link();
        link.failures = link.failures.saturating_add(1);
        if link.failures < AWAY_AFTER || link.away_since.is_some() {
            return;
        }
        link.away_since = Some(time::now());
        drop(link);
        self.reporter
            .is_away(FleetPart::CircuitBreaker, &self.name, error);
    }

    pub(super) fn snapshot(&self) -> SharedBreakerSnapshot {
        let (link, now) = (*self.link(), time::now());
        SharedBreakerSnapshot {
            name: Arc::clone(&self.name),
            state: self.breaker.state(),
            epoch: self.epoch.load(Ordering::Relaxed),
            fleet_is_open: self.is_open.load(Ordering::Relaxed),
            away_for: link.away_since.map(|it| now.since(it)),
            answered_before: link.answered.map(|it| now.since(it)),
            lag: link.lag,
            commands: self.commands.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            probes: self.probes.load(Ordering::Relaxed),
        }
    }
}

impl Part for Shared {
    fn show(&self, snapshot: &mut FleetSnapshot) {
        snapshot.circuit_breakers.push(self.snapshot());
    }
}
