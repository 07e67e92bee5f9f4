//! A call that waits for its turn, is made, and is learned from: of a limit of this process, or of one that a fleet shares.

use std::cell::RefCell;
use std::error::Error as StdError;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tower_service::Service;

use super::request::{Learn, MadeCall, Taken};
use crate::call::context::Frame;
use crate::call::outcome::{Classify, Verdict};
use crate::error::{Answer, Error, IntoError, RateLimited};

/// What a call has taken that is not made yet. Dropped, all of it is given back.
pub(crate) struct NotMade<K: Taken>(Option<K>);

impl<K: Taken> Drop for NotMade<K> {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(|it| it.settle(0.into()));
    }
}

/// What a call has taken that is made. Dropped while it waits for something of this crate and has never been at the service,
/// such as in the queue of a lock below, it gives all of it back.
pub(crate) struct Made<K: Taken> {
    taken: K,
    frame: Frame,
    /// Or it has ended.
    was_at_service: bool,
}

impl<K: Taken> Made<K> {
    /// Makes the call: what has been taken is its own from here on.
    #[inline]
    fn begin<F>(taken: K, call: impl FnOnce() -> F) -> (F, Self) {
        let mut frame = Frame::default();
        let call = frame.enter(0, call);
        let made = Self {
            taken,
            frame,
            was_at_service: false,
        };
        (call, made)
    }

    #[inline]
    fn poll<T>(&mut self, poll: impl FnOnce() -> Poll<T>) -> Poll<T> {
        let polled = self.frame.poll(0, poll);
        self.was_at_service |= polled.is_ready() || !self.frame.is_waiting();
        polled
    }
}

/// Runs an operation that is no call of a service. It gives back what it has taken where a call of the layer does.
pub(crate) async fn run<T, E, L, Fut, K>(
    taken: K,
    operation: impl FnOnce() -> Fut,
) -> Result<T, Error<L>>
where
    Fut: Future<Output = Result<T, E>>,
    E: IntoError<L>,
    K: Taken,
{
    let (call, mut made) = Made::begin(taken, operation);
    // Declared last: dropped first.
    let mut call = pin!(call);
    let result = poll_fn(|cx| made.poll(|| call.as_mut().poll(cx))).await;
    let result = result.map_err(E::into_error);
    if matches!(&result, Err(error) if error.is_rejection()) {
        made.taken.settle(0.into());
    }
    result
}

impl<K: Taken> Drop for Made<K> {
    #[inline]
    fn drop(&mut self) {
        if self.frame.is_waiting() && !self.was_at_service {
            self.taken.settle(0.into());
        }
    }
}

/// `W` waits for a turn, and gives what the call has taken then: a `K`.
#[pin_project(project = StateProj)]
pub(crate) enum State<S, Req, F, W, K: Taken> {
    Waiting {
        #[pin]
        wait: W,
        next: Option<(S, Req)>,
    },
    /// The clone is made ready for the call that follows.
    Readying {
        next: Option<(S, Req)>,
        taken: NotMade<K>,
    },
    Calling {
        #[pin]
        call: F,
        made: Made<K>,
    },
}

impl<S, Req, F, W, K: Taken> State<S, Req, F, W, K> {
    #[inline]
    pub(crate) fn calling(taken: K, call: impl FnOnce() -> F) -> Self {
        let (call, made) = Made::begin(taken, call);
        Self::Calling { call, made }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Waiting { .. } => "waiting",
            Self::Readying { .. } => "readying",
            Self::Calling { .. } => "calling",
        }
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

impl<S, Req, W, K> State<S, Req, S::Future, W, K>
where
    S: Service<Req>,
    W: Future<Output = Result<K, RateLimited>>,
    K: Taken,
{
    #[inline]
    pub(crate) fn poll<L, T, A>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        learn: &T,
        answer: &A,
    ) -> Poll<Result<S::Response, A::Error>>
    where
        L: StdError + 'static,
        T: Learn<S::Response, L>,
        A: Answer<S::Response, S::Error, L>,
    {
        loop {
            match self.as_mut().project() {
                StateProj::Waiting { wait, next } => match ready!(wait.poll(cx)) {
                    Ok(taken) => {
                        let (next, taken) = (next.take(), NotMade(Some(taken)));
                        self.set(Self::Readying { next, taken });
                    }
                    Err(limited) => {
                        *next = None;
                        return Poll::Ready(answer.refuse(limited.into()));
                    }
                },
                StateProj::Readying { next, taken } => {
                    let Some((service, _)) = next else {
                        polled_too_often()
                    };
                    if let Err(error) = ready!(service.poll_ready(cx)) {
                        *next = None;
                        drop(NotMade(taken.0.take()));
                        return Poll::Ready(Err(answer.error(error)));
                    }
                    if let (Some((mut service, request)), Some(taken)) =
                        (next.take(), taken.0.take())
                    {
                        let state = Self::calling(taken, || service.call(request));
                        self.set(state);
                    }
                }
                StateProj::Calling { call, made } => {
                    let polled = made.poll(|| call.poll(cx));
                    let mut result = ready!(polled).map_err(|error| answer.error(error));
                    let mut call = MadeCall::new(&made.taken);
                    if answer.was_refused(&result) {
                        call.settle(0);
                        return Poll::Ready(result);
                    }
                    let learning = Learning {
                        learn,
                        call: RefCell::new(call),
                    };
                    let _ = answer.judge(&result, &learning);
                    if let Ok(response) = &mut result {
                        learn.mark(&learning.call.into_inner(), response);
                    }
                    return Poll::Ready(result);
                }
            }
        }
    }
}

#[cold]
fn polled_too_often() -> ! {
    panic!("the future of a rate limited call polled after completion")
}
