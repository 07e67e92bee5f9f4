//! What a retry above does with refusals: how often it tries again, when, and what that costs.
#![expect(clippy::disallowed_methods, reason = "of a clock that is paused")]

use tokio::time::Instant;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::fleet::Fleet;
use tower_bulwark::rate_limit::Quota;
use tower_bulwark::{CircuitBreaker, ContendedReason, RetryBudget};

use super::upstream::Upstream;
use super::{Failure, MS, Process, SECOND, Settings, quickly, two};
use crate::support::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_handed_on_at_once_and_costs_no_budget_unless_refusals_are_retried() {
    let settings = || Settings {
        retry: quickly()
            .budget(RetryBudget::builder().burst(3).build().unwrap())
            .build()
            .unwrap(),
        lock: |lock| lock.timeout(std::time::Duration::ZERO),
        ..Settings::default()
    };
    let Some((_server, [a, b])) = two(settings).await else {
        return;
    };
    let upstream = Upstream::start().await;
    let before = b.retry.snapshot();
    let held = a.lock.acquire("a holder").timeout(SECOND).await.unwrap();
    for _ in 0..5 {
        match b.post(upstream.url("/pay")).await.map(drop) {
            Err(Failure::Contended(it)) => assert_eq!(*it.reason(), ContendedReason::Busy),
            other => panic!("{other:?}"),
        }
    }
    drop(held);
    let seen = b.retry.snapshot();
    assert_eq!((seen.calls, seen.attempts, seen.retries), (5, 5, 0));
    assert_eq!(seen.gave_up, 5);
    assert_eq!(seen.budget_available, before.budget_available);
    assert_eq!(upstream.hits(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_that_was_refused_is_sent_once_when_there_is_a_permit_and_never_a_second_time() {
    let settings = || Settings {
        retry: quickly()
            .max_retries(1_000)
            .retry_rejections(true)
            .budget(RetryBudget::builder().burst(3).build().unwrap())
            .build()
            .unwrap(),
        lock: |lock| lock.timeout(std::time::Duration::ZERO),
        ..Settings::default()
    };
    let Some((_server, [a, b])) = two(settings).await else {
        return;
    };
    let upstream = Upstream::start().await;
    let held = a.lock.acquire("a holder").timeout(SECOND).await.unwrap();
    let budget = b.retry.snapshot().budget_available;
    let refused_before_it_passes = async {
        crate::support::until(
            "it has been refused more often than the budget pays for",
            || async { b.retry.snapshot().retries > 8 },
        )
        .await;
        assert_eq!(upstream.hits(), Vec::<String>::new());
        drop(held);
    };
    let (answer, ()) = futures::join!(b.post(upstream.url("/pay")), refused_before_it_passes);
    assert_eq!(answer.unwrap().status(), 200);
    assert_eq!(upstream.hits(), ["POST /pay"]);
    assert_eq!(b.retry.snapshot().budget_available, budget);

    // One that was sent, and failed, is not sent again.
    upstream.will_answer(503, None);
    let answer = b.post(upstream.url("/pay")).await.unwrap();
    assert_eq!(answer.status(), 503);
    assert_eq!(upstream.hits().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_exactly_until_the_limit_of_the_fleet_has_enough() {
    let fleet = Fleet::in_process();
    let limit = fleet
        .rate_limit("api")
        .quota("calls", Quota::per(1, 10 * SECOND).burst(1));
    let limit = limit.max_wait(SECOND).build().unwrap();
    let retry = quickly().retry_rejections(true).max_retries(1);
    let retry = retry.retry_after_jitter(0.0).build().unwrap();
    let breaker = CircuitBreaker::new("api");
    let service = ServiceBuilder::new()
        .layer(retry.layer())
        .layer(breaker.layer())
        .layer(limit.layer())
        .service(service_fn(
            |n: u32| async move { Ok::<_, std::io::Error>(n) },
        ));
    service.clone().oneshot(1).await.unwrap();
    let began = Instant::now();
    service.clone().oneshot(2).await.unwrap();
    let took = began.elapsed();
    // It may wait a second for its turn, and comes back when it has one: within a timer's tick.
    assert!(
        (10 * SECOND..10 * SECOND + 5 * MS).contains(&took),
        "{took:?}"
    );
    assert_eq!(retry.snapshot().retries, 1);
    let totals = breaker.snapshot().totals;
    assert_eq!((totals.successes, totals.ignored), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_of_refusals_rides_out_a_store_that_is_away_for_a_moment() {
    let Some(mut server) = Server::start(&[]).await else {
        return;
    };
    let settings = Settings {
        retry: quickly()
            .max_retries(1_000)
            .retry_rejections(true)
            .build()
            .unwrap(),
        ..Settings::default()
    };
    let process = Process::start(&server.url(), "a", settings).await;
    let upstream = Upstream::start().await;
    process.post(upstream.url("/pay")).await.unwrap();
    server.kill();
    let away = async {
        crate::support::until("it has been refused", || async {
            process.lock.snapshot().unavailable > 3
        })
        .await;
        server.restart().await;
    };
    let (answer, ()) = futures::join!(process.post(upstream.url("/pay")), away);
    assert_eq!(answer.unwrap().status(), 200);
    assert_eq!(upstream.hits().len(), 2);
    // What the lock refused was given back to the limit: the share of a process is a small one.
    let totals = process.limit.snapshot().totals;
    assert_eq!(totals.refused, 0, "{totals:?}");
}
