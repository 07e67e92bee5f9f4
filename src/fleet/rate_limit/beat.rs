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
            Ok(nodes) => shared.heard(nodes),
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
