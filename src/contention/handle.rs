//! The lock that users hold: a name, the pure state behind a mutex, and what is told of it.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Waker;
use std::time::Duration;

use super::acquire::{Acquire, AcquireOwned, Waiting, wait_blocking};
use super::alarm::HoldAlarm;
use super::config::{ContentionConfig, ResourceLockBuilder, check_permits};
use super::guard::{OwnedResourceGuard, ResourceGuard};
use super::list::Key;
use super::permits::Permits;
use super::queue::{Asker, Patience, try_now};
use super::service::ContentionLayer;
use super::snapshot::{ResourceSnapshot, WaitEdge};
use super::state::{EndedBy, GaveUp, Owner, Released};
use crate::call::Holder;
use crate::call::context::Frame;
use crate::error::{
    ConfigError, Contended, ContendedReason, ContentionFacts, Error, HolderInfo, IntoError,
};
use crate::event::ContentionEvent;
use crate::event::{Event, Funnel, Observer};
use crate::util::sharded::ShardedArc;
use crate::util::time::{self, Tick};

/// A named lock, exclusive or for n holders at once: a cheap clone of shared state.
///
/// First come, first served. It is a lock of this process: nothing is shared with others.
#[derive(Clone)]
pub struct ResourceLock {
    pub(super) shared: ShardedArc<Shared>,
}

pub(super) struct Shared {
    /// Which lock of the process this is.
    number: u32,
    pub(super) policy: ContentionConfig,
    funnel: Funnel,
    pub(super) permits: Permits<Waker>,
}

impl ResourceLock {
    /// An exclusive lock with the default policy: waits at most 30 s, reports waits of 5 s.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self::from_parts(name.into(), ContentionConfig::default(), Vec::new())
    }

    /// Starts with the default policy; see [`ResourceLockBuilder`].
    pub fn builder(name: impl Into<Arc<str>>) -> ResourceLockBuilder {
        ResourceLockBuilder::new(name.into())
    }

    pub(super) fn from_parts(
        name: Arc<str>,
        policy: ContentionConfig,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Self {
        Self {
            shared: ShardedArc::new(Shared {
                number: next_number(),
                funnel: Funnel::new(name, observers),
                permits: Permits::new(policy.max_concurrent()),
                policy,
            }),
        }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared.name()
    }

    /// What it was made with.
    #[must_use]
    pub fn config(&self) -> &ContentionConfig {
        &self.shared.policy
    }

    /// A layer whose calls each take a permit. `L` is the service's own error, and inferred.
    #[must_use]
    pub fn layer<L>(&self) -> ContentionLayer<L> {
        ContentionLayer::new(self.clone())
    }

    fn patience(&self, timeout: Option<Duration>) -> Patience {
        Patience {
            timeout: timeout.or_else(|| self.config().timeout()),
            deadline: None,
        }
    }

    /// Waits for a permit, at most for the lock's timeout and not past the ambient
    /// [deadline](crate::deadline).
    ///
    /// `holder` says who asks. It is one line of work, which does one thing at a time: should it wait, in the task that
    /// holds its guards, for something that cannot become free before it goes on, it is refused with the cycle once
    /// it has waited for `deadlock_timeout`. Several things that run at once in a task under one name should use
    /// [`run`](Self::run), a layer, or [`acquire_owned`](Self::acquire_owned).
    ///
    /// # Errors
    ///
    /// [`Contended`], with the reason, the time waited, and the holders at that moment.
    ///
    /// # Cancellation
    ///
    /// Nothing happens before the future is first polled. Dropping it leaves the queue; if it had just been
    /// granted a permit, the next in the queue gets that.
    ///
    /// # Panics
    ///
    /// Where there is no tokio runtime with its timer, if it has to wait. There,
    /// [`acquire_blocking`](Self::acquire_blocking) is the right one.
    pub fn acquire(&self, holder: impl Into<Holder>) -> Acquire<'_> {
        self.acquire_with(holder.into(), None)
    }

    /// Like [`acquire`](Self::acquire), with a timeout of its own; zero is a try.
    pub fn acquire_timeout(&self, holder: impl Into<Holder>, timeout: Duration) -> Acquire<'_> {
        self.acquire_with(holder.into(), Some(timeout))
    }

    fn acquire_with(&self, holder: Holder, timeout: Option<Duration>) -> Acquire<'_> {
        let patience = self.patience(timeout);
        Acquire(Waiting::new(self, holder, Asker::Guard, patience))
    }

    /// A permit if one is free and nobody waits.
    ///
    /// # Errors
    ///
    /// [`Contended`] for [`ContendedReason::Busy`].
    pub fn try_acquire(&self, holder: impl Into<Holder>) -> Result<ResourceGuard<'_>, Contended> {
        try_now(self, holder.into(), Asker::Guard).map(ResourceGuard)
    }

    /// Like [`acquire`](Self::acquire), for a guard that borrows nothing.
    pub fn acquire_owned(&self, holder: impl Into<Holder>) -> AcquireOwned {
        let patience = self.patience(None);
        AcquireOwned(Waiting::new(
            self.clone(),
            holder.into(),
            Asker::OwnedGuard,
            patience,
        ))
    }

    /// Like [`acquire_timeout`](Self::acquire_timeout), for a guard that borrows nothing.
    pub fn acquire_owned_timeout(
        &self,
        holder: impl Into<Holder>,
        timeout: Duration,
    ) -> AcquireOwned {
        let patience = self.patience(Some(timeout));
        AcquireOwned(Waiting::new(
            self.clone(),
            holder.into(),
            Asker::OwnedGuard,
            patience,
        ))
    }

    /// Like [`try_acquire`](Self::try_acquire), for a guard that borrows nothing.
    ///
    /// # Errors
    ///
    /// As [`try_acquire`](Self::try_acquire).
    pub fn try_acquire_owned(
        &self,
        holder: impl Into<Holder>,
    ) -> Result<OwnedResourceGuard, Contended> {
        try_now(self.clone(), holder.into(), Asker::OwnedGuard).map(OwnedResourceGuard)
    }

    /// Like [`acquire`](Self::acquire), for code that blocks: the thread is parked. Needs no runtime, and
    /// must not be used on a thread that runs one.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub fn acquire_blocking(
        &self,
        holder: impl Into<Holder>,
    ) -> Result<ResourceGuard<'_>, Contended> {
        let patience = self.patience(None);
        wait_blocking(self, holder.into(), Asker::Guard, patience).map(ResourceGuard)
    }

    /// Like [`acquire_timeout`](Self::acquire_timeout), for code that blocks.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub fn acquire_blocking_timeout(
        &self,
        holder: impl Into<Holder>,
        timeout: Duration,
    ) -> Result<ResourceGuard<'_>, Contended> {
        let patience = self.patience(Some(timeout));
        wait_blocking(self, holder.into(), Asker::Guard, patience).map(ResourceGuard)
    }

    /// Runs `operation` with a permit: waits as [`acquire`](Self::acquire) does, and gives the permit back
    /// when the operation has ended. The same holder may run several at once.
    ///
    /// Dropping the future leaves the queue, or drops the operation and gives the permit back.
    ///
    /// # Errors
    ///
    /// [`Error::Contended`] if there was no permit, [`Error::Inner`] with the operation's own error; an
    /// operation that already fails with [`Error`] keeps it as it is.
    pub async fn run<T, E, L, Fut>(
        &self,
        holder: impl Into<Holder>,
        operation: impl FnOnce() -> Fut,
    ) -> Result<T, Error<L>>
    where
        Fut: Future<Output = Result<T, E>>,
        E: IntoError<L>,
    {
        let patience = self.patience(None);
        let slot = Waiting::new(self, holder.into(), Asker::Call, patience)
            .await
            .map_err(Error::Contended)?;
        let id = slot.number();
        let mut frame = Frame::default();
        let mut running = pin!(frame.enter(id, operation));
        let mut alarm = HoldAlarm::default();
        let result = std::future::poll_fn(|cx| {
            let polled = frame.poll(id, || running.as_mut().poll(cx));
            if polled.is_pending() {
                slot.refuse_reentry(&frame);
                alarm.watch(&slot, cx);
            }
            polled
        })
        .await;
        drop(slot);
        result.map_err(IntoError::into_error)
    }

    /// Everything there is to know, at one moment.
    #[must_use]
    pub fn snapshot(&self) -> ResourceSnapshot {
        let now = time::now();
        self.shared.report_long_holds(now);
        ResourceSnapshot::new(self.shared.name(), self.shared.permits.all(), now)
    }

    /// Whether nobody else has a handle, a permit or a place in the queue.
    pub(crate) fn is_idle(&self) -> bool {
        let all = self.shared.permits.all();
        let idle = all.in_use() == 0 && all.queue().waiting() == 0;
        drop(all);
        idle && self.shared.is_sole()
    }

    /// Who waits for whom here: an edge from each of the first 100 waiters to each of the 16 longest holders.
    #[must_use]
    pub fn wait_edges(&self) -> Vec<WaitEdge> {
        let now = time::now();
        let all = self.shared.permits.all();
        let holders = all.holders(HolderInfo::MOST_NAMED, now);
        let waiters = all.queue().queue().take(100).map(|(holder, _)| holder);
        let edges = waiters.flat_map(|waiter| {
            holders.iter().map(|it| WaitEdge {
                waiter: waiter.clone(),
                resource: Arc::clone(self.shared.name()),
                holder: it.holder.clone(),
            })
        });
        edges.collect()
    }

    /// Starts all statistics again. Holders and waiters stay; what they end with is counted anew.
    pub fn reset_stats(&self) {
        self.shared.permits.all().reset_stats();
    }

    /// Changes the number of permits, without waiting: more are granted at once, in order; with fewer, those
    /// who hold one too many keep it until they are done.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for 0.
    pub fn set_max_concurrent(&self, n: usize) -> Result<(), ConfigError> {
        check_permits(n)?;
        let now = time::now();
        let (from, wake) = self.shared.permits.set_capacity(n, now);
        wake.into_iter().for_each(Waker::wake);
        if from != n {
            self.shared
                .publish(ContentionEvent::CapacityChanged { from, to: n });
        }
        Ok(())
    }
}

/// From 1; after four thousand million locks it begins again, and two may have one number.
fn next_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1)
}

impl Shared {
    /// The number of this lock among those that are waited for.
    pub(super) fn resource(&self) -> u64 {
        self.number.into()
    }

    /// The number of a permit among those of all locks.
    pub(super) fn number_of(&self, permit: Key) -> u64 {
        u64::from(self.number) << 32 | permit.id & u64::from(u32::MAX)
    }

    /// Refuses what waits, inside of a call that holds a permit, for this very lock, if every permit is held by calls
    /// around that wait: it could never end.
    pub(super) fn refuse_reentry(&self, frame: &Frame) {
        let mut capacity = None;
        frame.refuse_if(|resource, inside| {
            let is_own = |permit: &&u64| **permit >> 32 == self.resource();
            resource == self.resource()
                && inside.iter().filter(is_own).count()
                    >= *capacity.get_or_insert_with(|| self.permits.all().capacity())
        });
    }

    pub(super) fn name(&self) -> &Arc<str> {
        self.funnel.name()
    }

    pub(super) fn is_queued(&self, waiter: Key) -> bool {
        self.permits.desk().state.is_queued(waiter)
    }

    pub(super) fn publish(&self, event: ContentionEvent) {
        self.funnel.publish(&Event::Contention(event));
    }

    /// Somebody was refused without a wait.
    pub(super) fn refused(&self, now: Tick, event: impl FnOnce() -> ContentionEvent) {
        let total = || self.permits.all().stats().rejected;
        self.funnel
            .refused(now, total, || Event::Contention(event()));
    }

    /// A refusal, with what is to be seen right now.
    pub(super) fn contended(
        &self,
        holder: Holder,
        reason: ContendedReason,
        waited: Duration,
        now: Tick,
    ) -> Contended {
        let all = self.permits.all();
        let facts = ContentionFacts {
            resource: Arc::clone(self.name()),
            holder,
            reason,
            waited,
            holders: all.holders(HolderInfo::MOST_NAMED, now),
            queue_length: all.queue().waiting(),
            capacity: all.capacity(),
            mean_hold: all.mean_hold(),
        };
        drop(all);
        Contended::new(facts)
    }

    /// A permit for a call of a layer, if one is free and nobody waits. Says nothing if not: the call will
    /// ask again.
    #[inline]
    pub(super) fn take_free(&self, holder: &Holder) -> Option<Key> {
        let now = time::now();
        self.permits.take(holder, Owner::ItsFuture, now).ok()
    }

    /// A waiter gives up; whoever gets its permit is woken.
    pub(super) fn give_up(&self, waiter: Key, by: EndedBy, now: Tick) -> Option<GaveUp<Waker>> {
        let threshold = self.policy.contention_threshold();
        let mut desk = self.permits.desk();
        let gave_up = desk.state.give_up(waiter, by, threshold, now);
        drop(desk);
        let gave_up = gave_up?;
        match gave_up {
            GaveUp::PassedOn { waited, wake } => {
                if let Some(waker) = wake {
                    waker.wake();
                }
                Some(GaveUp::PassedOn { waited, wake: None })
            }
            GaveUp::Left { waited, unwoken } => {
                drop(unwoken); // Here, where no lock is held.
                Some(GaveUp::Left {
                    waited,
                    unwoken: None,
                })
            }
            kept @ GaveUp::HadPermit(_) => Some(kept),
        }
    }

    #[inline]
    pub(super) fn release(&self, permit: Key) {
        let now = time::now();
        let long = self.policy.hold_threshold();
        let released = self.permits.release(permit, long, now);
        if let Some(Released {
            held_for,
            long,
            wake,
        }) = released
            && (wake.is_some() || long.is_some())
        {
            self.released(wake, long, held_for);
        }
    }

    #[cold]
    fn released(&self, wake: Option<Waker>, long: Option<Holder>, held_for: Duration) {
        if let Some(waker) = wake {
            waker.wake();
        }
        if let Some(holder) = long {
            self.publish(ContentionEvent::LongHold {
                holder,
                held_for,
                released: true,
            });
        }
    }

    /// Reports, once each, those who have held a permit for too long.
    pub(super) fn report_long_holds(&self, now: Tick) {
        let Some(threshold) = self.policy.hold_threshold() else {
            return;
        };
        let long = self.permits.all().report_long_holds(threshold, now);
        for HolderInfo {
            holder, held_for, ..
        } in long
        {
            self.publish(ContentionEvent::LongHold {
                holder,
                held_for,
                released: false,
            });
        }
    }
}

impl fmt::Debug for ResourceLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.shared.permits.all();
        f.debug_struct("ResourceLock")
            .field("name", self.shared.name())
            .field("capacity", &all.capacity())
            .field("in_use", &all.in_use())
            .field("waiting", &all.queue().waiting())
            .finish_non_exhaustive()
    }
}
