//! As little of a lock, a breaker and a retry as it takes to ask the account what they will ask.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep_until};

use crate::call::context::{
    Frame, Reason, Wait, ambient_deadline, drop_because, reason, with_deadline,
};
use crate::util::time::{self, Tick};

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

// ---- a lock -------------------------------------------------------------------------------------------------

pub(super) struct Lock {
    pub(super) places: Arc<Semaphore>,
    id: u64,
    capacity: usize,
}

#[derive(Debug, PartialEq)]
pub(super) struct Deadlock;

pub(super) struct Held {
    pub(super) _permit: OwnedSemaphorePermit,
    pub(super) id: u64,
}

impl Lock {
    pub(super) fn new(capacity: usize) -> Self {
        static ID: AtomicU64 = AtomicU64::new(1);
        Self {
            places: Arc::new(Semaphore::new(capacity)),
            id: ID.fetch_add(1, Relaxed),
            capacity,
        }
    }

    pub(super) fn acquire(&self) -> Acquire {
        let places = self.places.clone();
        Acquire {
            lock: self.id,
            places: Box::pin(async move { places.acquire_owned().await.unwrap() }),
            wait: Wait::new(self.id),
        }
    }

    pub(super) fn acquire_blocking(&self) -> OwnedSemaphorePermit {
        Wait::new(self.id).block(|| {
            loop {
                if let Ok(permit) = self.places.clone().try_acquire_owned() {
                    return permit;
                }
                time::park_for(Duration::from_millis(1));
            }
        })
    }

    /// Holds a permit for a call. Re-entry is refused at once.
    pub(super) async fn call<T>(&self, call: impl Future<Output = T>) -> Result<T, Deadlock> {
        let held = self.acquire().await?;
        let mut frame = Frame::default();
        let mut call = Box::pin(call);
        let value = std::future::poll_fn(|cx| {
            let polled = frame.poll(held.id, || call.as_mut().poll(cx));
            if frame.is_waiting() {
                // Every permit of this lock is around that very wait.
                let mine = |id: &&u64| **id >> 32 == self.id;
                frame.refuse_if(|lock, inside| {
                    lock == self.id && inside.iter().filter(mine).count() == self.capacity
                });
            }
            polled
        })
        .await;
        drop(call);
        drop(held);
        Ok(value)
    }
}

pub(super) struct Acquire {
    lock: u64,
    places: Boxed<'static, OwnedSemaphorePermit>,
    pub(super) wait: Wait,
}

// `Boxed` is not `Send` here: tests that move it across threads use `Wait` itself.
impl Future for Acquire {
    type Output = Result<Held, Deadlock>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        static PERMIT: AtomicU64 = AtomicU64::new(0);
        let this = &mut *self;
        if this.wait.is_refused() {
            return Poll::Ready(Err(Deadlock));
        }
        let permit = ready!(this.wait.poll(cx.waker(), || this.places.as_mut().poll(cx)));
        let id = this.lock << 32 | PERMIT.fetch_add(1, Relaxed);
        Poll::Ready(Ok(Held {
            _permit: permit,
            id,
        }))
    }
}

// ---- a breaker ----------------------------------------------------------------------------------------------

#[derive(Default)]
pub(super) struct Breaker {
    pub(super) slow: Option<Duration>,
    pub(super) cancelled_is_failure_after: Option<Duration>,
    pub(super) counts: Mutex<Counts>,
    /// Timed calls that are at the service now: what a sweep may find slow while they run.
    pub(super) running: AtomicU32,
}

#[derive(Clone, Copy, Default, Debug, PartialEq)]
pub(super) struct Counts {
    pub(super) success: u32,
    pub(super) failure: u32,
    pub(super) cancelled: u32,
    pub(super) slow: u32,
    pub(super) half_open: bool,
    pub(super) probes: u32,
}

impl Counts {
    /// Five failures, or half of at least four calls slow.
    pub(super) fn is_open(&self) -> bool {
        let calls = self.success + self.failure;
        self.failure >= 5 || calls >= 4 && self.slow * 2 >= calls
    }
}

pub(super) struct Permit {
    breaker: Arc<Breaker>,
    pub(super) frame: Frame,
    started: Tick,
    seated: bool,
    settled: bool,
    probe: bool,
    running: bool,
}

#[derive(Debug, PartialEq)]
pub(super) struct Open;

impl Breaker {
    pub(super) fn admit(self: &Arc<Self>) -> Result<Permit, Open> {
        let mut counts = self.counts.lock().unwrap();
        if counts.is_open() || counts.half_open && counts.probes > 0 {
            return Err(Open);
        }
        let probe = counts.half_open;
        counts.probes += u32::from(probe);
        drop(counts);
        self.running.fetch_add(1, Relaxed);
        Ok(Permit {
            breaker: self.clone(),
            frame: Frame::default(),
            started: time::now(),
            seated: true,
            settled: false,
            probe,
            running: false,
        })
    }

    /// A shell that keeps the order of drops of the real one: the call, then the permit.
    pub(super) fn call<'a, T>(
        self: &Arc<Self>,
        call: impl Future<Output = T> + 'a,
    ) -> Guarded<'a, T> {
        Guarded {
            call: Box::pin(call),
            permit: self.admit().expect("closed"),
        }
    }

    pub(super) fn call_blocking<T>(self: &Arc<Self>, call: impl FnOnce() -> T) -> T {
        let mut permit = self.admit().expect("closed");
        let value = permit.frame.enter(0, call);
        permit.settle(true);
        value
    }

    pub(super) fn counts(&self) -> Counts {
        *self.counts.lock().unwrap()
    }
}

pub(super) struct Guarded<'a, T> {
    call: Boxed<'a, T>,
    pub(super) permit: Permit,
}

impl<T> Future for Guarded<'_, T> {
    type Output = T;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Self { call, permit } = &mut *self;
        permit.running = true;
        let polled = permit.frame.poll(0, || call.as_mut().poll(cx));
        permit.running = false;
        permit.take_seat_or_leave();
        let value = ready!(polled);
        permit.settle(true);
        Poll::Ready(value)
    }
}

impl Permit {
    fn take_seat_or_leave(&mut self) {
        let seated = !self.frame.is_waiting() && !self.settled;
        if seated != self.seated {
            self.seated = seated;
            let step = if seated { 1 } else { u32::MAX };
            self.breaker.running.fetch_add(step, Relaxed);
        }
    }

    pub(super) fn settle(&mut self, success: bool) {
        self.end(|counts| match success {
            true => counts.success += 1,
            false => counts.failure += 1,
        });
    }

    fn end(&mut self, count: impl FnOnce(&mut Counts)) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let slow = self
            .breaker
            .slow
            .is_some_and(|limit| self.frame.spent(self.started, time::now()) >= limit);
        let mut counts = self.breaker.counts.lock().unwrap();
        counts.slow += u32::from(slow);
        if self.probe {
            counts.probes -= 1;
        }
        count(&mut counts);
        drop(counts);
        if std::mem::take(&mut self.seated) {
            self.breaker.running.fetch_sub(1, Relaxed);
        }
    }

    /// What a drop says of the service.
    fn lost(&mut self) {
        let waiting = self.frame.is_waiting();
        let ran = self.frame.spent(self.started, time::now());
        let granted = self.breaker.cancelled_is_failure_after;
        let failed = self.running
            || !waiting
                && (reason() == Reason::TimedOut || granted.is_some_and(|limit| ran >= limit));
        self.end(|counts| match failed {
            true => counts.failure += 1,
            false => {
                counts.cancelled += 1;
            }
        });
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.settled {
            self.lost();
        }
    }
}

// ---- a retry ------------------------------------------------------------------------------------------------

#[derive(Clone, Copy)]
pub(super) struct Retry {
    pub(super) attempts: u32,
    pub(super) attempt_timeout: Option<Duration>,
    pub(super) deadline: Option<Duration>,
    pub(super) backoff: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 1,
            attempt_timeout: None,
            deadline: None,
            backoff: Duration::ZERO,
        }
    }
}

#[derive(Debug, PartialEq)]
pub(super) enum Ended<E> {
    Error(E),
    Cut(Reason),
}

impl Retry {
    pub(super) async fn call<'a, T, E, F: Future<Output = Result<T, E>> + 'a>(
        self,
        mut make: impl FnMut() -> F,
    ) -> Result<T, Ended<E>> {
        let own = self
            .deadline
            .map_or(Tick::NEVER, |after| time::now().after(after));
        let ends = own.min(ambient_deadline());
        let mut attempt = 1;
        loop {
            let mut frame = Frame::default();
            let call = with_deadline(ends, || frame.enter(0, &mut make));
            let result = Attempt {
                call: Some(Box::pin(call)),
                frame,
                began: Tick(0),
                timer: None,
                ends,
                policy: self,
            }
            .await;
            match result {
                Ok(value) => return Ok(value),
                Err(Ended::Cut(Reason::Deadline)) => return result,
                Err(_) if attempt == self.attempts => return result,
                Err(_) => attempt += 1,
            }
            let mut backoff = Box::pin(tokio::time::sleep(self.backoff));
            let mut wait = Wait::new(0);
            std::future::poll_fn(|cx| wait.poll(cx.waker(), || backoff.as_mut().poll(cx))).await;
        }
    }
}

struct Attempt<'a, T> {
    call: Option<Boxed<'a, T>>,
    frame: Frame,
    began: Tick,
    timer: Option<Pin<Box<Sleep>>>,
    ends: Tick,
    policy: Retry,
}

pub(super) static TIMER_POLLS: AtomicU32 = AtomicU32::new(0);

impl<T, E> Future for Attempt<'_, Result<T, E>> {
    type Output = Result<T, Ended<E>>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.began == Tick(0) {
            this.began = time::now();
        }
        let waited = this.frame.is_waiting();
        let call = this.call.as_mut().expect("polled after completion");
        if let Poll::Ready(result) =
            with_deadline(this.ends, || this.frame.poll(0, || call.as_mut().poll(cx)))
        {
            return Poll::Ready(result.map_err(Ended::Error));
        }
        let reason = ready!(this.poll_cut(waited, cx));
        drop_because(reason, || this.call = None);
        Poll::Ready(Err(Ended::Cut(reason)))
    }
}

impl<T> Attempt<'_, T> {
    /// A timer that is set anew when a wait is over, and when it fires too early: never more often.
    fn poll_cut(&mut self, waited: bool, cx: &mut Context<'_>) -> Poll<Reason> {
        if self.policy.attempt_timeout.is_none() && self.ends == Tick::NEVER {
            return Poll::Pending;
        }
        let back = waited && !self.frame.is_waiting();
        loop {
            if (self.timer.is_none() || back)
                && let Err(reason) = self.set(time::now())
            {
                return Poll::Ready(reason);
            }
            TIMER_POLLS.fetch_add(1, Relaxed);
            ready!(self.timer.as_mut().expect("just set").as_mut().poll(cx));
            if let Err(reason) = self.set(time::now()) {
                return Poll::Ready(reason);
            }
        }
    }

    fn set(&mut self, now: Tick) -> Result<(), Reason> {
        let limit = self.policy.attempt_timeout.unwrap_or(Duration::MAX);
        let spent = self.frame.spent(self.began, now);
        let waiting = self.frame.is_waiting();
        if spent >= limit && !waiting {
            return Err(Reason::TimedOut);
        }
        if now >= self.ends {
            // Without an attempt timeout the first attempt is granted all there is.
            let all = self.policy.deadline.unwrap_or(Duration::MAX);
            return Err(if spent >= limit.min(all) && !waiting {
                Reason::TimedOut
            } else {
                Reason::Deadline
            });
        }
        // The end of a wait polls the attempt: until then there is nothing to do. Looked at now and then, ever more
        // rarely, for a wait that was taken elsewhere.
        let left = if waiting {
            limit.max(self.frame.waited(now))
        } else {
            limit - spent
        };
        let at = if left == Duration::MAX {
            self.ends
        } else {
            now.after(left).min(self.ends)
        };
        let at = at.to_instant();
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(at),
            None => self.timer = Some(Box::pin(sleep_until(at))),
        }
        Ok(())
    }
}
