//! Every state of a circuit breaker, and every way between them.
//!
//! ```sh
//! cargo run --example circuit_breaker_protection
//! ```
//!
//! Time is virtual here (tokio's paused clock), so that the default of a minute takes no time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::{BoxError, CircuitBreaker, CircuitState, Error};

const MINUTE: Duration = Duration::from_secs(60);

/// A service that can be switched off, and counts its calls.
#[derive(Clone, Default)]
struct Upstream {
    is_down: Arc<AtomicBool>,
    calls: Arc<AtomicU32>,
}

impl Upstream {
    fn answer(&self) -> Result<&'static str, io::Error> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match self.is_down.load(Ordering::Relaxed) {
            true => Err(io::Error::new(io::ErrorKind::ConnectionRefused, "refused")),
            false => Ok("hello"),
        }
    }

    fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), BoxError> {
    let upstream = Upstream::default();
    // The defaults: opens after 5 failures in a row, for 60 s; closes after 2 good probes, one at a time.
    let breaker = CircuitBreaker::builder("upstream")
        .observer(|name: &str, event: &tower_bulwark::Event| println!("  {name}: {event}"))
        .build()?;
    let inner = upstream.clone();
    let mut service = ServiceBuilder::new()
        .layer(breaker.layer())
        .service(service_fn(move |()| std::future::ready(inner.answer())));
    let mut call = async || service.ready().await?.call(()).await;

    println!("closed: calls go through");
    assert_eq!(call().await?, "hello");

    println!("five failures in a row open it");
    upstream.is_down.store(true, Ordering::Relaxed);
    for _ in 0..5 {
        assert!(matches!(call().await, Err(Error::Inner(_))));
    }
    assert_eq!(breaker.state(), CircuitState::Open);

    println!("open: calls are refused, and the upstream is left alone");
    for _ in 0..100 {
        let Err(Error::CircuitOpen(open)) = call().await else {
            return Err("a call got through an open circuit".into());
        };
        assert_eq!(
            (open.failure_count(), open.retry_after()),
            (5, Some(MINUTE))
        );
    }
    assert_eq!(upstream.calls(), 6);
    assert_eq!(breaker.snapshot().totals.rejected, 100);

    println!("a minute later one call is let through as a probe; it fails");
    sleep(MINUTE).await;
    assert_eq!(breaker.state(), CircuitState::HalfOpen);
    assert!(matches!(call().await, Err(Error::Inner(_))));
    assert_eq!((breaker.state(), upstream.calls()), (CircuitState::Open, 7));

    println!("another minute later the upstream is well: two good probes close it");
    upstream.is_down.store(false, Ordering::Relaxed);
    sleep(MINUTE).await;
    call().await?;
    assert_eq!(breaker.state(), CircuitState::HalfOpen);
    call().await?;
    assert_eq!(breaker.state(), CircuitState::Closed);

    println!("an operator opens it, and closes it again");
    breaker.force_open();
    sleep(60 * MINUTE).await;
    assert_eq!(breaker.state(), CircuitState::ForcedOpen);
    assert!(call().await.is_err());
    breaker.force_close();
    call().await?;

    println!("maintenance: open for ten minutes, then probed");
    breaker.open_for(10 * MINUTE);
    assert_eq!(breaker.snapshot().remaining_open, Some(10 * MINUTE));
    sleep(10 * MINUTE).await;
    call().await?;
    call().await?;
    assert_eq!(breaker.state(), CircuitState::Closed);

    println!("metrics only: everything goes through, and it says what it would do");
    breaker.metrics_only();
    upstream.is_down.store(true, Ordering::Relaxed);
    for _ in 0..8 {
        assert!(matches!(call().await, Err(Error::Inner(_))));
    }
    let snapshot = breaker.snapshot();
    assert_eq!(snapshot.would_be, Some(CircuitState::Open));
    assert_eq!(snapshot.totals.would_reject, 3);

    println!("disabled: everything goes through, nothing is counted");
    breaker.disable();
    assert!(matches!(call().await, Err(Error::Inner(_))));
    assert_eq!(breaker.snapshot().totals.failures, snapshot.totals.failures);

    println!("reset: as new");
    breaker.reset();
    assert_eq!(breaker.state(), CircuitState::Closed);
    assert_eq!(breaker.snapshot().totals, Default::default());
    Ok(())
}
