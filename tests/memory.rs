//! A breaker and a lock are as large after a million calls as before. In a binary of its own, with one test: the
//! allocator that counts counts everything in the process.

use std::alloc::System;
use std::thread::available_parallelism;
use std::time::Duration;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::time::timeout;
use tower_bulwark::circuit_breaker::Window;
use tower_bulwark::{CircuitBreaker, ResourceLock};

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

/// There is something for each core, up to 64.
fn cores() -> isize {
    let cores = available_parallelism().map_or(1, usize::from);
    cores.next_power_of_two().min(64) as isize
}

#[tokio::test(start_paused = true)]
async fn a_million_calls_leave_nothing_behind() {
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
        assert!(size < 300_000 + 1_000 * cores(), "{size}");
    }

    let (size, lock) = kept(|| ResourceLock::new("db"));
    println!("a lock: {size} bytes");
    holds(&lock, 1_000).await;
    let region = Region::new(ALLOCATOR);
    holds(&lock, 1_000_000).await;
    let change = region.change();
    assert_eq!(change.bytes_allocated, change.bytes_deallocated);
    assert!(lock.snapshot().stats.timeouts > 1_000);
    assert!(size < 10_000 + 300 * cores(), "{size}");
}
