//! Hedges as gRFC A6 says, case by case.
#![cfg(feature = "grpc")]
#![expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Empty;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tower::{Layer, ServiceExt, service_fn};
use tower_bulwark::deadline::{self, Deadline};
use tower_bulwark::grpc::{GrpcHedge, ServiceConfig};

const MS: Duration = Duration::from_millis(1);

fn cases(list: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("vectors/grpc_retry.json")).unwrap();
    let cases = file[list].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn request() -> Request<()> {
    Request::builder()
        .uri("http://model/a.B/C")
        .body(())
        .unwrap()
}

/// Calls that fail, until the throttle pays for no hedge.
async fn drain(hedge: &GrpcHedge) {
    let throttle = hedge.hedge("/a.B/C").budget().unwrap();
    let inner = service_fn(|_: Request<()>| {
        let mut response = Response::new(Empty::<Bytes>::new());
        let headers = response.headers_mut();
        headers.insert("grpc-status", HeaderValue::from(14));
        // Not to be asked again counts, whatever the code is.
        headers.insert("grpc-retry-pushback-ms", HeaderValue::from_static("-1"));
        std::future::ready(Ok::<_, std::io::Error>(response))
    });
    let service = hedge.layer().layer(inner);
    for _ in 0..1_000 {
        service.clone().oneshot(request()).await.unwrap();
    }
    // Half of its tokens is the threshold.
    assert!(
        throttle.available() <= Some(50),
        "{:?}",
        throttle.available()
    );
}

/// One line of a hedging script: `attempt 2 UNAVAILABLE pushback -1 at 600 ms`.
#[derive(Clone, Debug)]
struct Answer {
    attempt: usize,
    code: u32,
    pushback: Option<String>,
    at: Duration,
}

fn code_named(name: &str) -> u32 {
    let cases = cases("code_cases");
    let named = cases.iter().find(|it| it["id"] == name);
    match named {
        Some(case) => case["code"].as_u64().unwrap() as u32,
        // It is no failure, and not in the list of those.
        None if name == "OK" => 0,
        None => panic!("{name}"),
    }
}

fn answers(script: &str) -> Vec<Answer> {
    let mut answers = Vec::new();
    for line in script.split([';', ',']).map(str::trim) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["attempt", attempt, code, rest @ ..] = &words[..] else {
            continue;
        };
        let after = |word: &str| {
            let place = rest.iter().position(|it| *it == word)?;
            rest.get(place + 1)
        };
        answers.push(Answer {
            attempt: attempt.parse().unwrap(),
            code: code_named(code),
            pushback: after("pushback").map(|it| (*it).to_owned()),
            at: after("at").unwrap().parse::<u32>().unwrap() * MS,
        });
    }
    answers
}

#[tokio::test(start_paused = true)]
async fn calls_are_hedged_as_the_policy_says() {
    for case in cases("hedging_cases") {
        let (id, policy, script) = (
            &case["id"],
            &case["policy"],
            case["script"].as_str().unwrap(),
        );
        let codes = policy["non_fatal"].as_array().cloned().unwrap_or_default();
        let delay = policy["delay_ms"].as_f64().unwrap() / 1e3;
        let json = json!({
            "methodConfig": [{"name": [{}], "hedgingPolicy": {
                "maxAttempts": policy["max_attempts"],
                "hedgingDelay": format!("{delay}s"),
                "nonFatalStatusCodes": codes,
            }}],
            "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
        });
        let config = ServiceConfig::parse(&json.to_string()).unwrap();
        let hedge = GrpcHedge::new("model", &config).unwrap();
        if script.starts_with("tokens <= threshold") {
            drain(&hedge).await;
        }
        let began = Instant::now();
        let sent: Arc<Mutex<Vec<u64>>> = Arc::default();
        let list = Arc::clone(&sent);
        let answers = answers(script);
        let inner = service_fn(move |_: Request<()>| {
            let attempt = {
                let mut sent = list.lock().unwrap();
                sent.push(began.elapsed().as_millis() as u64);
                sent.len()
            };
            let answer = answers.iter().find(|it| it.attempt == attempt).cloned();
            async move {
                let Some(answer) = answer else {
                    return std::future::pending().await;
                };
                sleep_until(began + answer.at).await;
                let mut response = Response::new(Empty::<Bytes>::new());
                let headers = response.headers_mut();
                headers.insert("grpc-status", HeaderValue::from(answer.code));
                if let Some(pushback) = answer.pushback {
                    headers.insert("grpc-retry-pushback-ms", pushback.parse().unwrap());
                }
                Ok::<_, std::io::Error>(response)
            }
        });
        let call = hedge.layer().layer(inner).oneshot(request());
        let call = deadline::scope(Deadline::after(1_200 * MS), call);
        let ended = tokio::time::timeout(1_200 * MS, call).await;
        let expect = &case["expect"];
        assert_eq!(json!(*sent.lock().unwrap()), expect["sent_at_ms"], "{id}");
        match (ended, expect["result"].as_u64()) {
            (Ok(response), Some(code)) => {
                let response = response.unwrap();
                let said = response.headers()["grpc-status"].to_str().unwrap();
                assert_eq!(said, code.to_string(), "{id}");
            }
            // The deadline is the caller's: the hedges end with the call.
            (Err(_), Some(4) | None) => {}
            (ended, code) => panic!("{id}: {ended:?} {code:?}"),
        }
    }
}
