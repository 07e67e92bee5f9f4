//! Hedges over HTTP: a real axum server with a tail, and bodies that stream.
#![cfg(feature = "http")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::any;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::http::{HedgedAttempt, ReplayBody};
use tower_bulwark::{CircuitBreaker, Hedge};

const MS: Duration = Duration::from_millis(1);

/// Every fifth request does not answer before the gate is open.
#[derive(Clone)]
struct Tail {
    requests: Arc<AtomicU32>,
    gate: Arc<Semaphore>,
}

async fn handle(State(tail): State<Tail>, headers: HeaderMap) -> String {
    let number = tail.requests.fetch_add(1, Ordering::SeqCst) + 1;
    if number % 5 == 0 {
        let _permit = tail.gate.acquire().await;
    }
    let attempt = headers.get("x-attempt").and_then(|it| it.to_str().ok());
    attempt.unwrap_or("none").to_owned()
}

async fn serve(tail: &Tail) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new()
        .route("/", any(handle))
        .with_state(tail.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn number(request: &mut Request<Full<Bytes>>, attempt: u32) {
    request.headers_mut().insert("x-attempt", attempt.into());
}

#[tokio::test]
async fn no_caller_waits_for_the_tail_of_a_real_server() {
    let tail = Tail {
        requests: Arc::default(),
        gate: Arc::new(Semaphore::new(0)),
    };
    let address = serve(&tail).await;
    let hedge = Hedge::builder("reads")
        .after(50 * MS)
        .no_budget()
        .build()
        .unwrap();
    let breaker = CircuitBreaker::new("api");
    let service = ServiceBuilder::new()
        .layer(hedge.http_layer().before_attempt(number))
        .layer(breaker.http_layer())
        .service(Client::builder(TokioExecutor::new()).build_http());
    for call in 1..=20 {
        let request = Request::get(format!("http://{address}/"));
        let request = request.body(Full::<Bytes>::default()).unwrap();
        // Without a hedge the fifth would never end: the gate stays shut.
        let response = service.clone().oneshot(request).await.unwrap();
        let hedged = response.extensions().get().map(|HedgedAttempt(n)| *n);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        match hedged {
            Some(attempt) => assert_eq!((attempt, &*body), (2, &b"2"[..]), "call {call}"),
            None => assert_eq!(&*body, b"1", "call {call}"),
        }
    }
    let seen = hedge.snapshot();
    assert!(seen.won >= 4, "{seen:?}");
    assert_eq!(seen.calls, 20);
    let totals = breaker.snapshot().totals;
    assert_eq!((totals.failures, totals.successes), (0, 20));
    assert_eq!(totals.cancelled, seen.hedges);
}

#[tokio::test(start_paused = true)]
async fn a_post_is_not_hedged_unless_it_has_a_key() {
    let calls = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&calls);
    let hedge = Hedge::builder("reads")
        .after(MS)
        .no_budget()
        .build()
        .unwrap();
    let service = hedge
        .http_layer()
        .layer(service_fn(move |_: Request<String>| {
            count.fetch_add(1, Ordering::SeqCst);
            async {
                sleep(10 * MS).await;
                Ok::<_, Infallible>(Response::new(()))
            }
        }));
    let post = || Request::post("/").body(String::new()).unwrap();
    service.clone().oneshot(post()).await.unwrap();
    assert_eq!(calls.swap(0, Ordering::SeqCst), 1);
    let mut keyed = post();
    keyed
        .headers_mut()
        .insert("idempotency-key", "f3b1".parse().unwrap());
    service.clone().oneshot(keyed).await.unwrap();
    assert_eq!(calls.swap(0, Ordering::SeqCst), 2);
    service
        .oneshot(Request::get("/").body(String::new()).unwrap())
        .await
        .unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

type Sent =
    StreamBody<tokio_stream::wrappers::ReceiverStream<Result<http_body::Frame<Bytes>, Infallible>>>;

#[tokio::test(start_paused = true)]
async fn a_body_that_streams_is_hedged_once_it_has_been_sent_and_the_first_attempt_keeps_it() {
    let bodies: Arc<Mutex<Vec<(u32, Bytes)>>> = Arc::default();
    let (list, calls) = (Arc::clone(&bodies), Arc::new(AtomicU32::new(0)));
    let hedge = Hedge::builder("reads")
        .after(20 * MS)
        .no_budget()
        .build()
        .unwrap();
    let client = service_fn(move |request: Request<ReplayBody<Sent>>| {
        let (list, number) = (Arc::clone(&list), calls.fetch_add(1, Ordering::SeqCst) + 1);
        async move {
            let body = request.into_body().collect().await;
            let body = body.map_err(std::io::Error::other)?.to_bytes();
            list.lock().unwrap().push((number, body));
            sleep(1_000 * MS / number).await;
            Ok::<_, std::io::Error>(Response::new(number))
        }
    });
    let service = ServiceBuilder::new()
        .layer(hedge.http_layer().replaying())
        .service(client);
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let request = Request::put("/").body(StreamBody::new(stream)).unwrap();
    let call = tokio::spawn(service.oneshot(request));
    for part in ["hel", "lo"] {
        sleep(100 * MS).await;
        sender
            .send(Ok(http_body::Frame::data(part.into())))
            .await
            .unwrap();
        assert_eq!(hedge.snapshot().hedges, 0, "it is still being sent");
    }
    drop(sender);
    assert_eq!(call.await.unwrap().unwrap().into_body(), 2);
    let whole = Bytes::from("hello");
    assert_eq!(*bodies.lock().unwrap(), [(1, whole.clone()), (2, whole)]);
    let seen = hedge.snapshot();
    assert_eq!((seen.hedges, seen.not_started.not_repeatable), (1, 0));
}
