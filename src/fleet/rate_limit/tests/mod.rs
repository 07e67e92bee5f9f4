//! The handle over both stores, in virtual time: what passes, how often the store is asked, and what happens without it.

mod edges;
mod line;
mod pause;
mod random;
mod stores;
mod trouble;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use self::stores::{Counting, stores};
use super::builder::FleetRateLimitBuilder;
use super::core::{Answered, Ask, Change};
use super::listener::Listener;
use super::store::{Answer, Limit, RateStore};
use super::{FleetRateLimit, FleetReservation};
use crate::call::deadline::{self, Deadline};
use crate::error::{RateLimitReason, RateLimited};
use crate::fleet::names::Names;
use crate::fleet::reporter::Reporter;
use crate::fleet::{Fleet, StoreError};
use crate::rate_limit::Quota;
use crate::util::time;

fn builder(store: &Arc<Counting>, node: usize) -> FleetRateLimitBuilder {
    let store: Arc<dyn RateStore> = store.clone();
    let names = Names::new("test", Some(&format!("node-{node}"))).unwrap();
    FleetRateLimitBuilder::new("api".into(), store, names, Reporter::of_a_test()).expected_nodes(1)
}

/// So many processes, which know of each other.
async fn nodes(
    store: &Arc<Counting>,
    n: usize,
    set_up: impl Fn(FleetRateLimitBuilder) -> FleetRateLimitBuilder,
) -> Vec<FleetRateLimit> {
    let make = |i| set_up(builder(store, i)).build().unwrap();
    let nodes: Vec<_> = (0..n).map(make).collect();
    // Until each has told that it is there, and heard of the others.
    sleep(Duration::from_secs(6)).await;
    assert!(nodes.iter().all(|it| it.snapshot().nodes == n as u64));
    nodes
}

async fn try_one(limit: &FleetRateLimit) -> Result<FleetReservation, RateLimited> {
    limit.try_acquire(1).await
}

/// When a call passed.
type Log = Arc<Mutex<Vec<Instant>>>;

fn elapsed(since: Instant) -> Duration {
    time::now().to_instant().duration_since(since)
}

/// Every node offers so many calls a second for so long.
async fn offer(nodes: &[FleetRateLimit], each: u64, length: Duration) -> Vec<Instant> {
    let (log, begin) = (Log::default(), time::now().to_instant());
    let every = Duration::from_secs(1) / u32::try_from(each).unwrap();
    let callers: Vec<_> = nodes
        .iter()
        .enumerate()
        .map(|(i, limit)| {
            let (limit, log) = (limit.clone(), Arc::clone(&log));
            tokio::spawn(async move {
                sleep(every / 16 * u32::try_from(i).unwrap()).await;
                let mut due = time::now().to_instant();
                while elapsed(begin) < length {
                    let (limit, log) = (limit.clone(), Arc::clone(&log));
                    tokio::spawn(async move {
                        if try_one(&limit).await.is_ok() {
                            log.lock().unwrap().push(time::now().to_instant());
                        }
                    });
                    due += every;
                    tokio::time::sleep_until(due).await;
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    let mut log = std::mem::take(&mut *log.lock().unwrap());
    log.sort_unstable();
    log
}

/// No stretch of time holds more than the burst, and what it and one trip to the store earn.
fn assert_windows(log: &[Instant], quota: Quota, what: &str) {
    let rate = quota.amount as f64 / quota.period.as_secs_f64();
    // A decision of the store arrives up to one trip later, and the timers have milliseconds.
    let slack = 0.002;
    for (i, from) in log.iter().enumerate() {
        for (j, to) in log.iter().enumerate().skip(i) {
            let length = to.duration_since(*from).as_secs_f64() + slack;
            let most = quota.burst as f64 + rate * length;
            let passed = (j - i + 1) as f64;
            assert!(
                passed <= most + 1e-6,
                "{what}: {passed} in {length} s, {most} may"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_window_of_a_busy_fleet_holds_more_than_the_quota() {
    let quota = Quota::per_second(500).burst(100);
    for leased in [false, true] {
        for store in stores() {
            let set_up = |it: FleetRateLimitBuilder| {
                let it = it.quota("calls", quota);
                if leased { it.leased() } else { it.exact() }
            };
            let nodes = nodes(&store, 8, set_up).await;
            let before = store.takes();
            let log = offer(&nodes, 250, Duration::from_secs(3)).await;
            let what = format!("leased: {leased}");
            assert_windows(&log, quota, &what);
            let passed = log.len() as f64;
            // 1,600 may pass; who leases keeps something back.
            assert!(passed > 1_450.0, "{what}: {passed}");
            let commands = (store.takes() - before) as f64 / 6_000.0;
            let most = if leased { 0.4 } else { 1.0 };
            assert!(commands <= most, "{what}: {commands} a decision");
        }
    }
}

/// The worst that leases can do: all processes have leased all they may, keep it until the bucket has filled again, and
/// then spend everything at once.
#[tokio::test(start_paused = true)]
async fn tokens_that_are_hoarded_and_a_full_bucket_are_no_more_than_the_burst() {
    for store in stores() {
        let quota = Quota::per_second(1_000).burst(400);
        let nodes = nodes(&store, 8, |it| it.quota("calls", quota).leased()).await;
        for node in &nodes {
            // A batch that was used up is followed by one of twice the size.
            for _ in 0..63 {
                try_one(node).await.unwrap();
            }
            sleep(Duration::from_secs(1)).await;
        }
        for node in &nodes {
            try_one(node).await.unwrap();
        }
        let leased = |it: &FleetRateLimit| it.snapshot().leased[0];
        let hoarded: u64 = nodes.iter().map(leased).sum();
        assert!(hoarded > 200, "{hoarded}");
        sleep(Duration::from_millis(90)).await;
        let mut log = Vec::new();
        for node in &nodes {
            while leased(node) > 0 {
                try_one(node).await.unwrap();
                log.push(time::now().to_instant());
            }
        }
        for node in &nodes {
            while try_one(node).await.is_ok() {
                log.push(time::now().to_instant());
            }
        }
        assert!(log.len() > 300, "{}", log.len());
        assert_windows(&log, quota, "hoarded");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_asks_for_batches_fifty_times_a_second_at_most_whatever_the_traffic() {
    for store in stores() {
        // Each of the two offers half of what is allowed, then twice as much.
        let quota = Quota::per_second(2_000);
        let nodes = nodes(&store, 2, |it| it.quota("calls", quota)).await;
        assert!(nodes[0].snapshot().leases.is_some());
        for offered in [900, 4_000] {
            let before = store.takes();
            let log = offer(&nodes, offered, Duration::from_secs(2)).await;
            assert_windows(&log, quota, "two");
            let commands = store.takes() - before;
            assert!(commands <= 2 * 2 * 50, "{offered}: {commands}");
            let refused: u64 = nodes.iter().map(|it| it.snapshot().totals.refused).sum();
            assert_eq!(refused > 0, offered == 4_000);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn callers_that_come_together_ask_once() {
    for store in stores() {
        let limit = builder(&store, 0)
            .quota("calls", Quota::per_second(10_000))
            .build()
            .unwrap();
        let callers: Vec<_> = (0..100)
            .map(|_| {
                let limit = limit.clone();
                tokio::spawn(async move { limit.acquire(1).await.map(drop) })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap().unwrap();
        }
        assert_eq!(store.most_at_once.load(Ordering::Relaxed), 1);
        // A batch doubles until it is enough.
        assert!(store.takes() <= 8, "{}", store.takes());
    }
}

#[tokio::test(start_paused = true)]
async fn leased_tokens_that_are_not_used_die() {
    for store in stores() {
        let limit = builder(&store, 0)
            .quota("calls", Quota::per_second(10_000))
            .build()
            .unwrap();
        for _ in 0..4 {
            try_one(&limit).await.unwrap();
        }
        let leased = limit.snapshot().leased[0];
        assert!(leased > 0);
        sleep(Duration::from_millis(101)).await;
        assert_eq!(limit.snapshot().leased[0], 0);
        let before = store.takes();
        try_one(&limit).await.unwrap();
        assert_eq!(store.takes() - before, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn the_store_is_not_asked_again_before_the_time_that_it_has_named() {
    for store in stores() {
        let quota = Quota::per_second(10).burst(1);
        let limit = builder(&store, 0).quota("calls", quota).build().unwrap();
        try_one(&limit).await.unwrap();
        let refused = try_one(&limit).await.unwrap_err();
        let before = store.takes();
        for _ in 0..50 {
            assert!(try_one(&limit).await.is_err());
        }
        assert_eq!(store.takes(), before);
        sleep(refused.retry_after().unwrap()).await;
        try_one(&limit).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn turns_come_in_the_order_of_the_whole_fleet_and_one_question_is_enough() {
    for store in stores() {
        let quota = Quota::per_second(10).burst(1);
        let nodes = nodes(&store, 3, |it| it.quota("calls", quota)).await;
        let (begin, before) = (time::now().to_instant(), store.takes());
        let (order, mut callers) = (Arc::new(Mutex::new(Vec::new())), Vec::new());
        for i in 0..9_usize {
            let (limit, order) = (nodes[i % 3].clone(), Arc::clone(&order));
            callers.push(tokio::spawn(async move {
                limit.acquire(1).await.unwrap();
                order
                    .lock()
                    .unwrap()
                    .push((i, elapsed(begin).as_millis() / 100));
            }));
            sleep(Duration::from_millis(2)).await;
        }
        for caller in callers {
            caller.await.unwrap();
        }
        let expected: Vec<_> = (0..9).map(|i| (i, i as u128)).collect();
        assert_eq!(*order.lock().unwrap(), expected);
        assert_eq!(store.takes() - before, 9);
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_gives_its_turn_back() {
    for store in stores() {
        let quota = Quota::per_hour(1);
        let limit = |node| {
            let limit = builder(&store, node).quota("calls", quota);
            limit.max_wait(Duration::from_secs(9_000)).build().unwrap()
        };
        let (one, two) = (limit(0), limit(1));
        one.acquire(1).await.unwrap();
        let waits = timeout(Duration::from_secs(1), one.acquire(1)).await;
        assert!(waits.is_err());
        sleep(Duration::from_millis(10)).await;
        assert_eq!(one.snapshot().totals.abandoned, 1);
        let begin = time::now().to_instant();
        two.acquire(1).await.unwrap();
        // Not two hours.
        assert!(elapsed(begin) < Duration::from_secs(3_601));
    }
}

#[tokio::test(start_paused = true)]
async fn all_shares_together_are_the_limit_while_the_store_is_away() {
    for store in stores() {
        let quota = Quota::per_second(100).burst(40);
        let nodes = nodes(&store, 4, |it| it.quota("calls", quota).exact()).await;
        store.is_away.store(true, Ordering::Relaxed);
        let log = offer(&nodes, 100, Duration::from_secs(4)).await;
        assert_windows(&log, quota, "away");
        assert!(log.len() > 400, "{}", log.len());
        for node in &nodes {
            let snapshot = node.snapshot();
            assert!(snapshot.degraded_for.unwrap() > Duration::from_secs(4));
            assert_eq!(snapshot.totals.local, snapshot.totals.passed);
            // Callers do not pay for finding out: one has.
            assert!(snapshot.totals.asked <= 1, "{snapshot:?}");
        }
        store.is_away.store(false, Ordering::Relaxed);
        sleep(Duration::from_millis(250)).await;
        for node in &nodes {
            assert_eq!(node.snapshot().degraded_for, None);
            assert!(!try_one(node).await.unwrap().is_local());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_has_never_heard_of_others_goes_by_the_number_it_was_told() {
    let store = Counting::around(Fleet::in_process().shared);
    store.is_away.store(true, Ordering::Relaxed);
    let quota = Quota::per_hour(100);
    let limit = builder(&store, 0).expected_nodes(20).quota("calls", quota);
    let limit = limit.build().unwrap();
    let mut passed = 0;
    for _ in 0..100 {
        passed += usize::from(try_one(&limit).await.is_ok());
    }
    assert_eq!(passed, 5);
}

#[tokio::test(start_paused = true)]
async fn what_others_had_used_before_the_store_went_away_is_gone_for_all() {
    for store in stores() {
        let quota = Quota::per_hour(100);
        let nodes = nodes(&store, 2, |it| it.quota("calls", quota)).await;
        nodes[0].acquire(90).await.unwrap();
        nodes[1].acquire(1).await.unwrap();
        store.is_away.store(true, Ordering::Relaxed);
        let mut passed = 0;
        for _ in 0..100 {
            passed += usize::from(try_one(&nodes[1]).await.is_ok());
        }
        assert_eq!(passed, 4); // Half of the nine that are left.
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_costs_one_timeout_and_never_more_than_the_deadline() {
    let store = Counting::around(Fleet::in_process().shared);
    let quota = Quota::per_second(50);
    let limit = builder(&store, 0).quota("calls", quota).build().unwrap();
    sleep(Duration::from_millis(10)).await;
    store.hangs.store(true, Ordering::Relaxed);

    let begin = time::now().to_instant();
    let within = Deadline::after(Duration::from_millis(20));
    let refused = deadline::scope(within, limit.acquire(1)).await.unwrap_err();
    assert_eq!(refused.reason(), RateLimitReason::DeadlineExceeded);
    assert_eq!(elapsed(begin).as_millis(), 20);

    try_one(&limit).await.unwrap();
    let took = elapsed(begin);
    assert!((120..=122).contains(&took.as_millis()), "{took:?}");
    for _ in 0..10 {
        assert!(try_one(&limit).await.unwrap().is_local());
    }
    assert_eq!(elapsed(begin), took);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_costs_more_than_a_batch_is_not_starved_by_small_ones() {
    for store in stores() {
        let quota = Quota::per_second(1_000).burst(400);
        let nodes = nodes(&store, 4, |it| it.quota("tokens", quota).leased()).await;
        let offered = nodes.clone();
        let small = tokio::spawn(async move { offer(&offered, 500, Duration::from_secs(3)).await });
        sleep(Duration::from_millis(500)).await;
        let begin = time::now().to_instant();
        nodes[0].acquire(300).await.unwrap();
        let took = elapsed(begin);
        assert!(took < Duration::from_millis(400), "{took:?}");
        small.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn waiters_of_one_process_are_served_in_order_from_leases() {
    for store in stores() {
        let quota = Quota::per_second(200).burst(20);
        let limit = builder(&store, 0).quota("calls", quota).leased();
        let limit = limit.build().unwrap();
        let (order, mut callers) = (Arc::new(Mutex::new(Vec::new())), Vec::new());
        for i in 0..60 {
            let (limit, order) = (limit.clone(), Arc::clone(&order));
            callers.push(tokio::spawn(async move {
                limit.acquire(1).await.unwrap();
                order.lock().unwrap().push(i);
            }));
        }
        for caller in callers {
            caller.await.unwrap();
        }
        assert!(order.lock().unwrap().is_sorted());
        assert_eq!(limit.snapshot().waiting, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_task_of_a_limit_ends_with_its_last_handle() {
    let store = Counting::around(Fleet::in_process().shared);
    let limit = builder(&store, 0).quota("calls", Quota::per_second(50));
    let limit = limit.build().unwrap();
    sleep(Duration::from_secs(20)).await;
    let alive = Arc::strong_count(&store);
    drop(limit);
    sleep(Duration::from_millis(1)).await;
    assert!(Arc::strong_count(&store) < alive);
    assert_eq!(Arc::strong_count(&store), 1);
}
