use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures::future::{FutureExt, join, join_all};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{advance, sleep, timeout};

use super::model::*;
use super::*;
use crate::call::context::{Frame, Reason, Wait, drop_because, is_at_rest};
use crate::util::time::now;

#[tokio::test(start_paused = true)]
async fn time_in_a_wait_is_not_time_at_the_service() {
    let start = now();
    let mut call = Framed::new(async {
        wait(10 * S).await;
        service(2 * S).await;
        wait(S).await;
        service(3 * S).await;
    });
    (&mut call).await;
    assert_eq!(call.1.spent(start, now()), 5 * S);
    assert!(!call.1.is_waiting());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_has_left_the_queue_is_at_the_service() {
    let mut queues = Framed::new(async {
        wait(S).await;
        hung().await
    });
    assert!(poll_once(pin!(&mut queues)).is_pending());
    assert!(queues.1.is_waiting());
    advance(S).await;
    assert!(poll_once(pin!(&mut queues)).is_pending());
    assert!(!queues.1.is_waiting());
}

#[tokio::test(start_paused = true)]
async fn of_two_branches_one_at_the_service_is_enough_in_both_orders() {
    for waits_first in [true, false] {
        let start = now();
        let mut call = Framed::new(async {
            match waits_first {
                true => join(wait(10 * S), service(4 * S)).map(drop).await,
                false => join(service(4 * S), wait(10 * S)).map(drop).await,
            }
        });
        assert!(poll_once(pin!(&mut call)).is_pending());
        assert!(!call.1.is_waiting());
        (&mut call).await;
        assert_eq!(
            call.1.spent(start, now()),
            4 * S,
            "waits first: {waits_first}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn join_of_a_waiting_and_a_hung_branch_that_times_out_is_a_failure_in_both_orders() {
    for waits_first in [true, false] {
        let (breaker, lock) = (breaker(), Lock::new(1));
        let _busy = lock.acquire().await.unwrap();
        let retry = Retry {
            attempt_timeout: Some(S),
            ..Retry::default()
        };
        let cut = retry.call(|| {
            let waits = async { lock.acquire().await.map(drop) };
            let call: Pin<Box<dyn Future<Output = ()>>> = match waits_first {
                true => Box::pin(join(waits, hung()).map(drop)),
                false => Box::pin(join(hung(), waits).map(drop)),
            };
            breaker.call(call).map(Ok::<_, ()>)
        });
        assert_eq!(cut.await, Err(Ended::Cut(Reason::TimedOut)));
        assert_eq!(breaker.counts().failure, 1, "waits first: {waits_first}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drop_excuses_the_branch_that_waits_and_not_its_sibling_in_both_orders() {
    for waits_first in [true, false] {
        let (waits, hangs, lock) = (breaker(), breaker(), Lock::new(1));
        let _busy = lock.acquire().await.unwrap();
        let retry = Retry {
            attempt_timeout: Some(S),
            ..Retry::default()
        };
        let cut = retry.call(|| {
            let a = waits.call(lock.acquire().map(drop));
            let b = hangs.call(pending::<()>());
            let call: Pin<Box<dyn Future<Output = ()>>> = match waits_first {
                true => Box::pin(join(a, b).map(drop)),
                false => Box::pin(join(b, a).map(drop)),
            };
            call.map(Ok::<_, ()>)
        });
        assert_eq!(cut.await, Err(Ended::Cut(Reason::TimedOut)));
        assert_eq!((waits.counts().cancelled, waits.counts().failure), (1, 0));
        assert_eq!((hangs.counts().cancelled, hangs.counts().failure), (0, 1));
    }
}

/// What it cannot know: a branch in no frame of ours beside a wait. The doubt is the service's.
#[tokio::test(start_paused = true)]
async fn a_branch_in_no_frame_of_ours_is_not_seen_beside_a_wait() {
    let mut call = Framed::new(join(wait(S), pending::<()>()));
    assert!(poll_once(pin!(&mut call)).is_pending());
    assert!(call.1.is_waiting());
}

#[tokio::test(start_paused = true)]
async fn the_loser_of_a_select_ends_its_wait_in_the_poll() {
    let start = now();
    let mut call = Framed::new(async {
        tokio::select! { () = wait(100 * S) => {}, () = sleep(3 * S) => {} }
        sleep(2 * S).await;
    });
    (&mut call).await;
    assert_eq!(call.1.spent(start, now()), 2 * S);
}

#[tokio::test(start_paused = true)]
async fn of_futures_unordered_only_the_woken_child_is_polled() {
    let start = now();
    let mut call = Framed::new(async {
        let mut all = FuturesUnordered::new();
        for n in 1..=3 {
            all.push(async move {
                wait(n * 10 * S).await; // until 10, 20, 30
                service(2 * S).await; // until 12, 22, 32
            });
        }
        while all.next().await.is_some() {}
    });
    for (at, waiting) in [
        (0, true),
        (10, false),
        (12, true),
        (20, false),
        (22, true),
        (30, false),
    ] {
        tokio::select! { biased; () = &mut call => panic!(), () = tokio::time::sleep_until((start.after(at * S + MS)).to_instant()) => {} }
        assert_eq!(call.1.is_waiting(), waiting, "{at}");
    }
    (&mut call).await;
    assert_eq!(call.1.spent(start, now()), 6 * S);
}

#[tokio::test(start_paused = true)]
async fn a_buffered_stream_that_is_not_polled_stays_where_it_was() {
    let start = now();
    let mut call = Framed::new(async {
        let mut stream = pin!(
            futures::stream::iter(1..=3u32)
                .map(|n| wait(n * S))
                .buffered(3)
        );
        while stream.next().await.is_some() {
            service(5 * S).await; // The others wait on meanwhile, unpolled.
        }
    });
    (&mut call).await;
    assert_eq!(call.1.spent(start, now()), 15 * S);
    assert_eq!(call.1.waited(now()), S);
}

#[tokio::test(start_paused = true)]
async fn many_branches_that_all_wait_are_one_wait() {
    let start = now();
    let mut call = Framed::new(join_all((1..=40u32).map(|n| wait(n * S))));
    (&mut call).await;
    assert_eq!(call.1.waited(now()), 40 * S);
    assert_eq!(call.1.spent(start, now()), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_wait_moved_to_another_task_is_that_tasks() {
    let (send, receive) = tokio::sync::oneshot::channel();
    let mut old = Framed::new(async move {
        let mut begun = Box::pin(wait(5 * S));
        assert!(futures::poll!(&mut begun).is_pending());
        let moved = tokio::spawn(async move {
            let mut new = Framed::new(async move {
                begun.await;
                wait(S).await;
                send.send(()).unwrap();
                service(S).await;
            });
            let start = now();
            (&mut new).await;
            assert_eq!(new.1.spent(start, now()), S, "the new one");
        });
        receive.await.unwrap();
        sleep(4 * S).await;
        moved.await.unwrap();
    });
    let start = now();
    (&mut old).await;
    assert!(!old.1.is_waiting());
    assert!(
        old.1.spent(start, now()) >= 4 * S,
        "{:?}",
        old.1.spent(start, now())
    );
}

#[test]
fn a_call_goes_on_on_another_thread() {
    let mut call = Framed::new(async {
        wait(Duration::ZERO).await;
        pending::<()>().await
    });
    let start = now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let mut call = std::thread::scope(|scope| {
        let runtime = &runtime;
        let mut wait = Wait::new(1);
        let mut frame = Frame::default();
        let there = scope.spawn(move || {
            let _in = runtime.enter();
            let _ = frame.poll(0, || wait.poll(Waker::noop(), || Poll::<()>::Pending));
            assert!(frame.is_waiting());
            (frame, wait)
        });
        let (mut frame, mut wait) = there.join().unwrap();
        let polled = frame.poll(0, || {
            let _ = wait.poll(Waker::noop(), || Poll::Ready(()));
            Poll::<()>::Pending
        });
        assert!(polled.is_pending() && !frame.is_waiting());
        // And nothing is left behind on this thread.
        let mut next = Frame::default();
        let _ = next.poll(0, || Poll::<()>::Pending);
        assert!(!next.is_waiting());
        call.1 = frame;
        call
    });
    call.1
        .poll(0, || Poll::<()>::Pending)
        .is_pending()
        .then_some(())
        .unwrap();
    assert!(call.1.spent(start, now()) > Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_wait_of_another_task_polled_in_here_is_not_this_calls() {
    let local = tokio::task::LocalSet::new();
    local.spawn_local(Framed::new(wait(100 * S)));
    local.spawn_local(wait(100 * S));
    let mut call = Framed::new(local.run_until(async { sleep(5 * S).await }));
    let start = now();
    (&mut call).await;
    assert_eq!(call.1.spent(start, now()), 5 * S);
    assert!(!call.1.is_waiting());
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_while_it_waits_is_cancelled_whatever_the_reason() {
    for reason in [Reason::Abandoned, Reason::TimedOut, Reason::Deadline] {
        let (outer, inner, lock) = (breaker(), breaker(), Lock::new(1));
        let _busy = lock.acquire().await.unwrap();
        let mut call = outer.call(inner.call(lock.call(hung())));
        assert!(poll_once(pin!(&mut call)).is_pending());
        advance(100 * S).await;
        drop_because(reason, || drop(call));
        for breaker in [outer, inner] {
            let Counts {
                cancelled, failure, ..
            } = breaker.counts();
            assert_eq!((cancelled, failure), (1, 0), "{reason:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn calls_below_the_wait_are_judged_by_where_they_are_themselves() {
    // retry > breaker > lock > breaker > service: dropped at the service, both fail.
    let (outer, inner, lock) = (breaker(), breaker(), Lock::new(1));
    let retry = Retry {
        attempt_timeout: Some(S),
        ..Retry::default()
    };
    let result = retry
        .call(|| {
            outer
                .call(lock.call(inner.call(pending::<()>())))
                .map(|_| Ok::<_, ()>(()))
        })
        .await;
    assert_eq!(result, Err(Ended::Cut(Reason::TimedOut)));
    assert_eq!((outer.counts().failure, inner.counts().failure), (1, 1));
    // A wait within the service of the outer one, below the inner breaker.
    let busy = lock.acquire().await.unwrap();
    let result = timeout(
        10 * S,
        retry.call(|| {
            outer
                .call(inner.call(lock.call(pending::<()>())))
                .map(|_| Ok::<_, ()>(()))
        }),
    )
    .await;
    assert!(result.is_err(), "the attempt timer stands still");
    assert_eq!((outer.counts().failure, inner.counts().failure), (1, 1));
    assert_eq!((outer.counts().cancelled, inner.counts().cancelled), (1, 1));
    drop(busy);
}

#[tokio::test(start_paused = true)]
async fn a_panic_leaves_nothing_behind() {
    let breaker = breaker();
    let mut around = Framed::new(async {
        let call = breaker.call(async {
            let _ = join(wait(100 * S), async {
                sleep(S).await;
                panic!("in the call")
            })
            .await;
        });
        assert!(
            std::panic::AssertUnwindSafe(call)
                .catch_unwind()
                .await
                .is_err()
        );
        sleep(2 * S).await;
    });
    let start = now();
    (&mut around).await;
    assert_eq!(breaker.counts().failure, 1);
    assert_eq!(around.1.spent(start, now()), 2 * S);
    assert!(is_at_rest());
    let mut next = Framed::new(sleep(S));
    let start = now();
    (&mut next).await;
    assert_eq!(next.1.spent(start, now()), S);
}

#[test]
fn a_panic_of_the_outermost_frame_leaves_nothing_behind() {
    let mut frame = Frame::default();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut wait = Wait::new(1);
        frame.poll(0, || -> Poll<()> {
            let _ = wait.poll(Waker::noop(), || Poll::<()>::Pending);
            panic!("outermost")
        })
    }));
    assert!(caught.is_err());
    assert!(is_at_rest());
    let mut next = Frame::default();
    let _ = next.poll(0, || Poll::<()>::Pending);
    assert!(!next.is_waiting());
    let mut waits = Wait::new(2);
    let _ = next.poll(0, || waits.poll(Waker::noop(), || Poll::<()>::Pending));
    assert!(next.is_waiting());
    drop(waits);
    let _ = next.poll(0, || Poll::<()>::Pending);
    assert!(
        !next.is_waiting(),
        "its own has ended, and the one of the panic is not its own"
    );
}

mod limits {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_moved_out_of_a_call_after_a_poll_keeps_that_one_at_the_service() {
        let mut inner = Some(Box::pin(hung()));
        let mut taken = None;
        let mut outer = Framed::new(async {
            assert!(futures::poll!(inner.as_mut().unwrap()).is_pending());
            taken = inner.take();
            wait(S).await;
        });
        assert!(poll_once(pin!(&mut outer)).is_pending());
        assert!(!outer.1.is_waiting());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_of_another_task_polled_in_here_counts_as_a_branch() {
        let local = tokio::task::LocalSet::new();
        local.spawn_local(hung());
        let mut call = Framed::new(local.run_until(wait(5 * S)));
        assert!(poll_once(pin!(&mut call)).is_pending());
        assert!(poll_once(pin!(&mut call)).is_pending());
        assert!(!call.1.is_waiting());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_not_polled_is_where_it_was() {
        let lock = Lock::new(1);
        let busy = lock.acquire().await.unwrap();
        let mut call = Framed::new(lock.call(hung()));
        assert!(poll_once(pin!(&mut call)).is_pending());
        drop(busy); // Granted.
        advance(10 * S).await;
        assert!(call.1.is_waiting());
    }

    #[test]
    fn more_waits_than_that_in_one_poll_are_not_told_of() {
        let mut frame = Frame::default();
        let mut waits: Vec<_> = (0..5000).map(|_| Wait::new(1)).collect();
        let poll = |frame: &mut Frame, waits: &mut Vec<Wait>| {
            let _ = frame.poll(0, || {
                for wait in waits {
                    let _ = wait.poll(Waker::noop(), || Poll::<()>::Pending);
                }
                Poll::<()>::Pending
            });
        };
        poll(&mut frame, &mut waits);
        assert!(frame.is_waiting());
        waits.drain(..4096);
        let _ = frame.poll(0, || Poll::<()>::Pending);
        assert!(!frame.is_waiting());
        poll(&mut frame, &mut waits);
        assert!(frame.is_waiting(), "until they are polled again");
    }
}
