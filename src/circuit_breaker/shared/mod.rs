//! What all clones of a breaker share: the locked core, and in front of it what the core would answer as
//! long as nothing changes.

mod admit;
mod settle;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use slab::Slab;

use super::admitted::Admitted;
use super::config::{CircuitBreakerConfig, Window, WindowCounts};
use super::fast::{Fast, Route};
use super::group::{Group, Seat};
use super::in_flight::InFlight;
use super::state::{Change, Effects, Mode, Phase, State};
use super::wakers::Wakers;
use crate::error::{CircuitOpen, ConfigChange, ConfigError, Judgement, Trip};
use crate::event::{CircuitBreakerEvent, Event, Funnel, Observer};
use crate::util::random::Random;
use crate::util::sharded::{ShardedCounter, ShardedSlot};
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
