//! What the clones of a handle share: the rules, the latencies of late, the counts.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::config::{Budget, HedgeConfig, HedgeRules};
use super::latency;
use super::snapshot::{HedgeSnapshot, HedgesNotStarted};
use crate::error::{ConfigChange, ConfigError};
use crate::event::{Event, Funnel, HedgeEvent, NotHedged, Observer};
use crate::retry::RetryBudget;
use crate::util::recent::RecentHistogram;
use crate::util::sharded::{Sharded, ShardedCounter};
use crate::util::time::{self, Tick, nanos};

pub(super) struct Shared {
    funnel: Funnel,
    pub(super) config: ArcSwap<HedgeConfig>,
    budget_rule: Budget,
    pub(super) budget: Option<RetryBudget>,
    /// What calls go by, so that they need not look at the config: the most hedges, the delay in nanoseconds, and whether
    /// latencies are recorded.
    max_extra: AtomicU32,
    delay: AtomicU64,
    records: AtomicBool,
    latencies: Sharded<Mutex<RecentHistogram>>,
    /// When the delay is computed anew.
    next_look: AtomicU64,
    /// Held by who writes what follows from the config: what an old one said is never written over the new.
    looking: Mutex<()>,
    calls: ShardedCounter,
    not_repeatable: ShardedCounter,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    hedged: AtomicU64,
    hedges: AtomicU64,
    won: AtomicU64,
    no_budget: AtomicU64,
    refused: AtomicU64,
    /// Of requests that could be repeated when the call began, and not any more.
    lost_copies: AtomicU64,
}

/// A delay that is not known.
const NO_DELAY: u64 = u64::MAX;

/// How long a delay is believed that follows from latencies.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Shared {
    /// The config has been checked.
    pub(super) fn new(
        name: Arc<str>,
        config: HedgeConfig,
        budget_rule: Budget,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Self {
        let budget = match &budget_rule {
            Budget::Own => Some(RetryBudget::of_hedges()),
            Budget::Shared(budget) => Some(budget.clone()),
            Budget::Unlimited => None,
        };
        let shared = Self {
            funnel: Funnel::new(name, observers),
            budget_rule,
            budget,
            max_extra: AtomicU32::new(0),
            delay: AtomicU64::new(NO_DELAY),
            records: AtomicBool::new(false),
            latencies: Sharded::new(Mutex::default()),
            next_look: AtomicU64::new(0),
            looking: Mutex::new(()),
            calls: ShardedCounter::new(),
            not_repeatable: ShardedCounter::new(),
            counts: Counts::default(),
            config: ArcSwap::from_pointee(config),
        };
        shared.go_by_config(time::now());
        shared
    }

    pub(super) fn name(&self) -> &Arc<str> {
        self.funnel.name()
    }

    pub(super) fn rules(&self) -> HedgeRules {
        HedgeRules {
            config: HedgeConfig::clone(&self.config.load()),
            budget: self.budget_rule.clone(),
        }
    }

    pub(super) fn update(&self, new: HedgeConfig) -> Result<ConfigChange, ConfigError> {
        new.check()?;
        let new = Arc::new(new);
        let old = self.config.swap(Arc::clone(&new));
        self.go_by_config(time::now());
        Ok(old.difference(&new))
    }

    fn go_by_config(&self, now: Tick) {
        let _looking = lock(&self.looking);
        let config = self.config.load();
        self.max_extra.store(config.max_extra, Ordering::Relaxed);
        self.records
            .store(config.percentile.is_some(), Ordering::Relaxed);
        self.look(&config, now);
    }

    #[inline]
    pub(super) fn max_extra(&self) -> u32 {
        self.max_extra.load(Ordering::Relaxed)
    }

    /// How long an attempt may take before a hedge starts.
    #[inline]
    pub(super) fn delay(&self) -> Option<Duration> {
        match self.delay.load(Ordering::Relaxed) {
            NO_DELAY => None,
            delay => Some(Duration::from_nanos(delay)),
        }
    }

    /// Whether anybody wants to know how long calls take.
    #[inline]
    pub(super) fn records(&self) -> bool {
        self.records.load(Ordering::Relaxed)
    }

    /// A call has been at the service for so long, and has succeeded, or was overtaken.
    pub(super) fn record(&self, latency: Duration, now: Tick) {
        self.mine().record(latency, now);
        let is_due = now.0 >= self.next_look.load(Ordering::Relaxed);
        if is_due && let Ok(_looking) = self.looking.try_lock() {
            self.look(&self.config.load(), now);
        }
    }

    fn mine(&self) -> MutexGuard<'_, RecentHistogram> {
        let shard = self.latencies.mine();
        match shard.try_lock() {
            Ok(mine) => mine,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                if self.latencies.collided() {
                    self.latencies.grow(Mutex::default);
                }
                lock(shard)
            }
        }
    }

    /// Computes the delay from all shards. Until it is known, each call looks.
    #[cold]
    fn look(&self, config: &HedgeConfig, now: Tick) {
        let recent = self.latencies_at(now);
        let delay = latency::delay(config, &recent);
        let delay = delay.map_or(NO_DELAY, |it| nanos(it).min(NO_DELAY - 1));
        self.delay.store(delay, Ordering::Relaxed);
        let next = match latency::is_cold(config, &recent) {
            true => now,
            false => now.after(LOOK_EVERY),
        };
        self.next_look.store(next.0, Ordering::Relaxed);
    }

    pub(super) fn latencies_at(&self, now: Tick) -> RecentHistogram {
        let mut sum = RecentHistogram::default();
        sum.turn(now);
        for shard in self.latencies.all() {
            let mut shard = lock(shard);
            shard.turn(now);
            sum.add(&shard);
        }
        sum
    }

    /// A call begins that may have so many hedges.
    #[inline]
    pub(super) fn count_call(&self, extra: u32) {
        self.calls.add_one();
        if let (1.., Some(budget)) = (extra, &self.budget) {
            budget.deposit();
        }
    }

    /// A call begins whose request may not be sent twice.
    pub(super) fn count_not_repeatable(&self) {
        self.not_repeatable.add_one();
    }

    pub(super) fn started(&self, attempt: u32, after: Duration) {
        self.counts.hedges.fetch_add(1, Ordering::Relaxed);
        let is_first = u64::from(attempt == 2);
        self.counts.hedged.fetch_add(is_first, Ordering::Relaxed);
        if self.funnel.hears_details() {
            let started = HedgeEvent::Started { attempt, after };
            self.funnel.publish(&Event::Hedge(started));
        }
    }

    pub(super) fn won(&self, attempt: u32) {
        self.counts.won.fetch_add(1, Ordering::Relaxed);
        if self.funnel.hears_details() {
            self.funnel
                .publish(&Event::Hedge(HedgeEvent::Won { attempt }));
        }
    }

    pub(super) fn not_started(&self, reason: NotHedged, now: Tick) {
        let count = match reason {
            NotHedged::NoBudget => &self.counts.no_budget,
            NotHedged::Refused => &self.counts.refused,
            NotHedged::NotRepeatable => &self.counts.lost_copies,
        };
        count.fetch_add(1, Ordering::Relaxed);
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let total = || {
            let counts = &self.counts;
            of(&counts.no_budget) + of(&counts.refused) + of(&counts.lost_copies)
        };
        let event = || Event::Hedge(HedgeEvent::NotStarted { reason });
        self.funnel.refused(now, total, event);
    }

    pub(super) fn snapshot(&self) -> HedgeSnapshot {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &self.counts;
        let (may_be, may_not) = (self.calls.sum(), self.not_repeatable.sum());
        HedgeSnapshot {
            name: Arc::clone(self.name()),
            calls: may_be + may_not,
            hedged: of(&counts.hedged),
            hedges: of(&counts.hedges),
            won: of(&counts.won),
            not_started: HedgesNotStarted {
                no_budget: of(&counts.no_budget),
                refused: of(&counts.refused),
                not_repeatable: may_not + of(&counts.lost_copies),
            },
            delay: self.delay(),
            recent_latency: self.latencies_at(time::now()).recent(),
            budget_available: self.budget.as_ref().and_then(RetryBudget::available),
        }
    }

    /// Whether one that is made anew would do the same: nothing has been learned, and its own budget is full.
    pub(super) fn remembers_nothing(&self) -> bool {
        let has_learned = self.records() && self.latencies_at(time::now()).totals()[0].0 > 0;
        !has_learned
            && match (&self.budget_rule, &self.budget) {
                (Budget::Own, Some(budget)) => budget.is_full(),
                _ => true,
            }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name().fmt(f)
    }
}
