//! Who is the first in the line of leased tokens waits for no longer than it has to.

use tokio::task::JoinHandle;

use super::*;

/// One call in six seconds, in leased batches.
fn slow(it: FleetRateLimitBuilder) -> FleetRateLimitBuilder {
    it.quota("calls", Quota::per_minute(10)).leased()
}

/// So many are owed, and the first in the line waits: for when it came, and its answer.
async fn first_of_a_line(
    limit: &FleetRateLimit,
    by: &FleetRateLimit,
    owed: u64,
) -> (Instant, JoinHandle<Result<Instant, RateLimited>>) {
    while let Ok(taken) = try_one(by).await {
        taken.settle(1);
    }
    sleep(Duration::from_secs(6)).await;
    by.acquire(1).await.unwrap().settle(1 + owed);
    sleep(Duration::from_millis(200)).await;
    let limit = limit.clone();
    let begin = time::now().to_instant();
    let first = tokio::spawn(async move {
        limit.acquire(1).await?;
        Ok(time::now().to_instant())
    });
    sleep(Duration::from_millis(500)).await;
    assert!(!first.is_finished());
    (begin, first)
}

#[tokio::test(start_paused = true)]
async fn the_first_in_the_line_goes_by_its_share_soon_after_the_store_went_away() {
    for store in stores() {
        let nodes = nodes(&store, 2, |it| slow(it).max_wait(Duration::from_secs(100))).await;
        // Only the one that has used the calls knows that they are gone.
        let (begin, first) = first_of_a_line(&nodes[0], &nodes[1], 4).await;
        nodes[0].shared.left(0, 10, time::now());
        store.is_away.store(true, Ordering::Relaxed);
        let passed = first.await.unwrap().unwrap();
        assert!(nodes[0].snapshot().totals.local == 1);
        let after = passed.duration_since(begin).as_millis();
        // It asks every 100 ms.
        assert!((500..610).contains(&after), "{after}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_in_the_line_goes_by_its_share_at_once_if_another_finds_the_store_away() {
    for store in stores() {
        let nodes = nodes(&store, 2, |it| slow(it).max_wait(Duration::from_secs(100))).await;
        let (_, first) = first_of_a_line(&nodes[0], &nodes[1], 4).await;
        nodes[0].shared.left(0, 10, time::now());
        store.is_away.store(true, Ordering::Relaxed);
        let away = time::now().to_instant();
        nodes[0].shared.degrade(&StoreError::Deadline);
        let passed = first.await.unwrap().unwrap();
        assert!(passed.duration_since(away) < Duration::from_millis(2));
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_in_the_line_takes_what_is_given_back_by_its_process_at_once_and_by_others_soon()
{
    for store in stores() {
        let nodes = nodes(&store, 2, |it| slow(it).max_wait(Duration::from_secs(100))).await;
        for (by, most) in [(0, 5), (1, 110)] {
            sleep(Duration::from_secs(300)).await;
            let taken = nodes[by].acquire(5).await.unwrap();
            let (_, first) = first_of_a_line(&nodes[0], &nodes[1 - by], 4).await;
            let back = time::now().to_instant();
            taken.settle(0);
            let passed = first.await.unwrap().unwrap();
            let after = passed.duration_since(back).as_millis();
            assert!(after <= most, "{by}: {after}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_its_turn_is_refused_as_soon_as_a_pause_is_heard_that_ends_too_late() {
    for leased in [false, true] {
        for store in stores() {
            let set_up = |it: FleetRateLimitBuilder| {
                let it = slow(it).max_wait(Duration::from_secs(60));
                if leased { it } else { it.exact() }
            };
            let nodes = nodes(&store, 2, set_up).await;
            let (_, first) = first_of_a_line(&nodes[0], &nodes[1], 4).await;
            let heard = time::now().to_instant();
            nodes[0].pause(Duration::from_secs(60));
            let refused = first.await.unwrap().unwrap_err();
            let expected = (RateLimitReason::TooLong, None);
            assert_eq!((refused.reason(), refused.quota()), expected);
            assert!(elapsed(heard) < Duration::from_millis(5));
            assert_eq!(nodes[0].snapshot().waiting, 0);
        }
    }
}

/// Tokens that are over when they come: each call asks for itself, and need not wait until those before it have.
#[tokio::test(start_paused = true)]
async fn many_who_ask_a_store_that_takes_longer_than_a_lease_do_not_wait_for_each_other() {
    let mut store = Counting::around(Fleet::in_process().shared);
    Arc::get_mut(&mut store).unwrap().trip = Duration::from_millis(150);
    let limit = builder(&store, 0).quota("calls", Quota::per_second(500));
    let limit = limit.store_timeout(Duration::from_secs(1)).leased();
    let limit = limit.build().unwrap();
    sleep(Duration::from_secs(1)).await;
    for _ in 0..3 {
        let begin = time::now().to_instant();
        let calls = (0..100).map(|i| match i % 2 {
            0 => limit.acquire(1),
            _ => limit.try_acquire(1),
        });
        for ended in futures::future::join_all(calls).await {
            drop(ended.unwrap());
        }
        // One batch that is late, and one question for each.
        assert!(
            elapsed(begin) <= Duration::from_millis(310),
            "{:?}",
            elapsed(begin)
        );
    }
}

/// As a runtime that is only used from time to time.
#[test]
fn a_question_on_a_runtime_that_does_not_run_holds_nobody_up_on_another() {
    let paused = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap()
    };
    let (idle, busy) = (paused(), paused());
    let limit = idle.block_on(async {
        let store = Counting::around(Fleet::in_process().shared);
        let limit = builder(&store, 0).quota("calls", Quota::per_second(500));
        let limit = limit.build().unwrap();
        sleep(Duration::from_millis(10)).await;
        let asks = timeout(Duration::from_micros(500), limit.acquire(1));
        assert!(asks.await.is_err());
        limit
    });
    busy.block_on(async {
        let begin = time::now().to_instant();
        for _ in 0..20 {
            drop(limit.acquire(1).await.unwrap());
        }
        // The first waits for twice as long as the store may take.
        let took = elapsed(begin);
        assert!(took < Duration::from_millis(250), "{took:?}");
    });
}
