//! A real server that fails: what callers, holders and those who wait are told.

use std::time::Duration;

use tower_bulwark::ContendedReason;
use tower_bulwark::fleet::Fleet;
use tower_bulwark::fleet::lock::LostReason;

use super::support::proxy::Proxy;
use super::support::server::Server;
use super::support::{now, since, until};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

async fn connect(url: String) -> Fleet {
    Fleet::connect(url).await.unwrap()
}

#[tokio::test]
async fn two_commands_are_sent_for_each_permit_however_many_want_it() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let fleet = connect(server.url()).await;
    let lock = fleet.lock("gpu").build().unwrap();
    server.tell("CONFIG RESETSTAT").await;
    let tasks = (0..20_u64).map(|n| {
        let lock = lock.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                drop(lock.acquire(n).await.unwrap());
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    for task in tasks {
        task.await.unwrap();
    }
    let stats: String = server.ask("INFO commandstats").await.unwrap();
    let calls = |name: &str| -> u64 {
        let line = stats
            .lines()
            .find(|it| it.starts_with(&format!("cmdstat_{name}:calls=")));
        let rest = line.map_or("0", |it| it.split_once("calls=").unwrap().1);
        rest.split(',').next().unwrap().parse().unwrap()
    };
    let scripts = calls("evalsha") + calls("eval");
    // 400 were asked for and given back; a few more are beats and lists, by the second.
    assert!(scripts <= 2 * 400 + 40, "{scripts}");
    assert!(scripts >= 400, "{scripts}");
}

#[tokio::test]
async fn a_server_that_is_frozen_loses_leases_in_time_and_refuses_callers_in_time() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let fleet = connect(server.url()).await;
    let lock = fleet
        .lock("gpu")
        .max_concurrent(2)
        .lease(ms(900))
        .build()
        .unwrap();
    let guard = lock.acquire("holder").await.unwrap();
    server.freeze();
    let began = now();
    let refused = lock.acquire("late").timeout(ms(250)).await.unwrap_err();
    assert!(
        matches!(refused.reason(), ContendedReason::Unavailable { .. }),
        "{refused}"
    );
    // In time, and what a busy machine adds.
    assert!(since(began) < ms(250 + 1_000), "{:?}", since(began));
    assert_eq!(guard.lost().await, LostReason::Expired);
    assert!(since(began) < ms(900 + 1_000), "{:?}", since(began));
    server.thaw();
    // What was sent meanwhile is done now, and undone.
    until("it works again", async || {
        lock.try_acquire("new").await.is_ok()
    })
    .await;
    drop(guard);
    until("all is given back", async || {
        let seen = lock.fetch().await;
        seen.is_ok_and(|it| it.holders.is_empty() && it.waiting == 0)
    })
    .await;
}

#[tokio::test]
async fn holders_of_a_server_that_comes_back_empty_keep_their_leases_and_fences() {
    let Some(mut server) = Server::start(&[]).await else {
        return;
    };
    let fleet = connect(server.url()).await;
    let lock = || fleet.lock("gpu").max_concurrent(2).lease(ms(4_000)).grace();
    let (lock, other) = (lock().build().unwrap(), lock().build().unwrap());
    let guard = lock.acquire("holder").timeout(ms(10_000)).await.unwrap();
    let fence = guard.fence();
    server.kill();
    server.restart().await;
    until("it is taken up again", async || {
        let seen = lock.fetch().await;
        seen.is_ok_and(|it| it.holders.iter().any(|it| Some(it.fence) == fence))
    })
    .await;
    assert_eq!(guard.fence(), fence);
    // Nobody new for as long as a lease, then somebody, with a higher token.
    let began = now();
    let next = other.acquire("next").timeout(ms(10_000)).await.unwrap();
    assert!(since(began) > ms(2_000), "{:?}", since(began));
    assert!(next.fence().unwrap().token > fence.unwrap().token);
    assert!(guard.valid_for().unwrap() > ms(1_000));
}

#[tokio::test]
async fn a_connection_that_is_lost_with_a_message_delays_a_wait_and_ends_none() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let proxy = Proxy::before(server.address()).await;
    let (near, far) = (connect(server.url()).await, connect(proxy.url()).await);
    let a = near.lock("gpu").build().unwrap();
    let b = far.lock("gpu").build().unwrap();
    let guard = a.acquire("holder").await.unwrap();
    let waits = tokio::spawn(async move { b.acquire("waiter").await });
    until("it waits", async || a.fetch().await.unwrap().waiting == 1).await;
    proxy.swallow_what_stands();
    drop(guard);
    let began = now();
    let got = waits.await.unwrap().unwrap();
    // Long before its own time is over.
    assert!(since(began) < ms(10_000), "{:?}", since(began));
    // It has a whole lease, although it was handed a short one.
    until("it is renewed", async || {
        got.valid_for().unwrap() > ms(5_000)
    })
    .await;
    assert_eq!(a.fetch().await.unwrap().holders.len(), 1);
}
