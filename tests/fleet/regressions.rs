//! What went wrong once, against real servers.

use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;
use tower_bulwark::Registry;
use tower_bulwark::fleet::Fleet;

use super::support::fake::Fake;
use super::support::proxy::Proxy;
use super::support::server::Server;
use super::support::{now, since, until};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[tokio::test]
async fn a_fleet_that_is_removed_and_registered_again_reports_each_event_once() {
    let registry = Registry::new();
    let fleet = Fleet::in_process();
    let lock = fleet.lock("gpu").build().unwrap();
    for _ in 0..3 {
        registry.add_fleet(&fleet);
        registry.remove_fleet(fleet.namespace()).unwrap();
    }
    registry.add_fleet(&fleet);
    let _guard = lock.acquire("job-1").await.unwrap();
    assert!(lock.try_acquire("job-2").await.is_err());
    let feed = registry.feed().recent();
    let busy = feed.iter().filter(|it| it.event.kind() == "busy");
    assert_eq!(busy.count(), 1, "{feed:#?}");
}

#[tokio::test]
async fn calls_without_time_do_not_end_the_connection_of_all_others() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let proxy = Proxy::before(server.address()).await;
    let fleet = Fleet::connect(proxy.url()).await.unwrap();
    proxy.delay(ms(15));
    for _ in 0..10 {
        assert!(fleet.ping(ms(2)).await.is_err());
    }
    fleet.ping(ms(1_000)).await.unwrap();
    assert_eq!(fleet.health().connections, 1);
}

#[tokio::test]
async fn a_connection_that_ends_as_soon_as_it_stands_is_not_made_hundreds_of_times_a_second() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let proxy = Proxy::before(server.address()).await;
    let fleet = Fleet::connect(proxy.url()).await.unwrap();
    let (began, mut seen) = (now(), 0);
    while since(began) < ms(1_500) {
        let health = fleet.health();
        if health.connected && health.connections > seen {
            seen = health.connections;
            proxy.reset();
        }
        sleep(ms(1)).await;
    }
    assert!(seen >= 3, "{seen}");
    assert!(seen <= 30, "{seen} connections in a second and a half");
    until("it is well again", || async {
        fleet.ping(ms(100)).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_who_come_at_once_do_not_send_the_store_away() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let fleet = Fleet::builder(server.url()).call_timeout(ms(250));
    let fleet = fleet.connect().await.unwrap();
    let lock = fleet.lock("gpu").max_concurrent(100).build().unwrap();
    let mut all = JoinSet::new();
    for n in 0..8_000 {
        let lock = lock.clone();
        all.spawn(async move {
            let guard = lock.acquire(n.to_string()).await.map(drop);
            guard.map_err(|it| it.to_string())
        });
    }
    let all = all.join_all().await;
    let refused: Vec<_> = all.into_iter().filter_map(Result::err).collect();
    let seen = (refused.len(), fleet.health().connections, refused.first());
    assert!(refused.is_empty() && seen.1 == 1, "{seen:?}");
}

#[tokio::test]
async fn of_many_holders_a_thousand_are_named_and_all_are_counted() {
    let server = Server::start(&[]).await;
    let mut fleets = vec![Fleet::in_process()];
    if let Some(server) = &server {
        fleets.push(Fleet::connect(server.url()).await.unwrap());
    }
    for fleet in fleets {
        let lock = fleet.lock("gpu").max_concurrent(1_200).build().unwrap();
        let mut guards = Vec::new();
        for n in 0..1_100 {
            guards.push(lock.acquire(n.to_string()).await.unwrap());
        }
        let seen = lock.fetch().await.unwrap();
        assert_eq!((seen.held, seen.holders.len()), (1_100, 1_000));
        guards.truncate(900);
        until("it is heard", || async {
            let seen = lock.fetch().await.unwrap();
            (seen.held, seen.holders.len()) == (900, 900)
        })
        .await;
    }
}

#[tokio::test]
async fn the_longest_times_and_the_strangest_names_are_names_and_times_like_others() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let fleet = Fleet::builder(server.url())
        .connect_timeout(Duration::MAX)
        .call_timeout(Duration::MAX);
    let fleet = fleet.connect().await.unwrap();
    let long = "x|{}\n\0 %".repeat(20_000);
    let names = [
        "",
        " ",
        "a|b|c",
        "{",
        "}{",
        "a\nb\r\n",
        "\0",
        "lock|1|2|3|4|5",
        &long,
    ];
    let mut guards = Vec::new();
    for name in names {
        let lock = fleet
            .lock(name)
            .contention_threshold(Duration::MAX)
            .hold_threshold(Duration::MAX)
            .build()
            .unwrap();
        let guard = lock.acquire(name).timeout(Duration::MAX).await.unwrap();
        let waiting = lock.clone();
        let holder = format!("{name}|\n{name}");
        let waits = tokio::spawn(async move { waiting.acquire(holder).no_timeout().await });
        until("it waits", || async {
            lock.fetch().await.unwrap().waiting == 1
        })
        .await;
        assert_eq!(lock.fetch().await.unwrap().holders.len(), 1);
        assert_eq!(guard.holder(), name.into());
        let began = now();
        drop(guard);
        let guard = waits.await.unwrap().unwrap();
        // By the message, and not by the next question, which comes a second after it began to wait.
        assert!(since(began) < ms(800), "{:?}", since(began));
        guards.push(guard);
    }
}

#[tokio::test]
async fn a_primary_that_has_lost_its_replicas_is_left_for_the_one_that_was_promoted() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let fleet = Fleet::connect(server.url()).await.unwrap();
    fleet.ping(ms(1_000)).await.unwrap();
    // It is cut off, and takes no writes: another one has been promoted, or will be.
    server.tell("CONFIG SET min-replicas-to-write 1").await;
    assert!(fleet.ping(ms(1_000)).await.is_err());
    until("it is left", || async { !fleet.health().connected }).await;
    server.tell("CONFIG SET min-replicas-to-write 0").await;
    until("it is used again", || async {
        fleet.ping(ms(100)).await.is_ok()
    })
    .await;
}

/// Where the sentinel of the test below says that the primary is.
static PRIMARY: AtomicU16 = AtomicU16::new(0);

fn as_a_sentinel(command: &[String]) -> String {
    match command[0].to_uppercase().as_str() {
        "HELLO" => "%1\r\n$5\r\nproto\r\n:3\r\n".to_owned(),
        "SENTINEL" => {
            let port = PRIMARY.load(SeqCst).to_string();
            format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len())
        }
        _ => "+OK\r\n".to_owned(),
    }
}

#[tokio::test]
async fn messages_come_from_the_primary_that_was_promoted_also_if_the_old_one_still_answers() {
    let (Some(old), Some(new)) = (Server::start(&[]).await, Server::start(&[]).await) else {
        return;
    };
    PRIMARY.store(old.port, SeqCst);
    let sentinel = Fake::start(as_a_sentinel).await;
    let url = format!(
        "redis-sentinel://127.0.0.1:{}?sentinelMasterId=main",
        sentinel.port
    );
    let fleet = Fleet::connect(url).await.unwrap();
    PRIMARY.store(new.port, SeqCst);
    old.tell("CONFIG SET min-replicas-to-write 1").await;
    until("the new one is used", || async {
        fleet.ping(ms(100)).await.is_ok()
    })
    .await;
    let messages = fleet.health().messages;
    until("its messages come", || async {
        fleet.ping(ms(100)).await.unwrap();
        fleet.health().messages > messages
    })
    .await;
}

#[tokio::test]
async fn a_process_that_began_without_the_store_is_one_of_the_fleet_soon_after_it_comes() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let mut proxy = Proxy::before(server.address()).await;
    proxy.refuse().await;
    let fleet = Fleet::builder(proxy.url()).connect_in_background().unwrap();
    until("it is known to be away", || async {
        fleet.health().why.is_some() && fleet.ping(ms(100)).await.is_err()
    })
    .await;
    sleep(ms(300)).await;
    proxy.heal().await;
    until("it is connected", || async { fleet.health().connected }).await;
    let took = until("it is one of the fleet", || async {
        fleet.snapshot().nodes.count == 1
    })
    .await;
    // It says so once a second.
    assert!(took < ms(10_000), "{took:?}");
}
