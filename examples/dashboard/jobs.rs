//! Jobs beside the traffic: they hold locks for long and wait for each other, and tenants of which some are ill.

use std::time::Duration;

use tower_bulwark::keyed::Keyed;
use tower_bulwark::{BoxError, CircuitBreaker, Registry, ResourceLock, workflow};

/// Starts them; they go on until the program ends.
pub fn start(registry: &Registry, tenants: &Keyed<String, CircuitBreaker>) -> Result<(), BoxError> {
    let lock = |name: &str, permits| {
        ResourceLock::builder(name)
            .max_concurrent(permits)
            .timeout(Duration::from_secs(20))
            .contention_threshold(Duration::from_secs(2))
            .build_in(registry)
    };
    let (disk, ledger) = (lock("disk", 1)?, lock("ledger", 1)?);
    tokio::spawn(again("backup", vec![disk.clone()], Duration::from_secs(9)));
    // It holds the ledger while it waits for the disk.
    let both = vec![ledger.clone(), disk];
    tokio::spawn(again("nightly-report", both, Duration::from_secs(2)));
    for n in 17..20 {
        let invoice = format!("invoice-{n}");
        tokio::spawn(again(
            invoice,
            vec![ledger.clone()],
            Duration::from_millis(700),
        ));
    }
    for n in 0..5_000 {
        let tenant = tenants.get(&format!("tenant-{n:04}"))?;
        if n % 1_700 == 3 {
            tenant.open_for(Duration::from_secs(600));
        }
    }
    Ok(())
}

/// Takes the locks one after the other, works for so long, and begins anew after a while.
async fn again(job: impl Into<String>, locks: Vec<ResourceLock>, works: Duration) {
    let job = job.into();
    let once = || async {
        let mut held = Vec::new();
        for lock in &locks {
            match lock.acquire(job.as_str()).await {
                Ok(permit) => held.push(permit),
                Err(_) => return,
            }
        }
        tokio::time::sleep(works).await;
    };
    loop {
        workflow::scope(job.clone(), once()).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
}
