//! Timeouts by phase: which part of a call took too long, and whose fault that is.

#![expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]

use std::future::{Pending, pending, ready};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, advance, sleep, timeout};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::deadline::{self, Deadline};
use tower_bulwark::explain::{Layers, Warning};
use tower_bulwark::rate_limit::{Quota, RateLimit};
use tower_bulwark::timeout::TimeoutConfig;
use tower_bulwark::{
    Backoff, BoxError, Boxed, CircuitBreaker, Error, Event, Exhausted, Jitter, LastFailure,
    Registry, RegistryError, Rejection, ResourceLock, RetryPolicy, StopReason, TimedOut,
    TimeoutPhase, Timeouts,
};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq)]
struct Down;

impl std::fmt::Display for Down {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("down")
    }
}

impl std::error::Error for Down {}

type Answer = Result<u32, Error<Down>>;

fn head(seconds: u32) -> Timeouts {
    let timeouts = Timeouts::builder("api").head(seconds * SECOND);
    timeouts.build().unwrap()
}

fn total(seconds: u32) -> Timeouts {
    let timeouts = Timeouts::builder("api").total(seconds * SECOND);
    timeouts.build().unwrap()
}

fn late(error: &Error<Down>) -> &TimedOut {
    match error {
        Error::TimedOut(late) => late,
        other => panic!("{other}"),
    }
}

fn gave_up(error: &Error<Down>) -> &Exhausted<Down> {
    match error {
        Error::Exhausted(gave_up) => gave_up,
        other => panic!("{other}"),
    }
}

/// Answers after so many seconds with the request, and counts what it is asked.
fn slow(
    seconds: u32,
    asked: &Arc<AtomicU32>,
) -> impl Service<u32, Response = u32, Error = Down, Future: Send> + Clone + Send + 'static + use<>
{
    let asked = Arc::clone(asked);
    service_fn(move |request: u32| {
        asked.fetch_add(1, Ordering::Relaxed);
        async move {
            sleep(seconds * SECOND).await;
            Ok(request)
        }
    })
}

fn hangs()
-> impl Service<u32, Response = u32, Error = Down, Future = Pending<Result<u32, Down>>> + Clone {
    service_fn(|_: u32| pending())
}

/// One whose `poll_ready` is pending until it is told otherwise.
#[derive(Clone, Default)]
struct Unready(Arc<Mutex<(bool, Option<std::task::Waker>)>>);

impl Unready {
    fn is_ready(&self) {
        let mut state = self.0.lock().unwrap();
        state.0 = true;
        state.1.take().into_iter().for_each(std::task::Waker::wake);
    }
}

impl Service<u32> for Unready {
    type Response = u32;
    type Error = Down;
    type Future = std::future::Ready<Result<u32, Down>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Down>> {
        let mut state = self.0.lock().unwrap();
        if state.0 {
            return Poll::Ready(Ok(()));
        }
        state.1 = Some(cx.waker().clone());
        Poll::Pending
    }

    fn call(&mut self, request: u32) -> Self::Future {
        assert!(self.0.lock().unwrap().0, "it was not ready");
        ready(Ok(request))
    }
}

// ---- One phase each --------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_call_that_takes_too_long_ends_with_the_phase_the_limit_and_the_name() {
    let (timeouts, asked, start) = (head(2), Arc::default(), Instant::now());
    let service = timeouts.layer().layer(slow(5, &asked));
    let error = service.clone().oneshot(1).await.unwrap_err();
    let it = late(&error);
    assert_eq!(start.elapsed(), 2 * SECOND);
    assert_eq!((it.name(), it.phase()), ("api", TimeoutPhase::Head));
    assert_eq!((it.limit(), it.after()), (Some(2 * SECOND), 2 * SECOND));
    assert_eq!(error.to_string(), "`api` did not answer within 2.000s");
    assert!(it.was_called() && !error.is_rejection());

    let service = total(3).layer().layer(slow(5, &asked));
    let error = service.oneshot(1).await.unwrap_err();
    assert_eq!(late(&error).phase(), TimeoutPhase::Total);
    assert_eq!(late(&error).limit(), Some(3 * SECOND));
    assert_eq!(start.elapsed(), 5 * SECOND);
    assert!(!error.is_rejection());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_in_time_ends_as_it_would_have() {
    let timeouts = Timeouts::builder("api")
        .head(2 * SECOND)
        .total(2 * SECOND)
        .build()
        .unwrap();
    let asked = Arc::default();
    let service = timeouts.layer().layer(slow(1, &asked));
    assert_eq!(service.oneshot(7).await.unwrap(), 7);
    let failing = service_fn(|_: u32| ready(Err::<u32, _>(Down)));
    let error = timeouts
        .layer()
        .layer(failing)
        .oneshot(7)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Inner(Down)));
    let seen = timeouts.snapshot();
    assert_eq!((seen.calls, seen.timed_out.sum()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_never_ready_is_refused_by_the_call_and_not_by_poll_ready() {
    let timeouts = Timeouts::builder("api").ready(5 * SECOND).build().unwrap();
    let (unready, start) = (Unready::default(), Instant::now());
    let mut service = timeouts.layer().layer(unready.clone());
    service.ready().await.unwrap();
    assert_eq!(start.elapsed(), 5 * SECOND);
    // Still: who asks again before the call does not wait again.
    service.ready().await.unwrap();
    assert_eq!(start.elapsed(), 5 * SECOND);
    let error = service.call(1).await.unwrap_err();
    assert_eq!(late(&error).phase(), TimeoutPhase::Ready);
    assert!(!late(&error).was_called() && error.is_rejection());
    assert_eq!(error.rejection().unwrap().code(), "not_ready");

    // The next caller has as long anew, and a service that has become ready is called.
    let again = async { timeout(4 * SECOND, service.ready()).await.is_err() };
    assert!(again.await);
    unready.is_ready();
    assert_eq!(service.ready().await.unwrap().call(2).await.unwrap(), 2);
    let seen = timeouts.snapshot();
    assert_eq!((seen.calls, seen.timed_out.ready), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_becomes_ready_after_it_was_late_is_called_and_not_refused() {
    let timeouts = Timeouts::builder("api").ready(SECOND).build().unwrap();
    let unready = Unready::default();
    let mut service = timeouts.layer().layer(unready.clone());
    service.ready().await.unwrap();
    unready.is_ready();
    assert_eq!(service.ready().await.unwrap().call(2).await.unwrap(), 2);
    assert_eq!(timeouts.snapshot().timed_out.sum(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_was_not_ready_before_an_update_has_the_time_that_it_had_then() {
    for new in [Some(2 * SECOND), None] {
        let ready = Timeouts::builder("api")
            .ready(5 * SECOND)
            .total(60 * SECOND);
        let timeouts = ready.build().unwrap();
        let call = timeouts
            .layer::<Down>()
            .layer(Unready::default())
            .oneshot(1);
        let (ended, ()) = tokio::join!(call, async {
            sleep(SECOND).await;
            let mut config = *timeouts.config();
            config.ready = new;
            timeouts.update(config).unwrap();
        });
        let error = ended.unwrap_err();
        let late = late(&error);
        assert_eq!(late.limit(), Some(5 * SECOND));
        assert_eq!(late.after(), 5 * SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_around_a_call_ends_it_only_if_that_was_asked_for() {
    let asked = Arc::default();
    let deaf = head(60);
    let service = deaf.layer().layer(slow(5, &asked));
    let call = deadline::scope(Deadline::after(SECOND), service.oneshot(1));
    assert_eq!(call.await.unwrap(), 1);

    let builder = Timeouts::builder("api").end_at_deadline(true);
    let timeouts = builder.build().unwrap();
    let (service, start) = (timeouts.layer().layer(slow(5, &asked)), Instant::now());
    let call = deadline::scope(Deadline::after(SECOND), service.clone().oneshot(1));
    let error = call.await.unwrap_err();
    assert_eq!(late(&error).phase(), TimeoutPhase::Deadline);
    assert_eq!(late(&error).limit(), None);
    assert_eq!(start.elapsed(), SECOND);
    assert_eq!(timeouts.snapshot().timed_out.deadline, 1);
    // Without a deadline there is nothing to end it.
    assert_eq!(service.oneshot(2).await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn total_is_the_deadline_of_everything_below() {
    let seen = total(9)
        .run(|| async { Ok::<_, Down>(deadline::remaining()) })
        .await;
    assert_eq!(seen.unwrap(), Some(9 * SECOND));
    // The retry below does not sleep for what would come too late, and says what really happened.
    let retry = RetryPolicy::builder()
        .max_retries(9)
        .backoff(Backoff::fixed(4 * SECOND))
        .jitter(Jitter::None)
        .build()
        .unwrap();
    let start = Instant::now();
    let service = ServiceBuilder::new()
        .layer(total(9).layer())
        .layer(retry.layer())
        .service(service_fn(|_: u32| ready(Err::<u32, _>(Down))));
    let error = service.oneshot(1).await.unwrap_err();
    assert_eq!(gave_up(&error).reason(), StopReason::Deadline);
    assert_eq!(gave_up(&error).attempts(), 3);
    assert_eq!(start.elapsed(), 8 * SECOND);
}

// ---- Whose fault it is -----------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_busy_lock_below_a_head_timeout_times_nobody_out() {
    let (timeouts, lock, asked) = (head(2), ResourceLock::new("slot"), Arc::default());
    let breaker = CircuitBreaker::new("api");
    let service = ServiceBuilder::new()
        .layer(RetryPolicy::new().layer())
        .layer(breaker.layer())
        .layer(timeouts.layer())
        .layer(lock.layer())
        .service(slow(1, &asked));
    // Ten callers of a healthy service behind a lock of one: the last waits nine seconds.
    let calls = (0..10).map(|i| service.clone().oneshot(i));
    let answers: Vec<Answer> = futures::future::join_all(calls).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(timeouts.snapshot().timed_out.sum(), 0);
    assert_eq!(breaker.snapshot().totals.failures, 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_polled_late_has_its_head_timeout_from_then_on() {
    let timeouts = Timeouts::builder("api").head(2 * SECOND).total(60 * SECOND);
    let timeouts = timeouts.build().unwrap();
    let mut service = timeouts.layer().layer(slow(1, &Arc::default()));
    let call = service.ready().await.unwrap().call(7);
    sleep(10 * SECOND).await;
    assert_eq!(call.await.unwrap(), 7);

    let mut service = timeouts.layer().layer(hangs());
    let call = service.ready().await.unwrap().call(7);
    sleep(10 * SECOND).await;
    let error = call.await.unwrap_err();
    let late = late(&error);
    assert_eq!(
        (late.phase(), late.after()),
        (TimeoutPhase::Head, 2 * SECOND)
    );
}

/// Its future may still be there: it is not at the service.
#[tokio::test(start_paused = true)]
async fn after_a_timeout_a_wait_of_the_caller_is_no_time_at_the_service() {
    let lock = ResourceLock::new("slot");
    let held = lock.acquire("other").owned().await.unwrap();
    let mut service = head(2).layer().layer(hangs());
    let call = async {
        let mut call = std::pin::pin!(service.call(7));
        call.as_mut().await.unwrap_err();
        let turn = lock.acquire("caller").timeout(99 * SECOND).await;
        Ok::<_, Down>(turn.is_ok())
    };
    let around = head(10);
    let (ended, ()) = tokio::join!(around.run(|| call), async {
        sleep(60 * SECOND).await;
        drop(held);
    });
    assert!(ended.unwrap());
}

#[tokio::test(start_paused = true)]
async fn queueing_time_is_no_attempt_time_but_the_time_after_it_is() {
    let (timeouts, lock) = (head(2), ResourceLock::new("slot"));
    let held = lock.acquire("somebody").owned().await.unwrap();
    let service = ServiceBuilder::new()
        .layer(timeouts.layer())
        .layer(lock.layer())
        .service(hangs());
    let start = Instant::now();
    let call = tokio::spawn(async move { service.oneshot(1).await });
    sleep(20 * SECOND).await;
    drop(held);
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(late(&error).phase(), TimeoutPhase::Head);
    assert_eq!(late(&error).after(), 2 * SECOND);
    assert_eq!(start.elapsed(), 22 * SECOND);
    assert_eq!(lock.snapshot().in_use, 0, "what it held is given back");
}

#[tokio::test(start_paused = true)]
async fn a_turn_at_a_rate_limit_and_the_backoff_of_a_retry_are_no_time_at_the_service() {
    let limit = RateLimit::new("api", Quota::per_minute(1)).unwrap();
    let retry = RetryPolicy::builder()
        .backoff(Backoff::fixed(5 * SECOND))
        .jitter(Jitter::None)
        .build()
        .unwrap();
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let service = ServiceBuilder::new()
        .layer(head(2).layer())
        .layer(retry.layer())
        .layer(limit.layer())
        .service(service_fn(move |_: u32| {
            ready(match count.fetch_add(1, Ordering::Relaxed) {
                0 => Err(Down),
                n => Ok(n),
            })
        }));
    limit.try_acquire(1).unwrap();
    // Waits for a turn, fails, backs off, and waits again: two minutes.
    let limit_waits = limit.update({
        let mut config = (*limit.config()).clone();
        config.max_wait = 600 * SECOND;
        config
    });
    assert!(limit_waits.is_ok());
    assert_eq!(service.oneshot(1).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_head_timeout_opens_the_breaker_around_it_and_the_breaker_below_it() {
    let (around, below) = (CircuitBreaker::new("around"), CircuitBreaker::new("below"));
    let service = ServiceBuilder::new()
        .layer(around.layer())
        .layer(head(1).layer())
        .layer(below.layer())
        .service(hangs());
    for i in 0..5 {
        let error = service.clone().oneshot(i).await.unwrap_err();
        assert_eq!(late(&error).phase(), TimeoutPhase::Head);
    }
    for breaker in [&around, &below] {
        assert_eq!(breaker.snapshot().totals.failures, 5, "{}", breaker.name());
        assert!(matches!(
            breaker.try_acquire().map(drop),
            Err(open) if open.retry_after().is_some()
        ));
    }
    // The breaker says which phase it was.
    let said = around.snapshot().last_failure.unwrap();
    assert_eq!(&*said, "`api` did not answer within 1.000s");
}

#[tokio::test(start_paused = true)]
async fn a_total_timeout_says_nothing_to_any_breaker() {
    let (around, below) = (CircuitBreaker::new("around"), CircuitBreaker::new("below"));
    let service = ServiceBuilder::new()
        .layer(around.layer())
        .layer(total(1).layer())
        .layer(below.layer())
        .service(hangs());
    for i in 0..9 {
        let error = service.clone().oneshot(i).await.unwrap_err();
        assert_eq!(late(&error).phase(), TimeoutPhase::Total);
    }
    let (around, below) = (around.snapshot().totals, below.snapshot().totals);
    assert_eq!((around.failures, around.ignored), (0, 9));
    assert_eq!((below.failures, below.cancelled), (0, 9));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_the_caller_says_nothing_to_any_breaker_and_is_not_tried_again() {
    let (around, below) = (CircuitBreaker::new("around"), CircuitBreaker::new("below"));
    let builder = Timeouts::builder("api").head(9 * SECOND);
    let timeouts = builder.end_at_deadline(true).build().unwrap();
    let service = ServiceBuilder::new()
        .layer(RetryPolicy::new().layer())
        .layer(around.layer())
        .layer(timeouts.layer())
        .layer(below.layer())
        .service(hangs());
    for i in 0..9 {
        let call = service.clone().oneshot(i);
        let error = deadline::scope(Deadline::after(SECOND), call).await;
        assert_eq!(late(&error.unwrap_err()).phase(), TimeoutPhase::Deadline);
    }
    let (around, below) = (around.snapshot().totals, below.snapshot().totals);
    assert_eq!((around.failures, around.ignored), (0, 9));
    assert_eq!((below.failures, below.cancelled), (0, 9));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_when_its_time_is_over_is_nobodys_failure() {
    let (around, below) = (CircuitBreaker::new("around"), CircuitBreaker::new("below"));
    let lock = ResourceLock::new("slot");
    let _held = lock.acquire("somebody").owned().await.unwrap();
    let timeouts = Timeouts::builder("api")
        .head(SECOND)
        .total(3 * SECOND)
        .build()
        .unwrap();
    let service = ServiceBuilder::new()
        .layer(around.layer())
        .layer(timeouts.layer())
        .layer(below.layer())
        .layer(lock.layer())
        .service(hangs());
    let start = Instant::now();
    for i in 0..9 {
        let error = service.clone().oneshot(i).await.unwrap_err();
        let code = match &error {
            Error::TimedOut(late) => Rejection::from(late.clone()).code(),
            other => other.rejection().unwrap().code(),
        };
        assert_eq!(code, "deadline", "{error}");
    }
    assert_eq!(start.elapsed(), 27 * SECOND);
    assert_eq!(around.snapshot().totals.failures, 0);
    assert_eq!(below.snapshot().totals.failures, 0);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_ready_is_nobodys_failure() {
    let breaker = CircuitBreaker::new("api");
    let timeouts = Timeouts::builder("api").ready(SECOND).build().unwrap();
    let service = ServiceBuilder::new()
        .layer(breaker.layer())
        .layer(timeouts.layer())
        .service(Unready::default());
    for i in 0..9 {
        let error = service.clone().oneshot(i).await.unwrap_err();
        assert_eq!(late(&error).phase(), TimeoutPhase::Ready);
    }
    let totals = breaker.snapshot().totals;
    assert_eq!((totals.failures, totals.ignored), (0, 9));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_had_its_time_is_to_blame_even_if_the_callers_time_is_over_too() {
    let timeouts = Timeouts::builder("api")
        .head(SECOND)
        .total(SECOND)
        .build()
        .unwrap();
    let error = timeouts
        .layer()
        .layer(hangs())
        .oneshot(1)
        .await
        .unwrap_err();
    assert_eq!(late(&error).phase(), TimeoutPhase::Head);
}

// ---- With a retry ----------------------------------------------------------------------------------------

fn two_retries() -> RetryPolicy {
    RetryPolicy::builder()
        .name("calls")
        .max_retries(2)
        .backoff(Backoff::fixed(SECOND))
        .jitter(Jitter::None)
        .build()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_attempt_has_the_head_timeout_for_itself_and_the_last_one_is_kept() {
    let (asked, start) = (Arc::default(), Instant::now());
    let service = ServiceBuilder::new()
        .layer(two_retries().layer())
        .layer(head(3).layer())
        .service(slow(60, &asked));
    let error = service.oneshot(1).await.unwrap_err();
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    assert_eq!(start.elapsed(), (3 + 1 + 3 + 1 + 3) * SECOND);
    let gave_up = gave_up(&error);
    assert_eq!(gave_up.reason(), StopReason::MaxRetries);
    let LastFailure::TimedOut(last) = gave_up.last() else {
        panic!("{error}")
    };
    assert_eq!((last.name(), last.phase()), ("api", TimeoutPhase::Head));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_may_not_be_done_twice_is_not_sent_again_after_a_head_timeout() {
    use tower_bulwark::Idempotency;
    let asked = Arc::default();
    let service = ServiceBuilder::new()
        .layer(
            two_retries()
                .layer()
                .idempotency_from(|_: &u32| Idempotency::NotIdempotent),
        )
        .layer(head(3).layer())
        .service(slow(60, &asked));
    let error = service.oneshot(1).await.unwrap_err();
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert_eq!(gave_up(&error).reason(), StopReason::NotIdempotent);
}

#[tokio::test(start_paused = true)]
async fn a_total_timeout_inside_a_retry_is_not_tried_again() {
    let asked = Arc::default();
    let service = ServiceBuilder::new()
        .layer(two_retries().layer())
        .layer(total(3).layer())
        .service(slow(60, &asked));
    let error = service.oneshot(1).await.unwrap_err();
    assert_eq!(late(&error).phase(), TimeoutPhase::Total);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_never_ready_is_tried_again_only_if_refusals_are() {
    let timeouts = Timeouts::builder("api").ready(SECOND).build().unwrap();
    let service = ServiceBuilder::new()
        .layer(two_retries().layer())
        .layer(timeouts.layer())
        .service(Unready::default());
    let error = service.oneshot(1).await.unwrap_err();
    assert_eq!(late(&error).phase(), TimeoutPhase::Ready);
    assert_eq!(timeouts.snapshot().timed_out.ready, 1);

    let unready = Unready::default();
    let retry = RetryPolicy::builder()
        .backoff(Backoff::fixed(SECOND))
        .jitter(Jitter::None)
        .retry_rejections(true)
        .build()
        .unwrap();
    let service = ServiceBuilder::new()
        .layer(
            retry
                .layer()
                .idempotency_from(|_: &u32| tower_bulwark::Idempotency::NotIdempotent),
        )
        .layer(timeouts.layer())
        .service(unready.clone());
    let call = tokio::spawn(service.oneshot(5));
    sleep(1500 * SECOND / 1000).await;
    unready.is_ready();
    assert_eq!(call.await.unwrap().unwrap(), 5);
}

#[tokio::test(start_paused = true)]
async fn one_handle_is_total_around_the_retry_and_everything_else_below_it() {
    let timeouts = Timeouts::builder("api")
        .head(3 * SECOND)
        .total(6 * SECOND)
        .build()
        .unwrap();
    let (asked, start) = (Arc::default(), Instant::now());
    let service = ServiceBuilder::new()
        .layer(timeouts.layer().only_total())
        .layer(two_retries().layer())
        .layer(timeouts.layer().without_total())
        .service(slow(60, &asked));
    let error = service.oneshot(1).await.unwrap_err();
    assert_eq!(late(&error).phase(), TimeoutPhase::Total);
    assert_eq!(start.elapsed(), 6 * SECOND);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    let seen = timeouts.snapshot().timed_out;
    assert_eq!((seen.head, seen.total), (1, 1));
}

// ---- Alone, dropped, out of the way ----------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn it_works_alone_around_any_future() {
    let timeouts = head(2);
    let lock = ResourceLock::new("slot");
    let held = lock.acquire("somebody").owned().await.unwrap();
    let call = timeouts.run(|| lock.run("me", || async { Ok::<_, Down>(1) }));
    let (answer, ()) = tokio::join!(call, async {
        sleep(9 * SECOND).await;
        drop(held);
    });
    assert_eq!(answer.unwrap(), 1);
    let error = timeouts
        .run(pending::<Result<u32, Down>>)
        .await
        .unwrap_err();
    assert_eq!(late(&error).phase(), TimeoutPhase::Head);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_is_no_timeout_and_gives_everything_back() {
    let (timeouts, lock, breaker) = (head(9), ResourceLock::new("slot"), CircuitBreaker::new("b"));
    let service = ServiceBuilder::new()
        .layer(timeouts.layer())
        .layer(breaker.layer())
        .layer(lock.layer())
        .service(hangs());
    assert!(timeout(SECOND, service.oneshot(1)).await.is_err());
    assert_eq!(lock.snapshot().in_use, 0);
    assert_eq!(breaker.snapshot().totals.cancelled, 1);
    advance(60 * SECOND).await;
    let seen = timeouts.snapshot();
    assert_eq!((seen.calls, seen.timed_out.sum()), (1, 0));
}

#[test]
fn a_call_that_is_ready_at_once_needs_no_timer() {
    let timeouts = Timeouts::builder("api")
        .ready(SECOND)
        .head(SECOND)
        .total(SECOND)
        .build()
        .unwrap();
    let service = timeouts
        .layer()
        .layer(service_fn(|n: u32| ready(Ok::<_, Down>(n))));
    // There is no runtime: a timer would panic.
    assert_eq!(futures::executor::block_on(service.oneshot(3)).unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_uses_up_the_tasks_budget_at_each_poll_is_ended_all_the_same() {
    let greedy = |_: u32| async {
        loop {
            tokio::task::coop::consume_budget().await;
            tokio::task::coop::cooperative(ready(())).await;
            if tokio::task::coop::has_budget_remaining() {
                continue;
            }
            advance(SECOND / 100).await;
        }
        #[expect(unreachable_code, reason = "it never ends")]
        Ok::<u32, Down>(0)
    };
    let service = head(1).layer().layer(service_fn(greedy));
    let error = timeout(60 * SECOND, service.oneshot(1)).await.unwrap();
    assert_eq!(late(&error.unwrap_err()).phase(), TimeoutPhase::Head);
}

#[tokio::test(start_paused = true)]
async fn limits_too_long_to_count_do_not_end_and_do_not_panic() {
    let timeouts = Timeouts::builder("api")
        .ready(Duration::MAX)
        .head(Duration::MAX)
        .total(Duration::MAX)
        .build()
        .unwrap();
    let asked = Arc::default();
    let service = timeouts.layer().layer(slow(86_400, &asked));
    assert_eq!(service.oneshot(1).await.unwrap(), 1);
    let mut never = timeouts.layer().layer(Unready::default());
    assert!(timeout(86_400 * SECOND, never.ready()).await.is_err());
}

// ---- Config, counts, and what is said --------------------------------------------------------------------

#[test]
fn a_limit_of_zero_and_no_limit_at_all_are_errors_that_say_what_to_change() {
    let zero = Timeouts::builder("api").idle(Duration::ZERO).build();
    let zero = zero.unwrap_err();
    assert_eq!(zero.setting(), "idle");
    assert!(zero.to_string().contains("leave it out"), "{zero}");
    let none = Timeouts::builder("api").build().unwrap_err();
    assert!(none.to_string().contains("such as `head`"), "{none}");
}

#[tokio::test(start_paused = true)]
async fn an_update_holds_from_the_next_call_on_and_says_what_it_changed() {
    let (timeouts, asked) = (head(9), Arc::default());
    let service = timeouts.layer().layer(slow(5, &asked));
    let before = tokio::spawn(service.clone().oneshot(1));
    tokio::task::yield_now().await;
    let mut config = *timeouts.config();
    config.head = Some(SECOND);
    let change = timeouts.update(config).unwrap();
    assert_eq!(change.to_string(), "head: Some(9s) -> Some(1s)");
    let error = service.oneshot(2).await.unwrap_err();
    assert_eq!(late(&error).limit(), Some(SECOND));
    assert_eq!(before.await.unwrap().unwrap(), 1);
    config.head = Some(Duration::ZERO);
    assert!(timeouts.update(config).is_err());
    assert_eq!(timeouts.config().head, Some(SECOND));
}

#[tokio::test(start_paused = true)]
async fn each_timeout_is_one_event_whose_kind_is_the_phase() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&heard);
    let observer = move |name: &str, event: &Event| {
        let line = format!("{} {name} {}: {event}", event.pattern(), event.kind());
        list.lock().unwrap().push(line);
    };
    let timeouts = Timeouts::builder("api")
        .head(SECOND)
        .observer(observer)
        .build()
        .unwrap();
    let _ = timeouts.layer().layer(hangs()).oneshot(1).await;
    assert_eq!(
        *heard.lock().unwrap(),
        ["timeout api head: timed out: head, after 1.000s (limit 1.000s)"]
    );
}

#[test]
fn other_limits_under_a_taken_name_are_an_error_that_shows_both() {
    let registry = Registry::new();
    let ask = |seconds| {
        let builder = Timeouts::builder("api").head(seconds * SECOND);
        builder.build_in(&registry)
    };
    ask(2).unwrap();
    ask(2).unwrap();
    let conflict = ask(3).unwrap_err();
    assert!(matches!(
        &conflict,
        RegistryError::Conflict {
            kind: "timeouts",
            ..
        }
    ));
    assert!(
        conflict.to_string().contains("head: Some(3s)"),
        "{conflict}"
    );
    assert_eq!(&*registry.snapshot().timeouts[0].name, "api");
    assert!(registry.get_timeouts("api").is_some());
    assert!(registry.remove_if_idle("api"));
    assert!(registry.timeouts().is_empty());
}

#[test]
fn explain_says_what_holds_where_and_warns_of_what_ends_at_the_wrong_place() {
    let timeouts = Timeouts::builder("api")
        .head(20 * SECOND)
        .total(300 * SECOND)
        .build()
        .unwrap();
    let retry = RetryPolicy::new();
    let good = Layers::new()
        .layer(timeouts.layer::<Down>().only_total())
        .layer(&retry)
        .layer(timeouts.layer::<Down>().without_total())
        .service("client", None)
        .explain();
    assert_eq!(good.warnings(), []);
    assert_eq!(
        good.worst_case_time(),
        Some(4 * 20 * SECOND + retry.config().worst_case_delay())
    );
    let text = good.to_string();
    assert!(text.contains("timeouts `api`: total 300.0s\n"), "{text}");
    assert!(text.contains("timeouts `api`: head 20.0s\n"), "{text}");

    let bad = Layers::new().layer(&timeouts).layer(&retry).explain();
    assert!(
        matches!(bad.warnings(), [Warning::HeadOutsideRetry { .. }]),
        "{bad}"
    );
    let bad = Layers::new().layer(&retry).layer(&timeouts).explain();
    assert!(
        matches!(bad.warnings(), [Warning::TotalInsideRetry { .. }]),
        "{bad}"
    );
}

#[tokio::test(start_paused = true)]
async fn reject_with_answers_every_phase_and_leaves_the_error_type_alone() {
    let timeouts = Timeouts::builder("api")
        .ready(SECOND)
        .head(SECOND)
        .build()
        .unwrap();
    let answer = |rejection: Rejection| match rejection.code() {
        "not_ready" => 503,
        "timed_out" => 504,
        other => panic!("{other}"),
    };
    let service = timeouts.layer::<Down>().reject_with(answer).layer(hangs());
    let result: Result<u32, Down> = service.oneshot(1).await;
    assert_eq!(result, Ok(504));
    let service = timeouts
        .layer::<Down>()
        .reject_with(answer)
        .layer(Unready::default());
    assert_eq!(service.oneshot(1).await, Ok(503));
}

#[tokio::test(start_paused = true)]
async fn through_a_foreign_box_a_timeout_is_still_what_it_is() {
    let boxed = |timeouts: Timeouts| {
        ServiceBuilder::new()
            .map_err(BoxError::from)
            .layer(timeouts.layer())
            .service(hangs())
    };
    let (blamed, spared) = (CircuitBreaker::new("blamed"), CircuitBreaker::new("spared"));
    let error: Error<Boxed> = blamed
        .layer()
        .layer(boxed(head(1)))
        .oneshot(1)
        .await
        .unwrap_err();
    assert!(matches!(&error, Error::TimedOut(late) if late.phase() == TimeoutPhase::Head));
    let error: Error<Boxed> = spared
        .layer()
        .layer(boxed(total(1)))
        .oneshot(1)
        .await
        .unwrap_err();
    assert!(matches!(&error, Error::TimedOut(late) if late.phase() == TimeoutPhase::Total));
    assert_eq!(blamed.snapshot().totals.failures, 1);
    assert_eq!(spared.snapshot().totals.failures, 0);
    let boxed: BoxError = error.into();
    assert!(Rejection::find(&*boxed).is_none(), "the service was called");
}

#[test]
fn a_config_of_nothing_but_names_of_the_builder_is_plain_data() {
    let mut config = TimeoutConfig::default();
    config.head = Some(SECOND);
    let timeouts = Timeouts::builder("api").config(config).build().unwrap();
    assert_eq!(*timeouts.config(), config);
}

static_assertions::assert_impl_all!(Timeouts: Clone, Send, Sync, Unpin, std::fmt::Debug);
static_assertions::assert_impl_all!(
    tower_bulwark::timeout::TimeoutFuture<std::future::Ready<Result<u32, Down>>, Down>: Send, Sync, Unpin
);
// A layer around a service that is not `Clone`, `Send` or `'static` asks for no more than the service gives.
static_assertions::assert_impl_all!(
    tower_bulwark::timeout::TimeoutService<Unready, Down>: Service<u32>, Clone, Send, Sync
);

#[cfg(feature = "serde")]
#[test]
fn a_config_goes_through_json_and_an_unknown_phase_is_an_error() {
    let mut config = TimeoutConfig::default();
    config.first_frame = Some(60 * SECOND);
    config.end_at_deadline = true;
    let json = serde_json::to_string(&config).unwrap();
    let back: TimeoutConfig = serde_json::from_str(&json).unwrap();
    assert_eq!(back, config);
    let one: TimeoutConfig = serde_json::from_str(r#"{"head":"2s"}"#).unwrap();
    assert_eq!((one.head, one.total), (Some(2 * SECOND), None));
    assert!(serde_json::from_str::<TimeoutConfig>(r#"{"heads":null}"#).is_err());
}

#[cfg(feature = "metrics")]
#[tokio::test(start_paused = true)]
async fn timeouts_are_counted_by_phase_in_the_metrics() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};
    use tower_bulwark::observe::Metrics;
    let registry = Registry::new();
    let timeouts = Timeouts::builder("api")
        .head(SECOND)
        .build_in(&registry)
        .unwrap();
    let _ = timeouts.layer().layer(hangs()).oneshot(1).await;
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || Metrics::of(&registry).record());
    let found = snapshotter.snapshot().into_vec().into_iter();
    let counts: Vec<_> = found
        .filter(|(key, _, _, _)| key.key().name() == "bulwark_timeout_timed_out_total")
        .filter_map(|(key, _, _, value)| {
            let phase = key
                .key()
                .labels()
                .find(|it| it.key() == "phase")?
                .value()
                .to_owned();
            Some((phase, value))
        })
        .collect();
    assert_eq!(counts.len(), 6);
    assert!(
        counts.contains(&("head".to_owned(), DebugValue::Counter(1))),
        "{counts:?}"
    );
    assert!(
        counts.contains(&("total".to_owned(), DebugValue::Counter(0))),
        "{counts:?}"
    );
    // And each is an event of its own, known to the registry's feed.
    assert_eq!(registry.feed().recent()[0].event.kind(), "head");
}

// ---- Bodies ----------------------------------------------------------------------------------------------

#[cfg(feature = "hyper")]
mod bodies {
    use std::convert::Infallible;
    use std::io;

    use axum::Router;
    use axum::body::Body as AxumBody;
    use axum::routing::get;
    use bytes::Bytes;
    use futures::channel::mpsc::{UnboundedSender, unbounded};
    use http::{Request, Response, StatusCode};
    use http_body::Frame;
    use http_body_util::{BodyExt, Full, StreamBody};
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;
    use tower_bulwark::Outcome;
    use tower_bulwark::http::{
        BodyError, ErrorKind, HttpClassify, IdleTimeoutBody, Refused, TimeoutBody, problem,
    };
    use tower_bulwark::outcome::Classify;

    use super::*;

    type Item = Result<Frame<Bytes>, io::Error>;

    fn data(text: &'static str) -> Item {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    /// A body whose frames come when they are sent.
    fn remote() -> (
        UnboundedSender<Item>,
        StreamBody<impl futures::Stream<Item = Item>>,
    ) {
        let (send, frames) = unbounded();
        (send, StreamBody::new(frames))
    }

    /// Answers once, with this body.
    fn answers<B: Send>(
        body: B,
    ) -> impl Service<(), Response = Response<B>, Error = Infallible, Future: Send> + Clone {
        let body = Arc::new(Mutex::new(Some(body)));
        service_fn(move |()| {
            let body = body.lock().unwrap().take().unwrap();
            ready(Ok(Response::new(body)))
        })
    }

    fn phases() -> Timeouts {
        Timeouts::builder("model")
            .first_frame(60 * SECOND)
            .idle(5 * SECOND)
            .build()
            .unwrap()
    }

    fn timed_out(error: &BodyError) -> &TimedOut {
        match error {
            BodyError::TimedOut(late) => late,
            other => panic!("{other}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_frame_has_a_limit_of_its_own_and_those_after_it_another() {
        let (timeouts, start) = (phases(), Instant::now());
        let (send, body) = remote();
        let service = timeouts.http_layer().layer(answers(body));
        let mut body = service.oneshot(()).await.unwrap().into_body();
        let (frame, ()) = tokio::join!(body.frame(), async {
            sleep(59 * SECOND).await;
            send.unbounded_send(data("a")).unwrap();
        });
        frame.unwrap().unwrap();
        let error = body.frame().await.unwrap().unwrap_err();
        let late = timed_out(&error);
        assert_eq!(
            (late.phase(), late.limit()),
            (TimeoutPhase::Idle, Some(5 * SECOND))
        );
        assert_eq!(start.elapsed(), 64 * SECOND);
        assert!(body.frame().await.is_none());

        let (_send, body) = remote();
        let service = timeouts.http_layer().layer(answers(body));
        let mut body = service.oneshot(()).await.unwrap().into_body();
        let error = body.frame().await.unwrap().unwrap_err();
        let text = "`model`: no frame of the body came within 60.000s";
        assert_eq!(error.to_string(), text);
        assert_eq!(start.elapsed(), 124 * SECOND);
        let seen = timeouts.snapshot().timed_out;
        assert_eq!((seen.first_frame, seen.idle), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_limit_for_the_first_frame_only_those_after_it_may_take_their_time() {
        let timeouts = Timeouts::builder("model").first_frame(5 * SECOND);
        let timeouts = timeouts.build().unwrap();
        let (send, body) = remote();
        let service = timeouts.http_layer().layer(answers(body));
        let mut body = service.oneshot(()).await.unwrap().into_body();
        for (text, seconds) in [("a", 1), ("b", 600)] {
            let (frame, ()) = tokio::join!(body.frame(), async {
                sleep(seconds * SECOND).await;
                send.unbounded_send(data(text)).unwrap();
            });
            frame.unwrap().unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_a_body_inside_by_its_own_limits_is_no_timeout_of_these() {
        let timeouts = total(600);
        for has_deadline in [false, true] {
            let (_send, body) = remote();
            let mut body = IdleTimeoutBody::new(body, 2 * SECOND);
            if has_deadline {
                body = body.until(Deadline::after(SECOND));
            }
            let service = timeouts.http_layer().layer(answers(body));
            let mut body = service.oneshot(()).await.unwrap().into_body();
            match (body.frame().await.unwrap().unwrap_err(), has_deadline) {
                (BodyError::Idle(limit), false) => assert_eq!(limit, 2 * SECOND),
                (BodyError::DeadlineExceeded, true) => {}
                (other, _) => panic!("{other:?}"),
            }
        }
        assert_eq!(timeouts.snapshot().timed_out.sum(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_its_time_times_nobody_out() {
        let timeouts = phases();
        let (send, body) = remote();
        let service = timeouts.http_layer().layer(answers(body));
        let mut body = service.oneshot(()).await.unwrap().into_body();
        sleep(600 * SECOND).await;
        for text in ["a", "b", "c"] {
            // It waits for each frame, which comes in time, and then does something else for long.
            let (frame, ()) = tokio::join!(body.frame(), async {
                sleep(4 * SECOND).await;
                send.unbounded_send(data(text)).unwrap();
            });
            frame.unwrap().unwrap();
            sleep(600 * SECOND).await;
        }
        drop(send);
        assert!(body.frame().await.is_none());
        assert_eq!(timeouts.snapshot().timed_out.sum(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn total_goes_on_to_the_end_of_a_body_that_is_never_silent() {
        let (timeouts, start) = (total(10), Instant::now());
        let breaker = CircuitBreaker::new("below");
        let frames = futures::stream::unfold((), |()| async {
            sleep(SECOND).await;
            Some((data("x"), ()))
        });
        let service = ServiceBuilder::new()
            .layer(timeouts.http_layer())
            .layer(breaker.layer().until_body_end())
            .service(answers(StreamBody::new(Box::pin(frames))));
        let mut body = service.oneshot(()).await.unwrap().into_body();
        let error = loop {
            if let Err(error) = body.frame().await.unwrap() {
                break error;
            }
        };
        let late = timed_out(&error);
        assert_eq!(
            (late.phase(), late.after()),
            (TimeoutPhase::Total, 10 * SECOND)
        );
        assert_eq!(start.elapsed(), 10 * SECOND);
        // The caller's own time says nothing of a sender whose head was good.
        let totals = breaker.snapshot().totals;
        assert_eq!((totals.successes, totals.failures), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_body_is_a_failure_of_the_breakers_around_it_and_below_it() {
        let (around, below) = (CircuitBreaker::new("around"), CircuitBreaker::new("below"));
        let slot = ResourceLock::new("slot");
        let (_send, body) = remote();
        let service = ServiceBuilder::new()
            .layer(around.layer().until_body_end())
            .layer(phases().http_layer())
            .layer(below.layer().until_body_end())
            .layer(slot.layer().until_body_end())
            .service(answers(body));
        let mut body = service.oneshot(()).await.unwrap().into_body();
        assert_eq!(slot.snapshot().in_use, 1);
        let error = body.frame().await.unwrap().unwrap_err();
        assert_eq!(timed_out(&error).phase(), TimeoutPhase::FirstFrame);
        assert_eq!(slot.snapshot().in_use, 0, "its permit is given back");
        for breaker in [&around, &below] {
            assert_eq!(breaker.snapshot().totals.failures, 1, "{}", breaker.name());
        }
    }

    #[test]
    fn what_http_makes_of_a_timeout_depends_on_its_phase() {
        let of = |timeouts: Timeouts| {
            let call = async move { timeouts.run(pending::<Result<u32, Down>>).await };
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_time().start_paused(true).build().unwrap();
            match runtime.block_on(call) {
                Err(Error::TimedOut(late)) => late,
                other => panic!("{other:?}"),
            }
        };
        let (slow, hurried) = (of(head(1)), of(total(1)));
        assert_eq!(ErrorKind::of(&slow), ErrorKind::TimedOut);
        assert_eq!(ErrorKind::of(&hurried), ErrorKind::Local);
        let boxed = io::Error::other(BodyError::TimedOut(slow.clone()));
        assert_eq!(ErrorKind::of(&boxed), ErrorKind::TimedOut);

        // As a response: a breaker around it blames the service for the first, and nobody for the second.
        let judged = |late: TimedOut| {
            let response: Response<String> = problem(late.into());
            let judge = HttpClassify::new();
            let verdict = Classify::<_, Down>::classify(&judge, Ok(&response));
            let refused = response.extensions().get::<Refused>().is_some();
            (response.status(), verdict.outcome(), refused)
        };
        let gateway = StatusCode::GATEWAY_TIMEOUT;
        assert_eq!(judged(slow), (gateway, Outcome::Failure, false));
        assert_eq!(judged(hurried), (gateway, Outcome::Ignored, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_refused_by_a_response_has_a_body_that_nothing_bounds() {
        let timeouts = Timeouts::builder("api").head(SECOND).build().unwrap();
        let service = timeouts
            .http_layer::<Down>()
            .reject_with(problem::<String>)
            .layer(service_fn(|()| pending::<Result<Response<String>, Down>>()));
        let response: Response<TimeoutBody<String>> = service.oneshot(()).await.unwrap();
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        let text = response.into_body().collect().await.unwrap().to_bytes();
        let text = std::str::from_utf8(&text).unwrap();
        assert!(text.contains(r#""code":"timed_out""#), "{text}");
    }

    // ---- A real server -----------------------------------------------------------------------------------

    const SHORT: Duration = Duration::from_millis(80);

    /// `/head` never answers, `/first` never sends a frame, `/idle` falls silent after one, `/good` ends.
    async fn server() -> String {
        let silent = |frames: usize| {
            let some = futures::stream::iter((0..frames).map(|_| Ok::<_, io::Error>("lorem")));
            let rest = futures::stream::pending();
            let frames = futures::StreamExt::chain(some, rest);
            ready(AxumBody::from_stream(frames))
        };
        let router = Router::new()
            .route("/head", get(pending::<&'static str>))
            .route("/first", get(move || silent(0)))
            .route("/idle", get(move || silent(1)))
            .route("/good", get(|| async { "lorem ipsum" }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    fn short(phase: TimeoutPhase) -> Timeouts {
        let builder = Timeouts::builder("api");
        let builder = match phase {
            TimeoutPhase::Head => builder.head(SHORT),
            TimeoutPhase::FirstFrame => builder.first_frame(SHORT),
            _ => builder.idle(SHORT),
        };
        builder.build().unwrap()
    }

    #[tokio::test]
    async fn a_real_server_that_is_silent_is_timed_out_at_the_phase_it_is_silent_in() {
        let server = server().await;
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        for (path, phase) in [
            ("head", TimeoutPhase::Head),
            ("first", TimeoutPhase::FirstFrame),
            ("idle", TimeoutPhase::Idle),
        ] {
            let breaker = CircuitBreaker::new(path);
            let timeouts = short(phase);
            let service = ServiceBuilder::new()
                .layer(breaker.http_layer().until_body_end())
                .layer(timeouts.http_layer())
                .service(client.clone());
            let ask = |path: &str| {
                let request = Request::get(format!("{server}/{path}"));
                let request = request.body(Full::default()).unwrap();
                let service = service.clone();
                async move {
                    match service.oneshot(request).await {
                        Err(Error::TimedOut(late)) => Err(late),
                        Err(other) => panic!("{other}"),
                        Ok(response) => match response.into_body().collect().await {
                            Err(BodyError::TimedOut(late)) => Err(late),
                            Err(other) => panic!("{other}"),
                            Ok(body) => Ok(body.to_bytes()),
                        },
                    }
                }
            };
            assert_eq!(ask("good").await.unwrap(), "lorem ipsum");
            let late = timeout(60 * SECOND, ask(path)).await.unwrap();
            assert_eq!(late.unwrap_err().phase(), phase);
            let totals = breaker.snapshot().totals;
            assert_eq!((totals.successes, totals.failures), (1, 1), "{path}");
            assert_eq!(timeouts.snapshot().timed_out.sum(), 1);
        }
    }

    #[cfg(feature = "reqwest")]
    #[tokio::test]
    async fn a_response_of_reqwest_stays_one_and_its_body_says_who_was_late() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let server = server().await;
        let timeouts = short(TimeoutPhase::Idle);
        let service = timeouts.http_layer().layer(reqwest::Client::new());
        let ask = |path: &str| {
            let url = format!("{server}/{path}").parse().unwrap();
            let request = reqwest::Request::new(reqwest::Method::GET, url);
            service.clone().oneshot(request)
        };
        let good: reqwest::Response = ask("good").await.unwrap();
        assert!(good.url().as_str().ends_with("/good"));
        assert_eq!(good.text().await.unwrap(), "lorem ipsum");
        let error = ask("idle").await.unwrap().bytes().await.unwrap_err();
        assert_eq!(ErrorKind::of(&error), ErrorKind::TimedOut);
        assert_eq!(timeouts.snapshot().timed_out.idle, 1);
    }

    #[cfg(feature = "tonic")]
    #[tokio::test(start_paused = true)]
    async fn as_a_status_of_grpc_a_timeout_is_deadline_exceeded_unless_it_never_left() {
        use tonic::{Code, Status};
        let error = head(1).run(pending::<Result<u32, Down>>).await.unwrap_err();
        assert_eq!(Status::from(error).code(), Code::DeadlineExceeded);
        let error = total(1)
            .run(pending::<Result<u32, Down>>)
            .await
            .unwrap_err();
        assert_eq!(Status::from(error).code(), Code::DeadlineExceeded);
        let timeouts = Timeouts::builder("api").ready(SECOND).build().unwrap();
        let unready = timeouts.layer().layer(Unready::default());
        let error = unready.oneshot(1).await.unwrap_err();
        assert_eq!(Status::from(error).code(), Code::Unavailable);
    }
}
