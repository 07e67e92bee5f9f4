//! Who holds, who waits, for how long; a warning while somebody waits; a deadlock found after its timeout.
//!
//! `cargo run --example resource_contention_detection`

use std::error::Error;
use std::time::Duration;

use tower_bulwark::{Event, ResourceLock, workflow};

const MS: Duration = Duration::from_millis(1);

// Time is tokio's: paused here, so that the waits take no time. In production it is the real one.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn Error>> {
    let tell = |name: &str, event: &Event| println!("  [{name}] {event}");
    let gpu = ResourceLock::builder("gpu")
        .max_concurrent(2)
        .timeout(2_000 * MS)
        .contention_threshold(300 * MS)
        .hold_threshold(900 * MS)
        .observer(tell)
        .build()?;

    println!("five workflows, two permits; the slow one is named while the others wait");
    let jobs = [
        ("exec-1", 1_200),
        ("exec-2", 200),
        ("exec-3", 500),
        ("exec-4", 100),
        ("exec-5", 100),
    ];
    let work = jobs.map(|(id, millis)| {
        let gpu = gpu.clone();
        tokio::spawn(workflow::scope(id, async move {
            let holder = workflow::current().unwrap_or_else(|| id.into());
            let _guard = gpu.acquire(holder).await?;
            tokio::time::sleep(millis * MS).await;
            Ok::<_, tower_bulwark::Contended>(())
        }))
    });
    for job in work {
        job.await??;
    }

    println!(
        "an exclusive lock that is held for too long: the wait is bounded, the refusal says who"
    );
    let ledger = ResourceLock::builder("ledger")
        .timeout(500 * MS)
        .observer(tell)
        .build()?;
    let held = ledger.acquire("nightly-report").await?;
    let Err(refused) = ledger.acquire("payment-17").await else {
        return Err("two holders of an exclusive lock".into());
    };
    println!("  {refused}");
    drop(held);

    println!(
        "two transactions that lock crosswise: neither can go on, so one of them is refused, with the cycle"
    );
    let (a, b) = (ResourceLock::new("accounts"), ResourceLock::new("orders"));
    let one = {
        let (a, b) = (a.clone(), b.clone());
        tokio::spawn(async move {
            let _a = a.acquire("tx-1").await?;
            tokio::time::sleep(10 * MS).await;
            let _b = b.acquire("tx-1").await?;
            Ok::<_, tower_bulwark::Contended>(())
        })
    };
    let two = tokio::spawn(async move {
        let _b = b.acquire("tx-2").await?;
        tokio::time::sleep(20 * MS).await;
        let _a = a.acquire("tx-2").await?;
        Ok::<_, tower_bulwark::Contended>(())
    });
    // The one that would have given up first gives way; the other goes on.
    match (one.await?, two.await?) {
        (Err(refused), Ok(())) | (Ok(()), Err(refused)) if refused.is_deadlock() => {
            println!("  {refused}, after {:.1?}", refused.waited());
        }
        other => return Err(format!("the deadlock was not found: {other:?}").into()),
    }

    println!("what the lock knows of itself");
    let it = gpu.snapshot();
    let stats = it.stats;
    println!(
        "  acquisitions {}, contended {} of {}",
        stats.acquisitions, stats.contentions, stats.attempts
    );
    println!(
        "  waited: mean {:.0?}, p95 {:.0?}, max {:.0?}",
        stats.wait.mean, stats.wait.p95, stats.wait.max
    );
    println!(
        "  held:   mean {:.0?}, p95 {:.0?}, max {:.0?}",
        stats.hold.mean, stats.hold.p95, stats.hold.max
    );
    println!(
        "  most at once {}, most waiting {}",
        stats.peak_in_use, stats.peak_waiting
    );
    Ok(())
}
