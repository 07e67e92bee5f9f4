//! Locks where their rules meet: priorities beside free permits, limits that change, pools that close, wakers that panic.

#![expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tower_bulwark::ResourceLock;
use tower_bulwark::contention::*;

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn the_most_important_does_not_wait_beside_a_free_permit() {
    let lock = ResourceLock::builder("l")
        .max_concurrent(2)
        .build()
        .unwrap();
    let _one = lock.acquire("x").await.unwrap();
    let mut heavy = pin!(lock.acquire("heavy").permits(2).priority(Priority::Low));
    assert!(futures::poll!(heavy.as_mut()).is_pending());
    let got = timeout(S, lock.acquire("health").priority(Priority::Critical)).await;
    assert!(
        got.is_ok(),
        "waits beside a free permit: {:?}",
        lock.snapshot()
    );
}
#[tokio::test(start_paused = true)]
async fn whoever_evicts_the_only_waiter_gets_the_free_permit() {
    let lock = ResourceLock::builder("l")
        .max_concurrent(2)
        .max_waiting(1)
        .build()
        .unwrap();
    let _one = lock.acquire("x").await.unwrap();
    let mut heavy = pin!(lock.acquire("heavy").permits(2).priority(Priority::Low));
    assert!(futures::poll!(heavy.as_mut()).is_pending());
    let got = timeout(S, lock.acquire("health").priority(Priority::Critical)).await;
    let h = futures::poll!(heavy.as_mut());
    assert!(
        got.is_ok(),
        "alone in the queue beside a free permit: {:?} heavy {h:?}",
        lock.snapshot()
    );
}
#[tokio::test(start_paused = true)]
async fn the_last_who_comes_first_does_not_wait_beside_a_free_permit() {
    let lock = ResourceLock::builder("l")
        .max_concurrent(2)
        .queue(Queue::lifo_when_overloaded(100 * MS))
        .build()
        .unwrap();
    let _one = lock.acquire("x").await.unwrap();
    let mut heavy = pin!(lock.acquire("heavy").permits(2));
    assert!(futures::poll!(heavy.as_mut()).is_pending());
    sleep(200 * MS).await;
    let got = timeout(S, lock.acquire("last")).await;
    assert!(got.is_ok(), "{:?}", lock.snapshot());
}
struct Bang;
impl Wake for Bang {
    fn wake(self: Arc<Self>) {
        panic!("waker")
    }
}
#[tokio::test(start_paused = true)]
async fn a_waker_that_panics_on_eviction_leaks_no_place() {
    let lock = ResourceLock::builder("l").max_waiting(1).build().unwrap();
    let one = lock.acquire("x").await.unwrap();
    let bang = Waker::from(Arc::new(Bang));
    let mut low = Box::pin(lock.acquire("low").priority(Priority::Low));
    assert!(
        low.as_mut()
            .poll(&mut Context::from_waker(&bang))
            .is_pending()
    );
    let l2 = lock.clone();
    let _ = tokio::spawn(async move {
        let _g = l2.acquire("crit").priority(Priority::Critical).await;
    })
    .await;
    drop(low);
    drop(one);
    assert_eq!(lock.snapshot().in_use, 0, "{:?}", lock.snapshot());
    assert!(lock.try_acquire("later").is_ok());
}
#[tokio::test(start_paused = true)]
async fn nobody_starves_with_max_per_holder() {
    let lock = ResourceLock::builder("l")
        .max_per_holder(1)
        .timeout(1000 * S)
        .build()
        .unwrap();
    let mut guard = lock.acquire("x").await.unwrap();
    let mut low = pin!(lock.acquire("low").priority(Priority::Low));
    assert!(futures::poll!(low.as_mut()).is_pending());
    for n in 0u64..40 {
        sleep(MS).await;
        let mut high = Box::pin(lock.acquire(n).priority(Priority::High));
        assert!(futures::poll!(high.as_mut()).is_pending());
        drop(guard);
        if futures::poll!(low.as_mut()).is_ready() {
            return;
        }
        guard = high.await.unwrap();
    }
    panic!("low starved through 40 grants");
}
#[tokio::test(start_paused = true)]
async fn max_per_holder_by_update_counts_those_who_hold() {
    let lock = ResourceLock::builder("l")
        .max_concurrent(4)
        .build()
        .unwrap();
    let _a = lock.acquire("a").await.unwrap();
    limit_holders(&lock, 1);
    assert!(lock.try_acquire("a").is_err(), "a second permit of one");
}
#[tokio::test(start_paused = true)]
async fn a_permit_taken_before_the_limit_is_counted_and_given_back_once() {
    let lock = ResourceLock::builder("l")
        .max_concurrent(4)
        .build()
        .unwrap();
    let old = lock.acquire("a").await.unwrap();
    limit_holders(&lock, 1);
    let _new = lock.try_acquire("a");
    drop(old);
    let _newer = lock.try_acquire("a");
    assert!(lock.snapshot().in_use <= 1, "{:?}", lock.snapshot().holders);
}
#[tokio::test(start_paused = true)]
async fn who_asks_for_more_than_a_holder_may_have_is_told_how_much_that_is() {
    let lock = ResourceLock::builder("l")
        .max_concurrent(10)
        .max_per_holder(2)
        .build()
        .unwrap();
    let e = lock.acquire("a").permits(3).await.unwrap_err();
    let e2 = lock.acquire("a").permits(3).now().unwrap_err();
    for refused in [e, e2] {
        let text = refused.to_string();
        assert!(text.ends_with("nobody can have more than 2"), "{text}");
    }
}
#[tokio::test(start_paused = true)]
async fn reentry_with_report_is_only_reported() {
    let lock = ResourceLock::builder("l")
        .timeout(5 * S)
        .on_deadlock(OnDeadlock::Report)
        .build()
        .unwrap();
    let t = Instant::now();
    let l2 = lock.clone();
    let r: Result<(), tower_bulwark::Error<std::io::Error>> = lock
        .run("a", || async move {
            let e = l2.acquire("b").await.map(drop).unwrap_err();
            assert!(!e.is_deadlock(), "{e}");
            Ok::<_, std::io::Error>(())
        })
        .await;
    r.unwrap();
    assert_eq!(t.elapsed(), 5 * S);
}
#[tokio::test(start_paused = true)]
async fn closed_pool_keeps_nothing() {
    let pool = ResourcePool::with(ResourceLock::new("p"), [1]);
    let p = pool.clone();
    pool.retain(|_| {
        p.close();
        true
    });
    assert_eq!(pool.idle(), 0);
}
#[tokio::test(start_paused = true)]
async fn retain_makes_no_more_than_the_lock() {
    let pool = ResourcePool::with(ResourceLock::new("p"), [1]);
    let p = pool.clone();
    pool.retain(|_| {
        let got = futures::executor::block_on(p.get("x", || async { Ok::<_, std::io::Error>(2) }));
        let got: Result<_, tower_bulwark::Error<std::io::Error>> = got;
        drop(got.unwrap());
        true
    });
    assert!(pool.idle() <= 1, "{}", pool.idle());
}
fn limit_holders(lock: &ResourceLock, most: usize) {
    let mut config = (*lock.config()).clone();
    config.max_per_holder = Some(most);
    lock.update(config).unwrap();
}

async fn calls(lock: &ResourceLock, times: &[Duration]) {
    for t in times {
        let t = *t;
        let _: Result<(), tower_bulwark::Error<std::io::Error>> = lock
            .run("a", || async move {
                sleep(t).await;
                Ok::<_, std::io::Error>(())
            })
            .await;
    }
}
#[tokio::test(start_paused = true)]
async fn aimd_less_when_a_call_takes_longer() {
    let lock = ResourceLock::builder("l")
        .max_concurrent(2)
        .adaptive(Adaptive::aimd(100 * MS), 1..=50)
        .build()
        .unwrap();
    let mut t = vec![10 * MS; 100];
    t.push(150 * MS);
    t.push(10 * MS);
    calls(&lock, &t).await;
    println!("{}", lock.snapshot().capacity);
    assert!(lock.snapshot().capacity < 2, "{}", lock.snapshot().capacity);
}
#[tokio::test(start_paused = true)]
async fn adaptive_off_returns_to_the_config() {
    let lock = ResourceLock::builder("l")
        .max_concurrent(1)
        .adaptive(Adaptive::aimd(100 * MS), 1..=50)
        .build()
        .unwrap();
    calls(&lock, &vec![10 * MS; 150]).await;
    println!("{}", lock.snapshot().capacity);
    let mut c = (*lock.config()).clone();
    c.adaptive = None;
    println!("{:?}", lock.update(c));
    assert_eq!(lock.snapshot().capacity, lock.config().max_concurrent);
}
#[tokio::test(start_paused = true)]
async fn a_lock_always_accepts_its_own_config() {
    let lock = ResourceLock::builder("l")
        .max_concurrent(2)
        .adaptive(Adaptive::aimd(100 * MS), 1..=10)
        .build()
        .unwrap();
    assert!(lock.set_max_concurrent(20).is_err());
    lock.set_max_concurrent(10).unwrap();
    lock.update((*lock.config()).clone()).unwrap();
}
#[tokio::test(start_paused = true)]
async fn an_old_refusal_is_not_repeated_when_a_permit_is_free() {
    use tower::{Layer, Service, ServiceExt, service_fn};
    let lock = ResourceLock::builder("l").timeout(S).build().unwrap();
    let mut svc = lock
        .layer()
        .permit_in_poll_ready()
        .layer(service_fn(|_: ()| async { Ok::<_, std::io::Error>(()) }));
    let g = lock.acquire("x").await.unwrap();
    svc.ready().await.unwrap();
    drop(g);
    sleep(3600 * S).await;
    svc.ready().await.unwrap().call(()).await.unwrap();
}
#[tokio::test(start_paused = true)]
async fn waiter_larger_than_new_limit_of_a_holder_is_refused() {
    let lock = ResourceLock::builder("l")
        .max_concurrent(4)
        .max_per_holder(4)
        .timeout(100 * S)
        .build()
        .unwrap();
    let g = lock.acquire("x").await.unwrap();
    let mut w = pin!(lock.acquire("w").permits(4));
    assert!(futures::poll!(w.as_mut()).is_pending());
    limit_holders(&lock, 2);
    drop(g);
    assert!(
        timeout(S, w).await.is_ok(),
        "waits for what it can never get"
    );
}
