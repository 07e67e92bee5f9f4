//! What the clones of a shared limit share.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;

use super::core::Pace;
use super::pool::{Leasing, Pool};
use super::promised::Promised;
use super::snapshot::{FleetRateLimitSnapshot, FleetRateLimitTotals};
use super::store::{Limit, RateStore};
use super::words::{MOST_QUOTAS, Words};
use crate::error::{LimitNames, RateLimitReason, RateLimited};
use crate::event::{Event, FleetPart, Funnel, RateLimitEvent};
use crate::fleet::StoreError;
use crate::fleet::reporter::Reporter;
use crate::fleet::snapshot::{FleetSnapshot, Part};
use crate::rate_limit::{Cost, Quota, RateLimit};
use crate::util::sharded::ShardedCounter;
use crate::util::time::{self, Tick};

/// How often the store is tried again when it is away.
pub(super) const RECHECK: Duration = Duration::from_millis(100);

/// So many commands for single calls are on their way at once: some milliseconds of work for a server.
const AT_ONCE: usize = 128;

pub(super) struct Shared {
    reporter: Arc<Reporter>,
    pub(super) funnel: Funnel,
    pub(super) quotas: Box<[Named]>,
    /// As the store goes by them.
    pub(super) paces: Box<[Pace]>,
    pub(super) leasing: Option<Leasing>,
    pub(super) max_wait: Duration,
    pub(super) max_pause: Duration,
    /// What the store is still to be told of what services have said.
    pub(super) heard: Mutex<Heard>,
    pub(super) store: Arc<dyn RateStore>,
    pub(super) limit: Limit,
    /// This process's share, while the store is away.
    pub(super) local: RateLimit,
    /// The leased tokens, for those who take them without the lock of the pool.
    pub(super) words: Arc<Words>,
    pub(super) pool: Mutex<Pool>,
    /// The store has answered, or is away.
    pub(super) changed: Notify,
    /// What the first in the line waits for may come sooner than it has been told, or elsewhere: something was given back, a
    /// pause is longer, the store is away.
    pub(super) news: Notify,
    /// A pause has begun, or is longer: turns come later.
    pub(super) paused: Notify,
    /// The store is back.
    pub(super) back: Notify,
    /// What those of this process wait for whom the store has given a turn.
    pub(super) promised: Promised,
    /// What has passed by this process's share, and the store does not know.
    pub(super) untold: [AtomicU64; MOST_QUOTAS],
    /// Who asks, or gives back, for a single call: of ten thousand who come at once, most would not be answered in time.
    pub(super) places: Arc<Semaphore>,
    /// Those who wait for leased tokens, first come, first served.
    pub(super) line: tokio::sync::Mutex<()>,
    pub(super) in_line: AtomicUsize,
    /// The first of them, if there was too little for it.
    pub(super) short: AtomicUsize,
    pub(super) nodes: Nodes,
    degraded: AtomicBool,
    since: Mutex<Option<Tick>>,
    pub(super) kick: Arc<Notify>,
    pub(super) beats: Mutex<Option<AbortHandle>>,
    pub(super) counts: Counts,
}

/// What the store is still to be told of what services have said.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) until: Tick,
    pub(super) most: [Option<u64>; MOST_QUOTAS],
    pub(super) is_telling: bool,
}

pub(super) struct Named {
    pub(super) name: Arc<str>,
    pub(super) quota: Quota,
    pub(super) left: Mutex<Left>,
}

/// What was left in the whole fleet, by the last answer.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) units: u64,
    /// When the answer came.
    pub(super) at: Tick,
    /// When it was asked for: an answer that is worked on late does not undo a later one.
    asked: Tick,
}

impl Named {
    pub(super) fn new(name: Arc<str>, quota: Quota) -> Self {
        let left = Left {
            units: quota.burst,
            at: Tick(0),
            asked: Tick(0),
        };
        Self {
            name,
            quota,
            left: Mutex::new(left),
        }
    }

    pub(super) fn left(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Counts {
    pub(super) passed: ShardedCounter,
    pub(super) waited: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) abandoned: AtomicU64,
    pub(super) local: AtomicU64,
    pub(super) asked: AtomicU64,
    pub(super) failed: AtomicU64,
}

impl Counts {
    fn new() -> Self {
        Self {
            passed: ShardedCounter::new(),
            waited: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
            local: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }
}

pub(super) fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

fn add_each(counts: &[AtomicU64; MOST_QUOTAS], units: [u64; MOST_QUOTAS]) {
    for (count, units) in counts.iter().zip(units) {
        // As much as may be said to have been used: it must not begin anew.
        let more = |it: u64| Some(it.saturating_add(units));
        let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }
}

/// No less than nothing is left.
fn take_from(count: &AtomicU64, units: u64) {
    let take = |it: u64| Some(it.saturating_sub(units));
    let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
}

/// How many processes use the limit: the most that was said in the last 15 s and more, so that a server that has forgotten
/// does not make a process believe that it is alone, however often it forgets.
pub(super) struct Nodes {
    known: AtomicU64,
    /// Who shares the quota while the store is away. When a process begins, and when the store has been away, others may not
    /// have told yet that they are there: for 15 s it goes by no fewer than were expected, or shared it before.
    sharers: AtomicU64,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    heard: Option<Tick>,
    /// Since when it has heard without a gap, and who shared the quota before.
    steady: (Tick, u64),
    /// The most of a span of time each, and when that began.
    spans: [(Tick, u64); 4],
}

/// The length of a span: as a process tells that it is there.
const SPAN: Duration = Duration::from_secs(5);
/// Longer than between two answers to one who is not cut off.
const GAP: Duration = Duration::from_secs(10);
const STEADY: Duration = Duration::from_secs(15);

impl Nodes {
    pub(super) fn new(expected: u64) -> Self {
        let expected = expected.max(1);
        Self {
            known: AtomicU64::new(expected),
            sharers: AtomicU64::new(expected),
            last: Mutex::default(),
        }
    }

    pub(super) fn known(&self) -> u64 {
        self.known.load(Ordering::Relaxed)
    }

    pub(super) fn sharers(&self) -> u64 {
        self.sharers.load(Ordering::Relaxed)
    }

    /// Whether that changes the shares.
    fn heard(&self, nodes: u64, was_away: bool, now: Tick) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last.heard.replace(now);
        if was_away || before.is_none_or(|it| now.since(it) > GAP) {
            last.steady = (now, self.sharers());
        }
        let (since, before) = last.steady;
        let spans = &mut last.spans;
        match now.since(spans[0].0) < SPAN.mul_f64(0.8) {
            true => spans[0].1 = spans[0].1.max(nodes),
            false => {
                spans.rotate_right(1);
                spans[0] = (now, nodes);
            }
        }
        let known = spans.iter().map(|it| it.1).fold(1, u64::max);
        self.known.store(known, Ordering::Relaxed);
        let sharers = match now.since(since) < STEADY {
            true => known.max(before),
            false => known,
        };
        self.sharers.swap(sharers, Ordering::Relaxed) != sharers
    }
}

impl Shared {
    pub(super) fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn largest_batches(&self, leasing: Leasing) -> Vec<u64> {
        let nodes = self.nodes.known();
        let paces = self.paces.iter();
        paces
            .map(|pace| leasing.largest_batch(*pace, nodes))
            .collect()
    }

    /// The answer to a question of `asked`.
    pub(super) fn left(&self, quota: usize, units: u64, asked: Tick) {
        let mut left = self.quotas[quota].left();
        if asked >= left.asked {
            let at = time::now();
            *left = Left { units, at, asked };
        }
    }

    pub(super) fn is_degraded(&self) -> bool {
        self.degraded.load(Ordering::Acquire)
    }

    fn since(&self) -> MutexGuard<'_, Option<Tick>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store is away: from here on this process goes by its share.
    pub(super) fn degrade(&self, error: &StoreError) {
        add(&self.counts.failed);
        let mut since = self.since();
        if since.is_some() {
            return;
        }
        let now = time::now();
        *since = Some(now);
        let nodes = self.nodes.sharers();
        for it in &self.quotas {
            // What others had used by the last answer is gone here too, if it is not earned since.
            self.local.left(&it.name, it.is_left(now) / nodes);
        }
        // Those who have a turn keep it: it is a part of the share.
        self.local.owe(self.promised.owe().into());
        self.degraded.store(true, Ordering::Release);
        drop(since);
        self.pool().forget();
        self.kick.notify_one();
        self.changed.notify_waiters();
        self.news.notify_waiters();
        self.reporter
            .is_away(FleetPart::RateLimit, self.funnel.name(), error);
    }

    /// The store has answered: so many processes use the limit.
    pub(super) fn heard(&self, nodes: u64) {
        if self.nodes.heard(nodes, self.is_degraded(), time::now()) {
            self.share_among(self.nodes.sharers());
        }
        let mut since = self.since();
        let Some(began) = since.take() else {
            return;
        };
        self.degraded.store(false, Ordering::Release);
        drop(since);
        self.back.notify_waiters();
        let away = time::now().since(began);
        self.reporter
            .is_back(FleetPart::RateLimit, self.funnel.name(), away);
    }

    pub(super) fn add_untold(&self, units: [u64; MOST_QUOTAS]) {
        add_each(&self.untold, units);
    }

    /// A call that the store has let pass has used so much more, and the store is not there to be told: the share owes it, and the
    /// store is told when it is back.
    pub(super) fn owes(&self, more: [u64; MOST_QUOTAS]) {
        if more.iter().any(|it| *it > 0) {
            self.local.owe(more.into());
            self.add_untold(more);
        }
    }

    /// A call has used something else than what it had asked for of this process's share.
    pub(super) fn settled_share(&self, taken: Cost, used: Cost) {
        let (taken, used) = (taken.each(), used.each());
        self.add_untold(std::array::from_fn(|i| used[i].saturating_sub(taken[i])));
        for (i, untold) in self.untold.iter().enumerate() {
            take_from(untold, taken[i].saturating_sub(used[i]));
        }
    }

    /// What the store is to be told of what has passed by this process's share: as much of it as is not earned yet.
    pub(super) fn take_untold(&self) -> [u64; MOST_QUOTAS] {
        let mut untold = [0; MOST_QUOTAS];
        if self.untold.iter().all(|it| it.load(Ordering::Relaxed) == 0) {
            return untold;
        }
        let share = self.local.snapshot();
        let quotas = share.quotas.iter().zip(&self.untold);
        for (to, (quota, used)) in untold.iter_mut().zip(quotas) {
            let missing = quota.burst.saturating_sub(quota.available) + quota.owed;
            *to = used.swap(0, Ordering::Relaxed).min(missing);
        }
        untold
    }

    fn share_among(&self, nodes: u64) {
        let mut config = (*self.local.config()).clone();
        for ((_, quota), it) in config.quotas.iter_mut().zip(&self.quotas) {
            *quota = share(it.quota, nodes);
        }
        if let Err(error) = self.local.update(config) {
            tracing::warn!(limit = %self.funnel.name(), nodes, %error, "the share of a process stays as it was");
        }
    }

    pub(super) fn new(parts: Parts, funnel: Funnel, local: RateLimit) -> Self {
        let words = Arc::new(Words::new(parts.quotas.len(), time::now()));
        Self {
            funnel,
            pool: Mutex::new(Pool::new(parts.quotas.len(), Arc::clone(&words))),
            words,
            quotas: parts.quotas,
            paces: parts.paces,
            leasing: parts.leasing,
            max_wait: parts.max_wait,
            max_pause: parts.max_pause,
            heard: Mutex::default(),
            store: parts.store,
            limit: parts.limit,
            local,
            changed: Notify::new(),
            news: Notify::new(),
            paused: Notify::new(),
            back: Notify::new(),
            promised: Promised::default(),
            untold: Default::default(),
            places: Arc::new(Semaphore::new(AT_ONCE)),
            line: tokio::sync::Mutex::new(()),
            in_line: AtomicUsize::new(0),
            short: AtomicUsize::new(0),
            nodes: Nodes::new(parts.expected_nodes),
            reporter: parts.reporter,
            degraded: AtomicBool::new(false),
            since: Mutex::new(None),
            kick: Arc::default(),
            beats: Mutex::default(),
            counts: Counts::new(),
        }
    }

    /// Counts and tells a refusal.
    pub(super) fn refused(
        self: &Arc<Self>,
        quota: Option<usize>,
        reason: RateLimitReason,
        retry_after: Option<Duration>,
        since: Tick,
    ) -> RateLimited {
        let (counts, now) = (&self.counts, time::now());
        add(&counts.refused);
        self.funnel.refused(
            now,
            || counts.refused.load(Ordering::Relaxed),
            || {
                let quota = quota.map(|it| Arc::clone(&self.quotas[it].name));
                Event::RateLimit(RateLimitEvent::Refused {
                    quota,
                    reason,
                    retry_after,
                })
            },
        );
        RateLimited {
            limit: Arc::clone(self) as Arc<dyn LimitNames>,
            quota,
            reason,
            retry_after,
            waited: now.since(since),
        }
    }

    pub(super) fn snapshot(&self) -> FleetRateLimitSnapshot {
        let (of, now) = (|it: &AtomicU64| it.load(Ordering::Relaxed), time::now());
        let counts = &self.counts;
        let (leased, paused_for) = {
            let pool = self.pool();
            (pool.leased(now), pool.paused_until().since(now))
        };
        FleetRateLimitSnapshot {
            name: Arc::clone(self.funnel.name()),
            leases: self.leasing.map(|it| it.life),
            leased,
            left: self.quotas.iter().map(|it| it.left().units).collect(),
            nodes: self.nodes.known(),
            waiting: self.in_line.load(Ordering::Relaxed),
            paused_for: Some(paused_for).filter(|it| !it.is_zero()),
            degraded_for: self.since().map(|it| now.since(it)),
            totals: FleetRateLimitTotals {
                passed: counts.passed.sum(),
                waited: of(&counts.waited),
                refused: of(&counts.refused),
                abandoned: of(&counts.abandoned),
                local: of(&counts.local),
                asked: of(&counts.asked),
                failed: of(&counts.failed),
            },
        }
    }
}

/// What a limit is made of, once it has been checked.
pub(super) struct Parts {
    pub(super) quotas: Box<[Named]>,
    pub(super) paces: Box<[Pace]>,
    pub(super) leasing: Option<Leasing>,
    pub(super) max_wait: Duration,
    pub(super) max_pause: Duration,
    pub(super) store: Arc<dyn RateStore>,
    pub(super) limit: Limit,
    pub(super) expected_nodes: u64,
    pub(super) reporter: Arc<Reporter>,
}

impl Part for Shared {
    fn show(&self, snapshot: &mut FleetSnapshot) {
        snapshot.rate_limits.push(self.snapshot());
    }
}

/// What one process of so many may use: as much in so many times the period.
pub(super) fn share(quota: Quota, nodes: u64) -> Quota {
    let times = u32::try_from(nodes.max(1)).unwrap_or(u32::MAX);
    let period = quota.period.saturating_mul(times);
    Quota::per(quota.amount, period).burst((quota.burst / nodes.max(1)).max(1))
}

impl Drop for Shared {
    fn drop(&mut self) {
        let beats = self.beats.get_mut();
        if let Some(beats) = beats.unwrap_or_else(PoisonError::into_inner) {
            beats.abort();
        }
    }
}

impl LimitNames for Shared {
    fn name(&self) -> &str {
        self.funnel.name()
    }

    fn quota(&self, number: usize) -> Option<&str> {
        self.quotas.get(number).map(|it| &*it.name)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.funnel.name().fmt(f)
    }
}
