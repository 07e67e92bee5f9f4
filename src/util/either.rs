//! One of two services: with a layer that may be left out, and without.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

/// A service with a part of a [`Stack`](crate::Stack), or without it. Also the future of one.
#[pin_project(project = EitherProj)]
#[derive(Clone, Debug)]
pub enum Either<A, B> {
    /// With the part.
    With(#[pin] A),
    /// Without.
    Without(#[pin] B),
}

impl<A, B> Either<A, B> {
    /// Puts `layer` around `service`, if there is one.
    pub(crate) fn around<L: Layer<B, Service = A>>(layer: Option<L>, service: B) -> Self {
        match layer {
            Some(layer) => Self::With(layer.layer(service)),
            None => Self::Without(service),
        }
    }
}

impl<A, B, Req> Service<Req> for Either<A, B>
where
    A: Service<Req>,
    B: Service<Req, Response = A::Response, Error = A::Error>,
{
    type Response = A::Response;
    type Error = A::Error;
    type Future = Either<A::Future, B::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), A::Error>> {
        match self {
            Self::With(service) => service.poll_ready(cx),
            Self::Without(service) => service.poll_ready(cx),
        }
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        match self {
            Self::With(service) => Either::With(service.call(request)),
            Self::Without(service) => Either::Without(service.call(request)),
        }
    }
}

impl<A: Future, B: Future<Output = A::Output>> Future for Either<A, B> {
    type Output = A::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<A::Output> {
        match self.project() {
            EitherProj::With(future) => future.poll(cx),
            EitherProj::Without(future) => future.poll(cx),
        }
    }
}
