//! The beginning of the bodies of bad answers, for classifiers.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::response::Parts;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::Sleep;
use tower_layer::Layer;
use tower_service::Service;

use crate::util::accessors::inner_service;
use crate::util::time;

/// The beginning of a body: an extension of the responses of a [`PeekBodyService`].
///
/// As it came: what was compressed by the server is compressed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyStart(pub Bytes);

/// Reads the beginning of the body of each answer that is not good, so that
/// [`HttpClassify::by_body`](super::HttpClassify::by_body) can look at it: a `429` because there are too many requests
/// is worth another attempt, one because the account is empty is not, and only the body tells. Goes below the layers that
/// judge.
///
/// Up to 4 KiB are read, for up to a second; then the answer goes on with what there is. The body is handed on whole:
/// what was read comes first, and an error that was met comes in its place. Of good answers nothing is read.
///
/// ```
/// use std::time::Duration;
/// # use bytes::Bytes;
/// # use http::{Request, Response, StatusCode};
/// # use http_body_util::Full;
/// # use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_bulwark::http::{HttpClassify, PeekBodyLayer};
/// use tower_bulwark::{RetryPolicy, Verdict};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// # let client = service_fn(|_: Request<Full<Bytes>>| async {
/// #     let body = Full::new(Bytes::from(r#"{"error": {"code": "insufficient_quota"}}"#));
/// #     let mut response = Response::new(body);
/// #     *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
/// #     Ok::<_, std::io::Error>(response)
/// # });
/// let classify = HttpClassify::new().by_body(|status, start| {
///     let is_empty_account = String::from_utf8_lossy(start).contains("insufficient_quota");
///     (status == 429 && is_empty_account).then(|| Verdict::success().do_not_retry())
/// });
/// let retry = RetryPolicy::new();
/// let service = ServiceBuilder::new()
///     .layer(retry.http_layer().classify(classify))
///     .layer(PeekBodyLayer::new())
///     .service(client);
///
/// let response = service.oneshot(Request::new(Full::default())).await?;
/// assert_eq!(response.status(), 429);
/// assert_eq!(retry.snapshot().retries, 0);
/// # Ok(())
/// # }
/// ```
///
/// Dropping the call drops the body.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct PeekBodyLayer {
    max_bytes: usize,
    max_wait: Duration,
    when: fn(StatusCode) -> bool,
}

impl PeekBodyLayer {
    /// Of answers with a status of 400 and above.
    pub fn new() -> Self {
        Self {
            max_bytes: 4 * 1024,
            max_wait: Duration::from_secs(1),
            when: |status| status.as_u16() >= 400,
        }
    }

    /// How many bytes are wanted. Reading stops with the frame that has them. Default: 4 KiB, more than the error objects
    /// of the known APIs.
    pub const fn max_bytes(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// How long a body is waited for. Default: a second; the head has come, and the rest of a short answer with it, as a
    /// rule.
    pub const fn max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = max_wait;
        self
    }

    /// Of which answers the beginning is read. Default: those with a status of 400 and above.
    pub fn when(mut self, when: fn(StatusCode) -> bool) -> Self {
        self.when = when;
        self
    }

    pub(super) fn wants(&self, status: StatusCode) -> bool {
        (self.when)(status)
    }
}

impl Default for PeekBodyLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for PeekBodyLayer {
    type Service = PeekBodyService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        PeekBodyService {
            inner,
            rules: *self,
        }
    }
}

/// A service whose bad answers carry a [`BodyStart`]. Made by [`PeekBodyLayer`].
#[derive(Clone, Debug)]
pub struct PeekBodyService<S> {
    inner: S,
    rules: PeekBodyLayer,
}

impl<S> PeekBodyService<S> {
    inner_service!("whose bodies are looked at");
}

impl<S, B, Req> Service<Request<Req>> for PeekBodyService<S>
where
    S: Service<Request<Req>, Response = Response<B>>,
    B: Body<Data = Bytes>,
{
    type Response = Response<PeekedBody<B>>;
    type Error = S::Error;
    type Future = PeekBodyFuture<S::Future, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        PeekBodyFuture {
            rules: self.rules,
            call: self.inner.call(request),
            reading: None,
        }
    }
}

/// A call of a [`PeekBodyService`].
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct PeekBodyFuture<F, B: Body> {
    rules: PeekBodyLayer,
    #[pin]
    call: F,
    // In a box of its own: most answers are good.
    reading: Option<Box<Reading<B>>>,
}

impl<F, B, E> Future for PeekBodyFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<PeekedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            if let Some(reading) = this.reading {
                return reading.poll_read(cx).map(Ok);
            }
            let response = match ready!(this.call.as_mut().poll(cx)) {
                Ok(response) => response,
                Err(error) => return Poll::Ready(Err(error)),
            };
            if !this.rules.wants(response.status()) {
                return Poll::Ready(Ok(response.map(PeekedBody::untouched)));
            }
            *this.reading = Some(Box::new(Reading::new(*this.rules, response)));
        }
    }
}

impl<F, B: Body> fmt::Debug for PeekBodyFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeekBodyFuture")
            .field("reading", &self.reading.is_some())
            .finish_non_exhaustive()
    }
}

/// A bad answer whose beginning is being read.
pub(super) struct Reading<B: Body> {
    max_bytes: usize,
    parts: Option<Parts>,
    body: PeekedBody<B>,
    start: BytesMut,
    timer: Pin<Box<Sleep>>,
}

impl<B: Body<Data = Bytes>> Reading<B> {
    pub(super) fn new(rules: PeekBodyLayer, response: Response<B>) -> Self {
        let (parts, body) = response.into_parts();
        Self {
            max_bytes: rules.max_bytes,
            parts: Some(parts),
            body: PeekedBody {
                read: VecDeque::new(),
                failed: None,
                rest: Rest::Boxed(Box::pin(body)),
            },
            start: BytesMut::new(),
            timer: Box::pin(tokio::time::sleep(rules.max_wait)),
        }
    }

    /// The answer, with what could be read.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Response<PeekedBody<B>>> {
        while self.start.len() < self.max_bytes {
            let Rest::Boxed(rest) = &mut self.body.rest else {
                break;
            };
            match rest.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        self.start.extend_from_slice(data);
                    }
                    self.body.read.push_back(frame);
                }
                Poll::Ready(Some(Err(error))) => {
                    self.body.failed = Some(error);
                    break;
                }
                Poll::Ready(None) => {
                    self.body.rest = Rest::Ended;
                }
                Poll::Pending => {
                    ready!(time::poll_timer(self.timer.as_mut(), cx));
                    break;
                }
            }
        }
        let body = std::mem::replace(&mut self.body, PeekedBody::ended());
        let Some(mut parts) = self.parts.take() else {
            // Polled after its end.
            return Poll::Pending;
        };
        parts
            .extensions
            .insert(BodyStart(self.start.split().freeze()));
        Poll::Ready(Response::from_parts(parts, body))
    }
}

/// A body whose beginning may have been looked at: whole, whatever was read of it.
#[pin_project]
pub struct PeekedBody<B: Body> {
    read: VecDeque<Frame<B::Data>>,
    /// What the body failed with while it was looked at.
    failed: Option<B::Error>,
    #[pin]
    rest: Rest<B>,
}

#[pin_project(project = RestProjected)]
enum Rest<B> {
    Plain(#[pin] B),
    Boxed(Pin<Box<B>>),
    Ended,
}

impl<B: Body> PeekedBody<B> {
    fn untouched(body: B) -> Self {
        Self {
            rest: Rest::Plain(body),
            ..Self::ended()
        }
    }

    fn ended() -> Self {
        Self {
            read: VecDeque::new(),
            failed: None,
            rest: Rest::Ended,
        }
    }
}

impl<B: Body<Data = Bytes>> Body for PeekedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        if let Some(frame) = this.read.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(error) = this.failed.take() {
            this.rest.set(Rest::Ended);
            return Poll::Ready(Some(Err(error)));
        }
        match this.rest.project() {
            RestProjected::Plain(body) => body.poll_frame(cx),
            RestProjected::Boxed(body) => body.as_mut().poll_frame(cx),
            RestProjected::Ended => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        let nothing_left = self.read.is_empty() && self.failed.is_none();
        nothing_left
            && match &self.rest {
                Rest::Plain(body) => body.is_end_stream(),
                Rest::Boxed(body) => body.is_end_stream(),
                Rest::Ended => true,
            }
    }

    fn size_hint(&self) -> SizeHint {
        let rest = match &self.rest {
            _ if self.failed.is_some() => SizeHint::new(),
            Rest::Plain(body) => body.size_hint(),
            Rest::Boxed(body) => body.size_hint(),
            Rest::Ended => SizeHint::with_exact(0),
        };
        let data = self.read.iter().filter_map(Frame::data_ref);
        let read: u64 = data.map(|data| data.len() as u64).sum();
        let mut hint = SizeHint::new();
        // The upper bound first: it is never less than the lower one.
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
            hint.set_upper(upper);
        }
        hint.set_lower(rest.lower().saturating_add(read));
        hint
    }
}

impl<B: Body> fmt::Debug for PeekedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeekedBody")
            .field("frames_read", &self.read.len())
            .finish_non_exhaustive()
    }
}

impl<B: Body + From<String>> From<String> for PeekedBody<B> {
    fn from(text: String) -> Self {
        Self::untouched(B::from(text))
    }
}

impl<B: Body + Default> Default for PeekedBody<B> {
    fn default() -> Self {
        Self::untouched(B::default())
    }
}
