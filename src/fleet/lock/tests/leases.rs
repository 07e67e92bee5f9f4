use tokio::time::{Instant, sleep};

use super::super::lease::LostReason;
use super::super::op::Handoff;
use super::support::{Mode, World, ms, settle};
use crate::error::ContendedReason;

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_for_as_long_as_its_guard_lives() {
    let world = World::default();
    let (a, b) = (
        world.node("a", |it| it.lease = ms(900)),
        world.node("b", |it| it.lease = ms(900)),
    );
    let guard = a.lock.acquire("holder").await.unwrap();
    for _ in 0..100 {
        sleep(ms(300)).await;
        assert!(
            guard.valid_for().unwrap() >= ms(500),
            "{:?}",
            guard.valid_for()
        );
    }
    assert!(b.lock.try_acquire("other").await.is_err());
    // One call at each third of a lease.
    let renewals = a.lock.snapshot().renewals;
    assert!((95..=105).contains(&renewals), "{renewals}");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_cannot_renew_is_told_before_anybody_else_has_the_permit() {
    let world = World::default();
    for mode in [Mode::Down, Mode::Hang, Mode::Slow(10_000)] {
        let (a, b) = (
            world.node("a", |it| it.lease = ms(3_000)),
            world.node("b", |it| it.lease = ms(3_000)),
        );
        let guard = a.lock.acquire("holder").await.unwrap();
        let began = Instant::now();
        let lock = b.lock.clone();
        let waits = tokio::spawn(async move { (lock.acquire("next").await, Instant::now()) });
        sleep(ms(100)).await;
        a.faults.set(mode);
        assert_eq!(guard.lost().await, LostReason::Expired);
        let lost = Instant::now();
        assert!(lost - began >= ms(2_900), "{:?}", lost - began);
        assert_eq!(guard.valid_for(), Some(ms(0)));
        let (next, got) = waits.await.unwrap();
        assert!(
            got >= lost && got - lost <= ms(100),
            "{mode:?}: {:?}",
            got - lost
        );
        assert_eq!(a.lock.snapshot().lost, 1);
        assert!(next.unwrap().fence().unwrap().token > guard.fence().unwrap().token);
        a.faults.set(Mode::Up);
        drop(guard);
        settle().await;
        assert_eq!(world.count().await, (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_the_store_has_given_away_is_lost_as_soon_as_it_is_renewed() {
    let world = World::default();
    let a = world.node("a", |it| it.lease = ms(3_000));
    let guard = a.lock.acquire("holder").await.unwrap();
    // As an operator would, or a store that was restored.
    a.lock
        .owner
        .0
        .work()
        .releases
        .push(super::super::shared::Due {
            what: (guard.fence().unwrap().slot, guard.fence().unwrap().token),
            until: crate::util::time::Tick::NEVER,
            at: crate::util::time::now(),
            is_second: false,
        });
    a.lock.owner.0.wake.notify_one();
    let began = Instant::now();
    assert_eq!(guard.lost().await, LostReason::Refused);
    assert!(began.elapsed() <= ms(1_010), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_slot_handed_to_a_process_that_has_died_comes_back_after_two_seconds_whatever_the_lease()
{
    let world = World::default();
    let set = |it: &mut super::super::settings::Settings| it.lease = ms(60_000);
    let (a, dead, b) = (
        world.node("a", set),
        world.node("dead", set),
        world.node("b", set),
    );
    let guard = a.lock.acquire("holder").await.unwrap();
    let lock = dead.lock.clone();
    let died = tokio::spawn(async move { lock.acquire("died").await });
    settle().await;
    dead.die().await;
    died.abort();
    let lock = b.lock.clone();
    let waits = tokio::spawn(async move { lock.acquire("next").await });
    sleep(ms(200)).await;
    let began = Instant::now();
    drop(guard);
    drop(waits.await.unwrap().unwrap());
    assert!(
        began.elapsed() >= ms(1_900) && began.elapsed() <= ms(2_100),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn who_waits_and_has_died_loses_its_place_after_four_seconds() {
    let world = World::default();
    let (a, dead) = (world.node("a", |_| {}), world.node("dead", |_| {}));
    let _guard = a.lock.acquire("holder").await.unwrap();
    let lock = dead.lock.clone();
    let died = tokio::spawn(async move { lock.acquire("died").await });
    settle().await;
    dead.die().await;
    died.abort();
    sleep(ms(3_500)).await;
    // A beat of any other clears the queue.
    let refused = a.lock.acquire("b").timeout(ms(1)).await.unwrap_err();
    assert_eq!(*refused.reason(), ContendedReason::TimedOut);
    assert_eq!(world.count().await.1, 2);
    sleep(ms(1_000)).await;
    let refused = a.lock.acquire("c").timeout(ms(1_100)).await.unwrap_err();
    assert_eq!(*refused.reason(), ContendedReason::TimedOut);
    settle().await;
    assert_eq!(world.count().await, (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lease_counts_from_when_it_was_asked_for_not_from_the_answer() {
    let world = World::default();
    let a = world.node("a", |_| {});
    a.faults.set(Mode::Slow(80));
    let guard = a.lock.acquire("holder").await.unwrap();
    assert_eq!(guard.valid_for(), Some(ms(10_000 - 80)));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_a_message_brings_does_not_count_from_when_the_message_came() {
    let world = World::default();
    let (a, b) = (world.node("a", |_| {}), world.deaf_node("b", |_| {}));
    let guard = a.lock.acquire("holder").await.unwrap();
    let lock = b.lock.clone();
    let waits = tokio::spawn(async move { lock.acquire("waiter").await });
    sleep(ms(300)).await;
    drop(guard);
    sleep(ms(500)).await;
    let fence = a.lock.fetch().await.unwrap().holders[0].fence;
    let granted_at = i64::try_from(fence.token).unwrap();
    let shared = &b.lock.owner.0;
    let id = shared.waiters().keys().next().unwrap().clone();
    shared.handed(&Handoff {
        inbox: String::new(),
        id,
        slot: fence.slot,
        token: fence.token,
        expiry: granted_at + 2_000_000,
        now: granted_at,
    });
    let got = waits.await.unwrap().unwrap();
    // Two seconds, without the half of one that the message took.
    assert!(got.valid_for() <= Some(ms(1_500)), "{:?}", got.valid_for());
    assert!(got.valid_for() > Some(ms(1_000)), "{:?}", got.valid_for());
}

#[tokio::test(start_paused = true)]
async fn a_long_hold_is_reported_while_it_lasts_and_when_it_ends() {
    use std::sync::{Arc, Mutex};
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    let world = World::default();
    let a = world.node("a", |it| {
        it.hold_threshold = Some(ms(2_000));
        it.observers = vec![Arc::new(move |_: &str, event: &crate::event::Event| {
            hears.lock().unwrap().push(event.to_string());
        })];
    });
    let guard = a.lock.acquire("job").await.unwrap();
    sleep(ms(2_010)).await;
    let said = |heard: &Arc<Mutex<Vec<String>>>| heard.lock().unwrap().join("; ");
    assert_eq!(said(&heard), "`job` has held it for 2.000s");
    sleep(ms(1_000)).await;
    drop(guard);
    assert_eq!(
        said(&heard),
        "`job` has held it for 2.000s; `job` held it for 3.010s"
    );
}

#[tokio::test(start_paused = true)]
async fn the_agent_gives_back_what_there_is_and_ends_with_the_last_handle() {
    let world = World::default();
    let a = world.node("a", |_| {});
    let guard = a.lock.acquire("holder").await.unwrap();
    let shared = std::sync::Arc::downgrade(&a.lock.owner.0);
    drop(a);
    sleep(ms(20_000)).await;
    // A guard keeps the agent, and the agent the lease.
    assert_eq!(world.count().await, (1, 0));
    assert!(guard.valid_for().unwrap() > ms(5_000));
    drop(guard);
    settle().await;
    assert_eq!(world.count().await, (0, 0));
    assert!(shared.upgrade().is_none(), "the agent still runs");
}
