//! Where the parts meet: the stack of the documentation, as a user builds it, over a real HTTP client and server, in
//! processes that share a breaker, a rate limit and a lock.

mod bodies;
mod cancelled;
#[cfg(feature = "tonic")]
mod grpc;
#[cfg(all(feature = "dashboard", feature = "metrics"))]
mod numbers;
mod outage;
mod probes;
mod refusals;
mod retries;
mod upstream;
mod waits;

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::TokioExecutor;
use tower::util::BoxCloneService;
use tower::{ServiceBuilder, ServiceExt};
use tower_bulwark::circuit_breaker::CircuitBreakerTotals;
use tower_bulwark::fleet::breaker::BreakerShare;
use tower_bulwark::fleet::lock::{FleetGuard, FleetLockBuilder};
use tower_bulwark::fleet::rate_limit::FleetRateLimitBuilder;
use tower_bulwark::fleet::{Fleet, FleetLock, FleetRateLimit, SharedBreaker};
use tower_bulwark::http::GuardedBody;
use tower_bulwark::rate_limit::Quota;
use tower_bulwark::{Backoff, CircuitBreaker, Error, Jitter, RetryPolicy};

use super::support::server::Server;
use super::support::until;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

type Ask = Request<Full<Bytes>>;
type Answer = Response<GuardedBody<Incoming, FleetGuard>>;
type Failure = Error<ClientError>;

/// What differs from process to process.
struct Settings {
    retry: RetryPolicy,
    /// For how long the breakers are open.
    open_for: Duration,
    lock: fn(FleetLockBuilder) -> FleetLockBuilder,
    limit: fn(FleetRateLimitBuilder) -> FleetRateLimitBuilder,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            retry: RetryPolicy::none(),
            open_for: 60 * SECOND,
            lock: |lock| lock,
            limit: |limit| limit.quota("calls", Quota::per_second(10_000)).exact(),
        }
    }
}

/// One process of a fleet: its own connection, its own breaker, the same names.
struct Process {
    fleet: Fleet,
    share: BreakerShare,
    limit: FleetRateLimit,
    lock: FleetLock,
    retry: RetryPolicy,
    client: Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>,
}

impl Process {
    async fn start(url: &str, node: &str, settings: Settings) -> Self {
        // A machine that builds something is slow.
        let fleet = Fleet::builder(url).node(node).call_timeout(500 * MS);
        let fleet = fleet.connect_timeout(10 * SECOND).connect().await.unwrap();
        Self::of(fleet, settings)
    }

    fn of(fleet: Fleet, settings: Settings) -> Self {
        let breaker = CircuitBreaker::builder("api").consecutive_failures(3);
        let breaker = breaker.recovery_timeout(settings.open_for).build().unwrap();
        // One failure that is told opens all.
        let touchy = SharedBreaker {
            min_nodes: 1,
            minimum_calls: 1,
            failure_rate: 0.001,
            store_timeout: 500 * MS,
            open_for: settings.open_for,
            ..SharedBreaker::default()
        };
        let limit = (settings.limit)(fleet.rate_limit("api")).store_timeout(500 * MS);
        Self {
            share: fleet.share(&breaker, touchy).unwrap(),
            limit: limit.build().unwrap(),
            lock: (settings.lock)(fleet.lock("api")).build().unwrap(),
            retry: settings.retry,
            client: Client::builder(TokioExecutor::new()).build_http(),
            fleet,
        }
    }

    fn breaker(&self) -> &CircuitBreaker {
        self.share.breaker()
    }

    fn totals(&self) -> CircuitBreakerTotals {
        self.breaker().snapshot().totals
    }

    /// As the documentation orders it.
    fn stack(&self) -> BoxCloneService<Ask, Answer, Failure> {
        let stack = ServiceBuilder::new()
            .layer(self.retry.http_layer())
            .layer(self.breaker().http_layer())
            .layer(self.limit.http_layer().settle_later())
            .layer(self.lock.layer().until_body_end())
            .service(self.client.clone());
        BoxCloneService::new(stack)
    }

    async fn send(&self, method: Method, uri: String) -> Result<Answer, Failure> {
        let request = Request::builder().method(method).uri(uri);
        let request = request.body(Full::from("{\"pay\":1}")).unwrap();
        self.stack().oneshot(request).await
    }

    async fn post(&self, uri: String) -> Result<Answer, Failure> {
        self.send(Method::POST, uri).await
    }

    /// Another call, and the store has heard of everything that the breaker has counted so far.
    async fn reports(&self, uri: String) {
        // What was held is given back a moment later.
        until("it passes", || async {
            self.post(uri.clone()).await.is_ok()
        })
        .await;
        let before = self.share.snapshot().commands;
        until("it has reported", || async {
            self.share.snapshot().commands > before
        })
        .await;
    }
}

/// Two processes on one server, or nothing on a machine that has none.
async fn two(settings: fn() -> Settings) -> Option<(Server, [Process; 2])> {
    let server = Server::start(&[]).await?;
    let a = Process::start(&server.url(), "a", settings()).await;
    let b = Process::start(&server.url(), "b", settings()).await;
    Some((server, [a, b]))
}

fn quickly() -> tower_bulwark::retry::RetryPolicyBuilder {
    let retry = RetryPolicy::builder().backoff(Backoff::fixed(20 * MS));
    retry.jitter(Jitter::None)
}
