//! Servers, and what goes wrong between them and a program.

pub(crate) mod fake;
pub(crate) mod proxy;
pub(crate) mod rng;
pub(crate) mod server;

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::time::sleep;

/// Real time: servers know no other.
#[expect(clippy::disallowed_methods, reason = "real servers run in real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn since(began: Instant) -> Duration {
    now().duration_since(began)
}

/// Asks until the answer is yes, for half a minute at most: the machine may be busy. Says how long that took.
pub(crate) async fn until<F: Future<Output = bool>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> Duration {
    let began = now();
    while !ask().await {
        assert!(since(began) < Duration::from_secs(30), "never: {what}");
        sleep(Duration::from_millis(2)).await;
    }
    since(began)
}
