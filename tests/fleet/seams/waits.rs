//! Waits end with deadlines, leave nothing behind, and are no time of the service.
#![expect(clippy::disallowed_methods, reason = "of a clock that is paused")]

use std::future::pending;

use tokio::time::sleep;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::fleet::Fleet;
use tower_bulwark::http::problem;
use tower_bulwark::rate_limit::{Quota, RateLimitReason};
use tower_bulwark::{
    CircuitBreaker, ContendedReason, Error, Rejection, RetryPolicy, Timeouts, deadline,
};

use super::upstream::Upstream;
use super::{Failure, HOUR, MS, SECOND, Settings, two};
use crate::support::{now, since, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_the_wait_for_a_permit_and_what_waited_leaves_the_queue_of_the_store() {
    let Some((_server, [a, b])) = two(Settings::default).await else {
        return;
    };
    let upstream = Upstream::start().await;
    let held = a.lock.acquire("a holder").await.unwrap();
    let waits = async || a.lock.fetch().await.unwrap().waiters.len();

    let began = now();
    let until_then = deadline::Deadline::after(500 * MS);
    let call = deadline::scope(until_then, b.post(upstream.url("/pay")));
    let in_queue = until("it waits", || async { waits().await == 1 });
    let (answer, _) = futures::join!(call, in_queue);
    match answer.map(drop) {
        Err(Failure::Contended(it)) => {
            assert_eq!(*it.reason(), ContendedReason::DeadlineExceeded);
            let answer = problem::<String>(Rejection::from(it));
            assert_eq!(answer.status(), 504);
        }
        other => panic!("{other:?}"),
    }
    assert!(since(began) < 10 * SECOND, "the lock itself waits longer");
    until("it has left the queue", || async { waits().await == 0 }).await;

    // A client that hangs up.
    let mut call = tokio::spawn({
        let (stack, uri) = (b.stack(), upstream.url("/pay"));
        let request = http::Request::post(uri).body(http_body_util::Full::default());
        stack.oneshot(request.unwrap())
    });
    until("it waits", || async { waits().await == 1 }).await;
    call.abort();
    assert!((&mut call).await.is_err());
    until("it has left the queue", || async { waits().await == 0 }).await;

    // A total timeout above.
    let total = Timeouts::builder("all").total(500 * MS).build().unwrap();
    let service = ServiceBuilder::new()
        .layer(total.layer())
        .service(b.stack());
    let request = http::Request::post(upstream.url("/pay")).body(http_body_util::Full::default());
    let began = now();
    let refused = service
        .oneshot(request.unwrap())
        .await
        .map(drop)
        .unwrap_err();
    assert!(since(began) < 10 * SECOND, "{refused:?}");
    until("it has left the queue", || async { waits().await == 0 }).await;

    drop(held);
    b.post(upstream.url("/pay")).await.unwrap();
    assert_eq!(upstream.hits(), ["POST /pay"]);
    let totals = b.totals();
    assert_eq!((totals.failures, totals.slow), (0, 0), "{totals:?}");
    let stats = b.lock.snapshot().stats;
    assert_eq!(stats.attempts, 4);
    assert_eq!(
        stats.attempts,
        stats.acquisitions + stats.timeouts + stats.rejected + stats.abandoned,
        "{stats:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_deadline_and_a_total_timeout_end_the_wait_for_a_turn_and_the_turn_goes_to_the_next() {
    let fleet = Fleet::in_process();
    let limit = fleet
        .rate_limit("api")
        .quota("calls", Quota::per(1, 10 * SECOND).burst(1));
    let limit = limit.max_wait(HOUR).build().unwrap();
    let total = Timeouts::builder("all").total(5 * SECOND).build().unwrap();
    let client = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n) });
    let limited = ServiceBuilder::new().layer(limit.layer()).service(client);
    let within = ServiceBuilder::new()
        .layer(total.layer())
        .service(limited.clone());

    limited.clone().oneshot(0).await.unwrap();
    // It is known at once that its turn comes too late.
    let began = tokio::time::Instant::now();
    let scoped = deadline::Deadline::after(5 * SECOND);
    match deadline::scope(scoped, limited.clone().oneshot(1)).await {
        Err(Error::RateLimited(it)) => assert_eq!(it.reason(), RateLimitReason::DeadlineExceeded),
        other => panic!("{other:?}"),
    }
    match within.oneshot(2).await {
        Err(Error::RateLimited(it)) => assert_eq!(it.reason(), RateLimitReason::DeadlineExceeded),
        other => panic!("{other:?}"),
    }
    assert!(began.elapsed() < MS);
    // One that hangs up while it waits: the next has its turn, and no later one.
    let hung_up = tokio::time::timeout(SECOND, limited.clone().oneshot(3)).await;
    assert!(hung_up.is_err());
    // The store is told in the background.
    sleep(MS).await;
    limited.oneshot(4).await.unwrap();
    let took = began.elapsed();
    assert!(took <= 10 * SECOND + 2 * MS, "{took:?}");
    let totals = limit.snapshot().totals;
    let ended = totals.passed + totals.waited + totals.refused + totals.abandoned;
    assert_eq!((ended, totals.abandoned), (5, 1), "{totals:?}");
}

/// Waits ten seconds each for a turn and for a permit, between the breakers, and takes `at_service` at the service.
async fn slow_calls(at_service: std::time::Duration) -> [u64; 3] {
    let fleet = Fleet::in_process();
    let slow = |name: &str| {
        let breaker = CircuitBreaker::builder(name).slow_call_rate(0.9, SECOND);
        breaker.minimum_calls(100).build().unwrap()
    };
    let (above, between, below) = (slow("above"), slow("between"), slow("below"));
    let limit = fleet
        .rate_limit("api")
        .quota("calls", Quota::per(1, 10 * SECOND).burst(1));
    let limit = limit.build().unwrap();
    let lock = fleet.lock("gpu").build().unwrap();
    let retry = RetryPolicy::builder()
        .attempt_timeout(6 * SECOND)
        .build()
        .unwrap();
    let service = ServiceBuilder::new()
        .layer(retry.layer())
        .layer(above.layer())
        .layer(limit.layer())
        .layer(between.layer())
        .layer(lock.layer())
        .layer(below.layer())
        .service(service_fn(move |n: u32| async move {
            sleep(at_service).await;
            Ok::<_, std::io::Error>(n)
        }));
    drop(limit.acquire(1).await.unwrap());
    let held = lock.acquire("a holder").await.unwrap();
    let releases = async {
        sleep(20 * SECOND).await;
        drop(held);
    };
    let (answer, ()) = tokio::join!(service.oneshot(1), releases);
    answer.unwrap();
    [&above, &between, &below].map(|it| {
        let totals = it.snapshot().totals;
        assert_eq!(totals.successes, 1, "{totals:?}");
        totals.slow
    })
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_turn_or_a_permit_of_the_fleet_is_slow_to_no_breaker_wherever_it_stands() {
    assert_eq!(slow_calls(500 * MS).await, [0, 0, 0]);
    assert_eq!(slow_calls(2 * SECOND).await, [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_up_while_it_waits_is_no_failure_to_a_breaker_that_counts_hangups() {
    let fleet = Fleet::in_process();
    let strict = CircuitBreaker::builder("api").cancelled_is_failure_after(SECOND);
    let strict = strict.consecutive_failures(1).build().unwrap();
    let lock = fleet.lock("gpu").build().unwrap();
    let service = ServiceBuilder::new()
        .layer(strict.layer())
        .layer(lock.layer())
        .service(service_fn(|_: u32| {
            pending::<Result<u32, std::io::Error>>()
        }));
    let held = lock.acquire("a holder").await.unwrap();
    let hung_up = tokio::time::timeout(10 * SECOND, service.clone().oneshot(1)).await;
    assert!(hung_up.is_err());
    assert_eq!(strict.snapshot().totals.failures, 0);
    drop(held);
    let hung_up = tokio::time::timeout(10 * SECOND, service.oneshot(1)).await;
    assert!(hung_up.is_err());
    assert_eq!(strict.snapshot().totals.failures, 1);
}
