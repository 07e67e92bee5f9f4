//! The three patterns without tower: around any future, and around code that blocks.
//!
//! ```sh
//! cargo run --example standalone
//! ```

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tower_bulwark::deadline::{self, Deadline};
use tower_bulwark::{
    Backoff, BoxError, CircuitBreaker, Error, Registry, ResourceLock, RetryPolicy, StopReason,
};

const MS: Duration = Duration::from_millis(1);

/// Fails the first two times.
fn fetch(calls: &AtomicU32) -> Result<&'static str, io::Error> {
    match calls.fetch_add(1, Ordering::Relaxed) {
        0 | 1 => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")),
        _ => Ok("42"),
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // Handles by name, so that the whole program can find them, look at them, and command them.
    let registry = Registry::new();
    let retry = RetryPolicy::builder()
        .name("fetch")
        .backoff(Backoff::exponential(10 * MS, 2.0))
        .build_in(&registry)?;
    let breaker = CircuitBreaker::builder("sensor").build_in(&registry)?;
    let lock = ResourceLock::builder("bus")
        .max_concurrent(2)
        .build_in(&registry)?;

    println!("around a future:");
    let calls = AtomicU32::new(0);
    let answer = retry
        .run(|| breaker.call(|| lock.run("job-7", async || fetch(&calls))))
        .await?;
    println!("  {answer}, at attempt {}", calls.load(Ordering::Relaxed));
    assert_eq!((answer, calls.load(Ordering::Relaxed)), ("42", 3));

    println!("around code that blocks:");
    let blocking = (retry.clone(), breaker.clone(), lock.clone());
    let answer = tokio::task::spawn_blocking(move || {
        let (retry, breaker, lock) = blocking;
        let calls = AtomicU32::new(0);
        retry.run_blocking(|| {
            breaker.call_blocking(|| {
                let _guard = lock.acquire_blocking("job-8").map_err(Error::Contended)?;
                fetch(&calls).map_err(Error::Inner)
            })
        })
    })
    .await??;
    println!("  {answer}");

    println!("permits by hand:");
    let permit = breaker.try_acquire()?;
    match fetch(&AtomicU32::new(0)) {
        Ok(_) => permit.success(),
        Err(error) => permit.failure_because(&error),
    }
    let guard = lock.acquire("job-9").await?;
    println!(
        "  {} has {} for {:?}",
        guard.holder(),
        guard.resource(),
        guard.held_for()
    );
    drop(guard);

    println!("a deadline that every wait knows:");
    let hurried = deadline::scope(Deadline::after(15 * MS), async {
        retry
            .run(async || Err::<(), _>(io::Error::other("still down")))
            .await
    });
    match hurried.await {
        Err(Error::Exhausted(gave_up)) => {
            // The second backoff would not have fitted, so nobody slept it.
            println!("  {gave_up}");
            assert_eq!(gave_up.reason(), StopReason::Deadline);
        }
        other => return Err(format!("expected the deadline, got {other:?}").into()),
    }

    println!("what happened:");
    for entry in registry.feed().recent() {
        println!("  {}: {}", entry.name, entry.event);
    }
    let snapshot = registry.snapshot();
    let totals = snapshot.circuit_breakers[0].totals;
    println!("  {totals:?}");
    assert_eq!((totals.successes, totals.failures), (2, 5));
    assert_eq!(snapshot.resource_locks[0].stats.acquisitions, 7);
    Ok(())
}
