use tokio::time::{Instant, sleep};

use super::support::{Mode, World, ms, settle};
use crate::error::ContendedReason;

fn is_unavailable(reason: &ContendedReason) -> bool {
    matches!(reason, ContendedReason::Unavailable { .. })
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_nobody_is_admitted_and_nobody_waits_for_it() {
    for mode in [Mode::Down, Mode::Hang, Mode::Slow(10_000)] {
        let world = World::default();
        let a = world.node("a", |_| {});
        a.faults.set(mode);
        let began = Instant::now();
        let refused = a.lock.acquire("1").await.unwrap_err();
        assert!(is_unavailable(refused.reason()), "{refused}");
        assert!(
            began.elapsed() <= ms(500),
            "{mode:?}: {:?}",
            began.elapsed()
        );
        // From here on it is known.
        let began = Instant::now();
        let refused = a.lock.acquire("2").await.unwrap_err();
        assert!(is_unavailable(refused.reason()));
        assert_eq!(began.elapsed(), ms(0));
        assert!(a.lock.snapshot().away_for.is_some());
        assert_eq!(a.lock.snapshot().unavailable, 2);

        sleep(ms(5_000)).await;
        a.faults.set(Mode::Up);
        sleep(ms(250)).await;
        let guard = a.lock.acquire("3").await.unwrap();
        assert!(guard.fence().is_some());
        assert_eq!(a.lock.snapshot().away_for, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_with_its_own_time_also_if_the_store_does_not_answer() {
    let world = World::default();
    let a = world.node("a", |_| {});
    a.faults.set(Mode::Hang);
    let began = Instant::now();
    let refused = a.lock.acquire("1").timeout(ms(30)).await.unwrap_err();
    assert!(is_unavailable(refused.reason()), "{refused}");
    assert!(began.elapsed() <= ms(31), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_has_passed_is_not_the_reason_of_a_wait_that_is_too_long() {
    let world = World::default();
    let a = world.node("a", |_| {});
    let _guard = a.lock.acquire("holder").await.unwrap();
    a.faults.set(Mode::Down);
    assert!(a.lock.fetch().await.is_err());
    a.faults.set(Mode::Up);
    let refused = a.lock.acquire("late").timeout(ms(300)).await.unwrap_err();
    assert_eq!(*refused.reason(), ContendedReason::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn who_waits_when_the_store_goes_away_keeps_its_place_if_it_comes_back_in_time() {
    let world = World::default();
    let (a, b) = (world.node("a", |_| {}), world.node("b", |_| {}));
    let guard = a.lock.acquire("holder").await.unwrap();
    let lock = b.lock.clone();
    let waits = tokio::spawn(async move { lock.acquire("waiter").await });
    sleep(ms(100)).await;
    b.faults.set(Mode::Down);
    sleep(ms(3_000)).await;
    assert!(b.lock.snapshot().away_for.is_some());
    b.faults.set(Mode::Up);
    sleep(ms(200)).await;
    drop(guard);
    let got = waits.await.unwrap().unwrap();
    assert_eq!(got.holder(), "waiter".into());
}

#[tokio::test(start_paused = true)]
async fn local_permits_stand_in_for_the_store_only_while_it_is_away() {
    let world = World::default();
    let a = world.node("a", |it| {
        it.max_concurrent = 1;
        it.local = Some(2);
    });
    let leased = a.lock.acquire("leased").await.unwrap();
    let lock = a.lock.clone();
    // It waits already, and gets one as well.
    let waits = tokio::spawn(async move { lock.acquire("waited").await });
    sleep(ms(100)).await;
    a.faults.set(Mode::Down);
    let waited = waits.await.unwrap().unwrap();
    let second = a.lock.acquire("second").await.unwrap();
    assert_eq!((waited.fence(), second.fence()), (None, None));
    assert_eq!(second.valid_for(), None);
    let refused = a.lock.try_acquire("third").await.unwrap_err();
    assert_eq!(*refused.reason(), ContendedReason::Busy);
    assert_eq!(a.lock.snapshot().local, 2);

    a.faults.set(Mode::Up);
    sleep(ms(300)).await;
    drop((waited, second));
    let refused = a.lock.try_acquire("fourth").await.unwrap_err();
    assert_eq!(*refused.reason(), ContendedReason::Busy);
    drop(leased);
    settle().await;
    assert!(a.lock.acquire("fifth").await.unwrap().fence().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_release_that_fails_is_said_again_until_the_lease_has_ended() {
    let world = World::default();
    let a = world.node("a", |_| {});
    let guard = a.lock.acquire("holder").await.unwrap();
    a.faults.set(Mode::Down);
    let began = Instant::now();
    drop(guard);
    assert_eq!(began.elapsed(), ms(0));
    sleep(ms(1_000)).await;
    assert_eq!(world.count().await, (1, 0));
    a.faults.set(Mode::Up);
    sleep(ms(250)).await;
    assert_eq!(world.count().await, (0, 0));
}
