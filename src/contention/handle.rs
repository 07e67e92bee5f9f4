//! The lock that users hold: a name, the core, and who observes what happens.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::adaptive::{Controller, Sample};
use super::codel::Queue;
use super::config::{ContentionConfig, check_permits};
use super::core::{Core, Place};
use super::shadow::{ResourceShadow, Trial};
use crate::call::Holder;
use crate::call::context::Frame;
use crate::error::{
    ConfigChange, ConfigError, Contended, ContendedReason, HolderInfo, LockView, Look,
};
use crate::event::ContentionEvent;
use crate::event::{Event, Funnel, Observer};
use crate::util::sharded::{ShardValue, ShardedArc};
use crate::util::time::{self, Tick, nanos};

/// A named lock, exclusive or for n holders at once: a cheap clone of shared state.
///
/// First come, first served, also among those who want several permits. It is a lock of this process: nothing is shared
/// with others.
#[derive(Clone)]
pub struct ResourceLock {
    pub(super) shared: ShardedArc<Shared>,
}

pub(super) struct Shared {
    /// Which lock of the process this is.
    number: u32,
    config: ArcSwap<ContentionConfig>,
    /// The hold threshold in nanoseconds, for each release to look at; 0 is none.
    long_hold: AtomicU64,
    funnel: Funnel,
    /// Whether the times of calls are wanted.
    adapts: AtomicBool,
    /// There if they are.
    adaptive: ArcSwapOption<Mutex<Controller>>,
    /// Whether another config is tried.
    is_tried: AtomicBool,
    trial: ArcSwapOption<Mutex<Trial>>,
    pub(super) core: Core,
}

fn lock(trial: &Mutex<Trial>) -> MutexGuard<'_, Trial> {
    trial.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ResourceLock {
    /// An exclusive lock with the default config: waits at most 30 s, reports waits of 5 s.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self::from_parts(name.into(), ContentionConfig::default(), Vec::new())
    }

    /// More permits than any machine has sockets for: nobody waits.
    #[cfg(feature = "http")]
    pub(crate) fn unlimited(name: impl Into<Arc<str>>) -> Self {
        let config = ContentionConfig {
            max_concurrent: 1_000_000,
            ..ContentionConfig::default()
        };
        Self::from_parts(name.into(), config, Vec::new())
    }

    /// The config has been checked.
    pub(super) fn from_parts(
        name: Arc<str>,
        config: ContentionConfig,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Self {
        let permits = check_permits(config.max_concurrent).unwrap_or(1);
        let core = Core::new(permits);
        if config.queue != Queue::Fifo || config.max_per_holder.is_some() {
            core.set_rules(config.queue, config.most_per_holder(), time::now());
        }
        Self {
            shared: ShardedArc::new(Shared {
                number: next_number(),
                funnel: Funnel::new(name, observers),
                core,
                is_tried: AtomicBool::new(false),
                trial: ArcSwapOption::empty(),
                adapts: AtomicBool::new(config.adaptive.is_some()),
                adaptive: ArcSwapOption::from(controller(&config)),
                long_hold: AtomicU64::new(long_hold(&config)),
                config: ArcSwap::from_pointee(config),
            }),
        }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared.funnel.name()
    }

    /// What it goes by now.
    #[must_use]
    pub fn config(&self) -> Arc<ContentionConfig> {
        self.shared.config.load_full()
    }

    /// Goes by another config from now on, and returns what that changes.
    ///
    /// Holders, waiters and statistics are kept. Those who wait already keep the timeout that they came with. The number
    /// of permits changes as with [`set_max_concurrent`](Self::set_max_concurrent).
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a setting that cannot work; nothing is changed then.
    pub fn update(&self, config: ContentionConfig) -> Result<ConfigChange, ConfigError> {
        config.check()?;
        let permits = config.max_concurrent;
        let shared = &self.shared;
        shared
            .long_hold
            .store(long_hold(&config), Ordering::Relaxed);
        let config = Arc::new(config);
        let old = shared.config.swap(Arc::clone(&config));
        let change = old.difference(&config);
        if (old.queue, old.max_per_holder) != (config.queue, config.max_per_holder) {
            shared
                .core
                .set_rules(config.queue, config.most_per_holder(), time::now());
        }
        if old.adaptive != config.adaptive {
            shared.adaptive.store(controller(&config));
            let adapts = config.adaptive.is_some();
            shared.adapts.store(adapts, Ordering::Relaxed);
        }
        if old.max_concurrent != permits || old.adaptive != config.adaptive {
            shared.goes_on_from(permits);
            shared.resize(permits)?;
        }
        Ok(change)
    }

    /// Tries another config on the same calls: it decides as if it were in force, and nothing comes of it. What it would have
    /// done otherwise stands in the [snapshot](Self::snapshot), as `shadow`. It replaces one that is tried already.
    ///
    /// Each call that gets its permits is taken to ask again for those of the tried config, and to hold them for as long as it
    /// holds its own: first come, first served, within its `timeout` and `max_waiting`. Of its other settings nothing is seen.
    /// For fewer permits than the lock has that is exact; for more it says no more than what is sure.
    ///
    /// While a config is tried each call takes a lock twice.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_bulwark::ResourceLock;
    ///
    /// let pool = ResourceLock::builder("pool").max_concurrent(10).build()?;
    /// let mut fewer = (*pool.config()).clone();
    /// fewer.max_concurrent = 2;
    /// pool.shadow(fewer)?;
    /// let three = [pool.acquire("a").await?, pool.acquire("b").await?, pool.acquire("c").await?];
    /// tokio::time::advance(std::time::Duration::from_secs(1)).await;
    /// drop(three);
    ///
    /// let shadow = pool.end_shadow().unwrap();
    /// assert_eq!((shadow.calls, shadow.would_wait), (3, 1));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a setting that cannot work; what was tried before goes on then.
    pub fn shadow(&self, config: ContentionConfig) -> Result<(), ConfigError> {
        config.check()?;
        let _ = self.shared.try_out(Some(config));
        Ok(())
    }

    /// Tries no other config any more; what the one that was tried would have done otherwise.
    #[expect(clippy::must_use_candidate, reason = "to end it is the point")]
    pub fn end_shadow(&self) -> Option<ResourceShadow> {
        self.shared.try_out(None)
    }

    /// Changes the number of permits, without waiting: more are granted at once, in order; with fewer, those
    /// who hold one too many keep it until they are done. Who waits for more permits than there are then is refused with
    /// [`ContendedReason::ExceedsCapacity`].
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for 0, and for what is outside of the range of an `adaptive` lock.
    pub fn set_max_concurrent(&self, n: usize) -> Result<(), ConfigError> {
        let changed = ContentionConfig {
            max_concurrent: n,
            ..ContentionConfig::clone(&self.shared.config.load())
        };
        changed.check()?;
        self.shared.config.rcu(|config| ContentionConfig {
            max_concurrent: n,
            ..ContentionConfig::clone(config)
        });
        self.shared.goes_on_from(n);
        self.shared.resize(n)
    }

    /// Closes the lock for good: nobody gets a permit any more, and everybody who waits is refused with
    /// [`ContendedReason::Closed`], now. Those who hold a permit keep it. [`drained`](Self::drained) waits for them.
    pub fn close(&self) {
        let shared = &self.shared;
        if shared.core.seen().is_closed() {
            return;
        }
        shared.core.close();
        let in_use = shared.core.seen().in_use() as usize;
        shared.publish(ContentionEvent::Closed { in_use });
    }

    /// Whether it was [closed](Self::close).
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.core.seen().is_closed()
    }

    /// Waits until a lock that was [closed](Self::close) has no holder left. A lock that is open is waited for until it is
    /// closed and has none.
    ///
    /// It looks every 10 ms, so that giving a permit back costs nothing more. Dropping the future changes nothing.
    ///
    /// # Panics
    ///
    /// Where there is no tokio runtime with its timer.
    pub async fn drained(&self) {
        const EVERY: Duration = Duration::from_millis(10);
        loop {
            let seen = self.shared.core.seen();
            if seen.is_closed() && seen.in_use() == 0 {
                return;
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Whether nobody else has a handle, a permit or a place in the queue.
    pub(crate) fn is_disused(&self) -> bool {
        !self.shared.is_tried.load(Ordering::Relaxed)
            && self.remembers_nothing()
            && self.has_one_handle()
    }

    /// Whether no permit is out, and nobody waits.
    pub(crate) fn remembers_nothing(&self) -> bool {
        let seen = self.shared.core.seen();
        seen.in_use() == 0 && !seen.is_queued()
    }

    /// Whether nobody else has a handle.
    pub(crate) fn has_one_handle(&self) -> bool {
        self.shared.is_sole()
    }

    /// Starts all statistics again. Holders and waiters stay; what they end with is counted anew.
    pub fn reset_stats(&self) {
        self.shared.core.reset_counts();
    }
}

fn controller(config: &ContentionConfig) -> Option<Arc<Mutex<Controller>>> {
    let adaptive = config.adaptive.as_ref()?;
    Some(Arc::new(Mutex::new(Controller::new(
        adaptive,
        config.max_concurrent,
    ))))
}

fn long_hold(config: &ContentionConfig) -> u64 {
    config.hold_threshold.map_or(0, nanos)
}

/// From 1; after four thousand million locks it begins again, and two may have one number.
fn next_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1)
}

impl Shared {
    /// Of refusals in quick succession one in so many looks at the clock, to see whether it is time to log one. So at most
    /// three that follow a burst are logged late, with the next.
    const LOOKS: u64 = 4;

    pub(super) fn config(&self) -> arc_swap::Guard<Arc<ContentionConfig>> {
        self.config.load()
    }

    /// The number of this lock among those that are waited for.
    pub(super) fn resource(&self) -> u64 {
        self.number.into()
    }

    /// The number of a permit among those of all locks.
    pub(super) fn number_of(&self, permit: Place) -> u64 {
        u64::from(self.number) << 32 | u64::from(permit.number())
    }

    /// Refuses what waits, inside of a call that holds a permit, for this very lock, if every permit is held by calls
    /// around that wait: it could never end.
    pub(super) fn refuse_reentry(&self, frame: &Frame) {
        frame.refuse_if(|resource, inside| {
            if resource != self.resource() {
                return false;
            }
            let mut own = 0;
            self.core.for_each_holder(|place, _| {
                if inside.contains(&self.number_of(place)) {
                    own += place.permits();
                }
            });
            own >= self.core.seen().capacity()
        });
    }

    pub(super) fn publish(&self, event: ContentionEvent) {
        self.funnel.publish(&Event::Contention(event));
    }

    /// For what is frequent: nothing is made if nobody listens.
    #[inline]
    pub(super) fn publish_detail(&self, event: impl FnOnce() -> ContentionEvent) {
        if self.funnel.hears_details() {
            self.publish(event());
        }
    }

    /// Somebody who asked for so many permits was refused without a wait: `earlier` of this thread's shard were before.
    #[inline]
    pub(super) fn refused(
        &self,
        permits: usize,
        earlier: u64,
        event: impl FnOnce() -> ContentionEvent,
    ) {
        self.gave_up(permits);
        if earlier.is_multiple_of(Self::LOOKS) || self.funnel.has_observers() {
            self.tell_refusal(event());
        }
    }

    #[cold]
    #[inline(never)]
    fn tell_refusal(&self, event: ContentionEvent) {
        let event = Event::Contention(event);
        let total = || match &event {
            Event::Contention(ContentionEvent::QueueFull { .. }) => self.core.queue_full(),
            Event::Contention(ContentionEvent::Shed { .. }) => self.core.shed(),
            _ => self.core.refused(),
        };
        self.funnel.refused_as(time::now(), total, &event);
    }

    /// A refusal after a wait, with what is to be seen right now.
    pub(super) fn contended_after(
        &self,
        waited: Duration,
        holder: Holder,
        reason: ContendedReason,
    ) -> Contended {
        let capacity = match reason {
            ContendedReason::ExceedsCapacity { .. } => self.most_at_once(),
            _ => self.core.seen().capacity(),
        };
        Contended::after(waited, self, holder, reason, capacity)
    }

    /// The most permits that anybody can have at once.
    pub(super) fn most_at_once(&self) -> u32 {
        let most = self.config.load().most_per_holder().unwrap_or(u32::MAX);
        self.core.seen().capacity().min(most)
    }

    fn resize(&self, n: usize) -> Result<(), ConfigError> {
        let from = self.core.resize(check_permits(n)?, time::now()) as usize;
        if from != n {
            self.publish(ContentionEvent::CapacityChanged { from, to: n });
        }
        Ok(())
    }

    /// The config that is tried hears of something, if there is one.
    #[inline]
    fn tell_trial(&self, tell: impl FnOnce(&mut Trial, Tick)) {
        if self.is_tried.load(Ordering::Relaxed)
            && let Some(trial) = &*self.trial.load()
        {
            tell(&mut lock(trial), time::now());
        }
    }

    /// Somebody who asked for so many permits has got none.
    #[inline]
    pub(super) fn gave_up(&self, permits: usize) {
        self.tell_trial(|trial, now| trial.refused(permits, now));
    }

    /// Somebody has got permits, after a wait.
    #[inline]
    pub(super) fn taken(&self, permit: Place, waited: Duration) {
        self.tell_trial(|trial, now| {
            trial.taken(permit.number(), permit.permits() as usize, waited, now);
        });
    }

    pub(super) fn shadow_snapshot(&self, now: Tick) -> Option<ResourceShadow> {
        self.trial.load().as_ref().map(|it| lock(it).snapshot(now))
    }

    /// Another config is tried on the calls from here on, or none; what the one before would have done otherwise.
    fn try_out(&self, config: Option<ContentionConfig>) -> Option<ResourceShadow> {
        let trial = config.map(|it| Arc::new(Mutex::new(Trial::new(it))));
        let before = self.trial.swap(trial);
        let is_tried = self.trial.load().is_some();
        self.is_tried.store(is_tried, Ordering::Relaxed);
        before.map(|it| lock(&it).snapshot(time::now()))
    }

    /// From when on a hold is reported.
    #[inline]
    pub(super) fn hold_threshold(&self) -> Option<Duration> {
        match self.long_hold.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// The number of permits was set by hand.
    fn goes_on_from(&self, permits: usize) {
        if let Some(controller) = &*self.adaptive.load() {
            controller
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .goes_on_from(permits);
        }
    }

    /// Whether the times of calls are wanted.
    #[inline]
    pub(super) fn wants_samples(&self) -> bool {
        self.adapts.load(Ordering::Relaxed)
    }

    /// A call has succeeded, after this time at the service.
    pub(super) fn sample(&self, time: Duration, now: Tick) {
        let controller = self.adaptive.load();
        // Somebody else's sample is as good as this one.
        let Some(Ok(mut controller)) = controller.as_ref().map(|it| it.try_lock()) else {
            return;
        };
        let seen = self.core.seen();
        let sample = Sample {
            time,
            in_use: seen.in_use(),
            dropped: false,
        };
        let permits = controller.sample(sample, now);
        drop(controller);
        if let Some(permits) = permits
            && permits != seen.capacity()
        {
            let from = self.core.resize(permits, now) as usize;
            let to = permits as usize;
            self.publish_detail(|| ContentionEvent::CapacityChanged { from, to });
        }
    }

    #[inline]
    pub(super) fn release(&self, permit: Place) {
        let now = time::now();
        let long = self.hold_threshold();
        // Before: the place may be another's once it is given back.
        self.tell_trial(|trial, now| {
            let held = self.core.look_at(permit, |it| now.since(it.since));
            trial.released(permit.number(), held.unwrap_or_default(), now);
        });
        let released = self.core.release(permit, long, now);
        if let Some(holder) = released.long {
            self.publish(ContentionEvent::LongHold {
                holder,
                held_for: released.held_for,
                released: true,
            });
        }
    }

    /// Reports, once each, those who have held a permit for too long, and those who were granted one and do not run.
    pub(super) fn report_long_holds(&self, now: Tick) {
        let config = self.config();
        let core = &self.core;
        for info in core.report_long(config.contention_threshold, false, now) {
            self.publish(ContentionEvent::NotPolled {
                holder: info.holder,
                granted_for: info.held_for,
            });
        }
        let Some(threshold) = config.hold_threshold else {
            return;
        };
        for info in core.report_long(threshold, true, now) {
            self.publish(ContentionEvent::LongHold {
                holder: info.holder,
                held_for: info.held_for,
                released: false,
            });
        }
    }
}

impl Look for Shared {
    fn name(&self) -> &Arc<str> {
        self.funnel.name()
    }

    fn look(&self) -> LockView {
        let now = time::now();
        LockView {
            holders: self.core.holders(HolderInfo::MOST_NAMED, now),
            queue_length: self.core.waiting(),
            mean_hold: self.core.mean_hold(now),
        }
    }
}

/// What a refusal keeps.
impl Look for ShardValue<Shared> {
    fn name(&self) -> &Arc<str> {
        self.value().name()
    }

    fn look(&self) -> LockView {
        self.value().look()
    }
}

impl fmt::Debug for ResourceLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = self.shared.core.seen();
        f.debug_struct("ResourceLock")
            .field("name", self.shared.funnel.name())
            .field("capacity", &seen.capacity())
            .field("in_use", &seen.in_use())
            .field("waiting", &self.shared.core.waiting())
            .finish_non_exhaustive()
    }
}
