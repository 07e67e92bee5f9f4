//! A server that is frozen, killed and comes back empty; and a network that swallows, resets and delays.

use std::time::Duration;

use tokio::time::sleep;

use super::super::support::now;
use super::super::support::proxy::Proxy;
use super::super::support::rng::Rng;
use super::super::support::server::Server;
use super::crew::Crew;
use super::ledger::Ledger;
use super::processes::all_is_drained;
use super::watch::Watch;
use super::{EXACT, LEASED, MAX, NODES, goes_on, length, ms};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_frozen_again_and_again_breaks_no_promise() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let watch = Watch::over(server.url());
    let crew = Crew::start(4, server.url(), "lock,limits,breaker", 200).await;
    let mut rng = Rng::new(11);
    let began = now();
    let is_enough = || {
        let ledger = Ledger(crew.so_far());
        let alone = |name| !ledger.passed(name, true).is_empty();
        watch.so_far().polls > 100 && alone("exact") && alone("leased")
    };
    while goes_on(began, length(ms(5_000)), is_enough) {
        sleep(ms(rng.between(400, 900).unsigned_abs())).await;
        server.freeze();
        sleep(ms(rng.between(20, 900).unsigned_abs())).await;
        server.thaw();
    }
    sleep(ms(500)).await;
    let ledger = Ledger(crew.end());
    all_is_drained(&server, false).await;
    let seen = watch.end();
    assert!(seen.polls > 100, "{}", seen.polls);
    ledger.leases_are_obeyed("frozen");
    ledger.calls_end_in_time("frozen");
    ledger.breaker_commands("frozen");
    for (name, quota) in [("exact", EXACT), ("leased", LEASED)] {
        ledger.quota_is_kept(name, quota, 0, "frozen");
        ledger.shares_are_kept(name, quota, NODES, "frozen");
        assert!(
            !ledger.passed(name, true).is_empty(),
            "{name} did not go on alone"
        );
    }
}

/// Killed and started again, empty.
async fn restarted(grace: bool) -> Option<(Ledger, u64)> {
    let mut server = Server::start(&[]).await?;
    let watch = Watch::over(server.url());
    let parts = if grace {
        "lock,limits,grace"
    } else {
        "lock,limits"
    };
    // Long enough that a lease has been renewed and outlives the restart.
    let crew = Crew::start(4, server.url(), parts, 3_000).await;
    let mut rng = Rng::new(13);
    let (began, mut restarts) = (now(), 0);
    let is_enough = || Ledger(crew.so_far()).beliefs().len() > 6;
    while goes_on(began, length(ms(5_000)), is_enough) {
        // So that the grace is over, and leases are there.
        sleep(ms(rng.between(1_300, 1_800).unsigned_abs())).await;
        server.kill();
        sleep(ms(rng.between(0, 300).unsigned_abs())).await;
        server.restart().await;
        restarts += 1;
    }
    sleep(ms(1_000)).await;
    let ledger = Ledger(crew.end());
    all_is_drained(&server, grace).await;
    watch.end();
    Some((ledger, restarts))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_empty_admits_nobody_beside_those_who_hold_with_grace() {
    let Some((ledger, restarts)) = restarted(true).await else {
        return;
    };
    assert!(ledger.beliefs().len() > 6, "{}", ledger.beliefs().len());
    ledger.leases_are_obeyed("empty, with grace");
    ledger.calls_end_in_time("empty, with grace");
    for (name, quota) in [("exact", EXACT), ("leased", LEASED)] {
        ledger.quota_is_kept(name, quota, restarts, "empty, with grace");
        ledger.shares_are_kept(name, quota, NODES, "empty, with grace");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_empty_admits_as_many_again_at_most_without_grace() {
    let Some((ledger, _)) = restarted(false).await else {
        return;
    };
    let most = ledger.most_at_once();
    assert!(most <= 2 * MAX, "{most}");
    ledger.tokens_rise("empty");
    ledger.calls_end_in_time("empty");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_swallows_resets_and_delays_breaks_no_promise() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let mut proxy = Proxy::before(server.address()).await;
    let watch = Watch::over(server.url());
    let crew = Crew::start(4, proxy.url(), "lock,limits,breaker", 200).await;
    let began = now();
    let faulty = length(ms(5_000));
    let is_enough = || {
        let seen = watch.so_far();
        seen.polls > 500 && seen.most == MAX
    };
    while goes_on(began, faulty, is_enough) {
        for fault in 0..5 {
            match fault {
                0 => proxy.delay(ms(5)),
                1 => proxy.delay(ms(50)),
                2 => proxy.swallow_what_stands(),
                3 => proxy.reset(),
                _ => proxy.swallow_all(),
            }
            sleep(if fault == 4 { ms(700) } else { ms(800) }).await;
            proxy.heal().await;
            sleep(ms(300)).await;
        }
    }
    sleep(Duration::from_secs(1)).await;
    let ledger = Ledger(crew.end());
    all_is_drained(&server, false).await;
    let seen = watch.end();
    assert!(seen.polls > 500 && seen.most == MAX, "{seen:?}");
    ledger.leases_are_obeyed("network");
    ledger.calls_end_in_time("network");
    ledger.breaker_commands("network");
    for (name, quota) in [("exact", EXACT), ("leased", LEASED)] {
        ledger.quota_is_kept(name, quota, 0, "network");
        ledger.shares_are_kept(name, quota, NODES, "network");
    }
}
