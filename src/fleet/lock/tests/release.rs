//! A permit whose release is awaited.

use std::future::Future;
use std::task::{Context, Waker};

use tokio::time::{sleep, timeout};

use super::support::{Mode, World, ms, settle};
use crate::fleet::StoreError;

#[tokio::test(start_paused = true)]
async fn a_release_that_is_dropped_wherever_it_is_gives_the_permit_back() {
    let world = World::default();
    let modes = [
        Mode::Up,
        Mode::Slow(10),
        Mode::Swallow,
        Mode::Hang,
        Mode::Down,
        Mode::Late(50),
    ];
    for mode in modes {
        for polls in 0..20 {
            let node = world.node("a", |it| it.lease = ms(60_000));
            let guard = node.lock.acquire("holder").await.unwrap();
            node.faults.set(mode);
            let mut release = Box::pin(guard.release());
            for _ in 0..polls {
                let mut cx = Context::from_waker(Waker::noop());
                if release.as_mut().poll(&mut cx).is_ready() {
                    break;
                }
                sleep(ms(1)).await;
            }
            drop(release);
            node.faults.set(Mode::Up);
            sleep(ms(3_000)).await;
            let seen = node.lock.snapshot();
            assert_eq!(world.count().await, (0, 0), "{polls} polls, {mode:?}");
            assert_eq!(
                (seen.held_here, seen.lost),
                (0, 0),
                "{polls} polls, {mode:?}"
            );
            assert_eq!(seen.stats.hold.count, 1, "{polls} polls, {mode:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_that_the_store_does_not_hear_is_said_again_until_it_does() {
    let world = World::default();
    let node = world.node("a", |it| it.lease = ms(60_000));
    let guard = node.lock.acquire("holder").await.unwrap();
    node.faults.set(Mode::Down);
    let error = guard.release().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    sleep(ms(5_000)).await;
    assert_eq!(world.count().await, (1, 0));
    node.faults.set(Mode::Up);
    sleep(ms(1_000)).await;
    assert_eq!(world.count().await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_was_lost_is_released_without_taking_it_from_whoever_has_it_now() {
    let world = World::default();
    let (a, b) = (
        world.node("a", |it| it.lease = ms(1_000)),
        world.node("b", |_| {}),
    );
    let lost = a.lock.acquire("first").await.unwrap();
    a.faults.set(Mode::Down);
    timeout(ms(2_000), lost.lost()).await.unwrap();
    let _held = b.lock.acquire("second").await.unwrap();
    a.faults.set(Mode::Up);
    lost.release().await.unwrap();
    settle().await;
    assert_eq!(world.count().await, (1, 0));
    assert_eq!(b.lock.fetch().await.unwrap().holders[0].holder, "second");
}

#[tokio::test(start_paused = true)]
async fn a_permit_of_this_process_alone_is_released_at_once_and_asks_nobody() {
    let world = World::default();
    let node = world.node("a", |it| it.local = Some(1));
    node.faults.set(Mode::Down);
    let guard = node.lock.acquire("alone").await.unwrap();
    assert_eq!(guard.fence(), None);
    node.faults.set(Mode::Hang);
    let mut release = Box::pin(guard.release());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(release.as_mut().poll(&mut cx).is_ready());
    drop(node.lock.try_acquire("next").await.unwrap());
}
