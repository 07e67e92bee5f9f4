//! Several permits at once, weights, closing, pools, locks by key, back-pressure, and what is reported of waits.

#![expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]

use std::convert::Infallible;
use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{FutureExt, join_all};
use futures::stream::{self, StreamExt};
use tokio::time::{Instant, advance, sleep};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::buffer::Buffer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::contention::{
    Adaptive, ContentionConfig, ContentionEvent, LockMap, OnDeadlock, Priority, Queue,
    ResourcePool, acquire_all,
};
use tower_bulwark::observe::Feed;
use tower_bulwark::{ContendedReason, Error, Event, Holder, ResourceLock, workflow};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn lock_of(permits: usize) -> ResourceLock {
    let builder = ResourceLock::builder("db").max_concurrent(permits);
    builder.build().unwrap()
}

// ---- Several permits ----------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn who_waits_for_many_is_not_overtaken_by_those_who_come_later_and_want_one() {
    let lock = lock_of(3);
    let first = lock.acquire("first").await.unwrap();
    let mut heavy = task::spawn(lock.acquire("heavy").permits(3));
    assert_pending!(heavy.poll());
    // Two are free, and they are kept for who came first.
    assert!(lock.try_acquire("light").is_err());
    let mut light = task::spawn(lock.acquire("light"));
    assert_pending!(light.poll());
    drop(first);
    assert!(heavy.is_woken() && !light.is_woken());
    let guard = assert_ready_ok!(heavy.poll());
    assert_eq!((guard.permits(), lock.snapshot().in_use), (3, 3));
    drop(guard);
    drop(assert_ready_ok!(light.poll()));
}

#[tokio::test(start_paused = true)]
async fn a_heavy_waiter_that_goes_away_lets_those_behind_it_in() {
    let lock = lock_of(2);
    let _first = lock.acquire("first").await.unwrap();
    let mut heavy = task::spawn(lock.acquire("heavy").permits(2));
    assert_pending!(heavy.poll());
    let mut light = task::spawn(lock.acquire("light"));
    assert_pending!(light.poll());
    drop(heavy);
    assert!(light.is_woken());
    drop(assert_ready_ok!(light.poll()));
}

#[tokio::test(start_paused = true)]
async fn more_permits_than_there_are_are_refused_at_once() {
    let lock = lock_of(2);
    for refused in [
        lock.acquire("a").permits(3).await.unwrap_err(),
        lock.acquire("a").permits(3).now().unwrap_err(),
        lock.acquire("a").permits(usize::MAX).await.unwrap_err(),
    ] {
        assert!(matches!(
            refused.reason(),
            ContendedReason::ExceedsCapacity { permits: 3.. }
        ));
        assert_eq!((refused.capacity(), refused.expected_wait()), (2, None));
        assert!(
            refused.to_string().contains("nobody can have more than 2"),
            "{refused}"
        );
    }
    assert_eq!(lock.snapshot().stats.rejected, 3);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_more_than_a_cut_leaves_is_refused_and_nobody_else() {
    let lock = lock_of(3);
    let held = lock.acquire("first").await.unwrap();
    let mut heavy = task::spawn(lock.acquire("heavy").permits(3));
    assert_pending!(heavy.poll());
    let mut light = task::spawn(lock.acquire("light").permits(2));
    assert_pending!(light.poll());
    lock.set_max_concurrent(2).unwrap();
    let refused = assert_ready_err!(heavy.poll());
    assert_eq!(
        refused.reason(),
        &ContendedReason::ExceedsCapacity { permits: 3 }
    );
    assert_pending!(light.poll());
    drop(held);
    drop(assert_ready_ok!(light.poll()));
}

#[tokio::test(start_paused = true)]
async fn a_layer_takes_as_many_permits_as_the_request_weighs() {
    let lock = lock_of(4);
    let service = lock
        .layer()
        .weight(|rows: &usize| rows / 100)
        .layer(service_fn(|_: usize| async {
            sleep(SECOND).await;
            Ok::<_, Infallible>(())
        }));
    let mut big = task::spawn(service.clone().oneshot(400));
    assert_pending!(big.poll());
    assert_eq!(lock.snapshot().in_use, 4);
    let mut small = task::spawn(service.clone().oneshot(5));
    assert_pending!(small.poll());
    advance(SECOND).await;
    assert_ready_ok!(big.poll());
    assert_pending!(small.poll());
    assert_eq!(lock.snapshot().in_use, 1, "at least one");
    let refused = service.oneshot(9_900).await.unwrap_err();
    assert!(matches!(refused, Error::Contended(_)), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_weight_or_a_holder_that_panics_costs_no_permit() {
    let lock = lock_of(1);
    let inner = || service_fn(|(): ()| async { Ok::<_, Infallible>(()) });
    let mut by_weight = lock
        .layer()
        .weight(|(): &()| panic!("weight"))
        .layer(inner());
    let mut by_holder = lock
        .layer()
        .holder(|(): &()| -> u64 { panic!("holder") })
        .layer(inner());
    assert!(std::panic::catch_unwind(AssertUnwindSafe(|| drop(by_weight.call(())))).is_err());
    assert!(std::panic::catch_unwind(AssertUnwindSafe(|| drop(by_holder.call(())))).is_err());
    assert_eq!(lock.snapshot().in_use, 0);
    assert!(lock.try_acquire("next").is_ok());
}

/// Two transfers in opposite directions, again and again: none waits for the other in a circle.
#[tokio::test(start_paused = true)]
async fn all_of_several_locks_are_acquired_in_one_order() {
    let locks: Vec<ResourceLock> = (0..4).map(|_| lock_of(1)).collect();
    let transfers = (0..200_usize).map(|n| {
        let (a, b, c) = (&locks[n % 4], &locks[(n * 3 + 1) % 4], &locks[n % 2]);
        async move {
            let guards = acquire_all([a, b, c], n as u64).await.unwrap();
            sleep(MS).await;
            drop(guards);
        }
    });
    join_all(transfers).await;
    for lock in &locks {
        let stats = lock.snapshot().stats;
        assert_eq!((stats.deadlocks, stats.timeouts), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_acquired_before_a_refusal_is_given_back() {
    let (first, second) = (lock_of(1), lock_of(1));
    let held = second.acquire("somebody").await.unwrap();
    let mut both = task::spawn(acquire_all([&second, &first], "transfer"));
    assert_pending!(both.poll());
    assert_eq!(first.snapshot().in_use, 1);
    advance(30 * SECOND).await;
    assert_ready_err!(both.poll());
    assert_eq!(first.snapshot().in_use, 0);
    drop(held);
    // The order of the guards is that of the names.
    let guards = acquire_all([&second, &first, &second], "transfer");
    let guards = guards.await.unwrap();
    assert_eq!(guards.len(), 2);
    drop(guards);
    assert_eq!(second.snapshot().in_use, 0);
}

// ---- Closing ------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_closed_refuses_those_who_wait_and_those_who_come() {
    let feed = Feed::default();
    let lock = ResourceLock::builder("db")
        .observer(feed.clone())
        .build()
        .unwrap();
    let held = lock.acquire("a").await.unwrap();
    let mut waits = task::spawn(lock.acquire("b"));
    assert_pending!(waits.poll());
    let mut drained = task::spawn(lock.drained());
    assert_pending!(drained.poll());
    lock.close();
    lock.close();
    let refused = assert_ready_err!(waits.poll());
    assert_eq!(refused.reason(), &ContendedReason::Closed);
    for refused in [
        lock.try_acquire("c").unwrap_err(),
        lock.acquire("c").await.unwrap_err(),
    ] {
        assert_eq!(refused.reason(), &ContendedReason::Closed);
        assert!(refused.to_string().ends_with("it was closed"), "{refused}");
    }
    let service = lock
        .layer()
        .layer(service_fn(|(): ()| async { Ok::<_, Infallible>(()) }));
    assert!(matches!(
        service.oneshot(()).await,
        Err(Error::Contended(refused)) if refused.reason() == &ContendedReason::Closed
    ));
    assert!(lock.is_closed() && lock.snapshot().closed);
    advance(SECOND).await;
    assert_pending!(drained.poll());
    drop(held);
    advance(SECOND).await;
    assert_ready!(drained.poll());
    let closed = |entry: &tower_bulwark::observe::Entry| {
        matches!(
            entry.event,
            Event::Contention(ContentionEvent::Closed { in_use: 1, .. })
        )
    };
    assert_eq!(feed.recent().iter().filter(|it| closed(it)).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_closed_pool_of_a_config_that_changes_stays_closed() {
    let lock = lock_of(1);
    lock.close();
    lock.set_max_concurrent(5).unwrap();
    assert!(lock.try_acquire("a").is_err());
}

// ---- Config -------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn another_config_keeps_holders_waiters_and_statistics() {
    let lock = lock_of(1);
    let _held = lock.acquire("a").await.unwrap();
    let mut waits = task::spawn(lock.acquire("b"));
    assert_pending!(waits.poll());
    let mut config = ContentionConfig::default();
    config.max_concurrent = 2;
    config.timeout = Some(SECOND);
    config.hold_threshold = Some(3 * SECOND);
    let change = lock.update(config.clone()).unwrap();
    assert_eq!(
        change.to_string(),
        "max_concurrent: 1 -> 2; timeout: Some(30s) -> Some(1s); hold_threshold: None -> Some(3s)"
    );
    assert_eq!(*lock.config(), config);
    let second = assert_ready_ok!(waits.poll());
    assert_eq!(lock.snapshot().stats.acquisitions, 2);
    // From now on the new timeout counts.
    let before = Instant::now();
    assert!(lock.acquire("c").await.is_err());
    assert_eq!(before.elapsed(), SECOND);
    drop(second);
    config.max_concurrent = 0;
    let wrong = lock.update(config).unwrap_err();
    assert_eq!(wrong.setting(), "max_concurrent");
    assert_eq!(lock.snapshot().capacity, 2, "nothing has changed");
    assert!(lock.update((*lock.config()).clone()).unwrap().is_empty());
}

// ---- Pools and maps -----------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn what_a_pool_lends_is_used_again_and_never_by_two_at_once() {
    let made = Arc::new(AtomicUsize::new(0));
    let make = || {
        let made = Arc::clone(&made);
        async move { Ok::<_, Infallible>(made.fetch_add(1, Ordering::SeqCst)) }
    };
    let pool = ResourcePool::new(lock_of(3));
    let in_use = Arc::new(Mutex::new(Vec::new()));
    let jobs = (0..50_u64).map(|job| {
        let (pool, in_use, make) = (pool.clone(), Arc::clone(&in_use), make);
        async move {
            let connection = pool.get(job, make).await.unwrap();
            assert!(!in_use.lock().unwrap().contains(&*connection));
            in_use.lock().unwrap().push(*connection);
            sleep(MS).await;
            in_use.lock().unwrap().retain(|it| it != &*connection);
        }
    });
    join_all(jobs).await;
    assert_eq!(made.load(Ordering::SeqCst), 3);
    assert_eq!((pool.idle(), pool.lock().snapshot().in_use), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_broken_is_not_lent_again() {
    let pool = ResourcePool::with(lock_of(2), ["old".to_owned()]);
    let make = || async { Ok::<_, Infallible>("new".to_owned()) };
    let lent = pool.get("a", make).await.unwrap();
    assert_eq!(*lent, "old");
    lent.discard();
    assert_eq!((pool.idle(), pool.lock().snapshot().in_use), (0, 0));
    let mut lent = pool.get("a", make).await.unwrap();
    lent.push_str("er");
    drop(lent);
    assert_eq!(pool.get("a", make).await.unwrap().into_inner(), "newer");
    assert_eq!(pool.idle(), 0);
    // What cannot be made costs no permit.
    let failed = pool.get("a", || async { Err::<String, _>(std::fmt::Error) });
    assert!(matches!(failed.await, Err(Error::Inner(std::fmt::Error))));
    let mut making = task::spawn(pool.get("a", pending::<Result<String, Infallible>>));
    assert_pending!(making.poll());
    drop(making);
    let panics = pool.get("a", || async {
        panic!("cannot") as Result<String, Infallible>
    });
    assert!(AssertUnwindSafe(panics).catch_unwind().await.is_err());
    assert_eq!(pool.lock().snapshot().in_use, 0);
    for name in ["keep", "drop"] {
        drop(
            pool.get("a", || async { Ok::<_, Infallible>(name.to_owned()) })
                .await
                .unwrap(),
        );
        pool.retain(|it| it == "keep");
    }
    assert_eq!(pool.idle(), 1);
    let last = pool.get("a", make).await.unwrap();
    pool.close();
    drop(last);
    assert_eq!(pool.idle(), 0, "a closed pool keeps nothing");
}

#[tokio::test(start_paused = true)]
async fn two_who_have_the_lock_of_one_key_have_the_same_lock() {
    let locks: LockMap<String> = LockMap::new("file", 2, ContentionConfig::default()).unwrap();
    let ours = locks.get("a.txt").unwrap();
    // Somebody clears up, and somebody else asks again.
    assert_eq!(locks.forget_idle(), 0);
    let _b = locks.get("b.txt").unwrap();
    let full = locks.get("c.txt").unwrap_err();
    assert!(full.to_string().contains("2 keys"), "{full}");
    let theirs = locks.get("a.txt").unwrap();
    let held = ours.acquire("us").await.unwrap();
    assert!(theirs.try_acquire("them").is_err(), "two inside");
    drop(held);
    drop((ours, theirs));
    // Now there is room, for the key that is idle is forgotten.
    assert!(locks.get("c.txt").is_ok());
    assert_eq!(locks.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_lock_of_a_key_is_kept_while_anybody_holds_or_waits() {
    let locks: LockMap<u64> = LockMap::new("file", 1, ContentionConfig::default()).unwrap();
    let guard = locks.get(&1).unwrap().acquire("a").owned().await.unwrap();
    assert!(locks.get(&2).is_err(), "a permit");
    let lock = locks.get(&1).unwrap();
    let mut waits = task::spawn(lock.acquire("b").owned());
    assert_pending!(waits.poll());
    drop((guard, lock));
    let guard = assert_ready_ok!(waits.poll());
    assert!(locks.get(&2).is_err(), "a permit after a wait");
    drop((waits, guard));
    assert!(locks.get(&2).is_ok());
    assert_eq!(locks.len(), 1);
}

#[test]
fn a_hundred_thousand_keys_one_after_the_other_are_never_more_than_allowed() {
    let locks: LockMap<u64> = LockMap::new("tenant", 100, ContentionConfig::default()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let locks = locks.clone();
            scope.spawn(move || {
                for key in 0..25_000 {
                    let lock = locks.get(&(key * 4 + thread)).unwrap();
                    let _guard = lock.try_acquire(key).unwrap();
                    assert!(locks.len() <= 100);
                }
            });
        }
    });
}

// ---- Back-pressure ------------------------------------------------------------------------------------

fn counting(
    inside: &Arc<AtomicUsize>,
    most: &Arc<AtomicUsize>,
) -> impl Service<u32, Response = u32, Error = Infallible, Future: Send> + Clone + Send + 'static {
    let (inside, most) = (Arc::clone(inside), Arc::clone(most));
    service_fn(move |n: u32| {
        let (inside, most) = (Arc::clone(&inside), Arc::clone(&most));
        async move {
            most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            sleep(MS).await;
            inside.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, Infallible>(n)
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_thousand_items_go_through_two_permits_two_at_a_time() {
    let (inside, most) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let lock = lock_of(2);
    let service = lock
        .layer()
        .permit_in_poll_ready()
        .layer(counting(&inside, &most));
    let answers: Vec<_> = service
        .call_all(stream::iter(0..1_000))
        .unordered()
        .collect()
        .await;
    assert_eq!(answers.len(), 1_000);
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(
        (most.load(Ordering::SeqCst), lock.snapshot().in_use),
        (2, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_buffer_above_waits_and_load_shed_refuses() {
    let (inside, most) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let lock = lock_of(2);
    let service = lock
        .layer()
        .permit_in_poll_ready()
        .layer(counting(&inside, &most));
    let buffered = Buffer::new(service.clone(), 8);
    let calls = (0..100).map(|n| buffered.clone().oneshot(n));
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    assert_eq!(most.load(Ordering::SeqCst), 2);
    drop(buffered);
    let _held = lock.acquire("both").permits(2).await.unwrap();
    let mut shedding = ServiceBuilder::new().load_shed().service(service);
    assert!(shedding.ready().await.unwrap().call(1).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_ready_service_holds_its_permit_and_its_clone_has_none() {
    let lock = lock_of(1);
    let mut service = lock
        .layer()
        .permit_in_poll_ready()
        .layer(service_fn(|(): ()| async { Ok::<_, Infallible>(()) }));
    service.ready().await.unwrap();
    assert_eq!(lock.snapshot().in_use, 1);
    let mut clone = service.clone();
    let mut ready = task::spawn(clone.ready());
    assert_pending!(ready.poll());
    service.call(()).await.unwrap();
    assert!(ready.is_woken());
    assert_ready_ok!(ready.poll());
    drop(ready);
    drop(clone);
    assert_eq!(lock.snapshot().in_use, 0, "dropped without a call");
}

#[tokio::test(start_paused = true)]
async fn a_wait_in_poll_ready_that_ends_without_a_permit_refuses_the_call_and_not_the_service() {
    let lock = lock_of(1);
    let held = lock.acquire("somebody").await.unwrap();
    let mut service = lock
        .layer()
        .permit_in_poll_ready()
        .layer(service_fn(|(): ()| async { Ok::<_, Infallible>(()) }));
    let refused = service.ready().await.unwrap().call(()).await.unwrap_err();
    assert!(matches!(refused, Error::Contended(it) if it.waited() == 30 * SECOND));
    drop(held);
    assert!(service.ready().await.unwrap().call(()).await.is_ok());
}

// ---- What is told -------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_permit_that_is_granted_to_a_future_nobody_polls_is_reported_once() {
    let feed = Feed::default();
    let lock = ResourceLock::builder("db")
        .contention_threshold(SECOND)
        .observer(feed.clone())
        .build()
        .unwrap();
    let held = lock.acquire("a").await.unwrap();
    let mut stuck = task::spawn(lock.acquire("stuck"));
    assert_pending!(stuck.poll());
    let mut behind = task::spawn(lock.acquire("behind"));
    assert_pending!(behind.poll());
    drop(held);
    for _ in 0..3 {
        advance(SECOND).await;
        assert_pending!(behind.poll());
        let _ = lock.snapshot();
    }
    let told: Vec<String> = feed
        .recent()
        .iter()
        .filter(|it| {
            matches!(
                it.event,
                Event::Contention(ContentionEvent::NotPolled { .. })
            )
        })
        .map(|it| it.event.to_string())
        .collect();
    assert_eq!(
        told,
        ["`stuck` was granted it 1.000s ago and has not been polled since"]
    );
    drop(stuck);
    drop(assert_ready_ok!(behind.poll()));
}

#[tokio::test(start_paused = true)]
async fn the_holder_is_the_workflow_or_else_the_place_in_the_source() {
    let lock = lock_of(1);
    let guard = lock.acquire_here().await.unwrap();
    let here = guard.holder().to_string();
    assert!(here.contains("lock_surface.rs:"), "{here}");
    drop(guard);
    workflow::scope("exec-7", async {
        let guard = lock.acquire_here().await.unwrap();
        assert_eq!(guard.holder(), Holder::from("exec-7"));
        drop(guard);
        let guard = lock.acquire(workflow::current()).await.unwrap();
        assert_eq!(guard.holder(), Holder::from("exec-7"));
    })
    .await;
    let guard = lock.acquire(workflow::current()).await.unwrap();
    assert!(matches!(guard.holder(), Holder::Anonymous(_)));
    let task = tokio::spawn(async { Holder::here().to_string() });
    let there = task.await.unwrap();
    assert!(there.starts_with("task "), "{there}");
}

// ---- Blocking -----------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_blocking_wait_ends_by_the_real_clock_also_where_that_of_tokio_is_paused() {
    let lock = lock_of(1);
    let _held = lock.acquire("a").await.unwrap();
    let other = lock.clone();
    let waited = tokio::task::spawn_blocking(move || {
        other.acquire("b").timeout(20 * MS).blocking().map(drop)
    });
    let refused = waited.await.unwrap().unwrap_err();
    assert_eq!(refused.reason(), &ContendedReason::TimedOut);
    assert!(refused.waited() >= 20 * MS, "{refused}");
}

#[tokio::test]
async fn a_blocking_wait_on_a_thread_that_runs_tasks_says_so_at_once() {
    let lock = lock_of(1);
    // A free permit takes no wait.
    let held = lock.acquire("a").blocking().unwrap();
    let blocks = std::panic::catch_unwind(AssertUnwindSafe(|| {
        lock.acquire("b").blocking().map(drop).unwrap_err();
    }));
    let message = blocks.unwrap_err();
    let message = message.downcast_ref::<String>().map_or("", |it| it);
    assert!(message.contains("block"), "{message}");
    assert_eq!(lock.snapshot().waiting, 0, "and nobody stays in the queue");
    drop(held);
}

#[test]
fn a_wait_without_any_bound_needs_no_runtime() {
    let lock = ResourceLock::builder("db")
        .no_timeout()
        .deadlock_timeout(None)
        .on_deadlock(OnDeadlock::Report)
        .contention_threshold(Duration::MAX)
        .build()
        .unwrap();
    let held = lock.try_acquire("a").unwrap();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| futures::executor::block_on(lock.acquire("b")).map(drop));
        while lock.snapshot().waiting == 0 {
            std::thread::yield_now();
        }
        drop(held);
        waits.join().unwrap().unwrap();
    });
}

// ---- Other queues, and a number of permits that follows the calls ---------------------------------------

#[tokio::test(start_paused = true)]
async fn the_more_important_call_is_made_first() {
    let lock = lock_of(1);
    let order = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&order);
    let service = lock
        .layer()
        .priority(|job: &&str| match *job {
            "report" => Priority::Low,
            "health" => Priority::Critical,
            _ => Priority::Normal,
        })
        .layer(service_fn(move |job: &'static str| {
            let notes = Arc::clone(&notes);
            async move {
                notes.lock().unwrap().push(job);
                sleep(SECOND).await;
                Ok::<_, Infallible>(())
            }
        }));
    let calls = ["first", "report", "order", "health"].map(|job| service.clone().oneshot(job));
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    assert_eq!(
        *order.lock().unwrap(),
        ["first", "health", "order", "report"]
    );
}

#[tokio::test(start_paused = true)]
async fn who_waited_for_too_long_in_an_overloaded_queue_is_told_so() {
    let feed = Feed::default();
    let lock = ResourceLock::builder("db")
        .queue(Queue::lifo_when_overloaded(100 * MS))
        .observer(feed.clone())
        .build()
        .unwrap();
    let held = lock.acquire("a").await.unwrap();
    let mut old = task::spawn(lock.acquire("old"));
    assert_pending!(old.poll());
    advance(150 * MS).await;
    let mut young = task::spawn(lock.acquire("young").priority(Priority::Normal));
    assert_pending!(young.poll());
    drop(held);
    drop(assert_ready_ok!(young.poll()));
    let refused = assert_ready_err!(old.poll());
    assert_eq!(refused.reason(), &ContendedReason::Overloaded);
    assert_eq!(refused.waited(), 150 * MS);
    let stats = lock.snapshot().stats;
    assert_eq!((stats.shed, stats.attempts, stats.acquisitions), (1, 3, 2));
    let last = feed.recent().last().unwrap().event.to_string();
    assert_eq!(last, "`old` was refused after 150.000ms: too many wait");
}

#[tokio::test(start_paused = true)]
async fn one_tenant_cannot_take_all() {
    let lock = ResourceLock::builder("db")
        .max_concurrent(4)
        .max_per_holder(2)
        .build()
        .unwrap();
    let service = lock
        .layer()
        .holder(|tenant: &&'static str| *tenant)
        .layer(service_fn(|_: &'static str| async {
            sleep(SECOND).await;
            Ok::<_, Infallible>(())
        }));
    let mut greedy: Vec<_> = (0..20)
        .map(|_| task::spawn(service.clone().oneshot("greedy")))
        .collect();
    greedy
        .iter_mut()
        .for_each(|call| assert_pending!(call.poll()));
    assert_eq!(lock.snapshot().in_use, 2);
    let mut modest = task::spawn(service.clone().oneshot("modest"));
    assert_pending!(modest.poll());
    assert_eq!(
        lock.snapshot().in_use,
        3,
        "it does not wait behind the others"
    );
    let refused = lock.acquire("greedy").permits(3).await.unwrap_err();
    assert!(matches!(
        refused.reason(),
        ContendedReason::ExceedsCapacity { .. }
    ));
    advance(SECOND).await;
    assert_ready_ok!(modest.poll());
    for _ in 0..10 {
        greedy.retain_mut(|call| call.poll().is_pending());
        advance(SECOND).await;
    }
    greedy.retain_mut(|call| call.poll().is_pending());
    assert!(greedy.is_empty());
    assert_eq!(lock.snapshot().in_use, 0);
}

/// A service that does ten calls at once in 100 ms each, and takes longer for more.
async fn served(lock: &ResourceLock, calls: usize) {
    let inside = Arc::new(AtomicUsize::new(0));
    let service = lock.layer().layer(service_fn(move |(): ()| {
        let inside = Arc::clone(&inside);
        async move {
            let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
            sleep(100 * MS * u32::try_from(now.div_ceil(10)).unwrap()).await;
            inside.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, Infallible>(())
        }
    }));
    let workers = (0..calls).map(|_| async {
        for _ in 0..200 {
            service.clone().oneshot(()).await.unwrap();
        }
    });
    join_all(workers).await;
}

#[tokio::test(start_paused = true)]
async fn the_number_of_permits_follows_what_the_service_can_do() {
    let lock = |start, algorithm| {
        ResourceLock::builder("search")
            .max_concurrent(start)
            .timeout(Duration::from_secs(3_600))
            .adaptive(algorithm, 2..=100)
            .build()
            .unwrap()
    };
    // It grows from below, as long as calls get no slower.
    let grows = lock(2, Adaptive::Gradient2);
    served(&grows, 8).await;
    let permits = grows.snapshot().capacity;
    assert!((8..=40).contains(&permits), "{permits}");
    // It falls from above: a hundred at once take ten times as long as ten.
    let falls = lock(100, Adaptive::aimd(250 * MS));
    served(&falls, 100).await;
    let permits = falls.snapshot().capacity;
    assert!(permits < 40, "{permits}");
    assert_eq!(falls.snapshot().in_use, 0);
}

#[tokio::test(start_paused = true)]
async fn errors_and_calls_that_are_dropped_say_nothing_of_the_number_of_permits() {
    let lock = ResourceLock::builder("search")
        .max_concurrent(10)
        .adaptive(Adaptive::aimd(SECOND), 2..=20)
        .build()
        .unwrap();
    for _ in 0..100 {
        let fails = lock.run("a", || async {
            sleep(5 * SECOND).await;
            Err::<(), _>(std::fmt::Error)
        });
        assert!(fails.await.is_err());
        let mut dropped = task::spawn(lock.run("a", pending::<Result<(), Infallible>>));
        assert_pending!(dropped.poll());
        advance(5 * SECOND).await;
    }
    assert_eq!(lock.snapshot().capacity, 10);
    // A wait inside the call is no time at the service.
    let other = lock_of(1);
    for _ in 0..100 {
        let held = other.acquire("somebody").await.unwrap();
        let waits = lock.run("a", || async {
            drop(other.acquire("a").await);
            Ok::<_, Infallible>(())
        });
        let mut waits = task::spawn(waits);
        assert_pending!(waits.poll());
        advance(2 * SECOND).await;
        drop(held);
        assert_ready_ok!(waits.poll());
    }
    assert!(
        lock.snapshot().capacity >= 10,
        "{}",
        lock.snapshot().capacity
    );
}

#[test]
fn queues_that_cannot_work_are_refused_with_the_name_of_the_setting() {
    let builder = || ResourceLock::builder("db").max_concurrent(10);
    let settings = [
        builder().max_per_holder(0).build(),
        builder().queue(Queue::codel(MS, Duration::ZERO)).build(),
        builder().adaptive(Adaptive::Vegas, 0..=5).build(),
        builder().adaptive(Adaptive::Vegas, 20..=50).build(),
        builder()
            .adaptive(Adaptive::aimd(Duration::ZERO), 1..=50)
            .build(),
    ]
    .map(|wrong| wrong.unwrap_err().setting().to_owned());
    assert_eq!(
        settings,
        [
            "max_per_holder",
            "queue",
            "adaptive",
            "max_concurrent",
            "adaptive"
        ]
    );
}

// ---- Statistics ---------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn recent_times_forget_the_bad_minute_that_the_times_since_the_start_remember() {
    let lock = lock_of(1);
    let held = lock.acquire("slow").await.unwrap();
    let mut waiter = task::spawn(lock.acquire("waiter"));
    assert_pending!(waiter.poll());
    advance(20 * SECOND).await;
    drop(held);
    drop(assert_ready_ok!(waiter.poll()));
    let stats = lock.snapshot().stats;
    assert_eq!(stats.recent_hold.max, 20 * SECOND);
    assert_eq!(stats.recent_wait.max, 20 * SECOND);
    advance(60 * SECOND).await;
    for _ in 0..10 {
        let held = lock.acquire("fast").await.unwrap();
        advance(MS).await;
        drop(held);
    }
    let stats = lock.snapshot().stats;
    assert_eq!((stats.recent_hold.max, stats.recent_hold.count), (MS, 10));
    assert_eq!(
        (stats.recent_wait.max, stats.recent_wait.count),
        (Duration::ZERO, 10)
    );
    assert_eq!((stats.hold.max, stats.hold.count), (20 * SECOND, 12));
    assert_eq!((stats.wait.max, stats.wait.count), (20 * SECOND, 12));
}
