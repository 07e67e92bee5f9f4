//! What went wrong once.

use std::future::IntoFuture;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::sleep;

use super::super::core::{Clock, SemCore};
use super::super::op::{Member, Op, Reply};
use super::super::store::LockStore as _;
use super::support::{Mode, World, ms, settle};
use crate::error::ContendedReason;
use crate::fleet::{Fleet, StoreError};

fn ask(member: &Member, may_wait: i64) -> Op {
    Op::Acquire {
        member: member.clone(),
        may_wait,
        max: 1,
        version: 0,
        grace: 0,
        retry: false,
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_whose_timeout_is_zero_gives_a_permit_that_is_free() {
    let world = World::default();
    let a = world.node("a", |it| it.timeout = Some(Duration::ZERO));
    let guard = a.lock.acquire("first").await.unwrap();
    let refused = a.lock.acquire("second").await.unwrap_err();
    assert_eq!(*refused.reason(), ContendedReason::Busy);
    assert_eq!(world.count().await, (1, 0));
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn the_dead_take_no_place_in_a_bounded_queue_while_the_lock_is_held() {
    let world = World::default();
    let a = world.node("a", |_| {});
    let _held = a.lock.acquire("holder").await.unwrap();
    // It waits, and its process dies.
    let dead = Member::new("x", 10_000_000, "dead", "dead", "dead");
    let waits = world.store("dead").ask(&ask(&dead, 1), ms(1)).await;
    assert!(matches!(waits.unwrap().reply, Reply::Waits { .. }));
    sleep(ms(4_500)).await;

    let b = world.node("b", |it| it.max_waiting = Some(1));
    let refused = b.lock.acquire("alive").timeout(ms(500)).await.unwrap_err();
    assert_eq!(*refused.reason(), ContendedReason::TimedOut);
}

#[test]
fn a_clock_that_went_back_keeps_a_dead_lease_for_one_lease_also_if_nobody_waits() {
    const LEASE: i64 = 10_000_000;
    const HOUR: i64 = 3_600_000_000;
    let member = |id: &str| Member::new(id, LEASE, "", "", "");
    let mut core = SemCore::new();
    let mut try_at = |id: &str, now| {
        let reply = core
            .apply(&ask(&member(id), 0), Clock { now, history: 0 })
            .reply;
        matches!(reply, Reply::Granted { .. })
    };
    assert!(try_at("dead", 2 * HOUR));
    assert!(!try_at("b", HOUR));
    assert!(!try_at("c", HOUR + LEASE - 1));
    assert!(try_at("d", HOUR + LEASE));
}

#[tokio::test(start_paused = true)]
async fn what_a_refused_call_may_get_yet_is_given_back() {
    let world = World::default();
    let (a, b) = (
        world.node("a", |_| {}),
        world.node("b", |it| it.max_waiting = Some(0)),
    );
    let held = a.lock.acquire("holder").await.unwrap();
    // The first call is not answered, and done later; the second is refused.
    b.faults.set(Mode::Late(300));
    let lock = b.lock.clone();
    let asks = tokio::spawn(async move { lock.acquire("refused").await });
    sleep(ms(50)).await;
    b.faults.set(Mode::Up);
    let refused = asks.await.unwrap().unwrap_err();
    assert_eq!(*refused.reason(), ContendedReason::QueueFull);
    drop(held);
    sleep(ms(200)).await;
    assert_eq!(
        world.count().await,
        (1, 0),
        "the late call has got the permit"
    );
    sleep(ms(1_000)).await;
    assert_eq!(world.count().await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_back_is_not_passed_by_because_it_was_away() {
    let world = World::default();
    let a = world.node("a", |it| it.local = Some(1));
    let held = a.lock.acquire("holder").await.unwrap();
    a.faults.set(Mode::Down);
    let lock = a.lock.clone();
    let asks = tokio::spawn(async move { lock.acquire("waiter").await });
    settle().await;
    // Away and back, all while it pauses after its own failure.
    assert!(a.lock.fetch().await.is_err());
    assert!(a.lock.fetch().await.is_err());
    assert!(a.lock.snapshot().away_for.is_some());
    a.faults.set(Mode::Up);
    a.lock.fetch().await.unwrap();
    assert!(a.lock.snapshot().away_for.is_none());
    sleep(ms(500)).await;
    assert!(!asks.is_finished(), "it has a permit beside the holder's");
    drop(held);
    assert!(asks.await.unwrap().unwrap().fence().is_some());
    assert_eq!(a.lock.snapshot().local, 0);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_permit_of_the_process_gets_one_of_the_store_when_it_is_back() {
    let world = World::default();
    let a = world.node("a", |it| it.local = Some(1));
    a.faults.set(Mode::Down);
    let local = a.lock.acquire("local").await.unwrap();
    assert_eq!(local.fence(), None);
    let lock = a.lock.clone();
    let asks = tokio::spawn(async move { lock.acquire("waiter").no_timeout().await });
    sleep(ms(1_000)).await;
    a.faults.set(Mode::Up);
    sleep(ms(1_000)).await;
    assert!(
        asks.is_finished(),
        "it still waits for a permit of this process"
    );
    assert!(asks.await.unwrap().unwrap().fence().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_is_given_back_while_it_is_renewed_is_not_lost() {
    let world = World::default();
    let a = world.node("a", |_| {});
    let guard = a.lock.acquire("holder").await.unwrap();
    sleep(ms(3_000)).await;
    // The renewal at a third of ten seconds is under way for longer than the release.
    a.faults.set(Mode::Slow(80));
    sleep(ms(340)).await;
    a.faults.set(Mode::Up);
    drop(guard);
    sleep(ms(200)).await;
    assert_eq!(world.count().await, (0, 0));
    assert_eq!(a.lock.snapshot().lost, 0);
}

#[test]
fn a_permit_is_given_back_also_if_the_runtime_that_it_was_got_on_is_gone() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().unwrap()
    };
    let world = World::default();
    let a = world.node("a", |_| {});
    let first = runtime();
    let guard = first.block_on(async { a.lock.acquire("holder").await.unwrap() });
    drop(first);
    runtime().block_on(async {
        drop(guard);
        sleep(ms(200)).await;
        assert_eq!(world.count().await, (0, 0));
    });
}

#[tokio::test(start_paused = true)]
async fn a_permit_whose_release_was_awaited_is_back_before_any_task_runs() {
    let world = World::default();
    let (a, b) = (world.node("a", |_| {}), world.node("b", |_| {}));
    let guard = a.lock.acquire("holder").await.unwrap();
    a.die().await;
    guard.release().await.unwrap();
    assert_eq!(world.count().await, (0, 0));

    // One that fails is dropped like any other.
    let guard = b.lock.acquire("holder").await.unwrap();
    b.faults.set(Mode::Down);
    assert!(guard.release().await.is_err());
    b.faults.set(Mode::Up);
    sleep(ms(300)).await;
    assert_eq!(world.count().await, (0, 0));
    assert_eq!(b.lock.snapshot().lost, 0);
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_leaves_nothing_at_a_store_that_was_away_for_a_moment() {
    let world = World::default();
    let a = world.node("a", |_| {});
    a.faults.set(Mode::Swallow);
    let mut asks = a.lock.acquire("dropped").into_future();
    for _ in 0..10 {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(asks.as_mut().poll(&mut cx).is_pending());
        settle().await;
    }
    assert_eq!(world.count().await, (1, 0), "it was done, and not answered");
    let faults = a.faults.clone();
    faults.set(Mode::Down);
    drop(asks);
    drop(a);
    sleep(ms(300)).await;
    faults.set(Mode::Up);
    sleep(ms(500)).await;
    assert_eq!(world.count().await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_answer_that_never_comes_costs_no_lease_however_patient_calls_are() {
    let world = World::default();
    let a = world.patient_node("a", Duration::from_secs(60), |_| {});
    let guard = a.lock.acquire("holder").await.unwrap();
    sleep(ms(3_300)).await;
    a.faults.set(Mode::Hang);
    sleep(ms(100)).await;
    a.faults.set(Mode::Up);
    sleep(ms(10_000)).await;
    assert_eq!(a.lock.snapshot().lost, 0);
    assert!(guard.valid_for() > Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn callers_without_time_do_not_send_the_store_away_for_all_others() {
    let world = World::default();
    let a = world.node("a", |it| it.local = Some(1));
    a.faults.set(Mode::Slow(20));
    for _ in 0..5 {
        assert!(a.lock.acquire("hasty").timeout(ms(2)).await.is_err());
    }
    assert!(a.lock.snapshot().away_for.is_none());
    let guard = a.lock.acquire("patient").await.unwrap();
    assert!(guard.fence().is_some());
}

#[test]
fn an_agent_whose_list_does_not_come_does_not_spin() {
    let (done, is_done) = mpsc::channel();
    let _ends_with_the_process = std::thread::spawn(move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let world = World::default();
            let a = world.patient_node("a", Duration::from_secs(5), |_| {});
            let _held = a.lock.acquire("holder").await.unwrap();
            let lock = a.lock.clone();
            let waits = tokio::spawn(async move { lock.acquire("waiter").await });
            sleep(ms(900)).await;
            a.faults.set(Mode::Hang);
            // A paused clock stands still for as long as any task runs.
            sleep(ms(4_000)).await;
            waits.abort();
        });
        let _ = done.send(());
    });
    is_done.recv_timeout(Duration::from_secs(20)).unwrap();
}

#[test]
fn a_store_that_comes_and_goes_is_not_taken_to_be_away_for_ever() {
    const ROUNDS: usize = 50_000;
    let mut stuck = 0;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let lock = Fleet::in_process().lock("gpu").build().unwrap();
    let shared = &lock.owner.0;
    let (begins, ended) = (Barrier::new(2), AtomicBool::new(true));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for _ in 0..ROUNDS {
                begins.wait();
                for _ in 0..5 {
                    shared.failed(&StoreError::Deadline);
                }
                ended.store(true, Ordering::Release);
            }
        });
        for _ in 0..ROUNDS {
            ended.store(false, Ordering::Release);
            begins.wait();
            while !ended.load(Ordering::Acquire) {
                shared.is_back();
            }
            shared.is_back();
            stuck += u32::from(shared.is_away());
        }
    });
    assert_eq!(stuck, 0);
}

#[tokio::test(start_paused = true)]
async fn who_was_last_seen_to_hold_and_wait_is_not_named_when_that_must_be_over() {
    let world = World::default();
    let (a, b) = (world.node("a", |_| {}), world.node("b", |_| {}));
    let held = a.lock.acquire("holder").await.unwrap();
    let lock = b.lock.clone();
    let waits = tokio::spawn(async move { lock.acquire("waiter").await });
    sleep(ms(500)).await;
    let seen = b.lock.snapshot();
    assert_eq!(
        (seen.holders.len(), seen.waiters.len(), seen.waiting),
        (1, 1, 1)
    );
    drop(held);
    drop(waits.await.unwrap().unwrap());
    // Nobody of this process waits any more: nobody asks who does.
    sleep(ms(20_000)).await;
    let seen = b.lock.snapshot();
    assert_eq!(
        (seen.holders.len(), seen.waiters.len(), seen.waiting),
        (0, 0, 0)
    );

    let _other = a.lock.acquire("other").await.unwrap();
    let refused = b.lock.try_acquire("late").await.unwrap_err();
    assert!(!refused.to_string().contains("holder"), "{refused}");
    assert_eq!((refused.holders().len(), refused.queue_length()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_process_does_not_keep_every_name_that_it_has_ever_locked() {
    let fleet = Fleet::in_process();
    let kept = fleet.lock("kept").build().unwrap();
    let guard = kept.acquire("holder").await.unwrap();
    let token = guard.fence().unwrap().token;
    for n in 0..5_000 {
        let lock = fleet.lock(format!("user-{n}")).build().unwrap();
        drop(lock.acquire("job").await.unwrap());
        drop(lock);
        settle().await;
    }
    let crate::fleet::Backend::InProcess(store) = &fleet.shared.backend else {
        panic!("it is in this process");
    };
    let names = store.locks.names();
    assert!(names < 1_000, "{names}");
    assert!(kept.try_acquire("other").await.is_err());
    drop(guard);
    settle().await;
    assert!(kept.acquire("next").await.unwrap().fence().unwrap().token > token);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_opens_no_breaker_and_is_not_tried_again_by_a_retry() {
    use tower::{ServiceBuilder, ServiceExt, service_fn};
    let world = World::default();
    let a = world.node("a", |_| {});
    a.faults.set(Mode::Hang);
    let breaker = crate::CircuitBreaker::builder("upstream")
        .consecutive_failures(2)
        .slow_call_rate(0.5, ms(50))
        .build()
        .unwrap();
    let service = ServiceBuilder::new()
        .layer(crate::RetryPolicy::new().layer())
        .layer(breaker.layer())
        .layer(a.lock.layer())
        .service(service_fn(|(): ()| async { Ok::<_, std::io::Error>(()) }));
    for _ in 0..10 {
        let refused = service.clone().oneshot(()).await.unwrap_err();
        assert!(refused.is_rejection(), "{refused}");
    }
    assert_eq!(breaker.state(), crate::CircuitState::Closed);
    assert_eq!(a.lock.snapshot().unavailable, 10);
}
