use std::sync::{Arc, Mutex};

use tokio::time::{Instant, sleep};

use super::support::{Mode, World, ms, settle};
use crate::call::deadline::{self, Deadline};
use crate::error::ContendedReason;
use crate::event::Event;

#[tokio::test(start_paused = true)]
async fn two_processes_are_served_in_the_order_in_which_they_came_and_at_once() {
    let world = World::default();
    let (a, b) = (world.node("a", |_| {}), world.node("b", |_| {}));
    let first = a.lock.acquire("1").await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for (n, node) in [(2, &b), (3, &a), (4, &b)] {
        let (lock, order) = (node.lock.clone(), Arc::clone(&order));
        tasks.push(tokio::spawn(async move {
            let guard = lock.acquire(n).await.unwrap();
            order
                .lock()
                .unwrap()
                .push((n, guard.fence().unwrap().token));
        }));
        settle().await;
    }
    let began = Instant::now();
    let token = first.fence().unwrap().token;
    drop(first);
    for task in tasks {
        task.await.unwrap();
    }
    // Not by asking now and then.
    assert!(began.elapsed() < ms(5), "{:?}", began.elapsed());
    let order = order.lock().unwrap().clone();
    assert_eq!(order.iter().map(|it| it.0).collect::<Vec<_>>(), [2, 3, 4]);
    let tokens: Vec<u64> = [token]
        .into_iter()
        .chain(order.iter().map(|it| it.1))
        .collect();
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}

#[tokio::test(start_paused = true)]
async fn as_many_as_the_lock_has_hold_it_each_in_a_slot_of_its_own() {
    let world = World::default();
    let nodes = ["a", "b"].map(|it| world.node(it, |it| it.max_concurrent = 3));
    let mut guards = Vec::new();
    for n in 0..3_u64 {
        guards.push(nodes[n as usize % 2].lock.acquire(n).await.unwrap());
    }
    let mut slots: Vec<u32> = guards.iter().map(|it| it.fence().unwrap().slot).collect();
    slots.sort_unstable();
    assert_eq!(slots, [0, 1, 2]);
    let refused = nodes[1].lock.try_acquire("late").await.unwrap_err();
    assert_eq!(*refused.reason(), ContendedReason::Busy);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_lost_costs_a_second_and_no_more() {
    let world = World::default();
    let (a, b) = (world.node("a", |_| {}), world.deaf_node("b", |_| {}));
    let guard = a.lock.acquire("holder").await.unwrap();
    let lock = b.lock.clone();
    let waits = tokio::spawn(async move { lock.acquire("waiter").await });
    sleep(ms(300)).await;
    let began = Instant::now();
    drop(guard);
    let got = waits.await.unwrap().unwrap();
    assert!(
        began.elapsed() > ms(100) && began.elapsed() <= ms(1_050),
        "{:?}",
        began.elapsed()
    );
    // It has a whole lease although it was handed a short one.
    assert!(got.valid_for().unwrap() > ms(9_000));
    assert_eq!(world.count().await, (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_takes_too_long_says_who_holds_the_permit_and_in_which_process() {
    let world = World::default();
    let (a, b) = (world.node("a", |_| {}), world.node("b", |_| {}));
    let _guard = a.lock.acquire("job-7").await.unwrap();
    let began = Instant::now();
    let refused = b
        .lock
        .acquire("job-8")
        .timeout(ms(2_500))
        .await
        .unwrap_err();
    assert_eq!(began.elapsed(), ms(2_500));
    assert_eq!(*refused.reason(), ContendedReason::TimedOut);
    let text = refused.to_string();
    assert!(text.contains("held by job-7 on a for 2."), "{text}");
    settle().await;
    assert_eq!(world.count().await, (1, 0));
    let stats = b.lock.snapshot().stats;
    assert_eq!(
        (stats.attempts, stats.timeouts, stats.contentions),
        (1, 1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_the_request_ends_a_wait() {
    let world = World::default();
    let a = world.node("a", |_| {});
    let _guard = a.lock.acquire("holder").await.unwrap();
    let began = Instant::now();
    let asked = deadline::scope(
        Deadline::after(ms(700)),
        a.lock.acquire("late").into_future(),
    );
    let refused = asked.await.unwrap_err();
    assert_eq!(*refused.reason(), ContendedReason::DeadlineExceeded);
    assert_eq!(began.elapsed(), ms(700));
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_is_reported_while_it_lasts_and_names_the_holders() {
    let world = World::default();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    let a = world.node("a", |_| {});
    let b = world.node("b", |settings| {
        settings.contention_threshold = ms(1_500);
        settings.observers = vec![Arc::new(move |_: &str, event: &Event| {
            hears.lock().unwrap().push(event.to_string());
        })];
    });
    let guard = a.lock.acquire("job-1").await.unwrap();
    let lock = b.lock.clone();
    let waits = tokio::spawn(async move { lock.acquire("job-2").await });
    sleep(ms(1_600)).await;
    let said = heard.lock().unwrap().clone();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0]
            .starts_with("`job-2` has waited 1.500s (1 in the queue), held by job-1 on a for 1."),
        "{said:?}"
    );
    drop(guard);
    drop(waits.await.unwrap().unwrap());
    let said = heard.lock().unwrap().clone();
    assert!(said[1].starts_with("`job-2` got it after 1.6"), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_shows_who_holds_and_who_waits_in_every_process() {
    let world = World::default();
    let (a, b) = (world.node("a", |_| {}), world.node("b", |_| {}));
    let guard = a.lock.acquire("job-1").await.unwrap();
    let lock = b.lock.clone();
    let waits = tokio::spawn(async move { lock.acquire("job-2").await });
    sleep(ms(2_000)).await;
    let seen = a.lock.fetch().await.unwrap();
    let holder = &seen.holders[0];
    assert_eq!((&*holder.holder, &*holder.node), ("job-1", "a"));
    assert_eq!(Some(holder.fence), guard.fence());
    assert_eq!(holder.held_for, ms(2_000));
    let waiter = &seen.waiters[0];
    assert_eq!((&*waiter.holder, &*waiter.node), ("job-2", "b"));
    assert_eq!((seen.waiting, seen.held_here, seen.waiting_here), (1, 1, 0));
    assert_eq!(b.lock.snapshot().waiting_here, 1);
    waits.abort();
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_whoever_comes_from_wherever() {
    let world = World::default();
    let nodes = ["a", "b"].map(|it| world.node(it, |it| it.max_waiting = Some(1)));
    let _guard = nodes[0].lock.acquire("holder").await.unwrap();
    let lock = nodes[0].lock.clone();
    let waits = tokio::spawn(async move { lock.acquire("waiter").await });
    settle().await;
    let refused = nodes[1].lock.acquire("late").await.unwrap_err();
    assert_eq!(*refused.reason(), ContendedReason::QueueFull);
    waits.abort();
}

#[tokio::test(start_paused = true)]
async fn the_number_of_permits_is_changed_for_every_process_and_only_a_higher_version_changes_it_back()
 {
    let world = World::default();
    let a = world.node("a", |_| {});
    let guard = a.lock.acquire("1").await.unwrap();
    let lock = a.lock.clone();
    let waits = tokio::spawn(async move { lock.acquire("2").await });
    settle().await;
    a.lock
        .set_max_concurrent(2.try_into().unwrap())
        .await
        .unwrap();
    let second = waits.await.unwrap().unwrap();
    let old = world.node("b", |_| {});
    assert!(old.lock.try_acquire("3").await.is_err());
    assert_eq!(old.lock.snapshot().capacity, 2);
    let new = world.node("c", |it| (it.max_concurrent, it.version) = (3, 5));
    let third = new.lock.acquire("3").await.unwrap();
    assert_eq!(new.lock.snapshot().capacity, 3);
    drop((guard, second, third));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_turn_or_for_the_store_has_waited() {
    let world = World::default();
    let crowded = world.node("a", |it| it.max_concurrent = 1_000);
    crowded.faults.set(Mode::Slow(50));
    let calls: Vec<_> = (0..300)
        .map(|n: u64| {
            let lock = crowded.lock.clone();
            tokio::spawn(async move { lock.acquire(n).await })
        })
        .collect();
    let mut guards = Vec::new();
    for call in calls {
        guards.push(call.await.unwrap().unwrap());
    }
    // The first 128 asked at once, the last after two others.
    let wait = crowded.lock.snapshot().stats.wait;
    assert_eq!(wait.count, 300);
    assert!((ms(90)..ms(200)).contains(&wait.max), "{wait:?}");

    let failing = world.node("b", |it| it.max_concurrent = 1_000);
    failing.faults.set(Mode::Down);
    let lock = failing.lock.clone();
    let call = tokio::spawn(async move { lock.acquire("again").await });
    sleep(ms(10)).await;
    failing.faults.set(Mode::Up);
    let _guard = call.await.unwrap().unwrap();
    let wait = failing.lock.snapshot().stats.wait;
    assert!((ms(20)..ms(100)).contains(&wait.max), "{wait:?}");
}
