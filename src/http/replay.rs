//! Requests with streaming bodies, made fit for a retry.

use std::task::{Context, Poll};

use http::{Method, Request, header};
use http_body::Body;
use tower_layer::{Layer, Stack};
use tower_service::Service;

use super::classify::HttpClassify;
use super::replay_body::ReplayBody;
use super::requests::HttpRequests;
use crate::call::deadline::Deadline;
use crate::call::outcome::Idempotency;
use crate::retry::{Beside, CopyRequest, RequestConfig, RetryLayer};
use crate::util::accessors::inner_service;

/// Puts a [`ReplayBody`] around the body of each request. Goes *outside* the retry, which copies requests
/// with [`CopyReplay`].
///
/// A `CONNECT` and a request with an `Upgrade` header are sent once: what follows them is a conversation,
/// and nobody can have it again. So is a request whose body says that it is larger than what is kept.
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, StreamBody};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_bulwark::http::{CopyReplay, ReplayBody, ReplayLayer};
/// use tower_bulwark::RetryPolicy;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// # use std::sync::atomic::{AtomicU32, Ordering};
/// # type Frames = futures::stream::Iter<std::vec::IntoIter<Result<http_body::Frame<Bytes>, std::io::Error>>>;
/// # let calls = std::sync::Arc::new(AtomicU32::new(0));
/// # let client = service_fn(move |request: Request<ReplayBody<StreamBody<Frames>>>| {
/// #     let calls = calls.clone();
/// #     async move {
/// #         if calls.fetch_add(1, Ordering::Relaxed) == 0 {
/// #             return Err(std::io::Error::other("reset"));
/// #         }
/// #         Ok(Response::new(request.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes()))
/// #     }
/// # });
/// let service = ServiceBuilder::new()
///     .layer(ReplayLayer::new())
///     .layer(RetryPolicy::new().layer().requests(CopyReplay))
///     .service(client);
///
/// # let frame = |data: &'static str| Ok(http_body::Frame::data(Bytes::from(data)));
/// # let stream = futures::stream::iter(vec![frame("hel"), frame("lo")]);
/// let request = Request::put("/upload").body(StreamBody::new(stream))?;
/// let response = service.oneshot(request).await?; // The second attempt.
/// assert_eq!(response.into_body(), "hello");
/// # Ok(())
/// # }
/// ```
///
/// A client that wants a body type of its own is given one below the retry:
/// `.map_request(|request: Request<ReplayBody<_>>| request.map(tonic::body::Body::new))` for a tonic channel.
#[derive(Clone, Copy, Debug)]
pub struct ReplayLayer {
    max_bytes: u64,
}

impl ReplayLayer {
    /// A layer that keeps up to 64 KiB of each body.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            max_bytes: ReplayBody::<()>::DEFAULT_MAX_BYTES,
        }
    }

    /// How many bytes of each body are kept at most. Default: 64 KiB. It is the price of a retry in
    /// memory: that much, and an eighth more at worst, for each call on its way. Frames of less than 4 KiB are copied
    /// together; of larger ones what they are slices of is kept too.
    #[must_use]
    pub const fn max_bytes(mut self, max_bytes: u64) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// The request with a body that can be sent again, if that makes sense.
    pub fn wrap<B: Body>(&self, request: Request<B>) -> Request<ReplayBody<B>> {
        let is_tunnel =
            request.method() == Method::CONNECT || request.headers().contains_key(header::UPGRADE);
        request.map(|body| match is_tunnel {
            true => ReplayBody::once(body),
            false => ReplayBody::with_max_bytes(body, self.max_bytes),
        })
    }
}

impl Default for ReplayLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for ReplayLayer {
    type Service = ReplayService<S>;

    fn layer(&self, inner: S) -> ReplayService<S> {
        ReplayService {
            inner,
            replay: *self,
        }
    }
}

/// A service whose requests get a [`ReplayBody`]. Made by [`ReplayLayer`].
#[derive(Clone, Debug)]
pub struct ReplayService<S> {
    inner: S,
    replay: ReplayLayer,
}

impl<S> ReplayService<S> {
    inner_service!("given bodies that can be sent again");
}

impl<S, B> Service<Request<B>> for ReplayService<S>
where
    S: Service<Request<ReplayBody<B>>>,
    B: Body,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        self.inner.call(self.replay.wrap(request))
    }
}

/// Copies requests whose body is a [`ReplayBody`], as long as that can be sent again.
///
/// Whether it can is asked twice: before an attempt, and when the attempt has ended badly. If its body is
/// then still being sent (an answer may come before the request has gone), the next attempt
/// [takes it over](ReplayBody::take_over): a transport that still holds the old body gets an error from it.
///
/// Extensions are copied with the request, so what they own lives as long as the copy.
#[derive(Clone, Copy, Debug, Default)]
pub struct CopyReplay;

impl<B> CopyRequest<Request<ReplayBody<B>>> for CopyReplay {
    fn copy(&self, request: &Request<ReplayBody<B>>) -> Option<Request<ReplayBody<B>>> {
        let mut copy = Request::new(request.body().try_clone()?);
        copy.method_mut().clone_from(request.method());
        copy.uri_mut().clone_from(request.uri());
        *copy.version_mut() = request.version();
        copy.headers_mut().clone_from(request.headers());
        copy.extensions_mut().clone_from(request.extensions());
        Some(copy)
    }

    fn claim(&self, copy: &Request<ReplayBody<B>>) -> bool {
        copy.body().take_over()
    }

    fn claim_beside(&self, copy: &Request<ReplayBody<B>>) -> Beside {
        copy.body().beside()
    }
}

/// As [`HttpRequests`] has it: a copy of a request is not yet a request that may be done twice.
impl<B> RequestConfig<Request<ReplayBody<B>>> for CopyReplay {
    fn max_retries(&self, request: &Request<ReplayBody<B>>) -> Option<u32> {
        HttpRequests::new().max_retries(request)
    }

    fn deadline(&self, request: &Request<ReplayBody<B>>) -> Option<Deadline> {
        HttpRequests::new().deadline(request)
    }

    fn idempotency(&self, request: &Request<ReplayBody<B>>) -> Idempotency {
        HttpRequests::new().idempotency(request)
    }
}

impl<L> RetryLayer<L, HttpClassify, HttpRequests> {
    /// For requests whose bodies stream: a [`ReplayLayer`] around this one, which copies by [`CopyReplay`]. The service
    /// below is given requests with a [`ReplayBody`].
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http_body_util::Full;
    /// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
    /// use tower::ServiceBuilder;
    /// use tower_bulwark::{RetryPolicy, http::ReplayBody};
    ///
    /// let client = Client::builder(TokioExecutor::new()).build_http::<ReplayBody<Full<Bytes>>>();
    /// let service = ServiceBuilder::new()
    ///     .layer(RetryPolicy::new().http_layer().replaying())
    ///     .service(client);
    /// # fn is<S: tower::Service<http::Request<Full<Bytes>>>>(_: S) {} is(service);
    /// ```
    #[must_use]
    pub fn replaying(
        self,
    ) -> Stack<RetryLayer<L, HttpClassify, HttpRequests<CopyReplay>>, ReplayLayer> {
        let retry = self.requests(HttpRequests::new().copied_by(CopyReplay));
        Stack::new(retry, ReplayLayer::new())
    }
}
