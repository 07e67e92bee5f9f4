//! Waits as they are polled, looked at and refused.

use std::task::Waker;
use std::time::Duration;

use crate::call::Holder;
use crate::contention::handle::ResourceLock;
use crate::contention::wait::{Ask, Asked, Asker, WaitInQueue, ask};
use crate::util::time::Tick;

fn queued<'a>(lock: &'a ResourceLock, holder: &str) -> WaitInQueue<&'a ResourceLock> {
    let wanted = Ask::new(holder.into(), Asker::Guard);
    match ask(lock, wanted, Waker::noop()) {
        Ok(Asked::Waits(queued)) => queued,
        Ok(Asked::Got(_)) => panic!("it was free"),
        Err(refused) => panic!("{refused}"),
    }
}

/// Between the look at the queue and the report, another thread may release the permit.
#[test]
fn who_is_granted_a_permit_at_the_threshold_is_not_told_to_wait_for_itself() {
    let feed = crate::observe::Feed::default();
    let lock = ResourceLock::builder("db")
        .deadlock_timeout(None)
        .observer(feed.clone())
        .build()
        .unwrap();
    let held = lock.try_acquire("a").unwrap();
    let mut wait = queued(&lock, "b");
    let threshold = wait.wakes_at();
    drop(held);
    assert!(wait.on_time(|| None, threshold).is_none());
    assert_eq!(feed.recent().len(), 0);
    assert!(wait.claim(Waker::noop()).is_some());
}

#[test]
fn a_wait_that_is_taken_to_another_line_of_work_proves_nothing_of_either() {
    let (lock, other) = (ResourceLock::new("db"), ResourceLock::new("other"));
    let _busy = other.try_acquire("x").unwrap();
    let _held = lock.try_acquire("job").unwrap();
    let mut wait = queued(&other, "job");
    std::thread::scope(|scope| {
        // Begun here, polled on another thread: `job` on this thread is no longer what waits.
        let there = scope.spawn(|| {
            assert!(wait.claim(Waker::noop()).is_none());
            assert!(wait.look(None, Tick(1)).is_none());
            wait
        });
        let _wait = there.join().unwrap();
        // So `x` may wait for what `job` holds here.
        let mut x_waits = queued(&lock, "x");
        assert!(x_waits.look(None, Tick(1)).is_none());
    });
}

#[test]
fn a_wait_that_has_been_granted_is_no_deadlock_when_it_looks() {
    let lock = ResourceLock::new("db");
    let held = lock.try_acquire("a").unwrap();
    let mut wait = queued(&lock, "b");
    drop(held);
    // All permits are its own by now, which it is not to be blamed for.
    assert!(wait.look(None, Tick(1)).is_none());
    assert!(wait.claim(Waker::noop()).is_some());
}

#[test]
fn a_refusal_names_the_longest_holders_and_not_thousands() {
    let lock = ResourceLock::builder("pool")
        .max_concurrent(1_000)
        .build()
        .unwrap();
    let _held: Vec<_> = (0..1_000_u64)
        .map(|id| lock.try_acquire(id).unwrap())
        .collect();
    let refused = lock.try_acquire("late").unwrap_err();
    let named: Vec<_> = refused.holders().iter().map(|h| h.holder.clone()).collect();
    assert_eq!(named, (0..16).map(Holder::Number).collect::<Vec<_>>());
    assert!(
        refused.to_string().ends_with("and at least 13 more"),
        "{refused}"
    );
    let snapshot = lock.snapshot();
    assert_eq!((snapshot.holders.len(), snapshot.in_use), (100, 1_000));
}

#[test]
fn a_refusal_shows_the_holders_of_the_moment_at_which_it_is_first_looked_at() {
    let lock = ResourceLock::new("db");
    let first = lock.try_acquire("first").unwrap();
    let refused = lock.try_acquire("late").unwrap_err();
    drop(first);
    let _second = lock.try_acquire("second").unwrap();
    let holders = |it: &crate::Contended| it.holders()[0].holder.to_string();
    assert_eq!(holders(&refused), "second");
    drop(_second);
    assert_eq!(holders(&refused), "second", "and stays what it was");
}

#[test]
fn what_a_reset_leaves_of_the_rate_is_a_share() {
    let lock = ResourceLock::new("db");
    let _held = lock.try_acquire("a").unwrap();
    let wait = queued(&lock, "b");
    lock.reset_stats();
    drop(wait);
    let stats = lock.snapshot().stats;
    assert_eq!((stats.attempts, stats.contentions), (0, 1));
    assert!((stats.contention_rate - 1.0).abs() < f64::EPSILON);
    assert_eq!(stats.wait.max, stats.wait.max.min(Duration::from_secs(1)));
}
