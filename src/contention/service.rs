//! Contention as tower middleware: ask, call, give back.

use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;
use std::task::{Context, Poll, ready};

use tower_service::Service;

use super::acquire::Waiting;
use super::alarm::HoldAlarm;
use super::guard::Slot;
use super::handle::{ResourceLock, Shared};
use super::permits::Permits;
use super::poll_ready::InPollReady;
use super::request::{AmbientHolder, RequestHolder};
use super::wait::{Ask, Asker, Timeout, WaitLimit, refuse_at_once, take_free};
use crate::call::Holder;
use crate::call::context::Frame;
use crate::call::workflow;
use crate::error::{Answer, AsError, Contended};
use crate::util::accessors::inner_service;
use crate::util::sharded::ArcShard;

use super::future::{ContentionFuture, State};

/// A service whose calls each take a permit. Made by [`ContentionLayer`](super::ContentionLayer).
///
/// The wait for a permit is part of the response future, not of `poll_ready`: it belongs to a request, so
/// it has a holder, and its end is the answer to one request. A call that finds a free permit is made at
/// once, by the instance that is ready. A call that must wait is made by a clone, which is made ready when
/// the permit is there: while it waits, nothing of the inner service is reserved, not even the place (in a
/// `ConcurrencyLimit`, a `Buffer`) that it was readied with. That is why the inner service has to be `Clone`;
/// to call it first and wait then would let services that start their work in `call` run without a permit.
pub struct ContentionService<S, L, H = AmbientHolder, A = AsError, K = ResourceLock> {
    pub(crate) inner: S,
    pub(crate) lock: K,
    pub(crate) requests: H,
    pub(crate) answer: A,
    /// What `poll_ready` has taken, if it is to take permits.
    pub(super) in_poll_ready: Option<InPollReady>,
    pub(super) _leaf: PhantomData<fn() -> L>,
}

impl<S, L, H, A, K: Permits> ContentionService<S, L, H, A, K> {
    /// The lock.
    #[must_use]
    pub fn resource(&self) -> &K::Lock {
        self.lock.lock()
    }

    inner_service!("held to its permits");
}

impl<S: Clone, L, H: Clone, A: Clone, K: Clone> Clone for ContentionService<S, L, H, A, K> {
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

impl<S: fmt::Debug, L, H, A, K: fmt::Debug> fmt::Debug for ContentionService<S, L, H, A, K> {
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
            priority: self.requests.priority(&request),
            limit: WaitLimit {
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
        // wait for without end: it goes, and the place is free while the call waits.
        self.inner = self.inner.clone();
        let state = State::Waiting {
            wait: Box::pin(Waiting::new(lock, ask)),
            next: Some((self.inner.clone(), request)),
        };
        self.future(state, Frame::default())
    }
}
