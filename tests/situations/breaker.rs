//! Situations reported against other circuit breakers, told again with this crate.
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use tokio::time::{advance, sleep, timeout};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::{CircuitBreaker, CircuitState, Error, ResourceLock};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
enum ApiError {
    #[error("upstream is down")]
    Down,
    #[error("no such order")]
    NotFound,
}

/// One connection, twenty callers, a service that always takes 200 ms: nobody is slow but the queue.
#[tokio::test(start_paused = true)]
async fn waiting_for_a_permit_is_no_slow_call() {
    let breaker = CircuitBreaker::builder("inventory")
        .slow_call_rate(0.5, SEC)
        .minimum_calls(10)
        .build()
        .unwrap();
    let connection = ResourceLock::new("inventory-connection");
    let service = ServiceBuilder::new()
        .layer(breaker.layer())
        .layer(connection.layer())
        .service(service_fn(|_: u32| async {
            sleep(200 * MS).await;
            Ok::<_, ApiError>(())
        }));
    let calls: Vec<_> = (0..20)
        .map(|i| tokio::spawn(service.clone().oneshot(i)))
        .collect();
    for call in calls {
        let _ = call.await.unwrap();
    }
    let snapshot = breaker.snapshot();
    assert_eq!(
        snapshot.state,
        CircuitState::Closed,
        "each call took the service 200 ms"
    );
    let next = service.oneshot(20).await;
    assert!(next.is_ok(), "{next:?}");
}

/// Twenty callers wait for a permit that a batch job holds: the service has not been called at all.
#[tokio::test(start_paused = true)]
async fn calls_that_have_not_reached_the_service_say_nothing_of_it() {
    let breaker = CircuitBreaker::builder("inventory")
        .slow_call_rate(0.5, SEC)
        .build()
        .unwrap();
    let connection = ResourceLock::new("inventory-connection");
    let calls = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&calls);
    let service = ServiceBuilder::new()
        .layer(breaker.layer())
        .layer(connection.layer())
        .service(service_fn(move |_: u32| {
            count.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, ApiError>(()) }
        }));
    let batch_job = connection.acquire("nightly-batch").owned().await.unwrap();
    let waiting: Vec<_> = (0..20)
        .map(|i| tokio::spawn(service.clone().oneshot(i)))
        .collect();
    sleep(5 * SEC).await;
    let next = service.clone().oneshot(20).now_or_never();
    println!(
        "{:?}; {} calls",
        next.map(|r| r.map_err(|e| e.to_string())),
        calls.load(Ordering::SeqCst)
    );
    assert_eq!(breaker.state(), CircuitState::Closed);
    drop(batch_job);
    for call in waiting {
        call.await.unwrap().unwrap();
    }
}

/// Callers with a timeout of their own above the stack, told to the breaker as the docs say. The service is well.
#[tokio::test(start_paused = true)]
async fn callers_that_time_out_in_the_queue_do_not_open_the_breaker() {
    let breaker = CircuitBreaker::builder("inventory")
        .cancelled_is_failure_after(SEC)
        .build()
        .unwrap();
    let connection = ResourceLock::new("inventory-connection");
    let service = ServiceBuilder::new()
        .layer(breaker.layer())
        .layer(connection.layer())
        .service(service_fn(|_: u32| async {
            sleep(300 * MS).await;
            Ok::<_, ApiError>(())
        }));
    let calls: Vec<_> = (0..10)
        .map(|i| tokio::spawn(timeout(SEC, service.clone().oneshot(i))))
        .collect();
    for call in calls {
        let _ = call.await.unwrap();
    }
    let snapshot = breaker.snapshot();
    assert_eq!(
        snapshot.state,
        CircuitState::Closed,
        "{:?}",
        snapshot.last_failure
    );
}

/// After an outage all that is asked for is unknown to the service: it answers at once, with an error of ours.
#[tokio::test(start_paused = true)]
async fn answers_that_are_no_failures_let_a_service_recover() {
    let breaker = CircuitBreaker::builder("orders")
        .recovery_timeout(SEC)
        .build()
        .unwrap();
    let down = Arc::new(AtomicU32::new(1));
    let is_down = Arc::clone(&down);
    let service = breaker
        .layer()
        .failure_if(|e: &ApiError| matches!(e, ApiError::Down))
        .layer(service_fn(move |_: u32| {
            let down = is_down.load(Ordering::SeqCst) == 1;
            async move {
                sleep(5 * MS).await;
                Err::<(), _>(if down {
                    ApiError::Down
                } else {
                    ApiError::NotFound
                })
            }
        }));
    for i in 0..5 {
        let _ = service.clone().oneshot(i).await;
    }
    assert_eq!(breaker.state(), CircuitState::Open);
    down.store(0, Ordering::SeqCst);
    sleep(SEC).await;
    // Ten minutes of 20 callers at a time; the service answers each within 5 ms.
    let refused = Arc::new(AtomicU64::new(0));
    let asked = Arc::new(AtomicU64::new(0));
    for _ in 0..600 {
        let calls: Vec<_> = (0..20)
            .map(|i| tokio::spawn(service.clone().oneshot(i)))
            .collect();
        for call in calls {
            asked.fetch_add(1, Ordering::SeqCst);
            if let Err(Error::CircuitOpen(_)) = call.await.unwrap() {
                refused.fetch_add(1, Ordering::SeqCst);
            }
        }
        sleep(SEC).await;
    }
    let (asked, refused) = (asked.load(Ordering::SeqCst), refused.load(Ordering::SeqCst));
    assert_eq!(
        breaker.state(),
        CircuitState::Closed,
        "{refused} of {asked} refused in ten minutes"
    );
}

/// Somebody adds a limit for slow calls to a breaker that worked. Then the service is switched off.
#[tokio::test(start_paused = true)]
async fn watching_for_slow_calls_does_not_stop_watching_for_failures() {
    let breaker = CircuitBreaker::builder("search")
        .slow_call_rate(0.5, 2 * SEC)
        .build()
        .unwrap();
    for _ in 0..1_000 {
        let _ = breaker
            .call(|| async { Err::<(), _>(ApiError::Down) })
            .await;
    }
    assert_eq!(
        breaker.state(),
        CircuitState::Open,
        "{:?}",
        breaker.snapshot()
    );
}

/// The probe meets a full house inside: no verdict, and the next one may try.
#[tokio::test(start_paused = true)]
async fn a_probe_refused_further_in_gives_its_place_to_the_next() {
    let breaker = CircuitBreaker::builder("db")
        .recovery_timeout(SEC)
        .build()
        .unwrap();
    let pool = ResourceLock::builder("db-pool")
        .max_concurrent(2)
        .max_waiting(0)
        .build()
        .unwrap();
    let service = ServiceBuilder::new()
        .layer(breaker.layer())
        .layer(pool.layer())
        .service(service_fn(|_: u32| async { Ok::<_, ApiError>(()) }));
    breaker.open_for(SEC);
    advance(SEC).await;
    let taken: Vec<_> = (0..2u64)
        .map(|i| pool.acquire(i).owned().now().unwrap())
        .collect();
    for i in 0..3 {
        let refused = service.clone().oneshot(i).await.unwrap_err();
        assert!(matches!(refused, Error::Contended(_)), "{refused:?}");
    }
    assert_eq!(breaker.state(), CircuitState::HalfOpen);
    drop(taken);
    for i in 0..2 {
        service.clone().oneshot(i).await.unwrap();
    }
    assert_eq!(breaker.state(), CircuitState::Closed);
    // And while it is closed, refusals of the pool are nobody's failure.
    let taken: Vec<_> = (0..2u64)
        .map(|i| pool.acquire(i).owned().now().unwrap())
        .collect();
    for i in 0..100 {
        assert!(service.clone().oneshot(i).await.is_err());
    }
    drop(taken);
    assert_eq!(breaker.state(), CircuitState::Closed);
    assert_eq!(breaker.snapshot().totals.failures, 0);
}

/// The task of the probe is aborted, then one panics: neither leaves the breaker half-open for ever.
#[tokio::test(start_paused = true)]
async fn a_probe_whose_task_dies_wedges_nothing() {
    let breaker = CircuitBreaker::builder("db")
        .recovery_timeout(SEC)
        .build()
        .unwrap();
    breaker.open_for(SEC);
    advance(SEC).await;
    let hangs = {
        let breaker = breaker.clone();
        tokio::spawn(async move {
            breaker
                .call(std::future::pending::<Result<(), ApiError>>)
                .await
        })
    };
    tokio::task::yield_now().await;
    assert_eq!(breaker.snapshot().probes, 1);
    hangs.abort();
    assert!(hangs.await.unwrap_err().is_cancelled());
    assert_eq!(breaker.snapshot().probes, 0);
    let panics = {
        let breaker = breaker.clone();
        tokio::spawn(async move {
            breaker
                .call(|| async {
                    sleep(MS).await;
                    if true {
                        panic!("a bug in the decoder")
                    }
                    Ok::<_, ApiError>(())
                })
                .await
        })
    };
    assert!(panics.await.unwrap_err().is_panic());
    assert_eq!(
        breaker.state(),
        CircuitState::Open,
        "a probe that panics has failed"
    );
    sleep(SEC).await;
    for _ in 0..2 {
        breaker
            .call(|| async { Ok::<_, ApiError>(()) })
            .await
            .unwrap();
    }
    assert_eq!(breaker.state(), CircuitState::Closed);
}

/// Answers of calls that began before the circuit opened do not count twice, nor close it.
#[tokio::test(start_paused = true)]
async fn calls_left_over_from_before_the_outage_change_nothing() {
    let changes = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&changes);
    let breaker = CircuitBreaker::builder("db")
        .on_state_change(move |_, to| {
            if to == CircuitState::Open {
                count.fetch_add(1, Ordering::SeqCst);
            }
        })
        .build()
        .unwrap();
    let service = breaker
        .layer()
        .layer(service_fn(|(wait, good): (u64, bool)| async move {
            sleep(Duration::from_millis(wait)).await;
            if good { Ok(()) } else { Err(ApiError::Down) }
        }));
    let mut calls = Vec::new();
    for i in 0..50 {
        calls.push(tokio::spawn(service.clone().oneshot((10 + i, false))));
    }
    for i in 0..10 {
        calls.push(tokio::spawn(service.clone().oneshot((1_000 + i, true))));
    }
    for i in 0..10 {
        calls.push(tokio::spawn(service.clone().oneshot((61_000 + i, false))));
    }
    sleep(2 * SEC).await;
    assert_eq!(changes.load(Ordering::SeqCst), 1, "opened once");
    assert_eq!(breaker.state(), CircuitState::Open);
    sleep(58_100 * MS).await;
    assert_eq!(breaker.state(), CircuitState::HalfOpen);
    service.clone().oneshot((1, true)).await.unwrap();
    for call in calls {
        let _ = call.await.unwrap();
    }
    assert_eq!(
        breaker.state(),
        CircuitState::HalfOpen,
        "late failures do not open it"
    );
    service.clone().oneshot((1, true)).await.unwrap();
    assert_eq!(breaker.state(), CircuitState::Closed);
    assert_eq!(changes.load(Ordering::SeqCst), 1);
}

#[allow(unused)]
fn is_service<S: Service<()>>(_: S) {}
