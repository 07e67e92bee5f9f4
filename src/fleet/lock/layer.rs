//! The shared lock as tower middleware: wait, call, give back.

use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::acquire::FleetAcquire;
use super::guard::FleetGuard;
use super::handle::FleetLock;
use super::lease::Fence;
use crate::call::context::Frame;
use crate::call::deadline::Deadline;
use crate::call::{Holder, workflow};
use crate::contention::{AmbientHolder, HolderWith, RequestHolder, WaitsUntil};
use crate::error::{Answer, AsError, RejectWith, Rejection};
use crate::util::accessors::inner_service;

/// Makes every call of a service hold a permit of a [`FleetLock`]: a [`ContentionLayer`](crate::ContentionLayer) for a whole
/// fleet. `L` is the service's own error, and inferred.
///
/// Refusals are those of a `ContentionLayer`, too: [`Contended`](crate::Contended). A call whose lease is lost goes on: half of it may have
/// been done. Where that is dangerous, send the [fence](Self::fence_into) along, and let the resource refuse the old one. The
/// search for deadlocks is a matter of one process, and does not look at shared locks.
pub struct FleetLockLayer<L, H = AmbientHolder, A = AsError, W = NoFence> {
    lock: FleetLock,
    requests: H,
    answer: A,
    fence: W,
    _leaf: PhantomData<fn() -> L>,
}

/// Puts the fence of a permit into the request that goes with it. Sealed; see [`FleetLockLayer::fence_into`].
pub trait PutFence<Req>: sealed::Sealed {
    #[doc(hidden)]
    fn put(&self, request: &mut Req, fence: Fence);
}

/// The fence goes nowhere: the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFence;

/// The fence is put into the request by a closure.
#[derive(Clone, Copy)]
pub struct FenceWith<F>(F);

mod sealed {
    #[expect(unnameable_types, reason = "that is how a trait is sealed")]
    pub trait Sealed {}
    impl Sealed for super::NoFence {}
    impl<F> Sealed for super::FenceWith<F> {}
}

impl<Req> PutFence<Req> for NoFence {
    fn put(&self, _: &mut Req, _: Fence) {}
}

impl<Req, F: Fn(&mut Req, Fence)> PutFence<Req> for FenceWith<F> {
    fn put(&self, request: &mut Req, fence: Fence) {
        (self.0)(request, fence);
    }
}

impl<F> fmt::Debug for FenceWith<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FenceWith")
    }
}

impl FleetLock {
    /// A layer whose calls each hold a permit of this lock. `L` is the service's own error, and inferred.
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
        FleetLockLayer {
            lock: self.clone(),
            requests: AmbientHolder,
            answer: AsError,
            fence: NoFence,
            _leaf: PhantomData,
        }
    }
}

impl<L, H, A, W> FleetLockLayer<L, H, A, W> {
    /// The lock.
    #[must_use]
    pub fn resource(&self) -> &FleetLock {
        &self.lock
    }

    /// Takes the holder from the request: a workflow id, a tenant. Default: the [workflow](crate::workflow) of the task.
    #[must_use]
    pub fn holder<Req, T: Into<Holder>, F: Fn(&Req) -> T>(
        self,
        holder: F,
    ) -> FleetLockLayer<L, HolderWith<F, H>, A, W> {
        FleetLockLayer {
            lock: self.lock,
            requests: HolderWith {
                holder,
                rest: self.requests,
            },
            answer: self.answer,
            fence: self.fence,
            _leaf: PhantomData,
        }
    }

    /// Takes the deadline of the wait from the request, where the ambient one does not reach.
    #[must_use]
    pub fn deadline_from<Req, F: Fn(&Req) -> Option<Deadline>>(
        self,
        deadline: F,
    ) -> FleetLockLayer<L, WaitsUntil<F, H>, A, W> {
        FleetLockLayer {
            lock: self.lock,
            requests: WaitsUntil {
                deadline,
                rest: self.requests,
            },
            answer: self.answer,
            fence: self.fence,
            _leaf: PhantomData,
        }
    }

    /// Puts the fence of the permit into the request: a header, a field, an extension. A permit of this process alone
    /// ([`local`](super::FleetLockBuilder::local)) has none.
    #[must_use]
    pub fn fence_into<Req, F: Fn(&mut Req, Fence)>(
        self,
        put: F,
    ) -> FleetLockLayer<L, H, A, FenceWith<F>> {
        FleetLockLayer {
            lock: self.lock,
            requests: self.requests,
            answer: self.answer,
            fence: FenceWith(put),
            _leaf: PhantomData,
        }
    }

    /// Answers a call that got no permit with a response instead of an error: the error type of the service stays what it
    /// is.
    #[must_use]
    pub fn reject_with<Res, F: Fn(Rejection) -> Res>(
        self,
        respond: F,
    ) -> FleetLockLayer<L, H, RejectWith<F>, W> {
        FleetLockLayer {
            lock: self.lock,
            requests: self.requests,
            answer: RejectWith(respond),
            fence: self.fence,
            _leaf: PhantomData,
        }
    }
}

impl<L, H: Clone, A: Clone, W: Clone> Clone for FleetLockLayer<L, H, A, W> {
    fn clone(&self) -> Self {
        Self {
            lock: self.lock.clone(),
            requests: self.requests.clone(),
            answer: self.answer.clone(),
            fence: self.fence.clone(),
            _leaf: PhantomData,
        }
    }
}

impl<L, H, A, W> fmt::Debug for FleetLockLayer<L, H, A, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetLockLayer")
            .field("lock", &self.lock)
            .finish_non_exhaustive()
    }
}

impl<S, L, H: Clone, A: Clone, W: Clone> Layer<S> for FleetLockLayer<L, H, A, W> {
    type Service = FleetLockService<S, L, H, A, W>;

    fn layer(&self, inner: S) -> Self::Service {
        FleetLockService {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service whose calls each hold a permit of the fleet. Made by [`FleetLockLayer`].
///
/// The wait for a permit is part of the response future. A call is made by a clone of the service, which is made ready when
/// the permit is there: while it waits, nothing of the inner service is reserved.
pub struct FleetLockService<S, L, H = AmbientHolder, A = AsError, W = NoFence> {
    inner: S,
    layer: FleetLockLayer<L, H, A, W>,
}

impl<S, L, H, A, W> FleetLockService<S, L, H, A, W> {
    /// The lock.
    #[must_use]
    pub fn resource(&self) -> &FleetLock {
        &self.layer.lock
    }

    inner_service!("held to the permits of the fleet");
}

impl<S: Clone, L, H: Clone, A: Clone, W: Clone> Clone for FleetLockService<S, L, H, A, W> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: self.layer.clone(),
        }
    }
}

impl<S: fmt::Debug, L, H, A, W> fmt::Debug for FleetLockService<S, L, H, A, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetLockService")
            .field("inner", &self.inner)
            .field("lock", &self.layer.lock)
            .finish()
    }
}

impl<S, L, H, A, W, Req> Service<Req> for FleetLockService<S, L, H, A, W>
where
    S: Service<Req> + Clone,
    L: StdError + 'static,
    H: RequestHolder<Req>,
    A: Answer<S::Response, S::Error, L> + Clone,
    W: PutFence<Req> + Clone,
{
    type Response = S::Response;
    type Error = A::Error;
    type Future = FleetLockFuture<S, Req, L, A, W>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let ready = ready!(self.inner.poll_ready(cx));
        Poll::Ready(ready.map_err(|error| self.layer.answer.error(error)))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let requests = &self.layer.requests;
        let holder = requests
            .holder(&request)
            .or_else(workflow::current)
            .unwrap_or_else(Holder::anonymous);
        let mut acquire = self.layer.lock.acquire(holder);
        acquire.deadline = requests.deadline(&request);
        // The readied instance may keep a place that the clone would wait for without end.
        self.inner = self.inner.clone();
        FleetLockFuture {
            state: State::Waiting {
                acquire: acquire.into_future(),
                next: Some((self.inner.clone(), request)),
            },
            frame: Frame::default(),
            answer: self.layer.answer.clone(),
            fence: self.layer.fence.clone(),
            _leaf: PhantomData,
        }
    }
}

/// The response of a service whose calls each hold a permit of the fleet. The permit is given back before the response is handed
/// out. Dropping the future leaves the queue, or drops the call and gives the permit back.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct FleetLockFuture<S: Service<Req>, Req, L, A = AsError, W = NoFence> {
    #[pin]
    state: State<S, Req, S::Future>,
    frame: Frame,
    answer: A,
    fence: W,
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

impl<S, Req, L, A, W> Future for FleetLockFuture<S, Req, L, A, W>
where
    S: Service<Req>,
    L: StdError + 'static,
    A: Answer<S::Response, S::Error, L>,
    W: PutFence<Req>,
{
    type Output = Result<S::Response, A::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let result = loop {
            match this.state.as_mut().project() {
                StateProj::Waiting { acquire, next } => match ready!(acquire.as_mut().poll(cx)) {
                    Ok(guard) => {
                        let (next, guard) = (next.take(), Some(guard));
                        this.state.set(State::Readying { next, guard });
                    }
                    Err(contended) => break this.answer.refuse(contended.into()),
                },
                StateProj::Readying { next, guard } => {
                    let Some((service, _)) = next.as_mut() else {
                        polled_too_often()
                    };
                    let polled = this.frame.poll(0, || service.poll_ready(cx));
                    if let Err(error) = ready!(polled) {
                        break Err(this.answer.error(error));
                    }
                    let (Some((mut service, mut request)), guard) = (next.take(), guard.take())
                    else {
                        polled_too_often()
                    };
                    if let Some(fence) = guard.as_ref().and_then(FleetGuard::fence) {
                        this.fence.put(&mut request, fence);
                    }
                    let call = this.frame.enter(0, || service.call(request));
                    this.state.set(State::Calling { call, guard });
                }
                StateProj::Calling { call, .. } => {
                    let result = ready!(this.frame.poll(0, || call.poll(cx)));
                    break result.map_err(|error| this.answer.error(error));
                }
                StateProj::Done => polled_too_often(),
            }
        };
        // What it held is given back.
        this.state.set(State::Done);
        Poll::Ready(result)
    }
}

#[cold]
fn polled_too_often() -> ! {
    panic!("`FleetLockFuture` polled after completion")
}

impl<S: Service<Req>, Req, L, A, W> fmt::Debug for FleetLockFuture<S, Req, L, A, W> {
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
