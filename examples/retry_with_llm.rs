//! Retry around an LLM call: which errors are worth another attempt, how long to wait, when to stop.
//!
//! ```sh
//! cargo run --example retry_with_llm
//! ```

mod support;

use std::time::Duration;

use support::chat::{self, ChatCompletion, ChatRequest};
use support::fake_llm::FakeLlm;
use support::scenario::{Scenario, Trouble};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::retry::AttemptOutcome;
use tower_bulwark::{Backoff, BoxError, Error, Jitter, RetryBudget, RetryPolicy, StopReason};

/// What can go wrong with a call, in the terms of the program.
#[derive(Debug)]
enum AskError {
    Throttled {
        retry_after: Option<Duration>,
    },
    Server(reqwest::StatusCode),
    Connection(reqwest::Error),
    /// The prompt itself is at fault: no retry would mend it.
    BadPrompt(reqwest::StatusCode),
}

impl std::fmt::Display for AskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Throttled { .. } => f.write_str("throttled"),
            Self::Server(status) => write!(f, "server error {status}"),
            Self::Connection(_) => f.write_str("connection broken"),
            Self::BadPrompt(status) => write!(f, "bad prompt: {status}"),
        }
    }
}

impl std::error::Error for AskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connection(error) => Some(error),
            Self::Throttled { .. } | Self::Server(_) | Self::BadPrompt(_) => None,
        }
    }
}

async fn ask(http: reqwest::Client, url: String, prompt: u64) -> Result<String, AskError> {
    let request = http
        .post(url)
        .header("x-client-request-id", format!("prompt-{prompt}"))
        .json(&ChatRequest::ask("fake-1", "Why?"));
    let response = request.send().await.map_err(AskError::Connection)?;
    match response.status() {
        status if status.is_server_error() => Err(AskError::Server(status)),
        reqwest::StatusCode::TOO_MANY_REQUESTS => Err(AskError::Throttled {
            retry_after: chat::retry_after(response.headers()),
        }),
        status if !status.is_success() => Err(AskError::BadPrompt(status)),
        _ => {
            let completion: ChatCompletion = response.json().await.map_err(AskError::Connection)?;
            Ok(completion.answer().unwrap_or_default().to_owned())
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let scenario = Scenario::healthy(1)
        .fault(0..1, 1..=1, 1.0, Trouble::RateLimited(250..=250))
        .fault(0..1, 2..=2, 1.0, Trouble::Status(503))
        .fault(0..1, 3..=3, 1.0, Trouble::DropBefore)
        .fault(1..2, 1..=99, 1.0, Trouble::Status(500))
        .fault(2..3, 1..=99, 1.0, Trouble::Status(400));
    let server = FakeLlm::start(scenario).await?;
    let http = support::http_client()?;

    let retry = RetryPolicy::builder()
        .name("ask")
        .max_retries(4)
        .backoff(Backoff::exponential(Duration::from_millis(50), 2.0))
        .jitter(Jitter::Full)
        .max_delay(Duration::from_secs(1))
        // A service may ask for more time than the backoff would give it, but not for ever.
        .max_retry_after(Duration::from_secs(5))
        // All callers together may add half of the traffic in retries.
        .budget(RetryBudget::new(0.5)?)
        .total_timeout(Duration::from_secs(10))
        .on_retry(|failed| {
            let end = match failed.outcome {
                AttemptOutcome::Error(error) => error.to_string(),
                other => format!("{other:?}"),
            };
            println!(
                "  attempt {}: {end}; again in {:.1?}",
                failed.attempt, failed.delay
            );
        })
        .build()?;
    let url = server.base_url() + "/chat/completions";
    let service = ServiceBuilder::new()
        .layer(
            retry
                .layer()
                .retry_if(|error: &AskError| !matches!(error, AskError::BadPrompt(_)))
                .delay_from(|result: Result<&String, &AskError>| match result {
                    Err(AskError::Throttled { retry_after }) => *retry_after,
                    _ => None,
                }),
        )
        .service(service_fn(move |prompt| {
            ask(http.clone(), url.clone(), prompt)
        }));

    println!("throttled, then failing, then cut off, then well:");
    let answer = service.clone().oneshot(0).await?;
    println!("  {answer}");
    assert_eq!(server.seen().requests, 4);

    println!("failing for good:");
    match service.clone().oneshot(1).await {
        Err(Error::Exhausted(gave_up)) => {
            println!("  {gave_up}");
            for record in gave_up.history() {
                println!(
                    "    {}: {}, waited {:.0?}",
                    record.attempt, record.end, record.delay
                );
            }
            assert_eq!(
                (gave_up.attempts(), gave_up.reason()),
                (5, StopReason::MaxRetries)
            );
            assert!(matches!(
                gave_up.last().as_inner(),
                Some(AskError::Server(_))
            ));
        }
        other => return Err(format!("expected to give up, got {other:?}").into()),
    }

    println!("not worth a retry:");
    match service.oneshot(2).await {
        Err(Error::Inner(AskError::BadPrompt(status))) => println!("  {status}, after one attempt"),
        other => return Err(format!("expected a bad prompt, got {other:?}").into()),
    }

    let seen = server.shutdown().await;
    println!(
        "the server saw {} requests; {:?}",
        seen.requests,
        retry.snapshot()
    );
    assert_eq!(seen.requests, 4 + 5 + 1);
    Ok(())
}
