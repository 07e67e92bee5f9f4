//! What the clones of a handle share: the quotas, behind one word where one word is enough.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::bucket::{Pace, Time};
use super::config::RateLimitConfig;
use super::cost::{Cost, MOST_QUOTAS};
use super::shadow::{InForce, RateLimitShadow, Trial};
use super::snapshot::{QuotaSnapshot, RateLimitSnapshot, RateLimitTotals};
use super::state::{Not, State, Wake};
use super::word::Word;
use crate::call::deadline;
use crate::error::{ConfigChange, ConfigError, LimitNames, RateLimitReason, RateLimited};
use crate::event::{Event, Funnel, Observer, RateLimitEvent};
use crate::util::histogram::Histogram;
use crate::util::sharded::{ShardValue, ShardedCounter};
use crate::util::time::{self, Tick};

pub(super) struct Shared {
    funnel: Funnel,
    pub(super) config: ArcSwap<RateLimitConfig>,
    /// Their names, which never change.
    quotas: Box<[Arc<str>]>,
    /// Times are counted from here.
    base: Tick,
    /// Of a limit with one quota: open while nobody waits and there is no pause.
    word: Word,
    interval: AtomicU64,
    capacity: AtomicU64,
    /// The number of the rules.
    version: AtomicU64,
    state: Mutex<State>,
    passed: ShardedCounter,
    refused: ShardedCounter,
    counts: Counts,
    wait: Mutex<Histogram>,
    /// Whether another config is tried.
    is_tried: AtomicBool,
    trial: ArcSwapOption<Mutex<Trial>>,
}

/// In which trial a call has taken what it asked for; 0 for none.
pub(super) type Mark = u64;

/// What of a number is the version of the rules, and not a [`Mark`].
pub(super) const VERSION: u64 = (1 << super::shadow::MARK_SHIFT) - 1;

#[derive(Default)]
struct Counts {
    waited: AtomicU64,
    abandoned: AtomicU64,
}

impl Shared {
    /// The config has been checked.
    pub(super) fn new(
        name: Arc<str>,
        config: RateLimitConfig,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Self {
        let paces = paces(&config);
        let first = paces.first().copied();
        let first = first.unwrap_or(Pace {
            interval: 1,
            capacity: 1,
        });
        Self {
            funnel: Funnel::new(name, observers),
            base: time::now(),
            word: Word::new(paces.len() == 1),
            interval: AtomicU64::new(first.interval),
            capacity: AtomicU64::new(first.capacity),
            version: AtomicU64::new(0),
            state: Mutex::new(State::new(paces)),
            quotas: config
                .quotas
                .iter()
                .map(|(name, _)| Arc::clone(name))
                .collect(),
            config: ArcSwap::from_pointee(config),
            passed: ShardedCounter::new(),
            refused: ShardedCounter::new(),
            counts: Counts::default(),
            wait: Mutex::default(),
            is_tried: AtomicBool::new(false),
            trial: ArcSwapOption::empty(),
        }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        self.funnel.name()
    }

    #[inline]
    pub(super) fn time(&self, now: Tick) -> Time {
        now.0.saturating_sub(self.base.0).saturating_mul(8)
    }

    pub(super) fn tick(&self, time: Time) -> Tick {
        // Rounded up: who looks then is not too early.
        Tick(self.base.0.saturating_add(time.div_ceil(8)))
    }

    fn pace(&self) -> Pace {
        Pace {
            interval: self.interval.load(Ordering::Relaxed),
            capacity: self.capacity.load(Ordering::Relaxed),
        }
    }

    /// Takes `cost` if it is there and nobody waits.
    #[inline]
    pub(super) fn try_take(&self, cost: Cost, now: Tick) -> Result<(), Not> {
        let (pace, units) = (self.pace(), cost.of(0));
        match self.word.try_take(pace, units, self.time(now)) {
            Some(Ok(())) => {
                self.passed.add_one();
                return Ok(());
            }
            Some(Err(_)) if !pace.can_hold(units) => return Err(Not::Ever { quota: 0 }),
            Some(Err(at)) => return Err(Not::Before { at, quota: Some(0) }),
            None => {}
        }
        self.try_take_locked(cost, now)
    }

    #[inline(never)]
    fn try_take_locked(&self, cost: Cost, now: Tick) -> Result<(), Not> {
        let taken = self.with_state(now, |state, time| {
            state.outlook(cost, time)?;
            state.take(cost, time);
            Ok(())
        });
        if taken.is_ok() {
            self.passed.add_one();
        }
        taken
    }

    /// Serves those whose turn has come, does something, and wakes when the lock is gone.
    pub(super) fn with_state<T>(&self, now: Tick, part: impl FnOnce(&mut State, Time) -> T) -> T {
        let (time, mut wake) = (self.time(now), Wake::new());
        let mut state = self.lock();
        state.serve(time, &mut wake);
        let value = part(&mut state, time);
        state.serve(time, &mut wake);
        let is_quiet = state.is_quiet(time);
        if let [only] = state.quotas()
            && is_quiet
        {
            self.word.open(only.full);
        }
        drop(state);
        wake.into_iter().for_each(Waker::wake);
        value
    }

    /// From here on only whoever has the lock changes the quotas.
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(full), [only]) = (self.word.close(), state.quotas()) {
            only.full = full;
        }
        state
    }

    /// Another config is tried on the calls from here on, or none; what the one before would have done otherwise.
    pub(super) fn try_out(&self, config: Option<RateLimitConfig>) -> Option<RateLimitShadow> {
        let trial = config.map(|config| {
            let paces = paces(&config);
            Arc::new(Mutex::new(Trial::new(config, paces)))
        });
        let before = self.trial.swap(trial);
        let is_tried = self.trial.load().is_some();
        self.is_tried.store(is_tried, Ordering::Relaxed);
        before.map(|it| lock(&it).snapshot())
    }

    /// Whether another config is tried.
    pub(super) fn is_tried(&self) -> bool {
        self.is_tried.load(Ordering::Relaxed)
    }

    /// The config that is tried hears of something, if there is one.
    #[inline]
    fn tell_trial(&self, tell: impl FnOnce(&mut Trial)) {
        if self.is_tried.load(Ordering::Relaxed)
            && let Some(trial) = &*self.trial.load()
        {
            tell(&mut lock(trial));
        }
    }

    /// A call has asked for `cost`, and `may_wait` for it. What it takes at a config that is tried, to be kept beside the version.
    #[inline]
    pub(super) fn asked(&self, cost: Cost, now: Tick, may_wait: bool, in_force: InForce) -> Mark {
        let mut mark = 0;
        self.tell_trial(|trial| {
            let left = deadline::current().map_or(Duration::MAX, |it| it.0.since(now));
            let patience = if may_wait { left } else { Duration::ZERO };
            mark = trial.asked(cost, self.time(now), patience, in_force);
        });
        mark
    }

    /// Gives back what a call has not used, or takes what it has used beyond what it had asked for. Nothing that was taken
    /// before a change of the rules.
    pub(super) fn settle(&self, version: u64, taken: Cost, used: Cost) {
        let now = time::now();
        self.with_state(now, |state, time| {
            let more = |a: Cost, b: Cost| {
                let pairs = a.each().into_iter().zip(b.each());
                let differences = pairs.map(|(a, b)| a.saturating_sub(b));
                let mut costs = [0; MOST_QUOTAS];
                costs
                    .iter_mut()
                    .zip(differences)
                    .for_each(|(to, it)| *to = it);
                Cost::from(costs)
            };
            if state.version == version & VERSION {
                state.take(more(used, taken), time);
                state.give_back(more(taken, used), time);
            }
            let (more, less) = (more(used, taken), more(taken, used));
            self.tell_trial(|trial| trial.settled(version & !VERSION, more, less, time));
        });
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Nobody passes for so long.
    pub(super) fn pause(&self, pause: Duration) {
        let asked_for = pause;
        let pause = pause.min(self.config.load().max_pause);
        if pause.is_zero() {
            return;
        }
        let now = time::now();
        let until = self.time(now.after(pause));
        let is_longer = self.with_state(now, |state, _| {
            let is_longer = until > state.paused_until();
            state.pause(until);
            is_longer
        });
        self.tell_trial(|trial| {
            let pause = asked_for.min(trial.max_pause());
            trial.pause(self.time(now.after(pause)));
        });
        if is_longer {
            let paused = RateLimitEvent::Paused { pause };
            self.funnel.publish(&Event::RateLimit(paused));
        }
    }

    /// The service says how much is left of a quota: no more is believed to be there.
    pub(super) fn left_of(&self, quota: &str, units: u64) {
        let Some(quota) = self.quotas.iter().position(|name| &**name == quota) else {
            return;
        };
        self.with_state(time::now(), |state, time| {
            if let Some(bucket) = state.quotas().get_mut(quota) {
                bucket.full = bucket.full.max(bucket.pace.with(units, time));
            }
            self.tell_trial(|trial| trial.left_of(quota, units, time));
        });
    }

    pub(super) fn reset(&self) {
        self.version.fetch_add(1, Ordering::Relaxed);
        self.with_state(time::now(), |state, _| state.reset());
        self.tell_trial(Trial::begin_anew);
    }

    pub(super) fn update(&self, new: RateLimitConfig) -> Result<ConfigChange, ConfigError> {
        new.check()?;
        let old = self.config.load_full();
        old.check_names(&new)?;
        let change = old.difference(&new);
        let now_by = paces(&new);
        if now_by == paces(&old) {
            // Nothing changes for what was taken.
            self.config.store(Arc::new(new));
            return Ok(change);
        }
        self.version.fetch_add(1, Ordering::Relaxed);
        self.with_state(time::now(), |state, time| {
            if let [only] = now_by[..] {
                self.interval.store(only.interval, Ordering::Relaxed);
                self.capacity.store(only.capacity, Ordering::Relaxed);
            }
            self.config.store(Arc::new(new));
            state.change(now_by, time);
        });
        Ok(change)
    }

    /// Counts and tells a refusal.
    pub(super) fn refused(
        &self,
        limit: Arc<dyn LimitNames>,
        not: Not,
        reason: RateLimitReason,
        (waited, now): (Duration, Tick),
    ) -> RateLimited {
        let (quota, retry_after, reason) = match not {
            Not::Ever { quota } => (Some(quota), None, RateLimitReason::ExceedsBurst),
            Not::Before { at, quota } => (quota, Some(self.tick(at).since(now)), reason),
        };
        self.refused.add_one();
        self.funnel.refused(
            now,
            || self.refused.sum(),
            || {
                Event::RateLimit(RateLimitEvent::Refused {
                    quota: quota.and_then(|quota| self.quotas.get(quota).cloned()),
                    reason,
                    retry_after,
                })
            },
        );
        RateLimited {
            limit,
            quota,
            reason,
            retry_after,
            waited,
        }
    }

    pub(super) fn count_passed(&self) {
        self.passed.add_one();
    }

    pub(super) fn went_on(&self, waited: Duration) {
        self.counts.waited.fetch_add(1, Ordering::Relaxed);
        self.waits().record(waited);
        if self.funnel.hears_details() {
            let waited = RateLimitEvent::Waited { waited };
            self.funnel.publish(&Event::RateLimit(waited));
        }
    }

    pub(super) fn went_away(&self, waited: Duration) {
        self.counts.abandoned.fetch_add(1, Ordering::Relaxed);
        if self.funnel.hears_details() {
            let away = RateLimitEvent::Abandoned { waited };
            self.funnel.publish(&Event::RateLimit(away));
        }
    }

    fn waits(&self) -> MutexGuard<'_, Histogram> {
        self.wait.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn snapshot(&self) -> RateLimitSnapshot {
        let now = time::now();
        let config = self.config.load_full();
        let (quotas, waiting, paused) = self.with_state(now, |state, time| {
            let names = config.quotas.iter();
            let quotas = names.zip(state.quotas().iter());
            let quotas: Vec<_> = quotas
                .map(|((name, quota), bucket)| QuotaSnapshot {
                    name: Arc::clone(name),
                    burst: quota.burst,
                    available: bucket.pace.available(bucket.full, time),
                    owed: bucket.pace.debt(bucket.full, time),
                })
                .collect();
            (quotas, state.waiting(), state.paused_until())
        });
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let paused_for = self.tick(paused).since(now);
        RateLimitSnapshot {
            name: Arc::clone(self.name()),
            quotas,
            waiting,
            paused_for: (paused > 0 && !paused_for.is_zero()).then_some(paused_for),
            totals: RateLimitTotals {
                passed: self.passed.sum(),
                waited: of(&self.counts.waited),
                refused: self.refused.sum(),
                abandoned: of(&self.counts.abandoned),
            },
            wait: self.waits().summary(),
            shadow: self.trial.load().as_ref().map(|it| lock(it).snapshot()),
        }
    }

    /// Whether one that is made anew would do the same.
    pub(super) fn remembers_nothing(&self) -> bool {
        self.with_state(time::now(), |state, time| {
            state.is_quiet(time) && state.quotas().iter().all(|it| it.full <= time)
        })
    }
}

fn lock(trial: &Mutex<Trial>) -> MutexGuard<'_, Trial> {
    trial.lock().unwrap_or_else(PoisonError::into_inner)
}

fn paces(config: &RateLimitConfig) -> Vec<Pace> {
    config
        .quotas
        .iter()
        .map(|(_, quota)| quota.pace())
        .collect()
}

impl LimitNames for ShardValue<Shared> {
    fn name(&self) -> &str {
        self.value().name()
    }

    fn quota(&self, number: usize) -> Option<&str> {
        self.value().quotas.get(number).map(|name| &**name)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name().fmt(f)
    }
}
