//! Composition with tower's own services.
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::{advance, sleep};
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PeakEwma, PendingRequests};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_bulwark::error::OpenReason;
use tower_bulwark::{CircuitBreaker, Error};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
#[error("connection refused")]
struct Refused;

/// Three replicas behind a balancer, a breaker for each; one replica is dead. The other two do 100 ms a call.
async fn balanced(ewma: bool) -> (u32, u32) {
    let hits = Arc::new(AtomicU32::new(0));
    let endpoint = |dead: bool| {
        let hits = Arc::clone(&hits);
        CircuitBreaker::new(if dead { "replica-dead" } else { "replica" })
            .layer()
            .pending_while_open()
            .layer(service_fn(move |_: u32| {
                let hits = Arc::clone(&hits);
                async move {
                    if dead {
                        return Err(Refused);
                    }
                    hits.fetch_add(1, Ordering::SeqCst);
                    sleep(100 * MS).await;
                    Ok(())
                }
            }))
    };
    let endpoints = [endpoint(true), endpoint(false), endpoint(false)];
    let mut failed = 0;
    if ewma {
        let endpoints =
            endpoints.map(|s| PeakEwma::new(s, 30 * MS, 10e9, CompleteOnResponse::default()));
        let mut balance = Balance::new(ServiceList::new::<u32>(endpoints));
        for i in 0..1_000 {
            failed += u32::from(balance.ready().await.unwrap().call(i).await.is_err());
            sleep(20 * MS).await;
        }
    } else {
        let endpoints = endpoints.map(|s| PendingRequests::new(s, CompleteOnResponse::default()));
        let mut balance = Balance::new(ServiceList::new::<u32>(endpoints));
        for i in 0..1_000 {
            failed += u32::from(balance.ready().await.unwrap().call(i).await.is_err());
            sleep(20 * MS).await;
        }
    }
    (failed, hits.load(Ordering::SeqCst))
}

/// Three replicas, one of them dead: hardly a call is refused.
#[tokio::test(start_paused = true)]
async fn behind_a_balancer_a_dead_replica_costs_at_most_one_call_in_a_hundred() {
    for ewma in [true, false] {
        let (failed, answered) = balanced(ewma).await;
        assert!(failed <= 10, "{failed} of 1,000 failed");
        assert!(answered >= 990, "{answered}");
    }
}

/// The same without a router: it is asked again just before the call.
#[tokio::test(start_paused = true)]
async fn asked_again_whether_it_is_ready_a_service_looks_at_the_circuit_again() {
    let breaker = CircuitBreaker::new("orders");
    let mut worker = breaker
        .layer()
        .layer(service_fn(|(): ()| async { Ok::<_, Refused>(()) }));
    breaker.open_for(60 * SEC);
    worker.ready().await.unwrap();
    sleep(3600 * SEC).await; // waits for a message
    worker.ready().await.unwrap();
    let answer = worker.call(()).await;
    assert!(answer.is_ok(), "an hour later: {:?}", breaker.state());
}

/// The same with two workers that are ready before they wait for work.
#[tokio::test(start_paused = true)]
async fn of_two_workers_the_one_with_work_probes() {
    let breaker = CircuitBreaker::new("orders");
    let service = breaker
        .layer()
        .layer(service_fn(|(): ()| async { Ok::<_, Refused>(()) }));
    breaker.open_for(SEC);
    advance(SEC).await;
    let (mut idle, mut busy) = (service.clone(), service);
    idle.ready().await.unwrap();
    let answer = busy.ready().await.unwrap().call(()).await;
    if let Err(Error::CircuitOpen(open)) = &answer {
        assert_eq!(open.reason(), OpenReason::ProbesBusy);
    }
    assert!(answer.is_ok());
}

/// Why a circuit that slow calls opened refuses.
#[tokio::test(start_paused = true)]
async fn a_refusal_after_slow_calls_says_that_they_were_slow() {
    let breaker = CircuitBreaker::builder("search")
        .slow_call_rate(0.5, SEC)
        .minimum_calls(4)
        .build()
        .unwrap();
    for _ in 0..4 {
        let _ = breaker
            .call(|| async {
                sleep(2 * SEC).await;
                Ok::<_, Refused>(())
            })
            .await;
    }
    let open = breaker.try_acquire().unwrap_err();
    assert!(open.to_string().contains("slow"), "{open}");
}
