//! The breaker and its layer: admission, readiness, cancellation, threads, what is told.

#![expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]

use std::convert::Infallible;
use std::fmt;
use std::future::{pending, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use static_assertions::assert_impl_all;
use tokio::time::{advance, sleep};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::balance::p2c::Balance;
use tower::load::Constant;
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::circuit_breaker::{
    Cause, CircuitBreakerBuilder, CircuitBreakerConfig, CircuitBreakerService,
    CircuitBreakerSnapshot, Permit, Recovery, Window,
};
use tower_bulwark::error::OpenReason;
use tower_bulwark::observe::Feed;
use tower_bulwark::{
    Boxed, CircuitBreaker, CircuitBreakerLayer, CircuitState, Error, Outcome, Verdict,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

assert_impl_all!(CircuitBreaker: Send, Sync, Clone);
assert_impl_all!(Permit: Send, Sync);
assert_impl_all!(CircuitBreakerLayer<std::io::Error>: Send, Sync, Clone);
assert_impl_all!(CircuitBreakerService<(), std::io::Error>: Send, Sync, Clone);
assert_impl_all!(CircuitBreakerSnapshot: Send, Sync, Clone);

#[derive(Debug, Clone, PartialEq)]
enum ApiError {
    Down,
    Invalid,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for ApiError {}

async fn fail(breaker: &CircuitBreaker, times: u32) {
    for _ in 0..times {
        let _ = breaker.call(|| ready(Err::<(), _>(ApiError::Down))).await;
    }
}

async fn succeed(breaker: &CircuitBreaker) -> Result<(), Error<ApiError>> {
    breaker.call(|| ready(Ok::<_, ApiError>(()))).await
}

fn told(feed: &Feed) -> Vec<String> {
    feed.recent()
        .into_iter()
        .map(|entry| entry.event.to_string())
        .collect()
}

// ---- By hand ------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn the_whole_circle_with_the_defaults() {
    let feed = Feed::default();
    let breaker = CircuitBreaker::builder("api")
        .observer(feed.clone())
        .build()
        .unwrap();
    fail(&breaker, 5).await;
    assert_eq!(breaker.state(), CircuitState::Open);
    advance(60 * SECOND).await;
    assert_eq!(
        breaker.state(),
        CircuitState::HalfOpen,
        "also when nobody has called since"
    );
    succeed(&breaker).await.unwrap();
    assert_eq!(breaker.snapshot().success_count, 1);
    succeed(&breaker).await.unwrap();
    assert_eq!(breaker.state(), CircuitState::Closed);
    assert_eq!(
        told(&feed),
        [
            "closed -> open: 5 consecutive failures; open for 60.000s (last failure: Down)",
            "open -> half-open: the open time is over",
            "half-open -> closed: 2 probes succeeded",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_who_why_since_when_and_when_to_come_back() {
    let breaker = CircuitBreaker::new("openai");
    fail(&breaker, 5).await;
    let opened = tokio::time::Instant::now();
    advance(12 * SECOND).await;
    let refused = breaker.try_acquire().unwrap_err();
    assert_eq!(refused.name(), "openai");
    assert_eq!(refused.reason(), OpenReason::Open);
    assert_eq!(refused.failure_count(), 5);
    assert_eq!(
        (refused.opened_at(), refused.open_for()),
        (opened, 12 * SECOND)
    );
    assert_eq!(refused.retry_after(), Some(48 * SECOND));
    assert_eq!(refused.last_failure(), Some("Down"));
    assert_eq!(
        refused.to_string(),
        "circuit breaker `openai` is open: 5 consecutive failures, retry after 48.000s (last failure: Down)"
    );
}

#[tokio::test(start_paused = true)]
async fn a_late_success_in_an_open_circuit_leaves_what_it_reports() {
    let breaker = CircuitBreaker::new("api");
    let late = breaker.try_acquire().unwrap();
    fail(&breaker, 5).await;
    late.success();
    assert_eq!(breaker.state(), CircuitState::Open);
    assert_eq!(breaker.try_acquire().unwrap_err().failure_count(), 5);
}

#[tokio::test(start_paused = true)]
async fn each_way_to_settle_counts_once() {
    let breaker = CircuitBreaker::new("api");
    breaker.try_acquire().unwrap().success();
    breaker.try_acquire().unwrap().failure();
    breaker.try_acquire().unwrap().ignore();
    breaker.try_acquire().unwrap().settle(Outcome::Cancelled);
    breaker.try_acquire().unwrap().failure_because(&"disk full");
    drop(breaker.try_acquire().unwrap());
    let snapshot = breaker.snapshot();
    let totals = snapshot.totals;
    assert_eq!((totals.successes, totals.failures), (1, 2));
    assert_eq!((totals.ignored, totals.cancelled), (1, 2));
    assert_eq!(snapshot.last_failure.as_deref(), Some("disk full"));
}

#[test]
fn blocking_code_can_be_guarded_without_a_runtime() {
    let breaker = CircuitBreaker::new("disk");
    assert_eq!(breaker.call_blocking(|| Ok::<_, ApiError>(7)).unwrap(), 7);
    for _ in 0..5 {
        let error = breaker
            .call_blocking(|| Err::<(), _>(ApiError::Down))
            .unwrap_err();
        assert!(matches!(error, Error::Inner(ApiError::Down)));
    }
    let refused = breaker.call_blocking(|| -> Result<(), ApiError> { unreachable!("called") });
    assert!(matches!(refused, Err(Error::CircuitOpen(_))));
}

#[tokio::test(start_paused = true)]
async fn a_classifier_can_judge_a_single_call() {
    let breaker = CircuitBreaker::builder("api")
        .consecutive_failures(1)
        .build()
        .unwrap();
    let by_status = |r: Result<&u16, &ApiError>| match r {
        Ok(status) if *status >= 500 => Verdict::failure().because("HTTP 5xx"),
        Ok(_) => Verdict::success(),
        Err(_) => Verdict::ignored(),
    };
    let call = |result| breaker.call_with(Judge(by_status), move || ready(result));
    let _ = call(Err(ApiError::Invalid)).await;
    assert_eq!(breaker.state(), CircuitState::Closed);
    assert_eq!(call(Ok(503)).await.unwrap(), 503);
    assert_eq!(breaker.state(), CircuitState::Open);
    assert_eq!(breaker.snapshot().last_failure.as_deref(), Some("HTTP 5xx"));
}

/// A classifier of one's own.
struct Judge<F>(F);

impl<F: Fn(Result<&u16, &ApiError>) -> Verdict> tower_bulwark::Classify<u16, ApiError>
    for Judge<F>
{
    fn classify(&self, result: Result<&u16, &ApiError>) -> Verdict {
        (self.0)(result)
    }
}

#[tokio::test(start_paused = true)]
async fn commands_are_obeyed_and_ended() {
    let changes = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&changes);
    let breaker = CircuitBreaker::builder("api")
        .on_state_change(move |from, to| heard.lock().unwrap().push((from, to)))
        .build()
        .unwrap();
    breaker.force_open();
    assert_eq!(
        breaker.try_acquire().unwrap_err().reason(),
        OpenReason::ForcedOpen
    );
    advance(Duration::from_secs(86_400)).await;
    assert_eq!(
        breaker.state(),
        CircuitState::ForcedOpen,
        "until further notice"
    );
    breaker.force_close();
    breaker.disable();
    fail(&breaker, 100).await;
    assert_eq!(breaker.state(), CircuitState::Disabled);
    breaker.force_close();
    breaker.open_for(10 * SECOND);
    assert_eq!(
        breaker.try_acquire().unwrap_err().retry_after(),
        Some(10 * SECOND)
    );
    advance(10 * SECOND).await;
    assert_eq!(breaker.state(), CircuitState::HalfOpen);
    breaker.reset();
    let closed = CircuitState::Closed;
    assert_eq!(
        *changes.lock().unwrap(),
        [
            (closed, CircuitState::ForcedOpen),
            (CircuitState::ForcedOpen, closed),
            (closed, CircuitState::Disabled),
            (CircuitState::Disabled, closed),
            (closed, CircuitState::Open),
            (CircuitState::HalfOpen, closed),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn metrics_only_refuses_nobody_and_tells_what_it_would_do() {
    let feed = Feed::default();
    let breaker = CircuitBreaker::builder("api")
        .observer(feed.clone())
        .build()
        .unwrap();
    breaker.metrics_only();
    fail(&breaker, 5).await;
    for _ in 0..10 {
        succeed(&breaker).await.unwrap();
    }
    let snapshot = breaker.snapshot();
    assert_eq!(
        (snapshot.state, snapshot.would_be),
        (CircuitState::MetricsOnly, Some(CircuitState::Open))
    );
    let totals = snapshot.totals;
    assert_eq!(
        (
            totals.would_reject,
            totals.would_reject_succeeded,
            totals.rejected
        ),
        (10, 10, 0)
    );
    assert_eq!(
        told(&feed)[1],
        "would change closed -> open: 5 consecutive failures"
    );
}

#[tokio::test(start_paused = true)]
async fn callbacks_may_panic_and_may_use_the_breaker_they_are_told_of() {
    let slot: Arc<Mutex<Option<CircuitBreaker>>> = Arc::default();
    let inside = Arc::clone(&slot);
    let seen = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&seen);
    let breaker = CircuitBreaker::builder("api")
        .on_state_change(|_, _| panic!("in a callback"))
        .on_state_change(move |_, to| {
            let breaker = inside.lock().unwrap().clone().unwrap();
            assert_eq!(breaker.state(), to, "no lock is held here");
            let _ = (breaker.snapshot(), breaker.try_acquire());
            count.fetch_add(1, Ordering::Relaxed);
        })
        .on_rejected(|_| panic!("in a callback"))
        .build()
        .unwrap();
    *slot.lock().unwrap() = Some(breaker.clone());
    fail(&breaker, 5).await;
    assert_eq!(breaker.state(), CircuitState::Open);
    assert!(breaker.try_acquire().is_err());
    assert_eq!(seen.load(Ordering::Relaxed), 1);
    slot.lock().unwrap().take();
}

#[tokio::test(start_paused = true)]
async fn on_rejected_sees_each_refusal() {
    let count = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&count);
    let breaker = CircuitBreaker::builder("api")
        .on_rejected(move |open| {
            assert_eq!(open.name(), "api");
            seen.fetch_add(1, Ordering::Relaxed);
        })
        .build()
        .unwrap();
    breaker.force_open();
    for _ in 0..7 {
        succeed(&breaker).await.unwrap_err();
    }
    assert_eq!(count.load(Ordering::Relaxed), 7);
    assert_eq!(breaker.snapshot().totals.rejected, 7);
}

#[tokio::test(start_paused = true)]
async fn a_permit_held_by_hand_in_a_panic_is_a_failure_and_one_that_is_dropped_is_not() {
    let breaker = CircuitBreaker::new("api");
    let _ = catch_unwind(AssertUnwindSafe(|| {
        let _permit = breaker.try_acquire().unwrap();
        panic!("a bug in the decoder");
    }));
    drop(breaker.try_acquire().unwrap());
    let totals = breaker.snapshot().totals;
    assert_eq!((totals.failures, totals.cancelled), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_classifier_that_panics_makes_a_failure_of_the_call() {
    let breaker = CircuitBreaker::new("api");
    let service = breaker
        .layer()
        .response_failure_if(|(): &()| panic!("a bug in the classifier"))
        .layer(service_fn(|(): ()| ready(Ok::<_, ApiError>(()))));
    let call = AssertUnwindSafe(service.oneshot(())).catch_unwind();
    assert!(call.await.is_err());
    assert_eq!(breaker.snapshot().totals.failures, 1);
}

#[tokio::test(start_paused = true)]
async fn an_error_that_is_no_failure_is_a_success_and_an_ignored_one_is_neither() {
    let calls = |breaker: &CircuitBreaker, ignore: bool| {
        let layer = breaker.layer();
        let service = service_fn(|(): ()| ready(Err::<(), _>(ApiError::Invalid)));
        async move {
            match ignore {
                true => drop(
                    layer
                        .ignore_if(|_: &ApiError| true)
                        .layer(service)
                        .oneshot(())
                        .await,
                ),
                false => drop(
                    layer
                        .failure_if(|_: &ApiError| false)
                        .layer(service)
                        .oneshot(())
                        .await,
                ),
            }
        }
    };
    for (ignore, state) in [
        (true, CircuitState::HalfOpen),
        (false, CircuitState::Closed),
    ] {
        let breaker = CircuitBreaker::new("api");
        breaker.open_for(SECOND);
        advance(SECOND).await;
        for _ in 0..2 {
            calls(&breaker, ignore).await;
        }
        assert_eq!(breaker.state(), state);
    }
}

#[tokio::test(start_paused = true)]
async fn watching_rates_does_not_stop_watching_for_consecutive_failures_unless_asked() {
    for (asked, state) in [(false, CircuitState::Open), (true, CircuitState::Closed)] {
        let builder = CircuitBreaker::builder("api").slow_call_rate(0.5, SECOND);
        let builder = match asked {
            true => builder.consecutive_failures(None),
            false => builder,
        };
        let breaker = builder.build().unwrap();
        fail(&breaker, 5).await;
        assert_eq!(breaker.state(), state);
    }
}

#[tokio::test(start_paused = true)]
async fn settings_without_effect_are_errors_that_name_them() {
    let error = |builder: CircuitBreakerBuilder| builder.build().unwrap_err().to_string();
    let builder = || CircuitBreaker::builder("api");
    assert!(error(builder().window(Window::calls(7))).contains("window"));
    assert!(error(builder().minimum_calls(7)).contains("minimum_calls"));
    assert!(error(builder().consecutive_failures(None)).contains("consecutive_failures"));
    assert!(error(builder().success_threshold(3).out_of(2)).contains("success_out_of"));
}

#[tokio::test(start_paused = true)]
async fn a_rule_of_the_users_own_opens_it_and_one_that_panics_does_not() {
    let rule = |panics: bool| {
        CircuitBreaker::builder("api")
            .consecutive_failures(None)
            .trip_when(Window::calls(10), move |counts| {
                assert!(!panics, "a bug in the rule");
                counts.failures >= 2 && counts.calls <= 3
            })
            .build()
            .unwrap()
    };
    let breaker = rule(false);
    succeed(&breaker).await.unwrap();
    fail(&breaker, 2).await;
    assert_eq!(breaker.state(), CircuitState::Open);
    assert_eq!(breaker.try_acquire().unwrap_err().cause(), &Cause::Custom);
    let breaker = rule(true);
    fail(&breaker, 9).await;
    assert_eq!(breaker.state(), CircuitState::Closed);
    assert_eq!(breaker.snapshot().totals.failures, 9);
}

#[tokio::test(start_paused = true)]
async fn an_operator_can_trip_it_for_the_time_of_the_config_which_grows() {
    let recovery = Recovery::exponential(SECOND, 2.0, 60 * SECOND);
    let builder = CircuitBreaker::builder("api").recovery(recovery);
    let breaker = builder.build().unwrap();
    let mut open_for = Vec::new();
    for _ in 0..3 {
        breaker.trip();
        let left = breaker.snapshot().remaining_open.unwrap();
        open_for.push(left.as_secs());
        advance(left).await;
    }
    assert_eq!(open_for, [1, 2, 4]);
    breaker.force_open();
    breaker.trip();
    assert_eq!(breaker.state(), CircuitState::ForcedOpen);
}

#[tokio::test(start_paused = true)]
async fn the_open_time_can_be_worked_out_from_what_is_known_of_the_opening() {
    let recovery = Recovery::custom(60 * SECOND, |opening| match opening.failures {
        20.. => panic!("a bug in the rule"),
        n => u32::try_from(n).unwrap() * SECOND,
    });
    let open_time = |consecutive: u32| {
        let builder = CircuitBreaker::builder("api").recovery(recovery.clone());
        let breaker = builder.consecutive_failures(consecutive).build().unwrap();
        for _ in 0..consecutive {
            breaker.try_acquire().unwrap().failure();
        }
        breaker.snapshot().remaining_open.unwrap().as_secs()
    };
    assert_eq!([open_time(3), open_time(7), open_time(20)], [3, 7, 60]);
}

#[tokio::test(start_paused = true)]
async fn an_update_keeps_the_state_and_says_what_it_changed() {
    let breaker = CircuitBreaker::new("api");
    fail(&breaker, 4).await;
    let mut config = CircuitBreakerConfig::clone(&breaker.config());
    config.consecutive_failures = Some(6);
    config.probe_timeout = 5 * SECOND;
    let change = breaker.update(config.clone()).unwrap();
    assert_eq!(
        change.to_string(),
        "consecutive_failures: Some(5) -> Some(6); probe_timeout: 30s -> 5s"
    );
    assert!(breaker.update(config.clone()).unwrap().is_empty());
    fail(&breaker, 1).await;
    assert_eq!(breaker.state(), CircuitState::Closed);
    fail(&breaker, 1).await;
    assert_eq!(
        breaker.state(),
        CircuitState::Open,
        "the four are not forgotten"
    );
    config.max_probes = 0;
    assert!(breaker.update(config).is_err());
    assert_eq!(breaker.config().max_probes, 1);
}

#[tokio::test(start_paused = true)]
async fn an_update_can_begin_to_watch_for_slow_calls_and_end_it() {
    let breaker = CircuitBreaker::new("api");
    let mut slow = CircuitBreakerConfig::clone(
        &CircuitBreaker::builder("x")
            .slow_call_rate(0.5, SECOND)
            .minimum_calls(4)
            .build()
            .unwrap()
            .config(),
    );
    let before = breaker.try_acquire().unwrap();
    breaker.update(slow.clone()).unwrap();
    before.success();
    let hung: Vec<_> = (0..4).map(|_| breaker.try_acquire().unwrap()).collect();
    advance(2 * SECOND).await;
    assert_eq!(breaker.state(), CircuitState::Open);
    drop(hung);
    breaker.force_close();
    let hung = breaker.try_acquire().unwrap();
    slow.slow_calls = None;
    breaker.update(slow).unwrap();
    advance(9 * SECOND).await;
    hung.success();
    succeed(&breaker).await.unwrap();
    let snapshot = breaker.snapshot();
    assert_eq!(
        (snapshot.state, snapshot.overdue),
        (CircuitState::Closed, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn to_look_at_it_changes_nothing_and_costs_a_seed_no_number() {
    let open_time = |looks: u32| {
        let breaker = CircuitBreaker::builder("api")
            .consecutive_failures(1)
            .recovery(Recovery::fixed(60 * SECOND).jitter(0.5))
            .seed(1)
            .build()
            .unwrap();
        for _ in 0..looks {
            let _ = (breaker.state(), breaker.snapshot(), format!("{breaker:?}"));
        }
        breaker.try_acquire().unwrap().failure();
        breaker.snapshot().remaining_open
    };
    assert_eq!(open_time(0), open_time(3));
}

#[tokio::test(start_paused = true)]
async fn in_metrics_only_mode_the_state_has_not_changed_since_the_command() {
    let breaker = CircuitBreaker::new("api");
    breaker.metrics_only();
    advance(60 * SECOND).await;
    fail(&breaker, 5).await;
    assert_eq!(breaker.snapshot().since_state_change, 60 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_slow_calls_says_that_they_were_slow() {
    let builder = CircuitBreaker::builder("api").slow_call_rate(0.5, SECOND);
    let breaker = builder.minimum_calls(4).build().unwrap();
    for _ in 0..4 {
        let permit = breaker.try_acquire().unwrap();
        advance(SECOND).await;
        permit.success();
    }
    let refused = breaker.try_acquire().unwrap_err().to_string();
    assert!(refused.contains("slow calls: 4 of the last 4"), "{refused}");
    assert!(!refused.contains("failures"), "{refused}");
    let snapshot = breaker.snapshot();
    assert!(matches!(snapshot.cause, Some(Cause::SlowCallRate { .. })));
}

#[tokio::test(start_paused = true)]
async fn calls_that_hang_count_for_as_long_as_they_hang_and_then_once_as_what_they_are() {
    let breaker = CircuitBreaker::builder("api")
        .consecutive_failures(None)
        .failure_rate(0.5, Window::calls(100))
        .slow_call_rate(0.9, SECOND)
        .build()
        .unwrap();
    let succeed = |n| (0..n).for_each(|_| breaker.try_acquire().unwrap().success());
    succeed(40);
    let hung: Vec<_> = (0..60).map(|_| breaker.try_acquire().unwrap()).collect();
    advance(2 * SECOND).await;
    succeed(100);
    assert_eq!(breaker.snapshot().overdue, 60);
    hung.into_iter().for_each(Permit::failure);
    assert_eq!(breaker.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn an_idle_hour_changes_nothing_in_a_window_of_ten_milliseconds() {
    let breaker = CircuitBreaker::builder("api")
        .consecutive_failures(None)
        .failure_rate(0.5, Window::time(10 * MS))
        .minimum_calls(5)
        .build()
        .unwrap();
    (0..2).for_each(|_| breaker.try_acquire().unwrap().success());
    advance(10_800_006 * MS).await;
    for _ in 0..5 {
        breaker.try_acquire().unwrap().failure();
    }
    assert_eq!(breaker.state(), CircuitState::Open);
}

// ---- Windows, slow calls ------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn healthy_calls_by_the_hundred_thousand_do_not_slow_down_detection() {
    for window in [Window::calls(100), Window::time(10 * SECOND)] {
        let breaker = CircuitBreaker::builder("api")
            .failure_rate(0.5, window)
            .consecutive_failures(None)
            .build()
            .unwrap();
        for _ in 0..100_000 {
            breaker.try_acquire().unwrap().success();
        }
        advance(11 * SECOND).await;
        for _ in 0..100 {
            breaker.try_acquire().unwrap().success();
        }
        let failures = (1..=1_000).find(|_| {
            breaker.try_acquire().unwrap().failure();
            breaker.state() == CircuitState::Open
        });
        let expected = if window == Window::calls(100) {
            50
        } else {
            100
        };
        assert_eq!(failures, Some(expected), "{window:?}");
        assert_eq!(breaker.snapshot().totals.successes, 100_100);
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_hangs_opens_the_circuit_while_every_call_still_hangs() {
    let breaker = CircuitBreaker::builder("api")
        .slow_call_rate(0.5, SECOND)
        .minimum_calls(10)
        .build()
        .unwrap();
    let hanging: Vec<Permit> = (0..10).map(|_| breaker.try_acquire().unwrap()).collect();
    advance(SECOND - MS).await;
    assert!(breaker.try_acquire().is_ok(), "not slow yet");
    advance(SECOND / 8 + 2 * MS).await;
    assert!(breaker.try_acquire().is_err());
    assert_eq!(breaker.state(), CircuitState::Open);
    // What they end with belongs to an earlier epoch.
    for permit in hanging {
        permit.success();
    }
    assert_eq!(breaker.state(), CircuitState::Open);
    assert_eq!(breaker.snapshot().totals.slow, 10);
}

#[tokio::test(start_paused = true)]
async fn whoever_looks_at_the_state_sees_the_calls_that_hang() {
    let breaker = CircuitBreaker::builder("api")
        .slow_call_rate(0.5, SECOND)
        .minimum_calls(10)
        .build()
        .unwrap();
    let _hanging: Vec<Permit> = (0..10).map(|_| breaker.try_acquire().unwrap()).collect();
    advance(SECOND + SECOND / 8 + MS).await;
    assert_eq!(breaker.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_call_admitted_before_the_breaker_was_disabled_is_counted_and_one_after_it_is_not() {
    let breaker = CircuitBreaker::new("api");
    let before = breaker.try_acquire().unwrap();
    breaker.disable();
    before.failure();
    breaker.try_acquire().unwrap().failure();
    assert_eq!(breaker.snapshot().totals.failures, 1);
}

#[tokio::test(start_paused = true)]
async fn an_operators_opening_does_not_carry_the_words_of_an_unrelated_failure() {
    let breaker = CircuitBreaker::new("api");
    fail(&breaker, 1).await;
    breaker.open_for(SECOND);
    let refused = breaker.try_acquire().unwrap_err();
    assert_eq!((refused.last_failure(), refused.failure_count()), (None, 0));
    assert_eq!(breaker.snapshot().last_failure, None);
    let breaker = CircuitBreaker::new("api");
    fail(&breaker, 5).await;
    let refused = breaker.try_acquire().unwrap_err();
    assert_eq!(refused.last_failure(), Some("Down"));
}

#[tokio::test]
async fn a_minimum_that_was_asked_for_must_fit_the_window_and_the_default_does() {
    let ten = || CircuitBreaker::builder("api").failure_rate(0.5, Window::calls(10));
    let wrong = ten().minimum_calls(20).build().unwrap_err();
    assert_eq!(wrong.setting(), "minimum_calls");
    assert_eq!(ten().build().unwrap().config().minimum_calls, 10);
}

#[tokio::test(start_paused = true)]
async fn an_overload_is_counted_apart() {
    let breaker = CircuitBreaker::new("api");
    let judge = |_: Result<&(), &ApiError>| Verdict::overload().because("429");
    let service = breaker
        .layer()
        .classify_with(judge)
        .layer(service_fn(|(): ()| ready(Ok::<_, ApiError>(()))));
    for _ in 0..10 {
        service.clone().oneshot(()).await.unwrap();
    }
    let snapshot = breaker.snapshot();
    assert_eq!(
        (snapshot.totals.overloads, snapshot.totals.failures),
        (10, 0)
    );
    assert_eq!(snapshot.state, CircuitState::Closed);
    assert_eq!(snapshot.last_failure.as_deref(), Some("429"));
}

#[tokio::test(start_paused = true)]
async fn a_fast_call_on_its_way_while_the_state_changes_is_not_slow() {
    let breaker = CircuitBreaker::builder("api")
        .slow_call_rate(0.5, SECOND)
        .build()
        .unwrap();
    let fast = breaker.try_acquire().unwrap();
    breaker.force_open();
    fast.success();
    let totals = breaker.snapshot().totals;
    assert_eq!((totals.successes, totals.slow), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn in_metrics_only_mode_a_service_that_is_not_ready_is_no_refusal() {
    let breaker = CircuitBreaker::new("api");
    breaker.metrics_only();
    fail(&breaker, 5).await;
    let (mock, mut handle) = tower_test::mock::pair::<&str, &str>();
    let mut stuck = task::spawn(breaker.layer::<Boxed>().layer(mock));
    handle.allow(0);
    for _ in 0..3 {
        assert_pending!(stuck.enter(|cx, mut s| s.poll_ready(cx)));
    }
    assert_eq!(breaker.snapshot().totals.would_reject, 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_call_counts_as_slow_when_it_returns() {
    let breaker = CircuitBreaker::builder("api")
        .slow_call_rate(1.0, SECOND)
        .minimum_calls(3)
        .build()
        .unwrap();
    for _ in 0..3 {
        let call = breaker.call(|| async {
            sleep(SECOND).await;
            Ok::<_, ApiError>(())
        });
        call.await.unwrap();
    }
    assert_eq!(breaker.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn calls_cancelled_by_an_outer_timeout_count_if_the_policy_says_so() {
    let breaker = CircuitBreaker::builder("api")
        .cancelled_is_failure_after(SECOND)
        .build()
        .unwrap();
    let hang = || breaker.call(pending::<Result<(), ApiError>>);
    for _ in 0..10 {
        let _ = tokio::time::timeout(SECOND / 2, hang()).await;
    }
    assert_eq!(
        breaker.snapshot().totals.cancelled,
        10,
        "the caller lost interest"
    );
    for _ in 0..5 {
        let _ = tokio::time::timeout(SECOND, hang()).await;
    }
    assert_eq!(breaker.state(), CircuitState::Open, "the service hangs");
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure_and_wedges_nothing() {
    let breaker = CircuitBreaker::builder("api")
        .consecutive_failures(1)
        .build()
        .unwrap();
    let blows_up = breaker.call(|| async {
        if true {
            panic!("in the service");
        }
        Ok::<(), ApiError>(())
    });
    assert!(AssertUnwindSafe(blows_up).catch_unwind().await.is_err());
    assert_eq!(breaker.state(), CircuitState::Open);
    assert_eq!(
        breaker.snapshot().last_failure.as_deref(),
        Some("the call panicked")
    );
    advance(60 * SECOND).await;
    succeed(&breaker).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_closure_that_panics_before_there_is_a_future_has_failed() {
    let breaker = CircuitBreaker::new("api");
    let blows_up = breaker.call(|| {
        if true {
            panic!("in the closure");
        }
        ready(Ok::<(), ApiError>(()))
    });
    assert!(AssertUnwindSafe(blows_up).catch_unwind().await.is_err());
    let totals = breaker.snapshot().totals;
    assert_eq!((totals.failures, totals.cancelled), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn open_times_grow_and_are_spread_by_a_seed() {
    let build = |seed| {
        CircuitBreaker::builder("api")
            .consecutive_failures(1)
            .recovery(Recovery::exponential(SECOND, 2.0, 60 * SECOND).jitter(0.5))
            .seed(seed)
            .build()
            .unwrap()
    };
    let open_times = |seed| async move {
        let breaker = build(seed);
        let mut times = Vec::new();
        for _ in 0..4 {
            fail(&breaker, 1).await;
            let open_for = breaker.snapshot().remaining_open.unwrap();
            times.push(open_for);
            advance(open_for).await;
        }
        times
    };
    let times = open_times(1).await;
    assert_eq!(times, open_times(1).await);
    assert_ne!(times, open_times(2).await);
    for (n, time) in (0..).zip(times) {
        let share = time.as_secs_f64() / f64::from(1 << n);
        assert!((0.5..=1.5).contains(&share), "opening {n}: {time:?}");
    }
}

// ---- The layer ----------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn an_open_circuit_never_touches_the_inner_service() {
    let breaker = CircuitBreaker::new("api");
    let (mock, mut handle) = tower_test::mock::pair::<&str, &str>();
    let mut service = task::spawn(breaker.layer().layer(mock));
    // Not ready, for ever: only an open circuit is ready all the same.
    handle.allow(0);
    assert_pending!(service.enter(|cx, mut s| s.poll_ready(cx)));
    breaker.force_open();
    assert_ready_ok!(service.enter(|cx, mut s| s.poll_ready(cx)));
    let mut call = task::spawn(service.call("x"));
    let refused: Error<Boxed> = assert_ready_err!(call.poll());
    assert!(matches!(refused, Error::CircuitOpen(_)));
    assert!(handle.next_request().now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_was_ready_to_refuse_looks_again_when_it_is_asked_again() {
    let breaker = CircuitBreaker::new("api");
    let (mock, mut handle) = tower_test::mock::pair::<&str, &str>();
    let mut service = task::spawn(breaker.layer::<Boxed>().layer(mock));
    handle.allow(0);
    breaker.force_open();
    assert_ready_ok!(service.enter(|cx, mut s| s.poll_ready(cx)));
    breaker.force_close();
    assert_pending!(service.enter(|cx, mut s| s.poll_ready(cx)));
}

#[tokio::test(start_paused = true)]
async fn a_call_of_a_service_that_was_not_made_ready_is_refused_and_told_to_ask_again() {
    let breaker = CircuitBreaker::new("api");
    let (mock, mut handle) = tower_test::mock::pair::<&str, &str>();
    let mut service = task::spawn(breaker.layer().layer(mock));
    handle.allow(1);
    breaker.force_open();
    assert_ready_ok!(service.enter(|cx, mut s| s.poll_ready(cx)));
    breaker.force_close();
    let mut call = task::spawn(service.call("x"));
    let refused: Error<Boxed> = assert_ready_err!(call.poll());
    let Error::CircuitOpen(open) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(open.reason(), OpenReason::NotMadeReady);
    assert_eq!(open.retry_after(), Some(Duration::ZERO));
    assert!(
        handle.next_request().now_or_never().is_none(),
        "it was not ready"
    );
    assert_ready_ok!(service.enter(|cx, mut s| s.poll_ready(cx)));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_is_pending_is_woken_when_the_circuit_opens() {
    let breaker = CircuitBreaker::new("api");
    let (mock, mut handle) = tower_test::mock::pair::<&str, &str>();
    let mut service = task::spawn(breaker.layer::<Boxed>().layer(mock));
    handle.allow(0);
    assert_pending!(service.enter(|cx, mut s| s.poll_ready(cx)));
    assert!(!service.is_woken());
    fail(&breaker, 5).await;
    assert!(service.is_woken());
    assert_ready_ok!(service.enter(|cx, mut s| s.poll_ready(cx)), "to refuse");
}

#[tokio::test(start_paused = true)]
async fn pending_while_open_a_service_is_woken_when_it_may_probe_and_not_before() {
    let breaker = CircuitBreaker::new("api");
    let layer = breaker.layer().pending_while_open();
    let echo = service_fn(|(): ()| ready(Ok::<_, ApiError>(())));
    let mut service = task::spawn(layer.layer(echo));
    fail(&breaker, 5).await;
    assert_pending!(service.enter(|cx, mut s| s.poll_ready(cx)));
    advance(60 * SECOND - MS).await;
    assert!(!service.is_woken());
    advance(MS).await;
    assert!(service.is_woken());
    // The first poll after the wait asks for the next, which finds it ready.
    let mut ready = false;
    for _ in 0..2 {
        ready |= service.enter(|cx, mut s| s.poll_ready(cx)).is_ready();
    }
    assert!(ready);
    // A place that is taken is waited for too.
    let probe = breaker.try_acquire().unwrap();
    assert_pending!(service.enter(|cx, mut s| s.poll_ready(cx)));
    drop(probe);
    assert!(service.is_woken());
}

#[tokio::test(start_paused = true)]
async fn pending_while_open_a_service_is_woken_when_there_is_less_to_wait_for() {
    let breaker = CircuitBreaker::new("api");
    let layer = breaker.layer().pending_while_open();
    let echo = service_fn(|(): ()| ready(Ok::<_, ApiError>(())));
    let mut service = task::spawn(layer.layer(echo));
    breaker.open_for(60 * SECOND);
    assert_pending!(service.enter(|cx, mut s| s.poll_ready(cx)));
    breaker.open_for(SECOND);
    assert!(service.is_woken(), "it opens for a shorter time");
    assert_pending!(service.enter(|cx, mut s| s.poll_ready(cx)));
    advance(SECOND).await;
    let _probe = breaker.try_acquire().unwrap();
    // The first poll after a wait may ask for the next.
    for _ in 0..2 {
        assert_pending!(service.enter(|cx, mut s| s.poll_ready(cx)));
    }
    assert!(!service.is_woken());
    let mut config = (*breaker.config()).clone();
    config.max_probes = 2;
    breaker.update(config).unwrap();
    assert!(service.is_woken(), "there is room for two");
}

#[tokio::test(start_paused = true)]
async fn the_place_of_a_probe_is_not_kept_by_a_service_that_is_not_ready() {
    let breaker = CircuitBreaker::new("api");
    breaker.open_for(SECOND);
    advance(SECOND).await;
    let (mock, mut handle) = tower_test::mock::pair::<&str, &str>();
    let mut stuck = task::spawn(breaker.layer::<Boxed>().layer(mock));
    handle.allow(0);
    assert_pending!(stuck.enter(|cx, mut s| s.poll_ready(cx)));
    succeed(&breaker).await.unwrap();
    assert_eq!(
        breaker.snapshot().totals.cancelled,
        0,
        "giving a place back is no call"
    );
}

#[tokio::test(start_paused = true)]
async fn of_many_services_that_are_ready_at_once_one_probes() {
    let breaker = CircuitBreaker::new("api");
    breaker.open_for(SECOND);
    advance(SECOND).await;
    let calls = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&calls);
    let service = breaker.layer().layer(service_fn(move |(): ()| {
        count.fetch_add(1, Ordering::SeqCst);
        async {
            sleep(SECOND).await;
            Ok::<_, ApiError>(())
        }
    }));
    let mut ready_ones = Vec::new();
    for _ in 0..20 {
        let mut one = service.clone();
        one.ready().await.unwrap();
        ready_ones.push(one);
    }
    let results = join_all(ready_ones.iter_mut().map(|service| service.call(()))).await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_ready_has_no_place_before_its_call() {
    let breaker = CircuitBreaker::new("api");
    breaker.open_for(SECOND);
    advance(SECOND).await;
    let layer = breaker.layer();
    let echo = || layer.layer(service_fn(|(): ()| ready(Ok::<_, ApiError>(()))));
    let mut idle = echo();
    idle.ready().await.unwrap();
    assert_eq!(breaker.snapshot().probes, 0);
    let held = breaker.try_acquire().unwrap();
    let refused = idle.call(()).await.unwrap_err();
    let Error::CircuitOpen(open) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(open.reason(), OpenReason::ProbesBusy);
    // The probe may end at any moment: its lease is no time to wait for.
    assert_eq!(open.retry_after(), None);
    assert_eq!(open.probe_lease(), Some(30 * SECOND));
    drop(held);
    // One that became ready while half-open, and calls when the circuit has opened again.
    let mut idle = echo();
    idle.ready().await.unwrap();
    breaker.open_for(SECOND);
    assert!(idle.call(()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn of_two_services_of_which_one_is_idle_the_other_probes() {
    let breaker = CircuitBreaker::new("api");
    breaker.open_for(SECOND);
    advance(SECOND).await;
    let layer = breaker.layer();
    let echo = || layer.layer(service_fn(|(): ()| ready(Ok::<_, ApiError>(()))));
    let (mut idle, mut works) = (echo(), echo());
    idle.ready().await.unwrap();
    for _ in 0..2 {
        works.ready().await.unwrap().call(()).await.unwrap();
    }
    assert_eq!(breaker.state(), CircuitState::Closed);
    assert_eq!(breaker.snapshot().totals.cancelled, 0);
}

#[tokio::test(start_paused = true)]
async fn a_ramp_throws_its_dice_once_for_each_call_and_never_for_readiness() {
    let breaker = CircuitBreaker::builder("api")
        .success_threshold(1)
        .ramp(100 * SECOND)
        .seed(7)
        .build()
        .unwrap();
    breaker.open_for(SECOND);
    advance(SECOND).await;
    succeed(&breaker).await.unwrap();
    advance(45 * SECOND).await;
    let mut through = 0;
    for _ in 0..100 {
        let mut service = breaker
            .layer()
            .layer(service_fn(|(): ()| ready(Ok::<_, ApiError>(()))));
        for _ in 0..10 {
            service.ready().await.unwrap();
        }
        through += u32::from(service.call(()).await.is_ok());
    }
    assert!((30..=70).contains(&through), "{through} of 100");
}

#[tokio::test(start_paused = true)]
async fn a_clone_starts_empty_handed() {
    let breaker = CircuitBreaker::new("api");
    let mut original = breaker
        .layer()
        .layer(service_fn(|(): ()| ready(Ok::<_, ApiError>(()))));
    breaker.force_open();
    original.ready().await.unwrap();
    let mut clone = original.clone();
    breaker.force_close();
    clone.ready().await.unwrap().call(()).await.unwrap();
    assert!(original.call(()).await.is_err(), "it was not made ready");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_is_cancelled_and_gives_its_place_back() {
    let breaker = CircuitBreaker::new("api");
    breaker.open_for(SECOND);
    advance(SECOND).await;
    let mut service = breaker
        .layer()
        .layer(service_fn(|(): ()| pending::<Result<(), ApiError>>()));
    let mut call = task::spawn(service.ready().await.unwrap().call(()));
    assert_pending!(call.poll());
    assert!(breaker.try_acquire().is_err());
    drop(call);
    assert_eq!(breaker.state(), CircuitState::HalfOpen);
    assert!(breaker.try_acquire().is_ok());
    assert!(breaker.snapshot().totals.cancelled >= 1);
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_kills_no_buffer_and_is_not_thrown_out_of_a_balance() {
    let breaker = CircuitBreaker::new("api");
    let echo = service_fn(|n: u32| ready(Ok::<_, BoxError>(n)));

    let mut buffered = ServiceBuilder::new()
        .buffer(4)
        .layer(breaker.layer())
        .service(echo);
    breaker.force_open();
    for _ in 0..3 {
        buffered.ready().await.unwrap().call(1).await.unwrap_err();
    }
    breaker.force_close();
    assert_eq!(buffered.ready().await.unwrap().call(7).await.unwrap(), 7);

    let endpoint = Constant::new(breaker.layer().layer(echo), 1);
    let mut balanced = Balance::new(tower::discover::ServiceList::new(vec![endpoint]));
    breaker.force_open();
    for _ in 0..3 {
        balanced.ready().await.unwrap().call(1).await.unwrap_err();
    }
    breaker.force_close();
    assert_eq!(
        balanced.ready().await.unwrap().call(7).await.unwrap(),
        7,
        "still a member"
    );
}

#[tokio::test(start_paused = true)]
async fn an_error_of_readiness_is_the_inner_services() {
    let (mock, mut handle) = tower_test::mock::pair::<&str, &str>();
    let mut service = task::spawn(CircuitBreaker::new("api").layer().layer(mock));
    handle.send_error("closed");
    let error: Error<Boxed> =
        assert_ready!(service.enter(|cx, mut s| s.poll_ready(cx))).unwrap_err();
    assert!(matches!(error, Error::Inner(_)));
}

#[tokio::test(start_paused = true)]
async fn closures_judge_errors_and_responses() {
    let breaker = CircuitBreaker::builder("api")
        .consecutive_failures(1)
        .build()
        .unwrap();
    let answer = |layer: &dyn Fn(Result<u16, ApiError>) -> bool, result| layer(result);
    let opens = |service: &dyn Fn(Result<u16, ApiError>) -> bool, result| {
        breaker.reset();
        let _ = answer(service, result);
        breaker.state() == CircuitState::Open
    };
    let echo = service_fn(|result: Result<u16, ApiError>| ready(result));

    let only_down = breaker
        .layer()
        .failure_if(|e: &ApiError| *e == ApiError::Down)
        .layer(echo);
    let call = |r| only_down.clone().oneshot(r).now_or_never().unwrap().is_ok();
    assert!(opens(&call, Err(ApiError::Down)));
    assert!(!opens(&call, Err(ApiError::Invalid)));

    let not_invalid = breaker
        .layer()
        .ignore_if(|e: &ApiError| *e == ApiError::Invalid)
        .response_failure_if(|status: &u16| *status >= 500)
        .layer(echo);
    let call = |r| {
        not_invalid
            .clone()
            .oneshot(r)
            .now_or_never()
            .unwrap()
            .is_ok()
    };
    assert!(opens(&call, Err(ApiError::Down)));
    assert!(!opens(&call, Err(ApiError::Invalid)));
    assert!(opens(&call, Ok(503)));
    assert!(!opens(&call, Ok(404)));

    let by_hand = breaker
        .layer()
        .classify_with(|r: Result<&u16, &ApiError>| match r {
            Ok(418) => Verdict::failure(),
            _ => Verdict::success(),
        })
        .layer(echo);
    let call = |r| by_hand.clone().oneshot(r).now_or_never().unwrap().is_ok();
    assert!(opens(&call, Ok(418)));
    assert!(!opens(&call, Err(ApiError::Down)));
}

#[tokio::test(start_paused = true)]
async fn a_response_instead_of_an_error_keeps_the_error_type() {
    let breaker = CircuitBreaker::new("api");
    breaker.open_for(9 * SECOND);
    let service = breaker
        .layer()
        .response_failure_if(|status: &u16| *status >= 500)
        .reject_with(|refused| 503 + refused.retry_after().unwrap().as_secs() as u16)
        .layer(service_fn(|(): ()| ready(Ok::<u16, Infallible>(200))));
    let answer: Result<u16, Infallible> = service.oneshot(()).await;
    assert_eq!(answer, Ok(512));
}

#[test]
fn the_accessors_lead_to_the_inner_service() {
    let breaker = CircuitBreaker::new("api");
    let layer: CircuitBreakerLayer<Infallible> = breaker.layer();
    let mut service = layer.layer(7);
    assert_eq!((*service.get_ref(), service.breaker().name()), (7, "api"));
    *service.get_mut() = 8;
    assert_eq!(service.into_inner(), 8);
    assert!(format!("{layer:?}").contains("api"));
}

// ---- Threads ------------------------------------------------------------------------------------------

/// A pseudo-random number for a seed: the same script each time.
fn dice(n: u64) -> u64 {
    let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 27)
}

#[test]
fn whatever_races_every_admitted_call_is_counted_exactly_once() {
    for slow in [false, true] {
        let mut builder = CircuitBreaker::builder("api")
            .consecutive_failures(3)
            .failure_rate(0.3, Window::calls(50))
            .recovery_timeout(Duration::from_micros(50))
            .max_probes(2);
        if slow {
            builder = builder.slow_call_rate(0.9, 10 * SECOND);
        }
        let breaker = builder.build().unwrap();
        let (admitted, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        let start = Barrier::new(4);
        thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (breaker, admitted, refused, start) = (&breaker, &admitted, &refused, &start);
                scope.spawn(move || {
                    start.wait();
                    for n in 0..20_000 {
                        let roll = dice(thread * 1_000_000 + n);
                        if roll.is_multiple_of(997) {
                            match roll / 997 % 3 {
                                0 => breaker.force_close(),
                                1 => breaker.open_for(Duration::from_micros(20)),
                                _ => drop(breaker.snapshot()),
                            }
                        }
                        let Ok(permit) = breaker.try_acquire() else {
                            refused.fetch_add(1, Ordering::Relaxed);
                            continue;
                        };
                        admitted.fetch_add(1, Ordering::Relaxed);
                        match roll % 16 {
                            0..4 => permit.failure(),
                            4 => permit.ignore(),
                            5 => drop(permit),
                            _ => permit.success(),
                        }
                    }
                });
            }
        });
        let snapshot = breaker.snapshot();
        let totals = snapshot.totals;
        let counted = totals.successes + totals.failures + totals.ignored + totals.cancelled;
        assert_eq!(counted, admitted.load(Ordering::Relaxed));
        assert_eq!(totals.rejected, refused.load(Ordering::Relaxed));
        assert_eq!(snapshot.probes, 0, "every place is back");
    }
}

#[test]
fn a_half_open_circuit_never_has_more_probes_than_places() {
    let breaker = CircuitBreaker::builder("api")
        .max_probes(3)
        .success_threshold(1_000_000)
        .build()
        .unwrap();
    breaker.open_for(Duration::from_nanos(1));
    let (inside, most) = (AtomicU32::new(0), AtomicU32::new(0));
    let start = Barrier::new(4);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                for n in 0..20_000 {
                    let Ok(permit) = breaker.try_acquire() else {
                        continue;
                    };
                    let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    if n % 3 == 0 {
                        permit.success()
                    } else {
                        drop(permit)
                    }
                }
            });
        }
    });
    assert!((1..=3).contains(&most.load(Ordering::SeqCst)));
}
