use std::future::{Future, pending};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Poll, Waker};
use std::time::Duration;

use futures::future::{FutureExt, join, join_all};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{advance, sleep, timeout};

use super::model::*;
use super::*;
use crate::call::context::{Frame, Reason, Wait, ambient_deadline, drop_because, with_deadline};
use crate::util::time::{Tick, now};

#[tokio::test(start_paused = true)]
async fn a_manual_permit_is_never_inside_a_wait() {
    let (breaker, lock) = (
        Arc::new(Breaker {
            slow: Some(S),
            ..Breaker::default()
        }),
        Lock::new(1),
    );
    let busy = lock.acquire().await.unwrap();
    let mut permit = breaker.admit().unwrap();
    let _ = timeout(5 * S, lock.acquire()).await;
    drop(busy);
    permit.settle(true);
    assert_eq!(
        breaker.counts().slow,
        1,
        "who holds a permit by hand decides when to take it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_busy_lock_below_a_breaker_makes_no_call_slow() {
    let breaker = Arc::new(Breaker {
        slow: Some(S),
        ..Breaker::default()
    });
    let lock = Lock::new(1);
    let calls = (0..10).map(|_| breaker.call(lock.call(service(900 * MS))));
    let mut calls = Box::pin(join_all(calls.collect::<Vec<_>>()));
    assert!(poll_once(calls.as_mut()).is_pending());
    assert_eq!(
        breaker.running.load(Relaxed),
        1,
        "a sweep sees who is at the service"
    );
    calls.await; // The last one waited for eight seconds.
    assert_eq!((breaker.counts().success, breaker.counts().slow), (10, 0));
    assert!(!breaker.counts().is_open());
    assert_eq!(breaker.running.load(Relaxed), 0);
    // And the service's own slowness is seen through the same lock.
    let calls = (0..4).map(|_| breaker.call(lock.call(service(2 * S))));
    join_all(calls.collect::<Vec<_>>()).await;
    assert_eq!(breaker.counts().slow, 4);
}

#[tokio::test(start_paused = true)]
async fn cancelled_is_failure_after_counts_only_time_at_the_service() {
    let policy = || {
        Arc::new(Breaker {
            cancelled_is_failure_after: Some(3 * S),
            ..Breaker::default()
        })
    };
    let (breaker, lock) = (policy(), Lock::new(1));
    let busy = lock.acquire().await.unwrap();
    // Given up in the queue.
    for _ in 0..10 {
        let _ = timeout(10 * S, breaker.call(lock.call(hung()))).await;
    }
    assert_eq!(
        (breaker.counts().cancelled, breaker.counts().failure),
        (10, 0)
    );
    // 9 s in the queue, 2 s at the service; then 9 s and 4 s.
    let mut busy = vec![busy];
    for (at_service, failures) in [(2, 0), (4, 1)] {
        let mut call = Box::pin(timeout(
            (9 + at_service) * S,
            breaker.call(lock.call(hung())),
        ));
        let _ = timeout(9 * S, &mut call).await;
        busy.clear();
        assert!(call.await.is_err());
        assert_eq!(breaker.counts().failure, failures);
        busy.push(lock.acquire().await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_half_open_probe_that_queues_and_gives_up_proves_nothing_and_blocks_nothing() {
    let breaker = breaker();
    breaker.counts.lock().unwrap().half_open = true;
    let lock = Lock::new(1);
    let busy = lock.acquire().await.unwrap();
    let mut probe = breaker.call(lock.call(hung()));
    assert!(poll_once(pin!(&mut probe)).is_pending());
    assert!(breaker.admit().is_err(), "one at a time");
    advance(60 * S).await;
    drop_because(Reason::TimedOut, || drop(probe));
    assert_eq!(
        (
            breaker.counts().failure,
            breaker.counts().cancelled,
            breaker.counts().probes
        ),
        (0, 1, 0)
    );
    drop(busy);
    assert!(breaker.call(lock.call(service(MS))).await.is_ok());
    assert_eq!(breaker.counts().success, 1);
}

#[tokio::test(start_paused = true)]
async fn the_attempt_timer_stands_still_in_a_wait_and_polls_seldom() {
    let lock = Lock::new(1);
    let busy = lock.acquire().await.unwrap();
    let retry = Retry {
        attempt_timeout: Some(2 * S),
        ..Retry::default()
    };
    let polls = TIMER_POLLS.load(Relaxed);
    let start = now();
    let call = retry.call(|| lock.call(service(1500 * MS)).map(|_| Ok::<_, ()>(())));
    let free = async {
        sleep(3600 * S).await;
        drop(busy)
    };
    let (result, ()) = join(call, free).await;
    assert_eq!(result, Ok(()));
    assert_eq!(now().since(start), 3600 * S + 1500 * MS);
    let polls = TIMER_POLLS.load(Relaxed) - polls;
    assert!(polls < 40, "{polls}");
    // And it goes on where it stood.
    let busy = lock.acquire().await.unwrap();
    let start = now();
    let call = retry.call(|| lock.call(hung()).map(|_| Ok::<_, ()>(())));
    let free = async {
        sleep(100 * S).await;
        drop(busy)
    };
    assert_eq!(join(call, free).await.0, Err(Ended::Cut(Reason::TimedOut)));
    assert_eq!(now().since(start), 102 * S);
}

#[tokio::test(start_paused = true)]
async fn the_backoff_of_an_inner_retry_is_not_the_services_time() {
    let breaker = Arc::new(Breaker {
        slow: Some(S),
        ..Breaker::default()
    });
    let retry = Retry {
        attempts: 4,
        backoff: 10 * S,
        ..Retry::default()
    };
    let call = breaker.call(retry.call(|| service(100 * MS).map(|()| Err::<(), _>("no"))));
    assert!(call.await.is_err());
    assert_eq!(breaker.counts().slow, 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_callers_own_deadline_cut_says_nothing_unless_it_had_an_attempts_time() {
    for (granted, deadline, failures) in [(2, 1, 0), (2, 2, 1), (1, 10, 1)] {
        let breaker = breaker();
        let retry = Retry {
            attempt_timeout: Some(granted * S),
            ..Retry::default()
        };
        let cut = Box::pin(retry.call(|| breaker.call(pending::<()>()).map(Ok::<_, ()>)));
        let mut cut = cut;
        let ends = now().after(deadline * S);
        // As `deadline::scope` does it.
        let cut = std::future::poll_fn(|cx| with_deadline(ends, || cut.as_mut().poll(cx)));
        assert!(timeout(100 * S, cut).await.is_ok());
        assert_eq!(breaker.counts().failure, failures, "{granted} {deadline}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_inner_deadline_never_lengthens_the_outer_one() {
    let (early, late) = (now().after(S), now().after(9 * S));
    with_deadline(early, || {
        with_deadline(late, || assert_eq!(ambient_deadline(), early))
    });
    assert_eq!(ambient_deadline(), Tick::NEVER);
}

#[tokio::test(start_paused = true)]
async fn a_wait_knows_the_permits_around_it_and_no_others() {
    let local = tokio::task::LocalSet::new();
    let mut wait = Wait::new(9);
    let mut outer = Frame::default();
    let mut inner = Frame::default();
    let mut between = Frame::default();
    let polled = outer.poll(1, || {
        between.poll(0, || {
            inner.poll(2, || wait.poll(Waker::noop(), || Poll::<()>::Pending))
        })
    });
    assert!(polled.is_pending());
    assert_eq!(wait.place().unwrap().inside(), [2, 1]);
    // Another task, polled by a `LocalSet` inside a call.
    let mut holds = Frame::default();
    let other = local.spawn_local(async {
        let mut wait = Wait::new(9);
        let mut own = Frame::default();
        std::future::poll_fn(|cx| {
            let _ = own.poll(4, || wait.poll(cx.waker(), || Poll::<()>::Pending));
            Poll::Ready(())
        })
        .await;
        wait.place().unwrap().inside()
    });
    let mut run = Box::pin(local.run_until(other));
    let inside = std::future::poll_fn(|cx| holds.poll(3, || run.as_mut().poll(cx)))
        .await
        .unwrap();
    assert_eq!(inside, [4]);
}

#[tokio::test(start_paused = true)]
async fn re_entry_is_refused_at_once_and_only_where_every_permit_is_around_the_wait() {
    let lock = Lock::new(1);
    let start = now();
    assert_eq!(
        lock.call(async { lock.call(async {}).await }).await,
        Ok(Err(Deadlock))
    );
    // Deep in a set of futures, each with a waker of its own.
    let mut set = lock
        .call(async {
            let mut all: FuturesUnordered<_> = (0..3).map(|_| lock.acquire()).collect();
            let mut refused = 0;
            while let Some(result) = all.next().await {
                refused += u32::from(result.is_err())
            }
            refused
        })
        .map(Result::unwrap)
        .boxed_local();
    assert_eq!((&mut set).await, 3);
    drop(set);
    assert_eq!(now().since(start), Duration::ZERO);
    // Of two permits one is free, or somebody else's: a wait.
    let two = Lock::new(2);
    assert_eq!(
        two.call(async { two.call(async {}).await }).await,
        Ok(Ok(()))
    );
    let other = two.acquire().await.unwrap();
    let waits = two.call(async { two.call(async {}).await });
    let frees = async {
        sleep(S).await;
        drop(other)
    };
    assert_eq!(join(waits, frees).await.0, Ok(Ok(())));
    assert_eq!(
        two.call(async { two.call(async { two.call(async {}).await }).await })
            .await,
        Ok(Ok(Err(Deadlock)))
    );
}
