use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::{CircuitBreaker, CircuitState, ResourceLock, RetryPolicy};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
#[error("connection refused")]
struct Refused;

/// One attempt asks two services at once. One waits for its own lock, the other hangs.
#[tokio::test(start_paused = true)]
async fn a_service_that_hangs_is_seen_although_another_branch_waits_for_a_lock() {
    let (prices, stock) = (CircuitBreaker::new("prices"), CircuitBreaker::new("stock"));
    let slot = ResourceLock::new("stock-slot");
    let _batch = slot.acquire("nightly-batch").owned().await.unwrap();
    let ask_stock = ServiceBuilder::new()
        .layer(stock.layer())
        .layer(slot.layer())
        .service(service_fn(|(): ()| async { Ok::<_, Refused>(1) }));
    let ask_prices = prices.layer().layer(service_fn(|(): ()| {
        std::future::pending::<Result<i32, Refused>>()
    }));
    let retry = RetryPolicy::builder()
        .attempt_timeout(SEC)
        .max_retries(4)
        .build()
        .unwrap();
    let answer = retry
        .run(|| {
            let (stock, prices) = (ask_stock.clone(), ask_prices.clone());
            async move {
                let (stock, prices) = tokio::join!(stock.oneshot(()), prices.oneshot(()));
                Ok::<_, tower_bulwark::Error<Refused>>((stock?, prices?))
            }
        })
        .await;
    assert!(answer.is_err());
    assert_eq!(stock.snapshot().totals.failures, 0);
    assert_eq!(
        prices.state(),
        CircuitState::Open,
        "it hung five times for a second"
    );
}

/// Two replicas, turn and turn about, one of them open; a retry that is told to go on after refusals.
#[tokio::test(start_paused = true)]
async fn a_refusal_of_one_replica_is_tried_at_the_next_without_delay() {
    let next = Arc::new(AtomicUsize::new(0));
    let breakers = [
        CircuitBreaker::new("replica-0"),
        CircuitBreaker::new("replica-1"),
    ];
    breakers[0].open_for(60 * SEC);
    let replicas: Vec<_> = breakers
        .iter()
        .map(|b| {
            b.layer()
                .layer(service_fn(|(): ()| async { Ok::<_, Refused>(()) }))
        })
        .collect();
    let either = service_fn(move |(): ()| {
        let replica = replicas[next.fetch_add(1, Ordering::SeqCst) % 2].clone();
        replica.oneshot(())
    });
    let retry = RetryPolicy::builder()
        .retry_rejections(true)
        .backoff(tower_bulwark::Backoff::fixed(50 * MS))
        .build()
        .unwrap();
    let service = retry.layer::<Refused>().layer(either);
    let start = Instant::now();
    let answer = service.oneshot(()).await;
    assert!(
        answer.is_ok() && start.elapsed() < SEC,
        "{:?}",
        start.elapsed()
    );
}

/// A dashboard that is asked and not told: nobody calls, and the open time is over.
#[tokio::test(start_paused = true)]
async fn who_looks_after_the_open_time_sees_half_open_without_a_call() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};
    use tower_bulwark::{Registry, observe::Metrics};
    let registry = Registry::new();
    let changes = Arc::new(std::sync::Mutex::new(Vec::new()));
    let told = Arc::clone(&changes);
    let breaker = CircuitBreaker::builder("orders")
        .on_state_change(move |from, to| told.lock().unwrap().push((from, to)))
        .build_in(&registry)
        .unwrap();
    for _ in 0..5 {
        let _ = breaker.call(|| async { Err::<(), _>(Refused) }).await;
    }
    sleep(90 * SEC).await;
    assert_eq!(breaker.state(), CircuitState::HalfOpen);
    assert_eq!(breaker.snapshot().since_state_change, 30 * SEC);
    let recorder = DebuggingRecorder::new();
    let shots = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || Metrics::of(&registry).record());
    let half_open = shots
        .snapshot()
        .into_vec()
        .into_iter()
        .any(|(key, _, _, value)| {
            let labels: Vec<_> = key.key().labels().map(|l| l.value().to_owned()).collect();
            key.key().name() == "bulwark_circuit_state"
                && labels.contains(&"half_open".to_owned())
                && value == DebugValue::Gauge(1.0.into())
        });
    assert!(half_open);
    assert_eq!(
        changes.lock().unwrap().len(),
        1,
        "told of with the next call"
    );
    breaker
        .call(|| async { Ok::<_, Refused>(()) })
        .await
        .unwrap();
    assert_eq!(
        changes.lock().unwrap()[1],
        (CircuitState::Open, CircuitState::HalfOpen)
    );
}
