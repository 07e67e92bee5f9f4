use std::future::IntoFuture;
use std::task::{Context, Waker};

use tokio::time::{sleep, timeout};

use super::support::{Mode, World, ms, settle};

/// Polls a wait so often, and lets others run in between; then drops it. Whether it was over before.
async fn drop_after(world: &World, polls: usize, busy: bool, mode: Mode) -> bool {
    let (a, b) = (world.node("a", |_| {}), world.node("b", |_| {}));
    let mut guard = match busy {
        true => Some(a.lock.acquire("holder").await.unwrap()),
        false => None,
    };
    b.faults.set(mode);
    let mut future = b.lock.acquire("dropped").into_future();
    let mut is_over = false;
    for n in 0..polls {
        if future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready()
        {
            is_over = true;
            break;
        }
        sleep(ms(1)).await;
        if n == polls / 2 {
            // It is granted the slot in the middle of its wait.
            guard = None;
        }
    }
    drop(future);
    drop(guard);
    b.faults.set(Mode::Up);
    sleep(ms(3_000)).await;
    assert_eq!(
        world.count().await,
        (0, 0),
        "{polls} polls, busy: {busy}, {mode:?}"
    );
    is_over
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_dropped_wherever_it_is_leaves_nothing_at_the_store() {
    let world = World::default();
    for mode in [Mode::Up, Mode::Slow(10), Mode::Swallow] {
        for busy in [false, true] {
            let mut ends = 0;
            for polls in 0..40 {
                ends += usize::from(drop_after(&world, polls, busy, mode).await);
            }
            if mode == Mode::Up && !busy {
                assert!(ends > 0, "none came to its end");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_dropped_when_it_has_just_been_granted_gives_the_permit_to_the_next() {
    let world = World::default();
    let (a, b) = (world.node("a", |_| {}), world.node("b", |_| {}));
    let guard = a.lock.acquire("holder").await.unwrap();
    let mut dropped = b.lock.acquire("dropped").into_future();
    for _ in 0..10 {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(dropped.as_mut().poll(&mut cx).is_pending());
        settle().await;
    }
    let lock = a.lock.clone();
    let next = tokio::spawn(async move { lock.acquire("next").await });
    settle().await;
    drop(guard);
    settle().await;
    // It has it, and has not been polled since.
    assert_eq!(world.count().await, (1, 1));
    drop(dropped);
    let began = tokio::time::Instant::now();
    drop(next.await.unwrap().unwrap());
    assert!(began.elapsed() < ms(5));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_lost_costs_no_second_slot() {
    let world = World::default();
    let a = world.node("a", |it| it.max_concurrent = 4);
    a.faults.set(Mode::Swallow);
    let lock = a.lock.clone();
    let asks = tokio::spawn(async move { lock.acquire("once").await });
    sleep(ms(50)).await;
    assert_eq!(world.count().await, (1, 0));
    a.faults.set(Mode::Up);
    let guard = asks.await.unwrap().unwrap();
    assert_eq!(world.count().await, (1, 0));
    drop(guard);
    settle().await;
    assert_eq!(world.count().await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_done_after_its_caller_gave_up_is_undone_soon_however_long_the_lease() {
    let world = World::default();
    let a = world.node("a", |it| it.lease = ms(60_000));
    a.faults.set(Mode::Late(500));
    let refused = a.lock.acquire("late").timeout(ms(50)).await;
    assert!(refused.is_err());
    a.faults.set(Mode::Up);
    sleep(ms(550)).await;
    assert_eq!(world.count().await, (1, 0));
    sleep(ms(700)).await;
    assert_eq!(world.count().await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_dropped_within_a_call_that_is_done_later_is_undone_as_well() {
    let world = World::default();
    let a = world.node("a", |it| it.lease = ms(60_000));
    a.faults.set(Mode::Late(500));
    let asked = timeout(ms(20), a.lock.acquire("late").into_future()).await;
    assert!(asked.is_err());
    a.faults.set(Mode::Up);
    sleep(ms(550)).await;
    assert_eq!(world.count().await, (1, 0));
    sleep(ms(700)).await;
    assert_eq!(world.count().await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_done_after_its_guard_was_dropped_is_undone_as_well() {
    let world = World::default();
    let a = world.node("a", |it| it.lease = ms(60_000));
    a.faults.set(Mode::Late(300));
    let lock = a.lock.clone();
    let asks = tokio::spawn(async move { lock.acquire("twice").await });
    sleep(ms(50)).await;
    a.faults.set(Mode::Up);
    let guard = asks.await.unwrap().unwrap();
    drop(guard);
    settle().await;
    assert_eq!(world.count().await, (0, 0));
    sleep(ms(250)).await;
    assert_eq!(world.count().await, (1, 0));
    sleep(ms(1_000)).await;
    assert_eq!(world.count().await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn nothing_happens_before_the_first_poll() {
    let world = World::default();
    let a = world.node("a", |_| {});
    drop(a.lock.acquire("never").into_future());
    assert_eq!(a.lock.snapshot().stats.attempts, 0);
    settle().await;
    assert_eq!(world.count().await, (0, 0));
}
