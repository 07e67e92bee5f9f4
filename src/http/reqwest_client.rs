//! `reqwest` behind all three layers.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::HeaderName;
use reqwest::{Client, Request, RequestBuilder, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::classify::HttpClassify;
#[cfg(doc)]
use super::error_kind::ErrorKind;
use super::handles::{AnsweredBy, HedgedAttempt};
use super::peek::PeekBodyLayer;
use super::requests::idempotency;
use super::reqwest_send::{
    Bottom, CostOfRequest, Inner, Marked, MarkedRequests, Marks, SendMarked,
};
use super::timeout::HttpTimeoutService;
use super::unsettled::SettleLater;
use super::until_body_end::{CircuitBreakerBodyLayer, ContentionBodyService};
use crate::call::Holder;
use crate::call::outcome::Idempotency;
use crate::circuit_breaker::CircuitBreaker;
use crate::contention::{AmbientHolder, HolderWith, ResourceLock};
use crate::error::{ConfigError, Error};
use crate::fallback::{Fallback, FallbackLayer};
use crate::hedge::{Hedge, HedgeService, MarkAnswer};
use crate::keyed::{Keyed, PerKeyLayer, PerKeyService};
use crate::rate_limit::{Cost, LearnNothing, PauseBy, RateLimit, RateLimitService};
use crate::retry::{CopyRequest, RequestConfig, RetryPolicy, RetryService};
use crate::stack::{Either, Stack, StackKind};
use crate::timeout::Timeouts;

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

type Locked = ContentionBodyService<
    SendMarked,
    reqwest::Error,
    HolderWith<fn(&Marked) -> Holder, AmbientHolder>,
>;

/// Given only so long.
type Timed = HttpTimeoutService<Locked, reqwest::Error>;

/// Behind a rate limit, or behind none.
type Limited = Either<RateLimitService<Timed, reqwest::Error, CostOfRequest, Learns>, Timed>;

type Learns = SettleLater<PauseBy<HttpClassify, LearnNothing>>;

type Guarded = PerKeyService<Limited, Authority, BreakerLayer, AuthorityOf, MakeLayer>;

/// With hedges, or without.
type Hedged =
    Either<HedgeService<Guarded, reqwest::Error, HttpClassify, MarkedRequests, MarkHedge>, Guarded>;

/// All of it, given only so long.
type Layers = HttpTimeoutService<
    RetryService<Hedged, reqwest::Error, HttpClassify, MarkedRequests>,
    reqwest::Error,
>;

/// Marks the response of a hedge with [`HedgedAttempt`](super::HedgedAttempt).
#[derive(Clone, Copy, Debug)]
struct MarkHedge;

impl MarkAnswer<Response> for MarkHedge {
    fn mark(&self, response: &mut Response, attempt: u32) {
        response.extensions_mut().insert(HedgedAttempt(attempt));
    }
}

type AuthorityOf = fn(&Marked) -> Authority;
type MakeLayer = Box<dyn Fn(&Authority) -> BreakerLayer + Send + Sync>;
type BreakerLayer = CircuitBreakerBodyLayer<reqwest::Error, HttpClassify>;

/// `host:port`
type Authority = Arc<str>;

/// So many hosts have a breaker of their own. Those beyond share one.
const MOST_HOSTS: usize = 1_000;

#[derive(Clone, Debug)]
enum Breakers {
    One(CircuitBreaker),
    ByAuthority {
        known: Keyed<String, CircuitBreaker>,
        /// Of those for which there is no room.
        others: CircuitBreaker,
    },
}

impl Breakers {
    fn by_authority(name: &str, known: Keyed<String, CircuitBreaker>) -> Self {
        Self::ByAuthority {
            known,
            others: CircuitBreaker::new(format!("{name} others")),
        }
    }

    fn of(&self, authority: &str) -> CircuitBreaker {
        match self {
            Self::One(breaker) => breaker.clone(),
            Self::ByAuthority { known, others } => {
                let known = known.get(authority);
                known.unwrap_or_else(|_| others.clone())
            }
        }
    }
}

/// A [`reqwest::Client`] behind all three layers: retry, circuit breaker, contention. (feature `reqwest`)
///
/// Responses and errors are judged by [`HttpClassify`]; only requests that may be done twice, or were certainly
/// not done, are sent again. A permit of the lock is held, and the breaker's judgement waits, until the body of
/// the response has been read or dropped: a stream that dies after a good head is a failure, and one that nobody
/// wants to the end counts as its head did.
///
/// None of its methods sends around the layers. A response carries [`Attempts`](super::Attempts) among its extensions. Each
/// attempt is a span of `tracing` with OpenTelemetry's names: `http.request.method`, `server.address`,
/// `http.request.resend_count`, `http.response.status_code`, `error.type`.
///
/// ```no_run
/// use std::time::Duration;
/// use tower_bulwark::http::ResilientClient;
///
/// # async fn ask() -> Result<(), Box<dyn std::error::Error>> {
/// let http = reqwest::Client::builder().retry(reqwest::retry::never()).build()?;
/// let client = ResilientClient::builder("openai", http).build()?;
///
/// let request = client
///     .post("http://localhost:8080/v1/answers")
///     .body("why is the sky blue?")
///     .idempotency_key("f3b1")
///     .timeout(Duration::from_secs(20));
/// let response = request.send().await?.error_for_status()?;
/// println!("{}", response.text().await?);
/// # Ok(())
/// # }
/// ```
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
/// around it. A layer of your own between the retry and the client is given to the
/// [builder](ResilientClientBuilder::layer).
#[derive(Clone)]
pub struct ResilientClient {
    /// Only makes requests.
    pub(super) client: Client,
    breakers: Breakers,
    lock: ResourceLock,
    stack: Layers,
}

/// Puts a [`ResilientClient`] together. Made by [`ResilientClient::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing before `build`"]
pub struct ResilientClientBuilder {
    name: Arc<str>,
    client: Client,
    retry: Option<RetryPolicy>,
    hedge: Option<Hedge>,
    /// Of the policy that is made if none is given.
    max_retries: u32,
    breakers: Option<Breakers>,
    lock: Option<ResourceLock>,
    classify: HttpClassify,
    attempt_header: Option<HeaderName>,
    peek: Option<PeekBodyLayer>,
    rate_limit: Option<RateLimit>,
    cost: CostOfRequest,
    timeouts: Option<Timeouts>,
    bottom: Bottom,
}

impl ResilientClientBuilder {
    /// Retries by this policy; its timeouts are those of the calls. Default: at most 3 retries within a budget of a
    /// fifth of the traffic, 15 seconds for an attempt, 60 for all of it, unless [`timeouts`](Self::timeouts) say so: most
    /// calls of an API end within seconds, and few callers wait for longer than a minute.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(policy);
        self
    }

    /// Sends each request once. The timeouts of the default policy stay.
    pub fn no_retry(mut self) -> Self {
        (self.retry, self.max_retries) = (None, 0);
        self
    }

    /// Sends a request that may be done twice once more, beside the attempt that takes long. Default: it does not. The hedge
    /// stands between the retry and the breaker, and its response carries [`HedgedAttempt`](super::HedgedAttempt).
    pub fn hedge(mut self, hedge: Hedge) -> Self {
        self.hedge = Some(hedge);
        self
    }

    /// Takes all parts from this stack, and those that it leaves out are left out. Its breaker is one for all hosts.
    pub fn stack(mut self, stack: &Stack) -> Self {
        self.retry = Some(stack.retry_or_none());
        self.hedge = stack.hedge().cloned();
        self.breakers = Some(Breakers::One(stack.breaker_or_none()));
        self.rate_limit = stack.rate_limit().cloned();
        let lock = stack.lock().cloned();
        self.lock = Some(lock.unwrap_or_else(|| ResourceLock::unlimited(stack.name())));
        self.timeouts = stack.timeouts().cloned();
        if stack.kind() == StackKind::Llm {
            self.classify = self.classify.sdk();
        }
        self
    }

    /// Guards the calls with these breakers, by the authority of the address (`api.example.com:443`). Default: one for each
    /// authority, up to 1,000, with the defaults of [`CircuitBreaker::new`] and the names `openai api.example.com:443`.
    /// Those for which there is no room share one.
    pub fn circuit_breakers(mut self, breakers: Keyed<String, CircuitBreaker>) -> Self {
        self.breakers = Some(Breakers::by_authority(&self.name, breakers));
        self
    }

    /// Guards all calls with this one breaker, wherever they go: for a client of one service.
    pub fn circuit_breaker(mut self, breaker: CircuitBreaker) -> Self {
        self.breakers = Some(Breakers::One(breaker));
        self
    }

    /// Lets all calls through: the breaker is [disabled](CircuitBreaker::disable).
    pub fn no_circuit_breaker(mut self) -> Self {
        self.breakers = Some(Breakers::One(CircuitBreaker::none(&*self.name)));
        self
    }

    /// Takes a permit of this lock for each call. Default: 64 permits, for which a call waits up to 30 seconds.
    pub fn lock(mut self, lock: ResourceLock) -> Self {
        self.lock = Some(lock);
        self
    }

    /// As many calls at once as are wanted, up to a million.
    pub fn no_lock(mut self) -> Self {
        self.lock = Some(ResourceLock::unlimited(Arc::clone(&self.name)));
        self
    }

    /// Lets each attempt wait for its turn at this limit. Default: none. It stands between the breaker and the lock; a `429`
    /// that says when to come back pauses everybody. The response carries [`Unsettled`](super::Unsettled): what the call has
    /// taken can be corrected when its body has been read.
    pub fn rate_limit(mut self, limit: RateLimit) -> Self {
        self.rate_limit = Some(limit);
        self
    }

    /// What an attempt takes of each quota of the rate limit: `|request| [1, estimate(request)]`. Default: one of each.
    pub fn cost<N: Into<Cost>>(
        mut self,
        cost: impl Fn(&Request) -> N + Send + Sync + 'static,
    ) -> Self {
        self.cost = CostOfRequest(Arc::new(move |request| cost(request).into()));
        self
    }

    /// Gives each attempt, and the body of its response, only so long; `total` bounds all attempts together, to the end of the
    /// body of the last. Default: an attempt, and all of them until the head of the response, end by the timeouts of the
    /// policy, and a body goes on for as long as it likes.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = Some(timeouts);
        self
    }

    /// Judges responses and errors otherwise: [as the clients of models do](HttpClassify::sdk), say.
    pub fn classify(mut self, classify: HttpClassify) -> Self {
        self.classify = classify;
        self
    }

    /// Sends the number of the attempt, from 1, in this header. Default: it is not sent.
    pub fn attempt_header(mut self, header: HeaderName) -> Self {
        self.attempt_header = Some(header);
        self
    }

    /// Reads the beginning of the bodies of bad answers, for [`HttpClassify::by_body`]. Default: nothing is read.
    pub fn peek_bodies(mut self, rules: PeekBodyLayer) -> Self {
        self.peek = Some(rules);
        self
    }

    /// Puts a layer of your own between the retry, breaker and lock and the client: it sees each attempt, as reqwest's
    /// own request. The last one given is the outermost. Its errors are reqwest's own.
    ///
    /// ```no_run
    /// use reqwest::header::{HeaderValue, USER_AGENT};
    /// use tower::util::MapRequestLayer;
    /// use tower_bulwark::http::ResilientClient;
    ///
    /// let client = ResilientClient::builder("api", reqwest::Client::new())
    ///     .layer(MapRequestLayer::new(|mut attempt: reqwest::Request| {
    ///         attempt.headers_mut().insert(USER_AGENT, HeaderValue::from_static("mine"));
    ///         attempt
    ///     }))
    ///     .build()?;
    /// # Ok::<(), tower_bulwark::ConfigError>(())
    /// ```
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Inner>,
        L::Service: Service<Request, Response = Response, Error = reqwest::Error>
            + Clone
            + Send
            + Sync
            + 'static,
        <L::Service as Service<Request>>::Future: Send + 'static,
    {
        let inner = match self.bottom {
            Bottom::Client(client) => Inner::new(client),
            Bottom::Layered(inner) => inner,
        };
        self.bottom = Bottom::Layered(Inner::new(layer.layer(inner)));
        self
    }

    /// The client.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if an attempt of the given policy, or the `head` of the timeouts, may take longer than all of it.
    pub fn build(self) -> Result<ResilientClient, ConfigError> {
        let name = self.name;
        let retry = match self.retry {
            Some(policy) => policy,
            None => default_retry(&name, self.max_retries, self.timeouts.as_ref())?,
        };
        check_times(&retry, self.timeouts.as_ref())?;
        let breakers = match self.breakers {
            Some(breakers) => breakers,
            None => default_breakers(&name)?,
        };
        let lock = match self.lock {
            Some(lock) => lock,
            None => ResourceLock::builder(&*name).max_concurrent(64).build()?,
        };
        let bottom = SendMarked {
            inner: self.bottom,
            attempt_header: self.attempt_header,
            peek: self.peek,
        };
        let holder = lock.layer().holder(Marked::holder as fn(&Marked) -> Holder);
        let locked = holder.until_body_end().layer(bottom);
        let timeouts = self.timeouts.unwrap_or_else(|| Timeouts::unlimited(&*name));
        let timed = timeouts.http_layer().without_total().layer(locked);
        let classify = self.classify;
        let cost = self.cost;
        let limit = self.rate_limit.map(|limit| {
            let layer = limit.layer().pause_by(classify.clone()).settle_later();
            layer.cost_of(cost)
        });
        let guarded = guard(&breakers, &classify).layer(Either::around(limit, timed));
        let hedge = self.hedge.map(|hedge| {
            let layer = hedge.layer().classify(classify.clone());
            layer.requests(MarkedRequests).marked_by(MarkHedge)
        });
        let hedged = Either::around(hedge, guarded);
        let retry = retry.layer().classify(classify).requests(MarkedRequests);
        let stack = timeouts
            .http_layer()
            .only_total()
            .layer(retry.layer(hedged));
        Ok(ResilientClient {
            breakers,
            lock,
            stack,
            client: self.client,
        })
    }
}

fn check_times(policy: &RetryPolicy, timeouts: Option<&Timeouts>) -> Result<(), ConfigError> {
    let limits = timeouts.map(|it| *it.config()).unwrap_or_default();
    if let (Some(head), Some(total)) = (limits.head, limits.total)
        && head >= total
    {
        let advice = "it has to be below `total`, or a service that hangs is never blamed";
        return Err(ConfigError::new("head", head, advice));
    }
    let config = policy.config();
    match (
        config.attempt_timeout(),
        config.total_timeout().or(limits.total),
    ) {
        (Some(attempt), Some(total)) if attempt > total => Err(ConfigError::new(
            "attempt_timeout",
            attempt,
            "no attempt can be longer than `total_timeout`: make it shorter",
        )),
        _ => Ok(()),
    }
}

fn default_breakers(name: &Arc<str>) -> Result<Breakers, ConfigError> {
    let named = Arc::clone(name);
    let make = move |host: &String| CircuitBreaker::new(format!("{named} {host}"));
    let known = Keyed::new(Arc::clone(name), MOST_HOSTS, make)?;
    Ok(Breakers::by_authority(name, known))
}

/// The breaker of each authority.
fn guard(
    breakers: &Breakers,
    classify: &HttpClassify,
) -> PerKeyLayer<Authority, BreakerLayer, AuthorityOf, MakeLayer> {
    let (known, classify) = (breakers.clone(), classify.clone());
    let make: MakeLayer = Box::new(move |authority| {
        let layer = known.of(authority).layer();
        layer.classify(classify.clone()).until_body_end()
    });
    let authority: AuthorityOf = Marked::authority;
    PerKeyLayer::new(MOST_HOSTS, authority, make)
}

/// Where the timeouts of the client say less.
fn default_retry(
    name: &Arc<str>,
    retries: u32,
    timeouts: Option<&Timeouts>,
) -> Result<RetryPolicy, ConfigError> {
    const ATTEMPT: Duration = Duration::from_secs(15);
    let limits = timeouts.map(|it| *it.config()).unwrap_or_default();
    let mut policy = RetryPolicy::builder()
        .name(Arc::clone(name))
        .max_retries(retries);
    if limits.total.is_none() {
        policy = policy.total_timeout(Duration::from_secs(60));
    }
    if limits.head.is_none() && limits.total.is_none_or(|total| ATTEMPT < total) {
        policy = policy.attempt_timeout(ATTEMPT);
    }
    policy.build()
}

impl ResilientClient {
    /// Puts `client` behind all three layers, with defaults that are right for an API. `name` is that of the policy and the
    /// lock that the builder makes, and the names of the breakers begin with it.
    pub fn builder(name: impl Into<Arc<str>>, client: Client) -> ResilientClientBuilder {
        ResilientClientBuilder {
            name: name.into(),
            bottom: Bottom::Client(client.clone()),
            client,
            retry: None,
            hedge: None,
            max_retries: 3,
            breakers: None,
            lock: None,
            classify: HttpClassify::new(),
            attempt_header: None,
            peek: None,
            rate_limit: None,
            cost: CostOfRequest(Arc::new(|_| Cost::ONE)),
            timeouts: None,
        }
    }

    /// Sends what a builder of reqwest has built, through the layers of this client.
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
        self.execute_marked(Marked::new(request, Marks::default()))
            .await
    }

    pub(super) async fn execute_marked(
        &self,
        request: Marked,
    ) -> Result<Response, Error<reqwest::Error>> {
        let mut stack = self.stack.clone();
        std::future::poll_fn(|cx| stack.poll_ready(cx)).await?;
        stack.call(request).await
    }

    /// The policy by which it retries.
    #[must_use]
    pub fn policy(&self) -> &RetryPolicy {
        self.stack.get_ref().policy()
    }

    /// The breaker that guards calls of this authority: `api.example.com:443`, with the port also where an address leaves it
    /// out.
    #[must_use]
    pub fn breaker(&self, authority: &str) -> CircuitBreaker {
        self.breakers.of(authority)
    }

    /// The lock of which each call takes a permit.
    #[must_use]
    pub fn resource(&self) -> &ResourceLock {
        &self.lock
    }
}

impl Stack {
    /// `client` with all parts of this stack. For one that judges otherwise, or costs more than one of each quota:
    /// [`ResilientClient::builder`] with [`stack`](ResilientClientBuilder::stack).
    ///
    /// For [`llm`](Stack::llm) answers are judged [as the clients of models do](HttpClassify::sdk).
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if the times of a part have been changed since, so that they do not fit together.
    pub fn reqwest(&self, client: Client) -> Result<ResilientClient, ConfigError> {
        let builder = ResilientClient::builder(self.name(), client);
        builder.stack(self).build()
    }
}

impl Fallback {
    /// A layer for requests of reqwest, around a [`ResilientClient`] or a client: responses and errors are judged by
    /// [`HttpClassify`], and a response of another than the first carries [`AnsweredBy`].
    ///
    /// A request whose body is a stream goes to the first alone. A target at another address is given it by
    /// [`map_request`](FallbackLayer::map_request).
    #[must_use]
    pub fn reqwest_layer(
        &self,
    ) -> FallbackLayer<Request, Response, reqwest::Error, HttpClassify, ReqwestRequests> {
        self.layer()
            .classify(HttpClassify::new())
            .requests(ReqwestRequests)
            .mark(|response: &mut Response, target| {
                let by = AnsweredBy(target.into());
                response.extensions_mut().insert(by);
            })
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
        let request = Marked::new(request, Marks::default());
        ResilientFuture(Box::pin(self.stack.call(request)))
    }
}

/// The response of a [`ResilientClient`] that is used as a service.
#[must_use = "futures do nothing unless polled"]
pub struct ResilientFuture(
    // Named, and small to move: what it does takes a network's time.
    Pin<Box<<Layers as Service<Marked>>::Future>>,
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
        f.debug_struct("ResilientClient")
            .field("retry", self.policy())
            .field("breakers", &self.breakers)
            .field("lock", self.resource())
            .finish_non_exhaustive()
    }
}
