//! Situations in virtual time.
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::common::quick;
use http::{Request, Response};
use tokio::time::Instant;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::http::{DelayHeaders, HttpClassify, MarkedIdempotent};
use tower_bulwark::retry::RetryQuota;
use tower_bulwark::{Backoff, Error, Jitter, RetryBudget, RetryPolicy, StopReason};

const SECOND: Duration = Duration::from_secs(1);

type Answer = (u16, Vec<(&'static str, String)>);
type Answers = Arc<Mutex<Vec<Answer>>>;

/// Answers as the script says, then 200; counts.
#[expect(clippy::type_complexity, reason = "a service that is not boxed")]
fn server(
    answers: Vec<Answer>,
) -> (
    impl Service<
        Request<String>,
        Response = Response<String>,
        Error = std::io::Error,
        Future = std::future::Ready<Result<Response<String>, std::io::Error>>,
    > + Clone,
    Arc<AtomicUsize>,
) {
    let answers: Answers = Arc::new(Mutex::new(answers.into_iter().rev().collect()));
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = calls.clone();
    let service = service_fn(move |_: Request<String>| {
        seen.fetch_add(1, Ordering::SeqCst);
        let (status, headers) = answers.lock().unwrap().pop().unwrap_or((200, vec![]));
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(name, value);
        }
        std::future::ready(Ok(response.body(String::new()).unwrap()))
    });
    (service, calls)
}

fn post() -> Request<String> {
    Request::post("/v1/chat/completions")
        .body("{}".into())
        .unwrap()
}

fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

fn slow() -> RetryPolicy {
    RetryPolicy::builder().jitter(Jitter::None).build().unwrap()
}

// OpenRouter's 429: the reset is in milliseconds since 1970.
#[tokio::test(start_paused = true)]
async fn a_reset_in_milliseconds_since_1970_is_waited_for() {
    let reset = (unix_now() + 30 * SECOND).as_millis().to_string();
    let headers = vec![
        ("x-ratelimit-limit", "20".into()),
        ("x-ratelimit-remaining", "0".into()),
        ("x-ratelimit-reset", reset),
    ];
    let (server, _calls) = server(vec![(429, headers)]);
    let classify = HttpClassify::new().sdk();
    let service = ServiceBuilder::new()
        .layer(slow().http_layer().classify(classify))
        .service(server);
    let began = Instant::now();
    let response = service.oneshot(post()).await.unwrap();
    assert_eq!(response.status(), 200);
    let waited = began.elapsed();
    assert!(waited > 28 * SECOND && waited < 32 * SECOND, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_with_a_fraction_is_understood_where_it_is_asked_for() {
    let (server, calls) = server(vec![(429, vec![("retry-after", "0.503".into())])]);
    let classify = HttpClassify::new().delays_from(DelayHeaders::new());
    let service = ServiceBuilder::new()
        .layer(slow().http_layer().classify(classify))
        .service(server);
    let began = Instant::now();
    assert_eq!(service.oneshot(post()).await.unwrap().status(), 200);
    assert_eq!(
        (calls.load(Ordering::SeqCst), began.elapsed()),
        (2, Duration::from_millis(503))
    );
}

// services that keep readiness in the instance (Buffer, ConcurrencyLimit, a strict mock).
#[derive(Debug)]
struct Strict {
    ready: bool,
    calls: Arc<AtomicUsize>,
}
impl Clone for Strict {
    fn clone(&self) -> Self {
        Self {
            ready: false,
            calls: self.calls.clone(),
        }
    }
}
impl Service<u32> for Strict {
    type Response = u32;
    type Error = std::io::Error;
    type Future = std::future::Ready<Result<u32, std::io::Error>>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, n: u32) -> Self::Future {
        assert!(
            std::mem::take(&mut self.ready),
            "called without having been made ready"
        );
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        std::future::ready(if call < 3 {
            Err(std::io::Error::other("again"))
        } else {
            Ok(n)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn every_attempt_is_made_by_a_service_that_was_made_ready() {
    let strict = || Strict {
        ready: false,
        calls: Arc::default(),
    };
    let policy = quick().build().unwrap();
    let mut plain = ServiceBuilder::new()
        .layer(policy.layer())
        .service(strict());
    assert_eq!(plain.ready().await.unwrap().call(7).await.unwrap(), 7);
    let mut limited = ServiceBuilder::new()
        .layer(policy.layer())
        .concurrency_limit(1)
        .service(strict());
    assert_eq!(limited.ready().await.unwrap().call(7).await.unwrap(), 7);
    assert_eq!(
        limited.ready().await.unwrap().call(8).await.unwrap(),
        8,
        "the permit came back"
    );
    let mut buffered = ServiceBuilder::new()
        .layer(policy.layer())
        .buffer(1)
        .service(strict());
    assert_eq!(buffered.ready().await.unwrap().call(7).await.unwrap(), 7);
    // All of this crate's layers, over the same.
    let (breaker, lock) = (
        tower_bulwark::CircuitBreaker::new("b"),
        tower_bulwark::ResourceLock::new("l"),
    );
    let mut all = ServiceBuilder::new()
        .layer(policy.layer())
        .layer(breaker.layer())
        .layer(lock.layer())
        .service(strict());
    assert_eq!(all.ready().await.unwrap().call(7).await.unwrap(), 7);
}

// a Retry-After that cannot fit the total timeout must not be slept through.
#[tokio::test(start_paused = true)]
async fn a_wait_that_the_total_timeout_would_cut_is_not_begun() {
    let (server, calls) = server(vec![(429, vec![("retry-after", "50".into())])]);
    let policy = RetryPolicy::builder()
        .total_timeout(30 * SECOND)
        .build()
        .unwrap();
    let service = ServiceBuilder::new()
        .layer(policy.http_layer())
        .service(server);
    let began = Instant::now();
    let response = service.oneshot(post()).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), began.elapsed()),
        (429, Duration::ZERO)
    );
    assert_eq!(
        response.headers()["retry-after"],
        "50",
        "the caller learns when"
    );
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

// many retries, a steep backoff, a cap.
#[tokio::test(start_paused = true)]
async fn thousands_of_retries_with_a_steep_backoff_stay_at_the_cap() {
    for jitter in [
        Jitter::None,
        Jitter::Full,
        Jitter::Equal,
        Jitter::Decorrelated,
        Jitter::Proportional(1.0),
    ] {
        for (base, multiplier) in [
            (2 * SECOND, 2.0),
            (Duration::from_nanos(1), 1e300),
            (Duration::MAX, 1e308),
        ] {
            let policy = RetryPolicy::builder()
                .max_retries(3_000)
                .backoff(Backoff::exponential(base, multiplier))
                .jitter(jitter)
                .max_delay(Duration::from_millis(250))
                .on_retry(|failed| assert!(failed.delay <= Duration::from_millis(250)))
                .build()
                .unwrap();
            let calls = AtomicUsize::new(0);
            let end = policy
                .run(|| {
                    calls.fetch_add(1, Ordering::SeqCst);
                    async { Err::<(), _>(std::io::Error::other("down")) }
                })
                .await;
            assert!(matches!(end, Err(Error::Exhausted(_))));
            assert_eq!(calls.load(Ordering::SeqCst), 3_001);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_cap_a_wait_may_be_as_long_as_it_likes_and_nothing_panics() {
    for jitter in [
        Jitter::None,
        Jitter::Full,
        Jitter::Equal,
        Jitter::Decorrelated,
        Jitter::Proportional(0.1),
        Jitter::Proportional(1.0),
    ] {
        let policy = RetryPolicy::builder()
            .max_retries(u32::MAX)
            .backoff(Backoff::exponential(SECOND, 1e9))
            .jitter(jitter)
            .max_delay(Duration::MAX)
            .total_timeout(Duration::from_secs(86_400))
            .build()
            .unwrap();
        let _ = policy.config().worst_case_delay();
        let end = policy
            .run(|| async { Err::<(), _>(std::io::Error::other("down")) })
            .await;
        let Err(Error::Exhausted(end)) = end else {
            panic!()
        };
        assert_eq!(end.reason(), StopReason::Deadline);
    }
}

// a quota must not be drained by recoveries that all succeed.
#[tokio::test(start_paused = true)]
async fn calls_that_recover_give_their_tokens_back() {
    for rules in [RetryQuota::AWS, RetryQuota::AWS_2_0] {
        let budget = RetryBudget::quota(rules).unwrap();
        let policy = quick().budget(budget.clone()).build().unwrap();
        let before = budget.available();
        for cycle in 0..200 {
            let calls = AtomicUsize::new(0);
            let answer = policy
                .run(|| {
                    let n = calls.fetch_add(1, Ordering::SeqCst);
                    async move {
                        if n == 0 {
                            Err(std::io::Error::other("stale connection"))
                        } else {
                            Ok(())
                        }
                    }
                })
                .await;
            assert!(answer.is_ok(), "cycle {cycle}");
        }
        assert_eq!(budget.available(), before);
    }
}

// Gemini's wait is in the body of the 429 and in no header.
#[tokio::test(start_paused = true)]
async fn a_wait_that_is_in_the_body_can_be_had_with_a_step_below_the_retry() {
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = calls.clone();
    let client = service_fn(move |_: Request<String>| {
        let n = seen.fetch_add(1, Ordering::SeqCst);
        let body = r#"{"error":{"code":429,"details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"45.837906927s"}]}}"#;
        let (status, body) = if n == 0 { (429, body) } else { (200, "{}") };
        std::future::ready(Ok::<_, std::io::Error>(
            Response::builder()
                .status(status)
                .body(String::from(body))
                .unwrap(),
        ))
    });
    let classify = HttpClassify::new().delays_from(DelayHeaders::new().millis());
    let service = ServiceBuilder::new()
        .layer(slow().http_layer().classify(classify))
        .map_response(|mut response: Response<String>| {
            let json: serde_json::Value = serde_json::from_str(response.body()).unwrap_or_default();
            let delay = json
                .pointer("/error/details")
                .and_then(|d| d.as_array())
                .into_iter()
                .flatten()
                .find_map(|d| d["retryDelay"].as_str());
            if let Some(seconds) = delay
                .and_then(|d| d.strip_suffix('s'))
                .and_then(|d| d.parse::<f64>().ok())
            {
                response.headers_mut().insert(
                    "retry-after-ms",
                    (seconds * 1e3).ceil().to_string().parse().unwrap(),
                );
            }
            response
        })
        .service(client);
    let began = Instant::now();
    assert_eq!(service.oneshot(post()).await.unwrap().status(), 200);
    assert_eq!(
        (calls.load(Ordering::SeqCst), began.elapsed()),
        (2, Duration::from_millis(45_838))
    );
}

// several attempts, bodies intact, when an attempt timeout cuts the first (failsafe-go).
#[tokio::test(start_paused = true)]
async fn the_body_is_whole_after_an_attempt_that_timed_out() {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let seen = bodies.clone();
    let client = service_fn(move |request: Request<String>| {
        let seen = seen.clone();
        async move {
            seen.lock().unwrap().push(request.into_body());
            if seen.lock().unwrap().len() < 3 {
                std::future::pending::<()>().await;
            }
            Ok::<_, std::io::Error>(Response::new(String::new()))
        }
    });
    let policy = quick().attempt_timeout(SECOND).build().unwrap();
    let service = ServiceBuilder::new()
        .layer(policy.http_layer())
        .service(client);
    let mut request = Request::post("/orders")
        .body(String::from("one coffee"))
        .unwrap();
    request.extensions_mut().insert(MarkedIdempotent(true));
    service.oneshot(request).await.unwrap();
    assert_eq!(*bodies.lock().unwrap(), ["one coffee"; 3]);
}
