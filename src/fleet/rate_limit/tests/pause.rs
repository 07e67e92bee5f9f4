//! What services say: pauses hold for the whole fleet, and what is left is believed.

use tokio::task::JoinSet;

use super::*;

const PAUSE: Duration = Duration::from_secs(2);

/// When somebody passes who waits for its turn.
async fn passes_after(limit: &FleetRateLimit, begin: Instant) -> Duration {
    limit.acquire(1).await.unwrap();
    elapsed(begin)
}

fn both(quota: Quota) -> [impl Fn(FleetRateLimitBuilder) -> FleetRateLimitBuilder + Copy; 2] {
    [false, true].map(|leased| {
        move |it: FleetRateLimitBuilder| {
            let it = it.quota("calls", quota);
            if leased { it.leased() } else { it.exact() }
        }
    })
}

#[tokio::test(start_paused = true)]
async fn nobody_of_the_fleet_passes_in_a_pause_that_one_has_asked_for() {
    for set_up in both(Quota::per_second(200).burst(40)) {
        for store in stores() {
            let nodes = nodes(&store, 4, set_up).await;
            let begin = time::now().to_instant();
            nodes[0].pause(PAUSE);
            assert!(nodes[0].snapshot().paused_for.is_some());
            // The store is told in the background.
            sleep(Duration::from_millis(5)).await;
            let mut waiters = JoinSet::new();
            for node in &nodes {
                let refused = try_one(node).await.unwrap_err();
                let (quota, after) = (refused.quota(), refused.retry_after().unwrap());
                assert_eq!(quota, None);
                let left = PAUSE - elapsed(begin);
                assert!(after <= left + Duration::from_millis(5), "{after:?}");
                assert!(after >= left - Duration::from_millis(5), "{after:?}");
                let node = node.clone();
                waiters.spawn(async move { passes_after(&node, begin).await });
            }
            for after in waiters.join_all().await {
                assert!(after >= PAUSE, "{after:?}");
                assert!(after < PAUSE + Duration::from_millis(100), "{after:?}");
            }
        }
    }
}

/// Nothing is earned in it.
#[tokio::test(start_paused = true)]
async fn no_window_after_a_pause_holds_more_than_the_quota() {
    let quota = Quota::per_second(100).burst(20);
    for set_up in both(quota) {
        for store in stores() {
            let nodes = nodes(&store, 3, set_up).await;
            let (log, begin) = (Log::default(), time::now().to_instant());
            let mut waiters = JoinSet::new();
            for i in 0..300_u64 {
                let (limit, log) = (nodes[i as usize % 3].clone(), Arc::clone(&log));
                waiters.spawn(async move {
                    // Some before the pause, and some in it.
                    sleep(Duration::from_millis(i * 5)).await;
                    limit.acquire(1).await.unwrap();
                    log.lock().unwrap().push(time::now().to_instant());
                });
            }
            sleep(Duration::from_millis(500)).await;
            nodes[1].pause(PAUSE);
            waiters.join_all().await;
            let mut log = std::mem::take(&mut *log.lock().unwrap());
            log.sort_unstable();
            assert_windows(&log, quota, "after a pause");
            // The burst, 100 a second, and the pause.
            assert!(elapsed(begin) >= Duration::from_millis(4_799));
            assert!(elapsed(begin) < Duration::from_millis(5_300));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn turns_that_were_given_before_a_pause_come_later_by_as_much() {
    for store in stores() {
        let quota = Quota::per_second(10).burst(1);
        let limit = builder(&store, 0).quota("calls", quota).build().unwrap();
        limit.acquire(1).await.unwrap();
        let begin = time::now().to_instant();
        let mut waiters = JoinSet::new();
        for _ in 0..4 {
            let limit = limit.clone();
            waiters.spawn(async move { passes_after(&limit, begin).await });
        }
        sleep(Duration::from_millis(50)).await;
        limit.pause(PAUSE);
        let mut passed: Vec<_> = waiters.join_all().await;
        passed.sort_unstable();
        for (i, after) in (0_u32..).zip(&passed) {
            let due = Duration::from_millis(2_100) + Duration::from_millis(100) * i;
            let late = after.checked_sub(due);
            let late = late.unwrap_or_else(|| panic!("{passed:?}"));
            assert!(late < Duration::from_millis(5), "{passed:?}");
        }
        let totals = limit.snapshot().totals;
        assert_eq!((totals.abandoned, totals.waited), (0, 4));
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_with_leased_tokens_that_no_message_reaches_pauses_with_its_next_question() {
    for store in stores() {
        store.loses_messages.store(true, Ordering::Relaxed);
        let quota = Quota::per_second(1_000).burst(400);
        let nodes = nodes(&store, 2, |it| it.quota("calls", quota).leased()).await;
        for _ in 0..20 {
            try_one(&nodes[1]).await.unwrap();
        }
        nodes[0].pause(PAUSE);
        sleep(Duration::from_millis(5)).await;
        let leased = nodes[1].snapshot().leased[0];
        assert!(leased > 0);
        let mut passed = 0;
        while try_one(&nodes[1]).await.is_ok() {
            passed += 1;
        }
        assert_eq!(passed, leased);
        assert!(nodes[1].snapshot().paused_for.is_some());
        // Who has leased tokens and makes the pause itself has none any more.
        sleep(PAUSE).await;
        for _ in 0..20 {
            try_one(&nodes[1]).await.unwrap();
        }
        assert!(nodes[1].snapshot().leased[0] > 0);
        nodes[1].pause(PAUSE);
        assert_eq!(nodes[1].snapshot().leased[0], 0);
        try_one(&nodes[1]).await.unwrap_err();
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_no_message_reaches_hears_of_a_pause_within_six_seconds() {
    for store in stores() {
        store.loses_messages.store(true, Ordering::Relaxed);
        let nodes = nodes(&store, 2, |it| it.quota("calls", Quota::per_second(50))).await;
        nodes[0].pause(Duration::from_secs(20));
        sleep(Duration::from_millis(5_510)).await;
        store.is_away.store(true, Ordering::Relaxed);
        // By its share, too.
        let refused = try_one(&nodes[1]).await.unwrap_err();
        assert!(refused.retry_after().unwrap() > Duration::from_secs(13));
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_is_made_while_the_store_is_away_holds_for_all_when_it_is_back() {
    for store in stores() {
        let nodes = nodes(&store, 2, |it| it.quota("calls", Quota::per_second(50))).await;
        store.is_away.store(true, Ordering::Relaxed);
        for node in &nodes {
            assert!(try_one(node).await.unwrap().is_local());
        }
        nodes[0].pause(Duration::from_secs(3));
        try_one(&nodes[0]).await.unwrap_err();
        // The other knows nothing of it, and cannot.
        try_one(&nodes[1]).await.unwrap();
        store.is_away.store(false, Ordering::Relaxed);
        sleep(Duration::from_millis(400)).await;
        for node in &nodes {
            let refused = try_one(node).await.unwrap_err();
            assert!(refused.retry_after().unwrap() > Duration::from_millis(2_500));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_no_longer_than_the_longest_and_a_shorter_one_ends_none() {
    for store in stores() {
        let limit = builder(&store, 0).quota("calls", Quota::per_second(50));
        let limit = limit.max_pause(PAUSE).build().unwrap();
        let begin = time::now().to_instant();
        limit.pause(Duration::from_secs(86_400));
        sleep(Duration::from_millis(5)).await;
        limit.pause(Duration::from_millis(10));
        limit.pause(Duration::ZERO);
        let after = passes_after(&limit, begin).await;
        assert!(after >= PAUSE, "{after:?}");
        assert!(after < PAUSE + Duration::from_millis(20), "{after:?}");
        assert_eq!(limit.snapshot().paused_for, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_answers_that_ask_for_a_pause_are_told_by_few_commands() {
    for store in stores() {
        let limit = builder(&store, 0).quota("calls", Quota::per_second(50));
        let limit = limit.build().unwrap();
        sleep(Duration::from_millis(10)).await;
        for i in 0..1_000 {
            limit.pause(Duration::from_millis(1_000 + i));
            limit.left("calls", 40 - i % 20);
            tokio::task::yield_now().await;
        }
        sleep(Duration::from_millis(10)).await;
        let told = store.settles.load(Ordering::Relaxed);
        assert!((1..=2).contains(&told), "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_would_wait_longer_than_it_may_is_refused_when_a_pause_begins_before_its_turn() {
    for store in stores() {
        let quota = Quota::per_second(10).burst(1);
        let limit = builder(&store, 0).quota("calls", quota);
        let limit = limit.max_wait(Duration::from_secs(1)).build().unwrap();
        limit.acquire(1).await.unwrap();
        let begin = time::now().to_instant();
        let waiter = tokio::spawn({
            let limit = limit.clone();
            async move { limit.acquire(1).await.map(drop).unwrap_err() }
        });
        sleep(Duration::from_millis(20)).await;
        limit.pause(Duration::from_secs(10));
        let refused = waiter.await.unwrap();
        assert_eq!(
            (refused.reason(), refused.quota()),
            (RateLimitReason::TooLong, None)
        );
        assert!(elapsed(begin) < Duration::from_millis(150));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_service_says_is_left_is_all_there_is_for_the_whole_fleet() {
    for store in stores() {
        let nodes = nodes(&store, 2, |it| it.quota("calls", Quota::per_hour(100))).await;
        try_one(&nodes[0]).await.unwrap();
        nodes[0].left("calls", 7);
        nodes[0].left("others", 0);
        // More than there is says nothing.
        sleep(Duration::from_millis(5)).await;
        nodes[1].left("calls", 95);
        nodes[0].left("calls", 50);
        sleep(Duration::from_millis(5)).await;
        let mut passed = 0;
        for _ in 0..100 {
            passed += usize::from(try_one(&nodes[1]).await.is_ok());
        }
        assert_eq!(passed, 7);
    }
}

/// What has been earned since the last answer is thought of, before it is taken for granted that there is less.
#[tokio::test(start_paused = true)]
async fn what_is_left_is_told_if_more_can_have_been_earned_since_the_last_answer() {
    for store in stores() {
        let quota = Quota::per_second(10).burst(10);
        let limit = builder(&store, 0).quota("calls", quota).build().unwrap();
        limit.acquire(10).await.unwrap();
        sleep(Duration::from_secs(2)).await;
        limit.left("calls", 3);
        sleep(Duration::from_millis(5)).await;
        limit.try_acquire(5).await.unwrap_err();
        limit.try_acquire(3).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_left_is_a_part_of_the_share_while_the_store_is_away() {
    for store in stores() {
        let nodes = nodes(&store, 2, |it| it.quota("calls", Quota::per_hour(100))).await;
        store.is_away.store(true, Ordering::Relaxed);
        for node in &nodes {
            try_one(node).await.unwrap();
            node.left("calls", 10);
        }
        let mut passed = 0;
        for node in nodes.iter().cycle().take(100) {
            passed += usize::from(try_one(node).await.is_ok());
        }
        assert_eq!(passed, 10);
    }
}

#[test]
fn what_is_said_outside_a_runtime_holds_for_this_process_alone() {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let store = Counting::around(Fleet::in_process().shared);
    let limit = runtime.block_on(async {
        let limit = builder(&store, 0).quota("calls", Quota::per_second(50));
        limit.build().unwrap()
    });
    limit.pause(PAUSE);
    limit.left("calls", 1);
    assert_eq!(store.settles.load(Ordering::Relaxed), 0);
    runtime.block_on(async { try_one(&limit).await.unwrap_err() });
}

/// It was said while the store was being told something else, and did not answer.
#[tokio::test(start_paused = true)]
async fn what_was_left_long_ago_is_not_told_when_the_store_is_back() {
    for store in stores() {
        let limit = builder(&store, 0).quota("calls", Quota::per_minute(60));
        let limit = limit.build().unwrap();
        sleep(Duration::from_millis(10)).await;
        store.hangs.store(true, Ordering::Relaxed);
        limit.left("calls", 50);
        sleep(Duration::from_millis(5)).await;
        limit.left("calls", 0);
        sleep(Duration::from_secs(300)).await;
        store.hangs.store(false, Ordering::Relaxed);
        sleep(Duration::from_secs(5)).await;
        assert!(!limit.shared.is_degraded());
        limit.pause(Duration::from_millis(10));
        sleep(Duration::from_millis(20)).await;
        limit.try_acquire(60).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_costs_nothing_waits_for_the_end_of_a_pause_too() {
    let quota = Quota::per_second(200).burst(40);
    for quotas in [1, 2] {
        for leased in [false, true] {
            for store in stores() {
                let names = ["calls", "tokens"].into_iter().take(quotas);
                let limit = names.fold(builder(&store, 0), |it, name| it.quota(name, quota));
                let limit = if leased {
                    limit.leased()
                } else {
                    limit.exact()
                };
                let limit = limit.build().unwrap();
                limit.try_acquire(0).await.unwrap();
                let begin = time::now().to_instant();
                limit.pause(PAUSE);
                limit.try_acquire(0).await.unwrap_err();
                limit.acquire(0).await.unwrap();
                assert!(elapsed(begin) >= PAUSE, "{quotas}, leased: {leased}");
            }
        }
    }
}

/// The store has not been told yet.
#[tokio::test(start_paused = true)]
async fn who_asks_at_the_very_moment_of_a_pause_waits_for_its_end() {
    for set_up in both(Quota::per_second(200).burst(40)) {
        for store in stores() {
            let limit = set_up(builder(&store, 0)).build().unwrap();
            let begin = time::now().to_instant();
            let mut waiters = JoinSet::new();
            for _ in 0..5 {
                let limit = limit.clone();
                waiters.spawn(async move { passes_after(&limit, begin).await });
            }
            // They have asked, and are not answered.
            sleep(Duration::from_micros(500)).await;
            limit.pause(PAUSE);
            for _ in 0..5 {
                try_one(&limit).await.unwrap_err();
                let limit = limit.clone();
                waiters.spawn(async move { passes_after(&limit, begin).await });
            }
            for after in waiters.join_all().await {
                assert!(after >= PAUSE, "{after:?}");
                assert!(after < PAUSE + Duration::from_millis(100), "{after:?}");
            }
        }
    }
}

/// Turns of the one are moved, and those of the other come as they were given.
#[tokio::test(start_paused = true)]
async fn a_pause_that_some_have_not_heard_of_lets_no_more_pass_besides_than_it_lasts() {
    for store in stores() {
        store.loses_messages.store(true, Ordering::Relaxed);
        let quota = Quota::per_second(10).burst(1);
        let nodes = nodes(&store, 2, |it| it.quota("calls", quota)).await;
        let (log, mut waiters) = (Log::default(), JoinSet::new());
        for node in [0, 1] {
            for _ in 0..20 {
                let (limit, log) = (nodes[node].clone(), Arc::clone(&log));
                waiters.spawn(async move {
                    limit.acquire(1).await.unwrap();
                    log.lock().unwrap().push(time::now().to_instant());
                });
            }
            sleep(Duration::from_millis(50)).await;
        }
        nodes[0].pause(Duration::from_secs(1));
        waiters.join_all().await;
        let mut log = std::mem::take(&mut *log.lock().unwrap());
        log.sort_unstable();
        assert_windows(
            &log,
            Quota::per_second(10).burst(1 + 10),
            "one has not heard",
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_others_stop_within_a_tenth_of_a_second_of_a_pause_also_if_they_ask_for_nothing() {
    for set_up in both(Quota::per_second(1_000).burst(400)) {
        for store in stores() {
            let nodes = nodes(&store, 4, set_up).await;
            for round in 0..10_u64 {
                let begin = time::now().to_instant();
                nodes[0].pause(PAUSE);
                // The next round begins a pause while the last one lasts.
                sleep(Duration::from_millis(105)).await;
                for node in &nodes {
                    let left = node.snapshot().paused_for.unwrap_or_default();
                    let lasts = PAUSE - elapsed(begin);
                    assert!(
                        left + Duration::from_millis(3) >= lasts,
                        "{round}: {left:?}"
                    );
                    // It ends no later than it does at the store.
                    assert!(
                        left <= lasts + Duration::from_millis(2),
                        "{round}: {left:?}"
                    );
                    node.try_acquire(1).await.unwrap_err();
                }
                sleep(Duration::from_millis(37 * round)).await;
            }
        }
    }
}

/// All turns are moved by as much.
#[tokio::test(start_paused = true)]
async fn turns_of_a_process_that_hears_of_a_pause_of_another_come_later_by_as_much() {
    for store in stores() {
        let quota = Quota::per_second(10).burst(1);
        let nodes = nodes(&store, 3, |it| it.quota("calls", quota)).await;
        let (log, mut waiters) = (Log::default(), JoinSet::new());
        for i in 0..60 {
            let (limit, log) = (nodes[i % 3].clone(), Arc::clone(&log));
            waiters.spawn(async move {
                limit.acquire(1).await.unwrap();
                log.lock().unwrap().push(time::now().to_instant());
            });
        }
        sleep(Duration::from_millis(1_050)).await;
        nodes[0].pause(Duration::from_secs(1));
        waiters.join_all().await;
        let mut log = std::mem::take(&mut *log.lock().unwrap());
        log.sort_unstable();
        assert_eq!(log.len(), 60);
        assert_windows(&log, quota, "all have heard");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_whose_pauses_grow_all_the_time_asks_for_none_and_the_others_ten_times_a_second()
{
    for store in stores() {
        let nodes = nodes(&store, 2, |it| it.quota("calls", Quota::per_second(50))).await;
        let before = store.beats.load(Ordering::Relaxed);
        for _ in 0..500 {
            nodes[0].pause(PAUSE);
            sleep(Duration::from_millis(10)).await;
        }
        // In 5 s, and what both say without being told.
        let beats = store.beats.load(Ordering::Relaxed) - before;
        assert!((40..=52 + 2).contains(&beats), "{beats}");
        assert!(nodes[1].snapshot().paused_for > Some(PAUSE - Duration::from_millis(120)));
    }
}
