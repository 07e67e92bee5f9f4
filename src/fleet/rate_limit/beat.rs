//! The task of a limit: it tells the store that this process is there, and finds out when the store is back.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::shared::{RECHECK, Shared};
use crate::util::random::Random;

const EVERY: Duration = Duration::from_secs(5);

pub(super) async fn run(limit: Weak<Shared>, kick: Arc<Notify>) {
    loop {
        let Some(shared) = limit.upgrade() else {
            return;
        };
        match shared.store.beat(&shared.limit).await {
            Ok(nodes) => tell(&shared, nodes).await,
            Err(error) => shared.degrade(&error),
        }
        // Not all at the same moment.
        let pause = match shared.is_degraded() {
            true => RECHECK,
            false => EVERY.mul_f64(0.9 + 0.2 * Random::System.unit()),
        };
        drop(shared);
        if timeout(pause, kick.notified()).await.is_ok() {
            // It went away this very moment.
            sleep(RECHECK).await;
        }
    }
}

/// The store is there. If it was away, it hears first what has passed meanwhile.
async fn tell(shared: &Shared, nodes: u64) {
    let untold = match shared.is_degraded() {
        true => shared.take_untold(),
        false => Default::default(),
    };
    if untold.iter().any(|it| *it > 0) {
        let changes = shared.paces.iter().zip(untold);
        let changes: Vec<_> = changes.map(|(pace, more)| (*pace, 0, more)).collect();
        if let Err(error) = shared.store.settle(&shared.limit, &changes).await {
            if !error.may_have_been_done() {
                shared.add_untold(untold);
            }
            return shared.degrade(&error);
        }
    }
    shared.heard(nodes);
}
