//! What is below the layers of the resilient client: reqwest, sending requests with marks for the layers.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ::http::{HeaderName, HeaderValue};
use pin_project::pin_project;
use reqwest::{Client, Request, Response};
use tower_service::Service;
use tracing::Span;
use tracing::field::Empty;

use super::error_kind::ErrorKind;
use super::guarded_body::into_http;
use super::peek::{PeekBodyLayer, Reading};
use super::requests::{idempotency, marked};
use crate::call::deadline::Deadline;
use crate::call::outcome::Idempotency;
use crate::call::{Holder, workflow};
use crate::rate_limit::{Cost, RequestCost};
use crate::retry::{CopyRequest, RequestConfig};

/// How many attempts a response took: an extension of the responses of a
/// [`ResilientClient`](super::ResilientClient). One that the server did not begin, and that was sent again at once, is not
/// counted.
///
/// ```no_run
/// # use tower_bulwark::http::{Attempts, ResilientClient};
/// # async fn ask(client: ResilientClient) -> Result<(), Box<dyn std::error::Error>> {
/// let response = client.get("http://localhost:8080/").send().await?;
/// let attempts = response.extensions().get().map(|Attempts(n)| *n);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempts(pub u32);

/// What a request says to the layers.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    pub(super) idempotent: Option<bool>,
    pub(super) max_retries: Option<u32>,
    pub(super) deadline: Option<Deadline>,
    pub(super) holder: Option<Holder>,
}

/// A request on its way through the layers.
#[derive(Debug)]
pub(super) struct Marked {
    request: Request,
    marks: Marks,
    attempt: u32,
}

impl Marked {
    pub(super) fn new(request: Request, marks: Marks) -> Self {
        Self {
            request,
            marks,
            attempt: 1,
        }
    }

    /// Where it goes: `host:port`.
    pub(super) fn authority(&self) -> Arc<str> {
        let url = self.request.url();
        let host = url.host_str().unwrap_or_default();
        match url.port_or_known_default() {
            Some(port) => format!("{host}:{port}").into(),
            None => host.into(),
        }
    }

    pub(super) fn holder(&self) -> Holder {
        let marked = self.marks.holder.clone();
        marked.or_else(workflow::current).into()
    }
}

/// What a request costs at the rate limit.
#[derive(Clone)]
pub(super) struct CostOfRequest(pub(super) Arc<dyn Fn(&Request) -> Cost + Send + Sync>);

impl RequestCost<Marked> for CostOfRequest {
    fn cost(&self, it: &Marked) -> Cost {
        (self.0)(&it.request)
    }
}

impl fmt::Debug for CostOfRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CostOfRequest")
    }
}

/// Reads the marks, and of what is not marked the request itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct MarkedRequests;

impl CopyRequest<Marked> for MarkedRequests {
    fn copy(&self, it: &Marked) -> Option<Marked> {
        Some(Marked::new(it.request.try_clone()?, it.marks.clone()))
    }
}

impl RequestConfig<Marked> for MarkedRequests {
    fn max_retries(&self, it: &Marked) -> Option<u32> {
        it.marks.max_retries
    }

    fn deadline(&self, it: &Marked) -> Option<Deadline> {
        it.marks.deadline
    }

    fn idempotency(&self, it: &Marked) -> Idempotency {
        let by_itself = idempotency(it.request.method(), it.request.headers());
        marked(it.marks.idempotent, by_itself)
    }

    fn before_attempt(&self, it: &mut Marked, attempt: u32) {
        it.attempt = attempt;
    }
}

/// The client itself, or what the user has put around it.
pub(super) type Inner = tower::util::BoxCloneSyncService<Request, Response, reqwest::Error>;

/// What is below the layers.
#[derive(Clone, Debug)]
pub(super) struct SendMarked {
    pub(super) inner: Bottom,
    pub(super) attempt_header: Option<HeaderName>,
    pub(super) peek: Option<PeekBodyLayer>,
}

#[derive(Clone, Debug)]
pub(super) enum Bottom {
    Client(Client),
    /// With a layer of the user's own.
    Layered(Inner),
}

impl Service<Marked> for SendMarked {
    type Response = Response;
    type Error = reqwest::Error;
    type Future = SendMarkedFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), reqwest::Error>> {
        match &mut self.inner {
            Bottom::Client(client) => Service::<Request>::poll_ready(client, cx),
            Bottom::Layered(inner) => inner.poll_ready(cx),
        }
    }

    fn call(&mut self, it: Marked) -> SendMarkedFuture {
        let Marked {
            mut request,
            attempt,
            ..
        } = it;
        if let Some(header) = &self.attempt_header {
            let number = HeaderValue::from(attempt);
            request.headers_mut().insert(header.clone(), number);
        }
        let span = tracing::info_span!(
            "attempt",
            "http.request.method" = %request.method(),
            "server.address" = request.url().host_str(),
            "server.port" = request.url().port_or_known_default(),
            // As the convention says: not of the first attempt.
            "http.request.resend_count" = (attempt > 1).then(|| attempt - 1),
            "http.response.status_code" = Empty,
            "error.type" = Empty,
            "otel.kind" = "client",
            "otel.name" = %request.method(),
            "otel.status_code" = Empty,
        );
        let call = span.in_scope(|| match &mut self.inner {
            Bottom::Client(client) => Attempt::Client(client.call(request)),
            Bottom::Layered(inner) => Attempt::Layered(inner.call(request)),
        });
        SendMarkedFuture {
            call,
            reading: None,
            peek: self.peek,
            span,
            attempt,
        }
    }
}

#[pin_project(project = AttemptProjected)]
enum Attempt {
    Client(#[pin] <Client as Service<Request>>::Future),
    Layered(#[pin] <Inner as Service<Request>>::Future),
}

impl Future for Attempt {
    type Output = Result<Response, reqwest::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            AttemptProjected::Client(call) => call.poll(cx),
            AttemptProjected::Layered(call) => call.poll(cx),
        }
    }
}

/// An attempt that is running.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub(super) struct SendMarkedFuture {
    #[pin]
    call: Attempt,
    /// A bad answer, the beginning of whose body is being read.
    reading: Option<Box<Reading<reqwest::Body>>>,
    peek: Option<PeekBodyLayer>,
    span: Span,
    attempt: u32,
}

impl Future for SendMarkedFuture {
    type Output = Result<Response, reqwest::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if this.reading.is_none() {
            let mut result = ready!(this.span.in_scope(|| this.call.poll(cx)));
            record(this.span, &result);
            if let Ok(response) = &mut result {
                let attempts = Attempts(*this.attempt);
                response.extensions_mut().insert(attempts);
            }
            match (result, &*this.peek) {
                (Ok(response), Some(rules)) if rules.wants(response.status()) => {
                    let reading = Reading::new(*rules, into_http(response));
                    *this.reading = Some(Box::new(reading));
                }
                (result, _) => return Poll::Ready(result),
            }
        }
        match this.reading {
            Some(reading) => {
                let response = ready!(this.span.in_scope(|| reading.poll_read(cx)));
                let response = response.map(reqwest::Body::wrap);
                Poll::Ready(Ok(Response::from(response)))
            }
            None => Poll::Pending,
        }
    }
}

fn record(span: &Span, result: &Result<Response, reqwest::Error>) {
    match result {
        Ok(response) => {
            let status = response.status();
            span.record("http.response.status_code", status.as_u16());
            if status.is_client_error() || status.is_server_error() {
                span.record("error.type", status.as_str());
                span.record("otel.status_code", "ERROR");
            }
        }
        Err(error) => {
            let kind = ErrorKind::of(error);
            span.record("error.type", tracing::field::debug(kind));
            span.record("otel.status_code", "ERROR");
        }
    }
}
