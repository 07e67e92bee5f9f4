//! A registry with a handle of each pattern, and traffic that causes every kind of event.

use std::convert::Infallible;
use std::future::{pending, ready};
use std::time::Duration;

use http::Response;
use http_body_util::{BodyExt, StreamBody};
use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_bulwark::contention::{Priority, ResourceLock};
use tower_bulwark::deadline::{self, Deadline};
use tower_bulwark::fleet::breaker::BreakerShare;
use tower_bulwark::fleet::{Fleet, FleetLock, FleetRateLimit, SharedBreaker};
use tower_bulwark::rate_limit::{Quota, RateLimit};
use tower_bulwark::{
    Backoff, Chaos, CircuitBreaker, Hedge, Jitter, Registry, RetryBudget, RetryPolicy, Throttle,
    Timeouts,
};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(crate) struct Down;

impl std::fmt::Display for Down {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("down")
    }
}

impl std::error::Error for Down {}

/// One of each pattern, all by the name `api`.
pub(crate) struct Handles {
    pub(crate) retry: RetryPolicy,
    pub(crate) breaker: CircuitBreaker,
    pub(crate) lock: ResourceLock,
    pub(crate) limit: RateLimit,
    pub(crate) timeouts: Timeouts,
    pub(crate) hedge: Hedge,
    pub(crate) throttle: Throttle,
    pub(crate) chaos: Chaos,
    pub(crate) fallback: tower_bulwark::Fallback,
}

/// A fleet and one of each of its parts, all by the name `api`.
pub(crate) struct Shared {
    pub(crate) lock: FleetLock,
    pub(crate) limit: FleetRateLimit,
    _breaker: BreakerShare,
}

pub(crate) fn shared(registry: &Registry, breaker: &CircuitBreaker) -> Shared {
    let fleet = Fleet::in_process();
    registry.add_fleet(&fleet);
    Shared {
        lock: fleet.lock("api").build().unwrap(),
        limit: fleet
            .rate_limit("api")
            .quota("requests", Quota::per_second(1))
            .build()
            .unwrap(),
        _breaker: fleet.share(breaker, SharedBreaker::default()).unwrap(),
    }
}

pub(crate) fn handles(registry: &Registry) -> Handles {
    Handles {
        retry: RetryPolicy::builder()
            .name("api")
            .max_retries(2)
            .backoff(Backoff::fixed(SECOND))
            .jitter(Jitter::None)
            .build_in(registry)
            .unwrap(),
        breaker: CircuitBreaker::builder("api")
            .consecutive_failures(2)
            .recovery_timeout(SECOND)
            .probe_timeout(SECOND)
            .build_in(registry)
            .unwrap(),
        lock: ResourceLock::builder("api")
            .timeout(30 * SECOND)
            .contention_threshold(SECOND)
            .hold_threshold(10 * SECOND)
            .deadlock_timeout(5 * SECOND)
            .max_waiting(2)
            .build_in(registry)
            .unwrap(),
        limit: RateLimit::builder("api")
            .quota("requests", Quota::per_second(1))
            .max_wait(2 * SECOND)
            .build_in(registry)
            .unwrap(),
        timeouts: Timeouts::builder("api")
            .ready(SECOND)
            .head(3 * SECOND)
            .first_frame(SECOND)
            .idle(SECOND)
            .total(4 * SECOND)
            .end_at_deadline(true)
            .build_in(registry)
            .unwrap(),
        hedge: Hedge::builder("api")
            .after(SECOND)
            .budget(
                &RetryBudget::builder()
                    .ratio(0.1)
                    .floor_per_second(0.0)
                    .burst(1)
                    .build()
                    .unwrap(),
            )
            .build_in(registry)
            .unwrap(),
        throttle: Throttle::builder("api").seed(1).build_in(registry).unwrap(),
        chaos: Chaos::builder("api").error(1.0).build_in(registry).unwrap(),
        fallback: registry.fallback("api"),
    }
}

/// Causes every kind of event at least once.
pub(crate) async fn everything(handles: &Handles) {
    retries(&handles.retry).await;
    circuit(&handles.breaker).await;
    lock(&handles.lock).await;
    deadlock(&handles.lock).await;
    rate_limit(&handles.limit).await;
    timeouts(&handles.timeouts).await;
    hedges(&handles.hedge).await;
    fallback(&handles.fallback).await;
    throttle(&handles.throttle);
    chaos(&handles.chaos).await;
}

async fn retries(retry: &RetryPolicy) {
    let mut left = 1;
    let result = retry.run(|| {
        left -= 1;
        ready(if left < 0 { Ok(()) } else { Err(Down) })
    });
    result.await.unwrap();
    retry.run(|| ready(Err::<(), _>(Down))).await.unwrap_err();
    retry.run(|| ready(Ok::<_, Down>(()))).await.unwrap();
}

async fn circuit(breaker: &CircuitBreaker) {
    let fail = || ready(Err::<(), _>(Down));
    for _ in 0..3 {
        breaker.call(fail).await.unwrap_err();
    }
    advance(2 * SECOND).await;
    let lost = breaker.try_acquire().unwrap();
    advance(2 * SECOND).await;
    let _ = breaker.snapshot();
    let _ = breaker.try_acquire();
    drop(lost);
    breaker.reset();
    breaker.metrics_only();
    for _ in 0..3 {
        breaker.call(fail).await.unwrap_err();
    }
    breaker.force_open();
    breaker.call(fail).await.unwrap_err();
    breaker.force_close();
    breaker.call(|| ready(Ok::<_, Down>(()))).await.unwrap();
}

async fn lock(lock: &ResourceLock) {
    let held = lock.acquire("a").await.unwrap();
    lock.try_acquire("b").map(drop).unwrap_err();
    let mut first = task::spawn(lock.acquire("first").timeout(60 * SECOND));
    let mut second = task::spawn(lock.acquire("second").priority(Priority::Low));
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    let mut third = task::spawn(lock.acquire("third").priority(Priority::Low));
    assert_ready_err!(third.poll());
    // It takes the place of the second.
    let mut fourth = task::spawn(lock.acquire("fourth").priority(Priority::High));
    assert_pending!(fourth.poll());
    assert_ready_err!(second.poll());
    drop(fourth);
    advance(12 * SECOND).await;
    assert_pending!(first.poll());
    let _ = lock.snapshot();
    drop(held);
    advance(2 * SECOND).await;
    let _ = lock.snapshot();
    drop(assert_ready_ok!(first.poll()));
    let held = lock.acquire("a").await.unwrap();
    let late = lock.acquire("late").timeout(2 * SECOND).await;
    drop(late.map(drop).unwrap_err());
    drop(held);
    lock.set_max_concurrent(2).unwrap();
}

async fn deadlock(lock: &ResourceLock) {
    lock.set_max_concurrent(1).unwrap();
    let held = lock.acquire("tx").await.unwrap();
    lock.acquire("tx").await.map(drop).unwrap_err();
    drop(held);
    lock.close();
}

async fn rate_limit(limit: &RateLimit) {
    drop(limit.acquire(1).await.unwrap());
    drop(limit.acquire(1).await.unwrap());
    let mut gone = task::spawn(limit.acquire(1));
    assert_pending!(gone.poll());
    drop(gone);
    limit.try_acquire(2).map(drop).unwrap_err();
    limit.pause(SECOND);
}

/// Ready only when it is told so.
#[derive(Clone)]
struct NeverReady;

impl Service<()> for NeverReady {
    type Response = ();
    type Error = Down;
    type Future = std::future::Ready<Result<(), Down>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Down>> {
        std::task::Poll::Pending
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(()))
    }
}

async fn timeouts(timeouts: &Timeouts) {
    timeouts
        .layer()
        .layer(NeverReady)
        .oneshot(())
        .await
        .unwrap_err();
    let hangs = || pending::<Result<(), Down>>();
    timeouts.run(hangs).await.unwrap_err();
    // Half of it is no time at the service.
    let lock = ResourceLock::new("apart");
    let _held = lock.acquire("a").await.unwrap();
    let waits = || async {
        lock.acquire("b")
            .timeout(2 * SECOND)
            .await
            .map(drop)
            .unwrap_err();
        hangs().await
    };
    timeouts.run(waits).await.unwrap_err();
    let hurried = timeouts.run(hangs);
    deadline::scope(Deadline::after(SECOND), hurried)
        .await
        .unwrap_err();
    timeouts.run(|| ready(Ok::<_, Down>(()))).await.unwrap();

    for frames in [0, 1] {
        let (send, frames_of) = futures::channel::mpsc::unbounded();
        let mut body = Some(StreamBody::new(frames_of));
        let service =
            service_fn(move |()| ready(Ok::<_, Down>(Response::new(body.take().unwrap()))));
        let service = timeouts.http_layer().layer(service);
        let mut body = service.oneshot(()).await.unwrap().into_body();
        for _ in 0..frames {
            let frame = http_body::Frame::data(bytes::Bytes::from_static(b"a"));
            send.unbounded_send(Ok::<_, Infallible>(frame)).unwrap();
            body.frame().await.unwrap().unwrap();
        }
        body.frame().await.unwrap().unwrap_err();
    }
}

async fn hedges(hedge: &Hedge) {
    let slow_first = |attempt| async move {
        if attempt == 1 {
            pending::<()>().await;
        }
        Ok::<_, Down>(())
    };
    hedge.run(slow_first).await.unwrap();
    // The budget has paid for one.
    let slow = |_| async {
        tokio::time::sleep(2 * SECOND).await;
        Ok::<_, Down>(())
    };
    hedge.run(slow).await.unwrap();
}

async fn fallback(fallback: &tower_bulwark::Fallback) {
    let down = || service_fn(|(): ()| ready(Err::<(), _>(Down)));
    let service = fallback.layer().to("other", down()).layer(down());
    service.oneshot(()).await.unwrap_err();
    let up = service_fn(|(): ()| ready(Ok::<_, Down>(())));
    fallback
        .layer()
        .to("other", up)
        .layer(down())
        .oneshot(())
        .await
        .unwrap();
}

fn throttle(throttle: &Throttle) {
    for _ in 0..100 {
        let permit = throttle.try_acquire();
        permit.into_iter().for_each(|it| it.overload());
    }
    throttle.reset();
}

async fn chaos(chaos: &Chaos) {
    chaos.arm();
    let faulty = chaos.run(|| Err(Down), || ready(Ok::<(), _>(()))).await;
    faulty.unwrap_err();
    chaos.disarm();
}
