//! The layers together: order, refusals, deadlines, foreign layers between them.

#![expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::future::join_all;
use tower::util::{BoxCloneService, BoxCloneSyncService, option_layer};
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::{
    Backoff, Chaos, CircuitBreaker, CircuitState, ContendedReason, Error, Jitter, Rejection,
    ResourceLock, RetryBudget, RetryPolicy, StopReason,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq)]
struct Down;

impl std::fmt::Display for Down {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("down")
    }
}

impl std::error::Error for Down {}

fn fast_retry(retries: u32) -> RetryPolicy {
    RetryPolicy::builder()
        .max_retries(retries)
        .backoff(Backoff::fixed(10 * MS))
        .jitter(Jitter::None)
        .build()
        .unwrap()
}

/// A service that counts its calls and takes `time` for each.
fn healthy(
    calls: Arc<AtomicU32>,
    time: Duration,
) -> impl Service<u32, Response = u32, Error = Down, Future: Send> + Clone + Send + Sync {
    service_fn(move |req: u32| {
        calls.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::time::sleep(time).await;
            Ok::<_, Down>(req)
        }
    })
}

fn failing(
    calls: Arc<AtomicU32>,
) -> impl Service<u32, Response = u32, Error = Down, Future: Send> + Clone + Send + Sync {
    service_fn(move |_: u32| {
        calls.fetch_add(1, Ordering::Relaxed);
        async { Err::<u32, _>(Down) }
    })
}

/// The stack of the predecessor's README, where ten callers of a healthy service behind a lock of one
/// opened the breaker.
#[tokio::test(start_paused = true)]
async fn a_busy_lock_never_opens_a_healthy_breaker() {
    let calls = Arc::new(AtomicU32::new(0));
    let breaker = CircuitBreaker::new("openai-api");
    let lock = ResourceLock::builder("connection")
        .timeout(SECOND)
        .build()
        .unwrap();
    let service = ServiceBuilder::new()
        .layer(fast_retry(3).layer())
        .layer(breaker.layer())
        .layer(lock.layer())
        .service(healthy(Arc::clone(&calls), 10 * SECOND));

    let results = join_all((0..10).map(|i| service.clone().oneshot(i))).await;

    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    assert_eq!(
        calls.load(Ordering::Relaxed),
        1,
        "only the holder reached the service"
    );
    for refused in results.into_iter().filter_map(Result::err) {
        let Error::Contended(busy) = refused else {
            panic!("not a refusal: {refused:?}");
        };
        assert_eq!(busy.reason(), &ContendedReason::TimedOut);
    }
    assert_eq!(breaker.state(), CircuitState::Closed);
    let snapshot = breaker.snapshot();
    assert_eq!((snapshot.totals.failures, snapshot.totals.ignored), (0, 9));
}

/// The same with a timeout of the retry around it: the attempt is given up while it waits for the lock.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_timed_out_waiting_for_a_lock_is_no_failure_of_the_service() {
    let calls = Arc::new(AtomicU32::new(0));
    let breaker = CircuitBreaker::new("api");
    let lock = ResourceLock::builder("connection")
        .timeout(30 * SECOND)
        .build()
        .unwrap();
    for retry in [
        RetryPolicy::builder()
            .max_retries(2)
            .attempt_timeout(SECOND),
        RetryPolicy::builder()
            .max_retries(2)
            .total_timeout(2 * SECOND),
    ] {
        let _held = lock.acquire("somebody").await.unwrap();
        let service = ServiceBuilder::new()
            .layer(retry.build().unwrap().layer())
            .layer(breaker.layer())
            .layer(lock.layer())
            .service(healthy(Arc::clone(&calls), MS));
        for result in join_all((0..10).map(|i| service.clone().oneshot(i))).await {
            result.unwrap_err();
        }
    }
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    assert_eq!(breaker.snapshot().totals.failures, 0);
    assert_eq!(breaker.state(), CircuitState::Closed);
}

/// The lock's timeout is for waiting: the service may work for longer, and a retry may sleep.
#[tokio::test(start_paused = true)]
async fn a_short_lock_timeout_kills_neither_work_nor_retries() {
    let calls = Arc::new(AtomicU32::new(0));
    let lock = ResourceLock::builder("api")
        .timeout(SECOND)
        .build()
        .unwrap();
    let third_time_lucky = service_fn(|(): ()| {
        let n = calls.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::time::sleep(5 * SECOND).await;
            if n < 2 { Err(Down) } else { Ok("recovered") }
        }
    });
    let service = ServiceBuilder::new()
        .layer(RetryPolicy::new().layer())
        .layer(CircuitBreaker::new("api").layer())
        .layer(lock.layer())
        .service(third_time_lucky);
    assert_eq!(service.oneshot(()).await.unwrap(), "recovered");
    assert_eq!(calls.load(Ordering::Relaxed), 3);
    assert_eq!(lock.snapshot().in_use, 0);
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_is_not_retried_and_costs_no_budget() {
    let calls = Arc::new(AtomicU32::new(0));
    let budget = RetryBudget::builder().ratio(1.0).burst(3).build().unwrap();
    let retry = RetryPolicy::builder()
        .max_retries(3)
        .backoff(Backoff::fixed(10 * MS))
        .budget(budget.clone())
        .build()
        .unwrap();
    let breaker = CircuitBreaker::new("api");
    breaker.force_open();
    let service = ServiceBuilder::new()
        .layer(retry.layer())
        .layer(breaker.layer())
        .service(failing(Arc::clone(&calls)));
    let before = budget.available();
    let start = tokio::time::Instant::now();
    for i in 0..20 {
        let refused = service.clone().oneshot(i).await.unwrap_err();
        assert!(matches!(refused, Error::CircuitOpen(_)), "{refused}");
    }
    assert_eq!(start.elapsed(), Duration::ZERO, "nobody backed off");
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    assert_eq!(
        breaker.snapshot().totals.rejected,
        20,
        "one refusal for each request"
    );
    assert!(budget.available() >= before);
}

#[tokio::test(start_paused = true)]
async fn a_retry_told_to_wait_for_the_breaker_comes_back_when_it_said() {
    let calls = Arc::new(AtomicU32::new(0));
    let retry = RetryPolicy::builder()
        .max_retries(1)
        .backoff(Backoff::fixed(MS))
        .jitter(Jitter::None)
        .retry_rejections(true)
        .build()
        .unwrap();
    let breaker = CircuitBreaker::new("api");
    breaker.open_for(20 * SECOND);
    let service = ServiceBuilder::new()
        .layer(retry.layer())
        .layer(breaker.layer())
        .service(healthy(Arc::clone(&calls), Duration::ZERO));
    let start = tokio::time::Instant::now();
    assert_eq!(service.oneshot(7).await.unwrap(), 7);
    let waited = start.elapsed();
    assert!((20 * SECOND..=22 * SECOND).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_hangs_opens_the_breaker_below_an_attempt_timeout() {
    let breaker = CircuitBreaker::new("api");
    let retry = RetryPolicy::builder()
        .max_retries(0)
        .attempt_timeout(SECOND)
        .build()
        .unwrap();
    let drill = Chaos::builder("drill").hang(1.0).build().unwrap();
    drill.arm();
    let service = ServiceBuilder::new()
        .layer(retry.layer())
        .layer(breaker.layer())
        .layer(drill.layer(|| Err(Down)))
        .service(healthy(Arc::default(), MS));
    for i in 0..5 {
        let error = service.clone().oneshot(i).await.unwrap_err();
        assert!(matches!(error, Error::Exhausted(_)), "{error}");
    }
    assert_eq!(drill.snapshot().injected.hang, 5);
    assert_eq!(breaker.state(), CircuitState::Open);
    assert_eq!(
        breaker.snapshot().last_failure.as_deref(),
        Some("timed out")
    );
}

#[tokio::test(start_paused = true)]
async fn retries_of_two_layers_do_not_multiply() {
    let calls = Arc::new(AtomicU32::new(0));
    let service = ServiceBuilder::new()
        .layer(fast_retry(3).layer())
        .layer(CircuitBreaker::new("api").layer())
        .layer(fast_retry(3).layer())
        .service(failing(Arc::clone(&calls)));
    let Error::Exhausted(gave_up) = service.oneshot(1).await.unwrap_err() else {
        panic!("not exhausted");
    };
    assert_eq!(calls.load(Ordering::Relaxed), 4);
    assert_eq!(
        (gave_up.attempts(), gave_up.reason()),
        (4, StopReason::MaxRetries)
    );
}

#[tokio::test(start_paused = true)]
async fn the_error_is_flat_in_every_order() {
    async fn ends_with_down<S>(service: S)
    where
        S: Service<u32, Response = u32, Error = Error<Down>>,
    {
        let error = service.oneshot(1).await.unwrap_err();
        assert_eq!(error.into_inner().unwrap(), Down);
    }
    let inner = || failing(Arc::default());
    let (retry, breaker, lock) = (
        fast_retry(1),
        CircuitBreaker::new("b"),
        ResourceLock::new("l"),
    );
    let stack = || ServiceBuilder::new();
    ends_with_down(
        stack()
            .layer(retry.layer())
            .layer(breaker.layer())
            .layer(lock.layer())
            .service(inner()),
    )
    .await;
    ends_with_down(
        stack()
            .layer(lock.layer())
            .layer(breaker.layer())
            .layer(retry.layer())
            .service(inner()),
    )
    .await;
    ends_with_down(
        stack()
            .layer(breaker.layer())
            .layer(lock.layer())
            .layer(retry.layer())
            .service(inner()),
    )
    .await;
    ends_with_down(stack().layer(breaker.layer()).service(inner())).await;
}

/// A refusal below tower's own layers, which box their errors.
#[tokio::test(start_paused = true)]
async fn a_refusal_is_found_through_towers_own_layers() {
    let open = CircuitBreaker::new("api");
    open.force_open();

    let timed = ServiceBuilder::new()
        .timeout(SECOND)
        .layer(open.layer())
        .service(failing(Arc::default()));
    let error: BoxError = timed.oneshot(1).await.unwrap_err();
    assert_eq!(Rejection::find(&*error).unwrap().name(), "api");

    let shed = ServiceBuilder::new()
        .load_shed()
        .layer(open.layer())
        .service(failing(Arc::default()));
    let error: BoxError = shed.oneshot(1).await.unwrap_err();
    assert_eq!(Rejection::find(&*error).unwrap().name(), "api");

    let buffered = ServiceBuilder::new()
        .buffer(8)
        .layer(open.layer())
        .service(failing(Arc::default()));
    for i in 0..3 {
        let error: BoxError = buffered.clone().oneshot(i).await.unwrap_err();
        assert_eq!(
            Rejection::find(&*error).unwrap().name(),
            "api",
            "the buffer lives on"
        );
    }

    // And above them, typed again.
    let retried = ServiceBuilder::new()
        .layer(fast_retry(3).layer())
        .timeout(SECOND)
        .buffer(8)
        .layer(open.layer())
        .service(failing(Arc::default()));
    let Error::CircuitOpen(refused) = retried.oneshot(1).await.unwrap_err() else {
        panic!("the refusal was lost in a box");
    };
    assert_eq!(refused.name(), "api");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_tower_below_a_breaker_counts_as_a_failure() {
    let breaker = CircuitBreaker::builder("api")
        .consecutive_failures(2)
        .build()
        .unwrap();
    let service = ServiceBuilder::new()
        .layer(breaker.layer())
        .timeout(SECOND)
        .service(service_fn(|_: u32| pending::<Result<u32, Down>>()));
    for i in 0..2 {
        let error = service.clone().oneshot(i).await.unwrap_err();
        assert!(matches!(error, Error::Inner(_)), "{error}");
    }
    assert_eq!(breaker.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_keeps_the_error_type_can_be_optional() {
    let breaker = CircuitBreaker::new("api");
    breaker.force_open();
    for (wanted, answer) in [(true, 503), (false, 200)] {
        let layer = wanted.then(|| breaker.layer().reject_with(|_| 503));
        let service = ServiceBuilder::new()
            .layer(option_layer(layer))
            .service(service_fn(|(): ()| async { Ok::<u16, Infallible>(200) }));
        assert_eq!(service.oneshot(()).await, Ok(answer));
    }
    // Above another layer of this crate the error type does not change either.
    let lock = ResourceLock::new("l");
    let service = ServiceBuilder::new()
        .layer(option_layer(Some(breaker.layer())))
        .layer(lock.layer())
        .service(healthy(Arc::default(), MS));
    assert!(service.oneshot(1).await.unwrap_err().is_rejection());
}

#[tokio::test(start_paused = true)]
async fn a_stack_can_be_boxed_and_named() {
    type Client = BoxCloneSyncService<u32, u32, Error<Down>>;
    let stack = ServiceBuilder::new()
        .layer(fast_retry(1).layer())
        .layer(CircuitBreaker::new("b").layer())
        .layer(ResourceLock::new("l").layer())
        .service(healthy(Arc::default(), MS));
    let client: Client = BoxCloneSyncService::new(stack.clone());
    let other: BoxCloneService<u32, u32, Error<Down>> = BoxCloneService::new(stack);
    assert_eq!(client.clone().oneshot(1).await.unwrap(), 1);
    assert_eq!(other.clone().oneshot(2).await.unwrap(), 2);
}

/// axum applies a layer once for each connection, or for each request: state lives in the handle.
#[tokio::test(start_paused = true)]
async fn a_layer_applied_again_and_again_shares_its_state() {
    let calls = Arc::new(AtomicU32::new(0));
    let lock = ResourceLock::builder("l")
        .timeout(Duration::ZERO)
        .build()
        .unwrap();
    let layer = lock.layer();
    let requests = (0..4).map(|i| layer.layer(healthy(Arc::clone(&calls), SECOND)).oneshot(i));
    let results = join_all(requests).await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    assert_eq!(calls.load(Ordering::Relaxed), 1);

    let breaker = CircuitBreaker::builder("b")
        .consecutive_failures(3)
        .build()
        .unwrap();
    let layer = breaker.layer();
    for i in 0..3 {
        let _: Error<Down> = layer
            .layer(failing(Arc::default()))
            .oneshot(i)
            .await
            .unwrap_err();
    }
    assert_eq!(breaker.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn one_deadline_is_kept_by_every_layer() {
    use tower_bulwark::deadline::{self, Deadline};

    // By a backoff that would not fit.
    let calls = Arc::new(AtomicU32::new(0));
    let retry = RetryPolicy::builder()
        .backoff(Backoff::fixed(60 * SECOND))
        .build()
        .unwrap();
    let service = ServiceBuilder::new()
        .layer(retry.layer())
        .service(failing(Arc::clone(&calls)));
    let start = tokio::time::Instant::now();
    let error = deadline::scope(Deadline::after(5 * SECOND), service.oneshot(1))
        .await
        .unwrap_err();
    let Error::Exhausted(gave_up) = error else {
        panic!("not exhausted: {error}");
    };
    assert_eq!(gave_up.reason(), StopReason::Deadline);
    assert_eq!(
        start.elapsed(),
        Duration::ZERO,
        "a backoff that does not fit is not slept"
    );

    // By a wait for a permit.
    let lock = ResourceLock::new("l");
    let _held = lock.acquire("somebody").await.unwrap();
    let service = ServiceBuilder::new()
        .layer(lock.layer())
        .service(healthy(Arc::default(), MS));
    let start = tokio::time::Instant::now();
    let error = deadline::scope(Deadline::after(5 * SECOND), service.oneshot(1))
        .await
        .unwrap_err();
    let Error::Contended(busy) = error else {
        panic!("not contended: {error}");
    };
    assert_eq!(busy.reason(), &ContendedReason::DeadlineExceeded);
    assert_eq!(start.elapsed(), 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_stack_works_without_tower() {
    let calls = AtomicU32::new(0);
    let (retry, breaker, lock) = (
        fast_retry(3),
        CircuitBreaker::new("b"),
        ResourceLock::new("l"),
    );
    let operation = || {
        let n = calls.fetch_add(1, Ordering::Relaxed);
        async move { if n < 2 { Err(Down) } else { Ok(n) } }
    };
    let result = retry
        .run(|| breaker.call(|| lock.run("job-7", operation)))
        .await;
    assert_eq!(result.unwrap(), 2);
    assert_eq!(breaker.snapshot().totals.failures, 2);
    assert_eq!(lock.snapshot().stats.acquisitions, 3);
}

/// A reqwest client with a breaker on its connector: the refusal is in the chain of `reqwest::Error`.
#[tokio::test]
async fn a_refusal_is_found_in_the_chain_of_a_reqwest_error() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let breaker = CircuitBreaker::new("connections");
    breaker.force_open();
    let client = reqwest::Client::builder()
        .no_proxy()
        .connector_layer(
            ServiceBuilder::new()
                .map_err(BoxError::from)
                .layer(breaker.layer())
                .into_inner(),
        )
        .build()
        .unwrap();
    let error = client.get("http://127.0.0.1:9/").send().await.unwrap_err();
    assert_eq!(Rejection::find(&error).unwrap().name(), "connections");
}

fn assert_auto<T: Send + Sync + Unpin>(_: &T) {}

#[test]
fn layers_and_services_are_send_and_sync_when_the_service_is() {
    let service = ServiceBuilder::new()
        .layer(fast_retry(1).layer())
        .layer(CircuitBreaker::new("b").layer())
        .layer(ResourceLock::new("l").layer())
        .service(healthy(Arc::default(), MS));
    assert_auto(&service);
    fn assert_send<T: Send>(_: &T) {}
    assert_send(&service.clone().call_once());
}

/// A call whose future is looked at, not run.
trait CallOnce {
    type Future;
    fn call_once(self) -> Self::Future;
}

impl<S: Service<u32>> CallOnce for S {
    type Future = S::Future;
    fn call_once(mut self) -> S::Future {
        self.call(1)
    }
}

/// The lease of a probe is the longest that it can take, and no time to come back.
#[tokio::test(start_paused = true)]
async fn who_is_refused_because_a_probe_is_on_its_way_asks_again_after_the_backoff() {
    let breaker = CircuitBreaker::builder("api")
        .consecutive_failures(1)
        .recovery_timeout(SECOND)
        .success_threshold(1)
        .build()
        .unwrap();
    breaker.trip();
    tokio::time::advance(SECOND).await;
    let probe = breaker.try_acquire().unwrap();
    let retry = RetryPolicy::builder()
        .backoff(Backoff::fixed(Duration::from_millis(10)))
        .retry_rejections(true)
        .build()
        .unwrap();
    let service = ServiceBuilder::new()
        .layer(retry.layer())
        .layer(breaker.layer())
        .service(service_fn(|()| async { Ok::<_, std::io::Error>(()) }));
    let call = tokio::spawn(service.oneshot(()));
    tokio::time::sleep(Duration::from_millis(5)).await;
    probe.success();
    let began = tokio::time::Instant::now();
    call.await.unwrap().unwrap();
    assert!(tokio::time::Instant::now() - began < Duration::from_millis(50));
}
