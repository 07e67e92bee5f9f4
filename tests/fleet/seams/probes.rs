//! A breaker of the fleet that probes, while what stands below it refuses.

use std::future::IntoFuture as _;
use std::time::Duration;

use tower_bulwark::fleet::Fleet;
use tower_bulwark::{CircuitState, ContendedReason, deadline};

use super::upstream::Upstream;
use super::{Failure, MS, Process, SECOND, Settings, two};
use crate::support::server::Server;
use crate::support::{now, since, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_that_a_lock_refuses_neither_opens_the_breakers_again_nor_closes_them_nor_is_the_last()
 {
    let settings = || Settings {
        lock: |lock| lock.timeout(Duration::ZERO),
        open_for: 300 * MS,
        ..Settings::default()
    };
    let Some((_server, processes)) = two(settings).await else {
        return;
    };
    let ([a, b], upstream) = (&processes, Upstream::start().await);
    upstream.will_answer(500, None);
    let failed = a.post(upstream.url("/pay")).await.unwrap();
    assert_eq!(failed.status(), 500);
    drop(failed);
    until("both are open", async || {
        processes
            .iter()
            .all(|it| it.breaker().state() == CircuitState::Open)
    })
    .await;
    let held = a
        .lock
        .acquire("a holder")
        .timeout(20 * SECOND)
        .await
        .unwrap();
    let refused_by_lock = async |process: &Process| match process.post(upstream.url("/pay")).await {
        Err(Failure::Contended(it)) => *it.reason() == ContendedReason::Busy,
        Err(Failure::CircuitOpen(_)) => false,
        other => panic!("{:?}", other.map(drop)),
    };
    let (mut probes, began) = (0, now());
    while probes < 20 {
        probes += usize::from(refused_by_lock(a).await) + usize::from(refused_by_lock(b).await);
        assert!(since(began) < 30 * SECOND, "{probes} probes were refused");
        tokio::time::sleep(MS).await;
    }
    for it in &processes {
        assert_ne!(it.breaker().state(), CircuitState::Closed);
        assert!(it.totals().failures <= 1, "{:?}", it.totals());
        assert!(it.breaker().snapshot().openings <= 1);
    }
    assert_eq!(upstream.hits().len(), 1);
    drop(held);
    until("both are closed", async || {
        for it in &processes {
            let _ = it.post(upstream.url("/pay")).await;
        }
        processes
            .iter()
            .all(|it| it.breaker().state() == CircuitState::Closed)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_that_ends_the_wait_for_a_permit_of_this_process_alone_is_told_as_one() {
    let Some(mut server) = Server::start(&[]).await else {
        return;
    };
    let fleet = Fleet::builder(server.url()).connect().await.unwrap();
    let lock = fleet.lock("gpu").local(1).build().unwrap();
    server.kill();
    let held = lock.acquire("a holder").await.unwrap();
    assert_eq!(held.fence(), None);
    let ends = deadline::Deadline::after(50 * MS);
    let refused = deadline::scope(ends, lock.acquire("another").into_future())
        .await
        .unwrap_err();
    assert_eq!(
        *refused.reason(),
        ContendedReason::DeadlineExceeded,
        "{refused}"
    );
    let refused = lock.acquire("another").timeout(50 * MS).await.unwrap_err();
    assert_eq!(*refused.reason(), ContendedReason::TimedOut, "{refused}");
    drop(held);
    lock.acquire("another").await.map(drop).unwrap();
}
