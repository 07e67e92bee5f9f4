//! The task beside a breaker: it tells the store what the breaker has counted, and the breaker what the fleet has found.
//!
//! No call waits for it. If it ends, or the store is away, the breaker goes on by itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Wake, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::core::{News, Report, Rules};
use super::either;
use super::shared::Shared;
use super::store::{BreakerStore, Key};
use crate::circuit_breaker::{
    Cause, CircuitBreaker, CircuitBreakerSnapshot, CircuitBreakerTotals, CircuitState, Watch,
};
use crate::fleet::StoreError;
use crate::util::random::Random;
use crate::util::time::{self, Tick};

const EVERY: Duration = Duration::from_millis(100);
/// An open circuit is kept from probing by itself for so long after the time of the fleet: until the agent has asked.
const HOLD: Duration = Duration::from_millis(300);

struct Kick(Notify);

impl Wake for Kick {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

pub(super) struct Agent {
    pub(super) breaker: CircuitBreaker,
    pub(super) store: Arc<dyn BreakerStore>,
    pub(super) key: Key,
    pub(super) rules: Rules,
    pub(super) shared: Arc<Shared>,
    /// The fleet as it was last heard of.
    fleet: Fleet,
    is_probing: bool,
    /// What has been told.
    told: CircuitBreakerTotals,
    rejected: u64,
    was_open: bool,
    /// When the lease of the probe is to be made longer.
    renew: Tick,
}

#[derive(Clone, Copy)]
struct Fleet {
    epoch: u64,
    /// If it is open: when it is to be probed.
    due: Option<Tick>,
}

impl Agent {
    pub(super) fn new(
        breaker: CircuitBreaker,
        store: Arc<dyn BreakerStore>,
        key: Key,
        rules: Rules,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            breaker,
            store,
            key,
            rules,
            shared,
            fleet: Fleet {
                epoch: 0,
                due: None,
            },
            is_probing: false,
            told: CircuitBreakerTotals::default(),
            rejected: 0,
            was_open: false,
            renew: Tick(0),
        }
    }

    pub(super) async fn run(mut self) {
        let kick = Arc::new(Kick(Notify::new()));
        let (waker, mut news) = (Waker::from(Arc::clone(&kick)), self.store.listen(&self.key));
        let mut watch = Watch::default();
        // What was counted before is of no concern to the fleet.
        let seen = self.breaker.snapshot();
        (self.told, self.rejected) = (seen.totals, seen.totals.rejected);
        self.report(Counted::default()).await;
        loop {
            self.breaker.watch(&mut watch, &waker);
            self.step().await;
            // Not all at the same moment, and ten times a second at most.
            let pause = EVERY.mul_f64(1.0 + 0.1 * Random::System.unit());
            let kicked = async {
                let kicked = std::pin::pin!(kick.0.notified());
                let heard = std::pin::pin!(news.next());
                either::first(kicked, heard).await
            };
            if timeout(pause, kicked).await == Ok(true) {
                // Somebody has changed something: one question says what.
                self.report(Counted::default()).await;
            }
        }
    }

    async fn step(&mut self) {
        let look = self.breaker.snapshot();
        let is_ours = matches!(
            look.state,
            CircuitState::Closed | CircuitState::Open | CircuitState::HalfOpen
        );
        let counted = self.count(&look.totals);
        let is_open = look.state == CircuitState::Open;
        let opened = is_open && !self.was_open && opened_by_itself(&look);
        self.was_open = is_open;
        match self.fleet.due {
            // An operator has the word.
            _ if !is_ours => {}
            Some(_) if self.is_probing => self.probe(&look).await,
            Some(due) if time::now() >= due => self.ask_to_probe(&look, counted).await,
            Some(_) if counted.is_traffic() => self.report(counted).await,
            Some(_) => {}
            None if opened || counted.is_traffic() => {
                let remaining = look.remaining_open.unwrap_or_default();
                let opened = if opened { micros(remaining).max(1) } else { 0 };
                self.report(Counted { opened, ..counted }).await;
            }
            None => {}
        }
    }

    fn count(&mut self, totals: &CircuitBreakerTotals) -> Counted {
        let since = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
        let mut failed = since(totals.failures, self.told.failures);
        if self.breaker.config().overload_is_failure {
            failed += since(totals.overloads, self.told.overloads);
        }
        let counted = Counted {
            ok: since(totals.successes, self.told.successes),
            failed,
            rejected: since(totals.rejected, self.rejected),
            opened: 0,
        };
        (self.told, self.rejected) = (*totals, totals.rejected);
        counted
    }

    async fn report(&mut self, counted: Counted) {
        let report = Report {
            seen: self.fleet.epoch,
            ok: counted.ok,
            failed: counted.failed,
            opened: counted.opened,
        };
        let asked = time::now();
        let news = self.store.report(&self.key, self.rules, report).await;
        match self.heard(news, asked) {
            Some(news) => self.apply(news),
            // It is told again: that a process has opened is too much to lose.
            None => self.was_open &= counted.opened == 0,
        }
    }

    /// Whether the store has answered.
    fn heard<T>(&self, answer: Result<T, StoreError>, asked: Tick) -> Option<T> {
        self.shared.commands.fetch_add(1, Ordering::Relaxed);
        match answer {
            Ok(answer) => {
                self.shared.answered(asked);
                Some(answer)
            }
            Err(error) => {
                self.shared.failed(&error);
                None
            }
        }
    }

    fn apply(&mut self, news: News) {
        let remaining = Duration::from_micros(news.remaining);
        let is_new = news.epoch > self.fleet.epoch;
        self.fleet = Fleet {
            epoch: news.epoch.max(self.fleet.epoch),
            due: news.is_open.then(|| time::now().after(remaining)),
        };
        self.shared.heard(self.fleet.epoch, news.is_open);
        if !is_new {
            return;
        }
        self.is_probing = false;
        match news.is_open {
            true => self.breaker.open_by_fleet(remaining + HOLD),
            false => self.breaker.close_by_fleet(),
        }
        // What it has opened by just now is no finding of its own.
        self.was_open = news.is_open;
    }

    /// The fleet is to be probed, by one of all processes.
    async fn ask_to_probe(&mut self, look: &CircuitBreakerSnapshot, counted: Counted) {
        if look.state == CircuitState::Closed {
            // An operator has closed it here; the others may go on.
            return self.report(counted).await;
        }
        let left = look.remaining_open.unwrap_or_default();
        if !counted.is_traffic() {
            if left < HOLD / 2 {
                self.breaker.open_by_fleet(HOLD);
            }
            return;
        }
        let asked = time::now();
        let length = self.lease_length();
        let leased = self
            .store
            .lease(&self.key, self.fleet.epoch, micros(length))
            .await;
        let Some(leased) = self.heard(leased, asked) else {
            // Alone: this process probes for itself.
            self.breaker.open_by_fleet(Duration::ZERO);
            return;
        };
        self.apply(leased.news);
        match (leased.is_mine, self.fleet.due) {
            (true, _) => {
                self.shared.probes.fetch_add(1, Ordering::Relaxed);
                self.is_probing = true;
                self.renew = time::now().after(length / 2);
                self.breaker.open_by_fleet(Duration::ZERO);
            }
            (false, Some(_)) => {
                let wait = Duration::from_micros(leased.wait).max(EVERY);
                self.fleet.due = Some(time::now().after(wait));
                self.breaker.open_by_fleet(wait + HOLD);
            }
            // The store has forgotten that it is open.
            (false, None) => self.breaker.open_by_fleet(Duration::ZERO),
        }
    }

    fn lease_length(&self) -> Duration {
        // As long as the breaker waits for a probe, and two steps of the agent.
        self.breaker.config().probe_timeout + 2 * EVERY
    }

    /// This process probes for all.
    async fn probe(&mut self, look: &CircuitBreakerSnapshot) {
        let (asked, epoch) = (time::now(), self.fleet.epoch);
        let failed_for = match look.state {
            CircuitState::Closed => 0,
            CircuitState::Open if look.remaining_open.is_some() => {
                micros(look.remaining_open.unwrap_or_default()).max(1)
            }
            // Not begun, or on its way.
            _ => {
                if asked >= self.renew {
                    let length = self.lease_length();
                    self.renew = asked.after(length / 2);
                    let leased = self.store.lease(&self.key, epoch, micros(length)).await;
                    if let Some(leased) = self.heard(leased, asked) {
                        self.is_probing = leased.is_mine;
                        self.apply(leased.news);
                    }
                }
                return;
            }
        };
        self.is_probing = false;
        let news = self.store.probed(&self.key, epoch, failed_for).await;
        match self.heard(news, asked) {
            Some(news) => self.apply(news),
            // Alone: what it has found is what it goes by.
            None => self.fleet.due = None,
        }
    }
}

/// What has happened since the last step.
#[derive(Clone, Copy, Default)]
struct Counted {
    ok: u64,
    failed: u64,
    rejected: u64,
    opened: u64,
}

impl Counted {
    fn is_traffic(&self) -> bool {
        self.ok + self.failed + self.rejected > 0
    }
}

/// Whether one of its own rules has opened it.
fn opened_by_itself(look: &CircuitBreakerSnapshot) -> bool {
    !matches!(look.cause, None | Some(Cause::Fleet | Cause::Operator))
}

fn micros(duration: Duration) -> u64 {
    // A year, if it is longer.
    u64::try_from(duration.as_micros())
        .unwrap_or(u64::MAX)
        .min(1 << 45)
}
