//! The breaker as tower middleware: ask, call, settle.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tokio::time::{Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

use super::handle::CircuitBreaker;
use super::permit::Permit;
use super::wakers::Pending;
use crate::call::outcome::{
    Classify, ClassifyFn, ErrorsAreFailures, FailureIf, IgnoreIf, ResponseFailureIf, Verdict,
};
use crate::error::{Answer, AsError, RejectWith};
use crate::error::{CircuitOpen, Error, IntoError, OpenReason, Refusal, Rejection};
use crate::util::accessors::inner_service;
use crate::util::time::{self, Tick};

/// Guards services with a [`CircuitBreaker`].
///
/// Every service made by a layer, by its clones, and by other layers of the same breaker shares the
/// breaker's state. `L` is the service's own error, and inferred.
pub struct CircuitBreakerLayer<L, C = ErrorsAreFailures, A = AsError> {
    breaker: CircuitBreaker,
    classify: C,
    answer: A,
    pending_while_open: bool,
    _leaf: PhantomData<fn() -> L>,
}

impl CircuitBreaker {
    /// A layer that guards a service with this breaker. `L` is the service's own error, and inferred.
    #[must_use]
    pub fn layer<L>(&self) -> CircuitBreakerLayer<L> {
        CircuitBreakerLayer::new(self.clone())
    }

    /// Makes a call through the breaker: refused while the circuit is open, else its result is counted.
    /// An `Err` is a failure; use [`call_with`](Self::call_with) to say otherwise.
    ///
    /// Dropping the future counts as a cancelled call.
    ///
    /// # Errors
    ///
    /// [`Error::CircuitOpen`] when it was refused, [`Error::Inner`] with the operation's own error; an
    /// operation that already fails with [`Error`] keeps it as it is.
    pub async fn call<T, E, L, Fut>(&self, operation: impl FnOnce() -> Fut) -> Result<T, Error<L>>
    where
        Fut: Future<Output = Result<T, E>>,
        E: IntoError<L>,
        L: std::error::Error + 'static,
    {
        self.call_with(ErrorsAreFailures, operation).await
    }

    /// Like [`call`](Self::call), with a classifier.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    pub async fn call_with<T, E, L, C, Fut>(
        &self,
        classify: C,
        operation: impl FnOnce() -> Fut,
    ) -> Result<T, Error<L>>
    where
        Fut: Future<Output = Result<T, E>>,
        E: IntoError<L>,
        L: std::error::Error + 'static,
        C: Classify<T, L>,
    {
        let mut permit = self.admit().map_err(Error::CircuitOpen)?;
        let call = permit.running(operation);
        CircuitBreakerFuture::admitted(call, permit, classify, AsError).await
    }

    /// Like [`call`](Self::call), for code that blocks.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    pub fn call_blocking<T, E, L>(
        &self,
        operation: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, Error<L>>
    where
        E: IntoError<L>,
        L: std::error::Error + 'static,
    {
        let mut permit = self.admit().map_err(Error::CircuitOpen)?;
        let result = permit.running(operation);
        let result = result.map_err(IntoError::into_error);
        let judged = Answer::<T, E, L>::judge(&AsError, &result, &ErrorsAreFailures);
        permit.settle_judged(judged);
        result
    }
}

impl<L> CircuitBreakerLayer<L> {
    /// A layer of `breaker`. An error of the service is a failure, a response a success.
    #[must_use]
    pub fn new(breaker: CircuitBreaker) -> Self {
        Self {
            breaker,
            classify: ErrorsAreFailures,
            answer: AsError,
            pending_while_open: false,
            _leaf: PhantomData,
        }
    }
}

impl<L, C, A> CircuitBreakerLayer<L, C, A> {
    /// The breaker.
    #[must_use]
    pub fn breaker(&self) -> &CircuitBreaker {
        &self.breaker
    }

    fn with_classify<D>(self, wrap: impl FnOnce(C) -> D) -> CircuitBreakerLayer<L, D, A> {
        CircuitBreakerLayer {
            breaker: self.breaker,
            classify: wrap(self.classify),
            answer: self.answer,
            pending_while_open: self.pending_while_open,
            _leaf: PhantomData,
        }
    }

    /// While the circuit refuses, `poll_ready` is pending instead of ready for a refusal: for balancers, which then
    /// send calls to other replicas. The task is woken when the circuit admits calls again.
    ///
    /// Without a balancer this makes callers wait for as long as the circuit is open. Needs a tokio runtime with its
    /// timer. A call is still refused if the circuit opens between `poll_ready` and `call`, or if another call has
    /// taken the place of the probe.
    #[must_use]
    pub fn pending_while_open(mut self) -> Self {
        self.pending_while_open = true;
        self
    }

    /// Only errors that match are failures. An error that does not match is a success: the service has answered.
    /// (Errors that say nothing about the service either way: [`ignore_if`](Self::ignore_if).)
    #[must_use]
    pub fn failure_if<F: Fn(&L) -> bool>(
        self,
        matches: F,
    ) -> CircuitBreakerLayer<L, FailureIf<F, C>, A> {
        self.with_classify(|inner| FailureIf { matches, inner })
    }

    /// Errors that match are ignored; the others are judged as before.
    #[must_use]
    pub fn ignore_if<F: Fn(&L) -> bool>(
        self,
        matches: F,
    ) -> CircuitBreakerLayer<L, IgnoreIf<F, C>, A> {
        self.with_classify(|inner| IgnoreIf { matches, inner })
    }

    /// Responses that match are failures: a `503` that arrives as an `Ok`, say.
    #[must_use]
    pub fn response_failure_if<Res, F: Fn(&Res) -> bool>(
        self,
        matches: F,
    ) -> CircuitBreakerLayer<L, ResponseFailureIf<F, C>, A> {
        self.with_classify(|inner| ResponseFailureIf { matches, inner })
    }

    /// Judges results with a function, instead of all rules so far.
    #[must_use]
    pub fn classify_with<Res, F: Fn(Result<&Res, &L>) -> Verdict>(
        self,
        judge: F,
    ) -> CircuitBreakerLayer<L, ClassifyFn<F>, A> {
        self.with_classify(|_| ClassifyFn(judge))
    }

    /// Judges results with a classifier, instead of all rules so far.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> CircuitBreakerLayer<L, D, A> {
        self.with_classify(|_| classify)
    }

    /// Answers a refused call with a response instead of an error: the error type of the service stays
    /// what it is, so an axum router needs no `HandleErrorLayer`.
    #[must_use]
    pub fn reject_with<Res, F: Fn(Rejection) -> Res>(
        self,
        respond: F,
    ) -> CircuitBreakerLayer<L, C, RejectWith<F>> {
        CircuitBreakerLayer {
            breaker: self.breaker,
            classify: self.classify,
            answer: RejectWith(respond),
            pending_while_open: self.pending_while_open,
            _leaf: PhantomData,
        }
    }
}

impl<L, C: Clone, A: Clone> Clone for CircuitBreakerLayer<L, C, A> {
    fn clone(&self) -> Self {
        Self {
            breaker: self.breaker.clone(),
            classify: self.classify.clone(),
            answer: self.answer.clone(),
            pending_while_open: self.pending_while_open,
            _leaf: PhantomData,
        }
    }
}

impl<L, C, A> fmt::Debug for CircuitBreakerLayer<L, C, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreakerLayer")
            .field("breaker", &self.breaker)
            .finish_non_exhaustive()
    }
}

impl<S, L, C: Clone, A: Clone> Layer<S> for CircuitBreakerLayer<L, C, A> {
    type Service = CircuitBreakerService<S, L, C, A>;

    fn layer(&self, inner: S) -> Self::Service {
        CircuitBreakerService {
            inner,
            breaker: self.breaker.clone(),
            classify: self.classify.clone(),
            answer: self.answer.clone(),
            refused: None,
            pending: Pending::default(),
            while_open: WhileOpen::new(self.pending_while_open),
            _leaf: PhantomData,
        }
    }
}

/// A service guarded by a [`CircuitBreaker`]. Made by [`CircuitBreakerLayer`].
pub struct CircuitBreakerService<S, L, C = ErrorsAreFailures, A = AsError> {
    inner: S,
    breaker: CircuitBreaker,
    classify: C,
    answer: A,
    /// The circuit refused when `poll_ready` asked: the inner service was not made ready, so the call that follows
    /// is refused.
    refused: Option<Refusal>,
    pending: Pending,
    while_open: WhileOpen,
    _leaf: PhantomData<fn() -> L>,
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
        self.refused = self.breaker.shared.peek();
        if let Some(refusal) = self.refused {
            return self.refuse(refusal, cx);
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
struct WhileOpen {
    is_on: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl WhileOpen {
    const fn new(is_on: bool) -> Self {
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
        ready!(timer.as_mut().poll(cx));
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

/// The response of a guarded service. Dropping it before it is done counts as a cancelled call.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct CircuitBreakerFuture<F, L, C = ErrorsAreFailures, A = AsError> {
    #[pin]
    state: State<F, C, A>,
    _leaf: PhantomData<fn() -> L>,
}

#[pin_project(project = StateProj)]
enum State<F, C, A> {
    Calling {
        #[pin]
        call: F,
        permit: Permit,
        classify: C,
        answer: A,
    },
    Refused {
        open: Option<CircuitOpen>,
        answer: A,
    },
}

impl<F, L, C, A> CircuitBreakerFuture<F, L, C, A> {
    #[inline]
    pub(super) fn admitted(call: F, permit: Permit, classify: C, answer: A) -> Self {
        Self {
            state: State::Calling {
                call,
                permit,
                classify,
                answer,
            },
            _leaf: PhantomData,
        }
    }

    fn refused(open: CircuitOpen, answer: A) -> Self {
        Self {
            state: State::Refused {
                open: Some(open),
                answer,
            },
            _leaf: PhantomData,
        }
    }
}

impl<F, Res, E, L, C, A> Future for CircuitBreakerFuture<F, L, C, A>
where
    F: Future<Output = Result<Res, E>>,
    L: StdError + 'static,
    C: Classify<Res, L>,
    A: Answer<Res, E, L>,
{
    type Output = Result<Res, A::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Calling {
                call,
                permit,
                classify,
                answer,
            } => {
                if permit.is_settled() {
                    panic!("`CircuitBreakerFuture` polled after completion");
                }
                let result = ready!(permit.poll(|| call.poll(cx)));
                let result = result.map_err(|error| answer.error(error));
                let judged = permit.running(|| answer.judge(&result, classify));
                permit.settle_judged(judged);
                Poll::Ready(result)
            }
            StateProj::Refused { open, answer } => match open.take() {
                Some(open) => Poll::Ready(answer.refuse(open.into())),
                None => panic!("`CircuitBreakerFuture` polled after completion"),
            },
        }
    }
}

impl<F, L, C, A> fmt::Debug for CircuitBreakerFuture<F, L, C, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Calling { .. } => "calling",
            State::Refused { .. } => "refused",
        };
        f.debug_struct("CircuitBreakerFuture")
            .field("state", &state)
            .finish()
    }
}
