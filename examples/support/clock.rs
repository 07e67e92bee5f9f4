use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// The one place where the examples ask the time.
#[expect(
    clippy::disallowed_methods,
    reason = "the examples measure real time, and ask for it here only"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Measures from when it is made.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    pub fn start() -> Self {
        Self(now())
    }

    pub fn elapsed(self) -> Duration {
        now() - self.0
    }
}

/// The clock of the machine, which is the same for all its processes, in microseconds.
#[expect(
    clippy::disallowed_methods,
    reason = "what happens in several processes is put on one clock here only"
)]
pub fn micros() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |it| u64::try_from(it.as_micros()).unwrap_or(u64::MAX))
}
