//! Processes of their own, a fleet on real servers, and everything that goes wrong with both. What each process believed and
//! did is written down with a clock that all of them share, and checked afterwards; what the server says is checked while
//! it happens.
//!
//! `FLEET_CHAOS_SECONDS` makes each scenario as long as that: they last a few seconds otherwise.

mod cluster;
mod crew;
mod ledger;
mod outage;
mod processes;
mod promotion;
mod trip;
mod watch;
mod worker;

use std::time::{Duration, Instant};

use super::support::since;
use rustix::time::{ClockId, clock_gettime};
use tower_bulwark::CircuitBreaker;
use tower_bulwark::fleet::lock::FleetLockBuilder;
use tower_bulwark::fleet::{Fleet, FleetRateLimit, SharedBreaker};
use tower_bulwark::rate_limit::Quota;

/// How many hold the lock at once.
const MAX: usize = 3;
const LEASE: Duration = ms(600);
/// One that outlives a failover.
const LONG: Duration = ms(3_000);
/// What a call may be late by.
const LATE: u64 = 10_000;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Microseconds of `CLOCK_MONOTONIC`: the same in all processes of a machine.
fn clock() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000 + now.tv_nsec.cast_unsigned() / 1_000
}

/// How long a scenario lasts.
fn length(short: Duration) -> Duration {
    let asked = std::env::var("FLEET_CHAOS_SECONDS").ok();
    let asked = asked.map(|it| it.parse().expect("FLEET_CHAOS_SECONDS is a number"));
    asked.map_or(short, |seconds| short.max(Duration::from_secs(seconds)))
}

/// Whether a scenario goes on: for its time, and on a machine that is slow until enough has happened.
fn goes_on(began: Instant, during: Duration, is_enough: impl FnOnce() -> bool) -> bool {
    let past = since(began);
    past < during || past < 10 * during && !is_enough()
}

fn lock(fleet: &Fleet, grace: bool) -> FleetLockBuilder {
    let lock = fleet.lock("gpu").max_concurrent(MAX).lease(LEASE);
    if grace { lock.grace() } else { lock }
}

const EXACT: Quota = Quota::per_second(100).burst(30);
const LEASED: Quota = Quota::per_second(400).burst(100);
const NODES: u32 = 6;

fn exact(fleet: &Fleet) -> FleetRateLimit {
    let limit = fleet.rate_limit("exact").quota("calls", EXACT).exact();
    limit.expected_nodes(NODES).build().unwrap()
}

fn leased(fleet: &Fleet) -> FleetRateLimit {
    let limit = fleet.rate_limit("leased").quota("calls", LEASED).leased();
    limit.expected_nodes(NODES).build().unwrap()
}

const OPEN_FOR: Duration = ms(400);

const SHARED: SharedBreaker = SharedBreaker {
    min_nodes: 1,
    failure_rate: 0.5,
    minimum_calls: 20,
    window: Duration::from_secs(10),
    open_for: OPEN_FOR,
    store_timeout: ms(1_000),
};

fn breaker() -> CircuitBreaker {
    let breaker = CircuitBreaker::builder("api")
        .consecutive_failures(5)
        .recovery_timeout(OPEN_FOR)
        .success_threshold(1)
        .probe_timeout(ms(1_000))
        // What it did is written down.
        .on_state_change(|_, to| worker::say(format_args!("state {to:?} {}", clock())));
    breaker.build().unwrap()
}
