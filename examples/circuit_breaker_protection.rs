//! Every state of a circuit breaker, and every way between them.
//!
//! `cargo run --example circuit_breaker_protection`

use std::error::Error;
use std::time::Duration;

use tower_bulwark::circuit_breaker::Recovery;
use tower_bulwark::{CircuitBreaker, CircuitState, Error as CallError};

#[derive(Debug)]
struct Down;

impl std::fmt::Display for Down {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("connection refused")
    }
}

impl Error for Down {}

/// The service: it works, or not.
async fn service(works: bool) -> Result<&'static str, Down> {
    if works { Ok("pong") } else { Err(Down) }
}

async fn call(breaker: &CircuitBreaker, works: bool) {
    match breaker.call(|| service(works)).await {
        Ok(answer) => println!("  call: {answer}"),
        Err(CallError::CircuitOpen(open)) => println!("  call: refused, {open}"),
        Err(error) => println!("  call: failed, {error}"),
    }
}

fn expect(breaker: &CircuitBreaker, state: CircuitState) -> Result<(), String> {
    match breaker.state() {
        it if it == state => Ok(()),
        other => Err(format!("expected {state}, and it is {other}")),
    }
}

// Time is tokio's: paused here, so that a minute passes at once. In production it is the real one.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn Error>> {
    let breaker = CircuitBreaker::builder("ping")
        .consecutive_failures(3)
        .recovery(Recovery::exponential(
            Duration::from_secs(10),
            2.0,
            Duration::from_secs(60),
        ))
        .on_state_change(|from, to| println!("  ---- {from} -> {to} ----"))
        .build()?;

    println!("closed: failures are counted, and three consecutive ones open it");
    call(&breaker, true).await;
    for _ in 0..3 {
        call(&breaker, false).await;
    }
    expect(&breaker, CircuitState::Open)?;

    println!("open: calls are refused, the service is left alone");
    call(&breaker, true).await;
    tokio::time::advance(Duration::from_secs(10)).await;

    println!("half-open: one probe at a time; it fails, and the open time doubles");
    call(&breaker, false).await;
    call(&breaker, true).await;
    expect(&breaker, CircuitState::Open)?;
    tokio::time::advance(Duration::from_secs(20)).await;

    println!("half-open again: two good probes close it");
    call(&breaker, true).await;
    call(&breaker, true).await;
    expect(&breaker, CircuitState::Closed)?;

    println!(
        "a probe that hangs has failed after 30 s: the circuit opens again, and is probed anew"
    );
    breaker.open_for(Duration::from_secs(1));
    tokio::time::advance(Duration::from_secs(1)).await;
    let hung = breaker.try_acquire()?;
    call(&breaker, true).await;
    tokio::time::advance(Duration::from_secs(30)).await;
    call(&breaker, true).await;
    drop(hung);
    tokio::time::advance(Duration::from_secs(40)).await;
    call(&breaker, true).await;
    call(&breaker, true).await;
    expect(&breaker, CircuitState::Closed)?;

    println!("an operator commands: forced open, disabled, metrics only, reset");
    breaker.force_open();
    call(&breaker, true).await;
    breaker.disable();
    for _ in 0..5 {
        call(&breaker, false).await;
    }
    breaker.metrics_only();
    for _ in 0..4 {
        call(&breaker, false).await;
    }
    let watched = breaker.snapshot();
    println!(
        "  it would be {:?}, and would have refused {} calls",
        watched.would_be, watched.totals.would_reject
    );
    breaker.reset();
    expect(&breaker, CircuitState::Closed)?;
    Ok(())
}
