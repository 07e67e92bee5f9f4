//! Who holds a resource, who waits for whom, and which waits can never end.
//!
//! ```sh
//! cargo run --example resource_contention_detection
//! ```
//!
//! Time is virtual here (tokio's paused clock), so that ten seconds take no time.

use std::time::Duration;

use tokio::time::sleep;
use tower_bulwark::observe::Feed;
use tower_bulwark::{BoxError, ContendedReason, ResourceLock, workflow};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), BoxError> {
    waits_are_reported_while_they_last().await?;
    a_wait_that_takes_too_long_names_the_holders().await?;
    deadlocks_are_refused().await?;
    capacity_can_change().await
}

async fn waits_are_reported_while_they_last() -> Result<(), BoxError> {
    println!("a slow holder, and somebody who waits for it:");
    let feed = Feed::new(16);
    let lock = ResourceLock::builder("orders-table")
        .contention_threshold(2 * SECOND)
        .hold_threshold(8 * SECOND)
        .observer(feed.clone())
        .build()?;
    let work = async |name: &'static str, takes: Duration| {
        let _guard = lock.acquire(name).await?;
        sleep(takes).await;
        Ok::<_, BoxError>(())
    };
    let look = async {
        sleep(3 * SECOND).await;
        // The wait has not ended, and is in the feed already.
        for entry in feed.recent() {
            println!(
                "  {} s ago, {}: {}",
                entry.age.as_secs(),
                entry.name,
                entry.event
            );
        }
        assert_eq!(feed.recent()[0].event.kind(), "contended");
        let snapshot = lock.snapshot();
        for info in &snapshot.holders {
            println!("  held by {info}");
        }
        for waiter in &snapshot.waiters {
            println!("  {} has waited {:?}", waiter.holder, waiter.waiting_for);
        }
        assert_eq!((snapshot.in_use, snapshot.waiting), (1, 1));
    };
    let (slow, quick, ()) = tokio::join!(
        work("nightly-report", 10 * SECOND),
        work("checkout", SECOND),
        look
    );
    slow?;
    quick?;
    let stats = lock.snapshot().stats;
    println!(
        "  {} acquisitions, {} contended ({:.0} %), waits up to {:?}, holds up to {:?}",
        stats.acquisitions,
        stats.contentions,
        100.0 * stats.contention_rate,
        stats.wait.max,
        stats.hold.max
    );
    assert_eq!((stats.acquisitions, stats.contentions), (2, 1));
    let long_hold = feed
        .recent()
        .iter()
        .any(|entry| entry.event.kind() == "long_hold");
    assert!(long_hold, "a hold of ten seconds was not reported");
    Ok(())
}

async fn a_wait_that_takes_too_long_names_the_holders() -> Result<(), BoxError> {
    println!("a wait that takes too long:");
    let lock = ResourceLock::builder("gpu")
        .timeout(5 * SECOND)
        .max_waiting(1)
        .build()?;
    let _held = lock.acquire("training-run").await?;
    let (first, second) = tokio::join!(lock.acquire("chat"), lock.acquire("search"));
    let (Err(waited), Err(refused)) = (first, second) else {
        return Err("one of them got a resource that is held".into());
    };
    println!("  {waited}\n  {refused}");
    assert_eq!(waited.reason(), &ContendedReason::TimedOut);
    assert_eq!(refused.reason(), &ContendedReason::QueueFull);
    assert_eq!(waited.holders()[0].holder.to_string(), "training-run");
    Ok(())
}

async fn deadlocks_are_refused() -> Result<(), BoxError> {
    println!("two that wait for each other:");
    let (accounts, ledger) = (ResourceLock::new("accounts"), ResourceLock::new("ledger"));
    let transfer = async |name: &'static str, first: &ResourceLock, second: &ResourceLock| {
        let _first = first.acquire(name).await?;
        sleep(SECOND).await;
        let _second = second.acquire(name).await?;
        Ok::<_, tower_bulwark::Contended>(())
    };
    // Opposite orders. Whoever closes the circle is refused at once; the other then gets through.
    let (one, other) = tokio::join!(
        transfer("transfer-1", &accounts, &ledger),
        transfer("transfer-2", &ledger, &accounts)
    );
    assert!(one.is_ok(), "{one:?}");
    let refused = other.err().ok_or("a deadlock was not found")?;
    println!("  {refused}");
    assert!(refused.is_deadlock());

    println!("one that waits for itself:");
    let _held = accounts.acquire("transfer-3").await?;
    let again = accounts
        .acquire("transfer-3")
        .await
        .err()
        .ok_or("re-entry was not found")?;
    println!("  {again}");
    assert!(again.is_deadlock() && again.waited().is_zero());
    Ok(())
}

async fn capacity_can_change() -> Result<(), BoxError> {
    println!("more room, while four wait:");
    let lock = ResourceLock::builder("workers").build()?;
    let work = async |id: u64| {
        // The holder is the workflow that the task works for.
        workflow::scope(id, async {
            let holder = workflow::current().ok_or("no workflow")?;
            let _guard = lock.acquire_owned(holder).await?;
            sleep(10 * SECOND).await;
            Ok::<_, BoxError>(())
        })
        .await
    };
    let operator = async {
        sleep(SECOND).await;
        lock.set_max_concurrent(5)
    };
    let all = futures::future::try_join_all((1..=5).map(work));
    let (done, changed) = tokio::join!(all, operator);
    done?;
    changed?;
    let stats = lock.snapshot().stats;
    println!(
        "  all five were done at once: the longest wait was {:?}",
        stats.wait.max
    );
    assert_eq!((stats.peak_in_use, stats.wait.max), (5, SECOND));
    Ok(())
}
