//! What the clones of a handle share: the probability, what the threads have counted in this slice of the window, and the
//! window.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use super::config::ThrottleConfig;
use super::snapshot::{ThrottleSnapshot, ThrottleTotals};
use super::state::State;
use crate::call::outcome::Outcome;
use crate::error::{ConfigChange, ConfigError, ThrottleName, Throttled};
use crate::event::{Event, Funnel, Observer, ThrottleEvent};
use crate::util::random::Random;
use crate::util::sharded::{Added, ShardValue, ShardedCounter, TaggedCounter};
use crate::util::time::{self, Tick, nanos};
use crate::util::window::SLICES;

pub(super) struct Shared {
    funnel: Funnel,
    pub(super) config: ArcSwap<ThrottleConfig>,
    random: Random,
    /// The bits of the probability of a refusal.
    reject: AtomicU64,
    /// The length of a slice in nanoseconds.
    slice: AtomicU64,
    /// The number of the slice for which the threads count. Their tag is its lower half.
    current: AtomicU64,
    accepted: TaggedCounter,
    refused: TaggedCounter,
    refused_total: ShardedCounter,
    state: Mutex<State>,
}

fn slice_of(config: &ThrottleConfig) -> u64 {
    (nanos(config.window) / SLICES).max(1)
}

impl Shared {
    /// The config has been checked.
    pub(super) fn new(
        name: Arc<str>,
        config: ThrottleConfig,
        seed: Option<u64>,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Self {
        Self {
            funnel: Funnel::new(name, observers),
            random: Random::new(seed),
            reject: AtomicU64::new(0.0_f64.to_bits()),
            slice: AtomicU64::new(slice_of(&config)),
            current: AtomicU64::new(0),
            accepted: TaggedCounter::new(),
            refused: TaggedCounter::new(),
            refused_total: ShardedCounter::new(),
            state: Mutex::new(State::new(&config)),
            config: ArcSwap::from_pointee(config),
        }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        self.funnel.name()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    pub(super) fn probability(&self) -> f64 {
        f64::from_bits(self.reject.load(Ordering::Relaxed))
    }

    fn slice_at(&self, now: Tick) -> u64 {
        now.0 / self.slice.load(Ordering::Relaxed)
    }

    /// Whether the threads still count for the slice of `now`.
    #[inline]
    fn is_current(&self, now: Tick) -> bool {
        self.slice_at(now) == self.current.load(Ordering::Relaxed)
    }

    fn tag(&self) -> u32 {
        self.current.load(Ordering::Relaxed) as u32
    }

    /// Whether a call may be made; else with which probability it was refused, and when.
    #[inline]
    pub(super) fn admit(&self) -> Result<(), (f64, Tick)> {
        match self.probability() > 0.0 {
            false => Ok(()),
            true => self.draw(),
        }
    }

    #[cold]
    fn draw(&self) -> Result<(), (f64, Tick)> {
        let now = time::now();
        if !self.is_current(now) {
            self.with_state(now, |_, _| ());
        }
        let probability = self.probability();
        if self.random.unit() >= probability {
            return Ok(());
        }
        match self.refused.add(self.tag()) {
            Added::Yes => {}
            Added::Crowded => self.grow(),
            // The slice has just ended.
            Added::No => self.with_state(now, |state, now| state.add(0, 1, self.slice_at(now))),
        }
        Err((probability, now))
    }

    /// Counts and tells a refusal.
    pub(super) fn refused(
        &self,
        throttle: Arc<dyn ThrottleName>,
        (probability, now): (f64, Tick),
    ) -> Throttled {
        self.refused_total.add_one();
        let event = || Event::Throttle(ThrottleEvent::Refused { probability });
        self.funnel.refused(now, || self.refused_total.sum(), event);
        Throttled {
            throttle,
            probability,
        }
    }

    /// A call has ended.
    #[inline]
    pub(super) fn settle(&self, outcome: Outcome) {
        let accepted = match outcome {
            Outcome::Success => true,
            Outcome::Failure => self.config.load().only_overload,
            Outcome::Overload => false,
            Outcome::Ignored | Outcome::Cancelled => return,
        };
        let now = time::now();
        if !accepted {
            self.with_state(now, |state, now| state.fail(now));
            return;
        }
        if self.is_current(now) && self.probability() == 0.0 {
            match self.accepted.add(self.tag()) {
                Added::Yes => return,
                Added::Crowded => return self.grow(),
                Added::No => {}
            }
        }
        self.with_state(now, |state, now| state.add(1, 0, self.slice_at(now)));
    }

    /// Many threads count at once. Another time, if somebody has the lock.
    #[cold]
    fn grow(&self) {
        if let Ok(_state) = self.state.try_lock() {
            self.accepted.grow(self.tag());
            self.refused.grow(self.tag());
        }
    }

    /// Does something with all that has been counted, and makes the probability anew. `part` is told the time: it is not before
    /// the slice for which the threads count, although `now` was read before the lock was taken.
    #[cold]
    pub(super) fn with_state<T>(&self, now: Tick, part: impl FnOnce(&mut State, Tick) -> T) -> T {
        let mut state = self.lock();
        let now = self.drain(&mut state, now);
        let value = part(&mut state, now);
        let (config, before) = (self.config.load(), self.probability());
        let after = state.reject(&config, now);
        self.reject.store(after.to_bits(), Ordering::Relaxed);
        let changes = (before > 0.0) != (after > 0.0);
        if changes {
            let (requests, accepts) = state.counts(now);
            self.funnel.enqueue(Event::Throttle(match after > 0.0 {
                true => ThrottleEvent::Began { requests, accepts },
                false => ThrottleEvent::Ended { requests, accepts },
            }));
        }
        drop(state);
        if changes {
            self.funnel.flush();
        }
        value
    }

    /// Takes what the threads have counted into the window. From here on they count for the slice of `now`, or for a later one
    /// if another thread has seen that begin. The time, which is in that slice.
    fn drain(&self, state: &mut State, now: Tick) -> Tick {
        let counted_for = self.current.load(Ordering::Relaxed);
        let current = counted_for.max(self.slice_at(now));
        self.current.store(current, Ordering::Relaxed);
        let tag = current as u32;
        let (mut accepted, mut refused) = (0, 0);
        self.accepted.drain(tag, |_, n| accepted += u64::from(n));
        self.refused.drain(tag, |_, n| refused += u64::from(n));
        state.add(accepted, refused, counted_for);
        let begin = current.saturating_mul(self.slice.load(Ordering::Relaxed));
        now.max(Tick(begin))
    }

    pub(super) fn update(&self, new: ThrottleConfig) -> Result<ConfigChange, ConfigError> {
        new.check()?;
        let now = time::now();
        let change = self.with_state(now, |state, now| {
            let old = self.config.swap(Arc::new(new));
            if old.window != new.window {
                self.slice.store(slice_of(&new), Ordering::Relaxed);
                self.current.store(0, Ordering::Relaxed);
                state.forget(&new);
                self.drain(state, now);
            }
            old.difference(&new)
        });
        Ok(change)
    }

    pub(super) fn reset(&self) {
        self.with_state(time::now(), |state, _| state.forget(&self.config.load()));
    }

    pub(super) fn snapshot(&self) -> ThrottleSnapshot {
        self.with_state(time::now(), |state, now| {
            let (requests, accepts) = state.counts(now);
            ThrottleSnapshot {
                name: Arc::clone(self.name()),
                probability: state.reject(&self.config.load(), now),
                requests,
                accepts,
                totals: ThrottleTotals {
                    accepted: state.accepted,
                    not_accepted: state.not_accepted,
                    refused: self.refused_total.sum(),
                },
            }
        })
    }

    /// Whether one that is made anew would do the same.
    pub(super) fn remembers_nothing(&self) -> bool {
        self.with_state(time::now(), |state, now| {
            let (requests, accepts) = state.counts(now);
            requests == accepts
        })
    }
}

impl ThrottleName for ShardValue<Shared> {
    fn name(&self) -> &str {
        self.value().name()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name().fmt(f)
    }
}
