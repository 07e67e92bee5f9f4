//! A lock whose permits are held until the body of the response has ended.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::HeaderMap;
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::super::guarded_body::{BodyGuard, GuardResponse};
use super::boilerplate::{debug_as_name, service_below};
use crate::contention::{
    AmbientHolder, CallPermit, ContentionFuture, ContentionLayer, ContentionService, Permits,
    RequestHolder, ResourceLock,
};
use crate::error::{Answer, AsError};
use crate::keyed::Idle;
use crate::registry::explain::{Describe, LayerDescription};

impl<L, H, A, K> ContentionLayer<L, H, A, K> {
    /// Holds the permit until the body of the response has ended, or is dropped: for what is in use as long
    /// as the body comes, such as a connection, or a slot of a model that sends its tokens one by one.
    ///
    /// A caller that keeps responses without reading them keeps their permits, and waits for itself if it
    /// asks for more. The snapshot says who holds what, and `hold_threshold` reports long holds while a
    /// body is being waited for.
    #[must_use]
    pub fn until_body_end(self) -> ContentionBodyLayer<L, H, A, K> {
        ContentionBodyLayer { layer: self }
    }
}

/// Makes every call take a permit until the body of its response has ended. Made by
/// [`ContentionLayer::until_body_end`].
pub struct ContentionBodyLayer<L, H = AmbientHolder, A = AsError, K = ResourceLock> {
    layer: ContentionLayer<L, H, A, K>,
}

impl<L, H, A, K: Permits> ContentionBodyLayer<L, H, A, K> {
    /// The lock of which each call takes a permit.
    #[must_use]
    pub fn resource(&self) -> &K::Lock {
        self.layer.resource()
    }
}

impl<L, H, A> Idle for ContentionBodyLayer<L, H, A> {
    fn is_idle(&self) -> bool {
        self.layer.is_idle()
    }
}

impl<L, H, A, K: Permits<Lock: Describe>> Describe for ContentionBodyLayer<L, H, A, K> {
    fn describe(&self) -> LayerDescription {
        self.layer.describe()
    }
}

impl<L, H: Clone, A: Clone, K: Clone> Clone for ContentionBodyLayer<L, H, A, K> {
    fn clone(&self) -> Self {
        Self {
            layer: self.layer.clone(),
        }
    }
}

impl<S, L, H: Clone, A: Clone, K: Clone> Layer<S> for ContentionBodyLayer<L, H, A, K> {
    type Service = ContentionBodyService<S, L, H, A, K>;

    fn layer(&self, inner: S) -> Self::Service {
        ContentionBodyService {
            service: self.layer.layer(inner),
        }
    }
}

/// A service whose calls take permits until the bodies of their responses have ended. Made by
/// [`ContentionBodyLayer`].
pub struct ContentionBodyService<S, L, H = AmbientHolder, A = AsError, K = ResourceLock> {
    pub(super) service: ContentionService<S, L, H, A, K>,
}

impl<S, L, H, A, K: Permits> ContentionBodyService<S, L, H, A, K> {
    service_below!("held to its permits");

    /// The lock of which each call takes a permit.
    #[must_use]
    pub fn resource(&self) -> &K::Lock {
        self.service.resource()
    }
}

impl<S: Clone, L, H: Clone, A: Clone, K: Clone> Clone for ContentionBodyService<S, L, H, A, K> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
        }
    }
}

impl<S, L, H, A, Req> Service<Req> for ContentionBodyService<S, L, H, A>
where
    S: Service<Req> + Clone,
    L: StdError + 'static,
    H: RequestHolder<Req>,
    A: Answer<S::Response, S::Error, L> + Clone,
    S::Response: GuardResponse<PermitGuard>,
{
    type Response = <S::Response as GuardResponse<PermitGuard>>::Guarded;
    type Error = A::Error;
    type Future = ContentionBodyFuture<S, Req, L, A>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        ContentionBodyFuture {
            call: self.service.call(request),
        }
    }
}

/// The response of a service whose calls take permits until its body has ended. Dropping it leaves the
/// queue, or drops the call and gives the permit back.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ContentionBodyFuture<S: Service<Req>, Req, L, A = AsError> {
    #[pin]
    call: ContentionFuture<S, Req, L, A>,
}

impl<S, Req, L, A> Future for ContentionBodyFuture<S, Req, L, A>
where
    S: Service<Req>,
    L: StdError + 'static,
    A: Answer<S::Response, S::Error, L>,
    S::Response: GuardResponse<PermitGuard>,
{
    type Output = Result<<S::Response as GuardResponse<PermitGuard>>::Guarded, A::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (result, permit) = ready!(self.project().call.poll_held(cx));
        let guard = permit.map(PermitGuard);
        // With an error the permit goes before the error is handed out, as it does without a body.
        Poll::Ready(result.map(|response| response.guard_body(guard)))
    }
}

/// The permit of a call whose response has begun: given back when its body has ended.
pub struct PermitGuard(CallPermit);

impl BodyGuard for PermitGuard {
    fn waits(&mut self, cx: &mut Context<'_>) {
        self.0.waits(cx);
    }

    fn ended(self, _: Option<&HeaderMap>) {}

    fn failed(self, _: &(dyn StdError + 'static)) {}
}

debug_as_name!(
    ContentionBodyLayer<L, H, A, K>,
    ContentionBodyService<S, L, H, A, K>,
    ContentionBodyFuture<S, Req, L, A> where S: Service<Req>,
    PermitGuard<>,
);
