//! The task beside a breaker: it tells the store what the breaker has counted, and the breaker what the fleet has found.
//!
//! No call waits for it. If it ends, or the store is away, the breaker goes on by itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Wake, Waker};
use std::time::Duration;

use tokio::select;
use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::core::{News, Report, Rules};
use super::shared::Shared;
use super::store::{BreakerStore, Heard, Key, Listener};
use crate::circuit_breaker::{
    Cause, CircuitBreaker, CircuitBreakerSnapshot, CircuitBreakerTotals, CircuitState, Watch,
};
use crate::fleet::StoreError;
use crate::util::random::Random;
use crate::util::time::{self, Tick};

/// How often counts are told. Eight times a second leave two commands of ten for what is to be told at once.
const EVERY: Duration = Duration::from_millis(125);
/// An open circuit is kept from probing by itself for so long after the time of the fleet: until the agent has asked.
const HOLD: Duration = Duration::from_millis(300);
/// The right to probe, until a probe has begun.
const BEGIN: Duration = Duration::from_secs(1);

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
    probing: Option<Probing>,
    /// News may have been lost: one question says what.
    must_ask: bool,
    /// It is time to tell what was counted.
    is_due: bool,
    pace: Pace,
    /// What has been told.
    told: CircuitBreakerTotals,
    rejected: u64,
    was_open: bool,
}

#[derive(Clone, Copy)]
struct Fleet {
    epoch: u64,
    /// By the last answer.
    is_open: bool,
    /// If it is open, and this process goes by that: when it is to be probed.
    due: Option<Tick>,
}

/// The right to probe.
#[derive(Clone, Copy)]
struct Probing {
    has_begun: bool,
    /// Somebody calls.
    is_called: bool,
    /// When it is made longer, if somebody calls.
    renew: Tick,
    ends: Tick,
}

impl Probing {
    fn new(now: Tick, length: Duration, has_begun: bool) -> Self {
        Self {
            has_begun,
            is_called: false,
            renew: now.after(length / 2),
            ends: now.after(length),
        }
    }
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
                is_open: false,
                due: None,
            },
            probing: None,
            must_ask: true,
            is_due: true,
            pace: Pace::default(),
            told: CircuitBreakerTotals::default(),
            rejected: 0,
            was_open: false,
        }
    }

    pub(super) async fn run(mut self) {
        let kick = Arc::new(Kick(Notify::new()));
        let (waker, mut news) = (Waker::from(Arc::clone(&kick)), self.store.listen(&self.key));
        let mut watch = Watch::default();
        // What was counted before is of no concern to the fleet.
        let seen = self.breaker.snapshot();
        (self.told, self.rejected) = (seen.totals, seen.totals.rejected);
        let mut due = Tick(0);
        loop {
            self.breaker.watch(&mut watch, &waker);
            let now = time::now();
            self.is_due = now >= due;
            if self.is_due {
                // Not all at the same moment.
                due = now.after(EVERY.mul_f64(1.0 + 0.1 * Random::System.unit()));
            }
            self.step().await;
            self.must_ask = false;
            self.wait(&kick, &mut news, due).await;
        }
    }

    /// Until there may be something to tell or to ask, and a command may be sent. What the fleet has found applies at once.
    async fn wait(&mut self, kick: &Kick, news: &mut Listener, due: Tick) {
        let mut is_kicked = false;
        loop {
            let now = time::now();
            let wants = is_kicked || self.must_ask || now >= due;
            let until = match (wants, self.pace.next(now)) {
                (true, None) => return,
                (true, Some(next)) => next,
                (false, _) => due,
            };
            select! {
                biased;
                heard = news.next(self.fleet.epoch) => match heard {
                    Heard::Change(news) => {
                        self.apply(news);
                    }
                    Heard::Perhaps => self.must_ask = true,
                },
                () = kick.0.notified(), if !is_kicked => is_kicked = true,
                () = sleep_until(until.to_instant()) => {}
            }
        }
    }

    /// Sends one command at most.
    async fn step(&mut self) {
        let look = self.breaker.snapshot();
        let is_open = look.state == CircuitState::Open;
        let opened = is_open && !self.was_open && opened_by_itself(&look);
        self.was_open = is_open;
        // Counts can wait for their time.
        if !(self.is_due || self.must_ask || opened || self.probing.is_some()) {
            return;
        }
        let mut counted = self.count(&look.totals);
        if opened {
            let remaining = look.remaining_open.unwrap_or_default();
            counted.opened = micros(remaining).max(1);
        }
        let is_ours = matches!(
            look.state,
            CircuitState::Closed | CircuitState::Open | CircuitState::HalfOpen
        );
        if !is_ours {
            // An operator has the word: what this process has begun is for another to end.
            self.probing = None;
            if self.must_ask {
                self.report(Counted::default()).await;
            }
            return;
        }
        match (self.fleet.due, self.probing) {
            (Some(_), Some(probing)) => self.probe(&look, counted, probing).await,
            (Some(due), None) if time::now() >= due => self.ask_to_probe(&look, counted).await,
            (Some(due), None) => {
                self.hold(&look, due);
                if counted.is_traffic() || self.must_ask {
                    self.report(counted).await;
                }
            }
            (None, _) if opened || counted.is_traffic() || self.must_ask => {
                self.report(counted).await;
            }
            (None, _) => {}
        }
    }

    /// The fleet stays open until then: a clock of the server that stepped back has made that longer, or this breaker has
    /// opened by itself meanwhile.
    fn hold(&self, look: &CircuitBreakerSnapshot, due: Tick) {
        let left = look.remaining_open.unwrap_or_default();
        let until_due = due.since(time::now());
        if look.state != CircuitState::Closed && left < until_due {
            self.breaker.open_by_fleet(until_due + HOLD);
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
            Some(news) => {
                self.apply(news);
            }
            // It is told again: that a process has opened is too much to lose.
            None => self.was_open &= counted.opened == 0,
        }
    }

    /// Whether the store has answered.
    fn heard<T>(&mut self, answer: Result<T, StoreError>, asked: Tick) -> Option<T> {
        self.pace.sent(asked);
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

    /// Goes by what the fleet has found. Says whether that was new.
    fn apply(&mut self, news: News) -> bool {
        let remaining = Duration::from_micros(news.remaining);
        let before = self.fleet;
        // A store that has lost its data may count the same epoch once more.
        let is_new = news.epoch > before.epoch || (news.is_open && !before.is_open);
        self.fleet = Fleet {
            epoch: news.epoch.max(before.epoch),
            is_open: news.is_open,
            due: news.is_open.then(|| time::now().after(remaining)),
        };
        self.shared.heard(self.fleet.epoch, news.is_open);
        if !is_new {
            return false;
        }
        self.probing = None;
        match news.is_open {
            true if self.is_operators(remaining + HOLD) => {}
            true => self.breaker.open_by_fleet(remaining + HOLD),
            false if self.is_operators(Duration::ZERO) => {}
            false if before.is_open => self.breaker.close_by_fleet(),
            // It has opened and closed unheard: what this breaker has found by itself is told anew.
            false => {}
        }
        // What it has opened by just now is no finding of its own.
        self.was_open = news.is_open;
        true
    }

    /// Whether an operator has opened the breaker for longer than the fleet keeps it open.
    fn is_operators(&self, by_fleet: Duration) -> bool {
        let left = self.breaker.left_of_operators_time();
        left.is_some_and(|it| it > by_fleet)
    }

    /// The fleet is to be probed, by one of all processes.
    async fn ask_to_probe(&mut self, look: &CircuitBreakerSnapshot, counted: Counted) {
        let left = look.remaining_open.unwrap_or_default();
        let is_closed = look.state == CircuitState::Closed;
        // Closed here, by an operator or while the store was away: calls that succeed are as good as a probe.
        let may_tell = !is_closed || counted.ok > 0;
        // An operator may have opened it for longer, or a rule of its own.
        if !may_tell || left > 2 * HOLD {
            if counted.is_traffic() || self.must_ask {
                self.report(counted).await;
            }
            return;
        }
        if !counted.is_traffic() && !self.must_ask {
            if left < HOLD / 2 {
                self.breaker.open_by_fleet(HOLD);
            }
            return;
        }
        if !counted.is_traffic() {
            self.breaker.open_by_fleet(HOLD);
            return self.report(counted).await;
        }
        let asked = time::now();
        let length = if is_closed {
            self.lease_length()
        } else {
            BEGIN
        };
        let leased = self
            .store
            .lease(&self.key, self.fleet.epoch, micros(length))
            .await;
        let Some(leased) = self.heard(leased, asked) else {
            // Alone: this process probes for itself, by its own rules, until the store answers.
            self.fleet.due = None;
            if !is_closed {
                self.breaker.open_by_fleet(Duration::ZERO);
            }
            return;
        };
        let is_new = self.apply(leased.news);
        match (leased.is_mine, self.fleet.due) {
            (true, _) => {
                self.shared.probes.fetch_add(1, Ordering::Relaxed);
                self.probing = Some(Probing::new(asked, length, false));
                if !is_closed {
                    self.breaker.open_by_fleet(Duration::ZERO);
                }
            }
            (false, Some(_)) => {
                let wait = Duration::from_micros(leased.wait).max(EVERY);
                self.fleet.due = Some(time::now().after(wait));
                if !is_closed {
                    self.breaker.open_by_fleet(wait + HOLD);
                }
            }
            // The store has forgotten that it is open. Had the fleet closed, this breaker would be closed by now.
            (false, None) if !is_closed && !is_new => self.breaker.open_by_fleet(Duration::ZERO),
            (false, None) => {}
        }
    }

    fn lease_length(&self) -> Duration {
        // As long as the breaker waits for a probe, and two steps of the agent.
        self.breaker
            .config()
            .probe_timeout
            .saturating_add(2 * EVERY)
    }

    /// This process probes for all.
    async fn probe(
        &mut self,
        look: &CircuitBreakerSnapshot,
        counted: Counted,
        mut probing: Probing,
    ) {
        probing.is_called |= counted.is_traffic();
        self.probing = Some(probing);
        match look.state {
            CircuitState::Closed if counted.ok > 0 => self.probed(0).await,
            CircuitState::Open if opened_by_itself(look) && look.remaining_open.is_some() => {
                let remaining = look.remaining_open.unwrap_or_default();
                self.probed(micros(remaining).max(1)).await;
            }
            // An operator has opened it: another may probe.
            CircuitState::Open if look.remaining_open.is_some() => self.probing = None,
            _ => self.go_on_probing(look, probing).await,
        }
    }

    /// Not begun, or on its way.
    async fn go_on_probing(&mut self, look: &CircuitBreakerSnapshot, probing: Probing) {
        let (asked, epoch) = (time::now(), self.fleet.epoch);
        let is_closed = look.state == CircuitState::Closed;
        let begins = !probing.has_begun && look.probes + look.success_count as usize > 0;
        let goes_on = probing.has_begun && probing.is_called && asked >= probing.renew;
        if begins || goes_on || self.must_ask {
            let length = match begins || probing.has_begun {
                true => self.lease_length(),
                false => BEGIN,
            };
            let leased = self.store.lease(&self.key, epoch, micros(length)).await;
            if let Some(leased) = self.heard(leased, asked) {
                let is_mine = leased.is_mine;
                let has_begun = begins || probing.has_begun;
                self.probing = is_mine.then(|| Probing::new(asked, length, has_begun));
                self.apply(leased.news);
            }
        } else if asked >= probing.ends {
            // Nobody calls here any more: it is for those who are called.
            self.probing = None;
            if !is_closed {
                self.breaker.open_by_fleet(HOLD);
            }
        }
    }

    /// The probe has ended: well, or the breaker has opened for so many microseconds.
    async fn probed(&mut self, failed_for: u64) {
        let (asked, epoch) = (time::now(), self.fleet.epoch);
        self.probing = None;
        let news = self.store.probed(&self.key, epoch, failed_for).await;
        let Some(news) = self.heard(news, asked) else {
            // Alone: what it has found is what it goes by.
            self.fleet.due = None;
            return;
        };
        self.apply(news);
        if news.is_open && news.epoch == epoch {
            // Too late: it is for another to probe, and this one stays open with the rest.
            let remaining = Duration::from_micros(news.remaining);
            self.breaker.open_by_fleet(remaining + HOLD);
            self.was_open = true;
        }
    }
}

/// Ten commands in any second, and no more.
#[derive(Default)]
struct Pace {
    sent: [Tick; 10],
    oldest: usize,
}

impl Pace {
    fn sent(&mut self, now: Tick) {
        self.sent[self.oldest] = now;
        self.oldest = (self.oldest + 1) % self.sent.len();
    }

    /// When the next may be sent, if not at once.
    fn next(&self, now: Tick) -> Option<Tick> {
        let next = self.sent[self.oldest].after(Duration::from_secs(1));
        (next > now).then_some(next)
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
