//! What becomes of the breaker when a call has ended.

use std::sync::{Arc, TryLockError};
use std::time::Duration;

use super::super::admitted::{Admitted, Kind};
use super::super::config::CircuitBreakerConfig;
use super::super::state::{Effects, Ended};
use super::Shared;
use crate::call::context::Frame;
use crate::call::outcome::Outcome;
use crate::error::Judgement;
use crate::event::guarded;
use crate::util::sharded::Added;
use crate::util::time::{self, Tick};

impl Shared {
    /// Counts a fast success of a call that was not timed, if that is all there is to it.
    #[inline]
    pub(in crate::circuit_breaker) fn settle_plain(&self, admitted: &Admitted) -> bool {
        let plain = admitted.kind() == Kind::Counted && admitted.started().is_none();
        plain && self.add_success(admitted.epoch(), time::now)
    }

    /// The call of a permit ended.
    pub(in crate::circuit_breaker) fn settle(
        &self,
        admitted: &mut Admitted,
        frame: &Frame,
        judged: Judgement,
    ) {
        let overdue = self.leave(admitted);
        if admitted.kind() == Kind::Uncounted {
            return;
        }
        let needs_now = self.fast.has_slices() || admitted.started().is_some();
        let now = if needs_now { time::now() } else { Tick(0) };
        let ran = admitted.started().map(|started| frame.spent(started, now));
        let config = self.config.load();
        let slow = config.slow_calls.zip(ran);
        let slow = slow.is_some_and(|(slow, ran)| ran >= slow.threshold);
        let judged = match frame.is_waiting() {
            true => judged,
            false => judge_cancelled(&config, judged, ran),
        };
        drop(config);
        let plain = !slow && !overdue && admitted.kind() == Kind::Counted;
        if judged.outcome == Outcome::Success && plain && self.add_success(admitted.epoch(), || now)
        {
            return;
        }
        let ended = Ended {
            outcome: judged.outcome,
            slow,
            overdue,
            message: judged.message.map(Arc::from),
            retry_after: judged.retry_after,
        };
        self.settle_in_core(admitted, &ended);
    }

    /// The head of the answer is there: from here on the call can become no slower. If it is slow already it is counted
    /// now (`true`), because its body may go on for hours.
    #[cfg(feature = "http")]
    pub(in crate::circuit_breaker) fn answered(
        &self,
        admitted: &mut Admitted,
        frame: &Frame,
        head: &Judgement,
    ) -> bool {
        if let Some(started) = admitted.started() {
            let ran = frame.spent(started, time::now());
            let slow_calls = self.config.load().slow_calls;
            let slow = slow_calls.is_some_and(|slow| ran >= slow.threshold);
            let overdue = self.leave(admitted);
            admitted.stop();
            if (slow || overdue) && admitted.kind() != Kind::Uncounted {
                let ended = Ended {
                    outcome: head.outcome,
                    slow,
                    overdue,
                    message: None,
                    retry_after: None,
                };
                self.settle_in_core(admitted, &ended);
                return true;
            }
        }
        if admitted.is_probe() {
            self.core().answered(admitted.ticket(), head.outcome);
        }
        false
    }

    /// The call runs no longer. `true` if it was found overdue while it ran.
    fn leave(&self, admitted: &mut Admitted) -> bool {
        let Some(entry) = admitted.leave() else {
            return false;
        };
        let in_flight = self.in_flight.load();
        in_flight.as_ref().is_some_and(|it| !it.exit(entry))
    }

    /// The healthy way: one word of this thread's own.
    #[inline]
    fn add_success(&self, epoch: u32, now: impl FnOnce() -> Tick) -> bool {
        match self.fast.add_success(epoch, now) {
            Added::Yes => true,
            Added::Crowded => {
                self.grow();
                true
            }
            Added::No => false,
        }
    }

    /// Whether threads have been seen to collide.
    #[inline]
    pub(in crate::circuit_breaker) fn is_crowded(&self) -> bool {
        self.fast.is_crowded()
    }

    /// Many threads succeed at once. If the core is busy there is another time.
    #[cold]
    fn grow(&self) {
        let state = match self.core.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.fast.grow(state.epoch);
    }

    #[cold]
    fn settle_in_core(&self, admitted: &Admitted, ended: &Ended) {
        let unit = self.unit();
        let now = time::now();
        let is_bad = matches!(ended.outcome, Outcome::Failure | Outcome::Overload) || ended.slow;
        let rule = self.hooks.as_ref().and_then(|it| it.trip_when.as_ref());
        let rule = rule.filter(|_| is_bad);
        let counts = self.with_core(now, |state, config| {
            let effects = match admitted.kind() {
                Kind::Anyway => {
                    state.settle_anyway(ended);
                    Effects::default()
                }
                Kind::Counted | Kind::Probe | Kind::Uncounted => {
                    state.settle(config, admitted.ticket(), ended, now, unit)
                }
            };
            let counts = rule.map(|_| (state.epoch, state.window_counts(now)));
            (counts, effects)
        });
        if admitted.is_probe() {
            self.wakers.wake_all(); // There is room for another.
        }
        // A rule of the user's own is asked when no lock is held.
        if let Some((rule, (epoch, counts))) = rule.zip(counts) {
            let mut trips = false;
            guarded(self.funnel.name(), || trips = rule(&counts));
            if trips {
                self.with_core(now, |state, config| {
                    let change = state.trip_by_custom(config, epoch, now, unit);
                    ((), change.into())
                });
            }
        }
    }
}

/// A call that was dropped because it took too long says something about the service.
fn judge_cancelled(
    config: &CircuitBreakerConfig,
    judged: Judgement,
    ran: Option<Duration>,
) -> Judgement {
    let limit = config.cancelled_is_failure_after;
    match (judged.outcome, limit.zip(ran)) {
        (Outcome::Cancelled, Some((limit, ran))) if ran >= limit => {
            Judgement::failure(format!("dropped after {ran:.3?}"))
        }
        _ => judged,
    }
}
