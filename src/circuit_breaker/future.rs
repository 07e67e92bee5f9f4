//! A call that is refused, or made and settled.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;

use super::handle::CircuitBreaker;
use super::permit::Permit;
use crate::call::outcome::{Classify, ErrorsAreFailures};
use crate::error::{Answer, AsError};
use crate::error::{CircuitOpen, Error, IntoError};

impl CircuitBreaker {
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

/// The response of a guarded service. Dropping it before it is done counts as a cancelled call.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct CircuitBreakerFuture<F, L, C = ErrorsAreFailures, A = AsError> {
    #[pin]
    pub(super) state: State<F, C, A>,
    pub(super) _leaf: PhantomData<fn() -> L>,
}

#[pin_project(project = StateProj)]
pub(super) enum State<F, C, A> {
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

    pub(super) fn refused(open: CircuitOpen, answer: A) -> Self {
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
