//! Answers that take long, and answers that do not come: to whom the time that they take is counted.

use std::future::IntoFuture;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{advance, sleep};

use super::super::lease::{Fence, Grant, Lease, LostReason};
use super::super::op::Member;
use super::super::settings::Settings;
use super::support::{Mode, World, ms, settle};
use crate::call::deadline::Deadline;
use crate::error::ContendedReason;
use crate::util::time;

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_heard_too_late_does_not_undo_that_the_permit_is_lost() {
    let now = time::now();
    let grant = Grant {
        fence: Fence { slot: 0, token: 1 },
        until: now.after(ms(900)),
        expiry: 900_000,
    };
    let member = Member::new("1", 900_000, "inbox", "node", "holder");
    let lease = Lease::new(grant, member, "holder".into(), false, now);
    lease.renewed(now.after(ms(1_200)), 1_200_000, now.after(ms(300)));
    advance(ms(1_200)).await;
    assert_eq!(lease.lost().await, LostReason::Expired);
    // The agent has had no time to see that.
    let now = time::now();
    lease.renewed(now.after(ms(500)), 1_700_000, now);
    assert_eq!(lease.valid_for(), Duration::ZERO);
    assert_eq!(lease.lost().await, LostReason::Expired);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_took_longer_than_the_lease_admits_nobody() {
    let world = World::default();
    let set = |it: &mut Settings| it.lease = ms(300);
    let a = world.patient_node("a", Duration::from_secs(1), set);
    a.faults.set(Mode::Slow(800));
    let lock = a.lock.clone();
    let asks = tokio::spawn(async move {
        let guard = lock.acquire("holder").await.unwrap();
        (guard.valid_for(), guard)
    });
    sleep(ms(1_000)).await;
    a.faults.set(Mode::Up);
    let (valid_for, guard) = asks.await.unwrap();
    assert!(valid_for > Some(ms(200)), "{valid_for:?}");
    assert_eq!(world.count().await, (1, 0));
    drop(guard);
    settle().await;
    assert_eq!(world.count().await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_answer_that_never_comes_costs_nobody_its_place_however_patient_calls_are() {
    let world = World::default();
    let a = world.node("a", |_| {});
    let b = world.patient_node("b", Duration::from_secs(60), |_| {});
    let guard = a.lock.acquire("holder").await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut waiters = JoinSet::new();
    for (name, node) in [("first", &b), ("second", &a)] {
        let (lock, order) = (node.lock.clone(), Arc::clone(&order));
        waiters.spawn(async move {
            let guard = lock.acquire(name).await.unwrap();
            order.lock().unwrap().push(name);
            drop(guard);
        });
        sleep(ms(10)).await;
    }
    // Its signs of life go out once a second.
    sleep(ms(900)).await;
    b.faults.set(Mode::Hang);
    sleep(ms(300)).await;
    b.faults.set(Mode::Up);
    sleep(Duration::from_secs(8)).await;
    drop(guard);
    waiters.join_all().await;
    assert_eq!(*order.lock().unwrap(), ["first", "second"]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_no_sign_of_life_reaches_is_away_however_patient_calls_are() {
    let world = World::default();
    let a = world.node("a", |_| {});
    let b = world.patient_node("b", Duration::from_secs(60), |it| {
        it.lease = Duration::from_secs(3_600);
        it.local = Some(1);
    });
    let _guard = a.lock.acquire("holder").await.unwrap();
    let lock = b.lock.clone();
    let waits = tokio::spawn(async move { lock.acquire("waiter").await });
    sleep(ms(500)).await;
    b.faults.set(Mode::Hang);
    sleep(Duration::from_secs(6)).await;
    assert!(waits.is_finished(), "it waits for a store that is away");
    assert_eq!(waits.await.unwrap().unwrap().fence(), None);
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_permit_of_this_process_is_a_wait_and_ends_with_the_deadline() {
    let world = World::default();
    let a = world.node("a", |it| {
        it.local = Some(1);
        it.contention_threshold = ms(400);
    });
    a.faults.set(Mode::Down);
    let first = a.lock.acquire("first").await.unwrap();
    let lock = a.lock.clone();
    let waits = tokio::spawn(async move { lock.acquire("second").await });
    sleep(ms(500)).await;
    drop(first);
    let second = waits.await.unwrap().unwrap();
    assert_eq!(second.fence(), None);
    let stats = a.lock.snapshot().stats;
    assert!(stats.wait.max >= ms(450), "{:?}", stats.wait);
    assert_eq!(stats.contentions, 1);

    let mut acquire = a.lock.acquire("third");
    acquire.deadline = Some(Deadline::after(ms(700)));
    let refused = acquire.into_future().await.unwrap_err();
    assert_eq!(*refused.reason(), ContendedReason::DeadlineExceeded);
}
