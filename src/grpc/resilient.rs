//! A tonic channel behind all three layers, and a hedge.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body as HttpBody;
use tonic::Status;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::classify::{GrpcClassify, GrpcClassifyEnd};
use super::hedge::{GrpcHedge, GrpcHedgeService};
use super::requests::GrpcRequests;
use super::retry::{GrpcRetry, GrpcRetryService};
use super::service_config::{ServiceConfig, ServiceConfigError};
use crate::circuit_breaker::CircuitBreaker;
use crate::contention::{AmbientHolder, ResourceLock};
use crate::error::{AsError, BoxError, Boxed, ConfigError};
use crate::http::{
    CircuitBreakerBodyService, ContentionBodyService, CopyReplay, ReplayBody, ReplayLayer,
    ReplayService,
};
use crate::retry::RetryPolicy;

type Stack<C> = ReplayService<
    GrpcRetryService<
        GrpcHedgeService<
            CircuitBreakerBodyService<
                ContentionBodyService<Bottom<C>, Boxed, AmbientHolder>,
                Boxed,
                GrpcClassify,
                AsError,
                GrpcClassifyEnd,
            >,
            Boxed,
            GrpcRequests<CopyReplay>,
        >,
        Boxed,
        GrpcRequests<CopyReplay>,
    >,
>;

/// A channel behind all three layers, for a generated client. (feature `tonic`)
///
/// Each part is given or left out: without a [service config](Self::service_config) or a [policy](Self::retry) a call is
/// made once, without a [breaker](Self::breaker) or a [lock](Self::lock) none is asked. The order is that of the crate:
/// retry, hedge, breaker, lock, channel. Calls are judged to the end of their trailers, and permits are held as long.
///
/// ```
/// # use tower_bulwark::{CircuitBreaker, ResourceLock, grpc};
/// # use tonic::body::Body;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let json = "{}";
/// let (breaker, slots) = (CircuitBreaker::new("model"), ResourceLock::new("model-slots"));
/// let channel = tonic::transport::Channel::from_static("http://[::1]:50051").connect_lazy();
/// let channel = grpc::Resilient::new(channel)
///     .service_config(json)?
///     .breaker(&breaker)
///     .lock(&slots);
/// // let client = CompletionsClient::new(channel);
/// # fn takes<C: tower::Service<http::Request<Body>, Response = http::Response<Body>, Error = tonic::Status>>(_: C) {}
/// # takes(channel);
/// # Ok(())
/// # }
/// ```
///
/// Every error is a [`Status`]. One that was made of a refusal has it in the chain of its causes: see
/// [`Rejection::find`](crate::Rejection::find). The deadline of a call is its `grpc-timeout` (`Request::set_timeout`), the
/// `timeout` of the service config or the ambient [deadline](crate::deadline), whichever comes first: each attempt tells
/// the server what is left.
///
/// Up to 64 KiB of each request are kept, to be sent again. A call costs two allocations more than the layers by
/// themselves, for its future and for the body of its response.
///
/// Dropping a call gives its permits back.
#[derive(Clone)]
pub struct Resilient<C> {
    parts: Parts,
    stack: Stack<C>,
}

#[derive(Clone)]
struct Parts {
    retry: Option<GrpcRetry>,
    hedge: Option<GrpcHedge>,
    breaker: Option<CircuitBreaker>,
    lock: Option<ResourceLock>,
    classify: GrpcClassify,
    idempotent: bool,
}

impl<C: Clone> Resilient<C> {
    /// `channel` as it is, until a part is given.
    pub fn new(channel: C) -> Self {
        let parts = Parts {
            retry: None,
            hedge: None,
            breaker: None,
            lock: None,
            classify: GrpcClassify::new(),
            idempotent: false,
        };
        Self {
            stack: parts.around(Bottom(channel)),
            parts,
        }
    }

    /// Retries, and hedges, as the JSON of a [`ServiceConfig`] says: see [`GrpcRetry`] and [`GrpcHedge`].
    ///
    /// # Errors
    ///
    /// [`ServiceConfigError`] for the first thing that is wrong.
    pub fn service_config(self, json: &str) -> Result<Self, ServiceConfigError> {
        let config = ServiceConfig::parse(json)?;
        let wrong = |error: ConfigError| {
            ServiceConfigError::new(error.setting().to_owned(), error.to_string())
        };
        let once = config.clone().without_hedging();
        let retry = GrpcRetry::new("grpc", &once).map_err(wrong)?;
        let hedge = GrpcHedge::beside(&retry, &config).map_err(wrong)?;
        Ok(self.with(|parts| {
            parts.retry = Some(retry);
            parts.hedge = Some(hedge);
        }))
    }

    /// Retries as these rules say, by method.
    #[must_use]
    pub fn retry_by_method(self, retry: GrpcRetry) -> Self {
        self.with(|parts| parts.retry = Some(retry))
    }

    /// Hedges as these rules say, by method.
    #[must_use]
    pub fn hedge_by_method(self, hedge: GrpcHedge) -> Self {
        self.with(|parts| parts.hedge = Some(hedge))
    }

    /// Retries all methods by this policy, after the codes of [`classify`](Self::classify).
    #[must_use]
    pub fn retry(self, policy: &RetryPolicy) -> Self {
        self.with(|parts| {
            parts.retry = Some(GrpcRetry::one_for_all(policy.clone(), parts.classify));
        })
    }

    /// Guards the calls with this breaker.
    #[must_use]
    pub fn breaker(self, breaker: &CircuitBreaker) -> Self {
        self.with(|parts| parts.breaker = Some(breaker.clone()))
    }

    /// Takes a permit of this lock for each call, to the end of its response.
    #[must_use]
    pub fn lock(self, lock: &ResourceLock) -> Self {
        self.with(|parts| parts.lock = Some(lock.clone()))
    }

    /// Judges calls by other rules than [`GrpcClassify::new`]: for the breaker, and for a [policy](Self::retry) that is
    /// given after this. A service config has codes of its own.
    #[must_use]
    pub fn classify(self, classify: GrpcClassify) -> Self {
        self.with(|parts| parts.classify = classify)
    }

    /// All methods may be called twice: an attempt that timed out, and a connection that broke, are tried again too.
    #[must_use]
    pub fn idempotent(self) -> Self {
        self.with(|parts| parts.idempotent = true)
    }

    /// The channel.
    pub fn get_ref(&self) -> &C {
        let hedged = self.stack.get_ref().get_ref();
        &hedged.get_ref().get_ref().get_ref().0
    }

    fn with(mut self, change: impl FnOnce(&mut Parts)) -> Self {
        change(&mut self.parts);
        let bottom = Bottom(self.get_ref().clone());
        self.stack = self.parts.around(bottom);
        self
    }
}

impl Parts {
    fn around<C>(&self, bottom: Bottom<C>) -> Stack<C> {
        let retry = self.retry.clone().unwrap_or_else(GrpcRetry::none);
        let breaker = self.breaker.clone();
        let breaker = breaker.unwrap_or_else(|| CircuitBreaker::none("grpc"));
        let lock = self
            .lock
            .clone()
            .unwrap_or_else(|| ResourceLock::unlimited("grpc"));
        let mut requests = GrpcRequests::over(CopyReplay);
        if self.idempotent {
            requests = requests.idempotent();
        }
        let breaker = breaker
            .layer()
            .classify(self.classify)
            .until_body_end()
            .classify_end(self.classify.at_end());
        let locked = lock.layer().until_body_end().layer(bottom);
        let hedge = self.hedge.clone().unwrap_or_else(GrpcHedge::none);
        let hedged = hedge
            .layer()
            .requests(requests.idempotent())
            .layer(breaker.layer(locked));
        let retried = retry.layer().requests(requests).layer(hedged);
        ReplayLayer::new().layer(retried)
    }
}

impl<C: fmt::Debug + Clone> fmt::Debug for Resilient<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resilient")
            .field("channel", self.get_ref())
            .field("retry", &self.parts.retry)
            .field("hedge", &self.parts.hedge)
            .field("breaker", &self.parts.breaker)
            .field("lock", &self.parts.lock)
            .finish_non_exhaustive()
    }
}

/// The channel, which wants a body of tonic's.
#[derive(Clone, Debug)]
struct Bottom<C>(C);

impl<C> Service<Request<ReplayBody<Body>>> for Bottom<C>
where
    C: Service<Request<Body>, Error: Into<BoxError>>,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = BottomFuture<C::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<ReplayBody<Body>>) -> Self::Future {
        BottomFuture(self.0.call(request.map(Body::new)))
    }
}

/// A call of the channel.
#[pin_project::pin_project]
struct BottomFuture<F>(#[pin] F);

impl<F, R, E> Future for BottomFuture<F>
where
    F: Future<Output = Result<R, E>>,
    E: Into<BoxError>,
{
    type Output = Result<R, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().0.poll(cx).map_err(Into::into)
    }
}

impl<C, B> Service<Request<Body>> for Resilient<C>
where
    C: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
    B: HttpBody<Data = bytes::Bytes> + Default + Send + 'static,
    B::Error: StdError + Send + Sync + 'static,
{
    type Response = Response<Body>;
    type Error = Status;
    type Future = ResilientFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.stack.poll_ready(cx).map_err(Status::from)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let call = self.stack.call(request);
        ResilientFuture(Box::pin(async move {
            match call.await {
                Ok(response) => Ok(response.map(Body::new)),
                Err(error) => Err(Status::from(error)),
            }
        }))
    }
}

/// A call of a [`Resilient`] channel.
#[must_use = "futures do nothing unless polled"]
pub struct ResilientFuture(Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>);

impl Future for ResilientFuture {
    type Output = Result<Response<Body>, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResilientFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResilientFuture")
    }
}
