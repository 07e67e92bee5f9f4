//! The shared lock as tower middleware: wait, call, give back.

use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tower_service::Service;

use super::acquire::FleetAcquire;
use super::guard::FleetGuard;
use super::handle::FleetLock;
use super::lease::Fence;
use crate::call::context::Frame;
use crate::call::{Holder, workflow};
use crate::contention::{
    AmbientHolder, ContentionLayer, ContentionService, Permits, RequestHolder, sealed::Sealed,
};
use crate::error::{Answer, AsError};

/// A [`FleetLock`] whose permits put their fence into the request. Made by [`ContentionLayer::fence_into`].
#[derive(Clone)]
pub struct Fenced<F> {
    lock: FleetLock,
    put: F,
}

/// A lock of the fleet, as a [`ContentionLayer`] takes it. Sealed: a [`FleetLock`], with or without a
/// [fence](ContentionLayer::fence_into).
pub trait FleetPermits: Permits<Lock = FleetLock> {}

/// Puts the fence of a permit into the request that goes with it. Sealed; see [`ContentionLayer::fence_into`].
pub trait PutFence<Req>: Sealed {
    #[doc(hidden)]
    fn put(&self, request: &mut Req, fence: Fence);
}

impl Sealed for FleetLock {}

impl Permits for FleetLock {
    type Lock = Self;

    fn lock(&self) -> &Self {
        self
    }
}

impl FleetPermits for FleetLock {}

impl<Req> PutFence<Req> for FleetLock {
    fn put(&self, _: &mut Req, _: Fence) {}
}

impl<F> Sealed for Fenced<F> {}

impl<F: Clone> Permits for Fenced<F> {
    type Lock = FleetLock;

    fn lock(&self) -> &FleetLock {
        &self.lock
    }
}

impl<F: Clone> FleetPermits for Fenced<F> {}

impl<Req, F: Fn(&mut Req, Fence)> PutFence<Req> for Fenced<F> {
    fn put(&self, request: &mut Req, fence: Fence) {
        (self.put)(request, fence);
    }
}

impl<F> fmt::Debug for Fenced<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fenced")
            .field("lock", &self.lock)
            .finish_non_exhaustive()
    }
}

/// A [`ContentionLayer`] of a [`FleetLock`].
pub type FleetLockLayer<L, H = AmbientHolder, A = AsError> = ContentionLayer<L, H, A, FleetLock>;

impl FleetLock {
    /// A layer whose calls each hold a permit of this lock. `L` is the service's own error, and inferred.
    ///
    /// It is the layer of a [`ResourceLock`](crate::ResourceLock), and its refusals are the same:
    /// [`Contended`](crate::Contended). Each call is made by a clone of the service, which is made ready when the permit is there:
    /// while a call waits, nothing of the inner service is reserved. Weights, priorities and permits in `poll_ready` are for
    /// the locks of one process.
    ///
    /// A call whose lease is lost goes on: half of it may have been done. Where that is dangerous, send the
    /// [fence](ContentionLayer::fence_into) along, and let the resource refuse the old one.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower::{ServiceBuilder, ServiceExt, service_fn};
    /// use tower_bulwark::fleet::Fleet;
    ///
    /// let gpu = Fleet::in_process().lock("gpu").max_concurrent(2).build()?;
    /// let service = ServiceBuilder::new()
    ///     .layer(gpu.layer().holder(|job: &(u64, u64)| job.0).fence_into(|job: &mut (u64, u64), fence| job.1 = fence.token))
    ///     .service(service_fn(|job: (u64, u64)| async move { Ok::<_, std::io::Error>(job.1) }));
    ///
    /// assert!(service.oneshot((7, 0)).await? > 0);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn layer<L>(&self) -> FleetLockLayer<L> {
        ContentionLayer::new(self.clone())
    }
}

impl<L, H, A> ContentionLayer<L, H, A, FleetLock> {
    /// Puts the fence of the permit into the request: a header, a field, an extension. A permit of this process alone
    /// ([`local`](super::FleetLockBuilder::local)) has none.
    #[must_use]
    pub fn fence_into<Req, F: Fn(&mut Req, Fence)>(
        self,
        put: F,
    ) -> ContentionLayer<L, H, A, Fenced<F>> {
        self.map_lock(|lock| Fenced { lock, put })
    }
}

impl<S, L, H, A, K, Req> Service<Req> for ContentionService<S, L, H, A, K>
where
    S: Service<Req> + Clone,
    L: StdError + 'static,
    H: RequestHolder<Req>,
    A: Answer<S::Response, S::Error, L> + Clone,
    K: FleetPermits + PutFence<Req>,
{
    type Response = S::Response;
    type Error = A::Error;
    type Future = FleetLockFuture<S, Req, L, A, K>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let ready = ready!(self.inner.poll_ready(cx));
        Poll::Ready(ready.map_err(|error| self.answer.error(error)))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let holder = self
            .requests
            .holder(&request)
            .or_else(workflow::current)
            .unwrap_or_else(Holder::anonymous);
        let mut acquire = self.lock.lock().acquire(holder);
        acquire.deadline = self.requests.deadline(&request);
        // The readied instance may keep a place that the clone would wait for without end.
        self.inner = self.inner.clone();
        FleetLockFuture {
            state: State::Waiting {
                acquire: acquire.into_future(),
                next: Some((self.inner.clone(), request)),
            },
            frame: Frame::default(),
            answer: self.answer.clone(),
            lock: self.lock.clone(),
            _leaf: PhantomData,
        }
    }
}

/// The response of a service whose calls each hold a permit of the fleet. The permit is given back before the response is handed
/// out. Dropping the future leaves the queue, or drops the call and gives the permit back.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct FleetLockFuture<S: Service<Req>, Req, L, A = AsError, K = FleetLock> {
    #[pin]
    state: State<S, Req, S::Future>,
    frame: Frame,
    answer: A,
    lock: K,
    _leaf: PhantomData<fn() -> L>,
}

#[pin_project(project = StateProj)]
enum State<S, Req, F> {
    Waiting {
        acquire: <FleetAcquire as IntoFuture>::IntoFuture,
        next: Option<(S, Req)>,
    },
    /// The permit is there; the clone is made ready.
    Readying {
        next: Option<(S, Req)>,
        guard: Option<FleetGuard>,
    },
    Calling {
        // Before the guard, so that a call that is dropped has ended when its permit is given back.
        #[pin]
        call: F,
        guard: Option<FleetGuard>,
    },
    Done,
}

impl<S, Req, L, A, K> Future for FleetLockFuture<S, Req, L, A, K>
where
    S: Service<Req>,
    L: StdError + 'static,
    A: Answer<S::Response, S::Error, L>,
    K: PutFence<Req>,
{
    type Output = Result<S::Response, A::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (result, held) = ready!(self.poll_held(cx));
        drop(held);
        Poll::Ready(result)
    }
}

impl<S, Req, L, A, K> FleetLockFuture<S, Req, L, A, K>
where
    S: Service<Req>,
    L: StdError + 'static,
    A: Answer<S::Response, S::Error, L>,
    K: PutFence<Req>,
{
    /// Like `poll`, and hands out the permit with the result: whoever asks in this way decides how long it is held.
    #[expect(clippy::type_complexity, reason = "a result, and what is held")]
    pub(crate) fn poll_held(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<(Result<S::Response, A::Error>, Option<FleetGuard>)> {
        let mut this = self.project();
        let (result, held) = loop {
            match this.state.as_mut().project() {
                StateProj::Waiting { acquire, next } => match ready!(acquire.as_mut().poll(cx)) {
                    Ok(guard) => {
                        let (next, guard) = (next.take(), Some(guard));
                        this.state.set(State::Readying { next, guard });
                    }
                    Err(contended) => break (this.answer.refuse(contended.into()), None),
                },
                StateProj::Readying { next, guard } => {
                    let Some((service, _)) = next.as_mut() else {
                        polled_too_often()
                    };
                    let polled = this.frame.poll(0, || service.poll_ready(cx));
                    if let Err(error) = ready!(polled) {
                        break (Err(this.answer.error(error)), guard.take());
                    }
                    let (Some((mut service, mut request)), guard) = (next.take(), guard.take())
                    else {
                        polled_too_often()
                    };
                    if let Some(fence) = guard.as_ref().and_then(FleetGuard::fence) {
                        this.lock.put(&mut request, fence);
                    }
                    let call = this.frame.enter(0, || service.call(request));
                    this.state.set(State::Calling { call, guard });
                }
                StateProj::Calling { call, guard } => {
                    let result = ready!(this.frame.poll(0, || call.poll(cx)));
                    break (
                        result.map_err(|error| this.answer.error(error)),
                        guard.take(),
                    );
                }
                StateProj::Done => polled_too_often(),
            }
        };
        // The call goes before the permit that it had.
        this.state.set(State::Done);
        Poll::Ready((result, held))
    }
}

#[cold]
fn polled_too_often() -> ! {
    panic!("`FleetLockFuture` polled after completion")
}

impl<S: Service<Req>, Req, L, A, K> fmt::Debug for FleetLockFuture<S, Req, L, A, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Waiting { .. } => "waiting",
            State::Readying { .. } => "readying",
            State::Calling { .. } => "calling",
            State::Done => "done",
        };
        f.debug_struct("FleetLockFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
