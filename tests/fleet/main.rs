//! Breakers, locks and rate limits of a fleet: against the pure cores in one process, and against real servers.

mod attack_server;
mod breaker;
#[cfg(unix)]
mod chaos;
mod connection;
mod layer;
mod lock;
mod on_server;
mod rate_limit;
mod seen;
mod support;
