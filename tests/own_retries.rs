//! What clients do by themselves below the layers, counted by the server: a page says what to switch off.
#![cfg(all(feature = "reqwest", feature = "tonic"))]

#[path = "support/goaway.rs"]
mod goaway;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use goaway::GoesAway;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tower::{Service, ServiceExt};
use tower_bulwark::http::{Attempts, ResilientClient};
use tower_bulwark::{Backoff, RetryPolicy};

/// The server has looked at the first stream, and may have done what it asks for, when it goes away.
const LOOKED_AT: u32 = 1;
/// It says that it has not: which is no proof, for hyper gives the error to requests that were answered too.
const LEFT_BEHIND: u32 = 0;

fn reqwest_client(retry: Option<reqwest::retry::Builder>) -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge();
    match retry {
        Some(retry) => builder.retry(retry).build().unwrap(),
        None => builder.build().unwrap(),
    }
}

#[tokio::test]
async fn reqwest_by_itself_sends_a_post_again_that_a_server_says_it_left_behind() {
    let server = GoesAway::start(LEFT_BEHIND).await;
    let response = reqwest_client(None)
        .post(&server.uri)
        .body("x")
        .send()
        .await;
    assert!(response.is_ok());
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn with_its_retries_switched_off_the_stack_decides() {
    let policy = RetryPolicy::builder()
        .backoff(Backoff::fixed(std::time::Duration::from_millis(1)))
        .build()
        .unwrap();
    for (method, seen) in [(reqwest::Method::POST, 1), (reqwest::Method::GET, 2)] {
        let server = GoesAway::start(LEFT_BEHIND).await;
        let http = reqwest_client(Some(reqwest::retry::never()));
        let client = ResilientClient::builder("api", http)
            .retry(policy.clone())
            .build()
            .unwrap();
        let response = client.request(method.clone(), &server.uri).send().await;
        assert_eq!(server.requests(), seen, "{method}");
        assert_eq!(response.is_ok(), seen == 2, "{method}");
        if let Ok(response) = response {
            // What the server left behind was sent again at once, and is not counted.
            assert_eq!(response.extensions().get(), Some(&Attempts(1)));
        }
    }
}

#[tokio::test]
async fn hyper_and_tonic_do_not_send_again_what_a_server_has_looked_at() {
    let server = GoesAway::start(LOOKED_AT).await;
    let hyper = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http::<Full<Bytes>>();
    let request = http::Request::post(&server.uri).body(Full::from("x"));
    assert!(hyper.request(request.unwrap()).await.is_err());
    assert_eq!(server.requests(), 1);

    let server = GoesAway::start(LOOKED_AT).await;
    let endpoint = tonic::transport::Endpoint::from_shared(server.uri.clone()).unwrap();
    let mut channel = endpoint.connect_lazy();
    let request = http::Request::post(&server.uri).body(tonic::body::Body::empty());
    let channel = channel.ready().await.unwrap();
    assert!(channel.call(request.unwrap()).await.is_err());
    assert_eq!(server.requests(), 1);
}

/// hyper-util sends a request again by itself if the idle connection that it took for it was closed: never one that has
/// left.
#[tokio::test]
async fn hyper_by_itself_sends_no_request_twice_to_a_server_that_closes_idle_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1_024];
            let Ok(n @ 1..) = stream.read(&mut head).await else {
                continue;
            };
            assert!(head[..n].starts_with(b"POST"));
            count.fetch_add(1, Ordering::SeqCst);
            // It does not say that it closes, and closes.
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            let _ = stream.write_all(answer).await;
        }
    });
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut ended = 0;
    for _ in 0..200 {
        let request = http::Request::post(&uri).body(Full::default()).unwrap();
        if let Ok(response) = client.request(request).await {
            let _ = response.into_body().collect().await;
            ended += 1;
        }
        assert!(seen.load(Ordering::SeqCst) <= 200);
    }
    let seen = seen.load(Ordering::SeqCst);
    assert!(
        (ended..=200).contains(&seen),
        "{ended} answered, {seen} seen"
    );
    server.abort();
}
