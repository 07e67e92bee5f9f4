//! A breaker and a lock are as large after a million calls as before. In a binary of its own, with one test: the
//! allocator that counts counts everything in the process. That includes the main thread of the test runner, which
//! allocates while a test begins: what is measured once and for all is measured several times, and the least counts.

use std::alloc::System;
use std::time::Duration;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::time::timeout;
use tower_bulwark::circuit_breaker::Window;
use tower_bulwark::keyed::Keyed;
use tower_bulwark::{Chaos, CircuitBreaker, Hedge, ResourceLock, RetryPolicy, Throttle};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const MS: Duration = Duration::from_millis(1);

/// The bytes that are in use after `f` and were not before, and what `f` made.
fn kept<T>(f: impl FnOnce() -> T) -> (isize, T) {
    let region = Region::new(ALLOCATOR);
    let made = f();
    let change = region.change();
    (
        change.bytes_allocated as isize - change.bytes_deallocated as isize,
        made,
    )
}

/// What each of several things keeps that `f` makes: the least of them.
fn least<T>(f: impl Fn() -> T) -> isize {
    let sizes = (0..5).map(|_| kept(&f)).map(|(bytes, _made)| bytes);
    sizes.min().expect("not none")
}

fn calls(breaker: &CircuitBreaker, n: u32) {
    for i in 0..n {
        let Ok(permit) = breaker.try_acquire() else {
            breaker.force_close();
            continue;
        };
        match i % 11 {
            0 | 1 => permit.failure_because(&"no route to host"),
            2 => permit.ignore(),
            3 => drop(permit),
            _ => permit.success(),
        }
    }
}

async fn holds(lock: &ResourceLock, n: u32) {
    for i in 0..n {
        let held = lock.acquire(u64::from(i)).await.expect("free");
        match i % 1_000 {
            // Somebody else waits in vain, or goes away.
            0 => drop(lock.acquire("impatient").timeout(MS).await),
            1 => drop(timeout(MS, lock.acquire("cancelled")).await),
            2 => drop(lock.try_acquire("busy")),
            _ => {}
        }
        drop(held);
    }
}

/// What a handle of any kind may take while nothing is going on. There are no shards before threads collide, so it is
/// the same on a machine of any size.
const IDLE: isize = 1_300;

fn idle_handles() {
    let rate = |window| {
        least(|| {
            let builder = CircuitBreaker::builder("api").failure_rate(0.5, window);
            builder.build().expect("valid")
        })
    };
    let used = least(|| {
        let lock = ResourceLock::builder("db").max_concurrent(8).build();
        let lock = lock.expect("valid");
        for id in 0..1_000_u64 {
            drop(lock.try_acquire(id).expect("free"));
        }
        lock
    });
    for (what, bytes) in [
        ("a breaker", least(|| CircuitBreaker::new("api"))),
        ("a breaker over 100 calls", rate(Window::calls(100))),
        (
            "a breaker over 10 s",
            rate(Window::time(Duration::from_secs(10))),
        ),
        ("a lock", least(|| ResourceLock::new("db"))),
        ("a lock that was used", used),
        ("a retry policy", least(RetryPolicy::new)),
        ("a hedge", least(|| Hedge::new("reads"))),
        ("a throttle", least(|| Throttle::new("search"))),
        ("a drill", least(|| Chaos::builder("drill").build())),
    ] {
        println!("{what}: {bytes} bytes");
        assert!(bytes <= IDLE, "{what}: {bytes} bytes");
    }
}

/// A hundred thousand keys, and looking them up.
fn by_key() {
    const KEYS: u32 = 100_000;
    let keys: Vec<String> = (0..KEYS).map(|n| format!("host-{n}")).collect();
    let make = |host: &String| CircuitBreaker::new(host.as_str());
    let (size, hosts) = kept(|| {
        let hosts = Keyed::new("hosts", 2 * KEYS as usize, make).expect("not none");
        for key in &keys {
            drop(hosts.get(key).expect("there is room"));
        }
        hosts
    });
    let each = size / KEYS as isize;
    println!("a breaker by key: {each} bytes");
    assert!(each <= IDLE, "{each} bytes");
    let region = Region::new(ALLOCATOR);
    for key in &keys {
        drop(hosts.get(key).expect("it is known"));
    }
    let change = region.change();
    assert_eq!(change.allocations, 0, "a known key is found without one");
}

#[tokio::test(start_paused = true)]
async fn an_idle_handle_is_small_and_a_million_calls_leave_nothing_behind() {
    idle_handles();
    for window in [
        Window::calls(1_000_000),
        Window::time(Duration::from_secs(10)),
    ] {
        let (size, breaker) = kept(|| {
            let builder = CircuitBreaker::builder("api").failure_rate(0.5, window);
            builder
                .consecutive_failures(3)
                .slow_call_rate(0.5, MS)
                .build()
                .expect("valid")
        });
        println!("a breaker over {window:?}: {size} bytes");
        calls(&breaker, 1_000);
        let (kept, ()) = kept(|| calls(&breaker, 1_000_000));
        assert_eq!(kept, 0, "{window:?}");
        assert!(size < 300_000, "{size}");
    }

    by_key();

    let (size, lock) = kept(|| ResourceLock::new("db"));
    println!("a lock: {size} bytes");
    holds(&lock, 1_000).await;
    let region = Region::new(ALLOCATOR);
    holds(&lock, 1_000_000).await;
    let change = region.change();
    assert_eq!(change.bytes_allocated, change.bytes_deallocated);
    assert!(lock.snapshot().stats.timeouts > 1_000);
    assert!(size <= IDLE, "{size}");
}
