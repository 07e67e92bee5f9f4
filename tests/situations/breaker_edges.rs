use futures::future::join_all;
use std::future::ready;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::time::{advance, sleep};
use tokio_test::{assert_pending, task};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::circuit_breaker::{Recovery, Window};
use tower_bulwark::{Boxed, CircuitBreaker, CircuitState, ResourceLock};
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
type ApiError = std::convert::Infallible;
#[tokio::test(start_paused = true)]
async fn queue_time_is_not_slow() {
    let b = CircuitBreaker::builder("a")
        .slow_call_rate(0.5, SECOND)
        .minimum_calls(5)
        .build()
        .unwrap();
    let lock = ResourceLock::new("l");
    let s = ServiceBuilder::new()
        .layer(b.layer())
        .layer(lock.layer())
        .service(service_fn(|(): ()| async {
            sleep(300 * MS).await;
            Ok::<_, ApiError>(())
        }));
    join_all((0..10).map(|_| s.clone().oneshot(()))).await;
    assert_eq!(b.state(), CircuitState::Closed);
}
#[tokio::test(start_paused = true)]
async fn cancel_in_queue() {
    let b = CircuitBreaker::builder("a")
        .cancelled_is_failure_after(SECOND)
        .build()
        .unwrap();
    let lock = ResourceLock::new("l");
    let _held = lock.acquire("somebody").await.unwrap();
    let s = ServiceBuilder::new()
        .layer(b.layer())
        .layer(lock.layer())
        .service(service_fn(|(): ()| ready(Ok::<_, ApiError>(()))));
    for _ in 0..5 {
        let _ = tokio::time::timeout(SECOND, s.clone().oneshot(())).await;
    }
    assert_eq!(b.state(), CircuitState::Closed);
}
#[tokio::test(start_paused = true)]
async fn ring() {
    let b = CircuitBreaker::builder("a")
        .failure_rate(0.5, Window::calls(100))
        .slow_call_rate(0.9, SECOND)
        .build()
        .unwrap();
    let ok = |n| {
        for _ in 0..n {
            b.try_acquire().unwrap().success()
        }
    };
    ok(40);
    let hung: Vec<_> = (0..60).map(|_| b.try_acquire().unwrap()).collect();
    advance(2 * SECOND).await;
    ok(100);
    advance(28 * SECOND).await;
    for p in hung {
        p.failure()
    }
    assert_eq!(b.state(), CircuitState::Open);
}
#[tokio::test(start_paused = true)]
async fn slices_idle() {
    let b = CircuitBreaker::builder("a")
        .failure_rate(0.5, Window::time(10 * MS))
        .minimum_calls(5)
        .build()
        .unwrap();
    for _ in 0..2 {
        b.try_acquire().unwrap().success()
    }
    advance(10_800_006 * MS).await;
    for _ in 0..20 {
        if let Ok(p) = b.try_acquire() {
            p.failure()
        }
    }
    assert_eq!(b.state(), CircuitState::Open);
}
#[tokio::test(start_paused = true)]
async fn woken_on_open() {
    let b = CircuitBreaker::new("a");
    let (mock, mut h) = tower_test::mock::pair::<&str, &str>();
    let mut s = task::spawn(b.layer::<Boxed>().layer(mock));
    h.allow(0);
    assert_pending!(s.enter(|cx, mut s| s.poll_ready(cx)));
    b.force_open();
    assert!(s.is_woken());
}
#[tokio::test(start_paused = true)]
async fn stale_refusal() {
    let b = CircuitBreaker::new("a");
    let mut s = b
        .layer()
        .layer(service_fn(|(): ()| ready(Ok::<_, ApiError>(()))));
    b.force_open();
    s.ready().await.unwrap();
    b.force_close();
    advance(3600 * SECOND).await;
    s.ready().await.unwrap().call(()).await.unwrap();
}
#[tokio::test(start_paused = true)]
async fn shadow_since() {
    let b = CircuitBreaker::new("a");
    b.metrics_only();
    advance(60 * SECOND).await;
    for _ in 0..5 {
        b.try_acquire().unwrap().failure()
    }
    assert_eq!(b.snapshot().since_state_change, 60 * SECOND);
}
#[tokio::test(start_paused = true)]
async fn seed_repeatable() {
    let open = |looks| {
        let b = CircuitBreaker::builder("a")
            .consecutive_failures(1)
            .recovery(Recovery::fixed(60 * SECOND).jitter(0.5))
            .seed(1)
            .build()
            .unwrap();
        for _ in 0..looks {
            let _ = b.state();
        }
        b.try_acquire().unwrap().failure();
        b.snapshot().remaining_open
    };
    assert_eq!(open(0), open(1));
}
#[tokio::test(start_paused = true)]
async fn panic_permit() {
    let b = CircuitBreaker::new("a");
    let _ = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let _p = b.try_acquire().unwrap();
        panic!()
    }));
    assert_eq!(b.snapshot().totals.failures, 1);
}
