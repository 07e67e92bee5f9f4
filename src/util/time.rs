//! The only file that asks what time it is.
//!
//! Everything that decides takes a [`Tick`] as an argument: a number of nanoseconds on a monotonic
//! scale that fits an atomic, saturates, and needs no runtime in tests. [`now`] reads
//! `tokio::time`, so a paused tokio clock drives every pattern of this crate.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep};

/// Nanoseconds on a monotonic scale private to this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Tick(pub(crate) u64);

/// Where the scale stands at [`anchor`]. Far from zero, because a paused runtime may stand
/// before the anchor: its clock stopped when it was built, and the anchor may be set later.
const ANCHOR_TICK: u64 = 1 << 60;

#[expect(clippy::disallowed_methods, reason = "this is the file that asks")]
fn anchor() -> Instant {
    static ANCHOR: OnceLock<Instant> = OnceLock::new();
    *ANCHOR.get_or_init(Instant::now)
}

/// The time on tokio's clock: the paused one where a test has paused it.
#[expect(clippy::disallowed_methods, reason = "this is the file that asks")]
pub(crate) fn now() -> Tick {
    Tick::from_instant(Instant::now())
}

/// Milliseconds since 1970 on the wall clock, for dates that a server has sent.
#[cfg(feature = "http")]
#[expect(clippy::disallowed_methods, reason = "this is the file that asks")]
pub(crate) fn unix_millis() -> i64 {
    let now = std::time::SystemTime::now();
    match now.duration_since(std::time::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        Err(before) => {
            i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |millis| -millis)
        }
    }
}

/// What the wall clock says, for people.
#[expect(clippy::disallowed_methods, reason = "this is the file that asks")]
pub(crate) fn wall_clock() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

/// The scale of ticks as it goes on in real time, for threads that block: a paused tokio clock cannot wake a thread.
pub(crate) struct RealClock {
    start: Tick,
    since: std::time::Instant,
}

impl RealClock {
    #[expect(clippy::disallowed_methods, reason = "this is the file that asks")]
    pub(crate) fn from_now() -> Self {
        Self {
            start: now(),
            since: std::time::Instant::now(),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "this is the file that asks")]
    pub(crate) fn now(&self) -> Tick {
        self.start.after(self.since.elapsed())
    }
}

/// Parks this thread for `duration` of real time: a paused tokio clock cannot wake a thread.
#[expect(clippy::disallowed_methods, reason = "this is the file that asks")]
pub(crate) fn park_for(duration: Duration) {
    let start = std::time::Instant::now();
    while let Some(left) = duration.checked_sub(start.elapsed())
        && !left.is_zero()
    {
        std::thread::park_timeout(left);
    }
}

/// Polls a timer, also if what was polled before it has used up the task's budget: who does that at each poll would
/// never be late.
pub(crate) fn poll_timer(timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<()> {
    pin!(unconstrained(timer)).poll(cx)
}

impl Tick {
    /// Later than every moment that will be asked about.
    pub(crate) const NEVER: Self = Self(u64::MAX);

    pub(crate) fn from_instant(instant: Instant) -> Self {
        let anchor = anchor();
        Self(match instant.checked_duration_since(anchor) {
            Some(after) => ANCHOR_TICK.saturating_add(nanos(after)),
            None => ANCHOR_TICK.saturating_sub(nanos(anchor.saturating_duration_since(instant))),
        })
    }

    /// The same moment for tokio's timers. A moment too far away for them is thirty years off,
    /// which is what tokio itself means by "never".
    pub(crate) fn to_instant(self) -> Instant {
        const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);
        if self.0 >= ANCHOR_TICK {
            let after = Duration::from_nanos(self.0 - ANCHOR_TICK).min(FAR);
            anchor() + after
        } else {
            let before = Duration::from_nanos(ANCHOR_TICK - self.0);
            anchor().checked_sub(before).unwrap_or_else(anchor)
        }
    }

    /// This moment plus `duration`, or [`Tick::NEVER`].
    pub(crate) fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A duration in nanoseconds, at most `u64::MAX` (584 years).
pub(crate) fn nanos(duration: Duration) -> u64 {
    // In 64 bits: this is done with every reading of the clock.
    let seconds = duration.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(u64::from(duration.subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_saturates_instead_of_wrapping() {
        assert_eq!(Tick(5).after(Duration::MAX), Tick::NEVER);
        assert_eq!(Tick(5).since(Tick(9)), Duration::ZERO);
    }

    #[test]
    fn never_is_an_instant_that_tokio_can_wait_for() {
        assert!(Tick::NEVER.to_instant() > anchor());
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_drives_ticks_and_converts_back() {
        let start = now();
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(now().since(start), Duration::from_secs(90));
        assert_eq!(Tick::from_instant(now().to_instant()), now());
    }

    #[test]
    fn a_moment_before_the_anchor_keeps_its_distance() {
        let earlier = Tick(ANCHOR_TICK - 1_000);
        assert_eq!(Tick(ANCHOR_TICK).since(earlier), Duration::from_micros(1));
    }
}
