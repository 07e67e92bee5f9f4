//! The deadline that a caller sent along, for everything that is done for its call.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::timeout::timeout_in;
use crate::accessors::inner_service;
use crate::deadline::{self, Deadline};

/// For servers: makes the `grpc-timeout` of a request the ambient [deadline](crate::deadline) of its call, and puts
/// it into its extensions as a [`Deadline`].
///
/// Every layer of this crate below stops waiting then, and a client with [`GrpcRequests`](super::GrpcRequests) asks
/// its own servers for what is left. Nothing is cancelled: a tonic server does that by itself. Put it outermost, so
/// that no waiting goes uncounted. A request without a `grpc-timeout`, or with one that cannot be read, has all the
/// time there is, or [`at_most`](Self::at_most).
///
/// ```
/// use std::time::Duration;
/// use tower::ServiceBuilder;
/// use tower_bulwark::ResourceLock;
/// use tower_bulwark::grpc::GrpcDeadlineLayer;
///
/// let stack = ServiceBuilder::new()
///     .layer(GrpcDeadlineLayer::new().at_most(Duration::from_secs(60)))
///     .layer(ResourceLock::new("gpu").layer::<std::io::Error>());
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct GrpcDeadlineLayer {
    at_most: Option<Duration>,
}

impl GrpcDeadlineLayer {
    /// As long as the caller says.
    #[must_use]
    pub const fn new() -> Self {
        Self { at_most: None }
    }

    /// No longer than this, whatever the caller says. Default: no such bound.
    #[must_use]
    pub const fn at_most(mut self, longest: Duration) -> Self {
        self.at_most = Some(longest);
        self
    }
}

impl<S> Layer<S> for GrpcDeadlineLayer {
    type Service = GrpcDeadlineService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        GrpcDeadlineService {
            inner,
            at_most: self.at_most,
        }
    }
}

/// A service whose calls have the deadlines of their callers. Made by [`GrpcDeadlineLayer`].
#[derive(Clone, Debug)]
pub struct GrpcDeadlineService<S> {
    inner: S,
    at_most: Option<Duration>,
}

impl<S> GrpcDeadlineService<S> {
    inner_service!("given deadlines");
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for GrpcDeadlineService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = GrpcDeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let asked = timeout_in(request.headers());
        let left = asked.into_iter().chain(self.at_most).min();
        let deadline = deadline::earlier(left.map(Deadline::after), deadline::current());
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(deadline);
        }
        GrpcDeadlineFuture {
            call: deadline::with(deadline, || self.inner.call(request)),
            deadline,
        }
    }
}

/// The response of a service whose calls have the deadlines of their callers.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct GrpcDeadlineFuture<F> {
    #[pin]
    call: F,
    deadline: Option<Deadline>,
}

impl<F: Future> Future for GrpcDeadlineFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        deadline::with(*this.deadline, || this.call.poll(cx))
    }
}
