//! Calls that go away before they were made give back what they had, whoever refused or held them up.

use std::convert::Infallible;
use std::future::{Ready, pending, ready};
use std::task::{Context, Poll};

use tokio::time::timeout;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::fleet::Fleet;
use tower_bulwark::rate_limit::{Quota, RateLimit};
use tower_bulwark::{Error, ResourceLock, Timeouts, deadline};

use super::{HOUR, MS};

#[tokio::test(start_paused = true)]
async fn what_a_service_says_is_left_is_believed_after_more_was_given_back() {
    let fleet = Fleet::in_process();
    let hourly = Quota::per(1, HOUR).burst(50);
    let limit = fleet.rate_limit("api").quota("calls", hourly);
    let limit = limit.build().unwrap();
    limit.acquire(50).await.unwrap().cancel();
    tokio::time::sleep(MS).await;
    assert_eq!(limit.snapshot().left, [50]);
    limit.left("calls", 10);
    tokio::time::sleep(MS).await;
    assert!(limit.try_acquire(11).await.is_err());
    limit.try_acquire(10).await.unwrap();
}

/// A service that has no room for anybody.
#[derive(Clone)]
struct NeverReady;

impl Service<u32> for NeverReady {
    type Response = u32;
    type Error = Infallible;
    type Future = Ready<Result<u32, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Pending
    }

    fn call(&mut self, n: u32) -> Self::Future {
        ready(Ok(n))
    }
}

fn hourly() -> Quota {
    Quota::per(1, HOUR).burst(1)
}

#[tokio::test(start_paused = true)]
async fn what_is_given_back_is_there_at_once_for_who_was_refused_before() {
    let fleet = Fleet::in_process();
    let limit = fleet.rate_limit("api").quota("calls", hourly());
    let limit = limit.build().unwrap();
    let taken = limit.try_acquire(1).await.unwrap();
    let refused = limit.try_acquire(1).await.unwrap_err();
    assert_eq!(refused.retry_after(), Some(HOUR));
    taken.cancel();
    tokio::task::yield_now().await;
    limit.try_acquire(1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_another_process_gives_back_is_there_soon_for_who_was_refused_before() {
    let fleet = Fleet::in_process();
    let process = || {
        let limit = fleet.rate_limit("api").quota("calls", hourly());
        limit.build().unwrap()
    };
    let (a, b) = (process(), process());
    let taken = a.try_acquire(1).await.unwrap();
    for _ in 0..50 {
        let refused = b.try_acquire(1).await.unwrap_err();
        assert_eq!(refused.retry_after(), Some(HOUR));
    }
    // Each of them need not ask.
    assert_eq!(b.snapshot().totals.asked, 1);
    taken.cancel();
    tokio::time::sleep(150 * MS).await;
    b.try_acquire(1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_in_the_queue_of_the_lock_below_gives_back_its_tokens() {
    let fleet = Fleet::in_process();
    let limit = fleet.rate_limit("api").quota("calls", hourly());
    let limit = limit.build().unwrap();
    let lock = fleet.lock("gpu").build().unwrap();
    let service = ServiceBuilder::new()
        .layer(limit.layer())
        .layer(lock.layer())
        .service(service_fn(|n: u32| async move { Ok::<_, Infallible>(n) }));

    let held = lock.acquire("somebody").await.unwrap();
    let dropped = timeout(50 * MS, service.clone().oneshot(1)).await;
    assert!(dropped.is_err());
    drop(held);
    tokio::time::sleep(MS).await;
    assert_eq!(service.oneshot(2).await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_in_the_queue_of_a_local_lock_gives_back_its_tokens_of_a_local_limit()
 {
    let limit = RateLimit::builder("api").quota("calls", hourly());
    let limit = limit.build().unwrap();
    let lock = ResourceLock::new("gpu");
    let service = ServiceBuilder::new()
        .layer(limit.layer())
        .layer(lock.layer())
        .service(service_fn(|n: u32| async move { Ok::<_, Infallible>(n) }));

    let held = lock.acquire("somebody").await.unwrap();
    let dropped = timeout(50 * MS, service.clone().oneshot(1)).await;
    assert!(dropped.is_err());
    drop(held);
    assert_eq!(service.oneshot(2).await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_at_the_service_has_used_its_tokens() {
    let fleet = Fleet::in_process();
    let limit = fleet.rate_limit("api").quota("calls", hourly());
    let limit = limit.build().unwrap();
    let hangs = service_fn(|_: u32| pending::<Result<u32, Infallible>>());
    let lock = fleet.lock("gpu").build().unwrap();
    let service = ServiceBuilder::new()
        .layer(limit.layer())
        .layer(lock.layer())
        .service(hangs);
    let dropped = timeout(50 * MS, service.oneshot(1)).await;
    assert!(dropped.is_err());
    tokio::time::sleep(MS).await;
    assert!(limit.try_acquire(1).await.is_err());
    // And the permit is free.
    drop(lock.try_acquire("the next").await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_cut_at_the_service_by_the_callers_own_deadline_has_used_its_tokens() {
    let fleet = Fleet::in_process();
    let shared = fleet.rate_limit("api").quota("calls", hourly());
    let shared = shared.build().unwrap();
    let local = RateLimit::builder("api").quota("calls", hourly());
    let local = local.build().unwrap();
    let timeouts = Timeouts::builder("api").end_at_deadline(true);
    let timeouts = timeouts.build().unwrap();
    let service = ServiceBuilder::new()
        .layer(shared.layer())
        .layer(local.layer())
        .layer(timeouts.layer())
        .service(service_fn(|_: u32| pending::<Result<u32, Infallible>>()));
    let ends = deadline::Deadline::after(50 * MS);
    let late = deadline::scope(ends, service.oneshot(1)).await;
    assert!(matches!(late, Err(Error::TimedOut(_))), "{late:?}");
    tokio::time::sleep(MS).await;
    assert!(local.try_acquire(1).is_err());
    assert!(shared.try_acquire(1).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_before_the_service_is_ready_gives_back_its_tokens() {
    let fleet = Fleet::in_process();
    // Nobody has asked yet, so nothing is leased: the call waits for the answer, and its clone for the service.
    let limit = fleet.rate_limit("api").quota("calls", hourly());
    let limit = limit.build().unwrap();
    let mut service = tower::Layer::layer(&limit.layer::<Infallible>(), NeverReady);
    let dropped = timeout(50 * MS, service.call(1)).await;
    assert!(dropped.is_err());
    tokio::time::sleep(MS).await;
    limit.try_acquire(1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_is_dropped_in_the_queue_of_a_lock_gives_back_its_tokens_of_a_shared_limit()
 {
    let fleet = Fleet::in_process();
    let limit = fleet.rate_limit("api").quota("calls", hourly());
    let limit = limit.build().unwrap();
    let lock = ResourceLock::new("gpu");
    let _held = lock.acquire("somebody").await.unwrap();
    let waits = limit.run(|| lock.run("another", async || Ok::<_, Infallible>(())));
    assert!(timeout(50 * MS, waits).await.is_err());
    tokio::time::sleep(MS).await;
    // It has been at the service.
    let hangs = limit.run(pending::<Result<(), Infallible>>);
    assert!(timeout(50 * MS, hangs).await.is_err());
    tokio::time::sleep(MS).await;
    assert!(limit.try_acquire(1).await.is_err());
}
