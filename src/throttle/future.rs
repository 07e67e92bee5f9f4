use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;

use super::permit::ThrottlePermit;
use crate::call::outcome::{Classify, ErrorsAreFailures};
use crate::error::{Answer, AsError, Throttled};

/// The response of a throttled service. Dropping it drops the call.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ThrottleFuture<F, L, C = ErrorsAreFailures, A = AsError> {
    #[pin]
    state: State<F, C>,
    answer: A,
    _leaf: PhantomData<fn() -> L>,
}

#[pin_project(project = StateProj)]
enum State<F, C> {
    Calling {
        #[pin]
        call: F,
        permit: ThrottlePermit,
        classify: C,
    },
    Refused(Option<Throttled>),
}

impl<F, L, C, A> ThrottleFuture<F, L, C, A> {
    #[inline]
    pub(super) fn admitted(call: F, permit: ThrottlePermit, classify: C, answer: A) -> Self {
        Self {
            state: State::Calling {
                call,
                permit,
                classify,
            },
            answer,
            _leaf: PhantomData,
        }
    }

    pub(super) fn refused(throttled: Throttled, answer: A) -> Self {
        Self {
            state: State::Refused(Some(throttled)),
            answer,
            _leaf: PhantomData,
        }
    }
}

impl<F, Res, E, L, C, A> Future for ThrottleFuture<F, L, C, A>
where
    F: Future<Output = Result<Res, E>>,
    L: StdError + 'static,
    C: Classify<Res, L>,
    A: Answer<Res, E, L>,
{
    type Output = Result<Res, A::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.state.project() {
            StateProj::Calling {
                call,
                permit,
                classify,
            } => {
                if permit.is_settled() {
                    panic!("`ThrottleFuture` polled after completion");
                }
                let result = ready!(permit.poll(|| call.poll(cx)));
                let result = result.map_err(|error| this.answer.error(error));
                let judged = permit.running(|| this.answer.judge(&result, classify));
                permit.settle_in_place(judged.outcome);
                Poll::Ready(result)
            }
            StateProj::Refused(throttled) => match throttled.take() {
                Some(throttled) => Poll::Ready(this.answer.refuse(throttled.into())),
                None => panic!("`ThrottleFuture` polled after completion"),
            },
        }
    }
}

impl<F, L, C, A> fmt::Debug for ThrottleFuture<F, L, C, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Calling { .. } => "calling",
            State::Refused(_) => "refused",
        };
        f.debug_struct("ThrottleFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
