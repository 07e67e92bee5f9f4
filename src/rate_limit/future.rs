use std::cell::RefCell;
use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tower_service::Service;

use super::acquire::Acquire;
use super::request::{Learn, LearnNothing, MadeCall};
use super::reservation::Reservation;
use crate::call::outcome::{Classify, Outcome, Verdict};
use crate::error::{Answer, AsError};

/// The response of a service whose calls wait for their turn. Dropping it leaves the queue; a call that was made stays
/// counted.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct RateLimitFuture<S: Service<Req>, Req, L, T = LearnNothing, A = AsError> {
    #[pin]
    pub(super) state: State<S, Req, S::Future>,
    pub(super) learn: T,
    pub(super) answer: A,
    pub(super) _leaf: PhantomData<fn() -> L>,
}

#[pin_project(project = StateProj)]
pub(super) enum State<S, Req, F> {
    Waiting {
        /// In a box of its own: a call whose turn it is is not to carry the room for a wait.
        wait: Pin<Box<Acquire>>,
        next: Option<(S, Req)>,
    },
    /// The clone is made ready for the call that follows.
    Readying {
        next: Option<(S, Req)>,
        reserved: Option<Taken>,
    },
    Calling {
        #[pin]
        call: F,
        taken: Taken,
    },
}

/// What a call has taken.
pub(super) type Taken = Reservation;

impl<S, Req, F> State<S, Req, F> {
    #[inline]
    pub(super) fn calling(taken: Taken, call: impl FnOnce() -> F) -> Self {
        Self::Calling {
            call: call(),
            taken,
        }
    }
}

/// Tells a refusal of a layer below from all results of the service.
struct IsRefusal;

impl<Res, L> Classify<Res, L> for IsRefusal {
    fn classify(&self, _: Result<&Res, &L>) -> Verdict {
        Verdict::success()
    }
}

/// Learns from what the answer of the layer, which knows the type of its own errors, makes of a result.
struct Learning<'a, T> {
    learn: &'a T,
    call: RefCell<MadeCall<'a>>,
}

impl<Res, L, T: Learn<Res, L>> Classify<Res, L> for Learning<'_, T> {
    fn classify(&self, result: Result<&Res, &L>) -> Verdict {
        self.learn.learn(&mut self.call.borrow_mut(), result);
        Verdict::success()
    }
}

impl<S, Req, L, T, A> Future for RateLimitFuture<S, Req, L, T, A>
where
    S: Service<Req>,
    L: StdError + 'static,
    T: Learn<S::Response, L>,
    A: Answer<S::Response, S::Error, L>,
{
    type Output = Result<S::Response, A::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Waiting { wait, next } => match ready!(wait.as_mut().poll(cx)) {
                    Ok(reserved) => {
                        let (next, reserved) = (next.take(), Some(reserved));
                        this.state.set(State::Readying { next, reserved });
                    }
                    Err(limited) => {
                        *next = None;
                        return Poll::Ready(this.answer.refuse(limited.into()));
                    }
                },
                StateProj::Readying { next, reserved } => {
                    let Some((service, _)) = next else {
                        polled_too_often()
                    };
                    if let Err(error) = ready!(service.poll_ready(cx)) {
                        *next = None;
                        // It was not called.
                        reserved.take().into_iter().for_each(Reservation::cancel);
                        return Poll::Ready(Err(this.answer.error(error)));
                    }
                    if let (Some((mut service, request)), Some(reserved)) =
                        (next.take(), reserved.take())
                    {
                        let state = State::calling(reserved, || service.call(request));
                        this.state.set(state);
                    }
                }
                StateProj::Calling { call, taken } => {
                    let result = ready!(call.poll(cx));
                    let mut result = result.map_err(|error| this.answer.error(error));
                    let mut call = MadeCall {
                        shared: &taken.shared,
                        cost: taken.cost,
                        version: taken.version,
                        is_settled: false,
                    };
                    if this.answer.judge(&result, &IsRefusal).outcome == Outcome::Ignored {
                        call.settle(0);
                        return Poll::Ready(result);
                    }
                    let learning = Learning {
                        learn: this.learn,
                        call: RefCell::new(call),
                    };
                    let _ = this.answer.judge(&result, &learning);
                    if let Ok(response) = &mut result {
                        this.learn.mark(&learning.call.into_inner(), response);
                    }
                    return Poll::Ready(result);
                }
            }
        }
    }
}

#[cold]
fn polled_too_often() -> ! {
    panic!("`RateLimitFuture` polled after completion")
}

impl<S: Service<Req>, Req, L, T, A> fmt::Debug for RateLimitFuture<S, Req, L, T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Waiting { .. } => "waiting",
            State::Readying { .. } => "readying",
            State::Calling { .. } => "calling",
        };
        f.debug_struct("RateLimitFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
