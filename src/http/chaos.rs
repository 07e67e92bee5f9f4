//! Bodies that break off on purpose.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::idle::BodyError;
use crate::chaos::{Chaos, ChaosFuture, ChaosLayer, ChaosService};
use crate::error::BoxError;
use crate::keyed::Idle;
use crate::registry::explain::{Describe, LayerDescription};

impl Chaos {
    /// A layer that adds faults to a service of `http` types, the bodies of its responses included: each is then a
    /// [`ChaosBody`]. `fault` gives what a call that is to fail ends with, as in [`layer`](Chaos::layer).
    #[must_use]
    pub fn http_layer<T, E, F: Fn() -> Result<T, E>>(&self, fault: F) -> HttpChaosLayer<F> {
        HttpChaosLayer {
            layer: self.layer(fault),
        }
    }
}

/// Adds faults to a service, and to the bodies of its responses. Made by [`Chaos::http_layer`](crate::Chaos::http_layer).
#[derive(Clone, Debug)]
pub struct HttpChaosLayer<F> {
    layer: ChaosLayer<F>,
}

impl<F> Describe for HttpChaosLayer<F> {
    fn describe(&self) -> LayerDescription {
        self.layer.describe()
    }
}

impl<F> Idle for HttpChaosLayer<F> {
    fn is_idle(&self) -> bool {
        self.layer.is_idle()
    }
}

impl<S, F: Clone> Layer<S> for HttpChaosLayer<F> {
    type Service = HttpChaosService<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        HttpChaosService {
            service: self.layer.layer(inner),
        }
    }
}

/// A service with faults. Made by [`HttpChaosLayer`].
#[derive(Clone, Debug)]
pub struct HttpChaosService<S, F> {
    service: ChaosService<S, F>,
}

impl<S, F, Req, B> Service<Req> for HttpChaosService<S, F>
where
    S: Service<Req, Response = Response<B>>,
    F: Fn() -> Result<Response<B>, S::Error>,
{
    type Response = Response<ChaosBody<B>>;
    type Error = S::Error;
    type Future = HttpChaosFuture<S::Future, Result<Response<B>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let call = self.service.call(request);
        let chaos = call.cuts_body().map(|_| self.service.chaos().clone());
        HttpChaosFuture { call, chaos }
    }
}

/// The response of a service with faults. Dropping it drops the call.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct HttpChaosFuture<F, R> {
    #[pin]
    call: ChaosFuture<F, R>,
    /// If the body is to break off.
    chaos: Option<Chaos>,
}

impl<F, B, E> Future for HttpChaosFuture<F, Result<Response<B>, E>>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ChaosBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let response = ready!(this.call.as_mut().poll(cx))?;
        let cut = match this.chaos.take().zip(this.call.cuts_body()) {
            Some((chaos, n)) => Cut::AfterTheNext(chaos, n),
            None => Cut::Never,
        };
        Poll::Ready(Ok(response.map(|body| ChaosBody { body, cut })))
    }
}

/// A body that may break off after its first frame, as if the connection had been reset.
#[pin_project]
pub struct ChaosBody<B> {
    #[pin]
    body: B,
    cut: Cut,
}

#[derive(Debug)]
enum Cut {
    Never,
    /// After the next frame, of this call.
    AfterTheNext(Chaos, u64),
    Now(Chaos, u64),
    Done,
}

impl Cut {
    fn break_off(&mut self) -> BodyError {
        if let Self::AfterTheNext(chaos, call) | Self::Now(chaos, call) = self {
            chaos.cuts_body(*call);
        }
        *self = Self::Done;
        BodyError::of(io::Error::from(io::ErrorKind::ConnectionReset))
    }

    /// The first frame has come.
    fn passed(&mut self) {
        *self = match std::mem::replace(self, Self::Never) {
            Self::AfterTheNext(chaos, call) => Self::Now(chaos, call),
            other => other,
        };
    }
}

impl<B> Body for ChaosBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BodyError>>> {
        let this = self.project();
        match this.cut {
            Cut::Now(..) => return Poll::Ready(Some(Err(this.cut.break_off()))),
            Cut::Done => return Poll::Ready(None),
            Cut::Never | Cut::AfterTheNext(..) => {}
        }
        let frame = ready!(this.body.poll_frame(cx));
        if frame.is_none() && matches!(this.cut, Cut::AfterTheNext(..)) {
            // There is no first frame: it breaks off before its end.
            return Poll::Ready(Some(Err(this.cut.break_off())));
        }
        this.cut.passed();
        Poll::Ready(frame.map(|it| it.map_err(BodyError::of)))
    }

    fn is_end_stream(&self) -> bool {
        match self.cut {
            Cut::Never => self.body.is_end_stream(),
            Cut::AfterTheNext(..) | Cut::Now(..) => false,
            Cut::Done => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body of our own making: what a layer that refuses answers with.
impl<B: From<String>> From<String> for ChaosBody<B> {
    fn from(text: String) -> Self {
        Self {
            body: B::from(text),
            cut: Cut::Never,
        }
    }
}

impl<B: Default> Default for ChaosBody<B> {
    fn default() -> Self {
        Self {
            body: B::default(),
            cut: Cut::Never,
        }
    }
}

impl<B> fmt::Debug for ChaosBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChaosBody")
            .field("cut", &self.cut)
            .finish_non_exhaustive()
    }
}
