//! Retry as tower middleware: call, ask, wait, make ready, call again.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project::pin_project;
use tokio::time::{Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

use super::handle::{RetryPolicy, Shared};
use super::kit::{Again, Kits};
use super::prepare::{
    BeforeAttempt, CopyByClone, CopyRequest, CopyWith, DeadlineWith, IdempotencyWith,
    MaxRetriesWith, RequestConfig,
};
use super::run::{Run, Step};
use crate::call::context::{Reason, drop_because};
use crate::call::deadline::{self, Deadline};
use crate::call::outcome::{
    Classify, ClassifyFn, DelayFrom, ErrorsAreFailures, FailureIf, Idempotency, ResponseFailureIf,
    Verdict,
};
use crate::error::{Error, IntoError};
use crate::util::sharded::ArcShard;
use crate::util::time;

/// Retries calls of a service by a [`RetryPolicy`].
///
/// `L` is the service's own error, and inferred. `C` judges results, `R` copies requests.
pub struct RetryLayer<L, C = ErrorsAreFailures, R = CopyByClone> {
    policy: RetryPolicy,
    classify: C,
    requests: R,
    _leaf: PhantomData<fn() -> L>,
}

impl RetryPolicy {
    /// A layer that retries by this policy. `L` is the service's own error, and inferred.
    #[must_use]
    pub fn layer<L>(&self) -> RetryLayer<L> {
        RetryLayer::new(self.clone())
    }
}

impl<L> RetryLayer<L> {
    /// A layer that retries every error of the service, and no response.
    #[must_use]
    pub fn new(policy: RetryPolicy) -> Self {
        Self {
            policy,
            classify: ErrorsAreFailures,
            requests: CopyByClone,
            _leaf: PhantomData,
        }
    }
}

impl<L> Default for RetryLayer<L> {
    fn default() -> Self {
        Self::new(RetryPolicy::new())
    }
}

impl<L, C, R> RetryLayer<L, C, R> {
    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    fn with<D, Q>(self, wrap: impl FnOnce(C, R) -> (D, Q)) -> RetryLayer<L, D, Q> {
        let (classify, requests) = wrap(self.classify, self.requests);
        RetryLayer {
            policy: self.policy,
            classify,
            requests,
            _leaf: PhantomData,
        }
    }

    /// Only errors that match are retried.
    #[must_use]
    pub fn retry_if<F: Fn(&L) -> bool>(self, matches: F) -> RetryLayer<L, FailureIf<F, C>, R> {
        self.with(|inner, requests| (FailureIf { matches, inner }, requests))
    }

    /// Responses that match are retried too. When the last attempt ends with such a response, the caller
    /// gets it.
    #[must_use]
    pub fn retry_response_if<Res, F: Fn(&Res) -> bool>(
        self,
        matches: F,
    ) -> RetryLayer<L, ResponseFailureIf<F, C>, R> {
        self.with(|inner, requests| (ResponseFailureIf { matches, inner }, requests))
    }

    /// Takes the wait from the result, instead of the backoff: a `Retry-After`, say. It is waited as it is,
    /// without jitter, unless it is longer than `max_retry_after`; zero, or `None`, means the backoff.
    #[must_use]
    pub fn delay_from<Res, F: Fn(Result<&Res, &L>) -> Option<Duration>>(
        self,
        delay: F,
    ) -> RetryLayer<L, DelayFrom<F, C>, R> {
        self.with(|inner, requests| (DelayFrom { delay, inner }, requests))
    }

    /// Judges results with a function, instead of all rules so far.
    #[must_use]
    pub fn classify_with<Res, F: Fn(Result<&Res, &L>) -> Verdict>(
        self,
        judge: F,
    ) -> RetryLayer<L, ClassifyFn<F>, R> {
        self.with(|_, requests| (ClassifyFn(judge), requests))
    }

    /// Judges results with a classifier, instead of all rules so far.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> RetryLayer<L, D, R> {
        self.with(|_, requests| (classify, requests))
    }

    /// Takes the number of retries from the request, instead of the policy's `max_retries`.
    #[must_use]
    pub fn max_retries_fn<Req, F: Fn(&Req) -> u32>(
        self,
        max_retries: F,
    ) -> RetryLayer<L, C, MaxRetriesWith<F, R>> {
        self.with(|classify, rest| (classify, MaxRetriesWith { max_retries, rest }))
    }

    /// Copies requests with a function, for requests that are not `Clone`. A request for which it gives
    /// `None` is sent once.
    #[must_use]
    pub fn copy_request<Req, F: Fn(&Req) -> Option<Req>>(
        self,
        copy: F,
    ) -> RetryLayer<L, C, CopyWith<F, R>> {
        self.with(|classify, rest| (classify, CopyWith { copy, rest }))
    }

    /// Takes the deadline of the call from the request, where the ambient one does not reach.
    #[must_use]
    pub fn deadline_from<Req, F: Fn(&Req) -> Option<Deadline>>(
        self,
        deadline: F,
    ) -> RetryLayer<L, C, DeadlineWith<F, R>> {
        self.with(|classify, rest| (classify, DeadlineWith { deadline, rest }))
    }

    /// Takes from the request whether it may be done twice. One that may not is sent again only after a
    /// result that proves it was not done; see [`RetrySafety`](crate::RetrySafety).
    #[must_use]
    pub fn idempotency_from<Req, F: Fn(&Req) -> Idempotency>(
        self,
        idempotency: F,
    ) -> RetryLayer<L, C, IdempotencyWith<F, R>> {
        self.with(|classify, rest| (classify, IdempotencyWith { idempotency, rest }))
    }

    /// Changes each request just before it is sent: a header with the number of the attempt (from 1), say.
    #[must_use]
    pub fn before_attempt<Req, F: Fn(&mut Req, u32)>(
        self,
        change: F,
    ) -> RetryLayer<L, C, BeforeAttempt<F, R>> {
        self.with(|classify, rest| (classify, BeforeAttempt { change, rest }))
    }

    /// Asks `requests` all there is to ask of a request: how to copy it, and what it says of its retries.
    /// Instead of everything said so far.
    #[must_use]
    pub fn requests<Q>(self, requests: Q) -> RetryLayer<L, C, Q> {
        self.with(|classify, _| (classify, requests))
    }
}

impl<L, C: Clone, R: Clone> Clone for RetryLayer<L, C, R> {
    fn clone(&self) -> Self {
        Self {
            policy: self.policy.clone(),
            classify: self.classify.clone(),
            requests: self.requests.clone(),
            _leaf: PhantomData,
        }
    }
}

impl<L, C, R> fmt::Debug for RetryLayer<L, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryLayer")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl<S, L, C: Clone, R: Clone> Layer<S> for RetryLayer<L, C, R> {
    type Service = RetryService<S, L, C, R>;

    fn layer(&self, inner: S) -> Self::Service {
        RetryService {
            inner,
            kits: Kits::none(),
            policy: self.policy.clone(),
            classify: self.classify.clone(),
            requests: self.requests.clone(),
            _leaf: PhantomData,
        }
    }
}

/// A service whose calls are retried. Made by [`RetryLayer`].
pub struct RetryService<S, L, C = ErrorsAreFailures, R = CopyByClone> {
    inner: S,
    kits: Kits<S>,
    policy: RetryPolicy,
    classify: C,
    requests: R,
    _leaf: PhantomData<fn() -> L>,
}

impl<S, L, C, R> RetryService<S, L, C, R> {
    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    /// Goes by other rules from the next call on.
    #[cfg(feature = "grpc")]
    pub(crate) fn go_by(&mut self, policy: &RetryPolicy, classify: C) {
        self.policy.clone_from(policy);
        self.kits.forget();
        self.classify = classify;
    }

    /// The service that is retried.
    #[must_use]
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service that is retried, to change it.
    #[must_use]
    pub fn get_mut(&mut self) -> &mut S {
        self.kits.forget();
        &mut self.inner
    }

    /// The service that was retried, as it is.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Clone, L, C: Clone, R: Clone> Clone for RetryService<S, L, C, R> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            kits: self.kits.clone_for(&self.policy, &self.inner),
            policy: self.policy.clone(),
            classify: self.classify.clone(),
            requests: self.requests.clone(),
            _leaf: PhantomData,
        }
    }
}

impl<S: fmt::Debug, L, C, R> fmt::Debug for RetryService<S, L, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryService")
            .field("inner", &self.inner)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl<S, L, C, R, Req> Service<Req> for RetryService<S, L, C, R>
where
    S: Service<Req> + Clone,
    S::Error: IntoError<L>,
    L: StdError + 'static,
    C: Classify<S::Response, L> + Clone,
    R: CopyRequest<Req> + RequestConfig<Req> + Clone,
{
    type Response = S::Response;
    type Error = Error<L>;
    type Future = RetryFuture<S, Req, L, C, R>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(IntoError::into_error)
    }

    #[inline]
    fn call(&mut self, mut request: Req) -> Self::Future {
        let own = self.requests.max_retries(&request);
        let limit = own.unwrap_or_else(|| self.policy.config().max_retries);
        let ends = self.requests.deadline(&request);
        let again = limit > 0 || self.policy.config().free_retry;
        let copy = again.then(|| self.requests.copy(&request)).flatten();
        let idempotency = self.requests.idempotency(&request);
        // Later attempts are made by a clone that is made ready first. The instance that is ready makes this call.
        let again = match copy {
            Some(_) => self.kits.take(&self.policy, &self.inner),
            None => Again::Own(self.policy.shared.mine(), None),
        };
        let run = Run::new(again.policy(), limit, ends, idempotency);
        let call = deadline::with(run.ambient(), || {
            self.requests.before_attempt(&mut request, run.attempt());
            self.inner.call(request)
        });
        RetryFuture {
            state: State::Calling { call },
            timer: None,
            again,
            request: copy,
            run,
            classify: self.classify.clone(),
            requests: self.requests.clone(),
            _leaf: PhantomData,
        }
    }
}

/// The response of a service whose calls are retried. Dropping it drops the attempt that is running, or
/// ends the wait.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct RetryFuture<S: Service<Req>, Req, L, C = ErrorsAreFailures, R = CopyByClone> {
    #[pin]
    state: State<S::Future>,
    /// The end of a wait, or of an attempt that may take only so long.
    timer: Option<Pin<Box<Sleep>>>,
    again: Again<S>,
    /// The request of the next attempt, while there may be one.
    request: Option<Req>,
    run: Run,
    classify: C,
    requests: R,
    _leaf: PhantomData<fn() -> L>,
}

#[pin_project(project = StateProj)]
enum State<F> {
    /// An attempt is running.
    Calling {
        #[pin]
        call: F,
    },
    /// The attempt has failed and is gone; the timer runs.
    Sleeping,
    /// The service is made ready for the next attempt.
    Readying,
    Done,
}

impl<S: Service<Req>, Req, L, C> RetryFuture<S, Req, L, C, CopyByClone> {
    /// The first attempt of a service that needs not be made ready.
    pub(super) fn begin(
        run: Run,
        policy: ArcShard<Shared>,
        mut service: S,
        request: Req,
        classify: C,
    ) -> Self
    where
        Req: Clone,
    {
        let call = deadline::with(run.ambient(), || service.call(request.clone()));
        Self {
            state: State::Calling { call },
            timer: None,
            again: Again::Own(policy, Some(service)),
            request: Some(request),
            run,
            classify,
            requests: CopyByClone,
            _leaf: PhantomData,
        }
    }
}

/// What an attempt ended with, and what its classifier said of it.
type Judged<Res, L> = (Result<Res, Error<L>>, Option<Verdict>);

impl<S, Req, L, C, R> Future for RetryFuture<S, Req, L, C, R>
where
    S: Service<Req>,
    S::Error: IntoError<L>,
    L: StdError + 'static,
    C: Classify<S::Response, L>,
    R: CopyRequest<Req> + RequestConfig<Req>,
{
    type Output = Result<S::Response, Error<L>>;

    /// The healthy way: an attempt that nothing cuts off, and that succeeds. Everything else goes on apart.
    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.as_mut().project();
        let mut state = this.state;
        if this.run.cut().is_none()
            && let StateProj::Calling { call } = state.as_mut().project()
        {
            let Poll::Ready(result) = call.poll(cx) else {
                this.run.waits();
                return Poll::Pending;
            };
            let result = result.map_err(IntoError::into_error);
            let verdict = Run::judge(&result, this.classify);
            if this.run.is_plain(this.again.policy(), verdict.as_ref()) {
                state.set(State::Done);
                return Poll::Ready(result);
            }
            return self.go_on(cx, Some((result, verdict)));
        }
        self.go_on(cx, None)
    }
}

impl<S, Req, L, C, R> RetryFuture<S, Req, L, C, R>
where
    S: Service<Req>,
    S::Error: IntoError<L>,
    L: StdError + 'static,
    C: Classify<S::Response, L>,
    R: CopyRequest<Req> + RequestConfig<Req>,
{
    /// Goes on with what the running attempt has just ended with, if it has.
    #[inline(never)]
    fn go_on(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut ended: Option<Judged<S::Response, L>>,
    ) -> Poll<Result<S::Response, Error<L>>> {
        loop {
            let this = self.as_mut().project();
            let mut state = this.state;
            let step = if let Some((result, verdict)) = ended.take() {
                let copy = || is_good(this.requests, this.request);
                let step = this
                    .run
                    .settle(this.again.policy(), result, verdict.as_ref(), copy);
                // Before the wait: with the attempt goes everything it holds.
                state.set(State::Sleeping);
                step
            } else {
                match state.as_mut().project() {
                    StateProj::Calling { call } => {
                        match deadline::with(this.run.ambient(), || call.poll(cx)) {
                            Poll::Ready(result) => {
                                let result = result.map_err(IntoError::into_error);
                                let verdict = Run::judge(&result, this.classify);
                                ended = Some((result, verdict));
                                continue;
                            }
                            Poll::Pending => {
                                ready!(poll_cut(this.run, this.timer, cx));
                                drop_because(Reason::TimedOut, || state.set(State::Sleeping));
                                this.run.timed_out(this.again.policy(), || {
                                    is_good(this.requests, this.request)
                                })
                            }
                        }
                    }
                    StateProj::Sleeping => {
                        if let Some(sleep) = this.timer {
                            ready!(sleep.as_mut().poll(cx));
                        }
                        *this.timer = None;
                        this.run.begin_attempt(this.again.policy());
                        state.set(State::Readying);
                        continue;
                    }
                    StateProj::Readying => {
                        let ambient = this.run.ambient();
                        let Some(service) = this.again.service() else {
                            unreachable!("no retry is scheduled without a service to call");
                        };
                        match deadline::with(ambient, || service.poll_ready(cx)) {
                            Poll::Ready(Ok(())) => {
                                let Some(mut request) = this.request.take() else {
                                    unreachable!("no retry is scheduled without a request to send");
                                };
                                if this.run.may_retry() {
                                    *this.request = this.requests.copy(&request);
                                }
                                let call = deadline::with(ambient, || {
                                    this.requests
                                        .before_attempt(&mut request, this.run.attempt());
                                    service.call(request)
                                });
                                state.set(State::Calling { call });
                                continue;
                            }
                            Poll::Ready(Err(error)) => Step::Done(Err(error.into_error())),
                            Poll::Pending => {
                                ready!(poll_cut(this.run, this.timer, cx));
                                this.run.timed_out(this.again.policy(), || {
                                    is_good(this.requests, this.request)
                                })
                            }
                        }
                    }
                    StateProj::Done => panic!("`RetryFuture` polled after completion"),
                }
            };
            let mut this = self.as_mut().project();
            match step {
                Step::Again(delay) => {
                    // Also without a wait: the timer that is there is the ended attempt's.
                    *this.timer = (!delay.is_zero()).then(|| {
                        let wakes = time::now().after(delay).to_instant();
                        Box::pin(sleep_until(wakes))
                    });
                    this.state.set(State::Sleeping);
                }
                Step::Done(result) => {
                    *this.timer = None;
                    this.state.set(State::Done);
                    return Poll::Ready(result);
                }
            }
        }
    }
}

/// Whether there is a request for another attempt.
fn is_good<Req>(requests: &impl CopyRequest<Req>, copy: &Option<Req>) -> bool {
    copy.as_ref().is_some_and(|copy| requests.claim(copy))
}

/// Ready when the running attempt has had its time. The timer is made when an attempt first waits.
fn poll_cut(run: &mut Run, timer: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> Poll<()> {
    run.waits();
    let Some(cut) = run.cut() else {
        return Poll::Pending;
    };
    let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(cut.to_instant())));
    timer.as_mut().poll(cx)
}

impl<S: Service<Req>, Req, L, C, R> fmt::Debug for RetryFuture<S, Req, L, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Calling { .. } => "calling",
            State::Sleeping => "sleeping",
            State::Readying => "readying",
            State::Done => "done",
        };
        f.debug_struct("RetryFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
