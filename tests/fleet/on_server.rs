//! Rate limits and breakers of several processes on a real server, in real time; and their scripts as in production.
#![expect(clippy::disallowed_methods, reason = "real servers run in real time")]

use std::time::Duration;

use tokio::time::Instant;
use tower_bulwark::fleet::rate_limit::FleetReservation;
use tower_bulwark::fleet::{Fleet, SharedBreaker};
use tower_bulwark::rate_limit::Quota;
use tower_bulwark::{CircuitBreaker, CircuitState};

use super::support::server::Server;
use super::support::{now, since, until};

const TAKE: &str = include_str!("../../src/fleet/rate_limit/lua/take.lua");
const SETTLE: &str = include_str!("../../src/fleet/rate_limit/lua/settle.lua");
const BEAT: &str = include_str!("../../src/fleet/rate_limit/lua/beat.lua");
const BREAKER: &str = include_str!("../../src/fleet/breaker/lua/breaker.lua");

/// As in production: no time is injected, and no key is kept longer than it says something.
#[tokio::test]
async fn the_scripts_go_by_the_clock_of_the_server_and_leave_no_key_behind() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let mut connection = server.connect().await.unwrap();
    let eval = |code: &'static str, key: &'static str, args: &[&str]| {
        let mut command = redis::cmd("EVAL");
        command.arg(code).arg(2).arg(key).arg("pause");
        command.arg("").arg(args);
        command
    };
    // 10 in 10 s, and 6 of them.
    let take = eval(TAKE, "level", &["0", "1", "1000000", "10", "6", "6"]);
    let reply: Vec<u64> = take.query_async(&mut connection).await.unwrap();
    assert_eq!(reply, [1, 0, 0, 6, 4]);
    let reply: Vec<u64> = take.query_async(&mut connection).await.unwrap();
    assert_eq!(reply[..3], [0, 0, 0]);
    assert!((1_000_000..=2_000_000).contains(&reply[3]), "{reply:?}");

    let mut left = redis::cmd("PTTL");
    let ttl: u64 = left
        .arg("level")
        .query_async(&mut connection)
        .await
        .unwrap();
    // As long as it takes to be full again, and a second.
    assert!((6_000..=7_010).contains(&ttl), "{ttl}");

    let back = eval(
        SETTLE,
        "level",
        &["0", "events", "n", "1", "1000000", "10", "5", "0", "10"],
    );
    let _: Vec<u64> = back.query_async(&mut connection).await.unwrap();
    let reply: Vec<u64> = take.query_async(&mut connection).await.unwrap();
    assert_eq!(reply[0], 1);

    let beat = eval(BEAT, "nodes", &["node-0", "15000000"]);
    let reply: [u64; 2] = beat.query_async(&mut connection).await.unwrap();
    assert_eq!(reply, [1, 0]);
    let ttl: u64 = redis::cmd("PTTL")
        .arg("nodes")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert!((10_000..=15_000).contains(&ttl), "{ttl}");

    let pause = eval(SETTLE, "level", &["3000000", "events", "n"]);
    let _: Vec<u64> = pause.query_async(&mut connection).await.unwrap();
    let [_, paused]: [u64; 2] = beat.query_async(&mut connection).await.unwrap();
    assert!((2_000_000..=3_000_000).contains(&paused), "{paused}");
    let reply: Vec<u64> = take.query_async(&mut connection).await.unwrap();
    assert_eq!((reply[0], reply[2]), (0, 1), "{reply:?}");
    assert!((2_000_000..=3_000_000).contains(&reply[3]), "{reply:?}");
    let ttl: u64 = redis::cmd("PTTL")
        .arg("pause")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert!((3_000..=4_010).contains(&ttl), "{ttl}");

    // A key that is something else is an error, and stays what it is.
    let _: () = redis::cmd("RPUSH")
        .arg("list")
        .arg(1)
        .query_async(&mut connection)
        .await
        .unwrap();
    for (code, args) in [
        (TAKE, &["0", "1", "1000000", "10", "6", "6"][..]),
        (
            SETTLE,
            &["0", "events", "n", "1", "1000000", "10", "5", "0", "10"][..],
        ),
    ] {
        let misused = eval(code, "list", args)
            .query_async::<redis::Value>(&mut connection)
            .await;
        assert_eq!(misused.unwrap_err().code(), Some("WRONGTYPE"));
    }
}

/// Eight processes on a real server, as they connect.
#[tokio::test]
async fn eight_processes_on_a_server_pass_what_one_may_and_go_on_while_it_is_frozen() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let quota = Quota::per_second(2_000).burst(400);
    let (mut fleets, mut limits) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        let fleet = Fleet::builder(server.url()).connect().await.unwrap();
        let limit = fleet.rate_limit("api").quota("calls", quota);
        limits.push(limit.leased().expected_nodes(8).build().unwrap());
        fleets.push(fleet);
    }
    let begin = Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for limit in &limits {
        let limit = limit.clone();
        callers.spawn(async move {
            let mut passed = Vec::new();
            while Instant::now() - begin < Duration::from_secs(3) {
                match limit.try_acquire(1).await {
                    Ok(_) => passed.push(Instant::now() - begin),
                    Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
            passed
        });
    }
    let passed = callers.join_all().await.concat();
    let took = (Instant::now() - begin).as_secs_f64();
    let all = passed.len();
    assert!(all as f64 <= 400.0 + 2_000.0 * took, "{all} in {took} s");
    // In each half of a second after the first, which has the burst. A busy machine may spoil some of them.
    let halves = (1..6).map(|half| {
        let half = Duration::from_millis(500 * half)..Duration::from_millis(500 * (half + 1));
        passed.iter().filter(|it| half.contains(*it)).count()
    });
    let halves: Vec<_> = halves.collect();
    assert!(halves.iter().any(|it| *it > 700), "{halves:?}");

    server.freeze();
    let (mut local, mut took) = (0, Vec::new());
    for _ in 0..200 {
        let began = Instant::now();
        local += u32::from(limits[0].try_acquire(1).await.is_ok_and(|it| it.is_local()));
        took.push(Instant::now() - began);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    server.thaw();
    assert!(local > 0);
    // A timeout now and then, and no other wait. What a busy machine adds comes to few of them.
    took.sort();
    assert!(took[190] < Duration::from_millis(400), "{took:?}");
    until("the limit is shared again", async || {
        limits[0].snapshot().degraded_for.is_none()
    })
    .await;
}

/// As in production: no time is injected.
#[tokio::test]
async fn the_script_goes_by_the_clock_of_the_server() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let mut connection = server.connect().await.unwrap();
    let eval = |args: &[&str]| {
        let mut command = redis::cmd("EVAL");
        command
            .arg(BREAKER)
            .arg(3)
            .arg("state")
            .arg("failing")
            .arg("opened")
            .arg("")
            .arg(args);
        command
    };
    // Two of two calls failed: that is enough here, for two seconds.
    let bad = [
        "report", "node-0", "channel", "0", "0", "2", "0", "1000000", "2", "500", "1", "2000000",
    ];
    let reply: Vec<u64> = eval(&bad).query_async(&mut connection).await.unwrap();
    assert_eq!(reply, [1, 1, 2_000_000]);
    let reply: Vec<u64> = eval(&["lease", "node-0", "channel", "1", "1000"])
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(reply[..1], [0]);
    assert!((1..2_000_000).contains(&reply[1]), "{reply:?}");
    let ttl: u64 = redis::cmd("PTTL")
        .arg("state")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert!(ttl > 80_000_000, "{ttl}");
}

/// Eight processes on a real server, as they connect.
#[tokio::test]
async fn all_processes_on_a_server_open_within_a_tenth_of_a_second_of_a_trip() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let settings = SharedBreaker {
        min_nodes: 1,
        ..SharedBreaker::default()
    };
    let (mut fleets, mut shares) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        let fleet = Fleet::builder(server.url()).connect().await.unwrap();
        let breaker = CircuitBreaker::new("api");
        shares.push(fleet.share(&breaker, settings).unwrap());
        fleets.push(fleet);
    }
    until("all have joined", async || {
        shares
            .iter()
            .all(|it| it.snapshot().answered_before.is_some())
    })
    .await;
    let mut took = Vec::new();
    for round in 0..10 {
        let began = now();
        for _ in 0..5 {
            shares[round % 8].breaker().try_acquire().unwrap().failure();
        }
        until("all are open", async || {
            shares
                .iter()
                .all(|it| it.breaker().state() == CircuitState::Open)
        })
        .await;
        took.push(since(began));
        for share in &shares {
            share.breaker().force_close();
        }
        // So that the next is a change too: nobody probes within a minute.
        server.tell("FLUSHALL").await;
        for share in &shares {
            share.breaker().try_acquire().unwrap().success();
        }
        until("the fleet is closed", async || {
            shares.iter().all(|it| {
                it.breaker().try_acquire().unwrap().success();
                !it.snapshot().fleet_is_open
            })
        })
        .await;
    }
    // The last of all. Of ten rounds a busy machine may spoil some.
    took.sort();
    assert!(took[5] < Duration::from_millis(100), "{took:?}");
}

/// A server that is full, or that has become a replica, answers all that would write with an error.
#[tokio::test]
async fn a_server_that_takes_no_writes_is_as_good_as_away_until_it_takes_them_again() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let refusals = [
        ["CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"],
        ["REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"],
    ];
    for (i, [refuse, take]) in refusals.into_iter().enumerate() {
        let fleet = Fleet::builder(server.url()).connect().await.unwrap();
        let quota = Quota::per_second(1_000).burst(500);
        let limit = |leased: bool| {
            let limit = fleet.rate_limit(format!("{i}-{leased}"));
            let limit = limit.quota("calls", quota).expected_nodes(1);
            let limit = if leased {
                limit.leased()
            } else {
                limit.exact()
            };
            limit.build().unwrap()
        };
        let limits = [limit(false), limit(true)];
        let settings = SharedBreaker {
            min_nodes: 1,
            ..SharedBreaker::default()
        };
        let breaker = CircuitBreaker::builder(format!("breaker-{i}"));
        let breaker = breaker.recovery_timeout(Duration::from_millis(300));
        let share = fleet.share(&breaker.build().unwrap(), settings).unwrap();
        until("all have joined", async || {
            limits.iter().all(|it| it.snapshot().nodes == 1)
                && share.snapshot().answered_before.is_some()
        })
        .await;

        server.tell(refuse).await;
        until("both limits go by their share", async || {
            let mut local = 0;
            for limit in &limits {
                let reserved = limit.acquire(1).await.unwrap();
                local += usize::from(reserved.is_local());
            }
            local == limits.len()
        })
        .await;
        for _ in 0..5 {
            share.breaker().try_acquire().unwrap().failure();
        }
        // It opens, probes and closes alone.
        until("the breaker has closed by itself", async || {
            share
                .breaker()
                .try_acquire()
                .into_iter()
                .for_each(|it| it.success());
            share.breaker().state() == CircuitState::Closed
        })
        .await;
        assert!(share.snapshot().failed > 0);

        server.tell(take).await;
        until("all are shared again", async || {
            let mut shared = 0;
            for limit in &limits {
                let reserved = limit.acquire(1).await.unwrap();
                shared += usize::from(!reserved.is_local());
            }
            share
                .breaker()
                .try_acquire()
                .into_iter()
                .for_each(|it| it.success());
            shared == limits.len() && share.snapshot().away_for.is_none()
        })
        .await;
        let other = CircuitBreaker::new(format!("breaker-{i}"));
        let other = fleet.share(&other, settings).unwrap();
        for _ in 0..5 {
            share.breaker().try_acquire().unwrap().failure();
        }
        until("the other hears of it", async || {
            other.breaker().state() == CircuitState::Open
        })
        .await;
    }
}

/// More than a server answers within the time that a question may take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_who_come_at_once_to_an_exact_limit_do_not_send_the_store_away() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let fleet = Fleet::builder(server.url()).connect().await.unwrap();
    let quota = Quota::per_second(1).burst(20_000);
    let limit = fleet.rate_limit("api").quota("calls", quota).exact();
    let limit = limit.build().unwrap();
    limit.acquire(1).await.unwrap();
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..10_000 {
        let limit = limit.clone();
        all.spawn(async move { limit.acquire(1).await });
    }
    let all = all.join_all().await;
    let passed: Vec<_> = all.into_iter().filter_map(Result::ok).collect();
    let local = passed.iter().filter(|it| it.is_local()).count();
    assert_eq!((passed.len(), local), (10_000, 0));
    // Nor if they all give back at once.
    passed.into_iter().for_each(FleetReservation::cancel);
    until("all have come back", async || {
        limit.try_acquire(0).await.is_ok() && limit.snapshot().left[0] >= 19_990
    })
    .await;
    let seen = (limit.snapshot().totals.failed, fleet.health().connections);
    assert_eq!(seen, (0, 1));
}

/// By a message on the channel of the fleet, and not by the next answer: neither asks for anything.
#[tokio::test]
async fn a_pause_that_one_process_has_heard_of_stops_the_others_within_a_tenth_of_a_second() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let (mut fleets, mut limits) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let fleet = Fleet::builder(server.url()).connect().await.unwrap();
        // A name that has what messages and keys are made of in it.
        let limit = fleet
            .rate_limit("a|p{i}")
            .quota("calls", Quota::per_second(50));
        limits.push(limit.build().unwrap());
        fleets.push(fleet);
    }
    for limit in &limits {
        limit.acquire(1).await.unwrap();
    }
    let others = fleets[0]
        .rate_limit("other")
        .quota("calls", Quota::per_second(50));
    let other = others.build().unwrap();
    // They have asked long ago, and do not ask again for seconds.
    tokio::time::sleep(Duration::from_millis(200)).await;
    limits[0].pause(Duration::from_secs(30));
    let all_pause = || limits.iter().all(|it| it.snapshot().paused_for.is_some());
    let took = until("all pause", async || all_pause()).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(other.snapshot().paused_for, None);
    let left = limits[1].snapshot().paused_for.unwrap();
    assert!(left <= Duration::from_secs(30), "{left:?}");
}
