//! Breakers, locks and rate limits of a fleet: against the pure cores in one process, and against real servers.

mod breaker;
#[cfg(unix)]
mod chaos;
mod connection;
mod layer;
mod lock;
mod no_server;
mod on_server;
mod rate_limit;
mod regressions;
#[cfg(all(feature = "http", feature = "hyper"))]
mod seams;
mod seen;
mod support;
