//! What all clones of a breaker share: the locked core, and in front of it what the core would answer as
//! long as nothing changes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use super::admitted::{Admitted, Kind};
use super::config::{CircuitBreakerConfig, Window};
use super::in_flight::InFlight;
use super::state::{Admission, Change, Effects, Ended, Mode, Phase, State, Ticket};
use super::{CircuitBreakerEvent, CircuitState};
use crate::call::context::Frame;
use crate::call::outcome::Outcome;
use crate::error::{CircuitOpen, OpenReason, Refusal, Trip};
use crate::event::{Event, Funnel, Observer, guarded};
use crate::util::random::Random;
use crate::util::sharded::ShardedSlot;
use crate::util::sharded::{Added, ShardedCounter, TaggedCounter};
use crate::util::time::{self, Tick};

pub(super) type OnRejected = Arc<dyn Fn(&CircuitOpen) + Send + Sync>;

pub(super) struct Shared {
    pub(super) policy: CircuitBreakerConfig,
    funnel: Funnel,
    on_rejected: Vec<OnRejected>,
    random: Random,
    /// What the core would answer: its epoch and a [`Lane`].
    word: AtomicU64,
    open_until: AtomicU64,
    trip: ShardedSlot<Trip>,
    successes: TaggedCounter,
    /// Whether a call that starts, or succeeds, in a closed circuit needs a reading of the clock.
    timed: bool,
    /// The length of a slice in nanoseconds, 0 if the window is not one of time.
    slice: u64,
    rejected: ShardedCounter,
    in_flight: Option<Box<InFlight>>,
    core: Mutex<State>,
}

/// Which way a call takes without asking the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    /// Admit; a success changes nothing but its count.
    Closed,
    /// Admit; a success ends a streak of failures, so the core must know.
    Wary,
    /// Refuse until the open time is over.
    Open,
    ForcedOpen,
    /// Admit and count nothing.
    Disabled,
    /// Every call is the core's decision.
    AskCore,
    /// Metrics only: the core is asked, and every call goes through.
    Watch,
}

impl Lane {
    const ALL: [Self; 7] = [
        Self::Closed,
        Self::Wary,
        Self::Open,
        Self::ForcedOpen,
        Self::Disabled,
        Self::AskCore,
        Self::Watch,
    ];

    fn of(state: &State) -> Self {
        match (state.mode, &state.phase) {
            (Mode::ForcedOpen, _) => Self::ForcedOpen,
            (Mode::Disabled, _) => Self::Disabled,
            (Mode::Normal | Mode::MetricsOnly, Phase::Closed { ramp_since: None }) => {
                match state.streak {
                    0 => Self::Closed,
                    _ => Self::Wary,
                }
            }
            (Mode::Normal, Phase::Open { .. }) => Self::Open,
            (Mode::Normal, Phase::Closed { .. } | Phase::HalfOpen { .. }) => Self::AskCore,
            (Mode::MetricsOnly, _) => Self::Watch,
        }
    }

    /// Whether a word is of one of these shards.
    #[inline]
    fn is_one_of(word: u64, shards: &[Self]) -> bool {
        let set = shards
            .iter()
            .fold(0_u64, |set, shard| set | 1 << *shard as u64);
        set >> (word & 7) & 1 == 1
    }

    const fn word(self, epoch: u32) -> u64 {
        (epoch as u64) << 8 | self as u64
    }

    #[inline]
    fn read(word: u64) -> (Self, u32) {
        (
            Self::ALL[(word & 0xff) as usize % Self::ALL.len()],
            (word >> 8) as u32,
        )
    }
}

impl Shared {
    pub(super) fn new(
        name: Arc<str>,
        policy: CircuitBreakerConfig,
        observers: Vec<Arc<dyn Observer>>,
        on_rejected: Vec<OnRejected>,
        seed: Option<u64>,
    ) -> Self {
        let now = time::now();
        let state = State::new(&policy, now);
        Self {
            funnel: Funnel::new(Arc::clone(&name), observers),
            on_rejected,
            random: Random::new(seed),
            word: AtomicU64::new(Lane::of(&state).word(state.epoch)),
            open_until: AtomicU64::new(0),
            trip: ShardedSlot::empty(),
            successes: TaggedCounter::new(),
            timed: policy.times_calls(),
            slice: match policy.window {
                Window::LastTime(length) if policy.uses_rates() => slice_length(length),
                Window::LastTime(_) | Window::LastCalls(_) => 0,
            },
            rejected: ShardedCounter::new(),
            in_flight: policy
                .slow_calls
                .map(|slow| Box::new(InFlight::new(slow.threshold))),
            core: Mutex::new(state),
            policy,
        }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        self.funnel.name()
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

    fn core(&self) -> MutexGuard<'_, State> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unit(&self) -> f64 {
        match self.policy.is_random() {
            true => self.random.unit(),
            false => 0.0,
        }
    }

    /// Admits a call of a closed circuit that is not timed, by its epoch: two readings of shared words.
    #[inline]
    pub(super) fn acquire_plain(&self) -> Option<u32> {
        let word = self.word.load(Ordering::Acquire);
        let plain = Lane::is_one_of(word, &[Lane::Closed, Lane::Wary]) && !self.timed;
        plain.then_some((word >> 8) as u32)
    }

    /// Counts a fast success of a call that was not timed, if that is all there is to it.
    #[inline]
    pub(super) fn settle_plain(&self, admitted: &Admitted) -> bool {
        let plain = !self.timed && admitted.kind() == Kind::Counted;
        plain && self.add_success(admitted.epoch(), time::now)
    }

    pub(super) fn acquire(&self) -> Result<Admitted, Refusal> {
        let word = self.word.load(Ordering::Acquire);
        let (shard, epoch) = Lane::read(word);
        match shard {
            Lane::Closed | Lane::Wary => self.admit_closed(epoch),
            Lane::Open => {
                let now = time::now();
                let until = Tick(self.open_until.load(Ordering::Acquire));
                if now >= until {
                    return self.ask_core(now);
                }
                Err(Refusal {
                    at: now,
                    until,
                    reason: OpenReason::Open,
                })
            }
            Lane::ForcedOpen => Err(Refusal {
                at: time::now(),
                until: Tick::NEVER,
                reason: OpenReason::ForcedOpen,
            }),
            Lane::Disabled => {
                let ticket = Ticket { epoch, lease: 0 };
                Ok(Admitted::new(ticket, Kind::Uncounted))
            }
            Lane::AskCore | Lane::Watch => self.ask_core(time::now()),
        }
    }

    fn admit_closed(&self, epoch: u32) -> Result<Admitted, Refusal> {
        let mut admitted = Admitted::plain(epoch);
        if self.timed {
            let now = time::now();
            admitted.start(now);
            if let Some(in_flight) = &self.in_flight {
                if in_flight.is_due(now) {
                    return self.ask_core(now);
                }
                match in_flight.enter(epoch, now) {
                    Some(seat) => admitted.sit(Some(seat)),
                    None => return self.ask_core(now),
                }
            }
        }
        Ok(admitted)
    }

    #[cold]
    fn ask_core(&self, now: Tick) -> Result<Admitted, Refusal> {
        let unit = self.unit();
        let ((admission, effect), mut effects) = self.with_core(now, |state, shared| {
            let (admission, effect) = state.admit(&shared.policy, now, unit);
            (admission, effect)
        });
        effects.push(effect);
        let answer = match admission {
            Admission::Refuse(reason, retry_after) => Err(Refusal {
                at: now,
                until: retry_after.map_or(Tick::NEVER, |delay| now.after(delay)),
                reason,
            }),
            Admission::Go(ticket) => Ok((ticket, Kind::Counted)),
            Admission::GoAnyway(ticket) => Ok((ticket, Kind::Anyway)),
            Admission::GoUncounted(ticket) => Ok((ticket, Kind::Uncounted)),
        };
        self.tell(effects);
        let (ticket, kind) = answer?;
        let mut admitted = Admitted::new(ticket, kind);
        self.start(&mut admitted, now);
        Ok(admitted)
    }

    /// The call begins at `now`.
    fn start(&self, admitted: &mut Admitted, now: Tick) {
        if !self.timed || admitted.kind() == Kind::Uncounted {
            return;
        }
        admitted.start(now);
        // A probe that hangs has its lease, and what metrics-only mode let through decides nothing.
        if admitted.kind() == Kind::Counted {
            let epoch = admitted.epoch();
            let in_flight = self.in_flight.as_deref();
            admitted.sit(in_flight.and_then(|it| it.enter(epoch, now)));
        }
    }

    /// Asks for admission ahead of a call, which is not counted as running yet.
    pub(super) fn reserve(&self) -> Result<Admitted, Refusal> {
        let mut admitted = self.acquire()?;
        self.leave(&mut admitted);
        Ok(admitted)
    }

    /// The call that was admitted earlier begins now. `false` if the circuit has changed since.
    pub(super) fn restart(&self, admitted: &mut Admitted) -> bool {
        let now = time::now();
        let good = match admitted.is_probe() {
            false => self.is_current(admitted),
            true => self.core().renew(&self.policy, admitted.ticket(), now),
        };
        if good {
            self.start(admitted, now);
        }
        good
    }

    /// Whether nothing has changed since `admitted` was given out.
    pub(super) fn is_current(&self, admitted: &Admitted) -> bool {
        let (_, epoch) = Lane::read(self.word.load(Ordering::Acquire));
        epoch == admitted.epoch()
    }

    /// The call runs no longer. `true` if it was swept while it ran: it has been counted as slow, as far as
    /// its epoch still goes on.
    fn leave(&self, admitted: &mut Admitted) -> bool {
        match (&self.in_flight, admitted.rise()) {
            (Some(in_flight), Some(seat)) => !in_flight.exit(seat),
            _ => false,
        }
    }

    /// From here on the call can become no slower; if it is slow already, it stays that.
    #[cfg(feature = "http")]
    pub(super) fn stop_timing(&self, admitted: &mut Admitted) {
        let Some(started) = admitted.started() else {
            return;
        };
        let ran = time::now().since(started);
        let slow = self.policy.slow_calls;
        if slow.is_none_or(|slow| ran < slow.threshold) {
            self.leave(admitted);
            admitted.stop();
        }
    }

    /// What the circuit opened for last. There is something: who refuses has announced it first.
    fn trip(&self) -> Arc<Trip> {
        self.trip.take().unwrap_or_else(|| {
            Arc::new(Trip {
                name: Arc::clone(self.name()),
                opened: time::now(),
                failures: 0,
                last_failure: None,
            })
        })
    }

    /// Counts a refusal, and tells of it.
    pub(super) fn rejected(&self, refusal: Refusal) -> CircuitOpen {
        if self.rejected.add_one() {
            // What is announced is announced under this lock.
            let _state = self.core();
            self.trip.grow();
        }
        let open = CircuitOpen::new(self.trip(), refusal);
        if self.funnel.hears_details() {
            self.funnel
                .publish(&Event::CircuitBreaker(CircuitBreakerEvent::Rejected {
                    reason: open.reason(),
                    retry_after: open.retry_after(),
                }));
        }
        for callback in &self.on_rejected {
            guarded(self.funnel.name(), || callback(&open));
        }
        open
    }

    /// Whether every call goes through, as it looks now.
    #[inline]
    pub(super) fn lets_all_through(&self) -> bool {
        let through = [Lane::Closed, Lane::Wary, Lane::Disabled, Lane::Watch];
        Lane::is_one_of(self.word.load(Ordering::Acquire), &through)
    }

    /// A permit that no call was made with.
    pub(super) fn forgo(&self, admitted: &mut Admitted) {
        self.leave(admitted);
        if admitted.is_probe() {
            self.core().forgo(admitted.ticket());
        }
    }

    /// The call of a permit ended.
    pub(super) fn settle(
        &self,
        admitted: &mut Admitted,
        frame: &Frame,
        outcome: Outcome,
        message: Option<String>,
    ) {
        let counted = self.leave(admitted);
        if admitted.kind() == Kind::Uncounted {
            return;
        }
        let needs_now = self.slice > 0 || admitted.started().is_some();
        let now = if needs_now { time::now() } else { Tick(0) };
        let ran = admitted.started().map(|started| frame.spent(started, now));
        let slow = self
            .policy
            .slow_calls
            .zip(ran)
            .is_some_and(|(slow, ran)| ran >= slow.threshold);
        let (outcome, message) = match frame.is_waiting() {
            true => (outcome, message),
            false => self.judge_cancelled(outcome, message, ran),
        };
        if outcome == Outcome::Success
            && !slow
            && admitted.kind() == Kind::Counted
            && self.add_success(admitted.epoch(), || now)
        {
            return;
        }
        let ended = Ended {
            outcome,
            slow,
            counted,
            message: message.map(Arc::from),
        };
        self.settle_in_core(admitted, &ended);
    }

    /// A call that was dropped because it took too long says something about the service.
    fn judge_cancelled(
        &self,
        outcome: Outcome,
        message: Option<String>,
        ran: Option<Duration>,
    ) -> (Outcome, Option<String>) {
        let limit = self.policy.cancelled_is_failure_after;
        match (outcome, limit.zip(ran)) {
            (Outcome::Cancelled, Some((limit, ran))) if ran >= limit => {
                (Outcome::Failure, Some(format!("dropped after {ran:.3?}")))
            }
            _ => (outcome, message),
        }
    }

    /// The healthy way: one word of this thread's own.
    #[inline]
    fn add_success(&self, epoch: u32, now: impl FnOnce() -> Tick) -> bool {
        self.word.load(Ordering::Acquire) == Lane::Closed.word(epoch)
            && match self.slice {
                0 => self.add(epoch),
                _ => self.add(self.tag(epoch, now())),
            }
    }

    /// Whether threads have been seen to collide.
    #[inline]
    pub(super) fn is_crowded(&self) -> bool {
        self.successes.words.has_grown()
    }

    #[inline]
    fn add(&self, tag: u32) -> bool {
        match self.successes.add(tag) {
            Added::Yes => true,
            Added::Crowded => {
                self.grow();
                true
            }
            Added::No => false,
        }
    }

    /// Many threads succeed at once. If the core is busy there is another time.
    #[cold]
    fn grow(&self) {
        let state = match self.core.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.successes.grow(self.tag(state.epoch, time::now()));
    }

    /// Under which tag successes are counted: the epoch, and with a window of time the slice.
    fn tag(&self, epoch: u32, now: Tick) -> u32 {
        match now.0.checked_div(self.slice) {
            Some(slice) => epoch << SLICE_BITS | slice as u32 & SLICE_MASK,
            None => epoch,
        }
    }

    #[cold]
    fn settle_in_core(&self, admitted: &Admitted, ended: &Ended) {
        let unit = self.unit();
        let now = time::now();
        let (effect, mut effects) = self.with_core(now, |state, shared| match admitted.kind() {
            Kind::Anyway => {
                state.settle_anyway(ended);
                Effects::default()
            }
            Kind::Counted | Kind::Probe | Kind::Uncounted => {
                state.settle(&shared.policy, admitted.ticket(), ended, now, unit)
            }
        });
        effects.push(effect);
        self.tell(effects);
    }

    /// Runs one step of the core on all that is known, and publishes what it would answer next. What
    /// there is to tell is told by the caller, once the lock is gone.
    pub(super) fn with_core<T>(
        &self,
        now: Tick,
        step: impl FnOnce(&mut State, &Self) -> T,
    ) -> (T, Vec<Effects>) {
        let unit = self.unit();
        let mut state = self.core();
        let before = state.epoch;
        self.drain(&mut state, now);
        let mut effects = Vec::new();
        if let Some(in_flight) = &self.in_flight {
            let overdue = in_flight.sweep(state.epoch, now);
            let change = state.add_overdue(&self.policy, overdue, now, unit);
            effects.extend(change.map(Effects::from));
        }
        let answer = step(&mut state, self);
        if state.epoch != before {
            // What came in meanwhile belongs to the old epoch: counted, but not in the new window.
            let mut late = 0;
            self.successes
                .drain(self.tag(state.epoch, now), |_, n| late += u64::from(n));
            state.totals.successes += late;
            self.announce(&state);
        }
        self.word
            .store(Lane::of(&state).word(state.epoch), Ordering::Release);
        (answer, effects)
    }

    fn drain(&self, state: &mut State, now: Tick) {
        let newest = state.slice(now);
        self.successes.drain(self.tag(state.epoch, now), |tag, n| {
            // The slice nearest to the newest that ends in these bits. It may be a later one: another thread
            // can have read the clock after this one did.
            let ahead = (tag.wrapping_sub(newest as u32) << EPOCH_BITS) as i32 >> EPOCH_BITS;
            let slice = newest.saturating_add_signed(i64::from(ahead));
            state.add_successes(u64::from(n), slice);
        });
    }

    /// Puts where the refusing shards look what they need to know.
    fn announce(&self, state: &State) {
        if let Phase::Open { until } = state.phase {
            self.open_until.store(until.0, Ordering::Release);
        }
        let refuses = state.mode == Mode::ForcedOpen || matches!(state.phase, Phase::Open { .. });
        if refuses {
            self.trip.store(&Trip {
                name: Arc::clone(self.funnel.name()),
                opened: state.opened,
                failures: state.tripped_by,
                // An operator opens it whatever failed before.
                last_failure: state.last_failure.clone().filter(|_| state.tripped_by > 0),
            });
        }
    }

    /// Tells what changed. No lock is held here.
    pub(super) fn tell(&self, effects: Vec<Effects>) {
        for effect in effects {
            if effect.lost_probe {
                let lease = self.policy.probe_timeout;
                let lost = CircuitBreakerEvent::ProbeLost { lease };
                self.funnel.publish(&Event::CircuitBreaker(lost));
            }
            if let Some(change) = effect.change {
                let event = self.describe(change);
                self.funnel.publish(&Event::CircuitBreaker(event));
            }
        }
    }

    fn describe(&self, change: Change) -> CircuitBreakerEvent {
        let Change {
            from,
            to,
            cause,
            open_for,
            shadow,
        } = change;
        if shadow {
            return CircuitBreakerEvent::WouldChange { from, to, cause };
        }
        let last_failure = match to {
            CircuitState::Open => self.trip().last_failure.clone(),
            _ => None,
        };
        CircuitBreakerEvent::StateChanged {
            from,
            to,
            cause,
            open_for,
            last_failure,
        }
    }
}

/// With a window of time, this many bits of a tag are the slice's, the others the epoch's.
const SLICE_BITS: u32 = 24;
const SLICE_MASK: u32 = (1 << SLICE_BITS) - 1;
const EPOCH_BITS: u32 = 32 - SLICE_BITS;

fn slice_length(window: Duration) -> u64 {
    (time::nanos(window) / crate::util::window::SLICES).max(1)
}

impl From<Change> for Effects {
    fn from(change: Change) -> Self {
        Self {
            change: Some(change),
            lost_probe: false,
        }
    }
}
