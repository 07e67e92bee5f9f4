//! Locks and their layer: order, bounds, what is reported, deadlocks, cancellation.

#![expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, LazyLock, Mutex};
use std::thread;
use std::time::Duration;

use futures::future::{FutureExt, join, join_all};
use futures::stream::{self, StreamExt};
use static_assertions::assert_impl_all;
use tokio::time::{Instant, advance, sleep};
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
use tower::util::BoxCloneService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::contention::{
    Acquire, AcquireOwned, ContentionEvent, ContentionFuture, ContentionService, OnDeadlock,
    OwnedResourceGuard, ResourceGuard,
};
use tower_bulwark::observe::{Entry, Feed};
use tower_bulwark::{
    ContendedReason, ContentionLayer, Error, Event, Holder, Registry, ResourceLock, workflow,
};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const SHORT: Duration = Duration::from_millis(5);

assert_impl_all!(ResourceLock: Send, Sync, Clone);
assert_impl_all!(ResourceGuard<'static>: Send, Sync);
assert_impl_all!(OwnedResourceGuard: Send, Sync);
assert_impl_all!(Acquire<'static>: Send);
assert_impl_all!(AcquireOwned: Send);
assert_impl_all!(ContentionLayer<std::io::Error>: Send, Sync, Clone);
assert_impl_all!(ContentionService<(), std::io::Error>: Send, Sync, Clone);
assert_impl_all!(ContentionFuture<BoxCloneService<(), (), Infallible>, (), Infallible>: Send);

fn exclusive() -> ResourceLock {
    ResourceLock::new("db")
}

fn events(feed: &Feed) -> Vec<String> {
    feed.recent()
        .into_iter()
        .map(|entry| entry.event.to_string())
        .collect()
}

// ---- Waiting ------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn who_comes_first_is_served_first() {
    let lock = exclusive();
    let order = Arc::new(Mutex::new(Vec::new()));
    let held = lock.acquire("first").await.unwrap();
    let waiters: Vec<_> = (0..20)
        .map(|i| {
            let (lock, order) = (lock.clone(), Arc::clone(&order));
            let mut wait = task::spawn(async move {
                let _guard = lock.acquire(i).await.unwrap();
                order.lock().unwrap().push(i);
            });
            assert_pending!(wait.poll());
            wait
        })
        .collect();
    drop(held);
    // Polled in the wrong order, which must not matter.
    let mut waiters: Vec<_> = waiters.into_iter().rev().collect();
    while !waiters.is_empty() {
        waiters.retain_mut(|wait| wait.poll().is_pending());
    }
    assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<u64>>());
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_zero_is_a_try() {
    let lock = exclusive();
    let _held = lock.acquire("a").await.unwrap();
    let start = Instant::now();
    let refused = lock.acquire("b").timeout(Duration::ZERO).await.unwrap_err();
    assert_eq!(refused.reason(), &ContendedReason::Busy);
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(
        lock.try_acquire("c").unwrap_err().reason(),
        &ContendedReason::Busy
    );

    let trying = ResourceLock::builder("db")
        .timeout(Duration::ZERO)
        .build()
        .unwrap();
    let _held = trying.acquire("a").await.unwrap();
    assert_eq!(
        trying.acquire("b").await.unwrap_err().reason(),
        &ContendedReason::Busy
    );
}

#[tokio::test(start_paused = true)]
async fn the_timeout_covers_the_wait_and_never_the_work() {
    let lock = ResourceLock::builder("db").timeout(SECOND).build().unwrap();
    let result = lock.run("a", || async {
        sleep(100 * SECOND).await;
        Ok::<_, std::io::Error>("done")
    });
    assert_eq!(
        result.await.unwrap(),
        "done",
        "nobody else wanted it, and nobody was killed"
    );

    let _held = lock.acquire("a").await.unwrap();
    let start = Instant::now();
    let refused = lock.acquire("b").await.unwrap_err();
    assert_eq!((start.elapsed(), refused.waited()), (SECOND, SECOND));
    assert_eq!(refused.reason(), &ContendedReason::TimedOut);
    let holders: Vec<_> = refused
        .holders()
        .iter()
        .map(|h| h.holder.to_string())
        .collect();
    assert_eq!(holders, ["a"], "the holder is named, not the one who waits");
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_work_come_out_as_they_are() {
    let lock = exclusive();
    let timeout = || std::io::Error::from(std::io::ErrorKind::TimedOut);
    let result = lock.run("a", || async { Err::<(), _>(timeout()) }).await;
    assert!(matches!(result, Err(Error::Inner(e)) if e.kind() == std::io::ErrorKind::TimedOut));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once() {
    let lock = ResourceLock::builder("db").max_waiting(2).build().unwrap();
    let _held = lock.acquire("a").await.unwrap();
    let mut first = task::spawn(lock.acquire("b"));
    let mut second = task::spawn(lock.acquire("c"));
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    let refused = lock.acquire("d").await.unwrap_err();
    assert_eq!(refused.reason(), &ContendedReason::QueueFull);
    assert_eq!(refused.queue_length(), 2);
    drop(second);
    let mut third = task::spawn(lock.acquire("e"));
    assert_pending!(third.poll(), "whoever leaves makes room");
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_leaves_the_queue() {
    let lock = exclusive();
    let held = lock.acquire("a").await.unwrap();
    let mut gone = task::spawn(lock.acquire("b"));
    let mut next = task::spawn(lock.acquire("c"));
    assert_pending!(gone.poll());
    assert_pending!(next.poll());
    drop(gone);
    assert_eq!(lock.snapshot().waiting, 1);
    drop(held);
    assert!(next.is_woken());
    drop(assert_ready_ok!(next.poll()));
    assert_eq!(lock.snapshot().stats.abandoned, 1);
}

#[tokio::test(start_paused = true)]
async fn a_permit_granted_to_somebody_who_went_away_is_passed_on() {
    let lock = exclusive();
    let held = lock.acquire("a").await.unwrap();
    let mut gone = task::spawn(lock.acquire("b"));
    let mut next = task::spawn(lock.acquire("c"));
    assert_pending!(gone.poll());
    assert_pending!(next.poll());
    drop(held);
    assert!(gone.is_woken() && !next.is_woken());
    drop(gone);
    assert!(next.is_woken());
    drop(assert_ready_ok!(next.poll()));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_nobody_polls_is_shown_as_a_holder_that_has_not_claimed() {
    let lock = exclusive();
    let held = lock.acquire("a").await.unwrap();
    let mut sleepy = task::spawn(lock.acquire("sleepy"));
    assert_pending!(sleepy.poll());
    drop(held);
    advance(7 * SECOND).await;
    let refused = lock.acquire("c").timeout(SECOND).await.unwrap_err();
    let holder = &refused.holders()[0];
    assert_eq!(
        (holder.holder.to_string(), holder.claimed),
        ("sleepy".to_owned(), false)
    );
    assert!(
        refused
            .to_string()
            .contains("not polled since it was granted"),
        "{refused}"
    );
    drop(assert_ready_ok!(sleepy.poll()));
}

#[tokio::test(start_paused = true)]
async fn granted_at_the_last_moment_is_granted() {
    let lock = ResourceLock::builder("db").timeout(SECOND).build().unwrap();
    let held = lock.acquire("a").await.unwrap();
    let mut wait = task::spawn(lock.acquire("b"));
    assert_pending!(wait.poll());
    advance(2 * SECOND).await;
    drop(held);
    drop(assert_ready_ok!(wait.poll()));
}

// ---- What is told -------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn contention_is_told_while_it_lasts_and_names_the_holders() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let lock = ResourceLock::builder("gpu")
        .max_concurrent(2)
        .observer(move |_: &str, event: &Event| tell.send(event.clone()).unwrap())
        .build()
        .unwrap();
    let _a = lock.acquire("a").await.unwrap();
    advance(2 * SECOND).await;
    let b = lock.acquire("b").await.unwrap();
    let mut wait = task::spawn(lock.acquire("waiter"));
    assert_pending!(wait.poll());
    assert!(
        told.try_recv().is_err(),
        "a wait is not contention from its first moment"
    );
    advance(5 * SECOND).await;
    assert_pending!(wait.poll());
    let Ok(Event::Contention(ContentionEvent::Contended {
        holder,
        waited,
        holders,
        queue_length,
        ..
    })) = told.try_recv()
    else {
        panic!("not told while it waits");
    };
    assert!(!wait.is_woken(), "it sleeps on");
    assert_eq!(
        (holder.to_string().as_str(), waited, queue_length),
        ("waiter", 5 * SECOND, 1)
    );
    let seen: Vec<_> = holders
        .iter()
        .map(|h| (h.holder.to_string(), h.held_for))
        .collect();
    assert_eq!(
        seen,
        [("a".to_owned(), 7 * SECOND), ("b".to_owned(), 5 * SECOND)]
    );
    advance(5 * SECOND).await;
    assert_pending!(wait.poll());
    assert!(told.try_recv().is_err(), "told once");
    drop(b);
    drop(assert_ready_ok!(wait.poll()));
    assert!(matches!(
        told.try_recv(),
        Ok(Event::Contention(ContentionEvent::Acquired { .. }))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_was_told_of_still_ends_in_time() {
    let feed = Feed::default();
    let lock = ResourceLock::builder("db")
        .deadlock_timeout(None)
        .observer(feed.clone())
        .build()
        .unwrap();
    let _held = lock.acquire("a").await.unwrap();
    let start = Instant::now();
    let mut polls = 0;
    let mut wait = pin!(lock.acquire("b"));
    let ended = std::future::poll_fn(|cx| {
        polls += 1;
        wait.as_mut().poll(cx)
    });
    assert_eq!(
        ended.await.unwrap_err().reason(),
        &ContendedReason::TimedOut
    );
    assert_eq!(start.elapsed(), 30 * SECOND);
    assert_eq!(polls, 3, "to begin, to tell, and to end");
    assert_eq!(
        events(&feed),
        [
            "`b` has waited 5.000s (1 in the queue), held by a for 5.000s",
            "`b` gave up after 30.000s (timeout), held by a for 30.000s",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn timeouts_and_abandoned_waits_are_contention() {
    let lock = ResourceLock::builder("db").timeout(SECOND).build().unwrap();
    let held = lock.acquire("a").await.unwrap();
    for i in 0..5 {
        lock.acquire(i).await.unwrap_err();
    }
    let mut gone = task::spawn(lock.acquire("gone"));
    assert_pending!(gone.poll());
    advance(SECOND / 2).await;
    drop(gone);
    drop(held);
    let stats = lock.snapshot().stats;
    assert_eq!((stats.attempts, stats.acquisitions), (7, 1));
    assert_eq!(
        (stats.timeouts, stats.abandoned, stats.contentions),
        (5, 1, 6)
    );
    assert!((stats.contention_rate - 6.0 / 7.0).abs() < 1e-9);
    assert_eq!((stats.wait.count, stats.wait.max), (7, SECOND));
    assert_eq!(stats.hold.max, 5 * SECOND + SECOND / 2);
}

#[tokio::test(start_paused = true)]
async fn a_long_hold_of_a_layer_is_told_on_time_and_again_when_it_ends() {
    let feed = Feed::default();
    let lock = ResourceLock::builder("db")
        .hold_threshold(3 * SECOND)
        .observer(feed.clone())
        .build()
        .unwrap();
    let service = lock
        .layer()
        .holder(|id: &u64| *id)
        .layer(service_fn(|_: u64| async {
            sleep(10 * SECOND).await;
            Ok::<_, Infallible>(())
        }));
    let mut call = task::spawn(service.oneshot(7));
    assert_pending!(call.poll());
    advance(3 * SECOND).await;
    assert_pending!(call.poll());
    assert_eq!(events(&feed), ["`7` has held it for 3.000s"]);
    advance(7 * SECOND).await;
    assert_ready_ok!(call.poll());
    assert_eq!(events(&feed)[1..], ["`7` held it for 10.000s"]);
}

#[tokio::test(start_paused = true)]
async fn a_long_run_is_told_on_time_too() {
    let feed = Feed::default();
    let lock = ResourceLock::builder("db")
        .hold_threshold(3 * SECOND)
        .observer(feed.clone())
        .build()
        .unwrap();
    let mut run = task::spawn(lock.run("job", || async {
        sleep(10 * SECOND).await;
        Unit::Ok(())
    }));
    assert_pending!(run.poll());
    advance(3 * SECOND).await;
    assert!(run.is_woken());
    assert_pending!(run.poll());
    assert_eq!(events(&feed), ["`job` has held it for 3.000s"]);
}

#[tokio::test(start_paused = true)]
async fn a_long_hold_of_a_guard_is_noticed_by_a_snapshot() {
    let feed = Feed::default();
    let lock = ResourceLock::builder("db")
        .hold_threshold(3 * SECOND)
        .observer(feed.clone())
        .build()
        .unwrap();
    let guard = lock.acquire("a").await.unwrap();
    advance(4 * SECOND).await;
    assert_eq!(guard.held_for(), 4 * SECOND);
    for _ in 0..2 {
        let _ = lock.snapshot();
    }
    assert_eq!(events(&feed), ["`a` has held it for 4.000s"]);
}

#[tokio::test(start_paused = true)]
async fn statistics_can_be_reset_under_load() {
    let lock = exclusive();
    let guard = lock.acquire("a").await.unwrap();
    lock.reset_stats();
    assert_eq!(lock.snapshot().in_use, 1, "the holder stays");
    drop(guard);
    let stats = lock.snapshot().stats;
    assert_eq!((stats.attempts, stats.hold.count), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn an_observer_may_look_at_the_lock_it_hears_of() {
    let slot: Arc<Mutex<Option<ResourceLock>>> = Arc::default();
    let seen = Arc::new(AtomicUsize::new(0));
    let (inside, count) = (Arc::clone(&slot), Arc::clone(&seen));
    let lock = ResourceLock::builder("db")
        .timeout(SECOND)
        .observer(move |_: &str, _: &Event| {
            let lock = inside.lock().unwrap().clone().unwrap();
            count.fetch_add(lock.snapshot().in_use, Ordering::Relaxed);
        })
        .build()
        .unwrap();
    *slot.lock().unwrap() = Some(lock.clone());
    let _held = lock.acquire("a").await.unwrap();
    lock.acquire("b").await.unwrap_err();
    assert!(seen.load(Ordering::Relaxed) >= 1);
    slot.lock().unwrap().take();
}

// ---- Capacity -----------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn more_permits_are_granted_at_once_and_fewer_take_nothing_away() {
    let lock = exclusive();
    let a = lock.acquire("a").await.unwrap();
    let mut b = task::spawn(lock.acquire("b"));
    let mut c = task::spawn(lock.acquire("c"));
    assert_pending!(b.poll());
    assert_pending!(c.poll());
    lock.set_max_concurrent(3).unwrap();
    assert!(b.is_woken() && c.is_woken());
    let b = assert_ready_ok!(b.poll());
    let c = assert_ready_ok!(c.poll());

    lock.set_max_concurrent(1).unwrap();
    let snapshot = lock.snapshot();
    assert_eq!((snapshot.in_use, snapshot.capacity), (3, 1));
    let mut d = task::spawn(lock.acquire("d"));
    for guard in [a, b] {
        drop(guard);
        assert_pending!(d.poll(), "there are still as many as there are permits");
    }
    drop(c);
    drop(assert_ready_ok!(d.poll()));
    assert_eq!(
        lock.set_max_concurrent(0).unwrap_err().setting(),
        "max_concurrent"
    );
}

#[test]
fn what_cannot_work_is_refused_with_the_name_of_the_setting() {
    let none = ResourceLock::builder("db")
        .max_concurrent(0)
        .build()
        .unwrap_err();
    assert_eq!(none.setting(), "max_concurrent");
    let never = ResourceLock::builder("db")
        .hold_threshold(Duration::ZERO)
        .build()
        .unwrap_err();
    assert_eq!(never.setting(), "hold_threshold");
    // The largest values are merely large.
    let lock = ResourceLock::builder("db")
        .max_concurrent(usize::MAX)
        .timeout(Duration::MAX)
        .contention_threshold(Duration::MAX)
        .build()
        .unwrap();
    assert!(lock.try_acquire("a").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_timeout_too_long_to_count_can_be_waited_for() {
    let lock = ResourceLock::builder("db")
        .timeout(Duration::MAX)
        .build()
        .unwrap();
    let endless = ResourceLock::builder("db").no_timeout().build().unwrap();
    for lock in [lock, endless] {
        let held = lock.acquire("a").await.unwrap();
        let mut wait = task::spawn(lock.acquire("b"));
        assert_pending!(wait.poll());
        advance(Duration::from_secs(86_400 * 365)).await;
        assert_pending!(wait.poll());
        drop(held);
        drop(assert_ready_ok!(wait.poll()));
    }
}

// ---- Deadlocks ----------------------------------------------------------------------------------------

fn cycle(reason: &ContendedReason) -> Vec<(String, String)> {
    let ContendedReason::Deadlock(steps) = reason else {
        panic!("no deadlock: {reason:?}");
    };
    steps
        .iter()
        .map(|s| (s.holder.to_string(), s.waits_for.to_string()))
        .collect()
}

fn step(holder: &str, waits_for: &str) -> (String, String) {
    (holder.to_owned(), waits_for.to_owned())
}

#[tokio::test(start_paused = true)]
async fn who_asks_again_for_what_it_holds_is_told_when_it_has_waited_for_the_deadlock_timeout() {
    let lock = exclusive();
    let _held = lock.acquire("tx-1").await.unwrap();
    let start = Instant::now();
    let refused = lock.acquire("tx-1").await.unwrap_err();
    assert_eq!(start.elapsed(), SECOND);
    assert_eq!(cycle(refused.reason()), [step("tx-1", "db")]);
    let snapshot = lock.snapshot();
    assert_eq!((snapshot.waiting, snapshot.stats.deadlocks), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_wait_shorter_than_the_deadlock_timeout_is_never_a_deadlock() {
    let (a, b) = (ResourceLock::new("a"), ResourceLock::new("b"));
    let one = async {
        let _a = a.acquire("tx-1").await.unwrap();
        sleep(SHORT).await;
        let gave_up = b.acquire("tx-1").timeout(SECOND / 2).await.unwrap_err();
        assert_eq!(gave_up.reason(), &ContendedReason::TimedOut);
    };
    let two = async {
        let _b = b.acquire("tx-2").await.unwrap();
        sleep(SHORT).await;
        drop(a.acquire("tx-2").await.unwrap());
    };
    join(one, two).await;
}

#[tokio::test(start_paused = true)]
async fn of_a_cycle_the_wait_that_would_give_up_first_is_refused() {
    for (first, second) in [(10, 20), (20, 10)] {
        let (a, b) = (ResourceLock::new("a"), ResourceLock::new("b"));
        let lock_both = async |id: &'static str, one: &ResourceLock, other: &ResourceLock, secs| {
            let _one = one.acquire(id).await.unwrap();
            sleep(SHORT).await;
            other.acquire(id).timeout(secs * SECOND).await.map(drop)
        };
        let start = Instant::now();
        let results = join(
            lock_both("x", &a, &b, first),
            lock_both("y", &b, &a, second),
        )
        .await;
        assert!(start.elapsed() < 3 * SECOND, "nobody waits for the timeout");
        let refused = [results.0.is_err(), results.1.is_err()];
        assert_eq!(refused, [first < second, second < first]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadlock_can_be_told_of_only_and_not_looked_for_at_all() {
    for (builder, told) in [
        (
            ResourceLock::builder("db").on_deadlock(OnDeadlock::Report),
            1,
        ),
        (ResourceLock::builder("db").deadlock_timeout(None), 0),
    ] {
        let feed = Feed::default();
        let lock = builder.observer(feed.clone()).build().unwrap();
        let _held = lock.acquire("tx-1").await.unwrap();
        let start = Instant::now();
        let refused = lock.acquire("tx-1").await.unwrap_err();
        assert_eq!(refused.reason(), &ContendedReason::TimedOut);
        assert_eq!(start.elapsed(), 30 * SECOND);
        let deadlocks = feed.recent();
        let is_deadlock = |it: &&Entry| it.event.kind() == "deadlock";
        assert_eq!(deadlocks.iter().filter(is_deadlock).count(), told);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cycle_that_a_smaller_capacity_closes_is_found_too() {
    let a = ResourceLock::builder("a")
        .max_concurrent(2)
        .build()
        .unwrap();
    let b = ResourceLock::new("b");
    let spare = a.acquire("spare").owned().await.unwrap();
    let lock_both = async |id: &'static str, one: &ResourceLock, other: &ResourceLock| {
        let _one = one.acquire(id).await.unwrap();
        sleep(SHORT).await;
        other.acquire(id).await.map(drop)
    };
    let resize = async {
        sleep(5 * SECOND).await;
        a.set_max_concurrent(1).unwrap();
        drop(spare);
    };
    let start = Instant::now();
    let (one, two, ()) = tokio::join!(lock_both("x", &a, &b), lock_both("y", &b, &a), resize);
    assert_eq!(one.is_err() as u32 + two.is_err() as u32, 1);
    assert!(start.elapsed() < 8 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_graph_of_waits_names_who_waits_for_what_and_for_whom() {
    let registry = Registry::new();
    let lock = ResourceLock::builder("gpu").build_in(&registry).unwrap();
    let _held = lock.acquire("job-1").await.unwrap();
    let mut waits = task::spawn(lock.acquire("job-2"));
    assert_pending!(waits.poll());
    let graph = registry.wait_for_graph();
    assert_eq!(graph.len(), 1);
    let edge = (
        graph[0].waiter.to_string(),
        &*graph[0].resource,
        graph[0].holder.to_string(),
    );
    assert_eq!(edge, ("job-2".to_owned(), "gpu", "job-1".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn of_two_that_lock_crosswise_one_is_told_and_the_other_goes_on() {
    let (a, b) = (ResourceLock::new("a"), ResourceLock::new("b"));
    let lock_both = async |id: &'static str, one: &ResourceLock, other: &ResourceLock, secs| {
        let _one = one.acquire(id).await.unwrap();
        sleep(SHORT).await;
        other.acquire(id).timeout(secs * SECOND).await.map(drop)
    };
    let (one, two) = join(lock_both("tx-1", &a, &b, 20), lock_both("tx-2", &b, &a, 10)).await;
    one.unwrap();
    let refused = two.unwrap_err();
    assert_eq!(
        cycle(refused.reason()),
        [step("tx-2", "a"), step("tx-1", "b")]
    );
    assert_eq!(
        refused.to_string(),
        "`tx-2` could not get resource `a`: deadlock: `tx-2` which waits for `a`, held by `tx-1` which waits for `b`, held by `tx-2`"
    );
}

#[tokio::test(start_paused = true)]
async fn a_cycle_of_three_locks_is_found() {
    let locks = ["a", "b", "c"].map(ResourceLock::new);
    let lock_two = async |id: u64, first: usize, second: usize| {
        let _first = locks[first].acquire(id).await.unwrap();
        sleep(SHORT).await;
        let timeout = (30 - u32::try_from(id).unwrap()) * SECOND;
        locks[second].acquire(id).timeout(timeout).await.map(drop)
    };
    let (zero, one, two) = tokio::join!(lock_two(0, 0, 1), lock_two(1, 1, 2), lock_two(2, 2, 0));
    zero.unwrap();
    one.unwrap();
    assert_eq!(
        cycle(two.unwrap_err().reason()),
        [step("2", "a"), step("0", "b"), step("1", "c")]
    );
}

#[tokio::test(start_paused = true)]
async fn one_holder_that_can_go_on_is_no_deadlock() {
    let a = ResourceLock::builder("a")
        .max_concurrent(2)
        .build()
        .unwrap();
    let b = ResourceLock::new("b");
    let _one = a.acquire("tx-1").await.unwrap();
    let alive = a.acquire("tx-3").await.unwrap();
    let _two = b.acquire("tx-2").await.unwrap();
    let mut one_wants_b = task::spawn(b.acquire("tx-1"));
    assert_pending!(one_wants_b.poll());
    let mut two_wants_a = task::spawn(a.acquire("tx-2"));
    assert_pending!(two_wants_a.poll(), "tx-3 waits for nobody");
    drop(alive);
    drop(assert_ready_ok!(two_wants_a.poll()));
}

#[tokio::test(start_paused = true)]
async fn a_cycle_is_gone_when_one_of_its_waits_is() {
    let (a, b) = (ResourceLock::new("a"), ResourceLock::new("b"));
    let _one = a.acquire("tx-1").await.unwrap();
    let _two = b.acquire("tx-2").await.unwrap();
    let mut one_wants_b = task::spawn(b.acquire("tx-1"));
    assert_pending!(one_wants_b.poll());
    drop(one_wants_b);
    let mut two_wants_a = task::spawn(a.acquire("tx-2"));
    assert_pending!(two_wants_a.poll());
}

#[tokio::test(start_paused = true)]
async fn the_same_name_in_two_tasks_is_two_lines_of_work() {
    let lock = exclusive();
    let _held = lock.acquire("api-call").await.unwrap();
    let other = lock.clone();
    let wait = tokio::spawn(async move {
        let refused = other.acquire("api-call").timeout(SECOND).await.unwrap_err();
        assert_eq!(refused.reason(), &ContendedReason::TimedOut);
    });
    wait.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_name_with_several_permits_at_once_proves_nothing() {
    let lock = ResourceLock::builder("db")
        .max_concurrent(2)
        .build()
        .unwrap();
    let first = lock.acquire("pool").await.unwrap();
    let _second = lock.acquire("pool").await.unwrap();
    let mut third = task::spawn(lock.acquire("pool"));
    assert_pending!(third.poll());
    drop(first);
    drop(assert_ready_ok!(third.poll()));
}

#[tokio::test(start_paused = true)]
async fn an_owned_guard_may_be_anywhere_and_proves_nothing() {
    let lock = exclusive();
    let held = lock.acquire("tx-1").owned().await.unwrap();
    let release = tokio::spawn(async move {
        sleep(SECOND).await;
        drop(held);
    });
    let again = lock.acquire("tx-1").await.unwrap();
    drop(again);
    release.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_owned_guard_among_the_permits_is_enough_to_hope() {
    let lock = ResourceLock::builder("db")
        .max_concurrent(2)
        .build()
        .unwrap();
    let anywhere = lock.acquire("tx-2").owned().await.unwrap();
    let _held = lock.acquire("tx-1").await.unwrap();
    let mut again = task::spawn(lock.acquire("tx-1"));
    assert_pending!(again.poll());
    drop(anywhere);
    drop(assert_ready_ok!(again.poll()));
}

type Unit = Result<(), Infallible>;

#[tokio::test(start_paused = true)]
async fn layers_that_lock_crosswise_are_told() {
    let (a, b) = (ResourceLock::new("a"), ResourceLock::new("b"));
    let slow = service_fn(|_: &'static str| async {
        sleep(SECOND).await;
        Unit::Ok(())
    });
    // One stack holds a when it asks for b, the other b when it asks for a; both have got their first.
    let gate = Arc::new(tokio::sync::Barrier::new(2));
    let stack = |outer: &ResourceLock, inner: &ResourceLock| {
        let (gate, inner) = (Arc::clone(&gate), inner.layer().layer(slow));
        outer.layer().layer(service_fn(move |id: &'static str| {
            let (gate, inner) = (Arc::clone(&gate), inner.clone());
            async move {
                gate.wait().await;
                inner.oneshot(id).await
            }
        }))
    };
    let start = Instant::now();
    let (one, two) = join(stack(&a, &b).oneshot("x"), stack(&b, &a).oneshot("x")).await;
    let took = start.elapsed();
    assert!(
        took < 4 * SECOND,
        "one was refused, the other went through: {took:?}"
    );
    let refused: Vec<Error<Infallible>> = [one, two].into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.len(), 1, "exactly one");
    let Error::Contended(busy) = &refused[0] else {
        panic!("{refused:?}");
    };
    assert_eq!(cycle(busy.reason()).len(), 2);
}

#[test]
fn a_thread_that_blocks_inside_of_a_call_is_not_seen_and_ends_in_its_timeout() {
    let lock = exclusive();
    let inside = lock.clone();
    let mut service = lock.layer().layer(service_fn(move |(): ()| {
        let refused = inside.acquire("x").timeout(SHORT).blocking().unwrap_err();
        std::future::ready(Ok::<_, Infallible>(refused.is_deadlock()))
    }));
    let answer = service.call(()).now_or_never().unwrap();
    assert!(!answer.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_task_that_happens_to_run_within_a_call_is_not_part_of_it() {
    let lock = exclusive();
    let local = Rc::new(tokio::task::LocalSet::new());
    let asks = lock.clone();
    let other =
        local.spawn_local(async move { asks.run("other", || async { Unit::Ok(()) }).await });
    let drives = Rc::clone(&local);
    let service = lock.layer().layer(service_fn(move |(): ()| {
        let local = Rc::clone(&drives);
        // Polls whatever was spawned there, while the permit of this call is held.
        async move {
            local.run_until(sleep(SHORT)).await;
            Unit::Ok(())
        }
    }));
    service.oneshot(()).await.unwrap();
    local.run_until(other).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_layer_below_itself_is_told_at_once() {
    let lock = exclusive();
    let service = ServiceBuilder::new()
        .layer(lock.layer())
        .layer(lock.layer())
        .service(service_fn(|(): ()| async { Unit::Ok(()) }));
    let Error::Contended(busy) = service.oneshot(()).await.unwrap_err() else {
        panic!("not contended");
    };
    assert!(busy.is_deadlock());
}

#[tokio::test(start_paused = true)]
async fn many_at_once_under_one_name_through_a_layer_are_no_deadlock() {
    let lock = exclusive();
    let service = lock
        .layer()
        .holder(|_: &u32| "tenant")
        .layer(service_fn(|n: u32| async move {
            sleep(Duration::from_millis(10)).await;
            Ok::<_, Infallible>(n)
        }));
    let calls = (0..50).map(|n| service.clone().oneshot(n));
    for result in join_all(calls).await {
        result.unwrap();
    }

    // And under one workflow, without a holder of their own.
    let service = lock.layer().layer(service_fn(|n: u32| async move {
        sleep(Duration::from_millis(10)).await;
        Ok::<_, Infallible>(n)
    }));
    let all = stream::iter(0..50)
        .map(|n| service.clone().oneshot(n))
        .buffer_unordered(10)
        .collect::<Vec<_>>();
    for result in workflow::scope("exec-1", all).await {
        result.unwrap();
    }
    assert_eq!(lock.snapshot().stats.deadlocks, 0);
}

#[tokio::test(start_paused = true)]
async fn run_may_be_used_many_times_at_once_under_one_name() {
    let lock = exclusive();
    let work = || async {
        sleep(Duration::from_millis(10)).await;
        Unit::Ok(())
    };
    for result in join_all((0..20).map(|_| lock.run("job-7", work))).await {
        result.unwrap();
    }
    // Inside itself it is a deadlock, whatever it is called there.
    let nested = lock
        .run("job-7", || async { lock.run("other", work).await })
        .await;
    assert!(matches!(nested, Err(Error::Contended(busy)) if busy.is_deadlock()));
}

#[test]
fn of_two_threads_that_close_a_cycle_at_the_same_moment_exactly_one_is_refused() {
    for _ in 0..20 {
        let lock = |name| {
            let builder = ResourceLock::builder(name).deadlock_timeout(5 * MS);
            builder.build().unwrap()
        };
        let (a, b) = (lock("a"), lock("b"));
        let start = Barrier::new(2);
        let lock_both = |id: &'static str, first: &ResourceLock, second: &ResourceLock| {
            let _first = first.acquire(id).blocking().unwrap();
            start.wait();
            second.acquire(id).blocking().map(drop)
        };
        let refused = thread::scope(|scope| {
            let one = scope.spawn(|| lock_both("tx-1", &a, &b));
            let two = scope.spawn(|| lock_both("tx-2", &b, &a));
            [one.join().unwrap(), two.join().unwrap()]
                .into_iter()
                .filter_map(Result::err)
                .count()
        });
        assert_eq!(refused, 1);
    }
}

// ---- Threads, runtimes ---------------------------------------------------------------------------------

#[test]
fn one_lock_serves_two_runtimes_and_threads_without_one() {
    let lock = ResourceLock::builder("db")
        .max_concurrent(2)
        .build()
        .unwrap();
    let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
        most.fetch_max(now, Ordering::SeqCst);
        thread::yield_now();
        inside.fetch_sub(1, Ordering::SeqCst);
    };
    let start = Barrier::new(4);
    thread::scope(|scope| {
        for id in 0..2_u64 {
            let (lock, start) = (&lock, &start);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                start.wait();
                runtime.unwrap().block_on(async {
                    for _ in 0..500 {
                        let _guard = lock.acquire(id).await.unwrap();
                        work();
                    }
                });
            });
            scope.spawn(move || {
                start.wait();
                for _ in 0..500 {
                    let _guard = lock.acquire(10 + id).blocking().unwrap();
                    work();
                }
            });
        }
    });
    assert!(most.load(Ordering::SeqCst) <= 2);
    let snapshot = lock.snapshot();
    assert_eq!(
        (
            snapshot.in_use,
            snapshot.waiting,
            snapshot.stats.acquisitions
        ),
        (0, 0, 2_000)
    );
}

#[test]
fn a_blocked_thread_gives_up_in_time() {
    let lock = exclusive();
    let _held = lock.acquire("a").blocking().unwrap();
    let refused = thread::scope(|scope| {
        let wait = scope.spawn(|| lock.acquire("b").timeout(SHORT).blocking().map(drop));
        wait.join().unwrap().unwrap_err()
    });
    assert_eq!(refused.reason(), &ContendedReason::TimedOut);
    assert!(refused.waited() >= SHORT);
}

// ---- Cancellation -------------------------------------------------------------------------------------

/// A pseudo-random number for a seed: the same script each time.
fn dice(seed: u64, n: u64) -> u64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(n);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Calls that end well, fail, panic, hang until they are dropped, or are dropped while they wait.
#[tokio::test(start_paused = true)]
async fn whatever_ends_a_call_its_permit_comes_back() {
    for seed in 0..40 {
        let lock = ResourceLock::builder("db")
            .max_concurrent(3)
            .timeout(Duration::from_millis(40))
            .max_waiting(8)
            .build()
            .unwrap();
        let inside = Arc::new(AtomicUsize::new(0));
        let service = {
            let inside = Arc::clone(&inside);
            lock.layer()
                .holder(|id: &u64| *id % 3)
                .layer(service_fn(move |id: u64| {
                    let inside = Arc::clone(&inside);
                    async move {
                        struct Leaves(Arc<AtomicUsize>);
                        impl Drop for Leaves {
                            fn drop(&mut self) {
                                self.0.fetch_sub(1, Ordering::SeqCst);
                            }
                        }
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 3, "above capacity");
                        let _leaves = Leaves(inside);
                        sleep(Duration::from_millis(dice(seed, id) % 30)).await;
                        match dice(seed, id + 1_000) % 4 {
                            0 => Err("failed"),
                            1 => std::panic::resume_unwind(Box::new("panicked")),
                            2 if id.is_multiple_of(5) => pending().await,
                            _ => Ok(id),
                        }
                    }
                }))
        };
        let calls: Vec<_> = (0..60)
            .map(|id| {
                let call = service.clone().oneshot(id);
                tokio::spawn(async move {
                    sleep(Duration::from_millis(dice(seed, id + 2_000) % 50)).await;
                    let limit = Duration::from_millis(dice(seed, id + 3_000) % 80);
                    tokio::time::timeout(limit, call).await
                })
            })
            .collect();
        join_all(calls).await;
        let snapshot = lock.snapshot();
        assert_eq!((snapshot.in_use, snapshot.waiting), (0, 0), "seed {seed}");
        assert!(snapshot.stats.peak_in_use <= 3);
        let stats = snapshot.stats;
        let ended = stats.acquisitions + stats.timeouts + stats.abandoned + stats.rejected;
        assert_eq!(
            stats.attempts, ended,
            "seed {seed}: every attempt ended once"
        );
        assert!(lock.try_acquire("after").is_ok());
    }
}

// ---- The layer ----------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn the_holder_is_the_requests_else_the_workflows_else_nobodys() {
    let lock = exclusive();
    let seen = |lock: &ResourceLock| lock.snapshot().holders[0].holder.clone();
    let inner = {
        let lock = lock.clone();
        service_fn(move |_: &'static str| {
            let holder = seen(&lock);
            async move { Ok::<_, Infallible>(holder) }
        })
    };
    let named = lock
        .layer()
        .holder(|id: &&'static str| *id)
        .layer(inner.clone());
    assert_eq!(named.oneshot("tx-1").await.unwrap(), Holder::from("tx-1"));
    let ambient = lock.layer().layer(inner);
    let in_scope = workflow::scope("exec-123", ambient.clone().oneshot("?")).await;
    assert_eq!(in_scope.unwrap(), Holder::from("exec-123"));
    assert!(matches!(
        ambient.oneshot("?").await.unwrap(),
        Holder::Anonymous(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn the_permit_is_free_before_the_response_is_handed_out() {
    let lock = exclusive();
    let mut service = lock
        .layer()
        .layer(service_fn(|(): ()| async { Unit::Ok(()) }));
    let mut call = task::spawn(service.ready().await.unwrap().call(()));
    let _: Result<(), Error<Infallible>> = assert_ready!(call.poll());
    assert_eq!(
        lock.snapshot().in_use,
        0,
        "although the future is still there"
    );
}

#[tokio::test(start_paused = true)]
async fn readiness_is_the_inner_services_and_a_busy_lock_is_ready() {
    let lock = exclusive();
    let (mock, mut handle) = tower_test::mock::pair::<&str, &str>();
    let mut service = task::spawn(lock.layer().layer(mock));
    handle.allow(0);
    assert_pending!(service.enter(|cx, mut s| s.poll_ready(cx)));
    handle.allow(1);
    let _held = lock.acquire("a").await.unwrap();
    assert_ready_ok!(service.enter(|cx, mut s| s.poll_ready(cx)));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_reserves_nothing_of_the_inner_service() {
    let lock = exclusive();
    let (mock, mut handle) = tower_test::mock::pair::<&str, &str>();
    handle.allow(1);
    let mut service = task::spawn(lock.layer().layer(mock));
    assert_ready_ok!(service.enter(|cx, mut s| s.poll_ready(cx)));
    let held = lock.acquire("a").await.unwrap();
    let mut waits = task::spawn(service.call("waits"));
    assert_pending!(waits.poll());
    // The place in the inner service is still the readied instance's, for a call that can go on.
    drop(held);
    let mut goes = task::spawn(async {
        let _guard = lock.acquire("b").await;
    });
    assert_pending!(goes.poll(), "first come, first served");
    // The waiting call has its permit now, and makes its clone ready: the mock has no place for it yet.
    assert_pending!(waits.poll());
    handle.allow(2);
    assert_pending!(waits.poll());
    let (request, respond) = handle.next_request().await.unwrap();
    assert_eq!(request, "waits");
    respond.send_response("done");
    let answer: Result<&str, Error<tower_bulwark::Boxed>> = assert_ready!(waits.poll());
    assert_eq!(answer.unwrap(), "done");
}

#[tokio::test(start_paused = true)]
async fn a_response_instead_of_an_error_keeps_the_error_type() {
    let lock = ResourceLock::builder("db")
        .timeout(Duration::ZERO)
        .build()
        .unwrap();
    let _held = lock.acquire("a").await.unwrap();
    let service = lock
        .layer()
        .reject_with(|refused| format!("429 {}", refused.name()))
        .layer(service_fn(|(): ()| async {
            Ok::<_, Infallible>(String::new())
        }));
    let answer: Result<String, Infallible> = service.oneshot(()).await;
    assert_eq!(answer, Ok("429 db".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_request_ends_its_wait() {
    use tower_bulwark::deadline::Deadline;
    let lock = exclusive();
    let _held = lock.acquire("a").await.unwrap();
    let service = lock
        .layer()
        .deadline_from(|millis: &u64| Some(Deadline::after(Duration::from_millis(*millis))))
        .holder(|millis: &u64| *millis)
        .layer(service_fn(|_: u64| async { Unit::Ok(()) }));
    let start = Instant::now();
    let Error::Contended(busy) = service.oneshot(250).await.unwrap_err() else {
        panic!("not contended");
    };
    assert_eq!(busy.reason(), &ContendedReason::DeadlineExceeded);
    assert_eq!(start.elapsed(), Duration::from_millis(250));
}

#[tokio::test(start_paused = true)]
async fn the_accessors_lead_to_the_inner_service() {
    let lock = exclusive();
    let layer: ContentionLayer<Infallible> = lock.layer();
    let mut service = layer.layer(7);
    assert_eq!((*service.get_ref(), service.resource().name()), (7, "db"));
    *service.get_mut() = 8;
    assert_eq!(service.into_inner(), 8);
    assert!(format!("{layer:?}").contains("db"));
}

#[tokio::test(start_paused = true)]
async fn waiters_race_with_releases_cancellations_and_changes_of_capacity() {
    let lock = ResourceLock::builder("db")
        .max_concurrent(2)
        .timeout(SECOND)
        .build()
        .unwrap();
    let done = AtomicU32::new(0);
    let worker = |id: u64| {
        let (lock, done) = (&lock, &done);
        async move {
            for n in 0..50 {
                let key = id * 1_000 + n;
                let wait = pin!(lock.acquire(key));
                let limit = Duration::from_millis(1 + dice(1, key) % 20);
                if let Ok(Ok(_guard)) = tokio::time::timeout(limit, wait).await {
                    sleep(Duration::from_millis(dice(2, key) % 5)).await;
                }
                if dice(3, key).is_multiple_of(10) {
                    lock.set_max_concurrent(1 + (dice(4, key) % 4) as usize)
                        .unwrap();
                }
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
    };
    join_all((0..20).map(worker)).await;
    assert_eq!(done.load(Ordering::Relaxed), 20);
    let snapshot = lock.snapshot();
    assert_eq!((snapshot.in_use, snapshot.waiting), (0, 0));
    assert!(lock.acquire("after").now_or_never().unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_does_not_wait_for_the_place_its_own_service_keeps() {
    let lock = exclusive();
    let mut service = ServiceBuilder::new()
        .layer(lock.layer())
        .concurrency_limit(1)
        .service(service_fn(|n: u32| async move { Ok::<_, Infallible>(n) }));
    let mut other = service.clone();
    let held = lock.acquire("a").await.unwrap();
    let mut waits = task::spawn(service.ready().await.unwrap().call(7));
    assert_pending!(waits.poll());
    let taken = other.ready().now_or_never();
    assert!(taken.is_some(), "while it waits, the place is anybody's");
    // A clone that is ready and makes no call keeps the place; that is its own affair.
    drop(other);
    drop(held);
    assert!(waits.is_woken());
    assert_eq!(assert_ready_ok!(waits.poll()), 7);
    drop(service); // It was there all the time, as in `service.ready().await?.call(request).await?`.
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_does_not_starve_itself_in_a_buffer_of_one() {
    let lock = exclusive();
    let buffer = tower::buffer::Buffer::new(
        service_fn(|n: u32| async move { Ok::<_, Infallible>(n) }),
        1,
    );
    let mut service = lock.layer().layer(buffer);
    let held = lock.acquire("a").await.unwrap();
    let call = tokio::spawn(service.ready().await.unwrap().call(7));
    tokio::task::yield_now().await;
    drop(held);
    let answer: Result<u32, Error<tower_bulwark::Boxed>> = call.await.unwrap();
    assert_eq!(answer.unwrap(), 7);
    drop(service);
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_that_of_the_task_it_runs_in_not_of_the_one_that_made_it() {
    static LOCK: LazyLock<ResourceLock> = LazyLock::new(|| ResourceLock::new("db"));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let wait = LOCK.acquire("job");
        tasks.spawn(async move {
            let _guard = wait.await.unwrap();
            sleep(SHORT).await;
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(LOCK.snapshot().stats.deadlocks, 0);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_waits_already_proves_nothing_when_it_waits_again() {
    let (a, b) = (exclusive(), ResourceLock::new("b"));
    let held = a.acquire("job").await.unwrap();
    let _busy = b.acquire("other").await.unwrap();
    let mut elsewhere = task::spawn(b.acquire("job"));
    assert_pending!(elsewhere.poll());
    // One line of work would not be here now: it waits for `b`.
    let mut again = task::spawn(a.acquire("job"));
    assert_pending!(again.poll());
    drop(held);
    drop(assert_ready_ok!(again.poll()));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_was_just_granted_a_permit_proves_nothing_either() {
    let lock = exclusive();
    let held = lock.acquire("a").await.unwrap();
    let mut first = task::spawn(lock.acquire("job"));
    assert_pending!(first.poll());
    drop(held);
    // `first` has the permit and has not run since: whoever asks now runs beside it.
    let mut second = task::spawn(lock.acquire("job"));
    assert_pending!(second.poll());
    drop(assert_ready_ok!(first.poll()));
    drop(assert_ready_ok!(second.poll()));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_has_stopped_waiting_is_one_line_of_work_again() {
    let (a, b) = (exclusive(), ResourceLock::new("b"));
    let _held = a.acquire("job").await.unwrap();
    let _busy = b.acquire("other").await.unwrap();
    b.acquire("job").timeout(SECOND).await.unwrap_err();
    let refused = a.acquire("job").await.unwrap_err();
    assert!(refused.is_deadlock());
}

#[tokio::test(start_paused = true)]
async fn a_name_that_waits_for_two_things_at_once_proves_nothing() {
    let (a, b, c) = (exclusive(), ResourceLock::new("b"), ResourceLock::new("c"));
    let held = a.acquire("job").await.unwrap();
    let _b = b.acquire("other").await.unwrap();
    let _c = c.acquire("somebody").await.unwrap();
    let mut for_b = task::spawn(b.acquire("job"));
    let mut for_c = task::spawn(c.acquire("job"));
    assert_pending!(for_b.poll());
    assert_pending!(for_c.poll());
    let mut other_wants_a = task::spawn(a.acquire("other"));
    assert_pending!(other_wants_a.poll());
    drop(held);
    drop(assert_ready_ok!(other_wants_a.poll()));
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_was_just_granted_what_it_waited_for_can_go_on() {
    let a = exclusive();
    let b = ResourceLock::builder("b")
        .max_concurrent(2)
        .build()
        .unwrap();
    let held = a.acquire("x").await.unwrap();
    let _y = b.acquire("y").await.unwrap();
    let z = b.acquire("z").await.unwrap();
    let mut x_wants_b = task::spawn(b.acquire("x"));
    assert_pending!(x_wants_b.poll());
    drop(z);
    // `x` has its second permit, although it has not run since.
    let mut y_wants_a = task::spawn(a.acquire("y"));
    assert_pending!(y_wants_a.poll());
    drop(assert_ready_ok!(x_wants_b.poll()));
    drop(held);
    drop(assert_ready_ok!(y_wants_a.poll()));
}

/// Looks at the lock when the last of it is dropped: hangs if that happens under the lock's mutex.
struct LooksWhenDropped(ResourceLock);

impl std::task::Wake for LooksWhenDropped {
    fn wake(self: Arc<Self>) {}
}

impl Drop for LooksWhenDropped {
    fn drop(&mut self) {
        let _ = self.0.snapshot();
    }
}

#[tokio::test(start_paused = true)]
async fn a_waker_is_never_dropped_under_the_lock() {
    let lock = exclusive();
    let held = lock.acquire("a").await.unwrap();
    let waker = || std::task::Waker::from(Arc::new(LooksWhenDropped(lock.clone())));
    let poll = |wait: &mut std::pin::Pin<Box<Acquire<'_>>>| {
        let waker = waker();
        wait.as_mut()
            .poll(&mut std::task::Context::from_waker(&waker))
            .is_ready()
    };
    let [mut goes, mut replaced, mut granted] = [1, 2, 3].map(|id| Box::pin(lock.acquire(id)));
    for wait in [&mut goes, &mut replaced, &mut granted] {
        assert!(!poll(wait));
    }
    drop(goes);
    assert!(!poll(&mut replaced));
    drop(replaced);
    drop(held);
    assert!(poll(&mut granted));
}

#[tokio::test(start_paused = true)]
async fn a_permit_held_while_the_inner_service_is_not_ready_is_told_of() {
    let feed = Feed::default();
    let lock = ResourceLock::builder("db")
        .hold_threshold(3 * SECOND)
        .observer(feed.clone())
        .build()
        .unwrap();
    let (mock, mut handle) = tower_test::mock::pair::<&str, &str>();
    handle.allow(1);
    let mut service = task::spawn(lock.layer().holder(|id: &&str| *id).layer(mock));
    assert_ready_ok!(service.enter(|cx, mut s| s.poll_ready(cx)));
    let held = lock.acquire("a").await.unwrap();
    let mut call = task::spawn(service.call("slow"));
    assert_pending!(call.poll());
    handle.allow(0);
    drop(held);
    // It has the permit from now on, although it runs only later.
    advance(SECOND).await;
    assert_pending!(call.poll());
    advance(2 * SECOND).await;
    assert!(call.is_woken());
    assert_pending!(call.poll());
    assert_eq!(
        events(&feed).last().unwrap(),
        "`slow` has held it for 3.000s"
    );
    drop(call);
    assert_eq!(lock.snapshot().in_use, 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_finds_a_permit_carries_no_room_for_a_wait() {
    let mut service = exclusive()
        .layer()
        .layer(service_fn(|(): ()| std::future::ready(Unit::Ok(()))));
    let call = service.call(());
    let size = std::mem::size_of_val(&call);
    assert!(size <= 120, "{size} bytes");
    let _: Result<(), Error<Infallible>> = call.await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_lets_go_of_its_request_at_once() {
    let lock = ResourceLock::builder("db")
        .timeout(Duration::ZERO)
        .build()
        .unwrap();
    let _held = lock.acquire("a").await.unwrap();
    let request = Arc::new(());
    let mut service = lock
        .layer()
        .layer(service_fn(|_: Arc<()>| async { Unit::Ok(()) }));
    let mut call = task::spawn(service.call(Arc::clone(&request)));
    let _: Error<Infallible> = assert_ready!(call.poll()).unwrap_err();
    assert_eq!(
        Arc::strong_count(&request),
        1,
        "although the future is kept"
    );
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_waiters_can_leave_in_any_order() {
    let lock = exclusive();
    let held = lock.acquire("a").await.unwrap();
    let mut waiters: Vec<_> = (0..10_000_u64)
        .map(|id| {
            let mut wait = task::spawn(lock.acquire(id));
            assert_pending!(wait.poll());
            Some((id, wait))
        })
        .collect();
    for n in 0..9_990 {
        let at = dice(7, n) as usize % waiters.len();
        drop(waiters.swap_remove(at));
    }
    let mut left: Vec<u64> = waiters.iter().flatten().map(|(id, _)| *id).collect();
    left.sort_unstable();
    let queue: Vec<_> = lock
        .snapshot()
        .waiters
        .into_iter()
        .map(|w| w.holder)
        .collect();
    let expected: Vec<_> = left.iter().copied().map(Holder::from).collect();
    assert_eq!(queue, expected, "those who stay keep their order");
    drop(held);
    waiters.sort_unstable_by_key(|waiter| waiter.as_ref().map(|(id, _)| *id));
    for (id, mut wait) in waiters.into_iter().flatten() {
        let guard = assert_ready_ok!(wait.poll());
        assert_eq!(guard.holder(), Holder::from(id));
    }
}

#[tokio::test]
async fn ten_thousand_waiters_on_eight_permits_get_them_in_the_order_they_came() {
    const PERMITS: usize = 8;
    let builder = ResourceLock::builder("lock").max_concurrent(PERMITS);
    let lock = builder.build().unwrap();
    let mut held: VecDeque<_> = (0..PERMITS)
        .map(|n| lock.try_acquire(format!("before-{n}")).unwrap())
        .collect();
    let mut waiters: Vec<_> = (0..10_000_u64)
        .map(|id| task::spawn(lock.acquire(id)))
        .collect();
    for wait in &mut waiters {
        assert_pending!(wait.poll());
    }
    for next in 0..waiters.len() {
        // Given back by the middle one: who comes next is not a question of who goes.
        drop(held.remove(PERMITS / 2));
        assert!(waiters[next].is_woken());
        if let Some(behind) = waiters.get_mut(next + 1) {
            assert!(!behind.is_woken());
            assert_pending!(behind.poll());
        }
        held.push_back(assert_ready_ok!(waiters[next].poll()));
    }
    assert_eq!(lock.snapshot().in_use, PERMITS);
}

/// Tasks on several threads take, keep, hand on and abandon permits of one lock.
#[test]
fn threads_that_race_for_permits_neither_lose_nor_exceed_them() {
    const PERMITS: usize = 3;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    let lock = ResourceLock::builder("db")
        .max_concurrent(PERMITS)
        .build()
        .unwrap();
    let inside = Arc::new(AtomicUsize::new(0));
    let start = Arc::new(tokio::sync::Barrier::new(16));
    let worker = |id: u64| {
        let (lock, inside, start) = (lock.clone(), Arc::clone(&inside), Arc::clone(&start));
        async move {
            start.wait().await;
            for n in 0..300 {
                let turns = dice(id, n) % 6;
                let mut wait = pin!(lock.acquire(id).owned());
                // Gives up after some turns; now and then at the moment the permit comes.
                let mut polls = 0;
                let got = std::future::poll_fn(|cx| {
                    polls += 1;
                    match wait.as_mut().poll(cx) {
                        std::task::Poll::Ready(got) => std::task::Poll::Ready(got.ok()),
                        std::task::Poll::Pending if polls > turns => std::task::Poll::Ready(None),
                        std::task::Poll::Pending => {
                            cx.waker().wake_by_ref();
                            std::task::Poll::Pending
                        }
                    }
                })
                .await;
                let Some(guard) = got else { continue };
                assert!(inside.fetch_add(1, Ordering::SeqCst) < PERMITS);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
                if n % 3 == 0 {
                    tokio::spawn(async move { drop(guard) });
                }
            }
        }
    };
    runtime.block_on(async {
        let tasks: Vec<_> = (0..16).map(|id| tokio::spawn(worker(id))).collect();
        for task in tasks {
            task.await.unwrap();
        }
        // Whatever was handed to other tasks comes back, too.
        let all: Vec<_> = join_all((0..PERMITS as u64).map(|id| lock.acquire(id).owned())).await;
        assert!(all.iter().all(Result::is_ok));
    });
    let snapshot = lock.snapshot();
    assert_eq!((snapshot.in_use, snapshot.waiting), (0, 0));
    assert_eq!(snapshot.stats.peak_in_use, PERMITS);
    let stats = snapshot.stats;
    assert_eq!(stats.attempts, stats.acquisitions + stats.abandoned);
    assert_eq!(stats.hold.count, stats.acquisitions);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_guesses_the_wait_from_how_long_permits_were_held() {
    let lock = ResourceLock::builder("pool")
        .max_concurrent(2)
        .max_waiting(3)
        .build()
        .unwrap();
    let held = [
        lock.try_acquire("a").unwrap(),
        lock.try_acquire("b").unwrap(),
    ];
    let refused = lock.try_acquire("c").unwrap_err();
    assert_eq!(refused.expected_wait(), None, "no permit has come back");
    advance(4 * SECOND).await;
    drop(held);
    let _held = [
        lock.try_acquire("a").unwrap(),
        lock.try_acquire("b").unwrap(),
    ];
    let refused = lock.try_acquire("c").unwrap_err();
    assert_eq!(
        refused.expected_wait(),
        Some(2 * SECOND),
        "one of two, each 4 s"
    );
    let mut waiting: Vec<_> = (0..3).map(|id| task::spawn(lock.acquire(id))).collect();
    for waiter in &mut waiting {
        assert_pending!(waiter.poll());
    }
    let refused = lock.acquire("c").await.unwrap_err();
    assert_eq!(refused.expected_wait(), Some(8 * SECOND), "three before it");
    drop(waiting);

    let other = ResourceLock::new("other");
    let _mine = other.acquire("a").await.unwrap();
    let deadlock = other.acquire("a").await.unwrap_err();
    assert!(deadlock.is_deadlock());
    assert_eq!(deadlock.expected_wait(), None);
}

/// Each call runs inside the one before, through more locks than are remembered without an allocation.
#[tokio::test(start_paused = true)]
async fn a_wait_deep_inside_other_calls_is_known_to_block_each_of_them() {
    type Nested<'a> = Pin<Box<dyn Future<Output = Result<(), Error<Infallible>>> + 'a>>;
    fn nested<'a>(locks: &'a [ResourceLock], wanted: &'a ResourceLock) -> Nested<'a> {
        Box::pin(async move {
            match locks.split_first() {
                Some((lock, rest)) => lock.run("job", || nested(rest, wanted)).await,
                None => {
                    wanted
                        .run("job", || async { Ok::<_, Error<Infallible>>(()) })
                        .await
                }
            }
        })
    }
    let locks: Vec<_> = (0..12)
        .map(|n| ResourceLock::new(format!("lock {n}")))
        .collect();
    for wanted in &locks {
        let result = nested(&locks, wanted).await;
        let Err(Error::Contended(refused)) = result else {
            panic!("{result:?}");
        };
        assert!(refused.is_deadlock(), "{refused}");
        assert_eq!(refused.resource(), wanted.name());
    }
    // What is done blocks nothing.
    let (outside, other) = (ResourceLock::new("outside"), ResourceLock::new("other"));
    nested(&locks, &outside).await.unwrap();
    let _held = other.try_acquire("other").unwrap();
    let mut waiting = task::spawn(nested(&locks[..1], &other));
    assert_pending!(waiting.poll());
    let mut next = task::spawn(locks[1].run("job", || async { Ok::<_, Error<Infallible>>(()) }));
    assert_ready!(next.poll()).unwrap();
}
