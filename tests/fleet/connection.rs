//! The connection under faults: what a call is told, how soon, and when all is well again.

mod checks;
mod places;

use std::pin::pin;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;
use tower_bulwark::fleet::{Fleet, StoreError};

use super::support::proxy::Proxy;
use super::support::server::Server;
use super::support::{now, since, until};

const WITHIN: Duration = Duration::from_millis(100);

/// The longest pause between two attempts to connect is 750 ms: so many of them, on a machine that is busy.
const SOON: Duration = Duration::from_secs(5);

/// What a call may be late by.
const GRACE: Duration = Duration::from_millis(10);

/// Called until it works. Says how long that took.
async fn until_it_works(fleet: &Fleet) -> Duration {
    until("a call works", || async {
        fleet.ping(WITHIN).await.is_ok()
    })
    .await
}

async fn until_it_is_known(fleet: &Fleet) -> Duration {
    let known = || async { !fleet.health().connected };
    until("the connection is given up", known).await
}

/// The same, where only calls find out: a cluster pushes nothing.
async fn until_it_is_known_by_calls(fleet: &Fleet) -> Duration {
    let known = || async {
        let _ = fleet.ping(WITHIN).await;
        !fleet.health().connected
    };
    until("the connection is given up", known).await
}

/// One call, and what came of it.
struct Call {
    took: Duration,
    /// How much later it ended than a plain timer of the same task that was set to its deadline. A machine that is busy with
    /// other programs wakes both late.
    late: Duration,
    answer: Result<(), StoreError>,
}

async fn call(fleet: &Fleet, within: Duration) -> Call {
    let asked = now();
    let mut timer = pin!(sleep(within));
    let mut asking = pin!(fleet.ping(within));
    let mut woken = None;
    let answer = loop {
        tokio::select! {
            biased;
            answer = &mut asking => break answer,
            () = &mut timer, if woken.is_none() => woken = Some(now()),
        }
    };
    Call {
        took: since(asked),
        late: woken.map_or(Duration::ZERO, since),
        answer: answer.map(|_| ()),
    }
}

/// Callers that ask one time after the other, for so long.
async fn callers(fleet: &Fleet, count: usize, within: Duration, during: Duration) -> Vec<Call> {
    let began = now();
    let mut callers = JoinSet::new();
    for _ in 0..count {
        let fleet = fleet.clone();
        callers.spawn(async move {
            let mut calls = Vec::new();
            while since(began) < during {
                calls.push(call(&fleet, within).await);
                sleep(Duration::from_millis(1)).await;
            }
            calls
        });
    }
    callers.join_all().await.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_to_a_server_that_was_killed_fails_at_once_and_works_again_soon_after_its_restart() {
    let Some(mut server) = Server::start(&[]).await else {
        return;
    };
    let fleet = Fleet::connect(server.url()).await.unwrap();
    fleet.ping(WITHIN).await.unwrap();

    server.kill();
    until_it_is_known(&fleet).await;
    let patient = Duration::from_secs(30);
    let asked = now();
    let error = fleet.ping(patient).await.unwrap_err();
    assert!(since(asked) < Duration::from_secs(2), "{:?}", since(asked));
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert!(!error.may_have_been_done());
    let health = fleet.health();
    assert!(
        health.why.is_some() && health.server.is_none(),
        "{health:?}"
    );

    server.restart().await;
    let took = until_it_works(&fleet).await;
    assert!(took < SOON, "{took:?}");
    assert_eq!(fleet.health().connections, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_server_is_frozen_a_few_calls_wait_and_all_others_are_refused_at_once() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let fleet = Fleet::connect(server.url()).await.unwrap();
    fleet.ping(WITHIN).await.unwrap();

    server.freeze();
    let calls = callers(&fleet, 32, WITHIN, Duration::from_millis(1000)).await;
    server.thaw();
    assert!(calls.iter().all(|call| call.answer.is_err()));
    let (waited, refused): (Vec<_>, Vec<_>) = calls
        .iter()
        .partition(|call| call.answer == Err(StoreError::Deadline));
    // Each caller once, in the beginning.
    let waited = waited.len();
    assert!((5..=64).contains(&waited), "{waited} of {}", calls.len());
    assert!(calls.len() > 10 * waited, "{waited} of {}", calls.len());
    // At once: what a busy machine adds comes to few of them.
    let mut took: Vec<_> = refused.iter().map(|call| call.took).collect();
    took.sort();
    assert!(took[took.len() * 9 / 10] < WITHIN / 2, "{took:?}");

    let took = until_it_works(&fleet).await;
    assert!(took < SOON, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_answers_nothing_is_made_anew_after_five_calls() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let proxy = Proxy::before(server.address()).await;
    let fleet = Fleet::connect(proxy.url()).await.unwrap();
    fleet.ping(WITHIN).await.unwrap();

    proxy.swallow_what_stands();
    // One call, and no other: the task asks the four other times.
    assert_eq!(fleet.ping(WITHIN).await, Err(StoreError::Deadline));
    let renewed = || async { fleet.health().connections == 2 };
    let took = until("the connection is made anew", renewed).await;
    // Not by the question of an idle connection, which comes after two seconds.
    assert!(took < Duration::from_secs(2), "{took:?}");
    fleet.ping(WITHIN).await.unwrap();
    // The connection for messages is asked as soon as the other one has ended.
    let heard = || async { fleet.health().gaps == 1 };
    let took = until("the messages come through a new connection", heard).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    let before = fleet.health().messages;
    fleet.ping(WITHIN).await.unwrap();
    until("a message comes", || async {
        fleet.health().messages > before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_makes_no_calls_finds_out_that_its_connection_is_half_open() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let proxy = Proxy::before(server.address()).await;
    let fleet = Fleet::connect(proxy.url()).await.unwrap();
    proxy.swallow_what_stands();
    let renewed = || async { fleet.health().connections == 2 };
    let took = until("the connection is made anew", renewed).await;
    // Two seconds without an answer, five calls, and what a busy machine adds.
    assert!(took < Duration::from_secs(15), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_lost_answer_is_no_reason_for_a_new_connection() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let fleet = Fleet::connect(server.url()).await.unwrap();
    fleet.ping(WITHIN).await.unwrap();
    for _ in 0..8 {
        server.freeze();
        let within = Duration::from_millis(5);
        assert_eq!(fleet.ping(within).await, Err(StoreError::Deadline));
        server.thaw();
        until_it_works(&fleet).await;
    }
    let health = fleet.health();
    assert_eq!((health.connections, health.unanswered), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_the_server_closes_while_idle_costs_no_call() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let fleet = Fleet::connect(server.url()).await.unwrap();
    for round in 2..6 {
        server.tell("CLIENT KILL TYPE normal SKIPME yes").await;
        // The next call may come at any moment after it.
        until("it is closed", || async {
            let health = fleet.health();
            !health.connected || health.connections == round
        })
        .await;
        fleet.ping(Duration::from_secs(1)).await.unwrap();
        assert_eq!(fleet.health().connections, round);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_became_a_replica_is_left_at_the_first_answer_and_used_again_when_promoted()
{
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let Some(other) = Server::start(&[]).await else {
        return;
    };
    let fleet = Fleet::connect(server.url()).await.unwrap();
    fleet.ping(WITHIN).await.unwrap();

    let command = format!("REPLICAOF 127.0.0.1 {}", other.port);
    server.tell(&command).await;
    assert_eq!(fleet.ping(WITHIN).await, Err(StoreError::ReadOnly));
    assert!(!fleet.health().connected, "{:?}", fleet.health());
    // A new connection leads to the same replica: it is not taken.
    let refused = || async {
        let why = fleet.health().why;
        why == Some(StoreError::ReadOnly) && fleet.ping(WITHIN).await.is_err()
    };
    until("the replica is refused", refused).await;

    server.tell("REPLICAOF NO ONE").await;
    let took = until_it_works(&fleet).await;
    assert!(took < SOON, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_the_server_has_forgotten_are_sent_again_within_the_same_call() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let fleet = Fleet::connect(server.url()).await.unwrap();
    for _ in 0..50 {
        server.tell("SCRIPT FLUSH").await;
        fleet.ping(Duration::from_secs(10)).await.unwrap();
    }
    let scripts: String = server.ask("INFO memory").await.unwrap();
    assert!(scripts.contains("number_of_cached_scripts:1"), "{scripts}");
    assert_eq!(fleet.health().connections, 1);
}

/// The heart of it: whatever goes wrong, a call ends in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_goes_on_beyond_its_deadline_under_any_fault() {
    let Some(mut server) = Server::start(&[]).await else {
        return;
    };
    let mut proxy = Proxy::before(server.address()).await;
    let fleet = Fleet::connect(proxy.url()).await.unwrap();
    let within = Duration::from_millis(40);
    let faults = [
        "none",
        "slow",
        "frozen",
        "half open",
        "swallowed",
        "reset",
        "refused",
        "killed",
    ];
    for fault in faults {
        until_it_works(&fleet).await;
        let calling = tokio::spawn({
            let fleet = fleet.clone();
            async move { callers(&fleet, 32, within, Duration::from_millis(700)).await }
        });
        sleep(Duration::from_millis(50)).await;
        match fault {
            "slow" => proxy.delay(Duration::from_millis(50)),
            "frozen" => server.freeze(),
            "half open" => proxy.swallow_what_stands(),
            "swallowed" => proxy.swallow_all(),
            "reset" => proxy.reset(),
            "refused" => proxy.refuse().await,
            "killed" => server.kill(),
            _ => {}
        }
        let calls = calling.await.unwrap();
        match fault {
            "frozen" => server.thaw(),
            "killed" => server.restart().await,
            _ => {}
        }
        proxy.heal().await;
        let late = calls.iter().map(|call| call.late).max().unwrap();
        let took = calls.iter().map(|call| call.took).max().unwrap();
        let failed = calls.iter().filter(|call| call.answer.is_err()).count();
        assert!(
            late <= GRACE,
            "{fault}: {late:?}; {failed} of {} failed",
            calls.len()
        );
        // Whatever the machine does besides.
        assert!(took < within * 10, "{fault}: {took:?}");
        match fault {
            // A machine that is busy may stand still for longer than these deadlines.
            "none" => assert!(failed < calls.len(), "{failed} of {}", calls.len()),
            // The next connection is made at once, and all that were not under way wait for it.
            "reset" => assert!(failed * 2 < calls.len(), "{failed} of {}", calls.len()),
            _ => assert!(failed > 64, "{fault}: {failed}"),
        }
    }
    until_it_works(&fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_is_dropped_ends_its_tasks_and_its_connections() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let metrics = tokio::runtime::Handle::current().metrics();
    let tasks = metrics.num_alive_tasks();
    let connected = || async {
        let list: String = server.ask("CLIENT LIST").await.unwrap();
        list.lines()
            .filter(|line| line.contains("name=shop:"))
            .count()
    };
    let fleet = Fleet::builder(server.url())
        .namespace("shop")
        .connect()
        .await
        .unwrap();
    fleet.ping(WITHIN).await.unwrap();
    let clone = fleet.clone();
    assert_eq!(connected().await, 2);
    assert!(metrics.num_alive_tasks() > tasks);

    drop(fleet);
    clone.ping(WITHIN).await.unwrap();
    drop(clone);
    until("its connections have ended", || async {
        connected().await == 0
    })
    .await;
    until("its tasks have ended", || async {
        metrics.num_alive_tasks() <= tasks
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_is_dropped_while_its_server_is_away_ends_as_well() {
    let Some(mut server) = Server::start(&[]).await else {
        return;
    };
    let fleet = Fleet::connect(server.url()).await.unwrap();
    server.kill();
    until_it_is_known(&fleet).await;
    drop(fleet);
    let metrics = tokio::runtime::Handle::current().metrics();
    until("its tasks have ended", || async {
        metrics.num_alive_tasks() == 0
    })
    .await;
    server.restart().await;
    let before: String = server.ask("INFO stats").await.unwrap();
    assert!(before.contains("pubsub_channels:0") || !before.contains("pubsub_channels"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_come_again_after_their_connection_was_lost_and_that_some_may_be_missing_is_told()
{
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let fleet = Fleet::connect(server.url()).await.unwrap();
    let heard = || async { fleet.health().messages };
    // That of the check at the start may have been sent before it listened.
    let before = heard().await;
    fleet.ping(WITHIN).await.unwrap();
    until("a message comes", || async { heard().await > before }).await;
    assert_eq!(fleet.health().gaps, 0);

    for round in 1..4 {
        let killed: usize = server.ask("CLIENT KILL TYPE pubsub").await.unwrap();
        assert_eq!(killed, 1);
        until("the gap is told", || async { fleet.health().gaps == round }).await;
        assert!(fleet.health().inbox_connected);
        let before = heard().await;
        fleet.ping(WITHIN).await.unwrap();
        until("a message comes", || async { heard().await == before + 1 }).await;
    }
    // Calls have a connection of their own.
    assert_eq!(fleet.health().connections, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_does_nothing_sends_at_most_one_command_a_second() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let fleet = Fleet::connect(server.url()).await.unwrap();
    let asked = || async {
        let stats: String = server.ask("INFO commandstats").await.unwrap();
        let line = stats
            .lines()
            .find_map(|line| line.strip_prefix("cmdstat_ping:calls="));
        line.map_or(0, |line| {
            line.split(',').next().unwrap().parse::<u32>().unwrap()
        })
    };
    let before = asked().await;
    sleep(Duration::from_millis(6500)).await;
    let pings = asked().await - before;
    // Every two seconds on one connection, every five on the other.
    assert!((2..=6).contains(&pings), "{pings}");
    assert!(fleet.health().connected);
}
