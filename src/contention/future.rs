//! A call that waits for a permit, is made, and gives it back.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tower_service::Service;

use super::acquire::Waiting;
use super::alarm::HoldAlarm;
use super::guard::Slot;
use super::handle::Shared;
use crate::call::context::Frame;
use crate::error::{Answer, AsError, Contended};
use crate::util::sharded::ArcShard;

/// The response of a service whose calls each take a permit. The permit is given back before the response
/// is handed out. Dropping the future leaves the queue, or drops the call and gives the permit back.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ContentionFuture<S: Service<Req>, Req, L, A = AsError> {
    #[pin]
    pub(super) state: State<S, Req, S::Future>,
    /// Where the call is that holds the permit.
    pub(super) frame: Frame,
    pub(super) alarm: HoldAlarm,
    pub(super) answer: A,
    pub(super) _leaf: PhantomData<fn() -> L>,
}

#[pin_project(project = StateProj)]
pub(super) enum State<S, Req, F> {
    /// Without a wait.
    Refused(Option<Contended>),
    /// For a permit.
    Waiting {
        /// In a box of its own: a call that finds a free permit is not to carry the room for a wait.
        wait: Pin<Box<Waiting<ArcShard<Shared>>>>,
        next: Option<(S, Req)>,
    },
    /// The permit is there; the clone is made ready for the call that follows.
    Readying {
        next: Option<(S, Req)>,
        slot: Option<Slot<ArcShard<Shared>>>,
    },
    Calling {
        // Before the slot, so that a call that is dropped has ended when its permit is given back.
        #[pin]
        call: F,
        slot: Option<Slot<ArcShard<Shared>>>,
    },
}

impl<S, Req, F> State<S, Req, F> {
    #[inline(always)]
    pub(super) fn call(
        slot: Slot<ArcShard<Shared>>,
        frame: &mut Frame,
        call: impl FnOnce() -> F,
    ) -> Self {
        Self::Calling {
            call: frame.enter(slot.number(), call),
            slot: Some(slot),
        }
    }
}

/// A permit whose call has ended, and a report if it is held for too long.
#[cfg(feature = "http")]
pub(crate) struct CallPermit {
    slot: Slot<ArcShard<Shared>>,
    alarm: HoldAlarm,
}

#[cfg(feature = "http")]
impl CallPermit {
    /// What the permit is held for has to wait.
    pub(crate) fn waits(&mut self, cx: &mut Context<'_>) {
        self.alarm.watch(&self.slot, cx);
    }
}

impl<S, Req, L, A> Future for ContentionFuture<S, Req, L, A>
where
    S: Service<Req>,
    L: StdError + 'static,
    A: Answer<S::Response, S::Error, L>,
{
    type Output = Result<S::Response, A::Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(self.as_mut().poll_call(cx));
        drop(self.take_slot());
        Poll::Ready(result)
    }
}

impl<S, Req, L, A> ContentionFuture<S, Req, L, A>
where
    S: Service<Req>,
    L: StdError + 'static,
    A: Answer<S::Response, S::Error, L>,
{
    /// Like `poll`, and hands out the permit with the result: whoever asks in this way decides how long it
    /// is held.
    #[cfg(feature = "http")]
    #[expect(clippy::type_complexity, reason = "a result, and what is held")]
    pub(crate) fn poll_held(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<(Result<S::Response, A::Error>, Option<CallPermit>)> {
        let result = ready!(self.as_mut().poll_call(cx));
        let slot = self.as_mut().take_slot();
        let alarm = std::mem::take(self.project().alarm);
        let permit = slot.map(|slot| CallPermit { slot, alarm });
        Poll::Ready((result, permit))
    }

    /// The permit that the call had, once it has ended.
    #[inline]
    fn take_slot(self: Pin<&mut Self>) -> Option<Slot<ArcShard<Shared>>> {
        match self.project().state.project() {
            StateProj::Calling { slot, .. } => slot.take(),
            StateProj::Refused(_) | StateProj::Waiting { .. } | StateProj::Readying { .. } => None,
        }
    }

    /// As far as the result; the permit is still held.
    #[inline]
    fn poll_call(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Response, A::Error>> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Refused(contended) => {
                    let contended = contended.take().unwrap_or_else(|| polled_too_often());
                    return Poll::Ready(this.answer.refuse(contended.into()));
                }
                StateProj::Waiting { wait, next } => match ready!(wait.as_mut().poll(cx)) {
                    Ok(slot) => {
                        let (next, slot) = (next.take(), Some(slot));
                        this.state.set(State::Readying { next, slot });
                    }
                    Err(contended) => {
                        *next = None;
                        return Poll::Ready(this.answer.refuse(contended.into()));
                    }
                },
                StateProj::Readying { next, slot } => {
                    let (Some((service, _)), Some(held)) = (next.as_mut(), slot.as_ref()) else {
                        polled_too_often()
                    };
                    let polled = this.frame.poll(held.number(), || service.poll_ready(cx));
                    match polled {
                        Poll::Pending => {
                            held.refuse_reentry(this.frame);
                            this.alarm.watch(held, cx);
                            return Poll::Pending;
                        }
                        Poll::Ready(Err(error)) => {
                            (*next, *slot) = (None, None);
                            return Poll::Ready(Err(this.answer.error(error)));
                        }
                        Poll::Ready(Ok(())) => {}
                    }
                    if let (Some((mut service, request)), Some(slot)) = (next.take(), slot.take()) {
                        let state = State::call(slot, this.frame, || service.call(request));
                        this.state.set(state);
                    }
                }
                StateProj::Calling { call, slot } => {
                    let held = slot.as_ref().unwrap_or_else(|| polled_too_often());
                    let Poll::Ready(result) = this.frame.poll(held.number(), || call.poll(cx))
                    else {
                        held.refuse_reentry(this.frame);
                        this.alarm.watch(held, cx);
                        return Poll::Pending;
                    };
                    if result.is_ok() {
                        held.succeeded(this.frame);
                    }
                    return Poll::Ready(result.map_err(|error| this.answer.error(error)));
                }
            }
        }
    }
}

#[cold]
fn polled_too_often() -> ! {
    panic!("`ContentionFuture` polled after completion")
}

impl<S: Service<Req>, Req, L, A> fmt::Debug for ContentionFuture<S, Req, L, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Refused(_) => "refused",
            State::Waiting { .. } => "waiting",
            State::Readying { .. } => "readying",
            State::Calling { .. } => "calling",
        };
        f.debug_struct("ContentionFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
