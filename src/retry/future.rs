//! A call and what follows it: ask, wait, make ready, call again.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project::pin_project;
use tokio::time::{Sleep, sleep_until};
use tower_service::Service;

use super::handle::{Hook, Shared};
use super::prepare::{CopyByClone, CopyRequest, RequestConfig};
use super::run::{Again, Copy, Ending, Last, Run, Step};
use crate::call::context::{Frame, Reason, Wait, drop_because};
use crate::call::deadline::{self};
use crate::call::outcome::{Classify, ErrorsAreFailures};
use crate::error::{Error, IntoError};
use crate::util::kit::Spare;
use crate::util::sharded::ArcShard;
use crate::util::time;

/// The response of a service whose calls are retried. Dropping it drops the attempt that is running, or
/// ends the wait.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct RetryFuture<S: Service<Req>, Req, L, C = ErrorsAreFailures, R = CopyByClone> {
    #[pin]
    pub(super) state: State<S::Future>,
    /// Where the running attempt is.
    pub(super) frame: Frame,
    /// The backoff, and the readiness of the service below, as the calls around know them.
    pub(super) wait: Wait,
    /// The end of a wait, or of an attempt that may take only so long.
    pub(super) timer: Option<Pin<Box<Sleep>>>,
    pub(super) spare: Spare<S, Shared>,
    /// The request of the next attempt, while there may be one.
    pub(super) request: Option<Req>,
    pub(super) run: Run,
    /// The last failure of the service itself, for a call that ends with a refusal.
    pub(super) last: Last<L>,
    pub(super) classify: C,
    pub(super) requests: R,
    pub(super) _leaf: PhantomData<fn() -> L>,
}

#[pin_project(project = StateProj)]
pub(super) enum State<F> {
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
        if !this.run.can_be_cut()
            && let StateProj::Calling { call } = state.as_mut().project()
        {
            let Poll::Ready(result) = call.poll(cx) else {
                this.run.waits();
                return Poll::Pending;
            };
            let result = result.map_err(IntoError::into_error);
            let ending = this.run.judge(this.spare.rules(), &result, this.classify);
            if this.run.is_plain(this.spare.rules(), &ending) {
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
                        match ready!(self.as_mut().poll_backoff(cx)) {
                            Some(step) => step,
                            None => continue,
                        }
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
        let policy = this.spare.rules();
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
        let policy = this.spare.rules();
        if let Poll::Ready(result) = polled {
            let result = result.map_err(IntoError::into_error);
            let ending = this.run.judge(policy, &result, this.classify);
            return Poll::Ready(Ok((result, ending)));
        }
        let goes_on = waited && !this.frame.is_waiting();
        let reason = ready!(poll_cut(this.run, this.frame, goes_on, this.timer, cx));
        drop_because(reason, || this.state.set(State::Sleeping));
        let copy = copy_of(this.requests, this.request);
        Poll::Ready(Err(this.run.timed_out(policy, true, this.last, copy)))
    }

    /// The wait before an attempt, and the hook behind it; a step, if the hook used up the time.
    fn poll_backoff(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Step<S::Response, L>>> {
        let mut this = self.project();
        if let StateProj::Hooking { hook } = this.state.as_mut().project() {
            let wait = this.wait;
            if wait
                .poll(cx.waker(), || hook.as_mut().poll(cx))
                .is_pending()
            {
                let nowhere = Frame::default();
                ready!(poll_cut(this.run, &nowhere, false, this.timer, cx));
                wait.end();
                let copy = copy_of(this.requests, this.request);
                let policy = this.spare.rules();
                let step = this.run.timed_out(policy, false, this.last, copy);
                return Poll::Ready(Some(step));
            }
            *this.timer = None;
        } else {
            if let Some(sleep) = this.timer {
                let wait = this.wait;
                ready!(wait.poll(cx.waker(), || sleep.as_mut().poll(cx)));
            }
            *this.timer = None;
            let policy = this.spare.rules();
            this.run.begin_attempt();
            if let Some(before) = &policy.before_retry {
                let hook = before(this.run.attempt());
                this.state.set(State::Hooking { hook });
                return Poll::Ready(None);
            }
        }
        this.state.set(State::Readying);
        Poll::Ready(None)
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
            Poll::Ready(Err(error)) => {
                let error = error.into_error();
                this.run.never_ready(this.spare.rules(), &error);
                Poll::Ready(Some(Step::Done(Err(error))))
            }
            Poll::Pending => {
                // It is nowhere yet: what bounds it is the time of an attempt, or the end of all.
                let nowhere = Frame::default();
                ready!(poll_cut(this.run, &nowhere, false, this.timer, cx));
                this.spare.forget_unready();
                let copy = copy_of(this.requests, this.request);
                let policy = this.spare.rules();
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
    run: &mut Run,
    frame: &Frame,
    goes_on: bool,
    timer: &mut Option<Pin<Box<Sleep>>>,
    cx: &mut Context<'_>,
) -> Poll<Reason> {
    run.waits();
    if !run.can_be_cut() {
        return Poll::Pending;
    }
    let mut look = goes_on || timer.is_none();
    loop {
        if look {
            let at = match run.cut(frame, time::now()) {
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
        ready!(time::poll_timer(sleep.as_mut(), cx));
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
