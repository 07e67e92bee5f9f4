//! The three layers around reqwest: its client is a tower service, its request is copied with `try_clone`,
//! and a bad status is a response.
//!
//! `cargo run --example reqwest_client`

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use reqwest::{Client, Request, Response};
use tower::{ServiceBuilder, ServiceExt};
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
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", get(answer))).await });
    Ok(format!("http://{address}/"))
}

fn retry_after(result: Result<&Response, &reqwest::Error>) -> Option<Duration> {
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
        .on_retry(|attempt, delay, _| {
            println!("  attempt {attempt} was not good, again in {delay:.0?}")
        })
        .build()?;
    let breaker = CircuitBreaker::new("upstream");
    let slots = ResourceLock::builder("upstream")
        .max_concurrent(4)
        .build()?;

    let client = ServiceBuilder::new()
        .layer(
            retry
                .layer()
                // Only what cannot have reached the server, or said that it did nothing.
                .retry_if(|e: &reqwest::Error| e.is_connect() || e.is_timeout())
                .retry_response_if(|r: &Response| r.status().is_server_error() || r.status() == 429)
                .delay_from(retry_after)
                .clone_request(Request::try_clone),
        )
        // Throttling is not an outage: a 429 does not count here.
        .layer(
            breaker
                .layer()
                .response_failure_if(|r: &Response| r.status().is_server_error()),
        )
        .layer(
            slots
                .layer()
                .holder(|r: &Request| r.url().path().to_owned()),
        )
        .service(http.clone());

    let request = http.get(&url).build()?;
    let response = match client.clone().oneshot(request).await {
        Ok(response) => response,
        Err(CallError::CircuitOpen(open)) => return Err(open.into()),
        Err(error) => return Err(error.into()),
    };
    println!("{} {}", response.status(), response.text().await?);
    println!("{:?}", breaker.snapshot().totals);

    println!("a host that is not there: the last error is reqwest's own");
    let request = http.get("http://127.0.0.1:9/").build()?;
    match client.oneshot(request).await {
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
