//! What a lock promises, over the store of one process and over a real server.

use std::time::Duration;

use tokio::time::sleep;
use tower_bulwark::ContendedReason;
use tower_bulwark::fleet::lock::FleetLockBuilder;
use tower_bulwark::fleet::{Fleet, FleetLock};

use super::support::server::Server;
use super::support::{now, since, until};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Two handles of one lock, each with an agent of its own.
struct Two {
    a: FleetLock,
    b: FleetLock,
}

impl Two {
    fn new(
        fleets: &(Fleet, Fleet),
        name: &str,
        set: fn(FleetLockBuilder) -> FleetLockBuilder,
    ) -> Self {
        let lock = |fleet: &Fleet| set(fleet.lock(name)).build().unwrap();
        Self {
            a: lock(&fleets.0),
            b: lock(&fleets.1),
        }
    }

    async fn held(&self) -> usize {
        self.a.fetch().await.unwrap().holders.len()
    }

    async fn waiting(&self) -> usize {
        self.a.fetch().await.unwrap().waiting
    }
}

async fn in_order(fleets: &(Fleet, Fleet)) {
    let two = Two::new(fleets, "in order", |it| it);
    let mut guard = two.a.acquire("first").await.unwrap();
    let mut waits = Vec::new();
    for n in 0..6_usize {
        let lock = if n % 2 == 0 { &two.b } else { &two.a }.clone();
        waits.push(tokio::spawn(async move {
            lock.acquire(n as u64).await.unwrap()
        }));
        until("it waits", async || two.waiting().await == n + 1).await;
    }
    let mut took = Vec::new();
    for wait in waits {
        assert!(!wait.is_finished());
        let (before, began) = (guard.fence().unwrap().token, now());
        drop(guard);
        guard = wait.await.unwrap();
        assert!(guard.fence().unwrap().token > before);
        took.push(since(began));
    }
    // A message brings it: the next question would come after a second. A busy machine may spoil some of them.
    took.sort();
    assert!(took[3] < ms(500), "{took:?}");
    drop(guard);
    until("all is given back", async || two.held().await == 0).await;
}

async fn renewed(fleets: &(Fleet, Fleet)) {
    let two = Two::new(fleets, "renewed", |it| it.lease(ms(1_500)));
    let guard = two.a.acquire("holder").await.unwrap();
    let began = now();
    while since(began) < ms(4_000) {
        let refused = two.b.try_acquire("other").await.unwrap_err();
        assert_eq!(*refused.reason(), ContendedReason::Busy);
        sleep(ms(50)).await;
    }
    assert!(guard.valid_for().unwrap() > ms(100));
    assert!(two.a.snapshot().renewals >= 5);
}

async fn told(fleets: &(Fleet, Fleet)) {
    let two = Two::new(fleets, "told", |it| it);
    let _guard = two.a.acquire("job-7").await.unwrap();
    let refused = two.b.acquire("job-8").timeout(ms(300)).await.unwrap_err();
    assert_eq!(*refused.reason(), ContendedReason::TimedOut);
    let text = refused.to_string();
    let expected = format!("held by job-7 on {} for ", fleets.0.node());
    assert!(text.contains(&expected), "{text}");
    until("it has left the queue", async || two.waiting().await == 0).await;
}

async fn dropped(fleets: &(Fleet, Fleet)) {
    let two = Two::new(fleets, "dropped", |it| it);
    let guard = two.a.acquire("holder").await.unwrap();
    let lock = two.b.clone();
    let gone = tokio::spawn(async move { lock.acquire("gone").await.map(|_| ()) });
    until("it waits", async || two.waiting().await == 1).await;
    let lock = two.b.clone();
    let next = tokio::spawn(async move { lock.acquire("next").await.unwrap() });
    until("both wait", async || two.waiting().await == 2).await;
    gone.abort();
    until("one has gone", async || two.waiting().await == 1).await;
    drop(guard);
    drop(next.await.unwrap());
    until("all is given back", async || two.held().await == 0).await;
}

async fn resized(fleets: &(Fleet, Fleet)) {
    let two = Two::new(fleets, "resized", |it| it.max_waiting(1));
    let first = two.a.acquire("1").await.unwrap();
    let lock = two.b.clone();
    let wait = tokio::spawn(async move { lock.acquire("2").await.unwrap() });
    until("it waits", async || two.waiting().await == 1).await;
    let refused = two.a.acquire("3").await.unwrap_err();
    assert_eq!(*refused.reason(), ContendedReason::QueueFull);
    two.a
        .set_max_concurrent(2.try_into().unwrap())
        .await
        .unwrap();
    let second = wait.await.unwrap();
    assert_ne!(first.fence().unwrap().slot, second.fence().unwrap().slot);
    assert_eq!(two.a.fetch().await.unwrap().capacity, 2);
}

async fn all(fleets: (Fleet, Fleet)) {
    tokio::join!(
        in_order(&fleets),
        renewed(&fleets),
        told(&fleets),
        dropped(&fleets),
        resized(&fleets)
    );
}

#[tokio::test]
async fn a_lock_of_one_process_keeps_what_a_lock_promises() {
    let fleet = Fleet::in_process();
    all((fleet.clone(), fleet)).await;
}

#[tokio::test]
async fn a_lock_on_a_server_keeps_what_a_lock_promises() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    // A busy machine takes its time.
    let patient = Duration::from_secs(5);
    let fleet = || Fleet::builder(server.url()).call_timeout(patient).connect();
    all((fleet().await.unwrap(), fleet().await.unwrap())).await;
}
