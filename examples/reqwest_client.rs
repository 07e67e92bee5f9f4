//! A `reqwest` client behind all three layers, in one call. For a stack of your own: its client is a tower service,
//! and `http::ReqwestRequests` copies its requests.
//!
//! `cargo run --example reqwest_client --features reqwest`

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use reqwest::Client;
use tower_bulwark::http::ResilientClient;
use tower_bulwark::{Backoff, CircuitBreaker, Error as CallError, ResourceLock, RetryPolicy};

/// A server that throttles its first request, fails its second, and is well from then on.
async fn server() -> std::io::Result<String> {
    let seen = Arc::new(AtomicU32::new(0));
    let answer = move || async move {
        match seen.fetch_add(1, Ordering::Relaxed) {
            0 => (
                StatusCode::TOO_MANY_REQUESTS,
                [(header::RETRY_AFTER, "1")],
                "",
            )
                .into_response(),
            1 => StatusCode::BAD_GATEWAY.into_response(),
            _ => "hello".into_response(),
        }
    };
    let fails = || async { StatusCode::INTERNAL_SERVER_ERROR };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        axum::serve(
            listener,
            Router::new()
                .route("/", get(answer))
                .route("/write", post(fails)),
        )
        .await
    });
    Ok(format!("http://{address}/"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = server().await?;
    // For loopback: no proxy, and no certificates, so that it runs where none are installed. Retries are the
    // layer's business, so the client makes none of its own.
    let http = Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .retry(reqwest::retry::never())
        .build()?;
    let retry = RetryPolicy::builder()
        .backoff(Backoff::exponential(Duration::from_millis(50), 2.0))
        .on_retry(|failed| {
            println!(
                "  attempt {} was not good, again in {:.0?}",
                failed.attempt, failed.delay
            )
        })
        .build()?;
    let breaker = CircuitBreaker::new("upstream");
    let slots = ResourceLock::builder("upstream")
        .max_concurrent(4)
        .build()?;

    let client = ResilientClient::builder("upstream", http)
        .retry(retry)
        .circuit_breaker(breaker.clone())
        .lock(slots.clone())
        .build()?;

    let response = match client.get(&url).send().await {
        Ok(response) => response,
        Err(CallError::CircuitOpen(open)) => return Err(open.into()),
        Err(error) => return Err(error.into()),
    };
    // The permit is held until the body has been read.
    println!("{} ({} held)", response.status(), slots.snapshot().in_use);
    println!(
        "{} ({} held)",
        response.text().await?,
        slots.snapshot().in_use
    );
    // Throttling is not an outage: the 429 is an overload, and no consecutive failures.
    println!("{:?}", breaker.snapshot().totals);

    println!("a write that failed may have been done: it is sent once");
    let response = client.post(format!("{url}write")).send().await?;
    println!("  {}", response.status());

    println!("a host that is not there: the last error is reqwest's own");
    match client.get("http://127.0.0.1:9/").send().await {
        Err(CallError::Exhausted(gave_up)) => {
            println!("  {} attempts, {}", gave_up.attempts(), gave_up.reason());
            match gave_up
                .last()
                .as_inner()
                .is_some_and(reqwest::Error::is_connect)
            {
                true => Ok(()),
                false => Err("not a connect error".into()),
            }
        }
        other => Err(format!("{other:?}").into()),
    }
}
