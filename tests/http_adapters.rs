//! The HTTP adapters against real servers and real clients: what errors look like on the wire, the client that is
//! one call, deadlines in headers, refusals as problems.

#![cfg(feature = "reqwest")]
#![expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]

#[path = "support/goaway.rs"]
mod goaway;
#[allow(dead_code, reason = "shared with other tests, which use more of it")]
mod support;

use std::future::ready;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use goaway::GoesAway;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use support::{Fault, Server};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::deadline::{self, Deadline};
use tower_bulwark::http::{
    Attempts, ErrorKind, MarkedIdempotent, MaxRetries, ReceiveDeadlineLayer, ResilientClient,
    SendDeadlineLayer, deadline_exceeded, problem, problem_with_name,
};
use tower_bulwark::{
    Backoff, BoxError, Boxed, CircuitBreaker, Error, Holder, Jitter, Rejection, ResourceLock,
    RetryPolicy, StopReason,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn quick() -> RetryPolicy {
    let policy = RetryPolicy::builder().backoff(Backoff::fixed(MS));
    policy.jitter(Jitter::None).build().unwrap()
}

/// An address on which nobody listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}/", listener.local_addr().unwrap())
}

fn hyper() -> Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

/// With the crypto provider that the tests bring; only plain HTTP is spoken here.
fn reqwest_client() -> reqwest::Client {
    // An error says that another test was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

fn request<U>(method: Method, uri: U) -> Request<Full<Bytes>>
where
    U: TryInto<http::Uri, Error: Into<http::Error>>,
{
    let request = Request::builder().method(method).uri(uri);
    request.body(Full::from("x")).unwrap()
}

// ---- Errors -------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_refused_connection_is_one_to_hyper_and_to_reqwest() {
    let error = hyper()
        .request(request(Method::POST, nobody().await))
        .await
        .unwrap_err();
    assert_eq!(ErrorKind::of(&error), ErrorKind::Connect);
    let error = reqwest_client()
        .get(nobody().await)
        .send()
        .await
        .unwrap_err();
    assert_eq!(ErrorKind::of(&error), ErrorKind::Connect);
}

#[tokio::test]
async fn a_connection_that_ends_without_an_answer_is_broken_to_hyper_and_to_reqwest() {
    let server = Server::start([Fault::Hangup, Fault::Hangup, Fault::Hangup]).await;
    let error = hyper()
        .request(request(Method::POST, server.uri()))
        .await
        .unwrap_err();
    assert_eq!(ErrorKind::of(&error), ErrorKind::Broken, "{error:?}");
    let error = reqwest_client()
        .post(server.uri().to_string())
        .send()
        .await
        .unwrap_err();
    assert_eq!(ErrorKind::of(&error), ErrorKind::Broken, "{error:?}");
}

#[tokio::test]
async fn a_timeout_of_reqwest_is_one_and_so_is_one_of_tokio() {
    let server = Server::start([Fault::Hold]).await;
    let error = reqwest_client()
        .get(server.uri().to_string())
        .timeout(20 * MS)
        .send()
        .await
        .unwrap_err();
    assert_eq!(ErrorKind::of(&error), ErrorKind::TimedOut, "{error:?}");
    let elapsed = tokio::time::timeout(MS, std::future::pending::<()>()).await;
    assert_eq!(ErrorKind::of(&elapsed.unwrap_err()), ErrorKind::TimedOut);
}

#[tokio::test]
async fn a_wrong_url_is_the_requests_own_fault() {
    let error = reqwest_client().get("http://").build().unwrap_err();
    assert_eq!(ErrorKind::of(&error), ErrorKind::Request);
}

// ---- HTTP/2 -------------------------------------------------------------------------------------------

/// An HTTP/2 server that resets its first streams with these reasons, and answers `200` from then on. Gives its
/// address, and counts the streams it has seen.
async fn resets(reasons: Vec<h2::Reason>) -> (String, Arc<AtomicUsize>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    let seen = Arc::new(AtomicUsize::new(0));
    let (count, reasons) = (Arc::clone(&seen), Arc::new(Mutex::new(reasons.into_iter())));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (count, reasons) = (Arc::clone(&count), Arc::clone(&reasons));
            connections.spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else {
                    return;
                };
                while let Some(Ok((_request, mut respond))) = connection.accept().await {
                    count.fetch_add(1, Ordering::SeqCst);
                    let reason = reasons.lock().unwrap().next();
                    match reason {
                        Some(reason) => respond.send_reset(reason),
                        None => drop(respond.send_response(Response::new(()), true)),
                    }
                }
            });
        }
    });
    (address, seen, tasks)
}

fn http2() -> Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new())
        .http2_only(true)
        .retry_canceled_requests(false)
        .build_http()
}

#[tokio::test]
async fn a_reset_stream_is_what_its_reason_says() {
    for (reason, kind) in [
        (h2::Reason::REFUSED_STREAM, ErrorKind::Unsent),
        (h2::Reason::ENHANCE_YOUR_CALM, ErrorKind::EnhanceYourCalm),
        (h2::Reason::INTERNAL_ERROR, ErrorKind::Broken),
        (h2::Reason::CANCEL, ErrorKind::Broken),
    ] {
        let (address, _, _server) = resets(vec![reason]).await;
        let post = request(Method::POST, address);
        let error = http2().request(post).await.unwrap_err();
        assert_eq!(ErrorKind::of(&error), kind, "{reason:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_at_once_whatever_the_method_and_costs_nothing() {
    let (address, seen, _server) = resets(vec![h2::Reason::REFUSED_STREAM]).await;
    let breaker = CircuitBreaker::new("api");
    // One attempt more is all there is, and there is no time to wait for it.
    let policy = RetryPolicy::builder()
        .backoff(Backoff::fixed(3_600 * SECOND))
        .max_delay(3_600 * SECOND)
        .max_retries(1)
        .build()
        .unwrap();
    let service = ServiceBuilder::new()
        .layer(policy.http_layer())
        .layer(breaker.http_layer())
        .service(http2());
    let response = service
        .oneshot(request(Method::POST, address))
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(seen.load(Ordering::SeqCst), 2);
    let totals = breaker.snapshot().totals;
    assert_eq!(
        (totals.ignored, totals.failures, totals.successes),
        (1, 0, 1)
    );
}

#[tokio::test]
async fn a_post_whose_stream_broke_is_not_sent_again_and_a_put_is() {
    for (method, streams) in [(Method::POST, 1), (Method::PUT, 2)] {
        let (address, seen, _server) = resets(vec![h2::Reason::INTERNAL_ERROR]).await;
        let service = quick().http_layer().layer(http2());
        let result = service.oneshot(request(method.clone(), address)).await;
        assert_eq!(result.is_ok(), streams == 2, "{method}");
        assert_eq!(seen.load(Ordering::SeqCst), streams, "{method}");
    }
}

/// A stream above the last one that was looked at was not begun. But `hyper` gives the same error to a request that
/// was sent when the `GOAWAY` came, so it is proof of nothing.
#[tokio::test]
async fn a_server_that_goes_away_is_asked_again_at_once_for_what_may_be_done_twice() {
    for (last_stream, kind) in [(0, ErrorKind::GoAway), (1, ErrorKind::Broken)] {
        let server = GoesAway::start(last_stream).await;
        let post = request(Method::POST, server.uri.clone());
        let error = http2().request(post).await.unwrap_err();
        assert_eq!(ErrorKind::of(&error), kind, "{error:?}");
    }
    for (method, requests) in [(Method::POST, 1), (Method::PUT, 2)] {
        let server = GoesAway::start(0).await;
        let breaker = CircuitBreaker::new("api");
        // There is no time to wait for another attempt.
        let policy = RetryPolicy::builder()
            .backoff(Backoff::fixed(3_600 * SECOND))
            .max_delay(3_600 * SECOND)
            .build()
            .unwrap();
        let service = ServiceBuilder::new()
            .layer(policy.http_layer())
            .layer(breaker.http_layer())
            .service(http2());
        let uri = server.uri.clone();
        let result = service.oneshot(request(method.clone(), uri)).await;
        assert_eq!(result.is_ok(), requests == 2, "{method}: {result:?}");
        assert_eq!(server.requests(), requests, "{method}");
        let totals = breaker.snapshot().totals;
        assert_eq!((totals.ignored, totals.failures), (1, 0));
    }
}

// ---- Layers -------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_post_goes_again_after_a_429_and_not_after_a_500() {
    for (status, requests) in [(429, 2), (500, 1), (503, 1)] {
        let server = Server::start([Fault::Status(status, None)]).await;
        let service = quick().http_layer().layer(hyper());
        let post = request(Method::POST, server.uri());
        let response = service.oneshot(post).await.unwrap();
        assert_eq!(server.requests(), requests, "{status}");
        assert_eq!(response.status().is_success(), requests == 2, "{status}");
    }
}

#[tokio::test]
async fn a_post_goes_again_after_a_500_if_it_is_marked_or_carries_a_key() {
    for mark in ["key", "mark", "mark off", "retries"] {
        let server = Server::start([Fault::Status(500, None)]).await;
        let mut post = request(Method::POST, server.uri());
        match mark {
            "key" => drop(
                post.headers_mut()
                    .insert("idempotency-key", "7".parse().unwrap()),
            ),
            "mark" => drop(post.extensions_mut().insert(MarkedIdempotent(true))),
            "mark off" => {
                *post.method_mut() = Method::GET;
                post.extensions_mut().insert(MarkedIdempotent(false));
            }
            _ => {
                *post.method_mut() = Method::GET;
                post.extensions_mut().insert(MaxRetries(0));
            }
        }
        let response = quick()
            .http_layer()
            .layer(hyper())
            .oneshot(post)
            .await
            .unwrap();
        let again = matches!(mark, "key" | "mark");
        assert_eq!(response.status().is_success(), again, "{mark}");
    }
}

#[tokio::test]
async fn a_post_that_broke_off_may_have_been_done_and_one_that_found_nobody_was_not() {
    let server = Server::start([Fault::Hangup]).await;
    let service = quick().http_layer().layer(hyper());
    let post = request(Method::POST, server.uri().to_string());
    let result = service.clone().oneshot(post).await;
    let Err(Error::Exhausted(gave_up)) = result else {
        panic!("{result:?}")
    };
    assert_eq!(
        (gave_up.attempts(), gave_up.reason()),
        (1, StopReason::NotIdempotent)
    );
    assert_eq!(server.requests(), 1);
    let result = service.oneshot(request(Method::POST, nobody().await)).await;
    let Err(Error::Exhausted(gave_up)) = result else {
        panic!("{result:?}")
    };
    assert_eq!(
        (gave_up.attempts(), gave_up.reason()),
        (4, StopReason::MaxRetries)
    );
}

#[tokio::test]
async fn a_429_is_an_overload_to_the_breaker_and_opens_nothing() {
    let server = Server::start((0..20).map(|_| Fault::Status(429, None))).await;
    let breaker = CircuitBreaker::new("api");
    let service = breaker.http_layer().layer(hyper());
    for _ in 0..20 {
        let response = service.clone().oneshot(request(Method::GET, server.uri()));
        assert_eq!(
            response.await.unwrap().status(),
            StatusCode::TOO_MANY_REQUESTS
        );
    }
    let totals = breaker.snapshot().totals;
    assert_eq!((totals.overloads, totals.failures), (20, 0));
}

// ---- The client ---------------------------------------------------------------------------------------

fn handles() -> (CircuitBreaker, ResourceLock) {
    let breaker = CircuitBreaker::builder("api").consecutive_failures(3);
    (breaker.build().unwrap(), ResourceLock::new("api-slot"))
}

fn resilient(breaker: &CircuitBreaker, lock: &ResourceLock) -> ResilientClient {
    ResilientClient::builder("api", reqwest_client())
        .retry(quick())
        .circuit_breaker(breaker.clone())
        .lock(lock.clone())
        .build()
        .unwrap()
}

#[tokio::test]
async fn the_client_in_one_call_retries_guards_and_holds_its_permit_to_the_end_of_the_body() {
    let faults = [Fault::Status(503, None), Fault::Hangup];
    let server = Server::start(faults).await;
    let (breaker, lock) = handles();
    let client = resilient(&breaker, &lock);
    let url = server.uri().to_string();
    let response = client.get(&url).send().await.unwrap();
    assert_eq!((response.status(), server.requests()), (StatusCode::OK, 3));
    assert_eq!(response.url().as_str(), url);
    assert_eq!(lock.snapshot().in_use, 1, "the body has not been read");
    response.bytes().await.unwrap();
    assert_eq!(lock.snapshot().in_use, 0);
    let totals = breaker.snapshot().totals;
    assert_eq!((totals.failures, totals.successes), (2, 1));
}

#[tokio::test]
async fn an_open_circuit_and_a_busy_lock_are_errors_of_the_client() {
    let server = Server::start([]).await;
    let (breaker, lock) = handles();
    let client = resilient(&breaker, &lock);
    let get = || client.get(server.uri().to_string()).send();
    let response = get().await.unwrap();
    let waits = deadline::scope(Deadline::after(5 * MS), get()).await;
    assert!(matches!(waits, Err(Error::Contended(_))), "{waits:?}");
    drop(response);
    breaker.force_open();
    assert!(matches!(get().await, Err(Error::CircuitOpen(_))));
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_request_says_for_itself_whether_and_how_often_it_may_be_tried_again() {
    let (breaker, lock) = handles();
    breaker.disable();
    for (mark, expected) in [(None, 1), (Some(true), 4), (Some(false), 1)] {
        let server = Server::start(vec![Fault::Hangup; 9]).await;
        let client = resilient(&breaker, &lock);
        let mut post = client.post(server.uri().to_string()).body("x");
        if let Some(yes) = mark {
            post = post.idempotent(yes);
        }
        assert!(post.send().await.is_err());
        assert_eq!(server.requests(), expected, "{mark:?}");
    }
    let server = Server::start(vec![Fault::Hangup; 9]).await;
    let client = resilient(&breaker, &lock);
    let keyed = client
        .post(server.uri().to_string())
        .idempotency_key("k")
        .max_retries(2);
    assert!(keyed.send().await.is_err());
    assert_eq!(server.requests(), 3);
}

/// Fails twice, then is well; says what each request had in `x-attempt`.
async fn counting(seen: &Arc<Mutex<Vec<String>>>, tasks: &mut JoinSet<()>) -> String {
    let seen = Arc::clone(seen);
    let answer = move |headers: http::HeaderMap| {
        let mut seen = seen.lock().unwrap();
        seen.push(headers["x-attempt"].to_str().unwrap().to_owned());
        let status = match seen.len() {
            1 | 2 => StatusCode::BAD_GATEWAY,
            _ => StatusCode::OK,
        };
        ready(status)
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let router = axum::Router::new().route("/", axum::routing::any(answer));
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

fn counted(url: &str) -> tower_bulwark::http::ResilientRequest {
    let client = ResilientClient::builder("api", reqwest_client())
        .retry(quick())
        .attempt_header("x-attempt".parse().unwrap());
    client.build().unwrap().get(url)
}

#[tokio::test]
async fn a_response_says_how_many_attempts_it_took_and_each_attempt_its_number() {
    let (seen, mut tasks) = (Arc::default(), JoinSet::new());
    let url = counting(&seen, &mut tasks).await;
    let response = counted(&url).send().await.unwrap();
    assert_eq!(response.extensions().get(), Some(&Attempts(3)));
    assert_eq!(*seen.lock().unwrap(), ["1", "2", "3"]);
}

#[tokio::test]
async fn a_timeout_of_a_request_ends_its_wait_for_a_permit_and_names_its_holder() {
    let server = Server::start([]).await;
    let (breaker, lock) = handles();
    let client = resilient(&breaker, &lock);
    let get = || client.get(server.uri().to_string());
    let held = get().holder("tenant-7").send().await.unwrap();
    assert_eq!(lock.snapshot().holders[0].holder, Holder::from("tenant-7"));
    let refused = get().timeout(5 * MS).send().await;
    assert!(matches!(refused, Err(Error::Contended(_))), "{refused:?}");
    drop(held);
}

#[tokio::test]
async fn parts_of_the_client_can_be_left_out_and_an_attempt_longer_than_the_whole_is_an_error() {
    let server = Server::start(vec![Fault::Status(500, None); 20]).await;
    let client = ResilientClient::builder("api", reqwest_client())
        .no_retry()
        .no_circuit_breaker()
        .no_lock()
        .build()
        .unwrap();
    for n in 1..=10 {
        let answer = client.get(server.uri().to_string()).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), server.requests()), (500, n));
    }
    let policy = RetryPolicy::builder()
        .attempt_timeout(2 * SECOND)
        .total_timeout(SECOND)
        .build();
    if let Ok(policy) = policy {
        let client = ResilientClient::builder("api", reqwest_client()).retry(policy);
        assert_eq!(client.build().unwrap_err().setting(), "attempt_timeout");
    }
}

#[tokio::test]
async fn the_client_is_a_service_for_stacks_around_it() {
    let server = Server::start([]).await;
    let (breaker, lock) = handles();
    let client = resilient(&breaker, &lock);
    let request = reqwest_client().get(server.uri().to_string()).build();
    let service = ServiceBuilder::new().timeout(30 * SECOND).service(client);
    let response: Result<_, BoxError> = service.oneshot(request.unwrap()).await;
    assert_eq!(response.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn connecting_can_be_guarded_by_itself() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let breaker = CircuitBreaker::builder("connect").consecutive_failures(2);
    let (breaker, lock) = (breaker.build().unwrap(), ResourceLock::new("connect"));
    let guards = ServiceBuilder::new()
        .map_err(|error: Error<Boxed>| BoxError::from(error))
        .layer(breaker.layer())
        .layer(lock.layer());
    let client = reqwest::Client::builder().connector_layer(guards);
    let client = client.build().unwrap();
    let address = nobody().await;
    for _ in 0..2 {
        let error = client.get(&address).send().await.unwrap_err();
        assert_eq!(ErrorKind::of(&error), ErrorKind::Connect);
    }
    let refused = client.get(&address).send().await.unwrap_err();
    let rejection = Rejection::find(&refused).expect("refused by the breaker");
    assert_eq!(rejection.name(), "connect");
    assert_eq!(ErrorKind::of(&refused), ErrorKind::Local);
    breaker.reset();
    // A permit for connecting is given back with the connection made, not with the response.
    let server = Server::start([]).await;
    let response = client.get(server.uri().to_string()).send().await.unwrap();
    assert_eq!(
        (response.status(), lock.snapshot().in_use),
        (StatusCode::OK, 0)
    );
    assert!(lock.snapshot().stats.acquisitions > 0);
}

// ---- Deadlines ----------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_deadline_goes_from_client_to_server_and_gets_shorter_on_the_way() {
    let sent = |service: &str| Request::builder().uri(service.to_owned()).body(()).unwrap();
    let backend = ReceiveDeadlineLayer::new()
        .at_most(20 * SECOND)
        .layer(service_fn(|request: Request<()>| async move {
            let left = deadline::remaining();
            let extension = request.extensions().get::<Deadline>().copied();
            assert_eq!(extension.map(Deadline::remaining), left);
            Ok::<_, BoxError>(left)
        }));
    let client = SendDeadlineLayer::new().layer(backend);
    let call = || client.clone().oneshot(sent("/"));
    // Nobody says anything: as much as the server gives everybody.
    assert_eq!(call().await.unwrap(), Some(20 * SECOND));
    let scoped = deadline::scope(Deadline::after(3 * SECOND), async {
        tokio::time::advance(SECOND).await;
        call().await.unwrap()
    });
    assert_eq!(scoped.await, Some(2 * SECOND));
    // What the request says already is kept if it leaves less.
    let mut shorter = sent("/");
    let header = "x-envoy-expected-rq-timeout-ms";
    shorter.headers_mut().insert(header, "500".parse().unwrap());
    let scoped = deadline::scope(Deadline::after(3 * SECOND), client.clone().oneshot(shorter));
    assert_eq!(scoped.await.unwrap(), Some(SECOND / 2));
}

/// Conformance vectors: the headers of gRPC, and of Envoy, in which a deadline comes.
#[cfg(feature = "grpc")]
#[tokio::test(start_paused = true)]
async fn a_deadline_comes_in_the_header_that_is_named() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("vectors/deadline.json")).unwrap();
    let cases = vectors["header_cases"].as_array().unwrap();
    for case in cases {
        let (name, value) = case["headers"].as_str().unwrap().split_once(": ").unwrap();
        let layer = match name {
            "grpc-timeout" => ReceiveDeadlineLayer::grpc(),
            name => ReceiveDeadlineLayer::new().header(name.parse().unwrap()),
        };
        let service = layer.layer(service_fn(|_: Request<()>| {
            ready(Ok::<_, Boxed>(deadline::remaining()))
        }));
        let request = Request::get("/").header(name, value).body(()).unwrap();
        let left = service.oneshot(request).await.unwrap().unwrap();
        assert_eq!(
            Some(left.as_millis() as u64),
            case["timeout_ms"].as_u64(),
            "{case}"
        );
    }
    assert_eq!(cases.len(), 4, "cases went missing");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_cannot_be_read_is_none() {
    let server = ReceiveDeadlineLayer::new().layer(service_fn(|_: Request<()>| {
        ready(Ok::<_, BoxError>(deadline::remaining()))
    }));
    for (value, left) in [
        ("", None),
        ("-5", None),
        ("+5", None),
        ("1e3", None),
        ("0", Some(Duration::ZERO)),
        // Too long to count: it never comes.
        ("99999999999999999999999", None),
    ] {
        let request = Request::builder().header("x-envoy-expected-rq-timeout-ms", value);
        let got = server
            .clone()
            .oneshot(request.body(()).unwrap())
            .await
            .unwrap();
        assert_eq!(got, left, "{value}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_can_neither_refuse_itself_all_time_nor_have_more_than_there_is() {
    let layer = ReceiveDeadlineLayer::new()
        .at_least(50 * MS)
        .at_most(100 * MS);
    let service = layer.layer(service_fn(|_: Request<()>| {
        ready(Ok::<_, std::convert::Infallible>(deadline::remaining()))
    }));
    for (asked, given) in [("0", 50), ("1", 50), ("70", 70), ("999999999", 100)] {
        let request = Request::builder().header("x-envoy-expected-rq-timeout-ms", asked);
        let request = request.body(()).unwrap();
        let got = service.clone().oneshot(request).await.unwrap();
        assert_eq!(got, Some(given * MS), "{asked}");
    }
    let got = service.oneshot(Request::new(())).await.unwrap();
    assert_eq!(got, Some(100 * MS), "who says nothing gets the most");
}

/// Hangs for as long as it is let, and says when it is dropped.
fn hangs(
    dropped: &Arc<AtomicBool>,
) -> impl Service<Request<()>, Response = Response<String>, Error = std::io::Error> + Clone {
    let dropped = Arc::clone(dropped);
    service_fn(move |_: Request<()>| {
        let dropped = OnDrop(Arc::clone(&dropped));
        async move {
            let _dropped = dropped;
            std::future::pending().await
        }
    })
}

struct OnDrop(Arc<AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_is_answered_with_504_and_is_no_failure_of_the_service() {
    let dropped = Arc::new(AtomicBool::new(false));
    let breaker = CircuitBreaker::builder("api")
        .consecutive_failures(1)
        .build()
        .unwrap();
    let service = ServiceBuilder::new()
        .layer(ReceiveDeadlineLayer::new().answer_with(deadline_exceeded::<String>))
        .layer(breaker.http_layer())
        .service(hangs(&dropped));
    let request = Request::builder().header("x-envoy-expected-rq-timeout-ms", "80");
    let start = tokio::time::Instant::now();
    let late = service.oneshot(request.body(()).unwrap()).await.unwrap();
    assert_eq!(start.elapsed(), 80 * MS);
    assert_eq!(late.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(
        late.body().contains(r#""code":"deadline""#),
        "{}",
        late.body()
    );
    assert!(dropped.load(Ordering::SeqCst), "the call is over");
    let totals = breaker.snapshot().totals;
    assert_eq!((totals.failures, totals.cancelled), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_ends_in_time_is_not_answered_for_and_one_without_a_deadline_never_is() {
    let layer = ReceiveDeadlineLayer::new().answer_with(deadline_exceeded::<String>);
    let service = layer.layer(service_fn(|_: Request<()>| async {
        tokio::time::sleep(60 * MS).await;
        Ok::<_, std::io::Error>(Response::new("done".to_owned()))
    }));
    let request = Request::builder().header("x-envoy-expected-rq-timeout-ms", "80");
    let request = request.body(()).unwrap();
    assert_eq!(
        service.clone().oneshot(request).await.unwrap().body(),
        "done"
    );
    assert_eq!(
        service.oneshot(Request::new(())).await.unwrap().body(),
        "done"
    );
}

// ---- Refusals -----------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_refusal_is_a_problem_with_a_status_and_a_time_to_come_back() {
    let breaker = CircuitBreaker::new("back \"end\"");
    breaker.open_for(Duration::from_millis(1_200));
    let refused: Rejection = breaker.try_acquire().unwrap_err().into();
    let named: Response<String> = problem_with_name(refused.clone());
    let named: serde_json::Value = serde_json::from_str(named.body()).unwrap();
    assert_eq!(named["resource"], "back \"end\"");
    let response: Response<String> = problem(refused);
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "2", "rounded up");
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let body: serde_json::Value = serde_json::from_str(response.body()).unwrap();
    assert_eq!(
        (&body["status"], &body["retry_after"]),
        (&503.into(), &2.into())
    );
    assert_eq!(
        (&body["title"], &body["code"]),
        (&"Service Unavailable".into(), &"circuit_open".into())
    );
    assert!(!response.body().contains("back"), "{}", response.body());

    let lock = ResourceLock::new("gpu");
    let _held = lock.try_acquire(Holder::from("somebody-secret")).unwrap();
    let busy: Response<String> = problem(lock.try_acquire("b").unwrap_err().into());
    assert_eq!(busy.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(!busy.body().contains("secret"), "{}", busy.body());
    assert!(!busy.body().contains("gpu"), "{}", busy.body());
    assert!(busy.body().contains(r#""code":"contended""#));
    let late = deadline::scope(Deadline::after(MS), lock.acquire("b")).await;
    let late: Response<String> = problem(late.unwrap_err().into());
    assert_eq!(late.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(late.body().contains(r#""code":"deadline""#));
    let waited = lock.acquire("b").timeout(MS).await.unwrap_err();
    let waited: Response<String> = problem(waited.into());
    assert_eq!(waited.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn the_refusals_of_a_busy_lock_say_nothing_to_a_breaker_around_it() {
    let breaker = CircuitBreaker::builder("api")
        .consecutive_failures(1)
        .build()
        .unwrap();
    let lock = ResourceLock::builder("gpu")
        .timeout(Duration::ZERO)
        .build()
        .unwrap();
    let service = ServiceBuilder::new()
        .layer(breaker.http_layer().reject_with(problem::<String>))
        .layer(lock.layer().reject_with(|rejection| {
            let mut busy = problem::<String>(rejection);
            *busy.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            busy
        }))
        .service_fn(|()| {
            ready(Ok::<_, std::convert::Infallible>(Response::new(
                String::new(),
            )))
        });
    let _held = lock.try_acquire("somebody").unwrap();
    for _ in 0..10 {
        let busy = service.clone().oneshot(()).await.unwrap();
        assert_eq!(busy.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    let totals = breaker.snapshot().totals;
    assert_eq!(
        (totals.ignored, totals.failures, totals.rejected),
        (10, 0, 0)
    );
}
