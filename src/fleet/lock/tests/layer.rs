use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::time::sleep;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use super::support::{Mode, World, ms, settle};
use crate::call::deadline::Deadline;
use crate::error::{ContendedReason, Error, Rejection};

#[tokio::test(start_paused = true)]
async fn as_many_calls_as_there_are_permits_run_at_once_in_all_processes_together() {
    let world = World::default();
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let mut calls = Vec::new();
    for name in ["a", "b"] {
        let node = world.node(name, |it| it.max_concurrent = 3);
        let (running, most) = (Arc::clone(&running), Arc::clone(&most));
        let service = ServiceBuilder::new()
            .layer(node.lock.layer().holder(|job: &u64| *job))
            .service(service_fn(move |job: u64| {
                let (running, most) = (Arc::clone(&running), Arc::clone(&most));
                async move {
                    most.fetch_max(
                        running.fetch_add(1, Ordering::Relaxed) + 1,
                        Ordering::Relaxed,
                    );
                    sleep(ms(10)).await;
                    running.fetch_sub(1, Ordering::Relaxed);
                    Ok::<_, std::io::Error>(job)
                }
            }));
        for job in 0..10 {
            calls.push(tokio::spawn(service.clone().oneshot(job)));
        }
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(most.load(Ordering::Relaxed), 3);
    settle().await;
    assert_eq!(world.count().await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_carries_the_fence_of_its_permit() {
    let world = World::default();
    let node = world.node("a", |_| {});
    let mut service = ServiceBuilder::new()
        .layer(
            node.lock
                .layer()
                .fence_into(|it: &mut u64, fence| *it = fence.token),
        )
        .service(service_fn(|token: u64| async move {
            Ok::<_, std::io::Error>(token)
        }));
    let first = service.ready().await.unwrap().call(0).await.unwrap();
    let second = service.ready().await.unwrap().call(0).await.unwrap();
    assert!(first > 0 && second > first, "{first} {second}");
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_permit_is_refused_as_contended_and_not_made() {
    let world = World::default();
    let node = world.node("a", |_| {});
    let _guard = node.lock.acquire("holder").await.unwrap();
    let service = ServiceBuilder::new()
        .layer(
            node.lock
                .layer()
                .deadline_from(|_: &u64| Some(Deadline::after(ms(200)))),
        )
        .service(service_fn(|_: u64| async { Ok::<(), std::io::Error>(()) }));
    let Err(Error::Contended(refused)) = service.clone().oneshot(1).await else {
        panic!("it was not refused");
    };
    assert_eq!(*refused.reason(), ContendedReason::DeadlineExceeded);
    node.faults.set(Mode::Down);
    sleep(ms(15_000)).await;
    let Err(Error::Contended(refused)) = service.oneshot(1).await else {
        panic!("it was not refused");
    };
    let unavailable = matches!(refused.reason(), ContendedReason::Unavailable { .. });
    assert!(unavailable, "{refused}");
    assert_eq!(
        refused.to_string(),
        "`call-2` could not get resource `gpu`: the shared store cannot be reached: it is down"
            .replace("call-2", &refused.holder().to_string())
    );
}

#[tokio::test(start_paused = true)]
async fn a_refusal_can_be_a_response() {
    let world = World::default();
    let node = world.node("a", |it| it.max_waiting = Some(0));
    let _guard = node.lock.acquire("holder").await.unwrap();
    let answer = |rejection: Rejection| rejection.to_string();
    let service = ServiceBuilder::new()
        .layer(node.lock.layer().reject_with(answer))
        .service(service_fn(|(): ()| async {
            Ok::<_, Infallible>(String::new())
        }));
    let said = service.oneshot(()).await.unwrap();
    assert!(said.contains("could not get resource `gpu`"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_gives_its_permit_back_and_one_that_waits_leaves_the_queue() {
    let world = World::default();
    let node = world.node("a", |_| {});
    let service = ServiceBuilder::new()
        .layer(node.lock.layer())
        .service(service_fn(|(): ()| {
            std::future::pending::<Result<(), std::io::Error>>()
        }));
    let runs = tokio::spawn(service.clone().oneshot(()));
    settle().await;
    let waits = tokio::spawn(service.oneshot(()));
    settle().await;
    assert_eq!(world.count().await, (1, 1));
    waits.abort();
    settle().await;
    assert_eq!(world.count().await, (1, 0));
    runs.abort();
    settle().await;
    assert_eq!(world.count().await, (0, 0));
}

fn poll<F: Future>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
}

/// Where a service panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Panics {
    Clone,
    Ready,
    Call,
    Future,
    Drop,
}

struct Panicky(Panics, Arc<AtomicUsize>);

impl Clone for Panicky {
    fn clone(&self) -> Self {
        assert!(self.0 != Panics::Clone, "as it is told");
        Self(self.0, Arc::clone(&self.1))
    }
}

struct Ends(Panics);

impl Future for Ends {
    type Output = Result<(), std::io::Error>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        assert!(self.0 != Panics::Future, "as it is told");
        Poll::Ready(Ok(()))
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.0 != Panics::Drop, "as it is told");
        }
    }
}

impl Service<()> for Panicky {
    type Response = ();
    type Error = std::io::Error;
    type Future = Ends;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // The first time is before there is a permit.
        let times = self.1.fetch_add(1, Ordering::Relaxed);
        assert!(self.0 != Panics::Ready || times == 0, "as it is told");
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Ends {
        assert!(self.0 != Panics::Call, "as it is told");
        Ends(self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_anywhere_gives_the_permit_back() {
    let world = World::default();
    let node = world.node("a", |_| {});
    for panics in [
        Panics::Clone,
        Panics::Ready,
        Panics::Call,
        Panics::Future,
        Panics::Drop,
    ] {
        let times = Arc::new(AtomicUsize::new(0));
        let mut service = node.lock.layer().layer(Panicky(panics, times));
        let call = tokio::spawn(async move { service.ready().await?.call(()).await });
        assert!(call.await.unwrap_err().is_panic(), "{panics:?}");
        settle().await;
        assert_eq!(world.count().await, (0, 0), "{panics:?}");
    }
    let layer = node
        .lock
        .layer()
        .fence_into(|(): &mut (), _| panic!("as it is told"));
    let service = layer.layer(service_fn(|()| async { Ok::<_, std::io::Error>(()) }));
    let call = tokio::spawn(service.oneshot(()));
    assert!(call.await.unwrap_err().is_panic());
    settle().await;
    assert_eq!(world.count().await, (0, 0));
    drop(node.lock.try_acquire("after it").await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_wherever_it_is_leaves_nothing_at_the_store() {
    let world = World::default();
    for mode in [Mode::Up, Mode::Slow(10), Mode::Swallow] {
        let mut ends = 0;
        for polls in 0..60 {
            let node = world.node("a", |_| {});
            node.faults.set(mode);
            let mut service = node.lock.layer().layer(service_fn(|()| async {
                sleep(ms(5)).await;
                Ok::<_, std::io::Error>(())
            }));
            service.ready().await.unwrap();
            let mut call = Some(Box::pin(service.call(())));
            for _ in 0..polls {
                let Some(it) = call.as_mut() else { break };
                if poll(it).is_ready() {
                    ends += 1;
                    call = None;
                }
                sleep(ms(1)).await;
            }
            drop(call);
            node.faults.set(Mode::Up);
            sleep(ms(3_000)).await;
            assert_eq!(world.count().await, (0, 0), "{polls} polls, {mode:?}");
        }
        assert!(
            ends > 0 || mode == Mode::Swallow,
            "none came to its end: {mode:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_has_ended_says_so_when_it_is_polled_again() {
    let world = World::default();
    let node = world.node("a", |_| {});
    let mut service = node.lock.layer().layer(service_fn(|ok: bool| async move {
        if ok {
            Ok(())
        } else {
            Err(std::io::Error::other("no"))
        }
    }));
    for ok in [true, false] {
        let mut call = Box::pin(service.ready().await.unwrap().call(ok));
        while poll(&mut call).is_pending() {
            settle().await;
        }
        let shown = format!("{call:?}");
        assert_eq!(shown, "FleetLockFuture { state: \"done\", .. }");
        let again = catch_unwind(AssertUnwindSafe(|| poll(&mut call)));
        let said = again.err().unwrap();
        let said = said.downcast_ref::<&str>();
        let expected = "`FleetLockFuture` polled after completion";
        assert_eq!(said, Some(&expected));
        settle().await;
        assert_eq!(world.count().await, (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_permit_is_back_before_its_call_has_ended() {
    let world = World::default();
    let node = world.node("a", |_| {});
    let service = node
        .lock
        .layer()
        .layer(service_fn(|()| async { Ok::<_, std::io::Error>(()) }));
    for _ in 0..5 {
        service.clone().oneshot(()).await.unwrap();
        assert_eq!(node.lock.snapshot().held_here, 0);
    }
}
