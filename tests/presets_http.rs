//! Whole stacks under real clients and servers: hyper, reqwest, axum and tonic, on loopback.

#![cfg(all(feature = "reqwest", feature = "tonic"))]

/// Made from `examples/support/completion.proto`.
#[path = "../examples/support/completion.rs"]
#[allow(unreachable_pub, dead_code, reason = "generated")]
mod completion;
#[allow(dead_code, reason = "shared with other tests, which use more of it")]
mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::error_handling::HandleErrorLayer;
use bytes::Bytes;
use completion::completions_client::CompletionsClient;
use completion::completions_server::{Completions, CompletionsServer};
use completion::{CompleteReply, CompleteRequest};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use support::{Fault, Server};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Response, Status};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_bulwark::http::{HedgedAttempt, ReplayBody, problem};
use tower_bulwark::rate_limit::Quota;
use tower_bulwark::{Error, Jitter, Part, Stack};

const MS: Duration = Duration::from_millis(1);

type HyperClient =
    Client<hyper_util::client::legacy::connect::HttpConnector, ReplayBody<Full<Bytes>>>;

fn hyper() -> HyperClient {
    Client::builder(TokioExecutor::new()).build_http()
}

fn reqwest_client() -> reqwest::Client {
    // An error says that another test was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .retry(reqwest::retry::never())
        .build()
        .unwrap()
}

fn request(method: Method, server: &Server) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(server.uri());
    request.body(Full::from("hello")).unwrap()
}

/// Whose retries come soon.
fn quick(name: &str) -> tower_bulwark::stack::StackBuilder {
    let preset = match name {
        "llm" => Stack::llm("api"),
        _ => Stack::http("api"),
    };
    preset.retry(|it| it.max_delay(MS).jitter(Jitter::None))
}

#[tokio::test]
async fn hyper_under_a_stack_tries_again_and_holds_its_permit_to_the_end_of_the_body() {
    let server = Server::start([Fault::Status(503, None), Fault::Hangup]).await;
    let stack = quick("http").build().unwrap();
    let client = ServiceBuilder::new()
        .layer(stack.http_layer())
        .service(hyper());
    let answer = client.oneshot(request(Method::PUT, &server)).await.unwrap();
    assert_eq!((answer.status(), server.requests()), (StatusCode::OK, 3));
    let permits = || stack.lock().unwrap().snapshot().in_use;
    let calls = || stack.circuit_breaker().unwrap().snapshot().totals;
    assert_eq!((permits(), calls().failures, calls().successes), (1, 2, 0));
    answer.into_body().collect().await.unwrap();
    assert_eq!((permits(), calls().failures, calls().successes), (0, 2, 1));
}

#[tokio::test]
async fn what_may_not_be_done_twice_is_not_sent_again_when_the_connection_breaks() {
    let server = Server::start(vec![Fault::Hangup; 9]).await;
    let stack = quick("http").build().unwrap();
    let client = ServiceBuilder::new()
        .layer(stack.http_layer())
        .service(hyper());
    let broken = client.oneshot(request(Method::POST, &server)).await;
    assert!(matches!(broken, Err(Error::Exhausted(_))), "{broken:?}");
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_post_to_a_model_that_is_busy_is_sent_again() {
    for (name, requests, status) in [("http", 1, 500), ("llm", 2, 200)] {
        let server = Server::start([Fault::Status(500, None)]).await;
        let stack = quick(name).build().unwrap();
        let client = ServiceBuilder::new()
            .layer(stack.http_layer())
            .service(hyper());
        let answer = client
            .oneshot(request(Method::POST, &server))
            .await
            .unwrap();
        let seen = (answer.status().as_u16(), server.requests());
        assert_eq!(seen, (status, requests), "{name}");

        let server = Server::start([Fault::Status(500, None)]).await;
        let client = stack.reqwest(reqwest_client()).unwrap();
        let answer = client.post(server.uri().to_string()).send().await.unwrap();
        let seen = (answer.status().as_u16(), server.requests());
        assert_eq!(seen, (status, requests), "{name}, reqwest");
    }
}

#[tokio::test]
async fn a_429_pauses_everybody_who_shares_the_stack() {
    let server = Server::start([Fault::Status(429, Some(1))]).await;
    let stack = quick("http").quota("requests", Quota::per_second(100));
    let stack = stack.without(Part::Retry).build().unwrap();
    let client = ServiceBuilder::new()
        .layer(stack.http_layer())
        .service(hyper());
    let busy = client.oneshot(request(Method::GET, &server)).await.unwrap();
    assert_eq!(busy.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(stack.rate_limit().unwrap().snapshot().paused_for.is_some());
    let client = stack.reqwest(reqwest_client()).unwrap();
    let waits = client.get(server.uri().to_string()).timeout(100 * MS);
    let refused = waits.send().await.unwrap_err();
    assert!(matches!(refused, Error::RateLimited(_)), "{refused}");
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_body_that_never_ends_is_ended_by_the_total_of_a_stack() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    let endless = || async {
        let frames = futures::stream::pending::<Result<Bytes, Infallible>>();
        axum::body::Body::from_stream(frames)
    };
    let router = axum::Router::new().route("/", axum::routing::get(endless));
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    let stack = Stack::http("api")
        .without(Part::AttemptTimeout)
        .total_timeout(100 * MS)
        .build()
        .unwrap();

    let client = stack.reqwest(reqwest_client()).unwrap();
    let answer = client.get(&url).send().await.unwrap();
    assert!(answer.text().await.is_err());

    let client = ServiceBuilder::new()
        .layer(stack.http_layer())
        .service(hyper());
    let request = Request::get(&url).body(Full::default()).unwrap();
    let body = client.oneshot(request).await.unwrap().into_body();
    let ended = body.collect().await.unwrap_err().to_string();
    assert!(ended.contains("did not end within 100.000ms"), "{ended}");
    assert_eq!(stack.timeouts().unwrap().snapshot().timed_out.total, 2);
    assert_eq!(stack.lock().unwrap().snapshot().in_use, 0);
    // Its head was good, and the caller's own time was over.
    let totals = stack.circuit_breaker().unwrap().snapshot().totals;
    assert_eq!((totals.successes, totals.failures), (2, 0));
}

#[tokio::test]
async fn a_hedged_stack_answers_with_the_second_attempt_when_the_first_hangs() {
    let server = Server::start([Fault::Hold, Fault::Hold]).await;
    let stack = Stack::hedged("reads").hedge(|it| it.after(20 * MS));
    let stack = stack.build().unwrap();
    let client = ServiceBuilder::new()
        .layer(stack.http_layer())
        .service(hyper());
    let (answer, ()) = futures::join!(client.oneshot(request(Method::GET, &server)), async {
        server.has_seen(2).await;
        server.release(2);
    });
    assert_eq!(answer.unwrap().status(), StatusCode::OK);

    let server = Server::start([Fault::Hold]).await;
    let client = stack.reqwest(reqwest_client()).unwrap();
    let answer = client.get(server.uri().to_string()).send().await.unwrap();
    assert_eq!(answer.extensions().get(), Some(&HedgedAttempt(2)));
    server.release(1);
    // What may not be done twice is not.
    let server = Server::start([Fault::Hold]).await;
    let post = client.post(server.uri().to_string()).timeout(100 * MS);
    post.send().await.unwrap_err();
    assert_eq!(server.requests(), 1);
}

/// A stack on the server's side: no retry, and bodies are the caller's own.
#[tokio::test]
async fn an_axum_server_behind_a_stack_refuses_when_it_is_full() {
    let stack = Stack::http("handlers")
        .without(Part::Retry)
        .lock(|it| it.max_concurrent(1).timeout(Duration::ZERO))
        .build()
        .unwrap();
    let (arrived, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let handler = {
        let (arrived, gate) = (Arc::clone(&arrived), Arc::clone(&gate));
        move |body: String| async move {
            arrived.add_permits(1);
            gate.acquire().await.unwrap().forget();
            body
        }
    };
    let refuse = |error: Error<Infallible>| async move {
        let rejection = error.rejection().expect("a handler does not fail");
        problem::<axum::body::Body>(rejection)
    };
    let guard = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(refuse))
        .layer(stack.http_layer())
        .map_request(|it: Request<ReplayBody<axum::body::Body>>| it.map(axum::body::Body::new));
    let router = axum::Router::new()
        .route("/", axum::routing::post(handler))
        .layer(guard);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });

    let client = reqwest_client();
    let first = tokio::spawn(client.post(&url).body("hello").send());
    arrived.acquire().await.unwrap().forget();
    let full = client.post(&url).body("too many").send().await.unwrap();
    assert_eq!(full.status(), StatusCode::TOO_MANY_REQUESTS);
    gate.add_permits(1);
    let answer = first.await.unwrap().unwrap();
    assert_eq!(answer.text().await.unwrap(), "hello");
}

/// Fails as often as is left.
struct Model {
    failures: AtomicU32,
    code: Code,
}

#[tonic::async_trait]
impl Completions for Model {
    async fn complete(
        &self,
        request: tonic::Request<CompleteRequest>,
    ) -> Result<Response<CompleteReply>, Status> {
        let left = self.failures.load(Ordering::Relaxed);
        if left > 0 {
            self.failures.store(left - 1, Ordering::Relaxed);
            return Err(Status::new(self.code, "not now"));
        }
        let text = request.into_inner().prompt;
        Ok(Response::new(CompleteReply { text }))
    }
}

#[tokio::test]
async fn a_tonic_channel_under_a_stack_tries_again_what_was_not_done() {
    for (code, calls) in [(Code::Unavailable, 3), (Code::Internal, 1)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let model = Model {
            failures: AtomicU32::new(2),
            code,
        };
        let server = tonic::transport::Server::builder()
            .add_service(CompletionsServer::new(model))
            .serve_with_incoming(TcpIncoming::from(listener));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { server.await.unwrap() });
        let endpoint = tonic::transport::Channel::from_shared(format!("http://{address}"));
        let channel = endpoint.unwrap().connect().await.unwrap();

        let stack = Stack::grpc("model").retry(|it| it.max_delay(MS).jitter(Jitter::None));
        let stack = stack.build().unwrap();
        let service = ServiceBuilder::new()
            .map_response(|it: http::Response<_>| it.map(tonic::body::Body::new))
            .map_err(Status::from)
            .layer(stack.grpc_layer())
            .map_request(|it: Request<ReplayBody<_>>| it.map(tonic::body::Body::new))
            .service(channel);
        let prompt = CompleteRequest {
            prompt: "hello".to_owned(),
        };
        let answer = CompletionsClient::new(service).complete(prompt).await;
        let totals = stack.circuit_breaker().unwrap().snapshot().totals;
        match code {
            Code::Unavailable => assert_eq!(answer.unwrap().into_inner().text, "hello"),
            _ => assert_eq!(answer.unwrap_err().code(), code),
        }
        let all = totals.successes + totals.failures + totals.overloads + totals.ignored;
        assert_eq!(all, calls, "{totals:?}");
        assert_eq!(stack.lock().unwrap().snapshot().in_use, 0);
    }
}

/// A layer that is applied for each route shares its handles.
#[tokio::test]
async fn services_of_one_stack_share_its_state() {
    let stack = Stack::http("api").build().unwrap();
    let layer = stack.http_layer();
    let mut services: Vec<_> = (0..2)
        .map(|_| ServiceBuilder::new().layer(layer.clone()).service(hyper()))
        .collect();
    stack.circuit_breaker().unwrap().force_open();
    let server = Server::start([]).await;
    for service in &mut services {
        let service = service.ready().await.unwrap();
        let refused = service
            .call(request(Method::GET, &server))
            .await
            .unwrap_err();
        assert!(matches!(refused, Error::CircuitOpen(_)), "{refused}");
    }
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn what_a_call_has_taken_is_settled_when_its_body_has_been_read() {
    use tower_bulwark::http::Unsettled;

    let server = Server::start([]).await;
    let stack = Stack::llm("model").quota("tokens", Quota::per_minute(1_000));
    let stack = stack.build().unwrap();
    let client = tower_bulwark::http::ResilientClient::builder("model", reqwest_client())
        .stack(&stack)
        .cost(|_| 400)
        .build()
        .unwrap();
    let answer = client.get(server.uri().to_string()).send().await.unwrap();
    let left = || stack.rate_limit().unwrap().snapshot().quotas[0].available;
    assert!(left() < 610, "{}", left());
    let unsettled = Unsettled::of(answer.extensions());
    let tokens = answer.text().await.unwrap().len() as u64;
    unsettled.settle(tokens);
    assert!(left() >= 990 - tokens, "{}", left());
}
