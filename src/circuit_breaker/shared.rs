//! What all clones of a breaker share: the locked core, and in front of it what the core would answer as
//! long as nothing changes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use slab::Slab;

use super::admitted::{Admitted, Kind};
use super::config::{CircuitBreakerConfig, Window, WindowCounts};
use super::fast::{Fast, Route};
use super::group::{Group, Seat};
use super::in_flight::InFlight;
use super::state::{Admission, Change, Effects, Ended, Mode, Phase, State, Ticket};
use super::wakers::Wakers;
use crate::call::context::Frame;
use crate::call::outcome::Outcome;
use crate::error::{
    Cause, CircuitOpen, ConfigChange, ConfigError, Judgement, OpenReason, Refusal, Trip,
};
use crate::event::{CircuitBreakerEvent, Event, Funnel, Observer, guarded};
use crate::util::random::Random;
use crate::util::sharded::{Added, ShardedCounter, ShardedSlot};
use crate::util::time::{self, Tick};

pub(super) type OnRejected = Arc<dyn Fn(&CircuitOpen) + Send + Sync>;
pub(super) type TripWhen = Arc<dyn Fn(&WindowCounts) -> bool + Send + Sync>;

/// What a breaker is made with, beside its config.
#[derive(Clone, Default)]
pub(super) struct Callbacks {
    pub(super) observers: Vec<Arc<dyn Observer>>,
    pub(super) on_rejected: Vec<OnRejected>,
    pub(super) trip_when: Option<TripWhen>,
    pub(super) seed: Option<u64>,
}

pub(super) struct Shared {
    funnel: Funnel,
    /// Of the user's own, which few breakers have.
    hooks: Option<Box<Hooks>>,
    random: Random,
    /// Changed under the lock of the core only.
    config: ArcSwap<CircuitBreakerConfig>,
    fast: Fast,
    open_until: AtomicU64,
    trip: ShardedSlot<Trip>,
    rejected: ShardedCounter,
    in_flight: ArcSwapOption<InFlight>,
    pub(super) wakers: Arc<Wakers>,
    /// Another config that is tried on the calls.
    shadow: ArcSwapOption<Trial>,
    core: Mutex<State>,
}

/// What the user wants to be called, or asked.
struct Hooks {
    on_rejected: Box<[OnRejected]>,
    trip_when: Option<TripWhen>,
}

impl Hooks {
    fn of(on_rejected: Vec<OnRejected>, trip_when: Option<TripWhen>) -> Option<Box<Self>> {
        let are_there = !on_rejected.is_empty() || trip_when.is_some();
        are_there.then(|| {
            Box::new(Self {
                on_rejected: on_rejected.into(),
                trip_when,
            })
        })
    }
}

/// A call at a config that is tried.
pub(super) struct Shadowed {
    pub(super) admitted: Admitted,
    /// How the head of the answer was judged, if the call goes on with its body.
    #[cfg_attr(
        not(feature = "http"),
        expect(dead_code, reason = "only bodies go on after a head")
    )]
    pub(super) head: Option<Judgement>,
    /// It was slow and has been counted: what is left to count is a failure of its body.
    pub(super) is_counted: bool,
}

/// A config that is tried beside the one in force: a breaker of its own in metrics-only mode, which nobody has a handle of.
pub(super) struct Trial {
    pub(super) breaker: Shared,
    /// The calls that are on their way.
    pub(super) calls: Mutex<Slab<Shadowed>>,
    /// Calls that the breaker in force has refused, and this one would have let through.
    pub(super) would_pass: AtomicU64,
    /// In which epoch it last would have let probes through that the breaker in force refused, and how many.
    pub(super) probes: Mutex<(u32, u32)>,
    /// Distinguishes it from the one before and the one after.
    pub(super) number: u64,
}

fn route(state: &State) -> Route {
    match (state.mode, &state.phase) {
        (Mode::ForcedOpen, _) => Route::ForcedOpen,
        (Mode::Disabled, _) => Route::Disabled,
        (Mode::Normal | Mode::MetricsOnly, Phase::Closed { ramp_since: None }) => {
            match state.consecutive {
                0 => Route::Closed,
                _ => Route::Wary,
            }
        }
        (Mode::Normal, Phase::Open { .. }) => Route::Open,
        (Mode::Normal, Phase::Closed { .. } | Phase::HalfOpen { .. }) => Route::AskCore,
        (Mode::MetricsOnly, _) => Route::Watch,
    }
}

fn slice_length(config: &CircuitBreakerConfig) -> u64 {
    match config.window {
        Window::LastTime(length) if config.uses_window() => {
            (time::nanos(length) / crate::util::window::SLICES).max(1)
        }
        Window::LastTime(_) | Window::LastCalls(_) => 0,
    }
}

fn in_flight(config: &CircuitBreakerConfig) -> Option<Arc<InFlight>> {
    let slow = config.slow_calls?;
    Some(Arc::new(InFlight::new(slow.threshold)))
}

impl Shared {
    pub(super) fn new(name: Arc<str>, config: CircuitBreakerConfig, callbacks: Callbacks) -> Self {
        let now = time::now();
        let state = State::new(&config, now);
        Self {
            funnel: Funnel::new(name, callbacks.observers),
            hooks: Hooks::of(callbacks.on_rejected, callbacks.trip_when),
            random: Random::new(callbacks.seed),
            fast: Fast::new(state.epoch, config.times_calls(), slice_length(&config)),
            open_until: AtomicU64::new(0),
            trip: ShardedSlot::empty(),
            rejected: ShardedCounter::new(),
            in_flight: ArcSwapOption::new(in_flight(&config)),
            wakers: Arc::default(),
            shadow: ArcSwapOption::empty(),
            core: Mutex::new(state),
            config: ArcSwap::from_pointee(config),
        }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        self.funnel.name()
    }

    pub(super) fn config(&self) -> Arc<CircuitBreakerConfig> {
        self.config.load_full()
    }

    pub(super) fn publish(&self, event: &Event) {
        self.funnel.publish(event);
    }

    pub(super) fn rejections(&self) -> u64 {
        self.rejected.sum()
    }

    pub(super) fn forget_rejections(&self) {
        self.rejected.reset();
    }

    pub(super) fn core(&self) -> MutexGuard<'_, State> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A random number, if the config asks for any. Drawn only for decisions that may need it, so that a seed gives
    /// the same ones whoever looks.
    pub(super) fn unit(&self) -> f64 {
        match self.config.load().is_random() {
            true => self.random.unit(),
            false => 0.0,
        }
    }

    /// The config that is tried, if there is one: a look at the word that every call looks at.
    #[inline]
    pub(super) fn trial(&self) -> Option<Arc<Trial>> {
        match self.fast.read().is_shadowed() {
            true => self.shadow.load_full(),
            false => None,
        }
    }

    /// The config that is tried now, for a call that began while one was: another one knows nothing of it.
    pub(super) fn trial_of(&self, shadow: u64) -> Option<Arc<Trial>> {
        let trial = self.shadow.load_full()?;
        let is_its = Trial::number_of(shadow) == trial.number;
        is_its.then_some(trial)
    }

    /// From here on `trial` is tried on the calls, or nothing; what was tried before.
    pub(super) fn set_trial(&self, trial: Option<Arc<Trial>>) -> Option<Arc<Trial>> {
        let state = self.core();
        let before = self.shadow.swap(trial);
        self.publish_route(&state, &self.config.load());
        before
    }

    /// Admits a call of a closed circuit that is not timed, by its epoch: a reading of a shared word.
    #[inline]
    pub(super) fn acquire_plain(&self) -> Option<u32> {
        let word = self.fast.read();
        word.admits_plainly().then(|| word.epoch())
    }

    /// Counts a fast success of a call that was not timed, if that is all there is to it.
    #[inline]
    pub(super) fn settle_plain(&self, admitted: &Admitted) -> bool {
        let plain = admitted.kind() == Kind::Counted && admitted.started().is_none();
        plain && self.add_success(admitted.epoch(), time::now)
    }

    /// Whether a call would be refused that asked for admission now. Takes nothing and changes nothing.
    #[inline]
    pub(super) fn peek(&self) -> Option<Refusal> {
        match self.fast.read().route() {
            Route::Closed | Route::Wary | Route::Disabled | Route::Watch => None,
            Route::Open | Route::ForcedOpen | Route::AskCore => self.peek_core(),
        }
    }

    #[cold]
    fn peek_core(&self) -> Option<Refusal> {
        let now = time::now();
        match self.fast.read().route() {
            Route::Open => self.refuse_open(now).err(),
            _ => self.core().peek(&self.config.load(), now),
        }
    }

    /// While the circuit is plainly open.
    fn refuse_open(&self, now: Tick) -> Result<(), Refusal> {
        let until = Tick(self.open_until.load(Ordering::Acquire));
        if now >= until {
            return Ok(());
        }
        Err(Refusal {
            at: now,
            until,
            reason: OpenReason::Open,
        })
    }

    pub(super) fn acquire(&self) -> Result<Admitted, Refusal> {
        let word = self.fast.read();
        match word.route() {
            Route::Closed | Route::Wary if !word.is_timed() => Ok(Admitted::plain(word.epoch())),
            Route::Closed | Route::Wary => self.admit_timed(word.epoch()),
            Route::Open => {
                let now = time::now();
                self.refuse_open(now)?;
                self.ask_core(now)
            }
            Route::ForcedOpen => Err(Refusal {
                at: time::now(),
                until: Tick::NEVER,
                reason: OpenReason::ForcedOpen,
            }),
            Route::Disabled => {
                let ticket = Ticket {
                    epoch: word.epoch(),
                    lease: 0,
                };
                Ok(Admitted::new(ticket, Kind::Uncounted))
            }
            Route::AskCore | Route::Watch => self.ask_core(time::now()),
        }
    }

    fn admit_timed(&self, epoch: u32) -> Result<Admitted, Refusal> {
        let now = time::now();
        let mut admitted = Admitted::plain(epoch);
        admitted.start(now);
        if let Some(in_flight) = &*self.in_flight.load() {
            if in_flight.is_due(now) {
                return self.ask_core(now);
            }
            match in_flight.enter(epoch, now) {
                Some(entry) => admitted.enter(Some(entry)),
                None => return self.ask_core(now),
            }
        }
        Ok(admitted)
    }

    #[cold]
    fn ask_core(&self, now: Tick) -> Result<Admitted, Refusal> {
        let unit = self.unit();
        let admission = self.with_core(now, |state, config| state.admit(config, now, unit));
        let (ticket, kind) = match admission {
            Admission::Refuse(reason, retry_after) => {
                return Err(Refusal {
                    at: now,
                    until: retry_after.map_or(Tick::NEVER, |delay| now.after(delay)),
                    reason,
                });
            }
            Admission::Go(ticket) => (ticket, Kind::Counted),
            Admission::GoAnyway(ticket) => (ticket, Kind::Anyway),
            Admission::GoUncounted(ticket) => (ticket, Kind::Uncounted),
        };
        let mut admitted = Admitted::new(ticket, kind);
        if kind != Kind::Uncounted && self.config.load().times_calls() {
            admitted.start(now);
            self.enter_in_flight(&mut admitted, now);
        }
        Ok(admitted)
    }

    /// From `began` on it is a call that may become overdue. A probe has its lease instead, and what metrics-only mode
    /// let through decides nothing.
    fn enter_in_flight(&self, admitted: &mut Admitted, began: Tick) {
        if admitted.kind() == Kind::Counted
            && let Some(in_flight) = &*self.in_flight.load()
        {
            let entry = in_flight.enter(admitted.epoch(), began);
            admitted.enter(entry);
        }
    }

    /// The call begins to wait for something of this crate, or goes on at the service.
    #[cold]
    pub(super) fn waits(&self, admitted: &mut Admitted, frame: &Frame) {
        let (waits, now) = (frame.is_waiting(), time::now());
        if admitted.is_probe() {
            let config = self.config.load();
            self.core().pause(&config, admitted.ticket(), waits, now);
        }
        let Some(started) = admitted.started() else {
            return;
        };
        match (waits, admitted.entry()) {
            (true, Some(entry)) => {
                // One that is overdue already stays that.
                let in_flight = self.in_flight.load();
                if in_flight.as_ref().is_some_and(|it| it.exit(entry)) {
                    admitted.leave();
                }
            }
            (false, None) => {
                if self
                    .in_flight
                    .load()
                    .as_ref()
                    .is_some_and(|it| it.is_due(now))
                {
                    self.with_core(now, |_, _| ((), Effects::default()));
                }
                let began = Tick(now.0.saturating_sub(time::nanos(frame.spent(started, now))));
                self.enter_in_flight(admitted, began);
            }
            (true, None) | (false, Some(_)) => {}
        }
    }

    /// The call runs no longer. `true` if it was found overdue while it ran.
    fn leave(&self, admitted: &mut Admitted) -> bool {
        let Some(entry) = admitted.leave() else {
            return false;
        };
        let in_flight = self.in_flight.load();
        in_flight.as_ref().is_some_and(|it| !it.exit(entry))
    }

    /// The head of the answer is there: from here on the call can become no slower. If it is slow already it is counted
    /// now (`true`), because its body may go on for hours.
    #[cfg(feature = "http")]
    pub(super) fn answered(
        &self,
        admitted: &mut Admitted,
        frame: &Frame,
        head: &Judgement,
    ) -> bool {
        if let Some(started) = admitted.started() {
            let ran = frame.spent(started, time::now());
            let slow_calls = self.config.load().slow_calls;
            let slow = slow_calls.is_some_and(|slow| ran >= slow.threshold);
            let overdue = self.leave(admitted);
            admitted.stop();
            if (slow || overdue) && admitted.kind() != Kind::Uncounted {
                let ended = Ended {
                    outcome: head.outcome,
                    slow,
                    overdue,
                    message: None,
                    retry_after: None,
                };
                self.settle_in_core(admitted, &ended);
                return true;
            }
        }
        if admitted.is_probe() {
            self.core().answered(admitted.ticket(), head.outcome);
        }
        false
    }

    /// What the circuit opened for last. There is something: who refuses has announced it first.
    fn trip(&self) -> Arc<Trip> {
        self.trip.take().unwrap_or_else(|| {
            Arc::new(Trip {
                name: Arc::clone(self.name()),
                opened: time::now(),
                cause: Cause::Operator,
                failures: 0,
                last_failure: None,
            })
        })
    }

    /// Counts a refusal, and reports it.
    pub(super) fn rejected(&self, refusal: Refusal) -> CircuitOpen {
        if self.rejected.add_one() {
            // What is announced is announced under this lock.
            let _state = self.core();
            self.trip.grow();
        }
        let open = CircuitOpen::new(self.trip(), refusal);
        let event = || {
            Event::CircuitBreaker(CircuitBreakerEvent::Rejected {
                reason: open.reason(),
                retry_after: open.retry_after(),
            })
        };
        self.funnel
            .refused(refusal.at, || self.rejected.sum(), event);
        for callback in self.hooks.iter().flat_map(|it| &it.on_rejected) {
            guarded(self.funnel.name(), || callback(&open));
        }
        open
    }

    /// The call of a permit ended.
    pub(super) fn settle(&self, admitted: &mut Admitted, frame: &Frame, judged: Judgement) {
        let overdue = self.leave(admitted);
        if admitted.kind() == Kind::Uncounted {
            return;
        }
        let needs_now = self.fast.has_slices() || admitted.started().is_some();
        let now = if needs_now { time::now() } else { Tick(0) };
        let ran = admitted.started().map(|started| frame.spent(started, now));
        let config = self.config.load();
        let slow = config.slow_calls.zip(ran);
        let slow = slow.is_some_and(|(slow, ran)| ran >= slow.threshold);
        let judged = match frame.is_waiting() {
            true => judged,
            false => judge_cancelled(&config, judged, ran),
        };
        drop(config);
        let plain = !slow && !overdue && admitted.kind() == Kind::Counted;
        if judged.outcome == Outcome::Success && plain && self.add_success(admitted.epoch(), || now)
        {
            return;
        }
        let ended = Ended {
            outcome: judged.outcome,
            slow,
            overdue,
            message: judged.message.map(Arc::from),
            retry_after: judged.retry_after,
        };
        self.settle_in_core(admitted, &ended);
    }

    /// The healthy way: one word of this thread's own.
    #[inline]
    fn add_success(&self, epoch: u32, now: impl FnOnce() -> Tick) -> bool {
        match self.fast.add_success(epoch, now) {
            Added::Yes => true,
            Added::Crowded => {
                self.grow();
                true
            }
            Added::No => false,
        }
    }

    /// Whether threads have been seen to collide.
    #[inline]
    pub(super) fn is_crowded(&self) -> bool {
        self.fast.is_crowded()
    }

    /// Many threads succeed at once. If the core is busy there is another time.
    #[cold]
    fn grow(&self) {
        let state = match self.core.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.fast.grow(state.epoch);
    }

    #[cold]
    fn settle_in_core(&self, admitted: &Admitted, ended: &Ended) {
        let unit = self.unit();
        let now = time::now();
        let is_bad = matches!(ended.outcome, Outcome::Failure | Outcome::Overload) || ended.slow;
        let rule = self.hooks.as_ref().and_then(|it| it.trip_when.as_ref());
        let rule = rule.filter(|_| is_bad);
        let counts = self.with_core(now, |state, config| {
            let effects = match admitted.kind() {
                Kind::Anyway => {
                    state.settle_anyway(ended);
                    Effects::default()
                }
                Kind::Counted | Kind::Probe | Kind::Uncounted => {
                    state.settle(config, admitted.ticket(), ended, now, unit)
                }
            };
            let counts = rule.map(|_| (state.epoch, state.window_counts(now)));
            (counts, effects)
        });
        if admitted.is_probe() {
            self.wakers.wake_all(); // There is room for another.
        }
        // A rule of the user's own is asked when no lock is held.
        if let Some((rule, (epoch, counts))) = rule.zip(counts) {
            let mut trips = false;
            guarded(self.funnel.name(), || trips = rule(&counts));
            if trips {
                self.with_core(now, |state, config| {
                    let change = state.trip_by_custom(config, epoch, now, unit);
                    ((), change.into())
                });
            }
        }
    }

    /// Runs one step of the core on all that is known, and publishes what it would answer next. What there is to report
    /// is numbered under the lock, and reported when it is released.
    pub(super) fn with_core<T>(
        &self,
        now: Tick,
        step: impl FnOnce(&mut State, &CircuitBreakerConfig) -> (T, Effects),
    ) -> T {
        let mut state = self.core();
        let config = self.config.load();
        let before = state.epoch;
        let (n, slice) = self.fast.drain(state.epoch, now);
        state.add_successes(n, slice);
        let mut changes = Vec::new();
        if let Some(in_flight) = &*self.in_flight.load() {
            let overdue = in_flight.sweep(state.epoch, now);
            if overdue > 0 {
                let unit = self.unit();
                changes.extend(state.add_overdue(&config, overdue, now, unit));
            }
        }
        let (answer, effects) = step(&mut state, &config);
        changes.extend(effects.changes);
        if state.epoch != before {
            // What came in meanwhile belongs to the old epoch: counted, but not in the new window.
            let (late, _) = self.fast.drain(state.epoch, now);
            state.totals.successes += late;
            self.announce(&state);
        }
        self.publish_route(&state, &config);
        state.tell_group();
        let told = effects.lost_probes > 0 || !changes.is_empty();
        // Also if an open circuit opens for another time.
        let moved = state.epoch != before;
        for _ in 0..effects.lost_probes {
            let lease = config.probe_timeout;
            let lost = CircuitBreakerEvent::ProbeLost { lease };
            self.funnel.enqueue(Event::CircuitBreaker(lost));
        }
        for change in changes {
            self.funnel.enqueue(Event::CircuitBreaker(describe(change)));
        }
        drop(state);
        if told {
            self.funnel.flush();
        }
        if told || moved {
            self.wakers.wake_all();
        }
        answer
    }

    /// Publishes what the core would answer next.
    fn publish_route(&self, state: &State, config: &CircuitBreakerConfig) {
        let shadowed = self.shadow.load().is_some();
        self.fast
            .publish(route(state), state.epoch, config.times_calls(), shadowed);
    }

    /// It is one of a group from here on.
    pub(super) fn join(&self, group: &Arc<Group>) {
        self.core().join(Seat::new(group));
    }

    /// Puts where refusals look what they need to know.
    fn announce(&self, state: &State) {
        if let Phase::Open { until } = state.phase {
            self.open_until.store(until.0, Ordering::Release);
        }
        let refuses = state.mode == Mode::ForcedOpen || matches!(state.phase, Phase::Open { .. });
        if refuses {
            let opening = state.opening.clone();
            self.trip.store(&Trip {
                name: Arc::clone(self.funnel.name()),
                opened: state.opened,
                cause: opening.cause,
                failures: opening.failures,
                last_failure: opening.last_failure,
            });
        }
    }

    /// Goes by another config from now on. The state, the window as far as it stays the same, and the permits in use
    /// are kept.
    pub(super) fn update(
        &self,
        mut config: CircuitBreakerConfig,
    ) -> Result<ConfigChange, ConfigError> {
        // A rule of the user's own is no data: it stays.
        config.has_rule = self.config.load().has_rule;
        config.check()?;
        let now = time::now();
        let mut state = self.core();
        let old = self.config.load_full();
        let slices = slice_length(&config);
        let (n, slice) = self.fast.drain_and_slice_by(slices, state.epoch, now);
        state.add_successes(n, slice);
        state.adapt(&old, &config);
        if old.slow_calls != config.slow_calls {
            self.in_flight.store(in_flight(&config));
        }
        self.publish_route(&state, &config);
        let change = old.difference(&config);
        self.config.store(Arc::new(config));
        drop(state);
        self.wakers.wake_all(); // There may be room for more probes.
        Ok(change)
    }
}

/// A call that was dropped because it took too long says something about the service.
fn judge_cancelled(
    config: &CircuitBreakerConfig,
    judged: Judgement,
    ran: Option<Duration>,
) -> Judgement {
    let limit = config.cancelled_is_failure_after;
    match (judged.outcome, limit.zip(ran)) {
        (Outcome::Cancelled, Some((limit, ran))) if ran >= limit => {
            Judgement::failure(format!("dropped after {ran:.3?}"))
        }
        _ => judged,
    }
}

fn describe(change: Change) -> CircuitBreakerEvent {
    let Change {
        from,
        to,
        cause,
        open_for,
        last_failure,
        shadow,
    } = change;
    match shadow {
        true => CircuitBreakerEvent::WouldChange { from, to, cause },
        false => CircuitBreakerEvent::StateChanged {
            from,
            to,
            cause,
            open_for,
            last_failure,
        },
    }
}

impl From<Option<Change>> for Effects {
    fn from(change: Option<Change>) -> Self {
        Self {
            changes: change.into_iter().collect(),
            lost_probes: 0,
        }
    }
}
