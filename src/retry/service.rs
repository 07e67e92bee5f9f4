//! Retry as tower middleware: call, ask, wait, make ready, call again.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project::pin_project;
use tokio::task::unconstrained;
use tokio::time::{Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

use super::handle::{Hook, RetryPolicy, Shared};
use super::kit::{Kits, Spare};
use super::prepare::{
    BeforeAttempt, CopyByClone, CopyRequest, CopyWith, DeadlineWith, IdempotencyWith,
    MaxRetriesWith, RequestConfig,
};
use super::run::{Again, Copy, Ending, Last, Run, Step};
use crate::call::context::{Frame, Reason, Wait, drop_because};
use crate::call::deadline::{self, Deadline};
use crate::call::outcome::{
    AttemptContext, Classify, ClassifyFn, DelayFrom, ErrorsAreFailures, FailureIf, Idempotency,
    ResponseFailureIf, RetryIfWith, Verdict,
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

    /// Retries what `wanted` says yes to, instead of all rules so far. It sees which attempt ended, and the whole result.
    #[must_use]
    pub fn retry_if_with<Res, F: Fn(&AttemptContext, Result<&Res, &L>) -> bool>(
        self,
        wanted: F,
    ) -> RetryLayer<L, RetryIfWith<F>, R> {
        self.with(|_, requests| (RetryIfWith(wanted), requests))
    }

    /// Takes the wait from the result, instead of the backoff: a `Retry-After`, say. It is waited with up to a tenth more
    /// (`retry_after_jitter`), unless it is longer than `max_retry_after`; zero, or `None`, means the backoff.
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
        let spare = match copy {
            Some(_) => self.kits.take(&self.policy, &self.inner),
            None => Spare::own(self.policy.shared.mine(), None),
        };
        let run = Run::new(spare.policy(), limit, ends, idempotency);
        let mut frame = Frame::default();
        let call = frame.enter(0, || {
            deadline::with(run.ambient(), || {
                self.requests.before_attempt(&mut request, run.attempt());
                self.inner.call(request)
            })
        });
        RetryFuture {
            state: State::Calling { call },
            frame,
            wait: Wait::new(0),
            timer: None,
            last: None,
            spare,
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
    /// Where the running attempt is.
    frame: Frame,
    /// The backoff, and the readiness of the service below, as the calls around know them.
    wait: Wait,
    /// The end of a wait, or of an attempt that may take only so long.
    timer: Option<Pin<Box<Sleep>>>,
    spare: Spare<S>,
    /// The request of the next attempt, while there may be one.
    request: Option<Req>,
    run: Run,
    /// The last failure of the service itself, for a call that ends with a refusal.
    last: Last<L>,
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
    /// The hook before a retry runs.
    Hooking {
        hook: Hook,
    },
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
        let mut frame = Frame::default();
        let call = frame.enter(0, || {
            deadline::with(run.ambient(), || service.call(request.clone()))
        });
        Self {
            state: State::Calling { call },
            frame,
            wait: Wait::new(0),
            timer: None,
            spare: Spare::own(policy, Some(service)),
            request: Some(request),
            run,
            last: None,
            classify,
            requests: CopyByClone,
            _leaf: PhantomData,
        }
    }
}

/// What an attempt ended with, and what that means.
type Ended<Res, L> = (Result<Res, Error<L>>, Ending);

/// What a poll of an attempt ends with: its end, or what follows because its time was over.
type PollAttempt<Res, L> = Poll<Result<Ended<Res, L>, Step<Res, L>>>;

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
        if !this.run.can_be_cut(this.spare.policy())
            && let StateProj::Calling { call } = state.as_mut().project()
        {
            let Poll::Ready(result) = call.poll(cx) else {
                this.run.waits();
                return Poll::Pending;
            };
            let result = result.map_err(IntoError::into_error);
            let ending = this.run.judge(this.spare.policy(), &result, this.classify);
            if this.run.is_plain(this.spare.policy(), &ending) {
                state.set(State::Done);
                return Poll::Ready(result);
            }
            return self.go_on(cx, Some((result, ending)));
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
        mut ended: Option<Ended<S::Response, L>>,
    ) -> Poll<Result<S::Response, Error<L>>> {
        loop {
            let step = match ended.take() {
                Some((result, ending)) => self.as_mut().settle(result, &ending),
                None => match self.as_mut().project().state.project() {
                    StateProj::Calling { .. } => match ready!(self.as_mut().poll_attempt(cx)) {
                        Ok(it) => {
                            ended = Some(it);
                            continue;
                        }
                        Err(step) => step,
                    },
                    StateProj::Sleeping | StateProj::Hooking { .. } => {
                        ready!(self.as_mut().poll_backoff(cx));
                        continue;
                    }
                    StateProj::Readying => match ready!(self.as_mut().poll_service(cx)) {
                        Some(step) => step,
                        None => continue,
                    },
                    StateProj::Done => panic!("`RetryFuture` polled after completion"),
                },
            };
            let mut this = self.as_mut().project();
            // Also without a wait: the timer that is there is the ended attempt's.
            *this.timer = None;
            match step {
                Step::Again(again) => {
                    this.state.set(State::Sleeping);
                    match again {
                        Again::AtOnce => {}
                        Again::After(Duration::ZERO) => {
                            // Others run first: no loop of failures keeps the thread to itself.
                            cx.waker().wake_by_ref();
                            return Poll::Pending;
                        }
                        Again::After(delay) => {
                            let wakes = time::now().after(delay).to_instant();
                            *this.timer = Some(Box::pin(sleep_until(wakes)));
                        }
                    }
                }
                Step::Done(result) => {
                    this.state.set(State::Done);
                    return Poll::Ready(result);
                }
            }
        }
    }

    fn settle(
        self: Pin<&mut Self>,
        result: Result<S::Response, Error<L>>,
        ending: &Ending,
    ) -> Step<S::Response, L> {
        let mut this = self.project();
        let copy = copy_of(this.requests, this.request);
        let policy = this.spare.policy();
        let step = this.run.settle(policy, result, ending, this.last, copy);
        // Before the wait: with the attempt goes everything it holds.
        this.state.set(State::Sleeping);
        step
    }

    /// The running attempt: what it ended with, or what follows because its time was over.
    fn poll_attempt(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollAttempt<S::Response, L> {
        let mut this = self.project();
        let StateProj::Calling { call } = this.state.as_mut().project() else {
            return Poll::Pending;
        };
        let waited = this.frame.is_waiting();
        let polled = deadline::with(this.run.ambient(), || this.frame.poll(0, || call.poll(cx)));
        let policy = this.spare.policy();
        if let Poll::Ready(result) = polled {
            let result = result.map_err(IntoError::into_error);
            let ending = this.run.judge(policy, &result, this.classify);
            return Poll::Ready(Ok((result, ending)));
        }
        let goes_on = waited && !this.frame.is_waiting();
        let reason = ready!(poll_cut(
            policy, this.run, this.frame, goes_on, this.timer, cx
        ));
        drop_because(reason, || this.state.set(State::Sleeping));
        let copy = copy_of(this.requests, this.request);
        Poll::Ready(Err(this.run.timed_out(policy, true, this.last, copy)))
    }

    /// The wait before an attempt, and the hook behind it.
    fn poll_backoff(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        if let StateProj::Hooking { hook } = this.state.as_mut().project() {
            let wait = this.wait;
            ready!(wait.poll(cx.waker(), || hook.as_mut().poll(cx)));
        } else {
            if let Some(sleep) = this.timer {
                let wait = this.wait;
                ready!(wait.poll(cx.waker(), || sleep.as_mut().poll(cx)));
            }
            *this.timer = None;
            let policy = this.spare.policy();
            this.run.begin_attempt(policy);
            if let Some(before) = &policy.before_retry {
                let hook = before(this.run.attempt());
                this.state.set(State::Hooking { hook });
                return Poll::Ready(());
            }
        }
        this.state.set(State::Readying);
        Poll::Ready(())
    }

    /// Makes the service ready and sends the next attempt; a step, if there is none.
    fn poll_service(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Step<S::Response, L>>> {
        let mut this = self.project();
        let ambient = this.run.ambient();
        let Some(service) = this.spare.service() else {
            unreachable!("no retry is scheduled without a service to call");
        };
        let wait = this.wait;
        let ready = wait.poll(cx.waker(), || {
            deadline::with(ambient, || service.poll_ready(cx))
        });
        match ready {
            Poll::Ready(Ok(())) => {
                let Some(mut request) = this.request.take() else {
                    unreachable!("no retry is scheduled without a request to send");
                };
                if this.run.may_retry() {
                    *this.request = this.requests.copy(&request);
                }
                *this.timer = None;
                *this.frame = Frame::default();
                this.run.sends();
                let (requests, attempt) = (this.requests, this.run.attempt());
                let call = this.frame.enter(0, || {
                    deadline::with(ambient, || {
                        requests.before_attempt(&mut request, attempt);
                        service.call(request)
                    })
                });
                this.state.set(State::Calling { call });
                Poll::Ready(None)
            }
            Poll::Ready(Err(error)) => Poll::Ready(Some(Step::Done(Err(error.into_error())))),
            Poll::Pending => {
                // It is nowhere yet: what bounds it is the time of an attempt, or the end of all.
                let nowhere = Frame::default();
                let policy = this.spare.policy();
                ready!(poll_cut(policy, this.run, &nowhere, false, this.timer, cx));
                this.spare.forget_unready();
                let copy = copy_of(this.requests, this.request);
                let policy = this.spare.policy();
                Poll::Ready(Some(this.run.timed_out(policy, false, this.last, copy)))
            }
        }
    }
}

/// The request of another attempt, and the claim on it.
fn copy_of<'a, Req, R: CopyRequest<Req>>(
    requests: &'a R,
    request: &'a Option<Req>,
) -> Copy<impl FnOnce() -> bool + use<'a, Req, R>> {
    Copy {
        is_there: request.is_some(),
        claim: move || request.as_ref().is_some_and(|copy| requests.claim(copy)),
    }
}

/// Ready when the running attempt has had its time. The timer is made when an attempt first waits, and set anew when a
/// wait of the attempt is over (`goes_on`), or when it fires too early.
fn poll_cut(
    policy: &Shared,
    run: &mut Run,
    frame: &Frame,
    goes_on: bool,
    timer: &mut Option<Pin<Box<Sleep>>>,
    cx: &mut Context<'_>,
) -> Poll<Reason> {
    run.waits();
    if !run.can_be_cut(policy) {
        return Poll::Pending;
    }
    let mut look = goes_on || timer.is_none();
    loop {
        if look {
            let at = match run.cut(policy, frame, time::now()) {
                Ok(at) => at.to_instant(),
                Err(reason) => return Poll::Ready(reason),
            };
            match timer {
                Some(timer) => timer.as_mut().reset(at),
                None => *timer = Some(Box::pin(sleep_until(at))),
            }
        }
        let Some(sleep) = timer else {
            return Poll::Pending;
        };
        // Unconstrained: an attempt that uses up the task's budget at each poll is cut all the same.
        ready!(pin!(unconstrained(sleep.as_mut())).poll(cx));
        look = true;
    }
}

impl<S: Service<Req>, Req, L, C, R> fmt::Debug for RetryFuture<S, Req, L, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Calling { .. } => "calling",
            State::Sleeping | State::Hooking { .. } => "sleeping",
            State::Readying => "readying",
            State::Done => "done",
        };
        f.debug_struct("RetryFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
