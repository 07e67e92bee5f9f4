use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Poll, Waker};
use std::time::Duration;

use futures::future::join;
use tokio::time::timeout;

use super::model::*;
use super::*;
use crate::call::context::{Frame, Wait};
use crate::util::time::now;

#[test]
fn a_thread_that_parks_for_a_permit_is_not_at_the_service() {
    let (breaker, lock) = (
        Arc::new(Breaker {
            slow: Some(40 * MS),
            ..Breaker::default()
        }),
        Lock::new(1),
    );
    let busy = lock.places.clone().try_acquire_owned().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            crate::util::time::park_for(80 * MS);
            drop(busy)
        });
        let mut frame = Frame::default();
        let start = now();
        frame.enter(0, || {
            breaker.call_blocking(|| drop(lock.acquire_blocking()));
            crate::util::time::park_for(5 * MS);
        });
        let ran = now();
        assert!(frame.waited(ran) >= 60 * MS, "{:?}", frame.waited(ran));
        assert!(frame.spent(start, ran) < 40 * MS);
    });
    assert_eq!((breaker.counts().success, breaker.counts().slow), (1, 0));
}

#[test]
fn time_after_a_wait_in_the_same_poll_is_the_services() {
    let (mut frame, mut inner, mut wait) = (Frame::default(), Frame::default(), Wait::new(1));
    let start = now();
    let _ = frame.poll(0, || wait.poll(Waker::noop(), || Poll::<()>::Pending));
    assert!(frame.is_waiting());
    let _ = frame.poll(0, || {
        let _ = wait.poll(Waker::noop(), || Poll::Ready(()));
        let _ = inner.poll(0, || Poll::<()>::Pending); // At the service,
        crate::util::time::park_for(50 * MS); // and the thread is preempted, or computes.
        Poll::<()>::Pending
    });
    assert!(
        frame.spent(start, now()) >= 50 * MS,
        "{:?}",
        frame.spent(start, now())
    );
}

#[test]
fn time_between_two_waits_in_the_same_poll_is_the_services() {
    let (mut frame, mut first, mut second) = (Frame::default(), Wait::new(1), Wait::new(2));
    let start = now();
    let _ = frame.poll(0, || first.poll(Waker::noop(), || Poll::<()>::Pending));
    let _ = frame.poll(0, || {
        let _ = first.poll(Waker::noop(), || Poll::Ready(()));
        crate::util::time::park_for(50 * MS);
        second.poll(Waker::noop(), || Poll::<()>::Pending)
    });
    assert!(frame.is_waiting());
    assert!(
        frame.spent(start, now()) >= 50 * MS,
        "{:?}",
        frame.spent(start, now())
    );
}

#[test]
fn calls_that_wander_between_threads_keep_their_account() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let places = Arc::new(tokio::sync::Semaphore::new(3));
        let tasks: Vec<_> = (0..400u64)
            .map(|seed| {
                let places = places.clone();
                tokio::spawn(async move {
                    let mut random = super::random::naive::Random(
                        0x9E37_79B9_7F4A_7C15u64.wrapping_mul(seed + 1),
                    );
                    let took = Duration::from_micros(random.below(900));
                    let pended = Arc::new(std::sync::atomic::AtomicBool::new(false));
                    let branch = |places: Arc<tokio::sync::Semaphore>| {
                        let pended = pended.clone();
                        async move {
                            let (mut wait, mut permit) =
                                (Wait::new(1), Box::pin(places.acquire_owned()));
                            let permit = std::future::poll_fn(|cx| {
                                wait.poll(cx.waker(), || permit.as_mut().poll(cx))
                            })
                            .await;
                            drop(wait);
                            let mut at_service = Box::pin(service(took));
                            std::future::poll_fn(|cx| {
                                let polled = at_service.as_mut().poll(cx);
                                pended.fetch_or(polled.is_pending(), Relaxed);
                                polled
                            })
                            .await;
                            drop(permit);
                        }
                    };
                    let mut call = Framed::new(Framed::new(async {
                        branch(places.clone()).await;
                        let _ = timeout(took, join(branch(places.clone()), branch(places.clone())))
                            .await;
                    }));
                    let start = now();
                    (&mut call).await;
                    let ended = now();
                    assert!(!call.1.is_waiting(), "waiting at its end; took {took:?}");
                    assert!(call.1.spent(start, ended) >= took);
                    assert!(call.1.waited(ended) <= ended.since(start));
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}
