//! What the clones of a handle share: the limits, and what has been counted.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::config::{Part, TimeoutConfig};
use super::snapshot::{TimeoutTotals, TimeoutsSnapshot};
use super::state::Bounds;
use crate::error::{ConfigChange, ConfigError, TimedOut, TimeoutPhase};
use crate::event::{Event, Funnel, Observer, TimeoutEvent};
use crate::util::recent::RecentHistogram;
use crate::util::sharded::{Sharded, ShardedCounter};
use crate::util::time::{self, Tick};

pub(super) struct Shared {
    funnel: Funnel,
    pub(super) config: ArcSwap<TimeoutConfig>,
    calls: ShardedCounter,
    timed_out: Counts,
    /// How long calls took whose time is bounded as a whole: the clock was read when they began.
    times: Sharded<Mutex<RecentHistogram>>,
}

#[derive(Default)]
struct Counts {
    ready: AtomicU64,
    head: AtomicU64,
    first_frame: AtomicU64,
    idle: AtomicU64,
    total: AtomicU64,
    deadline: AtomicU64,
}

impl Counts {
    fn of(&self, phase: TimeoutPhase) -> &AtomicU64 {
        match phase {
            TimeoutPhase::Ready => &self.ready,
            TimeoutPhase::Head | TimeoutPhase::Attempt => &self.head,
            TimeoutPhase::FirstFrame => &self.first_frame,
            TimeoutPhase::Idle => &self.idle,
            TimeoutPhase::Total => &self.total,
            TimeoutPhase::Deadline => &self.deadline,
        }
    }

    fn totals(&self) -> TimeoutTotals {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        TimeoutTotals {
            ready: of(&self.ready),
            head: of(&self.head),
            first_frame: of(&self.first_frame),
            idle: of(&self.idle),
            total: of(&self.total),
            deadline: of(&self.deadline),
        }
    }
}

impl Shared {
    /// The config has been checked.
    pub(super) fn new(
        name: Arc<str>,
        config: TimeoutConfig,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Self {
        Self {
            funnel: Funnel::new(name, observers),
            config: ArcSwap::from_pointee(config),
            calls: ShardedCounter::new(),
            timed_out: Counts::default(),
            times: Sharded::new(Mutex::default()),
        }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        self.funnel.name()
    }

    /// A call begins. The clock is read only if something bounds all of it: the layers inside ask for that.
    #[inline]
    pub(super) fn begins(&self, part: Part) -> (Bounds, Tick) {
        self.calls.add_one();
        let config = self.config.load().of(part);
        let (started, total_ends) = match config.total {
            None => (Tick(0), Tick::NEVER),
            Some(total) => {
                let now = time::now();
                (now, now.after(total))
            }
        };
        let bounds = Bounds {
            head: config.head,
            total_ends,
            at_deadline: config.end_at_deadline,
        };
        (bounds, started)
    }

    /// A call that began at `started` has ended: there is an answer, or its time is over.
    #[inline]
    pub(super) fn ended(&self, started: Tick, now: Tick) {
        self.mine().record(now.since(started), now);
    }

    fn mine(&self) -> MutexGuard<'_, RecentHistogram> {
        let shard = self.times.mine();
        match shard.try_lock() {
            Ok(mine) => mine,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => self.crowded(shard),
        }
    }

    #[cold]
    fn crowded<'a>(&self, shard: &'a Mutex<RecentHistogram>) -> MutexGuard<'a, RecentHistogram> {
        if self.times.collided() {
            self.times.grow(Mutex::default);
        }
        lock(shard)
    }

    /// How long calls took, since the beginning and of late.
    pub(super) fn times(&self) -> RecentHistogram {
        let now = time::now();
        let mut sum = RecentHistogram::default();
        sum.turn(now);
        for shard in self.times.all() {
            let mut shard = lock(shard);
            shard.turn(now);
            sum.add(&shard);
        }
        sum
    }

    pub(super) fn ready_limit(&self, part: Part) -> Option<Duration> {
        self.config.load().of(part).ready
    }

    /// A call whose service was never ready: it counts as a call too.
    pub(super) fn not_ready(&self, limit: Duration, after: Duration) -> TimedOut {
        self.calls.add_one();
        self.timed_out(TimeoutPhase::Ready, Some(limit), after)
    }

    /// Counts and tells what took too long.
    #[cold]
    pub(super) fn timed_out(
        &self,
        phase: TimeoutPhase,
        limit: Option<Duration>,
        after: Duration,
    ) -> TimedOut {
        let earlier = self.timed_out.of(phase).fetch_add(1, Ordering::Relaxed);
        let event = Event::Timeout(TimeoutEvent::TimedOut {
            phase,
            limit,
            after,
        });
        self.funnel.refused_as(time::now(), || earlier + 1, &event);
        TimedOut {
            name: Arc::clone(self.name()),
            phase,
            limit,
            after,
        }
    }

    pub(super) fn update(&self, new: TimeoutConfig) -> Result<ConfigChange, ConfigError> {
        new.check()?;
        let old = self.config.swap(Arc::new(new));
        Ok(old.difference(&new))
    }

    pub(super) fn snapshot(&self) -> TimeoutsSnapshot {
        TimeoutsSnapshot {
            name: Arc::clone(self.name()),
            calls: self.calls.sum(),
            timed_out: self.timed_out.totals(),
            recent_calls: self.times().recent(),
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
