use std::time::Duration;

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
