//! The three patterns without tower: around any async code, and around code that blocks.
//!
//! `cargo run --example standalone`

use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tower_bulwark::{Backoff, CircuitBreaker, Registry, ResourceLock, RetryPolicy};

const MS: Duration = Duration::from_millis(1);

#[derive(Debug)]
struct Flaky;

impl std::fmt::Display for Flaky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("try again")
    }
}

impl Error for Flaky {}

fn main() -> Result<(), Box<dyn Error>> {
    let registry = Registry::global();
    let retry = RetryPolicy::builder()
        .name("sensor")
        .backoff(Backoff::linear(10 * MS))
        .on_retry(|failed| {
            println!(
                "  attempt {}: {:?}, again in {:.0?}",
                failed.attempt, failed.outcome, failed.delay
            )
        })
        .build_in(registry)?;
    let breaker = CircuitBreaker::builder("sensor").build_in(registry)?;
    let bus = ResourceLock::builder("i2c-bus").build_in(registry)?;

    println!("blocking code, on its own thread");
    let mut tries = 0;
    let value = retry.run_blocking(|| {
        breaker.call_blocking(|| {
            let _guard = bus.acquire("reader-1").blocking().map_err(|_| Flaky)?;
            tries += 1;
            if tries < 3 { Err(Flaky) } else { Ok(21) }
        })
    })?;
    println!("  {value} after {tries} tries");

    println!("the same, async");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tries = AtomicU32::new(0);
    let value = runtime.block_on(retry.run(|| {
        breaker.call(|| {
            bus.run("reader-2", || async {
                match tries.fetch_add(1, Ordering::Relaxed) {
                    0 => Err(Flaky),
                    n => Ok(42 * n),
                }
            })
        })
    }))?;
    println!("  {value}");

    println!("by hand: a permit says how it ended");
    let permit = breaker.try_acquire()?;
    permit.failure_because(&"the cable is loose");
    println!("  last failure: {:?}", breaker.snapshot().last_failure);

    println!("everything by name");
    let all = registry.snapshot();
    for breaker in &all.circuit_breakers {
        println!(
            "  breaker {}: {}, {:?}",
            breaker.name, breaker.state, breaker.totals
        );
    }
    for lock in &all.resource_locks {
        println!(
            "  lock {}: {} acquisitions",
            lock.name, lock.stats.acquisitions
        );
    }
    if value != 42 || all.resource_locks[0].stats.acquisitions != 5 {
        return Err("not what was to be shown".into());
    }
    Ok(())
}
