//! Contention as tower middleware: ask, call, give back.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::acquire::Waiting;
use super::alarm::HoldAlarm;
use super::guard::Slot;
use super::handle::{ResourceLock, Shared};
use super::poll_ready::InPollReady;
use super::request::{AmbientHolder, HolderWith, RequestHolder, WaitsUntil, WeighedBy};
use super::wait::{Ask, Asker, Patience, Timeout, refuse_at_once, take_free};
use crate::call::Holder;
use crate::call::context::Frame;
use crate::call::deadline::Deadline;
use crate::call::workflow;
use crate::error::{Answer, AsError, Contended, RejectWith, Rejection};
use crate::util::accessors::inner_service;
use crate::util::sharded::ArcShard;

/// Makes every call of a service take a permit of a [`ResourceLock`].
///
/// `L` is the service's own error, and inferred.
pub struct ContentionLayer<L, H = AmbientHolder, A = AsError> {
    lock: ResourceLock,
    requests: H,
    answer: A,
    in_poll_ready: bool,
    _leaf: PhantomData<fn() -> L>,
}

impl ResourceLock {
    /// A layer whose calls each take a permit. `L` is the service's own error, and inferred.
    #[must_use]
    pub fn layer<L>(&self) -> ContentionLayer<L> {
        ContentionLayer::new(self.clone())
    }
}

impl<L> ContentionLayer<L> {
    /// A layer of `lock`.
    #[must_use]
    pub fn new(lock: ResourceLock) -> Self {
        Self {
            lock,
            requests: AmbientHolder,
            answer: AsError,
            in_poll_ready: false,
            _leaf: PhantomData,
        }
    }
}

impl<L, H, A> ContentionLayer<L, H, A> {
    /// The lock.
    #[must_use]
    pub fn resource(&self) -> &ResourceLock {
        &self.lock
    }

    /// Takes the holder from the request: a workflow id, a tenant, a header. Many requests may have the same
    /// one.
    #[must_use]
    pub fn holder<Req, T: Into<Holder>, F: Fn(&Req) -> T>(
        self,
        holder: F,
    ) -> ContentionLayer<L, HolderWith<F, H>, A> {
        ContentionLayer {
            lock: self.lock,
            requests: HolderWith {
                holder,
                rest: self.requests,
            },
            answer: self.answer,
            in_poll_ready: self.in_poll_ready,
            _leaf: PhantomData,
        }
    }

    /// Takes the deadline of the wait from the request, where the ambient one does not reach.
    #[must_use]
    pub fn deadline_from<Req, F: Fn(&Req) -> Option<Deadline>>(
        self,
        deadline: F,
    ) -> ContentionLayer<L, WaitsUntil<F, H>, A> {
        ContentionLayer {
            lock: self.lock,
            requests: WaitsUntil {
                deadline,
                rest: self.requests,
            },
            answer: self.answer,
            in_poll_ready: self.in_poll_ready,
            _leaf: PhantomData,
        }
    }

    /// Takes from the request how many permits its call needs: a heavy query takes four connections' worth. 0 is taken for
    /// 1. A call that needs more than the lock has is refused at once with
    /// [`ContendedReason::ExceedsCapacity`](crate::ContendedReason::ExceedsCapacity). One that waits for many is not
    /// overtaken by those that come later and need few.
    #[must_use]
    pub fn weight<Req, F: Fn(&Req) -> usize>(
        self,
        weight: F,
    ) -> ContentionLayer<L, WeighedBy<F, H>, A> {
        ContentionLayer {
            lock: self.lock,
            requests: WeighedBy {
                weight,
                rest: self.requests,
            },
            answer: self.answer,
            in_poll_ready: self.in_poll_ready,
            _leaf: PhantomData,
        }
    }

    /// Takes the permit in `poll_ready`, which is pending until there is one: back-pressure for what asks whether a
    /// service is ready, as `Buffer`, `call_all` and `load_shed` do.
    ///
    /// The request is not known yet, so the holder is the [workflow] of the task or nobody in particular, the weight is 1,
    /// and a deadline of the request does not count. A wait that ends without a permit makes the service ready, and the
    /// call is refused. A service that is ready and not called keeps its permit until it is called or dropped; its clones
    /// start without one.
    #[must_use]
    pub fn permit_in_poll_ready(mut self) -> Self {
        self.in_poll_ready = true;
        self
    }

    /// Answers a call that got no permit with a response instead of an error: the error type of the service
    /// stays what it is, so an axum router needs no `HandleErrorLayer`.
    #[must_use]
    pub fn reject_with<Res, F: Fn(Rejection) -> Res>(
        self,
        respond: F,
    ) -> ContentionLayer<L, H, RejectWith<F>> {
        ContentionLayer {
            lock: self.lock,
            requests: self.requests,
            answer: RejectWith(respond),
            in_poll_ready: self.in_poll_ready,
            _leaf: PhantomData,
        }
    }
}

impl<L, H: Clone, A: Clone> Clone for ContentionLayer<L, H, A> {
    fn clone(&self) -> Self {
        Self {
            lock: self.lock.clone(),
            requests: self.requests.clone(),
            answer: self.answer.clone(),
            in_poll_ready: self.in_poll_ready,
            _leaf: PhantomData,
        }
    }
}

impl<L, H, A> fmt::Debug for ContentionLayer<L, H, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContentionLayer")
            .field("lock", &self.lock)
            .finish_non_exhaustive()
    }
}

impl<S, L, H: Clone, A: Clone> Layer<S> for ContentionLayer<L, H, A> {
    type Service = ContentionService<S, L, H, A>;

    fn layer(&self, inner: S) -> Self::Service {
        ContentionService {
            inner,
            lock: self.lock.clone(),
            requests: self.requests.clone(),
            answer: self.answer.clone(),
            in_poll_ready: self.in_poll_ready.then(InPollReady::default),
            _leaf: PhantomData,
        }
    }
}

/// A service whose calls each take a permit. Made by [`ContentionLayer`].
///
/// The wait for a permit is part of the response future, not of `poll_ready`: it belongs to a request, so
/// it has a holder, and its end is the answer to one request. A call that finds a free permit is made at
/// once, by the instance that is ready. A call that must wait is made by a clone, which is made ready when
/// the permit is there: while it waits, nothing of the inner service is reserved, not even the place (in a
/// `ConcurrencyLimit`, a `Buffer`) that it was readied with. That is why the inner service has to be `Clone`;
/// to call it first and wait then would let services that start their work in `call` run without a permit.
pub struct ContentionService<S, L, H = AmbientHolder, A = AsError> {
    inner: S,
    lock: ResourceLock,
    requests: H,
    answer: A,
    /// What `poll_ready` has taken, if it is to take permits.
    in_poll_ready: Option<InPollReady>,
    _leaf: PhantomData<fn() -> L>,
}

impl<S, L, H, A> ContentionService<S, L, H, A> {
    /// The lock.
    #[must_use]
    pub fn resource(&self) -> &ResourceLock {
        &self.lock
    }

    inner_service!("held to its permits");
}

impl<S: Clone, L, H: Clone, A: Clone> Clone for ContentionService<S, L, H, A> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            lock: self.lock.clone(),
            requests: self.requests.clone(),
            answer: self.answer.clone(),
            // It starts without a permit.
            in_poll_ready: self.in_poll_ready.as_ref().map(|_| InPollReady::default()),
            _leaf: PhantomData,
        }
    }
}

impl<S: fmt::Debug, L, H, A> fmt::Debug for ContentionService<S, L, H, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContentionService")
            .field("inner", &self.inner)
            .field("lock", &self.lock)
            .finish_non_exhaustive()
    }
}

impl<S, L, H, A, Req> Service<Req> for ContentionService<S, L, H, A>
where
    S: Service<Req> + Clone,
    L: StdError + 'static,
    H: RequestHolder<Req>,
    A: Answer<S::Response, S::Error, L> + Clone,
{
    type Response = S::Response;
    type Error = A::Error;
    type Future = ContentionFuture<S, Req, L, A>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if let Some(permit) = &mut self.in_poll_ready {
            ready!(permit.poll(&self.lock, cx));
        }
        let ready = ready!(self.inner.poll_ready(cx));
        if let (Some(permit), Err(_)) = (&mut self.in_poll_ready, &ready) {
            permit.forget();
        }
        Poll::Ready(ready.map_err(|error| self.answer.error(error)))
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        if let Some(permit) = &mut self.in_poll_ready {
            return match permit.take(&self.lock) {
                Ok(slot) => self.call_with(slot, request),
                Err(contended) => self.refused(contended),
            };
        }
        let weight = self.requests.weight(&request);
        // Before there is a permit: what takes it from the request is somebody else's code, and may panic.
        let holder = self
            .requests
            .holder(&request)
            .or_else(workflow::current)
            .unwrap_or_else(Holder::anonymous);
        match take_free(&self.lock.shared, holder, weight) {
            Ok(permit) => {
                let slot = Slot::new(self.lock.shared.mine(), permit);
                self.call_with(slot, request)
            }
            Err(holder) => self.queue(holder, weight, request),
        }
    }
}

impl<S, L, H, A: Clone> ContentionService<S, L, H, A> {
    #[inline(always)]
    fn future<Req>(
        &self,
        state: State<S, Req, S::Future>,
        frame: Frame,
    ) -> ContentionFuture<S, Req, L, A>
    where
        S: Service<Req>,
    {
        ContentionFuture {
            state,
            frame,
            alarm: HoldAlarm::default(),
            answer: self.answer.clone(),
            _leaf: PhantomData,
        }
    }

    #[inline(always)]
    fn call_with<Req>(
        &mut self,
        slot: Slot<ArcShard<Shared>>,
        request: Req,
    ) -> ContentionFuture<S, Req, L, A>
    where
        S: Service<Req>,
    {
        let mut frame = Frame::default();
        let state = State::call(slot, &mut frame, || self.inner.call(request));
        self.future(state, frame)
    }

    #[inline(never)]
    fn refused<Req>(&self, contended: Contended) -> ContentionFuture<S, Req, L, A>
    where
        S: Service<Req>,
    {
        let state = State::Refused(Some(contended));
        self.future(state, Frame::default())
    }

    /// Apart from the way of a call that finds a free permit, so that that one is short.
    #[inline(never)]
    fn queue<Req>(
        &mut self,
        holder: Holder,
        weight: usize,
        request: Req,
    ) -> ContentionFuture<S, Req, L, A>
    where
        S: Service<Req> + Clone,
        H: RequestHolder<Req>,
    {
        let ask = Ask {
            holder,
            asker: Asker::Call,
            permits: weight,
            patience: Patience {
                timeout: Timeout::OfTheLock,
                deadline: self.requests.deadline(&request),
            },
        };
        let lock = self.lock.shared.mine();
        let ask = match refuse_at_once(&lock, ask) {
            Ok(ask) => ask,
            Err(contended) => return self.refused(contended),
        };
        // The readied instance may keep a place (of a `ConcurrencyLimit`, a `Buffer`) that the clone below would
        // wait for in vain: it goes, and the place is free while the call waits.
        self.inner = self.inner.clone();
        let state = State::Waiting {
            wait: Box::pin(Waiting::new(lock, ask)),
            next: Some((self.inner.clone(), request)),
        };
        self.future(state, Frame::default())
    }
}

/// The response of a service whose calls each take a permit. The permit is given back before the response
/// is handed out. Dropping the future leaves the queue, or drops the call and gives the permit back.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ContentionFuture<S: Service<Req>, Req, L, A = AsError> {
    #[pin]
    state: State<S, Req, S::Future>,
    /// Where the call is that holds the permit.
    frame: Frame,
    alarm: HoldAlarm,
    answer: A,
    _leaf: PhantomData<fn() -> L>,
}

#[pin_project(project = StateProj)]
enum State<S, Req, F> {
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
    fn call(slot: Slot<ArcShard<Shared>>, frame: &mut Frame, call: impl FnOnce() -> F) -> Self {
        Self::Calling {
            call: frame.enter(slot.number(), call),
            slot: Some(slot),
        }
    }
}

/// A permit whose call has ended, and who is told if it is held for too long.
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
                    let Some(contended) = contended.take() else {
                        panic!("`ContentionFuture` polled after completion");
                    };
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
                        panic!("`ContentionFuture` polled after completion");
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
                    let Some(held) = slot.as_ref() else {
                        panic!("`ContentionFuture` polled after completion");
                    };
                    let polled = this.frame.poll(held.number(), || call.poll(cx));
                    let Poll::Ready(result) = polled else {
                        held.refuse_reentry(this.frame);
                        this.alarm.watch(held, cx);
                        return Poll::Pending;
                    };
                    return Poll::Ready(result.map_err(|error| this.answer.error(error)));
                }
            }
        }
    }
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
