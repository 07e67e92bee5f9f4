//! The stack around a real client, against a real server on loopback whose faults are scripted.

mod support;

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::TokioExecutor;
use support::{Fault, Server};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_bulwark::circuit_breaker::CircuitBreaker;
use tower_bulwark::{
    Backoff, CircuitState, Error, Jitter, ResourceLock, RetryBudget, RetryPolicy, StopReason,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn retry() -> tower_bulwark::retry::RetryPolicyBuilder {
    RetryPolicy::builder()
        .backoff(Backoff::fixed(MS))
        .jitter(Jitter::None)
}

fn get(server: &Server) -> Request<Full<Bytes>> {
    Request::get(server.uri()).body(Full::default()).unwrap()
}

fn is_bad(response: &Response<Incoming>) -> bool {
    response.status().is_server_error() || response.status() == StatusCode::TOO_MANY_REQUESTS
}

fn retry_after(result: Result<&Response<Incoming>, &ClientError>) -> Option<Duration> {
    let seconds = result
        .ok()?
        .headers()
        .get("retry-after")?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

/// `Retry(CircuitBreaker(Contention(hyper client)))`.
fn stack(
    retry: &RetryPolicy,
    breaker: &CircuitBreaker,
    lock: &ResourceLock,
) -> impl Service<
    Request<Full<Bytes>>,
    Response = Response<Incoming>,
    Error = Error<ClientError>,
    Future: Send,
> + Clone
+ use<> {
    ServiceBuilder::new()
        .layer(
            retry
                .layer()
                .retry_response_if(is_bad)
                .delay_from(retry_after),
        )
        .layer(
            breaker
                .layer()
                .response_failure_if(|r: &Response<Incoming>| r.status().is_server_error()),
        )
        .layer(lock.layer())
        .service(
            Client::builder(TokioExecutor::new())
                .retry_canceled_requests(false)
                .build_http(),
        )
}

#[tokio::test]
async fn errors_and_bad_statuses_are_retried_until_the_server_is_well() {
    let server = Server::start([
        Fault::Status(503, None),
        Fault::Hangup,
        Fault::Status(500, None),
    ])
    .await;
    let (breaker, lock) = (CircuitBreaker::new("b"), ResourceLock::new("l"));
    let policy = retry().max_retries(3).build().unwrap();
    let response = stack(&policy, &breaker, &lock)
        .oneshot(get(&server))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(server.requests(), 4);
    let totals = breaker.snapshot().totals;
    assert_eq!((totals.failures, totals.successes), (3, 1));
    assert_eq!(
        lock.snapshot().stats.acquisitions,
        4,
        "a permit for each attempt"
    );
}

#[tokio::test]
async fn the_last_bad_response_is_the_callers() {
    let server = Server::start(vec![Fault::Status(503, None); 10]).await;
    let (breaker, lock) = (CircuitBreaker::new("b"), ResourceLock::new("l"));
    let policy = retry().max_retries(2).build().unwrap();
    let response = stack(&policy, &breaker, &lock)
        .oneshot(get(&server))
        .await
        .unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(server.requests(), 3);
}

#[tokio::test]
async fn the_delay_is_the_servers_when_it_names_one() {
    let server = Server::start([Fault::Status(429, Some(1))]).await;
    let (breaker, lock) = (CircuitBreaker::new("b"), ResourceLock::new("l"));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let policy = retry()
        .on_retry(move |failed| tell.send((failed.attempt, failed.delay)).unwrap())
        .build()
        .unwrap();
    let response = stack(&policy, &breaker, &lock)
        .oneshot(get(&server))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let (attempt, delay) = told.recv().await.unwrap();
    assert_eq!(attempt, 1);
    assert!(
        (SECOND..=SECOND + SECOND / 10).contains(&delay),
        "{delay:?}"
    );
    assert_eq!(
        breaker.snapshot().totals.failures,
        0,
        "throttling is not an outage"
    );
}

#[tokio::test]
async fn a_delay_that_is_too_long_is_not_waited_for() {
    let server = Server::start([Fault::Status(429, Some(4_000_000_000))]).await;
    let (breaker, lock) = (CircuitBreaker::new("b"), ResourceLock::new("l"));
    let policy = retry().max_retry_after(30 * SECOND).build().unwrap();
    let response = stack(&policy, &breaker, &lock)
        .oneshot(get(&server))
        .await
        .unwrap();
    assert_eq!(response.status(), 429);
    assert_eq!(server.requests(), 1);
    assert_eq!(policy.snapshot().gave_up, 1);
}

#[tokio::test]
async fn a_dead_server_is_left_alone_and_probed_when_the_time_has_come() {
    let server = Server::start(vec![Fault::Status(500, None); 5]).await;
    let breaker = CircuitBreaker::builder("b")
        .consecutive_failures(5)
        .success_threshold(1)
        .build()
        .unwrap();
    let lock = ResourceLock::builder("l")
        .max_concurrent(4)
        .build()
        .unwrap();
    let policy = retry().max_retries(0).build().unwrap();
    let service = stack(&policy, &breaker, &lock);
    for _ in 0..5 {
        assert_eq!(
            service
                .clone()
                .oneshot(get(&server))
                .await
                .unwrap()
                .status(),
            500
        );
    }
    for _ in 0..100 {
        let refused = service.clone().oneshot(get(&server)).await.unwrap_err();
        assert!(matches!(refused, Error::CircuitOpen(_)), "{refused}");
    }
    assert_eq!(server.requests(), 5, "not one of the hundred reached it");

    // A patient retry comes back when the breaker says, and its probe closes the circuit.
    breaker.open_for(20 * MS);
    let patient = retry()
        .max_retries(1)
        .retry_rejections(true)
        .build()
        .unwrap();
    let probe = stack(&patient, &breaker, &lock).oneshot(get(&server)).await;
    assert_eq!(probe.unwrap().status(), 200);
    assert_eq!(breaker.state(), CircuitState::Closed);
    assert_eq!(server.requests(), 6);
}

#[tokio::test]
async fn never_more_at_once_than_there_are_permits() {
    let server = Server::start(vec![Fault::Hold; 20]).await;
    let (breaker, policy) = (CircuitBreaker::new("b"), retry().build().unwrap());
    let lock = ResourceLock::builder("l")
        .max_concurrent(3)
        .build()
        .unwrap();
    let service = stack(&policy, &breaker, &lock);
    let requests = join_all((0..20).map(|_| service.clone().oneshot(get(&server))));
    let watch = async {
        for seen in 3..=20 {
            server.has_seen(seen).await;
            server.release(1);
        }
        server.release(3);
    };
    let (results, ()) = futures::join!(requests, watch);
    assert!(results.into_iter().all(|r| r.unwrap().status() == 200));
    assert_eq!(server.most_at_once(), 3);
    let snapshot = lock.snapshot();
    assert_eq!(
        (
            snapshot.in_use,
            snapshot.waiting,
            snapshot.stats.acquisitions
        ),
        (0, 0, 20)
    );
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_nothing_behind() {
    let server = Server::start(vec![Fault::Hold; 10]).await;
    let (breaker, policy) = (CircuitBreaker::new("b"), retry().build().unwrap());
    let lock = ResourceLock::builder("l")
        .max_concurrent(2)
        .build()
        .unwrap();
    let service = stack(&policy, &breaker, &lock);
    let calls: Vec<_> = (0..6)
        .map(|_| tokio::spawn(service.clone().oneshot(get(&server))))
        .collect();
    server.has_seen(2).await;
    for call in &calls {
        call.abort();
    }
    for call in calls {
        assert!(call.await.unwrap_err().is_cancelled());
    }
    let snapshot = lock.snapshot();
    assert_eq!((snapshot.in_use, snapshot.waiting), (0, 0));
    let totals = breaker.snapshot().totals;
    assert_eq!((totals.successes, totals.failures), (0, 0));
}

#[tokio::test]
async fn an_outage_does_not_multiply_the_load() {
    let server = Server::start(vec![Fault::Status(500, None); 1_000]).await;
    let lock = ResourceLock::builder("l")
        .max_concurrent(8)
        .build()
        .unwrap();
    let breaker = CircuitBreaker::new("b");
    breaker.disable();
    let budget = RetryBudget::builder()
        .ratio(0.2)
        .floor_per_second(0.0)
        .burst(10)
        .build();
    let policy = retry()
        .max_retries(3)
        .budget(budget.unwrap())
        .build()
        .unwrap();
    let service = stack(&policy, &breaker, &lock);
    for _ in 0..100 {
        assert_eq!(
            service
                .clone()
                .oneshot(get(&server))
                .await
                .unwrap()
                .status(),
            500
        );
    }
    // 100 requests, 20 % of them again, and the burst that a full bucket allows.
    assert!(
        server.requests() <= 100 + 20 + 10,
        "{} requests",
        server.requests()
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_of_the_client() {
    let uri = Server::start([]).await.uri();
    let policy = retry().max_retries(2).build().unwrap();
    let service = stack(&policy, &CircuitBreaker::new("b"), &ResourceLock::new("l"));
    let request = Request::get(uri).body(Full::default()).unwrap();
    let Error::Exhausted(gave_up) = service.oneshot(request).await.unwrap_err() else {
        panic!("not exhausted");
    };
    assert_eq!(
        (gave_up.attempts(), gave_up.reason()),
        (3, StopReason::MaxRetries)
    );
    assert!(
        gave_up
            .last()
            .as_inner()
            .is_some_and(ClientError::is_connect)
    );
}
