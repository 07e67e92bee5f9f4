//! Which retries call a service that they have not made ready: tower's contract forbids it, and `ConcurrencyLimit`,
//! `Buffer` and others panic then.

use std::future::{Ready, ready};
use std::io::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tower::{Layer, Service, ServiceExt};
use tower_bulwark::{Backoff, RetryPolicy};

/// Fails twice, then succeeds; counts the calls that its instance was not ready for.
#[derive(Default)]
struct Strict {
    is_ready: bool,
    calls: Arc<AtomicU32>,
    not_ready: Arc<AtomicU32>,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self {
            is_ready: false,
            calls: Arc::clone(&self.calls),
            not_ready: Arc::clone(&self.not_ready),
        }
    }
}

impl Service<u64> for Strict {
    type Response = u64;
    type Error = Error;
    type Future = Ready<Result<u64, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, n: u64) -> Self::Future {
        if !std::mem::take(&mut self.is_ready) {
            self.not_ready.fetch_add(1, Ordering::SeqCst);
        }
        ready(match self.calls.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => Err(Error::other("not yet")),
            _ => Ok(n),
        })
    }
}

async fn row<S: Service<u64, Response = u64>>(name: &str, layer: impl Layer<Strict, Service = S>) {
    let strict = Strict::default();
    let answer = layer.layer(strict.clone()).oneshot(7).await;
    println!(
        "{name:<34} {:>5} calls, {} of them not made ready, {}",
        strict.calls.load(Ordering::SeqCst),
        strict.not_ready.load(Ordering::SeqCst),
        if answer.is_ok() { "answered" } else { "failed" },
    );
}

#[derive(Clone)]
struct Twice;

impl tower::retry::Policy<u64, u64, Error> for Twice {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut u64, result: &mut Result<u64, Error>) -> Option<Ready<()>> {
        result.is_err().then(|| ready(()))
    }

    fn clone_request(&mut self, request: &u64) -> Option<u64> {
        Some(*request)
    }
}

pub(crate) async fn print() {
    println!("\nretries over a service that fails twice and then succeeds:");
    let millisecond = Duration::from_millis(1);
    let policy = RetryPolicy::builder()
        .backoff(Backoff::fixed(millisecond))
        .build()
        .expect("valid");
    row("bulwark", policy.layer()).await;
    row("tower Retry", tower::retry::RetryLayer::new(Twice)).await;
    let peer = tower_resilience_retry::RetryLayer::<u64, u64, Error>::builder()
        .max_attempts(4)
        .fixed_backoff(millisecond)
        .build();
    row("tower-resilience", peer).await;
    let context = seatbelt::ResilienceContext::new(tick::Clock::new_tokio());
    let peer = seatbelt::retry::Retry::layer("retry", &context)
        .clone_input()
        .base_delay(millisecond)
        .recovery_with(|result: &Result<u64, Error>, _| match result {
            Ok(_) => seatbelt::RecoveryInfo::never(),
            Err(_) => seatbelt::RecoveryInfo::retry(),
        });
    row("seatbelt", peer).await;
}
