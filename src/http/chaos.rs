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
use crate::chaos::{Chaos, ChaosFuture, ChaosLayer, ChaosService, CutBody};
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
        HttpChaosFuture {
            call: self.service.call(request),
        }
    }
}

/// The response of a service with faults. Dropping it drops the call.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct HttpChaosFuture<F, R> {
    #[pin]
    call: ChaosFuture<F, R>,
}

impl<F, B, E> Future for HttpChaosFuture<F, Result<Response<B>, E>>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ChaosBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let response = ready!(this.call.as_mut().poll(cx))?;
        let cut = match this.call.take_cut() {
            Some(cut) => Cut::After { cut, is_due: false },
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

enum Cut {
    Never,
    After {
        cut: CutBody,
        /// Whether the first frame has been read.
        is_due: bool,
    },
    Done,
}

impl Cut {
    /// The error that the body breaks off with, if it is due.
    fn break_off(&mut self) -> Option<BodyError> {
        match self {
            Self::After { cut, is_due: true } => cut.happens(),
            _ => return None,
        }
        *self = Self::Done;
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        Some(BodyError::of(reset))
    }

    /// A frame has been read, or the end.
    fn is_read<T, E>(&mut self, frame: Option<&Result<T, E>>) {
        match (&mut *self, frame) {
            (Self::After { .. }, Some(Err(_))) => *self = Self::Done,
            (Self::After { is_due, .. }, _) => *is_due = true,
            (Self::Never | Self::Done, _) => {}
        }
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
        if let Some(error) = this.cut.break_off() {
            return Poll::Ready(Some(Err(error)));
        }
        if let Cut::Done = this.cut {
            return Poll::Ready(None);
        }
        let frame = ready!(this.body.poll_frame(cx));
        this.cut.is_read(frame.as_ref());
        // There was no first frame: it breaks off before its end.
        if frame.is_none()
            && let Some(error) = this.cut.break_off()
        {
            return Poll::Ready(Some(Err(error)));
        }
        Poll::Ready(frame.map(|it| it.map_err(BodyError::of)))
    }

    fn is_end_stream(&self) -> bool {
        match self.cut {
            Cut::Never => self.body.is_end_stream(),
            Cut::After { .. } => false,
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
        let breaks_off = matches!(self.cut, Cut::After { .. });
        f.debug_struct("ChaosBody")
            .field("breaks_off", &breaks_off)
            .finish_non_exhaustive()
    }
}
