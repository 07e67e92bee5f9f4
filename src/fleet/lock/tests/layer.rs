use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::sleep;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

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
