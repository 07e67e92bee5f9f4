//! An API that throttles: wait as long as it says, not longer than makes sense, and better not run into it.
//!
//! ```sh
//! cargo run --example rate_limited_api
//! ```

mod support;

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use reqwest::{Request, Response};
use support::chat::{self, ChatRequest};
use support::clock::Stopwatch;
use support::fake_llm::{FakeLlm, Seen};
use support::scenario::{Scenario, Trouble};
use tower::util::option_layer;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_bulwark::rate_limit::{Quota, RateLimit};
use tower_bulwark::{Backoff, BoxError, ConfigError, Error, ResourceLock, RetryPolicy};

const MS: Duration = Duration::from_millis(1);

fn policy() -> Result<RetryPolicy, ConfigError> {
    RetryPolicy::builder()
        .max_retries(5)
        .backoff(Backoff::fixed(10 * MS))
        .max_retry_after(Duration::from_secs(10))
        .on_retry(|failed| println!("  throttled: again in {:.0?}", failed.delay))
        .build()
}

/// Retries `429`, after as long as the response says.
fn patient(
    policy: &RetryPolicy,
    http: reqwest::Client,
) -> impl Service<Request, Response = Response, Error = Error<reqwest::Error>> + Clone + use<> {
    let throttled = |response: &Response| response.status() == 429;
    let retry = policy
        .layer()
        .copy_request(Request::try_clone)
        .retry_response_if(throttled)
        .delay_from(|result: Result<&Response, &reqwest::Error>| {
            chat::retry_after(result.ok()?.headers())
        });
    ServiceBuilder::new().layer(retry).service(http)
}

fn ask(server: &FakeLlm, http: &reqwest::Client, prompt: u64) -> Result<Request, reqwest::Error> {
    http.post(server.base_url() + "/chat/completions")
        .header("x-client-request-id", format!("prompt-{prompt}"))
        .json(&ChatRequest::ask("fake-1", "Why?"))
        .build()
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let http = support::http_client()?;
    let hour = 3_600_000;
    let scenario = Scenario::healthy(1)
        .fault(0..1, 1..=2, 1.0, Trouble::RateLimited(150..=150))
        .fault(1..2, 1..=9, 1.0, Trouble::RateLimited(hour..=hour));
    let server = FakeLlm::start(scenario).await?;
    let policy = policy()?;

    println!("as long as it says:");
    let watch = Stopwatch::start();
    let response = patient(&policy, http.clone())
        .oneshot(ask(&server, &http, 0)?)
        .await?;
    println!("  {} after {:.0?}", response.status(), watch.elapsed());
    assert_eq!(response.status(), 200);
    assert!(watch.elapsed() >= 2 * 150 * MS);

    println!("but not an hour:");
    let response = patient(&policy, http.clone())
        .oneshot(ask(&server, &http, 1)?)
        .await?;
    println!("  {} at once, for the caller to see", response.status());
    assert_eq!(response.status(), 429);
    assert_eq!(
        (server.shutdown().await.requests, policy.snapshot().gave_up),
        (3 + 1, 1)
    );

    println!("sixty requests at once, to an API that takes four:");
    let unlimited = crowd(&http, None).await?;
    println!(
        "  without a limit: {} requests, {} of them throttled",
        unlimited.requests, unlimited.over_capacity
    );
    let slots = ResourceLock::builder("api-slots")
        .max_concurrent(4)
        .build()?;
    let limited = crowd(&http, Some(&slots)).await?;
    let wait = slots.snapshot().stats.wait;
    println!(
        "  behind a lock of four: {} requests, {} of them throttled; waits p50 {:.0?}, p99 {:.0?}",
        limited.requests, limited.over_capacity, wait.p50, wait.p99
    );
    assert!(unlimited.over_capacity > 0);
    assert_eq!((limited.requests, limited.over_capacity), (60, 0));

    println!("twenty-five requests at once, ten a second:");
    let limit = RateLimit::new("api", Quota::per_second(10).burst(1))?;
    let server = FakeLlm::start(Scenario::healthy(3)).await?;
    let service = ServiceBuilder::new()
        .layer(limit.layer())
        .service(http.clone());
    let watch = Stopwatch::start();
    let requests: Result<Vec<_>, _> = (0..25).map(|prompt| ask(&server, &http, prompt)).collect();
    let calls = requests?.into_iter().map(|it| service.clone().oneshot(it));
    for result in join_all(calls).await {
        result?;
    }
    let took = watch.elapsed();
    println!(
        "  {} requests in {took:.1?}; waits p50 {:.1?}",
        server.shutdown().await.requests,
        limit.snapshot().wait.p50
    );
    // The first goes at once, and each of the others a tenth of a second after the one before.
    assert!(took >= 2_400 * MS);
    Ok(())
}

/// Sixty requests at once to a fresh API that works on four at a time; what it saw.
async fn crowd(http: &reqwest::Client, slots: Option<&ResourceLock>) -> Result<Seen, BoxError> {
    let server = FakeLlm::start(Scenario::healthy(2).capacity(4)).await?;
    let service = ServiceBuilder::new()
        .layer(option_layer(slots.map(ResourceLock::layer)))
        // With and without the lock the error is of one type.
        .map_err(Error::Inner)
        .and_then(read)
        .service(http.clone());
    let requests: Result<Vec<_>, _> = (0..60).map(|prompt| ask(&server, http, prompt)).collect();
    let calls = requests?.into_iter().map(|it| service.clone().oneshot(it));
    for result in join_all(calls).await {
        result?;
    }
    Ok(server.shutdown().await)
}

/// Reads the answer where the lock sees it: only at its end has the API one request less.
async fn read(response: Response) -> Result<Bytes, reqwest::Error> {
    response.bytes().await
}
