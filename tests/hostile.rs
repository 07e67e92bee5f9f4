//! Servers that mean harm: headers without end, waits of ages, answers that never come or never end. And a server
//! of ours that is asked for more than it can do.

#![cfg(feature = "hyper")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_bulwark::circuit_breaker::Window;
use tower_bulwark::deadline::{self, Deadline};
use tower_bulwark::http::{IdleTimeoutLayer, problem};
use tower_bulwark::{Backoff, CircuitBreaker, Error, ResourceLock, RetryPolicy, StopReason};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const CALLS: u64 = 2_000;

/// A number that is as good as drawn, the same for the same arguments.
fn dice(seed: u64, a: u64, b: u64) -> u64 {
    let mut x =
        seed ^ a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    for _ in 0..2 {
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
    }
    x
}

fn id_in(headers: &HeaderMap) -> u64 {
    headers["x-id"].to_str().unwrap().parse().unwrap()
}

fn hyper_client() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

// ---- A server behind the layers ----------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn axum_refuses_with_problems_and_never_works_on_more_than_it_may() {
    let lock = ResourceLock::builder("handlers")
        .max_concurrent(4)
        .max_waiting(4)
        .timeout(20 * MS)
        .build()
        .unwrap();
    let breaker = CircuitBreaker::builder("handlers")
        .failure_rate(0.5, Window::calls(20))
        .recovery_timeout(5 * MS)
        .build()
        .unwrap();
    let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let handler = {
        let (inside, most) = (Arc::clone(&inside), Arc::clone(&most));
        move |headers: HeaderMap| async move {
            let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            tokio::task::yield_now().await;
            let id = id_in(&headers);
            inside.fetch_sub(1, Ordering::SeqCst);
            match dice(7, id, 0) % 5 {
                0 => StatusCode::INTERNAL_SERVER_ERROR,
                _ => StatusCode::OK,
            }
        }
    };
    let limits = ServiceBuilder::new()
        .layer(
            breaker
                .http_layer::<Infallible>()
                .reject_with(problem::<axum::body::Body>),
        )
        .layer(
            lock.layer::<Infallible>()
                .holder(|request: &axum::extract::Request| id_in(request.headers()))
                .reject_with(problem::<axum::body::Body>),
        );
    let router = Router::new()
        .route("/", axum::routing::get(handler))
        .layer(limits);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    let client = hyper_client();
    let counts = Mutex::new(HashMap::<u16, u64>::new());
    let call = |id: u64| {
        let (client, uri, counts) = (client.clone(), &uri, &counts);
        async move {
            let request = Request::get(uri.as_str()).header("x-id", id);
            let response = client.request(request.body(Full::default()).unwrap()).await;
            let response = response.unwrap();
            let status = response.status().as_u16();
            if matches!(status, 429 | 503) {
                assert_eq!(
                    response.headers()["content-type"],
                    "application/problem+json"
                );
                let wait = response.headers().get("retry-after").cloned();
                let body = response.into_body().collect().await.unwrap().to_bytes();
                let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
                assert_eq!(
                    (&body["status"], &body["resource"]),
                    (&status.into(), &"handlers".into())
                );
                assert_eq!(wait.is_some(), body.get("retry_after").is_some());
            }
            *counts.lock().unwrap().entry(status).or_default() += 1;
        }
    };
    stream::iter(0..CALLS).for_each_concurrent(64, call).await;
    let counts = counts.into_inner().unwrap();
    assert_eq!(counts.values().sum::<u64>(), CALLS, "{counts:?}");
    assert!(most.load(Ordering::SeqCst) <= 4);
    assert!(counts[&200] > 0 && counts[&429] > 0, "{counts:?}");
    let (snapshot, totals) = (lock.snapshot(), breaker.snapshot().totals);
    assert_eq!((snapshot.in_use, snapshot.waiting), (0, 0));
    // A refusal of the lock is a response by the time the breaker sees it: the 429 of an overload.
    assert_eq!(totals.successes, counts[&200], "{counts:?}");
}

// ---- Servers that mean harm --------------------------------------------------------------------------

/// Sends `hello`, and then `more` again and again for as long as anybody reads. Counts the bytes.
async fn endless(
    hello: &'static str,
    more: &'static str,
    tasks: &mut JoinSet<()>,
) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1_024];
            let _ = stream.read(&mut request).await;
            let mut next = hello;
            // Ends when the client does; a write that nobody reads waits.
            while !next.is_empty() && stream.write_all(next.as_bytes()).await.is_ok() {
                count.fetch_add(next.len(), Ordering::SeqCst);
                next = more;
            }
        }
    });
    (uri, sent)
}

fn get(uri: &str) -> Request<Full<Bytes>> {
    Request::get(uri).body(Full::default()).unwrap()
}

#[tokio::test]
async fn headers_without_end_end_the_call() {
    let mut tasks = JoinSet::new();
    let more =
        "x-more: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n";
    let (uri, sent) = endless("HTTP/1.1 200 OK\r\n", more, &mut tasks).await;
    let retry = RetryPolicy::builder()
        .total_timeout(20 * SECOND)
        .build()
        .unwrap();
    let breaker = CircuitBreaker::new("hostile");
    let service = ServiceBuilder::new()
        .layer(retry.http_layer())
        .layer(breaker.http_layer())
        .service(hyper_client());
    let error = service.oneshot(get(&uri)).await.unwrap_err();
    assert!(
        matches!(error, Error::Inner(_)),
        "an answer that cannot be read: {error:?}"
    );
    assert_eq!(breaker.snapshot().totals.failures, 1);
    let sent = sent.load(Ordering::SeqCst);
    assert!(sent < 64 << 20, "{sent} bytes were taken");
}

#[tokio::test]
async fn a_wait_of_thirty_billion_years_is_not_waited() {
    let mut tasks = JoinSet::new();
    let hello = "HTTP/1.1 503 No\r\nretry-after: 1000000000000000000\r\ncontent-length: 0\r\n\r\n";
    let (uri, _) = endless(hello, "", &mut tasks).await;
    let policy = RetryPolicy::new();
    let service = policy.http_layer().layer(hyper_client());
    let response = service.oneshot(get(&uri)).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        (policy.snapshot().retries, policy.snapshot().gave_up),
        (0, 1)
    );
}

#[tokio::test]
async fn a_head_that_never_comes_ends_with_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    let policy = RetryPolicy::builder()
        .attempt_timeout(30 * MS)
        .backoff(Backoff::fixed(MS))
        .total_timeout(100 * MS)
        .build()
        .unwrap();
    let service = policy.http_layer().layer(hyper_client());
    let Err(Error::Exhausted(gave_up)) = service.oneshot(get(&uri)).await else {
        panic!("answered by nobody");
    };
    assert!(
        matches!(
            gave_up.reason(),
            StopReason::Deadline | StopReason::MaxRetries
        ),
        "{gave_up:?}"
    );
}

#[tokio::test]
async fn a_body_without_end_ends_with_the_deadline_and_gives_the_permit_back() {
    let mut tasks = JoinSet::new();
    let hello = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let (uri, _) = endless(hello, "5\r\nhello\r\n", &mut tasks).await;
    let lock = ResourceLock::new("hostile");
    let service = ServiceBuilder::new()
        .layer(lock.layer().until_body_end())
        .layer(IdleTimeoutLayer::deadline_only())
        .service(hyper_client());
    let left = Deadline::after(50 * MS);
    let response = deadline::scope(left, service.oneshot(get(&uri)))
        .await
        .unwrap();
    assert_eq!(lock.snapshot().in_use, 1);
    let mut body = response.into_body();
    // As much as comes until the deadline, and no byte of it is kept.
    let ended = loop {
        match body.frame().await {
            Some(Ok(_)) => {}
            other => break other,
        }
    };
    assert!(ended.is_some_and(|it| it.is_err()));
    assert_eq!(lock.snapshot().in_use, 0);
    assert!(left.is_over());
}
