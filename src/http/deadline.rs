//! Deadlines that travel in a header: read by servers, sent on by clients.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::header::{HeaderName, HeaderValue};
use ::http::{HeaderMap, Request};
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::call::deadline::{self, Deadline};
use crate::util::accessors::inner_service;

/// For servers: makes the time that a request says is left for it the ambient [deadline](crate::deadline) of its
/// call, and puts it into its extensions as a [`Deadline`].
///
/// The header holds milliseconds, as Envoy sends them in `x-envoy-expected-rq-timeout-ms` (the default). What
/// cannot be read is no deadline; zero is one that is over. Nothing is cancelled: every layer of this crate
/// below stops *waiting* then. Put it outermost, so that no waiting goes uncounted.
///
/// ```
/// use std::time::Duration;
/// use tower::ServiceBuilder;
/// use tower_bulwark::{ResourceLock, http::ReceiveDeadlineLayer};
///
/// let stack = ServiceBuilder::new()
///     .layer(ReceiveDeadlineLayer::new().at_most(Duration::from_secs(30)))
///     .layer(ResourceLock::new("gpu").layer::<std::io::Error>());
/// ```
#[derive(Clone, Debug)]
pub struct ReceiveDeadlineLayer {
    header: HeaderName,
    read: fn(&[u8]) -> Option<Duration>,
    at_most: Option<Duration>,
}

/// For clients: sends on how much is left of the ambient [deadline](crate::deadline), in milliseconds rounded down. Below a
/// retry each attempt says what is left for it.
///
/// A header that the request has already is kept if it leaves less.
#[derive(Clone, Debug)]
pub struct SendDeadlineLayer {
    header: HeaderName,
}

/// What Envoy sends to the services behind it.
const EXPECTED: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

impl ReceiveDeadlineLayer {
    /// Reads `x-envoy-expected-rq-timeout-ms`, as long as it says.
    #[must_use]
    pub fn new() -> Self {
        Self::reading(EXPECTED, millis)
    }

    /// Reads a header of another format.
    pub(crate) fn reading(header: HeaderName, read: fn(&[u8]) -> Option<Duration>) -> Self {
        Self {
            header,
            read,
            at_most: None,
        }
    }

    /// Reads another header.
    #[must_use]
    pub fn header(mut self, header: HeaderName) -> Self {
        self.header = header;
        self
    }

    /// No longer than this, whatever the caller says, and if it says nothing. Default: no such bound.
    #[must_use]
    pub fn at_most(mut self, longest: Duration) -> Self {
        self.at_most = Some(longest);
        self
    }
}

impl SendDeadlineLayer {
    /// Sends `x-envoy-expected-rq-timeout-ms`.
    #[must_use]
    pub fn new() -> Self {
        Self { header: EXPECTED }
    }

    /// Sends another header.
    #[must_use]
    pub fn header(mut self, header: HeaderName) -> Self {
        self.header = header;
        self
    }
}

impl Default for ReceiveDeadlineLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for SendDeadlineLayer {
    fn default() -> Self {
        Self::new()
    }
}

fn millis_in(headers: &HeaderMap, header: &HeaderName) -> Option<Duration> {
    millis(headers.get(header)?.as_bytes())
}

fn millis(value: &[u8]) -> Option<Duration> {
    let text = value.trim_ascii();
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| digits)?;
    // Too many digits are too much time to matter.
    Some(Duration::from_millis(text.parse().unwrap_or(u64::MAX)))
}

impl<S> Layer<S> for ReceiveDeadlineLayer {
    type Service = ReceiveDeadlineService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ReceiveDeadlineService {
            inner,
            layer: self.clone(),
        }
    }
}

impl<S> Layer<S> for SendDeadlineLayer {
    type Service = SendDeadlineService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SendDeadlineService {
            inner,
            header: self.header.clone(),
        }
    }
}

/// A service whose calls have the deadlines of their callers. Made by [`ReceiveDeadlineLayer`].
#[derive(Clone, Debug)]
pub struct ReceiveDeadlineService<S> {
    inner: S,
    layer: ReceiveDeadlineLayer,
}

/// A service whose requests say how much time is left. Made by [`SendDeadlineLayer`].
#[derive(Clone, Debug)]
pub struct SendDeadlineService<S> {
    inner: S,
    header: HeaderName,
}

impl<S> ReceiveDeadlineService<S> {
    inner_service!("given deadlines");
}

impl<S> SendDeadlineService<S> {
    inner_service!("told of deadlines");
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for ReceiveDeadlineService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = ReceiveDeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let asked = request.headers().get(&self.layer.header);
        let asked = asked.and_then(|value| (self.layer.read)(value.as_bytes()));
        let left = asked.into_iter().chain(self.layer.at_most).min();
        let deadline = deadline::earlier(left.map(Deadline::after), deadline::current());
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(deadline);
        }
        ReceiveDeadlineFuture {
            call: deadline::with(deadline, || self.inner.call(request)),
            deadline,
        }
    }
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for SendDeadlineService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let of_request = request.extensions().get::<Deadline>().copied();
        if let Some(deadline) = deadline::earlier(of_request, deadline::current()) {
            let own = millis_in(request.headers(), &self.header);
            let left = own.into_iter().fold(deadline.remaining(), Duration::min);
            let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            let value = HeaderValue::from(millis);
            request.headers_mut().insert(self.header.clone(), value);
        }
        self.inner.call(request)
    }
}

/// The response of a service whose calls have the deadlines of their callers.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct ReceiveDeadlineFuture<F> {
    #[pin]
    call: F,
    deadline: Option<Deadline>,
}

impl<F: Future> Future for ReceiveDeadlineFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        deadline::with(*this.deadline, || this.call.poll(cx))
    }
}
