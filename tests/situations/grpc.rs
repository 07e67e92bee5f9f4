//! gRPC situations: tonic over real connections.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::quick;
use crate::completion::completions_client::CompletionsClient;
use crate::completion::{CompleteReply, CompleteRequest};
use axum::Router;
use axum::response::Response as AxumResponse;
use axum::routing::any;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::grpc::{Code as C, Codes, GrpcClassify, GrpcRequests};
use tower_bulwark::http::{CopyReplay, ReplayBody, ReplayLayer};
use tower_bulwark::{CircuitBreaker, CircuitState, Classify, RetrySafety, Verdict};

fn hello() -> CompleteRequest {
    CompleteRequest {
        prompt: "hello".into(),
    }
}

/// A message as it is on the wire.
fn framed(text: &str) -> Bytes {
    use prost::Message;
    let message = CompleteReply { text: text.into() }.encode_to_vec();
    let mut all = vec![0];
    all.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    all.extend_from_slice(&message);
    all.into()
}

fn trailers(code: &str) -> HeaderMap {
    let mut map = HeaderMap::new();
    map.insert("grpc-status", HeaderValue::from_str(code).unwrap());
    map
}

type Frames = Vec<Result<Frame<Bytes>, std::io::Error>>;

/// An answer with a head, frames and trailers of its own.
fn answer(frames: Frames) -> AxumResponse {
    let body = StreamBody::new(futures::stream::iter(frames));
    http::Response::builder()
        .header("content-type", "application/grpc")
        .body(axum::body::Body::new(body))
        .unwrap()
}

fn good() -> AxumResponse {
    answer(vec![
        Ok(Frame::data(framed("fine"))),
        Ok(Frame::trailers(trailers("0"))),
    ])
}

async fn serve(
    tasks: &mut JoinSet<()>,
    reply: impl Fn(usize) -> AxumResponse + Clone + Send + Sync + 'static,
) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = calls.clone();
    let router: Router = Router::new().fallback(any(move || {
        let response = reply(seen.fetch_add(1, Ordering::SeqCst));
        async move { response }
    }));
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, calls)
}

fn breaker(threshold: u32) -> CircuitBreaker {
    CircuitBreaker::builder("model")
        .consecutive_failures(threshold)
        .build()
        .unwrap()
}

/// A server that takes connections, reads, and never answers.
async fn silent(tasks: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tasks.spawn(async move {
        let mut held = JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            held.spawn(async move {
                let mut connection = h2::server::handshake(socket).await.unwrap();
                let mut kept = Vec::new();
                while let Some(Ok(stream)) = connection.accept().await {
                    kept.push(stream);
                }
            });
        }
    });
    url
}

/// A server that closes the whole connection when its n-th call (from 0) comes and `dies(n)`.
async fn dying(
    tasks: &mut JoinSet<()>,
    dies: impl Fn(usize) -> bool + Clone + Send + 'static,
) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = calls.clone();
    tasks.spawn(async move {
        let mut held = JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (seen, dies) = (seen.clone(), dies.clone());
            held.spawn(async move {
                let mut connection = h2::server::handshake(socket).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    if dies(seen.fetch_add(1, Ordering::SeqCst)) {
                        return;
                    }
                    let head = http::Response::builder()
                        .header("content-type", "application/grpc")
                        .body(())
                        .unwrap();
                    let mut send = respond.send_response(head, false).unwrap();
                    send.send_data(framed("fine"), false).unwrap();
                    send.send_trailers(trailers("0")).unwrap();
                }
            });
        }
    });
    (url, calls)
}

async fn channel(url: &str) -> Channel {
    Endpoint::from_shared(url.to_owned())
        .unwrap()
        .timeout(Duration::from_millis(60))
        .connect()
        .await
        .unwrap()
}

// a server that hangs, and a client with tonic's own timeout; the breaker is around the typed call.
#[tokio::test]
async fn a_server_that_hangs_opens_the_breaker_around_typed_calls() {
    let mut tasks = JoinSet::new();
    let url = silent(&mut tasks).await;
    let client = CompletionsClient::new(channel(&url).await);
    let breaker = breaker(3);
    let call = ServiceBuilder::new()
        .layer(breaker.layer().classify(GrpcClassify::new()))
        .service_fn(move |request: CompleteRequest| {
            let mut client = client.clone();
            async move { client.complete(request).await }
        });
    for _ in 0..3 {
        let _status = call.clone().oneshot(hello()).await.unwrap_err();
    }
    assert_eq!(breaker.state(), CircuitState::Open);
}

// The same, under the client, which is the documented place.
#[tokio::test]
async fn a_server_that_hangs_opens_the_breaker_under_the_client() {
    let mut tasks = JoinSet::new();
    let url = silent(&mut tasks).await;
    let breaker = breaker(3);
    let classify = GrpcClassify::new();
    let stack = ServiceBuilder::new()
        .map_err(Status::from)
        .layer(
            breaker
                .layer()
                .classify(classify)
                .until_body_end()
                .classify_end(classify.at_end()),
        )
        .service(channel(&url).await);
    let client = CompletionsClient::new(stack);
    for _ in 0..3 {
        let _status = client.clone().complete(hello()).await.unwrap_err();
    }
    assert_eq!(breaker.state(), CircuitState::Open);
}

// the connection dies under calls; to the typed caller that is a status, whose cause is the transport's.
#[tokio::test]
async fn a_connection_that_dies_under_a_typed_call_is_unavailable() {
    let mut tasks = JoinSet::new();
    let (url, _calls) = dying(&mut tasks, |n| n % 2 == 0).await;
    let client = CompletionsClient::new(channel(&url).await);
    let breaker = breaker(9);
    let classify = GrpcClassify::idempotent();
    let call = ServiceBuilder::new()
        .layer(quick().build().unwrap().layer().classify(classify))
        .layer(breaker.layer().classify(classify))
        .service_fn(move |request: CompleteRequest| {
            let mut client = client.clone();
            async move { client.complete(request).await }
        });
    let answer = call.clone().oneshot(hello()).await;
    match &answer {
        Ok(_) => println!("answered"),
        Err(error) => println!(
            "{:?}",
            error.as_inner().map(|s| (s.code(), s.message().to_owned()))
        ),
    }
    answer.unwrap();
}

#[tokio::test]
async fn a_connection_that_dies_under_the_client_is_tried_again_for_methods_that_may_be() {
    let mut tasks = JoinSet::new();
    let (url, _calls) = dying(&mut tasks, |n| n % 2 == 0).await;
    let classify = GrpcClassify::idempotent();
    let stack = ServiceBuilder::new()
        .map_err(Status::from)
        .layer(ReplayLayer::new())
        .layer(
            quick()
                .build()
                .unwrap()
                .layer()
                .classify(classify)
                .requests(GrpcRequests::over(CopyReplay).idempotent()),
        )
        .map_request(|request: http::Request<ReplayBody<Body>>| request.map(Body::new))
        .service(channel(&url).await);
    let client = CompletionsClient::new(stack);
    let answer = client.clone().complete(hello()).await;
    answer.unwrap();
}

// servers that send a head, no message, and the status in trailers (akka, some proxies and middlewares).
fn in_trailers(n: usize) -> AxumResponse {
    match n {
        0 => answer(vec![Ok(Frame::trailers(trailers("14")))]),
        _ => good(),
    }
}

#[tokio::test]
async fn unavailable_in_trailers_behind_no_message_is_tried_again_around_typed_calls() {
    let mut tasks = JoinSet::new();
    let (url, calls) = serve(&mut tasks, in_trailers).await;
    let client = CompletionsClient::new(channel(&url).await);
    let call = ServiceBuilder::new()
        .layer(
            quick()
                .build()
                .unwrap()
                .layer()
                .classify(GrpcClassify::new()),
        )
        .service_fn(move |request: CompleteRequest| {
            let mut client = client.clone();
            async move { client.complete(request).await }
        });
    call.oneshot(hello()).await.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

// RESOURCE_EXHAUSTED is to be tried again exactly where the server adds a RetryInfo (OTLP, Google).
fn exhausted(details: bool) -> AxumResponse {
    let mut head = http::Response::builder()
        .header("content-type", "application/grpc")
        .header("grpc-status", "8");
    if details {
        // google.rpc.Status { code: 8, details: [Any { RetryInfo { retry_delay { nanos: 250ms } } }] }, base64
        head = head.header("grpc-status-details-bin", RETRY_INFO_250_MS);
    }
    head.body(axum::body::Body::empty()).unwrap()
}

const RETRY_INFO_250_MS: &str =
    "CAgaMwoodHlwZS5nb29nbGVhcGlzLmNvbS9nb29nbGUucnBjLlJldHJ5SW5mbxIHCgUQgOWadw";

#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}
#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    delay: Option<Delay>,
}
#[derive(Clone, PartialEq, prost::Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

fn retry_info(status: &Status) -> Option<Duration> {
    use prost::Message;
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let info = details
        .into_iter()
        .find(|any| any.type_url.ends_with("google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(&*info.value).ok()?.delay?;
    Some(Duration::new(
        delay.seconds.try_into().ok()?,
        delay.nanos.try_into().ok()?,
    ))
}

#[tokio::test]
async fn a_retry_info_can_be_obeyed_with_a_rule_of_ones_own() {
    for (details, expected) in [(true, 2), (false, 1)] {
        let mut tasks = JoinSet::new();
        let (url, calls) = serve(
            &mut tasks,
            move |n| if n == 0 { exhausted(details) } else { good() },
        )
        .await;
        let client = CompletionsClient::new(channel(&url).await);
        let classify = GrpcClassify::new();
        let rule = move |result: Result<&tonic::Response<CompleteReply>, &Status>| match result {
            Err(status) if status.code() == Code::ResourceExhausted => match retry_info(status) {
                Some(delay) => Verdict::overload()
                    .retry(RetrySafety::Always)
                    .retry_after(delay),
                None => classify.classify(result),
            },
            result => classify.classify(result),
        };
        let call = ServiceBuilder::new()
            .layer(quick().build().unwrap().layer().classify_with(rule))
            .service_fn(move |request: CompleteRequest| {
                let mut client = client.clone();
                async move { client.complete(request).await }
            });
        let began = std::time::Instant::now();
        let answer = call.oneshot(hello()).await;
        assert_eq!(calls.load(Ordering::SeqCst), expected, "{answer:?}");
        assert!(!details || began.elapsed() >= Duration::from_millis(250));
    }
}

/// Its first connection takes one call at a time, and dies with it; later ones are well.
async fn dies_once(tasks: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tasks.spawn(async move {
        let mut first = true;
        let mut held = JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let dies = std::mem::take(&mut first);
            held.spawn(async move {
                let mut connection = h2::server::Builder::new()
                    .max_concurrent_streams(1)
                    .handshake::<_, Bytes>(socket)
                    .await
                    .unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    if dies {
                        let wait = tokio::time::sleep(Duration::from_millis(30));
                        tokio::pin!(wait);
                        tokio::select! { _ = &mut wait => {}, _ = connection.accept() => {} }
                        return;
                    }
                    let head = http::Response::builder()
                        .header("content-type", "application/grpc")
                        .body(())
                        .unwrap();
                    let mut send = respond.send_response(head, false).unwrap();
                    send.send_data(framed("fine"), false).unwrap();
                    send.send_trailers(trailers("0")).unwrap();
                }
            });
        }
    });
    url
}

// calls that wait behind others on a connection that then dies (they were never sent).
#[tokio::test]
async fn calls_that_were_never_sent_because_the_connection_died_are_tried_again_around_typed_calls()
{
    let mut tasks = JoinSet::new();
    let url = dies_once(&mut tasks).await;
    let endpoint = Endpoint::from_shared(url).unwrap().concurrency_limit(64);
    let client = CompletionsClient::new(endpoint.connect().await.unwrap());
    let classify = GrpcClassify::idempotent();
    let call = ServiceBuilder::new()
        .layer(quick().build().unwrap().layer().classify(classify))
        .service_fn(move |request: CompleteRequest| {
            let mut client = client.clone();
            async move { client.complete(request).await }
        });
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        calls.spawn(call.clone().oneshot(hello()));
    }
    let mut bad = Vec::new();
    while let Some(answer) = calls.join_next().await {
        if let Err(error) = answer.unwrap() {
            let status = error.as_inner().unwrap();
            bad.push(format!(
                "{:?} {:?}",
                status.code(),
                std::error::Error::source(status).map(|s| format!("{s:?}"))
            ));
        }
    }
    assert!(bad.is_empty());
}

// the same, with the retry under the client.
#[tokio::test]
async fn calls_that_were_never_sent_because_the_connection_died_are_tried_again_under_the_client() {
    let mut tasks = JoinSet::new();
    let url = dies_once(&mut tasks).await;
    let endpoint = Endpoint::from_shared(url).unwrap().concurrency_limit(64);
    let classify = GrpcClassify::idempotent();
    let stack = ServiceBuilder::new()
        .map_err(Status::from)
        .layer(ReplayLayer::new())
        .layer(
            quick()
                .build()
                .unwrap()
                .layer()
                .classify(classify)
                .requests(GrpcRequests::over(CopyReplay).idempotent()),
        )
        .map_request(|request: http::Request<ReplayBody<Body>>| request.map(Body::new))
        .service(endpoint.connect().await.unwrap());
    let client = CompletionsClient::new(stack);
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let mut client = client.clone();
        calls.spawn(async move { client.complete(hello()).await });
    }
    let mut bad = Vec::new();
    while let Some(answer) = calls.join_next().await {
        if let Err(status) = answer.unwrap() {
            bad.push(format!(
                "{:?} {:?}",
                status.code(),
                std::error::Error::source(&status).map(|s| format!("{s:?}"))
            ));
        }
    }
    assert!(bad.is_empty());
}

#[test]
fn unused() {
    let _ = (
        Codes::of(&[C::Ok]),
        service_fn(|(): ()| async { Ok::<(), std::io::Error>(()) }),
    );
}
