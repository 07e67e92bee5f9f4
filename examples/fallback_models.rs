//! Two models: while the first is down, the second answers; when it is back, the first does again.
//!
//! ```sh
//! cargo run --example fallback_models
//! ```

mod support;

use std::time::Duration;

use reqwest::{Request, Response, StatusCode};
use support::chat::{ChatCompletion, ChatRequest};
use support::fake_llm::FakeLlm;
use support::scenario::{Scenario, Trouble};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_bulwark::{
    Backoff, BoxError, CircuitBreaker, CircuitState, Error, Fallback, RetryPolicy, Verdict,
};

const MS: Duration = Duration::from_millis(1);

/// A `503` is no answer.
fn judge(result: Result<&Response, &reqwest::Error>) -> Verdict {
    match result {
        Ok(response) if response.status().is_server_error() => Verdict::failure(),
        Ok(_) => Verdict::success(),
        Err(_) => Verdict::failure(),
    }
}

/// Retry and breaker around a model of its own.
fn guarded(
    breaker: &CircuitBreaker,
    http: &reqwest::Client,
) -> Result<
    impl Service<Request, Response = Response, Error = Error<reqwest::Error>, Future: Send>
    + Clone
    + Send
    + Sync
    + use<>,
    BoxError,
> {
    let retry = RetryPolicy::builder()
        .max_retries(1)
        .backoff(Backoff::fixed(5 * MS))
        .build()?;
    let failed = |response: &Response| response.status().is_server_error();
    let retry = retry
        .layer()
        .copy_request(Request::try_clone)
        .retry_response_if(failed);
    Ok(ServiceBuilder::new()
        .layer(retry)
        .layer(breaker.layer().classify_with(judge))
        .service(http.clone()))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let http = support::http_client()?;
    // The first model fails for the prompts 3 to 9, whatever is tried.
    let down = Scenario::healthy(1).fault(3..10, 1..=99, 1.0, Trouble::Status(503));
    let (large, small) = (
        FakeLlm::start(down).await?,
        FakeLlm::start(Scenario::healthy(2)).await?,
    );
    let breaker = CircuitBreaker::builder("large")
        .consecutive_failures(4)
        .recovery_timeout(60 * MS)
        .success_threshold(1)
        .build()?;
    let fallback = Fallback::new("models");
    let second = small.base_url() + "/chat/completions";
    let layer = fallback
        .layer()
        .to("small", guarded(&CircuitBreaker::new("small"), &http)?)
        .copy_request(Request::try_clone)
        .classify_with(judge)
        .map_request(move |mut request: Request, _| {
            if let Ok(url) = second.parse() {
                *request.url_mut() = url;
            }
            request
        })
        .mark(|response: &mut Response, target| {
            response.extensions_mut().insert(target.to_owned());
        });
    let service = ServiceBuilder::new()
        .layer(layer)
        .service(guarded(&breaker, &http)?);

    let mut by_small = 0;
    for prompt in 0..20_u64 {
        let request = http
            .post(large.base_url() + "/chat/completions")
            .header("x-client-request-id", format!("prompt-{prompt}"))
            .json(&ChatRequest::ask("fake-1", "Why?"))
            .build()?;
        let response = service.clone().oneshot(request).await?;
        assert_eq!(response.status(), StatusCode::OK);
        let by = response.extensions().get::<String>().cloned();
        let answer: ChatCompletion = response.json().await?;
        println!(
            "prompt {prompt:>2}: {:<5} ({}), the first model's circuit is {}",
            by.as_deref().unwrap_or("large"),
            answer.answer().unwrap_or_default(),
            breaker.state()
        );
        by_small += u64::from(by.is_some());
        if breaker.state() != CircuitState::Closed {
            tokio::time::sleep(20 * MS).await;
        }
    }
    let snapshot = fallback.snapshot();
    println!("{snapshot:?}");
    let (large, small) = (large.shutdown().await, small.shutdown().await);
    println!(
        "the first model was asked {} times, the second {} times",
        large.requests, small.requests
    );
    // Nobody went without an answer, and the circuit spared the first model most of what it could not answer.
    assert_eq!((snapshot.fell_back, snapshot.all_failed), (by_small, 0));
    assert!(by_small >= 7, "{by_small}");
    assert_eq!(breaker.state(), CircuitState::Closed);
    Ok(())
}
