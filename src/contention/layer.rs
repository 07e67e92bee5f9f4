//! The layer whose services take permits.

use std::fmt;
use std::marker::PhantomData;

use tower_layer::Layer;

use super::handle::ResourceLock;
use super::permits::Permits;
use super::poll_ready::InPollReady;
use super::request::{AmbientHolder, HolderWith, RankedBy, WaitsUntil, WeighedBy};
use super::rules::Priority;
use crate::call::Holder;
use crate::call::deadline::Deadline;
use crate::error::{AsError, RejectWith, Rejection};

use super::service::ContentionService;

/// Makes every call of a service take a permit of a lock: of a [`ResourceLock`], or of one that a fleet shares (`K`).
///
/// `L` is the service's own error, and inferred.
pub struct ContentionLayer<L, H = AmbientHolder, A = AsError, K = ResourceLock> {
    lock: K,
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

impl<L, K: Permits> ContentionLayer<L, AmbientHolder, AsError, K> {
    /// A layer of `lock`.
    #[must_use]
    pub fn new(lock: K) -> Self {
        Self {
            lock,
            requests: AmbientHolder,
            answer: AsError,
            in_poll_ready: false,
            _leaf: PhantomData,
        }
    }
}

impl<L, H, A, K: Permits> ContentionLayer<L, H, A, K> {
    /// The lock.
    #[must_use]
    pub fn resource(&self) -> &K::Lock {
        self.lock.lock()
    }

    /// The same, of another kind of lock.
    #[cfg(feature = "redis")]
    pub(crate) fn map_lock<T>(self, map: impl FnOnce(K) -> T) -> ContentionLayer<L, H, A, T> {
        ContentionLayer {
            lock: map(self.lock),
            requests: self.requests,
            answer: self.answer,
            in_poll_ready: self.in_poll_ready,
            _leaf: PhantomData,
        }
    }

    /// Takes the holder from the request: a workflow id, a tenant, a header. Many requests may have the same
    /// one.
    #[must_use]
    pub fn holder<Req, T: Into<Holder>, F: Fn(&Req) -> T>(
        self,
        holder: F,
    ) -> ContentionLayer<L, HolderWith<F, H>, A, K> {
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
    ) -> ContentionLayer<L, WaitsUntil<F, H>, A, K> {
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

    /// Answers a call that got no permit with a response instead of an error: the error type of the service
    /// stays what it is, so an axum router needs no `HandleErrorLayer`.
    #[must_use]
    pub fn reject_with<Res, F: Fn(Rejection) -> Res>(
        self,
        respond: F,
    ) -> ContentionLayer<L, H, RejectWith<F>, K> {
        ContentionLayer {
            lock: self.lock,
            requests: self.requests,
            answer: RejectWith(respond),
            in_poll_ready: self.in_poll_ready,
            _leaf: PhantomData,
        }
    }
}

impl<L, H, A> ContentionLayer<L, H, A> {
    /// Takes from the request how many permits its call needs: a heavy query takes four connections' worth. At least one is
    /// taken. A call that needs more than the lock has is refused at once with
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

    /// Takes from the request how important its call is: the most important are served first, and a full queue refuses the
    /// least important. Where a permit is free it makes no difference.
    #[must_use]
    pub fn priority<Req, F: Fn(&Req) -> Priority>(
        self,
        priority: F,
    ) -> ContentionLayer<L, RankedBy<F, H>, A> {
        ContentionLayer {
            lock: self.lock,
            requests: RankedBy {
                priority,
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
    /// The request is not known yet, so the holder is the [workflow](crate::workflow) of the task or nobody in particular, the weight is 1,
    /// and a deadline of the request does not count. A wait that ends without a permit makes the service ready, and the
    /// call is refused. A service that is ready and not called keeps its permit until it is called or dropped; its clones
    /// start without one.
    #[must_use]
    pub fn permit_in_poll_ready(mut self) -> Self {
        self.in_poll_ready = true;
        self
    }
}

impl<L, H: Clone, A: Clone, K: Clone> Clone for ContentionLayer<L, H, A, K> {
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

impl<L, H, A, K: fmt::Debug> fmt::Debug for ContentionLayer<L, H, A, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContentionLayer")
            .field("lock", &self.lock)
            .finish_non_exhaustive()
    }
}

impl<S, L, H: Clone, A: Clone, K: Clone> Layer<S> for ContentionLayer<L, H, A, K> {
    type Service = ContentionService<S, L, H, A, K>;

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
