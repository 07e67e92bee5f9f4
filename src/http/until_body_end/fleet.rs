//! The same for a lock that a fleet shares.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::HeaderMap;
use pin_project::pin_project;
use tower_service::Service;

use super::super::guarded_body::{BodyGuard, GuardResponse};
use super::boilerplate::debug_as_name;
use super::contention::ContentionBodyService;
use crate::contention::RequestHolder;
use crate::error::{Answer, AsError};
use crate::fleet::lock::{FleetGuard, FleetLock, FleetLockFuture, FleetPermits, PutFence};

impl<S, L, H, A, K, Req> Service<Req> for ContentionBodyService<S, L, H, A, K>
where
    S: Service<Req> + Clone,
    L: StdError + 'static,
    H: RequestHolder<Req>,
    A: Answer<S::Response, S::Error, L> + Clone,
    K: FleetPermits + PutFence<Req>,
    S::Response: GuardResponse<FleetGuard>,
{
    type Response = <S::Response as GuardResponse<FleetGuard>>::Guarded;
    type Error = A::Error;
    type Future = FleetLockBodyFuture<S, Req, L, A, K>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        FleetLockBodyFuture {
            call: self.service.call(request),
        }
    }
}

/// The response of a service whose calls hold permits of the fleet until its body has ended. Dropping it leaves the queue, or
/// drops the call and gives the permit back.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct FleetLockBodyFuture<S: Service<Req>, Req, L, A = AsError, K = FleetLock> {
    #[pin]
    call: FleetLockFuture<S, Req, L, A, K>,
}

impl<S, Req, L, A, K> Future for FleetLockBodyFuture<S, Req, L, A, K>
where
    S: Service<Req>,
    L: StdError + 'static,
    A: Answer<S::Response, S::Error, L>,
    K: PutFence<Req>,
    S::Response: GuardResponse<FleetGuard>,
{
    type Output = Result<<S::Response as GuardResponse<FleetGuard>>::Guarded, A::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (result, permit) = ready!(self.project().call.poll_held(cx));
        // With an error the permit goes before the error is handed out, as it does without a body.
        Poll::Ready(result.map(|response| response.guard_body(permit)))
    }
}

impl BodyGuard for FleetGuard {
    fn ended(self, _: Option<&HeaderMap>) {}

    fn failed(self, _: &(dyn StdError + 'static)) {}
}

debug_as_name!(FleetLockBodyFuture<S, Req, L, A, K> where S: Service<Req>);
