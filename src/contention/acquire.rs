//! Waiting for a permit: as a future, and by parking a thread.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};
use std::thread::{self, Thread};
use std::time::Duration;

use pin_project::pin_project;
use tokio::time::{Sleep, sleep_until};

use super::guard::{Lends, OwnedResourceGuard, ResourceGuard, Slot};
use super::handle::ResourceLock;
use super::rules::Priority;
use super::wait::{Ask, Asked, Asker, Timeout, WaitInQueue, WaitLimit, ask, try_now};
use crate::call::context::Wait;
use crate::call::{Holder, workflow};
use crate::error::Contended;
use crate::util::time::{self, Tick};

impl ResourceLock {
    /// Waits for a permit: at most for the lock's timeout, and not past the ambient [deadline](crate::deadline).
    ///
    /// How many permits, for how long, and what guard: see [`Acquire`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use tower_bulwark::ResourceLock;
    ///
    /// let pool = ResourceLock::builder("pool").max_concurrent(10).build()?;
    /// let one = pool.acquire("report").await?;
    /// let rest = pool.acquire("migration").permits(9).timeout(Duration::from_secs(5)).owned().await?;
    /// assert!(pool.try_acquire("late").is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// `holder` says who asks. It is one line of work, which does one thing at a time: if it waits, in the task that
    /// holds its guards, for something that cannot become free before it goes on, it is refused with the cycle once
    /// it has waited for `deadlock_timeout`. Several things that run at once in a task under one name should use
    /// [`run`](Self::run), a layer, or [`owned`](Acquire::owned) guards.
    ///
    /// # Errors
    ///
    /// [`Contended`], with the reason, the time waited, and the holders.
    ///
    /// # Cancellation
    ///
    /// Nothing happens before the future is first polled. Dropping it leaves the queue; if it had just been
    /// granted a permit, the next in the queue gets that.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with its timer, if it has to wait with a timeout, a threshold or a deadline. There,
    /// [`blocking`](Acquire::blocking) is the right one.
    pub fn acquire(&self, holder: impl Into<Holder>) -> Acquire<'_> {
        Acquire(Waiting::new(self, Ask::new(holder.into(), Asker::Guard)))
    }

    /// Like [`acquire`](Self::acquire), where nobody has a name to give: the holder is the [workflow](crate::workflow) of
    /// the task, else the place in the source that called this, with the number of the task.
    #[track_caller]
    pub fn acquire_here(&self) -> Acquire<'_> {
        // No closure: that would be the place which is taken down.
        let holder = match workflow::current() {
            Some(workflow) => workflow,
            None => Holder::here(),
        };
        self.acquire(holder)
    }

    /// A permit if one is free and nobody waits. Never waits.
    ///
    /// # Errors
    ///
    /// [`Contended`] for [`ContendedReason::Busy`](crate::ContendedReason::Busy), or because the lock is closed.
    #[inline]
    pub fn try_acquire(&self, holder: impl Into<Holder>) -> Result<ResourceGuard<'_>, Contended> {
        try_now(self, Ask::new(holder.into(), Asker::Guard)).map(ResourceGuard)
    }
}

impl WaitLimit {
    pub(super) const OF_THE_LOCK: Self = Self {
        timeout: Timeout::OfTheLock,
        deadline: None,
    };
}

/// A wait for a permit. Dropping it leaves the queue, or passes on a permit that has just been granted.
#[pin_project]
pub(super) struct Waiting<B: Lends> {
    stage: Stage<B>,
    /// Tells the calls around that they wait.
    wait: Wait,
    /// Made when there is something to wait for.
    #[pin]
    timer: Option<Sleep>,
}

enum Stage<B: Lends> {
    Fresh(B, Ask),
    Queued(WaitInQueue<B>),
    Done,
}

impl<B: Lends> Waiting<B> {
    pub(super) fn new(lock: B, ask: Ask) -> Self {
        Self {
            stage: Stage::Fresh(lock, ask),
            wait: Wait::new(0),
            timer: None,
        }
    }

    /// What it asks for, before it has asked.
    fn ask(mut self, change: impl FnOnce(&mut Ask)) -> Self {
        if let Stage::Fresh(_, ask) = &mut self.stage {
            change(ask);
        }
        self
    }

    /// The lock and what it asks for, before it has asked.
    fn fresh(self) -> (B, Ask) {
        match self.stage {
            Stage::Fresh(lock, ask) => (lock, ask),
            Stage::Queued(_) | Stage::Done => {
                panic!("a wait for a permit was changed after it was polled")
            }
        }
    }
}

impl<B: Lends> Future for Waiting<B> {
    type Output = Result<Slot<B>, Contended>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.as_mut().poll_permit(cx);
        let wait = self.project().wait;
        wait.poll(cx.waker(), || polled)
    }
}

impl<B: Lends> Waiting<B> {
    fn poll_permit(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Slot<B>, Contended>> {
        let mut this = self.project();
        let mut is_new = false;
        if let Stage::Fresh(..) = this.stage
            && let Stage::Fresh(lock, fresh) = std::mem::replace(this.stage, Stage::Done)
        {
            match ask(lock, fresh, cx.waker())? {
                Asked::Got(slot) => return Poll::Ready(Ok(slot)),
                Asked::Waits(queued) => {
                    *this.wait = Wait::new(queued.resource());
                    *this.stage = Stage::Queued(queued);
                    is_new = true;
                }
            }
        }
        let Stage::Queued(queued) = this.stage else {
            panic!("a wait for a permit was polled after completion");
        };
        let ended = loop {
            if this.wait.is_refused()
                && let Some(end) = queued.reenters(time::now())
            {
                break end;
            }
            // What has just joined the queue has left its waker there.
            if !std::mem::take(&mut is_new)
                && let Some(end) = queued.claim(cx.waker())
            {
                break end;
            }
            let wakes_at = queued.wakes_at();
            if wakes_at == Tick::NEVER {
                // Nothing is ever due: no timer, and so no runtime, is needed.
                return Poll::Pending;
            }
            if this.timer.is_none() {
                this.timer.set(Some(sleep_until(wakes_at.to_instant())));
            }
            if let Some(timer) = this.timer.as_mut().as_pin_mut() {
                ready!(time::poll_timer(timer, cx));
            }
            this.timer.set(None);
            if let Some(end) = queued.on_time(|| this.wait.place(), time::now()) {
                break end;
            }
        };
        *this.stage = Stage::Done;
        this.timer.set(None);
        Poll::Ready(ended)
    }
}

/// Waits for a permit. Made by [`ResourceLock::acquire`].
///
/// Nothing happens before it is first polled: then it takes a free permit or its place in the queue.
/// Dropping it leaves the queue. What it asks for can be changed before it is first polled; afterwards that panics.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct Acquire<'a>(#[pin] Waiting<&'a ResourceLock>);

impl<'a> Acquire<'a> {
    /// Asks for `n` permits at once, at least one, all or nothing, in one place of the queue: nobody who wants fewer
    /// overtakes. More than the lock has is refused at once.
    pub fn permits(self, n: usize) -> Self {
        Self(self.0.ask(|ask| ask.permits = n.max(1)))
    }

    /// Waits at most for `timeout`, instead of the lock's own. Zero is a try.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self(self.0.ask(|ask| ask.limit.timeout = Timeout::Own(timeout)))
    }

    /// How important it is. Default: [`Priority::Normal`].
    pub fn priority(self, priority: Priority) -> Self {
        Self(self.0.ask(|ask| ask.priority = priority))
    }

    /// Waits without end, or until the ambient deadline.
    pub fn no_timeout(self) -> Self {
        Self(self.0.ask(|ask| ask.limit.timeout = Timeout::Never))
    }

    /// For a guard that borrows nothing: it can be sent to another task, or kept in a struct.
    pub fn owned(self) -> AcquireOwned {
        let (lock, mut ask) = self.0.fresh();
        ask.asker = Asker::OwnedGuard;
        AcquireOwned(Waiting::new(lock.clone(), ask))
    }

    /// Waits by parking this thread. Needs no runtime. The time runs on the real clock, whatever tokio's does.
    ///
    /// # Errors
    ///
    /// As [`acquire`](ResourceLock::acquire).
    ///
    /// # Panics
    ///
    /// If it has to wait on a thread that runs async tasks, as tokio's own blocking calls do: the thread could run what
    /// the wait waits for. `spawn_blocking` is the place for it.
    pub fn blocking(self) -> Result<ResourceGuard<'a>, Contended> {
        let (lock, ask) = self.0.fresh();
        wait_blocking(lock, ask).map(ResourceGuard)
    }
}

impl<'a> Future for Acquire<'a> {
    type Output = Result<ResourceGuard<'a>, Contended>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().0.poll(cx).map_ok(ResourceGuard)
    }
}

/// Waits for a permit that borrows nothing. Made by [`Acquire::owned`].
///
/// Nothing happens before it is first polled. Dropping it leaves the queue.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct AcquireOwned(#[pin] Waiting<ResourceLock>);

impl AcquireOwned {
    /// As [`Acquire::permits`].
    pub fn permits(self, n: usize) -> Self {
        Self(self.0.ask(|ask| ask.permits = n.max(1)))
    }

    /// As [`Acquire::timeout`].
    pub fn timeout(self, timeout: Duration) -> Self {
        Self(self.0.ask(|ask| ask.limit.timeout = Timeout::Own(timeout)))
    }

    /// As [`Acquire::priority`].
    pub fn priority(self, priority: Priority) -> Self {
        Self(self.0.ask(|ask| ask.priority = priority))
    }

    /// As [`Acquire::no_timeout`].
    pub fn no_timeout(self) -> Self {
        Self(self.0.ask(|ask| ask.limit.timeout = Timeout::Never))
    }

    /// As [`Acquire::blocking`].
    ///
    /// # Errors
    ///
    /// As [`acquire`](ResourceLock::acquire).
    ///
    /// # Panics
    ///
    /// As [`Acquire::blocking`].
    pub fn blocking(self) -> Result<OwnedResourceGuard, Contended> {
        let (lock, ask) = self.0.fresh();
        wait_blocking(lock, ask).map(OwnedResourceGuard)
    }

    /// The permit if it is free and nobody waits. Never waits.
    ///
    /// # Errors
    ///
    /// As [`ResourceLock::try_acquire`].
    pub fn now(self) -> Result<OwnedResourceGuard, Contended> {
        let (lock, ask) = self.0.fresh();
        try_now(lock, ask).map(OwnedResourceGuard)
    }
}

impl<'a> Acquire<'a> {
    /// The permits if they are free and nobody waits. Never waits.
    ///
    /// # Errors
    ///
    /// As [`ResourceLock::try_acquire`].
    pub fn now(self) -> Result<ResourceGuard<'a>, Contended> {
        let (lock, ask) = self.0.fresh();
        try_now(lock, ask).map(ResourceGuard)
    }
}

impl Future for AcquireOwned {
    type Output = Result<OwnedResourceGuard, Contended>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().0.poll(cx).map_ok(OwnedResourceGuard)
    }
}

impl fmt::Debug for Acquire<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acquire")
    }
}

impl fmt::Debug for AcquireOwned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AcquireOwned")
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The same wait, by parking this thread. A paused clock would never come to its end, so the real one counts.
fn wait_blocking<B: Lends>(lock: B, wanted: Ask) -> Result<Slot<B>, Contended> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut queued = match ask(lock, wanted, &waker)? {
        Asked::Got(slot) => return Ok(slot),
        Asked::Waits(queued) => queued,
    };
    assert_may_block();
    let mut wait = Wait::new(queued.resource());
    let clock = time::RealClock::from_now();
    loop {
        if let Some(end) = queued.claim(&waker) {
            return end;
        }
        let now = clock.now();
        if now < queued.wakes_at() {
            let time = queued.wakes_at().since(now);
            wait.block(|| thread::park_timeout(time));
        } else if let Some(end) = queued.on_time(|| wait.place(), now) {
            return end;
        }
    }
}

/// tokio knows which threads run tasks, and says so itself.
fn assert_may_block() {
    static FREE: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());
    drop(FREE.blocking_read());
}
