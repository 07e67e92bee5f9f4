//! What befalls a shared limit: stores that come and go, that forget, callers that go away at any moment.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tokio::task::JoinSet;
use tokio::time::interval;

use super::*;

/// The store goes and comes back every 200 ms, until this is dropped.
fn flap(store: &Arc<Counting>) -> JoinSet<()> {
    let (mut task, store) = (JoinSet::new(), Arc::clone(store));
    task.spawn(async move {
        let mut turns = interval(Duration::from_millis(200));
        loop {
            turns.tick().await;
            store.is_away.fetch_xor(true, Ordering::Relaxed);
        }
    });
    task
}

/// How many pass, if each node is asked for as many as it gives, by those who wait or by those who do not.
async fn drain(nodes: &[FleetRateLimit], waiters: bool, length: Duration) -> u64 {
    let (passed, begin) = (Arc::<AtomicU64>::default(), time::now().to_instant());
    let mut callers = JoinSet::new();
    for limit in nodes.iter().cycle().take(nodes.len() * 20) {
        let (limit, passed) = (limit.clone(), Arc::clone(&passed));
        callers.spawn(async move {
            while elapsed(begin) < length {
                let asked = match waiters {
                    true => limit.acquire(1).await,
                    false => limit.try_acquire(1).await,
                };
                if asked.is_ok() && elapsed(begin) <= length {
                    passed.fetch_add(1, Ordering::Relaxed);
                }
                sleep(Duration::from_millis(5)).await;
            }
        });
    }
    callers.join_all().await;
    passed.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn a_store_that_comes_and_goes_lets_no_more_than_two_bursts_pass_besides_what_is_earned() {
    let quota = Quota::per_second(200).burst(50);
    for (leased, waiters) in [(false, false), (false, true), (true, false), (true, true)] {
        for store in stores() {
            let set_up = |it: FleetRateLimitBuilder| {
                let it = it.quota("calls", quota);
                if leased { it.leased() } else { it.exact() }
            };
            let nodes = nodes(&store, 4, set_up).await;
            let _flaps = flap(&store);
            let passed = drain(&nodes, waiters, Duration::from_secs(20)).await;
            let what = format!("leased: {leased}, waiters: {waiters}");
            assert!(passed <= 2 * 50 + 20 * 200, "{what}: {passed}");
            assert!(passed > 20 * 200 / 2, "{what}: {passed}");
        }
    }
}

/// As in a deploy: each hears of those that have begun before it.
#[tokio::test(start_paused = true)]
async fn processes_that_have_just_begun_take_no_larger_share_than_of_the_number_that_was_expected()
{
    let quota = Quota::per_second(200).burst(50);
    for leased in [false, true] {
        for store in stores() {
            let make = |i| {
                let limit = builder(&store, i).quota("calls", quota).expected_nodes(8);
                let limit = if leased {
                    limit.leased()
                } else {
                    limit.exact()
                };
                limit.build().unwrap()
            };
            let nodes: Vec<_> = (0..8).map(make).collect();
            sleep(Duration::from_secs(1)).await;
            assert_eq!(nodes[0].snapshot().nodes, 1);
            store.is_away.store(true, Ordering::Relaxed);
            let passed = drain(&nodes, false, Duration::from_secs(4)).await;
            assert!(passed <= 50 + 4 * 200 + 8, "{passed}");
            assert!(passed > 4 * 200 / 2, "{passed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn processes_that_have_just_begun_do_not_believe_that_they_are_alone_after_a_long_outage() {
    let quota = Quota::per_second(200).burst(50);
    for store in stores() {
        let make = |i| {
            let limit = builder(&store, i).quota("calls", quota).expected_nodes(8);
            limit.exact().build().unwrap()
        };
        let nodes: Vec<_> = (0..8).map(make).collect();
        for away in [20, 20, 1, 40] {
            sleep(Duration::from_secs(1)).await;
            store.is_away.store(true, Ordering::Relaxed);
            let passed = drain(&nodes, false, Duration::from_secs(4)).await;
            assert!(passed <= 50 + 4 * 200 + 8, "{passed}");
            sleep(Duration::from_secs(away)).await;
            store.is_away.store(false, Ordering::Relaxed);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_alone_takes_a_whole_share_after_fifteen_seconds() {
    for (age, least, most) in [(1, 30, 45), (14, 30, 45), (25, 300, 410)] {
        let store = Counting::around(Fleet::in_process().shared);
        let quota = Quota::per_second(100).burst(10);
        let limit = builder(&store, 0).quota("calls", quota).expected_nodes(10);
        let limit = limit.build().unwrap();
        sleep(Duration::from_secs(age)).await;
        store.is_away.store(true, Ordering::Relaxed);
        let passed = drain(&[limit], false, Duration::from_secs(4)).await;
        assert!((least..=most).contains(&passed), "{passed} after {age} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_has_just_begun_asks_no_more_often_because_more_were_expected() {
    for store in stores() {
        let mut asked = Vec::new();
        for (i, expected) in [1, 10].into_iter().enumerate() {
            let limit = builder(&store, i).expected_nodes(expected).leased();
            let quota = Quota::per_second(1_000).burst(100);
            let name = format!("of {expected}");
            let limit = limit.quota(&*name, quota).build().unwrap();
            sleep(Duration::from_secs(1)).await;
            drain(std::slice::from_ref(&limit), false, Duration::from_secs(2)).await;
            asked.push(limit.snapshot().totals.asked);
            sleep(Duration::from_secs(60)).await;
        }
        assert!(asked[1] * 5 <= asked[0] * 6, "{asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn turns_that_were_given_before_the_store_went_away_are_a_part_of_the_shares() {
    let quota = Quota::per_second(100).burst(20);
    for store in stores() {
        let nodes = nodes(&store, 4, |it| it.quota("calls", quota).exact()).await;
        let begin = time::now().to_instant();
        let mut waiters = JoinSet::new();
        for limit in nodes.iter().cycle().take(600) {
            let limit = limit.clone();
            waiters.spawn(async move { limit.acquire(1).await.is_ok() });
        }
        sleep(Duration::from_millis(500)).await;
        store.is_away.store(true, Ordering::Relaxed);
        let more = drain(&nodes, false, Duration::from_secs(4)).await;
        let took = elapsed(begin).as_millis();
        assert!((4_490..4_550).contains(&took), "{took}");
        let mut passed = more;
        while let Some(Ok(true)) = waiters.try_join_next() {
            passed += 1;
        }
        // 450 are earned in that time.
        assert!(passed <= 2 * 20 + 455, "{passed}, {more} of them by shares");
        assert!(passed > 400, "{passed}");
    }
}

/// Another store each time that it is asked for.
struct Emptied(Mutex<Arc<dyn RateStore>>);

impl Emptied {
    fn now(&self) -> Arc<dyn RateStore> {
        Arc::clone(&self.0.lock().unwrap())
    }
}

impl RateStore for Emptied {
    fn take<'a>(
        &'a self,
        limit: &'a Limit,
        max_wait: u64,
        asks: &'a [Ask],
    ) -> Answer<'a, Answered> {
        Box::pin(async move { self.now().take(limit, max_wait, asks).await })
    }

    fn settle<'a>(
        &'a self,
        limit: &'a Limit,
        pause: u64,
        changes: &'a [Change],
    ) -> Answer<'a, Vec<u64>> {
        Box::pin(async move { self.now().settle(limit, pause, changes).await })
    }

    fn beat<'a>(&'a self, limit: &'a Limit) -> Answer<'a, (u64, u64)> {
        Box::pin(async move { self.now().beat(limit).await })
    }

    fn listen(&self, _: &Limit) -> Listener {
        Listener::deaf()
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_restarts_empty_again_and_again_makes_nobody_believe_that_he_is_alone() {
    let emptied = Arc::new(Emptied(Mutex::new(Fleet::in_process().shared)));
    let store = Counting::around(emptied.clone());
    let nodes = nodes(&store, 8, |it| it.quota("calls", Quota::per_second(50))).await;
    for _ in 0..20 {
        store.is_away.store(true, Ordering::Relaxed);
        for node in &nodes {
            drop(try_one(node).await);
        }
        sleep(Duration::from_millis(150)).await;
        *emptied.0.lock().unwrap() = Fleet::in_process().shared;
        store.is_away.store(false, Ordering::Relaxed);
        sleep(Duration::from_millis(150)).await;
        for node in &nodes {
            assert_eq!(node.snapshot().nodes, 8);
        }
    }
    // Those that are gone are forgotten all the same.
    let mut nodes = nodes;
    nodes.truncate(2);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(nodes[0].snapshot().nodes, 2);
}

#[tokio::test(start_paused = true)]
async fn nobody_overtakes_those_who_wait_for_leased_tokens() {
    for store in stores() {
        let quota = Quota::per_second(200).burst(40);
        let limit = builder(&store, 0).quota("calls", quota).leased();
        let limit = limit.build().unwrap();
        for _ in 0..40 {
            drop(try_one(&limit).await);
        }
        let waiter = tokio::spawn({
            let limit = limit.clone();
            async move { limit.acquire(4).await.map(drop) }
        });
        sleep(Duration::from_millis(1)).await;
        let mut overtaken = 0;
        while !waiter.is_finished() {
            overtaken += u32::from(try_one(&limit).await.is_ok());
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(overtaken, 0);
        waiter.await.unwrap().unwrap();
        sleep(Duration::from_millis(200)).await;
        try_one(&limit).await.unwrap();
    }
}

/// Polls at most so often; then the future is dropped.
async fn poll_times<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..times {
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return Some(output);
        }
        sleep(Duration::from_millis(1)).await;
    }
    None
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_at_any_moment_leaves_nothing_behind() {
    for leased in [false, true] {
        for store in stores() {
            let quota = Quota::per_second(200).burst(40);
            let limit = builder(&store, 0).quota("calls", quota);
            let limit = if leased {
                limit.leased()
            } else {
                limit.exact()
            };
            let limit = limit.build().unwrap();
            for times in 0..60 {
                for away in [false, true] {
                    store.is_away.store(away, Ordering::Relaxed);
                    drop(poll_times(limit.acquire(3), times).await);
                    drop(poll_times(limit.try_acquire(3), times).await);
                }
            }
            store.is_away.store(false, Ordering::Relaxed);
            sleep(Duration::from_secs(2)).await;
            let snapshot = limit.snapshot();
            assert_eq!((snapshot.waiting, snapshot.degraded_for), (0, None));
            let begin = time::now().to_instant();
            limit.acquire(3).await.unwrap();
            assert!(elapsed(begin) < Duration::from_millis(10));
        }
    }
}

/// Those who lease spend what they have while those who do not use the whole burst.
#[tokio::test(start_paused = true)]
async fn a_limit_that_is_exact_in_some_processes_and_leased_in_others_passes_a_quarter_more_at_most()
 {
    for store in stores() {
        let quota = Quota::per_second(1_000).burst(400);
        let leased = nodes(&store, 4, |it| it.quota("calls", quota).leased()).await;
        let exact = builder(&store, 9).quota("calls", quota).exact();
        let exact = exact.build().unwrap();
        for node in &leased {
            for _ in 0..63 {
                try_one(node).await.unwrap();
            }
        }
        sleep(Duration::from_millis(80)).await;
        let (begin, mut passed) = (time::now().to_instant(), 0_u32);
        for node in &leased {
            while node.snapshot().leased[0] > 0 {
                try_one(node).await.unwrap();
                passed += 1;
            }
        }
        let mut callers = JoinSet::new();
        for _ in 0..600 {
            let exact = exact.clone();
            callers.spawn(async move { try_one(&exact).await.is_ok() });
        }
        passed += u32::try_from(callers.join_all().await.iter().filter(|it| **it).count()).unwrap();
        let earned = elapsed(begin).as_secs_f64() * 1_000.0;
        assert!(
            f64::from(passed) <= 500.0 + earned + 2.0,
            "{passed}, {earned}"
        );
    }
}

/// Fewer calls than there are processes: each share has one, and no more than that.
#[tokio::test(start_paused = true)]
async fn a_share_of_a_small_burst_is_one_call() {
    for store in stores() {
        let quota = Quota::per_hour(3);
        let nodes = nodes(&store, 8, |it| it.quota("calls", quota)).await;
        store.is_away.store(true, Ordering::Relaxed);
        let mut passed = 0;
        for node in nodes.iter().cycle().take(80) {
            passed += u32::from(try_one(node).await.is_ok());
        }
        assert!(passed <= 8, "{passed}");
    }
}

/// Tokens that are over when they come serve nobody: then each call asks for itself.
#[tokio::test(start_paused = true)]
async fn a_store_that_takes_longer_than_a_lease_serves_all_the_same() {
    let inner: Arc<dyn RateStore> = Fleet::in_process().shared;
    let mut store = Counting::around(inner);
    Arc::get_mut(&mut store).unwrap().trip = Duration::from_millis(150);
    let limit = builder(&store, 0).quota("calls", Quota::per_second(500));
    let limit = limit.store_timeout(Duration::from_secs(1)).leased();
    let limit = limit.build().unwrap();
    let begin = time::now().to_instant();
    limit.acquire(1).await.unwrap();
    try_one(&limit).await.unwrap();
    assert!(
        elapsed(begin) < Duration::from_secs(2),
        "{:?}",
        elapsed(begin)
    );
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_leased_is_a_typed_error() {
    let store = Counting::around(Fleet::in_process().shared);
    for quota in [
        Quota::per_second(10).burst(1),
        Quota::per_second(1_000).burst(20),
    ] {
        let limit = builder(&store, 0).quota("calls", quota);
        assert_eq!(limit.leased().build().unwrap_err().setting(), "burst");
        builder(&store, 0).quota("calls", quota).build().unwrap();
    }
}

/// A burst of ten, and so many who call at once: those who wait have turns.
async fn ten_a_second_and_callers(
    store: &Arc<Counting>,
    callers: usize,
) -> (FleetRateLimit, JoinSet<Result<(), RateLimited>>) {
    let quota = Quota::per_second(10).burst(10);
    let limit = builder(store, 0).quota("calls", quota).exact();
    let limit = limit.build().unwrap();
    sleep(Duration::from_millis(10)).await;
    let mut waiters = JoinSet::new();
    for _ in 0..callers {
        let limit = limit.clone();
        waiters.spawn(async move { limit.acquire(1).await.map(drop) });
    }
    sleep(Duration::from_millis(50)).await;
    (limit, waiters)
}

/// Those who wait have turns for ten seconds, and the share earns as much in that time.
#[tokio::test(start_paused = true)]
async fn a_share_owes_each_turn_once_however_often_the_store_goes_and_comes_back() {
    for store in stores() {
        let (limit, waiters) = ten_a_second_and_callers(&store, 60).await;
        for _ in 0..5 {
            store.is_away.store(true, Ordering::Relaxed);
            limit.shared.degrade(&StoreError::Deadline);
            sleep(Duration::from_millis(150)).await;
            store.is_away.store(false, Ordering::Relaxed);
            sleep(Duration::from_millis(250)).await;
            assert!(!limit.shared.is_degraded());
        }
        let owed = limit.shared.local.snapshot().quotas[0].owed;
        assert!((30..=50).contains(&owed), "{owed}");
        // Who goes away needs it no more.
        drop(waiters);
        sleep(Duration::from_millis(10)).await;
        let share = limit.shared.local.snapshot();
        assert_eq!(share.quotas[0].owed, 0, "{share:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn turns_are_a_part_of_the_share_also_if_the_store_goes_away_in_a_pause() {
    for store in stores() {
        let (limit, _waiters) = ten_a_second_and_callers(&store, 40).await;
        limit.pause(Duration::from_millis(500));
        store.is_away.store(true, Ordering::Relaxed);
        limit.shared.degrade(&StoreError::Deadline);
        assert_eq!(limit.shared.local.snapshot().quotas[0].owed, 30);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_call_has_used_beyond_its_cost_is_owed_also_if_it_says_so_while_the_store_is_away() {
    for hangs in [false, true] {
        for store in stores() {
            let quota = Quota::per_minute(60).burst(60);
            let limit = builder(&store, 0).quota("calls", quota).build().unwrap();
            sleep(Duration::from_secs(6)).await;
            let (one, two) = (
                try_one(&limit).await.unwrap(),
                try_one(&limit).await.unwrap(),
            );
            store.is_away.store(true, Ordering::Relaxed);
            // The first finds out that the store is away.
            if hangs {
                one.settle(21);
                sleep(Duration::from_millis(10)).await;
                assert!(limit.shared.is_degraded());
            } else {
                limit.shared.degrade(&StoreError::Deadline);
                one.settle(21);
            }
            two.settle(21);
            limit.try_acquire(20).await.unwrap_err();
            store.is_away.store(false, Ordering::Relaxed);
            sleep(Duration::from_millis(300)).await;
            assert!(!limit.shared.is_degraded());
            limit.try_acquire(20).await.unwrap_err();
            limit.try_acquire(18).await.unwrap();
        }
    }
}

/// A call that its share lets pass says what it has used when the store is back.
#[tokio::test(start_paused = true)]
async fn what_a_share_has_used_is_told_also_if_it_is_said_after_the_store_is_back() {
    for store in stores() {
        let quota = Quota::per_minute(60).burst(60);
        let limit = builder(&store, 0).quota("calls", quota).build().unwrap();
        sleep(Duration::from_secs(6)).await;
        store.is_away.store(true, Ordering::Relaxed);
        let late = try_one(&limit).await.unwrap();
        assert!(late.is_local());
        store.is_away.store(false, Ordering::Relaxed);
        sleep(Duration::from_millis(300)).await;
        late.settle(51);
        sleep(Duration::from_secs(6)).await;
        limit.try_acquire(20).await.unwrap_err();
        limit.try_acquire(14).await.unwrap();
    }
}

/// Half of them, and they go on for as long as it lasts.
#[tokio::test(start_paused = true)]
async fn processes_that_are_cut_off_from_the_store_pass_their_shares_beside_the_others() {
    let inner: Arc<dyn RateStore> = Fleet::in_process().shared;
    let (there, cut_off) = (
        Counting::around(Arc::clone(&inner)),
        Counting::around(inner),
    );
    let quota = Quota::per_second(100).burst(20);
    let make = |i| {
        let store = if i < 2 { &there } else { &cut_off };
        builder(store, i).quota("calls", quota).build().unwrap()
    };
    let nodes: Vec<_> = (0..4).map(make).collect();
    sleep(Duration::from_secs(6)).await;
    cut_off.is_away.store(true, Ordering::Relaxed);
    let passed = drain(&nodes, true, Duration::from_secs(10)).await;
    // What the store gives, and two shares of four.
    assert!(passed > 1_400, "{passed}");
    assert!(passed <= 2 * (20 + 1_000), "{passed}");
}
