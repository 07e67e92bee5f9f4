//! The three layers around hyper's client, set up for HTTP: a `503` is a failure, a `429` asks to slow down, a
//! `POST` is not sent twice, and a permit is held until the body has been read.
//!
//! `cargo run --example hyper_client --features hyper`

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tower::{ServiceBuilder, ServiceExt};
use tower_bulwark::{Backoff, CircuitBreaker, Jitter, ResourceLock, RetryBudget, RetryPolicy};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (address, requests) = server().await?;

    let retry = RetryPolicy::builder()
        .backoff(Backoff::exponential(Duration::from_millis(20), 2.0))
        .jitter(Jitter::Full)
        .budget(RetryBudget::new(0.2)?)
        .total_timeout(Duration::from_secs(5))
        .on_retry(|failed| {
            println!(
                "  attempt {} failed, again in {:.0?}",
                failed.attempt, failed.delay
            )
        })
        .build()?;
    let breaker = CircuitBreaker::new("upstream");
    let connections = ResourceLock::builder("upstream-connections")
        .max_concurrent(8)
        .build()?;

    let client = ServiceBuilder::new()
        .layer(retry.http_layer())
        .layer(breaker.http_layer().until_body_end())
        .layer(connections.layer().until_body_end())
        // hyper retries requests on connections that turned out dead; here one layer does the retrying.
        .service(
            Client::builder(TokioExecutor::new())
                .retry_canceled_requests(false)
                .build_http(),
        );

    let request = Request::get(format!("http://{address}/")).body(Full::<Bytes>::default())?;
    let response = client.oneshot(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    println!(
        "{status} {:?} after {} requests",
        body,
        requests.load(Ordering::Relaxed)
    );
    println!("{:?}", breaker.snapshot().totals);
    match status {
        StatusCode::OK => Ok(()),
        other => Err(format!("the answer is {other}").into()),
    }
}

/// A server that is not well for its first two requests.
async fn server() -> std::io::Result<(SocketAddr, Arc<AtomicU32>)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let requests = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            let answer = hyper::service::service_fn(move |_: Request<Incoming>| {
                let status = match seen.fetch_add(1, Ordering::Relaxed) {
                    0 | 1 => StatusCode::SERVICE_UNAVAILABLE,
                    _ => StatusCode::OK,
                };
                let mut response = Response::new(Full::new(Bytes::from_static(b"hello")));
                *response.status_mut() = status;
                async { Ok::<_, Infallible>(response) }
            });
            tokio::spawn(async move {
                let http = hyper::server::conn::http1::Builder::new();
                let _ = http.serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
    Ok((address, requests))
}
