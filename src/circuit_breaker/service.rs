//! The breaker as tower middleware: ask, call, settle.

use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Sleep, sleep_until};
use tower_service::Service;

use super::handle::CircuitBreaker;
use super::permit::Permit;
use super::wakers::Pending;
use crate::call::outcome::{Classify, ErrorsAreFailures};
use crate::error::{Answer, AsError};
use crate::error::{CircuitOpen, OpenReason, Refusal};
use crate::util::accessors::inner_service;
use crate::util::time::{self, Tick};

use super::future::CircuitBreakerFuture;

/// A service guarded by a [`CircuitBreaker`]. Made by [`CircuitBreakerLayer`](super::CircuitBreakerLayer).
pub struct CircuitBreakerService<S, L, C = ErrorsAreFailures, A = AsError> {
    pub(super) inner: S,
    pub(super) breaker: CircuitBreaker,
    pub(super) classify: C,
    pub(super) answer: A,
    /// The circuit refused when `poll_ready` asked: the inner service was not made ready, so the call that follows
    /// is refused.
    pub(super) refused: Option<Refusal>,
    pub(super) pending: Pending,
    pub(super) while_open: WhileOpen,
    pub(super) _leaf: PhantomData<fn() -> L>,
}

impl<S, L, C, A> CircuitBreakerService<S, L, C, A> {
    /// The breaker.
    #[must_use]
    pub fn breaker(&self) -> &CircuitBreaker {
        &self.breaker
    }

    inner_service!("guarded");

    /// Admission for a call that follows at once.
    #[inline(never)]
    pub(crate) fn take(&mut self) -> Result<Permit, CircuitOpen> {
        self.pending.leave();
        match self.refused.take() {
            None => self.breaker.admit(),
            Some(_) => {
                let shared = &self.breaker.shared;
                Err(shared.rejected(shared.peek().unwrap_or_else(|| Refusal {
                    at: time::now(),
                    until: time::now(),
                    reason: OpenReason::NotMadeReady,
                })))
            }
        }
    }

    /// How results are judged, and refusals answered.
    #[cfg(feature = "http")]
    pub(crate) fn rules(&self) -> (&C, &A) {
        (&self.classify, &self.answer)
    }
}

impl<S: Clone, L, C: Clone, A: Clone> Clone for CircuitBreakerService<S, L, C, A> {
    /// The clone starts empty-handed: readiness is not inherited.
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            breaker: self.breaker.clone(),
            classify: self.classify.clone(),
            answer: self.answer.clone(),
            refused: None,
            pending: Pending::default(),
            while_open: WhileOpen::new(self.while_open.is_on),
            _leaf: PhantomData,
        }
    }
}

impl<S: fmt::Debug, L, C, A> fmt::Debug for CircuitBreakerService<S, L, C, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreakerService")
            .field("inner", &self.inner)
            .field("breaker", &self.breaker)
            .finish_non_exhaustive()
    }
}

impl<S, L, C, A, Req> Service<Req> for CircuitBreakerService<S, L, C, A>
where
    S: Service<Req>,
    L: StdError + 'static,
    C: Classify<S::Response, L> + Clone,
    A: Answer<S::Response, S::Error, L> + Clone,
{
    type Response = S::Response;
    type Error = A::Error;
    type Future = CircuitBreakerFuture<S::Future, L, C, A>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if let Some(refusal) = self.breaker.shared.peek() {
            self.refused = Some(refusal);
            return self.refuse(refusal, cx);
        }
        // Not written as a whole where nothing was refused: it would be read before it has arrived.
        if self.refused.is_some() {
            self.refused = None;
        }
        match self.inner.poll_ready(cx) {
            Poll::Ready(Ok(())) => {
                self.pending.leave();
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.answer.error(error))),
            Poll::Pending => self.wait_for_inner(cx),
        }
    }

    #[inline(always)]
    fn call(&mut self, req: Req) -> Self::Future {
        if self.refused.is_none()
            && let Some(permit) = self.breaker.try_acquire_plain()
        {
            return self.admitted(permit, req);
        }
        self.call_with_core(req)
    }
}

impl<S, L, C, A> CircuitBreakerService<S, L, C, A> {
    /// The circuit refuses. Ready, so that the call that follows can say so; with
    /// [`pending_while_open`](CircuitBreakerLayer::pending_while_open) pending until that has changed.
    #[cold]
    fn refuse<E>(&mut self, mut refusal: Refusal, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        if !self.while_open.is_on {
            return Poll::Ready(Ok(()));
        }
        let shared = &self.breaker.shared;
        loop {
            // Registered first: what changes afterwards wakes.
            self.pending.register(&shared.wakers, cx.waker());
            ready!(self.while_open.poll_until(refusal.until, cx));
            match shared.peek() {
                Some(still) => refusal = still,
                None => {
                    // The inner service is asked when this is polled again, at once.
                    self.refused = None;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
    }

    /// The inner service is not ready. If the circuit opens meanwhile, the task is woken to hear of that.
    #[cold]
    fn wait_for_inner<E>(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        let shared = &self.breaker.shared;
        self.pending.register(&shared.wakers, cx.waker());
        self.refused = shared.peek();
        match self.refused {
            Some(refusal) => self.refuse(refusal, cx),
            None => Poll::Pending,
        }
    }
}

/// The wait of `poll_ready` while the circuit is open.
pub(super) struct WhileOpen {
    is_on: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl WhileOpen {
    pub(super) const fn new(is_on: bool) -> Self {
        Self { is_on, timer: None }
    }

    fn poll_until(&mut self, until: Tick, cx: &mut Context<'_>) -> Poll<()> {
        let until = until.to_instant();
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        ready!(time::poll_timer(timer.as_mut(), cx));
        self.timer = None;
        Poll::Ready(())
    }
}

impl<S, L, C: Clone, A: Clone> CircuitBreakerService<S, L, C, A> {
    /// Apart from the way of a healthy call, so that that one is short.
    #[inline(never)]
    fn call_with_core<Req>(&mut self, req: Req) -> CircuitBreakerFuture<S::Future, L, C, A>
    where
        S: Service<Req>,
    {
        match self.take() {
            Ok(permit) => self.admitted(permit, req),
            Err(open) => CircuitBreakerFuture::refused(open, self.answer.clone()),
        }
    }

    #[inline(always)]
    fn admitted<Req>(
        &mut self,
        mut permit: Permit,
        req: Req,
    ) -> CircuitBreakerFuture<S::Future, L, C, A>
    where
        S: Service<Req>,
    {
        let call = permit.running(|| self.inner.call(req));
        let (classify, answer) = (self.classify.clone(), self.answer.clone());
        CircuitBreakerFuture::admitted(call, permit, classify, answer)
    }
}
