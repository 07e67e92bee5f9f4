//! The retry layer: attempts, waits, clones, deadlines, what is reported, and retry without tower.

#![expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]

use std::cell::Cell;
use std::convert::Infallible;
use std::fmt;
use std::future::{pending, ready};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use static_assertions::assert_impl_all;
use tokio::time::{Instant, advance, sleep};
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::deadline::{self, Deadline};
use tower_bulwark::error::AttemptEnd;
use tower_bulwark::observe::Feed;
use tower_bulwark::outcome::AttemptContext;
use tower_bulwark::retry::{AttemptOutcome, RetryPolicyBuilder, RetryQuota, RetryService};
use tower_bulwark::{
    Backoff, CircuitBreaker, Error, Idempotency, Jitter, LastFailure, Rejection, ResourceLock,
    RetryBudget, RetryLayer, RetryPolicy, RetrySafety, StopReason, Verdict,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

assert_impl_all!(RetryPolicy: Send, Sync, Clone);
assert_impl_all!(RetryBudget: Send, Sync, Clone);
assert_impl_all!(RetryLayer<std::io::Error>: Send, Sync, Clone);
assert_impl_all!(RetryService<(), std::io::Error>: Send, Sync, Clone);

#[derive(Debug, Clone, PartialEq)]
enum ApiError {
    Busy,
    Wrong,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for ApiError {}

/// A second between attempts, without jitter.
fn each_second() -> RetryPolicyBuilder {
    RetryPolicy::builder()
        .backoff(Backoff::fixed(SECOND))
        .jitter(Jitter::None)
}

/// Answers one after another from a script, and then for ever with the last.
fn scripted<T: Clone + Send + 'static>(
    answers: &[T],
) -> (
    Arc<AtomicU32>,
    impl Fn() -> T + Clone + Send + Sync + use<T>,
) {
    let calls = Arc::new(AtomicU32::new(0));
    let (count, answers) = (Arc::clone(&calls), Arc::new(Mutex::new(answers.to_vec())));
    let next = move || {
        count.fetch_add(1, Ordering::SeqCst);
        let mut answers = answers.lock().unwrap();
        if answers.len() > 1 {
            answers.remove(0)
        } else {
            answers[0].clone()
        }
    };
    (calls, next)
}

// ---- Attempts -----------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn it_tries_again_after_the_backoff_until_it_succeeds() {
    let (calls, next) = scripted(&[Err(ApiError::Busy), Err(ApiError::Busy), Ok(7)]);
    let start = Instant::now();
    let service = each_second()
        .build()
        .unwrap()
        .layer()
        .layer(service_fn(move |(): ()| ready(next())));
    assert_eq!(service.oneshot(()).await.unwrap(), 7);
    assert_eq!(
        (calls.load(Ordering::SeqCst), start.elapsed()),
        (3, 2 * SECOND)
    );
}

#[tokio::test(start_paused = true)]
async fn the_default_waits_one_two_and_four_seconds_give_or_take_ten_percent() {
    let start = Instant::now();
    let gave_up = RetryPolicy::new()
        .run(|| async { Err::<(), _>(ApiError::Busy) })
        .await;
    let Err(Error::Exhausted(gave_up)) = gave_up else {
        panic!("not exhausted");
    };
    assert_eq!(
        (gave_up.attempts(), gave_up.reason()),
        (4, StopReason::MaxRetries)
    );
    assert_eq!(gave_up.last(), &LastFailure::Inner(ApiError::Busy));
    let delays: Vec<Duration> = gave_up.history().iter().filter_map(|it| it.delay).collect();
    for (delay, seconds) in delays.iter().zip([1.0, 2.0, 4.0]) {
        assert!(
            (delay.as_secs_f64() / seconds - 1.0).abs() <= 0.1,
            "{delay:?}"
        );
    }
    // tokio's timers tick in milliseconds.
    assert!(start.elapsed().abs_diff(delays.iter().sum()) <= 3 * MS);
}

#[tokio::test(start_paused = true)]
async fn an_error_that_is_not_worth_a_retry_comes_out_as_it_is() {
    let (calls, next) = scripted(&[Err::<(), _>(ApiError::Wrong)]);
    let service = RetryPolicy::new()
        .layer()
        .retry_if(|e: &ApiError| *e == ApiError::Busy)
        .layer(service_fn(move |(): ()| ready(next())));
    let error = service.oneshot(()).await.unwrap_err();
    assert!(matches!(error, Error::Inner(ApiError::Wrong)));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn errors_and_responses_can_be_retried_at_once() {
    let (calls, next) = scripted(&[Err(ApiError::Busy), Ok(503), Ok(200)]);
    let service = each_second()
        .build()
        .unwrap()
        .layer()
        .retry_if(|e: &ApiError| *e == ApiError::Busy)
        .retry_response_if(|status: &u16| *status >= 500)
        .layer(service_fn(move |(): ()| ready(next())));
    assert_eq!(service.oneshot(()).await.unwrap(), 200);
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn the_last_bad_response_is_the_callers_and_giving_up_is_told() {
    let feed = Feed::default();
    let policy = each_second()
        .max_retries(1)
        .observer(feed.clone())
        .build()
        .unwrap();
    let service = policy
        .layer()
        .classify_with(|r: Result<&u16, &ApiError>| match r {
            Ok(503) => Verdict::failure().because("HTTP 503"),
            Ok(_) => Verdict::success(),
            Err(_) => Verdict::ignored(),
        })
        .layer(service_fn(|(): ()| ready(Ok::<u16, ApiError>(503))));
    assert_eq!(service.oneshot(()).await.unwrap(), 503);
    let told: Vec<String> = feed.recent().iter().map(|e| e.event.to_string()).collect();
    assert_eq!(told[0], "attempt 1 failed (HTTP 503), next in 1.000s");
    assert!(told[1].starts_with("gave up after attempt 2"), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_delay_in_the_result_replaces_the_backoff() {
    let (_, next) = scripted(&[Ok(429), Err(ApiError::Busy), Ok(200)]);
    let service = each_second()
        .retry_after_jitter(0.0)
        .build()
        .unwrap()
        .layer()
        .retry_response_if(|status: &u16| *status == 429)
        .delay_from(|r: Result<&u16, &ApiError>| match r {
            Ok(429) => Some(17 * SECOND),
            Ok(_) => None,
            Err(_) => Some(5 * SECOND),
        })
        .layer(service_fn(move |(): ()| ready(next())));
    let start = Instant::now();
    assert_eq!(service.oneshot(()).await.unwrap(), 200);
    assert_eq!(start.elapsed(), 22 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_request_says_how_often() {
    let calls = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&calls);
    let service = each_second()
        .build()
        .unwrap()
        .layer()
        .max_retries_fn(|n: &u32| *n)
        .layer(service_fn(move |_: u32| {
            count.fetch_add(1, Ordering::SeqCst);
            ready(Err::<(), _>(ApiError::Busy))
        }));
    for (retries, attempts) in [(0, 1), (5, 6)] {
        calls.store(0, Ordering::SeqCst);
        service.clone().oneshot(retries).await.unwrap_err();
        assert_eq!(calls.load(Ordering::SeqCst), attempts);
    }
}

// ---- Requests and clones ------------------------------------------------------------------------------

/// A request that counts its copies, and is not `Clone`.
struct Counted(Arc<AtomicU32>);

fn copy(request: &Counted) -> Option<Counted> {
    request.0.fetch_add(1, Ordering::SeqCst);
    Some(Counted(Arc::clone(&request.0)))
}

#[tokio::test(start_paused = true)]
async fn a_request_is_copied_only_while_another_attempt_is_possible() {
    for (retries, copies) in [(0, 0), (1, 1), (3, 3)] {
        let request = Counted(Arc::default());
        let count = Arc::clone(&request.0);
        let service = each_second()
            .max_retries(retries)
            .build()
            .unwrap()
            .layer()
            .copy_request(copy)
            .layer(service_fn(|_: Counted| ready(Err::<(), _>(ApiError::Busy))));
        service.oneshot(request).await.unwrap_err();
        assert_eq!(count.load(Ordering::SeqCst), copies, "{retries} retries");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_copied_is_sent_once_and_the_error_is_the_services_own() {
    let (calls, next) = scripted(&[Err::<(), _>(ApiError::Busy)]);
    let service = RetryPolicy::new()
        .layer()
        .copy_request(|_: &Counted| None)
        .layer(service_fn(move |_: Counted| ready(next())));
    let error = service.oneshot(Counted(Arc::default())).await.unwrap_err();
    assert!(matches!(error, Error::Inner(ApiError::Busy)), "{error:?}");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_may_not_be_done_twice_is_sent_again_only_if_it_was_not_done() {
    let verdict_of = |error: &ApiError| match error {
        ApiError::Busy => Verdict::overload().retry(RetrySafety::Always),
        ApiError::Wrong => Verdict::failure(),
    };
    for (request, repeat, attempts) in [
        (Idempotency::NotIdempotent, ApiError::Busy, 4),
        (Idempotency::NotIdempotent, ApiError::Wrong, 1),
        (Idempotency::Idempotent, ApiError::Wrong, 4),
        (Idempotency::Keyed, ApiError::Wrong, 4),
    ] {
        let (calls, next) = scripted(&[Err::<(), _>(repeat)]);
        let service = RetryPolicy::new()
            .layer()
            .classify_with(move |result: Result<&(), &ApiError>| match result {
                Ok(()) => Verdict::success(),
                Err(error) => verdict_of(error),
            })
            .idempotency_from(move |_: &()| request)
            .layer(service_fn(move |(): ()| ready(next())));
        let error = service.oneshot(()).await.unwrap_err();
        assert_eq!(calls.load(Ordering::SeqCst), attempts);
        let Error::Exhausted(gave_up) = error else {
            panic!("{error:?}");
        };
        let reason = match attempts {
            1 => StopReason::NotIdempotent,
            _ => StopReason::MaxRetries,
        };
        assert_eq!((gave_up.attempts(), gave_up.reason()), (attempts, reason));
    }
}

#[tokio::test(start_paused = true)]
async fn what_only_a_key_would_make_repeatable_is_an_answer_without_one() {
    for (request, attempts) in [(Idempotency::Idempotent, 1), (Idempotency::Keyed, 4)] {
        let (calls, next) = scripted(&[Err::<(), _>(ApiError::Busy)]);
        let policy = RetryPolicy::new();
        let service = policy
            .layer()
            .classify_with(|_: Result<&(), &ApiError>| {
                Verdict::success().retry(RetrySafety::IfKeyed)
            })
            .idempotency_from(move |_: &()| request)
            .layer(service_fn(move |(): ()| ready(next())));
        let error = service.oneshot(()).await.unwrap_err();
        assert_eq!(calls.load(Ordering::SeqCst), attempts);
        let plain = matches!(error, Error::Inner(_));
        assert_eq!(
            (plain, policy.snapshot().gave_up),
            (attempts == 1, u64::from(attempts > 1))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_timed_out_may_have_been_done() {
    let policy = each_second().attempt_timeout(SECOND).build().unwrap();
    let service = policy
        .layer::<ApiError>()
        .idempotency_from(|_: &()| Idempotency::NotIdempotent)
        .layer(service_fn(|(): ()| pending::<Result<(), ApiError>>()));
    let Error::Exhausted(gave_up) = service.oneshot(()).await.unwrap_err() else {
        panic!("not exhausted");
    };
    assert_eq!(
        (gave_up.attempts(), gave_up.reason()),
        (1, StopReason::NotIdempotent)
    );
}

#[tokio::test(start_paused = true)]
async fn each_attempt_is_numbered_on_a_copy_of_its_own_and_one_that_never_started_is_not_counted() {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&sent);
    let start = Instant::now();
    let service = each_second()
        .build()
        .unwrap()
        .layer()
        .classify_with(|result: Result<&(), &ApiError>| match result {
            Ok(()) => Verdict::success(),
            Err(ApiError::Wrong) => Verdict::ignored().retry_immediately(),
            Err(ApiError::Busy) => Verdict::failure(),
        })
        .before_attempt(|request: &mut Vec<u32>, attempt| request.push(attempt))
        .layer(service_fn(move |request: Vec<u32>| {
            let mut seen = seen.lock().unwrap();
            seen.push((request, start.elapsed()));
            ready(match seen.len() {
                1 => Err(ApiError::Wrong),
                2 | 3 => Err(ApiError::Busy),
                _ => Ok(()),
            })
        }));
    service.oneshot(vec![]).await.unwrap();
    assert_eq!(
        *sent.lock().unwrap(),
        [
            (vec![1], Duration::ZERO),
            (vec![1], Duration::ZERO),
            (vec![2], SECOND),
            (vec![3], 2 * SECOND)
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_retried_at_once_does_not_wait_for_the_timeout_of_the_attempt_before() {
    let start = Instant::now();
    let (_, next) = scripted(&[Err(ApiError::Wrong), Err(ApiError::Busy), Ok(())]);
    let service = each_second()
        .attempt_timeout(10 * SECOND)
        .build()
        .unwrap()
        .layer()
        .classify_with(|result: Result<&(), &ApiError>| match result {
            Ok(()) => Verdict::success(),
            Err(ApiError::Wrong) => Verdict::failure().retry_immediately(),
            Err(ApiError::Busy) => Verdict::failure().retry_exactly_after(Duration::ZERO),
        })
        .layer(service_fn(move |(): ()| {
            let answer = next();
            async move {
                tokio::task::yield_now().await; // Only who waits has a timer.
                answer
            }
        }));
    service.oneshot(()).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_throttle_counts_no_request_that_is_sent_again_for_nothing() {
    let budget = RetryBudget::throttle(10, 0.1).unwrap();
    let policy = each_second().budget(budget.clone()).build().unwrap();
    let (_, next) = scripted(&[Err(ApiError::Wrong), Err(ApiError::Wrong), Ok(())]);
    let service = policy
        .layer()
        .classify_with(|result: Result<&(), &ApiError>| match result {
            Ok(()) => Verdict::ignored(),
            Err(_) => Verdict::failure().retry_immediately(),
        })
        .layer(service_fn(move |(): ()| ready(next())));
    service.oneshot(()).await.unwrap();
    assert_eq!(budget.available(), Some(4), "the second was an attempt");
}

#[tokio::test(start_paused = true)]
async fn a_throttle_stops_retries_while_half_of_its_tokens_are_gone() {
    let budget = RetryBudget::throttle(4, 1.0).unwrap();
    let policy = each_second().budget(budget.clone()).build().unwrap();
    let (calls, next) = scripted(&[Err::<(), _>(ApiError::Busy)]);
    let gave_up = policy.run(|| ready(next())).await.unwrap_err();
    assert!(matches!(gave_up, Error::Exhausted(e) if e.reason() == StopReason::BudgetExhausted));
    assert_eq!(calls.load(Ordering::SeqCst), 2, "3 of 4 left: one retry");
    policy.run(|| ready(Ok::<_, ApiError>(()))).await.unwrap();
    assert_eq!(budget.available(), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_quota_is_given_back_by_the_call_that_recovered() {
    let quota = RetryQuota {
        capacity: 14,
        ..RetryQuota::AWS
    };
    let budget = RetryBudget::quota(quota).unwrap();
    let policy = each_second().budget(budget.clone()).build().unwrap();
    for _ in 0..3 {
        let (calls, next) = scripted(&[Err(ApiError::Busy), Ok(())]);
        policy.run(|| ready(next())).await.unwrap();
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }
    let (calls, next) = scripted(&[Err::<(), _>(ApiError::Busy)]);
    policy.run(|| ready(next())).await.unwrap_err();
    assert_eq!(calls.load(Ordering::SeqCst), 2, "it paid for one retry");
    assert_eq!(budget.available(), Some(0));
}

#[tokio::test(start_paused = true)]
async fn the_ready_instance_makes_the_first_call_and_the_clone_is_made_ready_first() {
    let (mock, mut handle) = tower_test::mock::pair::<&str, &str>();
    let layer = each_second().build().unwrap().layer();
    let mut service = task::spawn(layer.layer(mock));
    handle.allow(1);
    assert_ready_ok!(service.enter(|cx, mut s| s.poll_ready(cx)));
    let mut call = task::spawn(service.call("hello"));
    assert_pending!(call.poll());
    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_error("down");
    assert_pending!(call.poll());
    advance(SECOND).await;
    // The mock panics if it is called without being ready: it has no place for another call yet.
    assert_pending!(call.poll());
    handle.allow(1);
    assert_pending!(call.poll());
    let (request, respond) = handle.next_request().await.unwrap();
    assert_eq!(request, "hello");
    respond.send_response("world");
    assert_eq!(assert_ready_ok!(call.poll()), "world");
}

#[tokio::test(start_paused = true)]
async fn the_failed_attempt_is_gone_before_the_wait_begins() {
    struct Gone(Arc<AtomicBool>);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let gone = Arc::new(AtomicBool::new(false));
    let inside = Arc::clone(&gone);
    let mut service = each_second()
        .build()
        .unwrap()
        .layer()
        .layer(service_fn(move |(): ()| {
            let held = Gone(Arc::clone(&inside));
            // Holds it until the future is dropped, not until it is done.
            Box::pin(futures::future::poll_fn(move |_| {
                let _ = &held;
                std::task::Poll::Ready(Err::<(), _>(ApiError::Busy))
            }))
        }));
    let mut call = task::spawn(service.ready().await.unwrap().call(()));
    assert_pending!(call.poll());
    assert!(gone.load(Ordering::SeqCst), "held through the backoff");
}

#[tokio::test(start_paused = true)]
async fn an_error_while_getting_ready_again_ends_it() {
    let (mock, mut handle) = tower_test::mock::pair::<&str, &str>();
    let mut service = task::spawn(each_second().build().unwrap().layer().layer(mock));
    handle.allow(1);
    assert_ready_ok!(service.enter(|cx, mut s| s.poll_ready(cx)));
    let mut call = task::spawn(service.call("hello"));
    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_error("down");
    assert_pending!(call.poll());
    handle.send_error("closed");
    advance(SECOND).await;
    let error: Error<tower_bulwark::Boxed> = assert_ready!(call.poll()).unwrap_err();
    assert!(matches!(error, Error::Inner(_)), "{error:?}");
}

// ---- Deadlines ----------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn an_attempt_that_takes_too_long_is_given_up_and_tried_again() {
    let calls = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&calls);
    let policy = each_second().attempt_timeout(3 * SECOND).build().unwrap();
    let service = policy.layer().layer(service_fn(move |(): ()| {
        let n = count.fetch_add(1, Ordering::SeqCst);
        async move {
            if n < 2 {
                pending::<()>().await;
            }
            Ok::<_, ApiError>(n)
        }
    }));
    let start = Instant::now();
    assert_eq!(service.oneshot(()).await.unwrap(), 2);
    assert_eq!(start.elapsed(), 2 * (3 * SECOND + SECOND));
}

#[tokio::test(start_paused = true)]
async fn when_every_attempt_timed_out_the_error_says_so() {
    let policy = each_second()
        .max_retries(1)
        .attempt_timeout(3 * SECOND)
        .build()
        .unwrap();
    let result = policy.run(pending::<Result<(), ApiError>>).await;
    let Err(Error::Exhausted(gave_up)) = result else {
        panic!("not exhausted");
    };
    let LastFailure::TimedOut(timed_out) = gave_up.last() else {
        panic!("{gave_up:?}");
    };
    assert_eq!(
        (timed_out.after(), gave_up.elapsed()),
        (3 * SECOND, 7 * SECOND)
    );
    assert_eq!(gave_up.reason(), StopReason::MaxRetries);
    assert_eq!(gave_up.history()[0].end, AttemptEnd::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn the_whole_call_ends_in_time_whatever_it_is_doing() {
    // While an attempt hangs.
    let policy = each_second().total_timeout(10 * SECOND).build().unwrap();
    let start = Instant::now();
    let result = policy.run(pending::<Result<(), ApiError>>).await;
    assert_eq!(start.elapsed(), 10 * SECOND);
    let Err(Error::Exhausted(gave_up)) = result else {
        panic!("not exhausted");
    };
    assert_eq!(
        (gave_up.reason(), gave_up.elapsed()),
        (StopReason::Deadline, 10 * SECOND)
    );

    // Between attempts: a wait that does not fit is not begun, and the last error is the real one.
    let policy = RetryPolicy::builder()
        .backoff(Backoff::fixed(20 * SECOND))
        .total_timeout(10 * SECOND)
        .build()
        .unwrap();
    let start = Instant::now();
    let result = policy.run(|| async { Err::<(), _>(ApiError::Busy) }).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    let Err(Error::Exhausted(gave_up)) = result else {
        panic!("not exhausted");
    };
    assert_eq!(gave_up.reason(), StopReason::Deadline);
    assert_eq!(gave_up.last().as_inner(), Some(&ApiError::Busy));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_never_gets_ready_again_does_not_outlast_the_deadline() {
    let (mock, mut handle) = tower_test::mock::pair::<&str, &str>();
    let policy = each_second().total_timeout(10 * SECOND).build().unwrap();
    let mut service = task::spawn(policy.layer().layer(mock));
    handle.allow(1);
    assert_ready_ok!(service.enter(|cx, mut s| s.poll_ready(cx)));
    let mut call = task::spawn(service.call("hello"));
    let (_, respond) = handle.next_request().await.unwrap();
    handle.allow(0);
    respond.send_error("down");
    assert_pending!(call.poll());
    advance(SECOND).await;
    assert_pending!(call.poll());
    advance(9 * SECOND).await;
    let error: Error<tower_bulwark::Boxed> = assert_ready!(call.poll()).unwrap_err();
    assert!(matches!(error, Error::Exhausted(e) if e.reason() == StopReason::Deadline));
}

/// Conformance vectors for what is left of a deadline. The peers' habits in the same file are not rules.
#[tokio::test(start_paused = true)]
async fn what_is_left_decides_whether_there_is_another_attempt_and_how_long_it_may_take() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("vectors/deadline.json")).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    for case in cases {
        let millis = |key: &str| case[key].as_u64().map(Duration::from_millis);
        let wait = millis("wait_ms").unwrap();
        let mut policy = RetryPolicy::builder()
            .max_retries(1)
            .min_attempt(millis("min_attempt_ms").unwrap());
        if let Some(timeout) = millis("per_try_timeout_ms") {
            policy = policy.attempt_timeout(timeout);
        }
        let began = Arc::new(Mutex::new(Vec::new()));
        let elapsed = millis("elapsed_ms").unwrap();
        let left = millis("total_deadline_ms").map(|total| total.saturating_sub(elapsed));
        let deadline = left.map(Deadline::after);
        let seen = Arc::clone(&began);
        let service = policy
            .build()
            .unwrap()
            .layer()
            .classify_with(move |_: Result<&(), &ApiError>| {
                Verdict::failure().retry_exactly_after(wait)
            })
            .deadline_from(move |_: &()| deadline)
            .layer(service_fn(move |(): ()| {
                let mut began = seen.lock().unwrap();
                began.push(Instant::now());
                let first = began.len() == 1;
                async move {
                    match first {
                        true => Err::<(), _>(ApiError::Busy),
                        false => pending().await,
                    }
                }
            }));
        // Only what nothing bounds gets to the end of this.
        let patience = Duration::from_secs(1_000);
        let result = tokio::time::timeout(patience, service.oneshot(())).await;
        let ended = Instant::now();
        let began = began.lock().unwrap();
        let again = case["expect"]["retry"].as_bool().unwrap();
        assert_eq!(began.len(), if again { 2 } else { 1 }, "{case}: {result:?}");
        if again {
            assert_eq!(began[1] - began[0], wait, "{case}");
            let expected = case["expect"]["attempt_timeout_ms"].as_u64();
            let ran = expected.map_or(patience - wait, Duration::from_millis);
            assert_eq!(ended - began[1], ran, "{case}");
        }
    }
    assert_eq!(cases.len(), 14, "cases went missing");
}

/// Conformance vectors for the waits that a service asks for.
#[tokio::test(start_paused = true)]
async fn what_the_service_asks_to_wait_is_waited_or_not_at_all() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("vectors/retry_after.json")).unwrap();
    let cases = vectors["policy_cases"].as_array().unwrap();
    for case in cases {
        let millis = |key: &str| case[key].as_u64().map(Duration::from_millis);
        let hint = millis("hint_ms").unwrap();
        let policy = RetryPolicy::builder()
            .max_retries(1)
            .backoff(Backoff::fixed(millis("backoff_ms").unwrap()))
            .jitter(Jitter::None)
            .retry_after_jitter(0.0)
            .max_retry_after(millis("max_retry_after_ms").unwrap())
            .build()
            .unwrap();
        let deadline = millis("remaining_deadline_ms").map(Deadline::after);
        let began = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&began);
        let service = policy
            .layer()
            .classify_with(move |_: Result<&(), &ApiError>| Verdict::failure().retry_after(hint))
            .deadline_from(move |_: &()| deadline)
            .layer(service_fn(move |(): ()| {
                seen.lock().unwrap().push(Instant::now());
                ready(Err::<(), _>(ApiError::Busy))
            }));
        let start = Instant::now();
        let Err(Error::Exhausted(gave_up)) = service.oneshot(()).await else {
            panic!("{case}: not exhausted");
        };
        let began = began.lock().unwrap();
        let expect = &case["expect"];
        match expect["action"].as_str().unwrap() {
            "retry" => {
                let wait = Duration::from_millis(expect["wait_ms"].as_u64().unwrap());
                assert_eq!(began[1] - start, wait, "{case}");
            }
            _ => {
                let reason = match expect["reason"].as_str().unwrap() {
                    "deadline" => StopReason::Deadline,
                    _ => StopReason::RetryAfterTooLong,
                };
                assert_eq!((gave_up.reason(), began.len()), (reason, 1), "{case}");
                assert_eq!(start.elapsed(), Duration::ZERO, "{case}");
            }
        }
    }
    assert_eq!(cases.len(), 7, "cases went missing");
}

/// Conformance vectors for a limit of each attempt below one of them all: one that is no shorter changes nothing.
#[tokio::test(start_paused = true)]
async fn an_attempt_timeout_counts_if_it_is_shorter_than_the_total() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("vectors/deadline.json")).unwrap();
    let cases = vectors["per_try_cases"].as_array().unwrap();
    for case in cases {
        let millis = |key: &str| case[key].as_u64().map(Duration::from_millis);
        let mut policy = RetryPolicy::builder()
            .max_retries(1)
            .backoff(Backoff::fixed(Duration::ZERO));
        if let Some(total) = millis("route_timeout_ms") {
            policy = policy.total_timeout(total);
        }
        if let Some(attempt) = millis("per_try_ms") {
            policy = policy.attempt_timeout(attempt);
        }
        let began = Mutex::new(Vec::new());
        let service = policy.build().unwrap().layer().layer(service_fn(|(): ()| {
            began.lock().unwrap().push(Instant::now());
            pending::<Result<(), ApiError>>()
        }));
        let start = Instant::now();
        assert!(service.oneshot(()).await.is_err(), "{case}");
        let began = began.lock().unwrap();
        match millis("effective_per_try_ms") {
            Some(each) => assert_eq!(began[1] - start, each, "{case}"),
            // All of the time went into the first attempt.
            None => {
                let total = millis("route_timeout_ms").unwrap();
                assert_eq!((began.len(), start.elapsed()), (1, total), "{case}");
            }
        }
    }
    assert_eq!(cases.len(), 5, "cases went missing");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_can_come_from_the_request() {
    let service = each_second()
        .build()
        .unwrap()
        .layer()
        .deadline_from(|millis: &u64| Some(Deadline::after(Duration::from_millis(*millis))))
        .layer(service_fn(|_: u64| pending::<Result<(), ApiError>>()));
    let start = Instant::now();
    let error = service.oneshot(250).await.unwrap_err();
    assert_eq!(start.elapsed(), 250 * MS);
    assert!(matches!(error, Error::Exhausted(e) if e.reason() == StopReason::Deadline));
}

#[tokio::test(start_paused = true)]
async fn layers_below_see_the_time_that_is_left_for_the_call_and_an_attempt_timeout_is_none_of_it()
{
    let policy = each_second()
        .total_timeout(10 * SECOND)
        .attempt_timeout(4 * SECOND);
    let service = policy.build().unwrap().layer().layer(service_fn(|(): ()| {
        let in_call = deadline::remaining();
        async move {
            sleep(SECOND).await;
            Ok::<_, ApiError>((in_call, deadline::remaining()))
        }
    }));
    let outer = Deadline::after(2 * SECOND);
    let seen = deadline::scope(outer, service.clone().oneshot(()))
        .await
        .unwrap();
    assert_eq!(seen, (Some(2 * SECOND), Some(SECOND)));
    assert_eq!(
        service.oneshot(()).await.unwrap(),
        (Some(10 * SECOND), Some(9 * SECOND))
    );
}

// ---- Waits, deadlines, refusals ---------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn an_attempt_timeout_bounds_the_time_at_the_service_and_not_the_queue_of_a_lock() {
    let lock = ResourceLock::new("slot");
    let policy = each_second().max_retries(0).attempt_timeout(2 * SECOND);
    let service = ServiceBuilder::new()
        .layer(policy.build().unwrap().layer())
        .layer(lock.layer())
        .service(service_fn(|(): ()| async {
            sleep(SECOND).await;
            Ok::<_, ApiError>(())
        }));
    let held = lock.acquire("batch").owned().await.unwrap();
    let call = tokio::spawn(service.oneshot(()));
    sleep(10 * SECOND).await;
    drop(held);
    call.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_cut_at_the_service_after_a_queue_had_its_whole_time_there() {
    let lock = ResourceLock::new("slot");
    let policy = each_second().max_retries(0).attempt_timeout(2 * SECOND);
    let service = ServiceBuilder::new()
        .layer(policy.build().unwrap().layer())
        .layer(lock.layer())
        .service(service_fn(|(): ()| pending::<Result<(), ApiError>>()));
    let held = lock.acquire("batch").owned().await.unwrap();
    let start = Instant::now();
    let call = tokio::spawn(service.oneshot(()));
    sleep(10 * SECOND).await;
    drop(held);
    call.await.unwrap().unwrap_err();
    assert_eq!(start.elapsed(), 12 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn five_callers_in_a_hurry_open_no_circuit_and_five_whose_time_is_the_policys_do() {
    for (caller, policy_total, failures) in [(MS, 10 * SECOND, 0), (20 * SECOND, 10 * SECOND, 5)] {
        let breaker = CircuitBreaker::new("api");
        let policy = each_second().max_retries(0).total_timeout(policy_total);
        let service = ServiceBuilder::new()
            .layer(
                policy
                    .build()
                    .unwrap()
                    .layer()
                    .deadline_from(move |(): &()| Some(Deadline::after(caller))),
            )
            .layer(breaker.layer())
            .service(service_fn(|(): ()| pending::<Result<(), ApiError>>()));
        for _ in 0..5 {
            service.clone().oneshot(()).await.unwrap_err();
        }
        let totals = breaker.snapshot().totals;
        assert_eq!(
            (totals.failures, totals.cancelled),
            (failures, 5 - failures)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_made_and_then_refused_is_exhausted_with_its_last_failure() {
    let (calls, next) = scripted(&[Err::<(), _>(ApiError::Busy)]);
    let policy = each_second().build().unwrap();
    let breaker = CircuitBreaker::builder("api").consecutive_failures(1);
    let breaker = breaker.build().unwrap();
    let service = ServiceBuilder::new()
        .layer(policy.layer())
        .layer(breaker.layer())
        .service(service_fn(move |(): ()| ready(next())));
    let Error::Exhausted(gave_up) = service.clone().oneshot(()).await.unwrap_err() else {
        panic!("not exhausted");
    };
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!(gave_up.reason(), StopReason::Refused);
    assert!(matches!(gave_up.refusal(), Some(Rejection::CircuitOpen(_))));
    assert!(matches!(gave_up.last(), LastFailure::Inner(ApiError::Busy)));
    assert_eq!(gave_up.history().len(), 2);
    // One that never reached it is the bare refusal; both are counted as given up.
    let refused = service.oneshot(()).await.unwrap_err();
    assert!(refused.is_rejection());
    assert_eq!(policy.snapshot().gave_up, 2);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_inside_of_an_error_of_the_users_own_is_a_refusal_to_every_layer_above() {
    let (inner, outer) = (CircuitBreaker::new("inner"), CircuitBreaker::new("outer"));
    inner.force_open();
    let service = ServiceBuilder::new()
        .layer(each_second().build().unwrap().layer())
        .layer(outer.layer())
        .map_err(|e: Error<ApiError>| std::io::Error::other(e))
        .layer(inner.layer())
        .service(service_fn(|(): ()| ready(Ok::<_, ApiError>(()))));
    service.oneshot(()).await.unwrap_err();
    assert_eq!(inner.snapshot().totals.rejected, 1, "and not retried");
    assert_eq!(outer.snapshot().totals.failures, 0);
}

#[tokio::test(start_paused = true)]
async fn nested_retries_do_not_multiply_through_any_box_unless_they_are_told_to() {
    for (told, expected) in [(false, 4), (true, 16)] {
        let (calls, next) = scripted(&[Err::<(), _>(ApiError::Busy)]);
        let outer = each_second().retry_exhausted(told).build().unwrap();
        let service = ServiceBuilder::new()
            .layer(outer.layer())
            .timeout(600 * SECOND)
            .layer(each_second().build().unwrap().layer())
            .service(service_fn(move |(): ()| ready(next())));
        service.oneshot(()).await.unwrap_err();
        assert_eq!(calls.load(Ordering::SeqCst), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_time_out_says_how_long_the_attempt_ran_and_not_the_call() {
    let attempts = Arc::new(AtomicU32::new(0));
    let policy = each_second().total_timeout(10 * SECOND).build().unwrap();
    let result = policy
        .run(|| {
            let hangs = attempts.fetch_add(1, Ordering::SeqCst) > 0;
            async move {
                if hangs {
                    pending::<()>().await;
                }
                Err::<(), _>(ApiError::Busy)
            }
        })
        .await;
    let Err(Error::Exhausted(gave_up)) = result else {
        panic!("{result:?}");
    };
    assert!(matches!(gave_up.last(), LastFailure::TimedOut(it) if it.after() == 9 * SECOND));
}

#[tokio::test]
async fn a_backoff_of_zero_lets_others_run() {
    let policy = each_second()
        .max_retries(u32::MAX)
        .backoff(Backoff::fixed(Duration::ZERO))
        .no_budget()
        .build()
        .unwrap();
    let endless = policy.run(|| ready(Err::<(), _>(ApiError::Busy)));
    let others = async {
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = endless => unreachable!("it never ends"),
        () = others => {}
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_uses_up_the_tasks_budget_at_each_poll_is_cut_all_the_same() {
    let policy = each_second().max_retries(0).attempt_timeout(SECOND);
    let policy = policy.build().unwrap();
    let result = policy
        .run(|| async {
            loop {
                // Takes the whole budget, and a bit of time, at each poll.
                while tokio::task::coop::has_budget_remaining() {
                    tokio::task::coop::consume_budget().await;
                }
                sleep(100 * MS).await;
            }
            #[expect(unreachable_code, reason = "names the type")]
            Ok::<(), ApiError>(())
        })
        .await;
    assert!(matches!(result, Err(Error::Exhausted(_))));
}

#[tokio::test(start_paused = true)]
async fn clients_that_were_told_the_same_time_do_not_come_back_in_one_instant() {
    let mut waits = std::collections::BTreeSet::new();
    for seed in 0..10 {
        let policy = RetryPolicy::builder().max_retries(1).seed(seed);
        let start = Instant::now();
        let runner = policy.build().unwrap();
        let told = runner.delay_from(|_: Result<&(), &ApiError>| Some(10 * SECOND));
        told.run(|| ready(Err::<(), _>(ApiError::Busy)))
            .await
            .unwrap_err();
        let waited = start.elapsed();
        assert!((10 * SECOND..=11 * SECOND).contains(&waited), "{waited:?}");
        waits.insert(waited);
    }
    assert!(waits.len() > 5, "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hook_before_a_retry_is_awaited_with_the_number_of_the_attempt() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    let policy = each_second()
        .before_retry(move |attempt| {
            let told = Arc::clone(&told);
            async move {
                sleep(SECOND).await;
                told.lock().unwrap().push(attempt);
            }
        })
        .build()
        .unwrap();
    let (_, next) = scripted(&[Err(ApiError::Busy), Err(ApiError::Busy), Ok(7)]);
    let start = Instant::now();
    assert_eq!(policy.run(move || ready(next())).await.unwrap(), 7);
    assert_eq!(*seen.lock().unwrap(), [2, 3]);
    assert_eq!(start.elapsed(), 4 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_predicate_can_see_which_attempt_has_ended() {
    let (calls, next) = scripted(&[Err::<(), _>(ApiError::Busy)]);
    let wanted = |it: &AttemptContext, _: Result<&(), &ApiError>| it.attempt < 2;
    let policy = each_second().build().unwrap();
    let result = policy
        .retry_if_with(wanted)
        .run(move || ready(next()))
        .await;
    assert!(matches!(result, Err(Error::Inner(ApiError::Busy))));
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_announced_as_retried_ends_with_one_ending_event() {
    for (answers, ending) in [
        (vec![Err(ApiError::Busy), Ok(())], "recovered"),
        (vec![Err(ApiError::Busy)], "gave_up"),
        (vec![Err(ApiError::Busy), Err(ApiError::Wrong)], "gave_up"),
    ] {
        let feed = Feed::default();
        let policy = each_second().observer(feed.clone()).build().unwrap();
        let (_, next) = scripted(&answers);
        let runner = policy.retry_if(|e: &ApiError| *e == ApiError::Busy);
        let _ = runner.run(move || ready(next())).await;
        let kinds: Vec<_> = feed.recent().iter().map(|it| it.event.kind()).collect();
        let (last, before) = kinds.split_last().unwrap();
        assert_eq!(*last, ending);
        assert!(before.iter().all(|kind| *kind == "scheduled"), "{kinds:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_attempts_and_successes_are_counted() {
    let policy = each_second().build().unwrap();
    for answers in [
        vec![Ok(())],
        vec![Err(ApiError::Busy), Ok(())],
        vec![Err(ApiError::Busy)],
    ] {
        let (_, next) = scripted(&answers);
        let _ = policy.run(move || ready(next())).await;
    }
    let counts = policy.snapshot();
    assert_eq!(
        (counts.calls, counts.attempts, counts.successes),
        (3, 1 + 2 + 4, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn without_being_asked_a_policy_has_a_budget_and_it_bounds_an_outage() {
    let policy = RetryPolicy::builder()
        .backoff(Backoff::fixed(MS))
        .build()
        .unwrap();
    let (calls, next) = scripted(&[Err::<(), _>(ApiError::Busy)]);
    for _ in 0..1_000 {
        let next = next.clone();
        let _ = policy.run(move || ready(next())).await;
    }
    // A burst of 100, a fifth of the traffic, and ten a second for the time it took.
    let attempts = calls.load(Ordering::SeqCst);
    assert!((1_200..1_400).contains(&attempts), "{attempts}");
}

// ---- Budget -------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn one_budget_bounds_the_retries_of_several_policies() {
    let budget = RetryBudget::builder()
        .ratio(0.1)
        .floor_per_second(0.0)
        .burst(5)
        .build()
        .unwrap();
    let (calls, next) = scripted(&[Err::<(), _>(ApiError::Busy)]);
    let policies = ["reads", "writes"].map(|name| {
        each_second()
            .name(name)
            .budget(budget.clone())
            .build()
            .unwrap()
    });
    let mut out_of_budget = 0;
    for i in 0..200 {
        let next = next.clone();
        let result = policies[i % 2].run(move || ready(next())).await;
        if let Err(Error::Exhausted(e)) = result {
            out_of_budget += u32::from(e.reason() == StopReason::BudgetExhausted);
        }
    }
    let retries = calls.load(Ordering::SeqCst) - 200;
    assert!(
        (20..=25).contains(&retries),
        "{retries}: a tenth of 200, and the burst"
    );
    assert!(out_of_budget > 150, "{out_of_budget}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_neither_earns_nor_spends() {
    let budget = RetryBudget::builder()
        .ratio(1.0)
        .floor_per_second(0.0)
        .burst(10)
        .build();
    let budget = budget.unwrap();
    let policy = each_second()
        .budget(budget.clone())
        .retry_rejections(true)
        .build()
        .unwrap();
    // Spend the burst, so that an earning would show.
    for _ in 0..5 {
        let _ = policy.run(|| ready(Err::<(), _>(ApiError::Busy))).await;
    }
    let before = budget.available();
    let breaker = CircuitBreaker::new("api");
    breaker.force_open();
    let call = || breaker.call(|| ready(Err::<(), _>(ApiError::Busy)));
    let refused = policy.run(call).await.unwrap_err();
    assert!(
        matches!(refused, Error::CircuitOpen(_)),
        "refused to the end, as itself"
    );
    assert_eq!(budget.available(), before);
    assert_eq!(
        breaker.snapshot().totals.rejected,
        4,
        "and tried again, as it was told to"
    );
}

#[cfg(feature = "tower")]
#[tokio::test(start_paused = true)]
async fn a_budget_of_tower_is_a_budget() {
    use tower::retry::budget::{Budget, TpsBudget};
    let tps = Arc::new(TpsBudget::new(10 * SECOND, 0, 1.0));
    tps.deposit();
    let budget = RetryBudget::from_tower(tps);
    let (calls, next) = scripted(&[Err::<(), _>(ApiError::Busy)]);
    let policy = each_second().budget(budget).build().unwrap();
    let result = policy.run(move || ready(next())).await;
    assert!(
        matches!(result, Err(Error::Exhausted(e)) if e.reason() == StopReason::BudgetExhausted)
    );
    assert_eq!(calls.load(Ordering::SeqCst), 3, "its own deposit and ours");
}

// ---- What is told -------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn on_retry_sees_the_attempt_the_wait_and_the_typed_error() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    let policy = each_second()
        .on_retry(move |failed| {
            let AttemptOutcome::Error(error) = failed.outcome else {
                panic!("{failed:?}");
            };
            let typed = error.downcast_ref::<ApiError>().cloned();
            told.lock()
                .unwrap()
                .push((failed.attempt, failed.delay, typed));
        })
        .build()
        .unwrap();
    let (_, next) = scripted(&[Err(ApiError::Busy), Err(ApiError::Wrong), Ok(())]);
    policy.run(move || ready(next())).await.unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(
        *seen,
        [
            (1, SECOND, Some(ApiError::Busy)),
            (2, SECOND, Some(ApiError::Wrong))
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_callback_that_panics_changes_nothing() {
    let policy = each_second()
        .on_retry(|_| panic!("in on_retry"))
        .observer(|_: &str, _: &tower_bulwark::Event| panic!("in an observer"))
        .build()
        .unwrap();
    let (_, next) = scripted(&[Err(ApiError::Busy), Ok(7)]);
    assert_eq!(policy.run(move || ready(next())).await.unwrap(), 7);
    let result = policy.run(|| ready(Err::<(), _>(ApiError::Wrong))).await;
    assert_eq!(
        result.unwrap_err().into_inner().unwrap(),
        ApiError::Wrong,
        "the real error"
    );
}

#[tokio::test(start_paused = true)]
async fn the_snapshot_counts_what_was_not_healthy() {
    let policy = each_second().max_retries(1).build().unwrap();
    for answers in [
        vec![Ok(())],
        vec![Err(ApiError::Busy), Ok(())],
        vec![Err(ApiError::Busy)],
    ] {
        let (_, next) = scripted(&answers);
        let _ = policy.run(move || ready(next())).await;
    }
    let snapshot = policy.snapshot();
    assert_eq!(
        (snapshot.retries, snapshot.recovered, snapshot.gave_up),
        (2, 1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_waits() {
    let waits = |seed| async move {
        let policy = RetryPolicy::builder()
            .jitter(Jitter::Full)
            .seed(seed)
            .build()
            .unwrap();
        let result = policy.run(|| ready(Err::<(), _>(ApiError::Busy))).await;
        let Err(Error::Exhausted(gave_up)) = result else {
            panic!("not exhausted");
        };
        gave_up
            .history()
            .iter()
            .filter_map(|it| it.delay)
            .collect::<Vec<_>>()
    };
    assert_eq!(waits(7).await, waits(7).await);
    assert_ne!(waits(7).await, waits(8).await);
}

// ---- Types --------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn every_kind_of_error_a_service_has_is_inferred() {
    let retry = || each_second().max_retries(1).build().unwrap();

    let infallible = retry()
        .layer()
        .layer(service_fn(|(): ()| ready(Ok::<_, Infallible>(1))));
    assert_eq!(infallible.oneshot(()).await.unwrap(), 1);

    let boxed = retry()
        .layer()
        .layer(service_fn(|(): ()| ready(Err::<(), BoxError>("x".into()))));
    assert_eq!(
        boxed
            .oneshot(())
            .await
            .unwrap_err()
            .into_inner()
            .unwrap()
            .to_string(),
        "x"
    );

    let text = retry()
        .layer()
        .layer(service_fn(|(): ()| ready(Err::<(), _>("text"))));
    assert!(matches!(text.oneshot(()).await, Err(Error::Exhausted(_))));

    let timed = ServiceBuilder::new()
        .layer(retry().layer())
        .timeout(SECOND)
        .service(service_fn(|(): ()| pending::<Result<(), Infallible>>()));
    let error = timed.oneshot(()).await.unwrap_err();
    let elapsed = error.into_inner().unwrap();
    assert!(elapsed.is::<tower::timeout::error::Elapsed>());
}

#[tokio::test(start_paused = true)]
async fn dropping_the_future_ends_the_wait() {
    let (calls, next) = scripted(&[Err::<(), _>(ApiError::Busy)]);
    let policy = each_second().build().unwrap();
    let call = tokio::time::timeout(SECOND / 2, policy.run(move || ready(next())));
    assert!(call.await.is_err());
    advance(10 * SECOND).await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[test]
fn the_accessors_lead_to_the_inner_service() {
    let layer: RetryLayer<Infallible> = RetryLayer::default();
    let mut service = layer.layer(7);
    assert_eq!((*service.get_ref(), service.policy().name()), (7, "retry"));
    *service.get_mut() = 8;
    assert_eq!(service.into_inner(), 8);
}

// ---- Without tower ------------------------------------------------------------------------------------

#[test]
fn blocking_code_is_retried_on_its_own_thread() {
    let policy = RetryPolicy::builder()
        .backoff(Backoff::fixed(MS))
        .build()
        .unwrap();
    let mut calls = 0;
    let result = policy.run_blocking(|| {
        calls += 1;
        if calls < 3 {
            Err(ApiError::Busy)
        } else {
            Ok(calls)
        }
    });
    assert_eq!(result.unwrap(), 3);

    let result = policy
        .retry_if(|e: &ApiError| *e == ApiError::Busy)
        .run_blocking(|| Err::<(), _>(ApiError::Wrong));
    assert!(matches!(result, Err(Error::Inner(ApiError::Wrong))));

    let patient = RetryPolicy::builder()
        .backoff(Backoff::fixed(60 * SECOND))
        .total_timeout(SECOND)
        .build()
        .unwrap();
    let result = patient.run_blocking(|| Err::<(), _>(ApiError::Busy));
    assert!(matches!(result, Err(Error::Exhausted(e)) if e.reason() == StopReason::Deadline));
}

#[tokio::test(start_paused = true)]
async fn a_runner_takes_the_same_rules_as_the_layer() {
    let (calls, next) = scripted(&[Ok(503), Ok(429), Err(ApiError::Busy), Err(ApiError::Wrong)]);
    let start = Instant::now();
    let result = each_second()
        .max_retries(5)
        .retry_after_jitter(0.0)
        .build()
        .unwrap()
        .retry_if(|e: &ApiError| *e == ApiError::Busy)
        .retry_response_if(|status: &u16| *status >= 400)
        .delay_from(|r: Result<&u16, &ApiError>| matches!(r, Ok(429)).then_some(9 * SECOND))
        .run(move || ready(next()))
        .await;
    assert!(matches!(result, Err(Error::Inner(ApiError::Wrong))));
    assert_eq!(
        (calls.load(Ordering::SeqCst), start.elapsed()),
        (4, 11 * SECOND)
    );
}

#[tokio::test(start_paused = true)]
async fn a_delay_from_number_error_and_planned_wait_is_what_is_waited() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sees = Arc::clone(&seen);
    let policy = each_second()
        .max_delay(5 * SECOND)
        .delay_with(move |failed| {
            sees.lock().unwrap().push((failed.attempt, failed.delay));
            match failed.outcome {
                AttemptOutcome::Error(error) if error.downcast_ref() == Some(&ApiError::Busy) => {
                    failed.delay * 2 * failed.attempt
                }
                _ => panic!("the plan holds"),
            }
        })
        .build()
        .unwrap();
    let answers = [
        ApiError::Busy,
        ApiError::Wrong,
        ApiError::Busy,
        ApiError::Busy,
    ];
    let (_, next) = scripted(&answers);
    let before = Instant::now();
    let end = policy.run(|| ready(Err::<(), _>(next()))).await;
    assert!(matches!(end, Err(Error::Exhausted(_))));
    // 1 s twice, the plan after a panic, 1 s six times cut to the cap.
    assert_eq!(before.elapsed(), (2 + 1 + 5) * SECOND);
    assert_eq!(
        *seen.lock().unwrap(),
        [(1, SECOND), (2, SECOND), (3, SECOND)]
    );
}

/// The first instance can be called; its clones are never ready, or fail to be.
struct NeverAgain {
    clones: Arc<AtomicU32>,
    is_clone: bool,
    fails: bool,
}

impl Clone for NeverAgain {
    fn clone(&self) -> Self {
        self.clones.fetch_add(1, Ordering::SeqCst);
        Self {
            clones: Arc::clone(&self.clones),
            is_clone: true,
            fails: self.fails,
        }
    }
}

impl Service<()> for NeverAgain {
    type Response = ();
    type Error = ApiError;
    type Future = std::future::Ready<Result<(), ApiError>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), ApiError>> {
        match (self.is_clone, self.fails) {
            (false, _) => std::task::Poll::Ready(Ok(())),
            (true, true) => std::task::Poll::Ready(Err(ApiError::Wrong)),
            (true, false) => std::task::Poll::Pending,
        }
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Err(ApiError::Busy))
    }
}

fn never_again(fails: bool) -> NeverAgain {
    NeverAgain {
        clones: Arc::default(),
        is_clone: false,
        fails,
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_cannot_be_made_ready_again_ends_the_call_and_the_end_is_reported() {
    let feed = Feed::default();
    let policy = each_second().observer(feed.clone()).build().unwrap();
    let mut service = policy.layer().layer(never_again(true));
    let end = service.ready().await.unwrap().call(()).await;
    assert!(matches!(end, Err(Error::Inner(ApiError::Wrong))), "{end:?}");
    let snapshot = policy.snapshot();
    assert_eq!(
        (snapshot.calls, snapshot.retries, snapshot.gave_up),
        (1, 1, 1)
    );
    let kinds: Vec<_> = feed.recent().iter().map(|it| it.event.kind()).collect();
    assert_eq!(kinds, ["scheduled", "gave_up"]);
}

#[tokio::test(start_paused = true)]
async fn the_last_failure_is_that_of_an_attempt_that_was_sent() {
    let policy = each_second().total_timeout(5 * SECOND).build().unwrap();
    let mut service = policy.layer().layer(never_again(false));
    let end = service.ready().await.unwrap().call(()).await;
    let Err(Error::Exhausted(exhausted)) = end else {
        panic!("{end:?}");
    };
    assert_eq!(exhausted.reason(), StopReason::Deadline);
    assert_eq!(exhausted.last().as_inner(), Some(&ApiError::Busy));
    assert_eq!(exhausted.history().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_hangs_is_cut_by_the_deadline_of_the_call() {
    let policy = each_second()
        .total_timeout(5 * SECOND)
        .before_retry(|_| pending::<()>())
        .build()
        .unwrap();
    let before = Instant::now();
    let end = policy.run(|| ready(Err::<(), _>(ApiError::Busy))).await;
    assert_eq!(before.elapsed(), 5 * SECOND);
    assert!(
        matches!(end, Err(Error::Exhausted(it)) if it.last().as_inner() == Some(&ApiError::Busy))
    );
}

#[tokio::test(start_paused = true)]
async fn a_refusals_time_that_does_not_fit_the_deadline_is_no_reason_to_give_up_at_once() {
    let breaker = CircuitBreaker::new("api");
    breaker.open_for(30 * SECOND);
    let policy = each_second()
        .total_timeout(10 * SECOND)
        .retry_rejections(true)
        .build()
        .unwrap();
    let service = policy.layer().layer(
        breaker
            .layer()
            .layer(service_fn(|(): ()| ready(Ok::<_, ApiError>(())))),
    );
    let before = Instant::now();
    assert!(matches!(
        service.oneshot(()).await,
        Err(Error::CircuitOpen(_))
    ));
    assert_eq!(
        (before.elapsed(), policy.snapshot().retries),
        (3 * SECOND, 3)
    );
}

/// Two jobs take two locks in opposite orders: one is refused, lets go of what it holds, and tries again.
#[tokio::test(start_paused = true)]
async fn a_whole_job_that_met_a_deadlock_is_tried_once_more() {
    let locks = [ResourceLock::new("a"), ResourceLock::new("b")];
    let policy = each_second().build().unwrap();
    let job = |first: usize| {
        let (one, other) = (&locks[first], &locks[1 - first]);
        policy.run(move || async move {
            let _one = one.acquire(first as u64).await?;
            sleep(MS).await;
            let _other = other.acquire(first as u64).await?;
            sleep(MS).await;
            Ok::<_, tower_bulwark::Contended>(())
        })
    };
    // Each in a task of its own: a task does one thing at a time.
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let (a, b) = tokio::join!(
                tower_bulwark::workflow::scope("a", job(0)),
                tower_bulwark::workflow::scope("b", job(1))
            );
            assert!(a.is_ok() && b.is_ok(), "{a:?} {b:?}");
        })
        .await;
    assert_eq!(policy.snapshot().retries, 1);
}

#[tokio::test(start_paused = true)]
async fn a_deadlock_is_worth_one_more_try_to_a_whole_job_and_none_to_a_layer_unless_told() {
    let lock = ResourceLock::new("a");
    // Whoever asks for what it holds itself meets a deadlock at each attempt.
    let attempt = || async {
        let _held = lock.acquire("job").await?;
        lock.acquire("job").await.map(drop)
    };
    for (told, of_job, of_layer) in [(None, 2, 1), (Some(true), 2, 2), (Some(false), 1, 1)] {
        let builder = || match told {
            None => each_second(),
            Some(yes) => each_second().retry_deadlocks(yes),
        };
        let policy = builder().build().unwrap();
        let attempts = Cell::new(0);
        let end = policy.run(|| {
            attempts.set(attempts.get() + 1);
            attempt()
        });
        assert!(end.await.is_err());
        assert_eq!(attempts.get(), of_job, "{told:?}");
        attempts.set(0);
        let service = service_fn(|(): ()| {
            attempts.set(attempts.get() + 1);
            attempt()
        });
        let layer = builder().build().unwrap().layer();
        assert!(layer.layer(service).oneshot(()).await.is_err());
        assert_eq!(attempts.get(), of_layer, "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_blocking_retry_waits_by_the_real_clock_also_where_that_of_tokio_is_paused() {
    let policy = RetryPolicy::builder()
        .backoff(Backoff::fixed(10 * MS))
        .jitter(Jitter::None)
        .build()
        .unwrap();
    let (calls, next) = scripted(&[Err(ApiError::Busy), Err(ApiError::Busy), Ok(())]);
    let end = tokio::task::spawn_blocking(move || policy.run_blocking(next)).await;
    assert!(end.unwrap().is_ok());
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}
