//! What is counted, and what happens at the edges: futures that nobody polls, costs that no quota holds, two handles.

use std::convert::Infallible;
use std::future::{Future, Ready};
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_future_that_is_not_polled_takes_nothing() {
    let store = Counting::around(Fleet::in_process().shared);
    let quota = Quota::per_second(200).burst(40);
    let limit = builder(&store, 0).quota("calls", quota).leased();
    let limit = limit.build().unwrap();
    sleep(Duration::from_millis(10)).await;
    for _ in 0..8 {
        drop(limit.acquire(1).await);
    }
    let before = limit.snapshot();
    assert!(before.leased[0] > 1, "{before:?}");
    drop(limit.acquire(1));
    drop(limit.try_acquire(1));
    let after = limit.snapshot();
    assert_eq!(after.totals, before.totals);
    assert_eq!(after.leased, before.leased);
}

/// Calls that end at their deadline.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_refused_is_not_counted_as_one_that_went_away() {
    for (leased, hangs) in [(false, false), (false, true), (true, false), (true, true)] {
        let store = Counting::around(Fleet::in_process().shared);
        let it = builder(&store, 0).quota("calls", Quota::per_second(200).burst(40));
        let limit = if leased { it.leased() } else { it.exact() };
        let limit = limit.build().unwrap();
        sleep(Duration::from_millis(10)).await;
        while limit.try_acquire(1).await.is_ok() {}
        sleep(Duration::from_millis(100)).await;
        let before = limit.snapshot().totals;
        store.hangs.store(hangs, Ordering::Relaxed);
        let calls = (0..60).map(|i| {
            let within = Deadline::after(Duration::from_millis(20 + i / 2));
            deadline::scope(within, limit.acquire(1))
        });
        let ended = futures::future::join_all(calls).await;
        let refused = ended.iter().filter(|it| it.is_err()).count() as u64;
        assert!(refused > 10, "{refused}");
        let after = limit.snapshot().totals;
        let what = format!("leased: {leased}, hangs: {hangs}");
        assert_eq!(after.refused - before.refused, refused, "{what}");
        assert_eq!(after.abandoned, 0, "{what}");
        let passed = after.passed + after.waited - before.passed - before.waited;
        assert_eq!(passed, 60 - refused, "{what}");
    }
}

/// In real time, which goes on between two readings of the clock.
#[tokio::test]
async fn a_call_that_its_share_lets_pass_at_once_has_not_waited() {
    let store = Counting::around(Fleet::in_process().shared);
    store.is_away.store(true, Ordering::Relaxed);
    let limit = builder(&store, 0).quota("calls", Quota::per_second(50));
    let limit = limit.build().unwrap();
    drop(limit.acquire(1).await);
    for _ in 0..10 {
        assert!(limit.acquire(1).await.unwrap().is_local());
    }
    let totals = limit.snapshot().totals;
    assert_eq!((totals.passed, totals.waited), (11, 0), "{totals:?}");
}

#[tokio::test(start_paused = true)]
async fn a_process_has_one_question_on_its_way_also_if_the_store_went_away_meanwhile() {
    let store = Counting::around(Fleet::in_process().shared);
    let quota = Quota::per_second(200).burst(40);
    let limit = builder(&store, 0).quota("calls", quota).leased();
    let limit = limit.store_timeout(Duration::from_secs(1)).build().unwrap();
    sleep(Duration::from_millis(10)).await;
    for _ in 0..3 {
        store.hangs.store(true, Ordering::Relaxed);
        let asked = tokio::spawn({
            let limit = limit.clone();
            async move { limit.acquire(1).await.map(drop) }
        });
        sleep(Duration::from_millis(1)).await;
        store.hangs.store(false, Ordering::Relaxed);
        // Another command fails, and the store is there again before the question has been answered.
        limit.shared.degrade(&StoreError::Deadline);
        sleep(Duration::from_millis(300)).await;
        assert!(!limit.shared.is_degraded());
        drop(asked.await);
    }
    assert_eq!(store.most_at_once.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn what_has_been_earned_since_the_last_answer_is_a_part_of_the_share() {
    let store = Counting::around(Fleet::in_process().shared);
    let limit = builder(&store, 0).quota("calls", Quota::per_minute(10));
    let limit = limit.build().unwrap();
    sleep(Duration::from_millis(10)).await;
    while limit.try_acquire(1).await.is_ok() {}
    sleep(Duration::from_secs(3_600)).await;
    store.is_away.store(true, Ordering::Relaxed);
    let mut passed = 0;
    while limit.try_acquire(1).await.is_ok() {
        passed += 1;
    }
    assert_eq!(passed, 10);
}

#[tokio::test(start_paused = true)]
async fn two_handles_of_one_process_have_one_share_together() {
    let store = Counting::around(Fleet::in_process().shared);
    let names = Names::new("test", Some("node")).unwrap();
    let make = || {
        let store: Arc<dyn RateStore> = store.clone();
        FleetRateLimitBuilder::new("api".into(), store, names.clone(), Reporter::of_a_test())
            .quota("calls", Quota::per_second(40).burst(40))
            .build()
            .unwrap()
    };
    let handles = [make(), make(), make(), make()];
    sleep(Duration::from_secs(12)).await;
    store.is_away.store(true, Ordering::Relaxed);
    let mut passed = 0;
    for limit in &handles {
        while limit.try_acquire(1).await.is_ok() {
            passed += 1;
        }
    }
    assert!(passed <= 40, "{passed}");
}

#[tokio::test(start_paused = true)]
async fn any_number_is_a_cost_and_anything_may_have_been_used() {
    let edges = [0, 1, 39, 40, 41, u64::MAX - 1, u64::MAX];
    for store in stores() {
        for leased in [false, true] {
            let it = builder(&store, 0)
                .quota("calls", Quota::per_second(200).burst(40))
                .quota("tokens", Quota::per_second(400).burst(80))
                .max_wait(Duration::MAX)
                .max_pause(Duration::MAX);
            let limit = if leased { it.leased() } else { it.exact() };
            let limit = limit.build().unwrap();
            for away in [false, true, false] {
                store.is_away.store(away, Ordering::Relaxed);
                sleep(Duration::from_secs(1)).await;
                for cost in edges {
                    for used in edges {
                        if let Ok(reserved) = limit.try_acquire([cost, cost]).await {
                            reserved.settle([used, used]);
                        }
                        limit.left("calls", used);
                    }
                }
                sleep(Duration::from_secs(1)).await;
                assert_eq!(limit.shared.is_degraded(), away, "leased: {leased}");
                limit.pause(Duration::ZERO);
            }
            limit.pause(Duration::MAX);
            sleep(Duration::from_secs(1)).await;
            assert!(!limit.shared.is_degraded());
            drop(limit.snapshot());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_call_has_used_beyond_its_cost_is_owed_up_to_a_burst() {
    for store in stores() {
        for (used, owed) in [(26, 25), (501, 50), (u64::MAX, 50)] {
            let quota = Quota::per_second(50).burst(50);
            let limit = builder(&store, 0).quota("calls", quota).build().unwrap();
            sleep(Duration::from_secs(10)).await;
            let reserved = limit.acquire(1).await.unwrap();
            let begin = time::now().to_instant();
            reserved.settle(used);
            sleep(Duration::from_millis(5)).await;
            limit.acquire(50).await.unwrap();
            // One more than is owed is missing.
            let took = elapsed(begin).as_millis();
            let earned = (owed + 1) * 20;
            assert!((earned - 5..earned + 5).contains(&took), "{used}: {took}");
        }
    }
}

/// A runtime that is used for a while, such as one for setting up.
#[test]
fn a_limit_outlives_the_runtime_on_which_it_was_built() {
    let paused = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap()
    };
    let first = paused();
    let (store, limit) = first.block_on(async {
        let store = Counting::around(Fleet::in_process().shared);
        let limit = builder(&store, 0).quota("calls", Quota::per_second(50));
        (store, limit.build().unwrap())
    });
    drop(first);
    paused().block_on(async {
        store.is_away.store(true, Ordering::Relaxed);
        assert!(limit.acquire(1).await.unwrap().is_local());
        store.is_away.store(false, Ordering::Relaxed);
        sleep(Duration::from_secs(1)).await;
        assert!(!limit.acquire(1).await.unwrap().is_local());
    });
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_callers_of_a_leased_limit_ask_with_one_question() {
    let store = Counting::around(Fleet::in_process().shared);
    let quota = Quota::per_second(20_000);
    let limit = builder(&store, 0).quota("calls", quota).build().unwrap();
    sleep(Duration::from_millis(10)).await;
    let calls = (0..10_000).map(|_| limit.acquire(1));
    let ended = futures::future::join_all(calls).await;
    assert!(ended.iter().all(Result::is_ok));
    assert_eq!(store.most_at_once.load(Ordering::Relaxed), 1);
    assert!(store.takes() < 200, "{}", store.takes());
}

#[tokio::test(start_paused = true)]
async fn thousands_who_ask_a_store_that_hangs_are_decided_after_one_timeout() {
    let store = Counting::around(Fleet::in_process().shared);
    let quota = Quota::per_second(50).burst(5_000);
    let limit = builder(&store, 0).quota("calls", quota).exact();
    let limit = limit.build().unwrap();
    sleep(Duration::from_millis(10)).await;
    store.hangs.store(true, Ordering::Relaxed);
    let begin = time::now().to_instant();
    let calls = (0..5_000).map(|_| limit.acquire(1));
    let ended = futures::future::join_all(calls).await;
    assert!(elapsed(begin) < Duration::from_millis(110));
    let local =
        |it: &Result<FleetReservation, _>| it.as_ref().is_ok_and(FleetReservation::is_local);
    assert!(ended.iter().all(local));
    assert_eq!(store.most_at_once.load(Ordering::Relaxed), 128);
}

/// A service that is never ready for the call whose turn has come.
#[derive(Clone)]
struct NeverReady;

impl Service<u32> for NeverReady {
    type Response = u32;
    type Error = Infallible;
    type Future = Ready<Result<u32, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Pending
    }

    fn call(&mut self, _: u32) -> Self::Future {
        unreachable!("it is never ready")
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_before_it_is_made_gives_back_what_it_has_taken() {
    for store in stores() {
        let limit = builder(&store, 0).quota("calls", Quota::per_hour(2));
        let limit = limit.build().unwrap();
        sleep(Duration::from_millis(10)).await;
        let mut service = limit.layer().layer(NeverReady);
        let called = timeout(Duration::from_secs(1), service.call(1)).await;
        assert!(called.is_err());
        assert_eq!(limit.snapshot().left, [1]);
        sleep(Duration::from_millis(10)).await;
        limit.try_acquire(2).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_shares_have_used_beyond_all_numbers_is_told_when_the_store_is_back() {
    for store in stores() {
        let quota = Quota::per_second(50).burst(50);
        let limit = builder(&store, 0).quota("calls", quota).build().unwrap();
        sleep(Duration::from_secs(6)).await;
        store.is_away.store(true, Ordering::Relaxed);
        let (one, two) = (
            try_one(&limit).await.unwrap(),
            try_one(&limit).await.unwrap(),
        );
        assert!(one.is_local() && two.is_local());
        one.settle(u64::MAX);
        store.is_away.store(false, Ordering::Relaxed);
        sleep(Duration::from_millis(250)).await;
        assert!(!limit.shared.is_degraded());
        // A burst is owed, and little of it is earned yet.
        let refused = limit.try_acquire(20).await.unwrap_err();
        assert_eq!(refused.reason(), RateLimitReason::Exhausted);
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_a_share_ask_the_store_when_it_is_back() {
    for store in stores() {
        let quota = Quota::per_minute(600).burst(10);
        // A share of a twentieth earns one in two seconds.
        let limit = builder(&store, 0).quota("calls", quota);
        let limit = limit.expected_nodes(20).build().unwrap();
        store.is_away.store(true, Ordering::Relaxed);
        assert!(limit.acquire(1).await.unwrap().is_local());
        let begin = time::now().to_instant();
        let waits = async {
            let reserved = limit.acquire(1).await.unwrap();
            (reserved.is_local(), elapsed(begin))
        };
        let back = async {
            sleep(Duration::from_millis(300)).await;
            store.is_away.store(false, Ordering::Relaxed);
        };
        let ((is_local, took), ()) = tokio::join!(waits, back);
        assert!(!is_local && took < Duration::from_millis(600), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_call_would_have_got_that_went_away_while_it_asked_is_given_back() {
    let store = Counting::around(Fleet::in_process().shared);
    let quota = Quota::per_hour(1).burst(10);
    let limit = builder(&store, 0).quota("calls", quota).build().unwrap();
    sleep(Duration::from_millis(10)).await;
    for _ in 0..10 {
        // The store has decided, and the answer is not read.
        let mut asks = std::pin::pin!(limit.acquire(1));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(asks.as_mut().poll(&mut cx).is_pending());
    }
    let totals = limit.snapshot().totals;
    assert_eq!((totals.asked, totals.passed, totals.waited), (10, 0, 0));
    sleep(Duration::from_millis(10)).await;
    assert_eq!(limit.snapshot().left, [10]);
    limit.try_acquire(10).await.unwrap();
    assert!(try_one(&limit).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_largest_cost_of_a_leased_limit_is_the_burst_less_what_a_lease_earns() {
    for store in stores() {
        let quota = Quota::per_second(200).burst(100);
        for (leased, largest) in [(true, 80), (false, 100)] {
            let it = builder(&store, 0).quota("calls", quota);
            let limit = if leased { it.leased() } else { it.exact() };
            let limit = limit.build().unwrap();
            sleep(Duration::from_secs(2)).await;
            let refused = limit.acquire(largest + 1).await.unwrap_err();
            assert_eq!(refused.reason(), RateLimitReason::ExceedsBurst);
            limit.acquire(largest).await.unwrap();
        }
    }
}

/// A call that costs more than there is says nothing about those that cost less.
#[tokio::test(start_paused = true)]
async fn what_is_left_after_a_refusal_is_what_there_was_and_not_nothing() {
    for store in stores() {
        let nodes = nodes(&store, 2, |it| it.quota("calls", Quota::per_hour(100))).await;
        nodes[0].acquire(40).await.unwrap();
        nodes[0].try_acquire(70).await.unwrap_err();
        let left = nodes[0].snapshot().left[0];
        assert!((59..=60).contains(&left), "{left}");
        // The service knows better.
        nodes[0].left("calls", 10);
        sleep(Duration::from_millis(5)).await;
        nodes[1].try_acquire(11).await.unwrap_err();
        nodes[1].try_acquire(1).await.unwrap();
        // A part of the nine is there for each by itself.
        nodes[0].try_acquire(50).await.unwrap_err();
        store.is_away.store(true, Ordering::Relaxed);
        nodes[0].try_acquire(4).await.unwrap();
    }
}

/// The tasks of a process work on answers in any order.
#[tokio::test(start_paused = true)]
async fn what_is_left_is_by_the_answer_that_was_asked_for_last() {
    for store in stores() {
        let nodes = nodes(&store, 2, |it| {
            it.quota("calls", Quota::per_hour(50)).exact()
        })
        .await;
        let limit = &nodes[0];
        let first = limit.acquire(1).await.unwrap();
        assert_eq!(limit.snapshot().left, [49]);
        store.takes_answer_after.store(50, Ordering::Relaxed);
        let slow = tokio::spawn({
            let limit = limit.clone();
            async move { limit.acquire(1).await.unwrap() }
        });
        sleep(Duration::from_millis(10)).await;
        first.cancel();
        sleep(Duration::from_millis(10)).await;
        assert_eq!(
            limit.snapshot().left,
            [49],
            "a call that has no answer yet counts"
        );
        slow.await.unwrap();
        assert_eq!(limit.snapshot().left, [49], "an older answer came last");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_does_not_keep_every_limit_that_it_has_ever_had_and_keeps_what_was_used() {
    let fleet = Fleet::in_process();
    let limit = |name: String, quota: Quota| {
        let limit = fleet.rate_limit(name).quota("calls", quota).exact();
        limit.max_wait(Duration::ZERO).build().unwrap()
    };
    let daily = || {
        limit(
            "daily".into(),
            Quota::per(1, Duration::from_secs(86_400)).burst(1),
        )
    };
    drop(daily().acquire(1).await.unwrap());
    for n in 0..2_000 {
        let it = limit(format!("user-{n}"), Quota::per_second(10));
        drop(it.acquire(1).await.unwrap());
        drop(it);
        sleep(Duration::from_secs(1)).await;
    }
    let crate::fleet::Backend::InProcess(store) = &fleet.shared.backend else {
        panic!("it is in this process");
    };
    let names = store.rate_limits.names();
    assert!(names < 1_000, "{names}");
    assert!(daily().acquire(1).await.is_err());
}
