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
use super::counted::{Counted, Told};
use super::pace::Pace;
use super::probing::Probing;
use super::shared::Shared;
use super::store::{BreakerStore, Heard, Key, Listener};
use crate::circuit_breaker::{Cause, CircuitBreaker, CircuitBreakerSnapshot, CircuitState, Watch};
use crate::fleet::StoreError;
use crate::util::random::Random;
use crate::util::time::{self, Tick};

/// How often counts are told. Eight times a second leave two commands of ten for what is to be told at once.
const EVERY: Duration = Duration::from_millis(125);
/// An open circuit is kept from probing by itself for so long after the time of the fleet, or longer if the store may take its
/// time: until the agent has asked.
const HOLD: Duration = Duration::from_millis(300);
/// The right to probe, until a probe has begun.
const BEGIN: Duration = Duration::from_secs(1);
/// A question that was not answered, if there are no calls.
const ASK_AGAIN: Duration = Duration::from_secs(1);

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
    told: Told,
    /// The opening that the fleet knows of, or has made.
    known: Option<Tick>,
    /// A question was not answered: when it is asked again.
    ask_at: Tick,
    was_answered: bool,
}

#[derive(Clone, Copy)]
struct Fleet {
    epoch: u64,
    /// By the last answer.
    is_open: bool,
    /// If it is open, and this process goes by that: when it is to be probed.
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
                is_open: false,
                due: None,
            },
            probing: None,
            must_ask: true,
            is_due: true,
            pace: Pace::default(),
            told: Told::default(),
            known: None,
            ask_at: Tick::NEVER,
            was_answered: false,
        }
    }

    pub(super) async fn run(mut self) {
        let kick = Arc::new(Kick(Notify::new()));
        let (waker, mut news) = (Waker::from(Arc::clone(&kick)), self.store.listen(&self.key));
        let mut watch = Watch::default();
        // What was counted before is of no concern to the fleet.
        self.told.all(&self.breaker.snapshot().totals);
        let mut due = Tick(0);
        loop {
            self.breaker.watch(&mut watch, &waker);
            let now = time::now();
            self.is_due = now >= due;
            if self.is_due {
                // Not all at the same moment.
                due = now.after(EVERY.mul_f64(1.0 + 0.1 * Random::System.unit()));
                self.must_ask |= now >= self.ask_at;
            }
            self.was_answered = false;
            self.step().await;
            let has_asked = std::mem::take(&mut self.must_ask);
            if self.was_answered {
                self.ask_at = Tick::NEVER;
            } else if has_asked {
                self.ask_at = time::now().after(ASK_AGAIN);
            }
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
        // Before all else is looked at: what opens in between is told twice, and not never.
        let at = self.breaker.opened();
        let look = self.breaker.snapshot();
        let is_open = look.state == CircuitState::Open;
        let opened = is_open && self.is_own_finding(&look, at);
        if is_open && !opened {
            self.known = Some(at);
        }
        // Counts can wait for their time.
        if !(self.is_due || self.must_ask || opened || self.probing.is_some()) {
            return;
        }
        let mut counted = self.told.count(&self.breaker, &look.totals);
        if opened {
            let remaining = look.remaining_open.unwrap_or_default();
            counted.opened = micros(remaining).max(1);
        }
        let is_ours = matches!(
            look.state,
            CircuitState::Closed | CircuitState::Open | CircuitState::HalfOpen
        );
        if !is_ours {
            return self.stand_back().await;
        }
        let has_news = counted.is_traffic() || opened || self.must_ask;
        match (self.fleet.due, self.probing) {
            (Some(_), Some(probing)) => self.probe(&look, counted, probing).await,
            (Some(due), None) if time::now() >= due => self.ask_to_probe(&look, counted, at).await,
            (Some(due), None) => {
                self.keep_open(&look, due);
                if has_news || counted.is_awaited {
                    self.report(counted, at).await;
                }
            }
            (None, _) if has_news => self.report(counted, at).await,
            (None, _) => {}
        }
    }

    /// Whether the breaker, which opened then, has opened by itself, and the fleet does not know of it. For how long it is open
    /// is its own finding only if no operator has had a say.
    fn is_own_finding(&self, look: &CircuitBreakerSnapshot, at: Tick) -> bool {
        self.known != Some(at) && opened_by_itself(look) && !self.breaker.is_open_by_operator()
    }

    /// An operator has the word: what this process has begun is for another to end.
    async fn stand_back(&mut self) {
        if self.probing.take().is_some() {
            // A right that is over at once.
            let asked = time::now();
            let leased = self.store.lease(&self.key, self.fleet.epoch, 0).await;
            if let Some(leased) = self.heard(leased, asked) {
                self.apply(leased.news);
            }
        } else if self.must_ask {
            self.report(Counted::default(), Tick::NEVER).await;
        }
    }

    /// The fleet stays open until then: a clock of the server that stepped back has made that longer, or this breaker has
    /// opened by itself meanwhile.
    fn keep_open(&self, look: &CircuitBreakerSnapshot, due: Tick) {
        let left = look.remaining_open.unwrap_or_default();
        let until_due = due.since(time::now());
        if look.state != CircuitState::Closed && left < until_due {
            self.breaker.open_by_fleet(until_due + self.hold());
        }
    }

    /// One answer may be on its way when the time is over, and the next is that of the question who probes. Who waits for
    /// longer than a second may find that each probes for itself meanwhile, as without a store.
    fn hold(&self) -> Duration {
        let within = self.key.within.min(Duration::from_secs(1));
        HOLD.max(2 * within + EVERY / 2)
    }

    /// `at`: when it opened, if it has.
    async fn report(&mut self, counted: Counted, at: Tick) {
        let report = Report {
            seen: self.fleet.epoch,
            ok: counted.ok,
            failed: counted.failed,
            opened: counted.opened,
        };
        let asked = time::now();
        let news = self.store.report(&self.key, self.rules, report).await;
        // If there is no answer it is told again: that a process has opened is too much to lose.
        if let Some(news) = self.heard(news, asked)
            && !self.apply(news)
            && counted.opened > 0
        {
            self.known = Some(at);
        }
    }

    /// Whether the store has answered.
    fn heard<T>(&mut self, answer: Result<T, StoreError>, asked: Tick) -> Option<T> {
        self.pace.sent(asked);
        self.shared.commands.fetch_add(1, Ordering::Relaxed);
        match answer {
            Ok(answer) => {
                self.was_answered = true;
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
        let was_probing = self.probing.take().is_some();
        match news.is_open {
            true => self.breaker.open_by_fleet(remaining + self.hold()),
            // What a probe has found that is over changes nothing.
            false if before.is_open && (was_probing || !self.has_own_finding()) => {
                self.breaker.close_by_fleet();
            }
            // What this breaker has found by itself is told anew: the fleet has closed without knowing of it.
            false => {}
        }
        // What it has opened by just now is no finding of its own.
        self.known = news.is_open.then(|| self.breaker.opened());
        true
    }

    fn has_own_finding(&self) -> bool {
        let at = self.breaker.opened();
        let look = self.breaker.snapshot();
        look.state == CircuitState::Open && self.is_own_finding(&look, at)
    }

    /// The fleet is to be probed, by one of all processes.
    async fn ask_to_probe(&mut self, look: &CircuitBreakerSnapshot, counted: Counted, at: Tick) {
        let left = look.remaining_open.unwrap_or_default();
        let hold = self.hold();
        let is_closed = look.state == CircuitState::Closed;
        // Closed here, by an operator or while the store was away: calls that succeed are as good as a probe.
        let may_tell = !is_closed || counted.ok > 0;
        // An operator has opened it for longer, or a rule of its own.
        let is_kept = left > HOLD + hold || self.breaker.is_open_by_operator();
        if !may_tell || is_kept {
            if counted.is_called() || counted.opened > 0 || self.must_ask {
                self.report(counted, at).await;
            }
            return;
        }
        if !counted.is_called() {
            if self.must_ask || left < hold / 2 {
                self.breaker.open_by_fleet(hold);
            }
            if self.must_ask {
                self.report(counted, at).await;
            }
            return;
        }
        self.ask_for_the_right(counted).await;
    }

    async fn ask_for_the_right(&mut self, counted: Counted) {
        let asked = time::now();
        let (epoch, length) = (self.fleet.epoch, micros(BEGIN));
        let leased = self.store.lease(&self.key, epoch, length).await;
        let leased = self.heard(leased, asked);
        // An operator may have closed it meanwhile.
        let is_closed = self.breaker.state() == CircuitState::Closed;
        let Some(leased) = leased else {
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
                self.probing = Some(Probing {
                    has_succeeded: is_closed && counted.ok > 0,
                    ..Probing::new(asked, BEGIN)
                });
                if !is_closed {
                    self.breaker.open_by_fleet(Duration::ZERO);
                }
            }
            (false, Some(_)) => {
                // Who has the right may give it back before its time.
                let wait = leased.wait.min(leased.news.remaining.max(micros(BEGIN)));
                let wait = Duration::from_micros(wait).max(EVERY);
                self.fleet.due = Some(time::now().after(wait));
                if !is_closed {
                    self.breaker.open_by_fleet(wait + self.hold());
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
        probing.is_called |= counted.is_called();
        if counted.has_result() {
            probing.last_result = time::now();
        }
        self.probing = Some(probing);
        match look.state {
            CircuitState::Closed if counted.ok > 0 || probing.has_succeeded => self.probed(0).await,
            CircuitState::Open if opened_by_itself(look) && !self.breaker.is_open_by_operator() => {
                let remaining = look.remaining_open.unwrap_or_default();
                self.probed(micros(remaining).max(1)).await;
            }
            CircuitState::Open => self.stand_back().await,
            _ => self.go_on_probing(look, probing).await,
        }
    }

    /// Not begun, or on its way.
    async fn go_on_probing(&mut self, look: &CircuitBreakerSnapshot, probing: Probing) {
        let (asked, epoch) = (time::now(), self.fleet.epoch);
        let is_closed = look.state == CircuitState::Closed;
        let begins = !probing.has_begun && look.probes + look.success_count as usize > 0;
        let has_begun = begins || probing.has_begun;
        let length = match has_begun {
            true => self.lease_length(),
            false => BEGIN,
        };
        // One whose probes find nothing out, because something else refuses them, keeps the others waiting for nothing.
        let is_of_use = probing.is_called && asked < probing.last_result.after(length);
        let goes_on = probing.has_begun && is_of_use && asked >= probing.renew;
        if begins || goes_on || self.must_ask {
            let leased = self.store.lease(&self.key, epoch, micros(length)).await;
            if let Some(leased) = self.heard(leased, asked) {
                let is_mine = leased.is_mine;
                self.probing = is_mine.then(|| Probing {
                    has_begun,
                    last_result: if begins { asked } else { probing.last_result },
                    ..Probing::new(asked, length)
                });
                self.apply(leased.news);
            }
        } else if asked >= probing.ends {
            // Nobody calls here any more, or to no effect: it is for the others, before this one asks again.
            self.probing = None;
            if !is_closed {
                self.breaker.open_by_fleet(BEGIN + self.hold());
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
        self.known = Some(self.breaker.opened());
        let is_new = self.apply(news);
        if !news.is_open && !is_new {
            // The store has forgotten that it was open: this is as good as any finding.
            self.known = None;
        }
        if news.is_open && news.epoch == epoch {
            // Too late: it is for another to probe, and this one stays open with the rest.
            let remaining = Duration::from_micros(news.remaining);
            self.breaker.open_by_fleet(remaining + self.hold());
            self.known = Some(self.breaker.opened());
        }
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
