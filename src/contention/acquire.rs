//! Waiting for a permit: as a future, and by parking a thread.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};
use std::thread::{self, Thread};

use pin_project::pin_project;
use tokio::time::{Sleep, sleep_until};

use super::guard::{Lends, OwnedResourceGuard, ResourceGuard, Slot};
use super::handle::ResourceLock;
use super::queue::{Asked, Asker, Patience, Queued, ask};
use crate::call::Holder;
use crate::call::context::Wait;
use crate::error::Contended;
use crate::util::time;

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
    Fresh {
        lock: B,
        holder: Holder,
        asker: Asker,
        patience: Patience,
    },
    Queued(Queued<B>),
    Done,
}

impl<B: Lends> Waiting<B> {
    pub(super) fn new(lock: B, holder: Holder, asker: Asker, patience: Patience) -> Self {
        Self {
            stage: Stage::Fresh {
                lock,
                holder,
                asker,
                patience,
            },
            wait: Wait::new(0),
            timer: None,
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
        loop {
            match this.stage {
                Stage::Fresh { .. } => {
                    let Stage::Fresh {
                        lock,
                        holder,
                        asker,
                        patience,
                    } = std::mem::replace(this.stage, Stage::Done)
                    else {
                        continue;
                    };
                    match ask(lock, holder, asker, patience)? {
                        Asked::Got(slot) => return Poll::Ready(Ok(slot)),
                        Asked::Queued(queued) => {
                            *this.wait = Wait::new(queued.resource());
                            *this.stage = Stage::Queued(queued);
                        }
                    }
                }
                Stage::Queued(queued) => {
                    if this.wait.is_refused()
                        && let Some(end) = queued.reenters(time::now())
                    {
                        *this.stage = Stage::Done;
                        this.timer.set(None);
                        return Poll::Ready(end);
                    }
                    if let Some(slot) = queued.claim(cx.waker()) {
                        *this.stage = Stage::Done;
                        this.timer.set(None);
                        return Poll::Ready(Ok(slot));
                    }
                    let wakes_at = queued.wakes_at().to_instant();
                    if this.timer.is_none() {
                        this.timer.set(Some(sleep_until(wakes_at)));
                    }
                    if let Some(timer) = this.timer.as_mut().as_pin_mut() {
                        ready!(timer.poll(cx));
                    }
                    this.timer.set(None);
                    if let Some(end) = queued.on_time(|| this.wait.place(), time::now()) {
                        *this.stage = Stage::Done;
                        return Poll::Ready(end);
                    }
                }
                Stage::Done => panic!("a wait for a permit was polled after completion"),
            }
        }
    }
}

/// Waits for a permit. Made by [`ResourceLock::acquire`].
///
/// Nothing happens before it is first polled: then it takes a free permit or its place in the queue.
/// Dropping it leaves the queue.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct Acquire<'a>(#[pin] pub(super) Waiting<&'a ResourceLock>);

impl<'a> Future for Acquire<'a> {
    type Output = Result<ResourceGuard<'a>, Contended>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().0.poll(cx).map_ok(ResourceGuard)
    }
}

/// Waits for a permit that borrows nothing. Made by [`ResourceLock::acquire_owned`].
///
/// Nothing happens before it is first polled. Dropping it leaves the queue.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct AcquireOwned(#[pin] pub(super) Waiting<ResourceLock>);

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

/// The same wait, by parking this thread.
pub(super) fn wait_blocking<B: Lends>(
    lock: B,
    holder: Holder,
    asker: Asker,
    patience: Patience,
) -> Result<Slot<B>, Contended> {
    let mut queued = match ask(lock, holder, asker, patience)? {
        Asked::Got(slot) => return Ok(slot),
        Asked::Queued(queued) => queued,
    };
    let mut wait = Wait::new(0);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Some(slot) = queued.claim(&waker) {
            return Ok(slot);
        }
        let now = time::now();
        if now < queued.wakes_at() {
            let time = queued.wakes_at().since(now);
            wait.block(|| thread::park_timeout(time));
        } else if let Some(end) = queued.on_time(|| wait.place(), now) {
            return end;
        }
    }
}
