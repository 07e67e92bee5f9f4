//! `reqwest` behind all three layers.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use reqwest::{Client, Request, RequestBuilder, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::classify::HttpClassify;
#[cfg(doc)]
use super::error_kind::ErrorKind;
use super::requests::idempotency;
use super::until_body_end::{CircuitBreakerBodyService, ContentionBodyService};
use crate::call::outcome::Idempotency;
use crate::circuit_breaker::CircuitBreaker;
use crate::contention::ResourceLock;
use crate::error::Error;
use crate::retry::{CopyRequest, RequestConfig, RetryPolicy, RetryService};

/// What `reqwest`'s requests say of their own retries: whether they may be done twice, by method and
/// `Idempotency-Key`. A request whose body is a stream is sent once.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReqwestRequests;

impl CopyRequest<Request> for ReqwestRequests {
    fn copy(&self, request: &Request) -> Option<Request> {
        request.try_clone()
    }
}

impl RequestConfig<Request> for ReqwestRequests {
    fn idempotency(&self, request: &Request) -> Idempotency {
        idempotency(request.method(), request.headers())
    }
}

type Stack = RetryService<
    CircuitBreakerBodyService<
        ContentionBodyService<Client, reqwest::Error>,
        reqwest::Error,
        HttpClassify,
    >,
    reqwest::Error,
    HttpClassify,
    ReqwestRequests,
>;

/// A [`reqwest::Client`] behind all three layers: retry, circuit breaker, contention. (feature `reqwest`)
///
/// Responses and errors are judged by [`HttpClassify`]; only requests that may be done twice, or were certainly
/// not done, are sent again. A permit of the lock is held, and the breaker's judgement waits, until the body of
/// the response has been read or dropped: a stream that dies after a good head is a failure, and one that nobody
/// wants to the end counts as its head did.
///
/// A client by itself sends again, at once, what an HTTP/2 server refused or left behind when it went away: unseen
/// by these layers, and in the second case also what may not be done twice (see [`ErrorKind::GoAway`]). Build it
/// with `retry(reqwest::retry::never())`, and the retry of this stack decides.
///
/// To guard only the *making* of connections, give the layers to reqwest itself; it wants its own error back:
///
/// ```no_run
/// # use tower::ServiceBuilder;
/// # use tower_bulwark::{BoxError, Boxed, CircuitBreaker, Error};
/// let guard = ServiceBuilder::new()
///     .map_err(|error: Error<Boxed>| BoxError::from(error))
///     .layer(CircuitBreaker::new("connect").layer());
/// let client = reqwest::Client::builder().connector_layer(guard).build()?;
/// # Ok::<(), reqwest::Error>(())
/// ```
///
/// A cheap clone of shared parts. It is a tower service of [`reqwest::Request`] too, for stacks of your own
/// around it.
///
/// ```no_run
/// use tower_bulwark::http::ResilientClient;
/// use tower_bulwark::{CircuitBreaker, Error, ResourceLock, RetryPolicy};
///
/// # async fn ask() -> Result<(), Error<reqwest::Error>> {
/// let http = reqwest::Client::builder().retry(reqwest::retry::never()).build().map_err(Error::Inner)?;
/// let client = ResilientClient::new(
///     http,
///     &RetryPolicy::new(),
///     &CircuitBreaker::new("api"),
///     &ResourceLock::builder("api-slots").max_concurrent(8).build().expect("valid"),
/// );
/// let response = client.send(client.get_ref().get("http://localhost:8080/")).await?;
/// println!("{}: {}", response.url(), response.status());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ResilientClient {
    client: Client,
    stack: Stack,
}

impl ResilientClient {
    /// Puts `client` behind the layers of these handles.
    #[must_use]
    pub fn new(
        client: Client,
        retry: &RetryPolicy,
        breaker: &CircuitBreaker,
        lock: &ResourceLock,
    ) -> Self {
        Self::with_classifier(client, retry, breaker, lock, HttpClassify::new())
    }

    /// Like [`new`](Self::new), with a classifier set up otherwise: as [`sdk`](HttpClassify::sdk)s do, say.
    #[must_use]
    pub fn with_classifier(
        client: Client,
        retry: &RetryPolicy,
        breaker: &CircuitBreaker,
        lock: &ResourceLock,
        classify: HttpClassify,
    ) -> Self {
        let lock = lock.layer().until_body_end();
        let breaker = breaker.layer().classify(classify.clone()).until_body_end();
        let retry = retry.layer().classify(classify).requests(ReqwestRequests);
        Self {
            stack: retry.layer(breaker.layer(lock.layer(client.clone()))),
            client,
        }
    }

    /// The client, to make requests with.
    #[must_use]
    pub fn get_ref(&self) -> &Client {
        &self.client
    }

    /// Sends what a builder has built.
    ///
    /// # Errors
    ///
    /// [`Error::Inner`] for a request that cannot be built, else as [`execute`](Self::execute).
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, Error<reqwest::Error>> {
        self.execute(request.build().map_err(Error::Inner)?).await
    }

    /// Sends a request.
    ///
    /// Dropping the future drops the attempt that is running, leaves the queue, or ends the wait.
    ///
    /// # Errors
    ///
    /// [`Error::Exhausted`] when every attempt failed with an error, [`Error::CircuitOpen`] and
    /// [`Error::Contended`] when it was refused, [`Error::Inner`] for an error that is not worth a retry. The last
    /// bad *response* is no error: its status says what happened.
    pub async fn execute(&self, request: Request) -> Result<Response, Error<reqwest::Error>> {
        let mut stack = self.stack.clone();
        std::future::poll_fn(|cx| stack.poll_ready(cx)).await?;
        stack.call(request).await
    }
}

impl Service<Request> for ResilientClient {
    type Response = Response;
    type Error = Error<reqwest::Error>;
    type Future = ResilientFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.stack.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        ResilientFuture(Box::pin(self.stack.call(request)))
    }
}

/// The response of a [`ResilientClient`] that is used as a service.
#[must_use = "futures do nothing unless polled"]
pub struct ResilientFuture(
    // Named, and small to move: what it does takes a network's time.
    Pin<Box<<Stack as Service<Request>>::Future>>,
);

impl Future for ResilientFuture {
    type Output = Result<Response, Error<reqwest::Error>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResilientFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResilientFuture")
    }
}

impl fmt::Debug for ResilientClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let breaker = self.stack.get_ref();
        f.debug_struct("ResilientClient")
            .field("retry", self.stack.policy())
            .field("lock", breaker.get_ref().get_ref())
            .finish_non_exhaustive()
    }
}
