//! One call on its way: what its race decides, what its results mean, and what is counted of it.

use std::error::Error as StdError;
use std::time::Duration;

use super::shared::Shared;
use super::state::{End, Next, NotBegun, Race};
use crate::call::context::{Frame, ambient_deadline};
use crate::call::deadline::{self, Deadline};
use crate::call::outcome::{Classify, Idempotency, Outcome, RetrySafety, Verdict};
use crate::error::{Error, Found};
use crate::event::NotHedged;
use crate::util::time::{self, Tick};

/// A call that may be hedged.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) race: Race,
    /// Where the first attempt is.
    pub(super) frame: Frame,
    /// When the first attempt was left pending; zero if it never was.
    began: Tick,
    idempotency: Idempotency,
    /// The request's own deadline, for everything below.
    pub(super) ambient: Option<Deadline>,
    /// What the last hedge cost the budget.
    paid: u32,
}

impl Run {
    pub(super) fn new(extra: u32, idempotency: Idempotency, ambient: Option<Deadline>) -> Self {
        Self {
            race: Race::new(extra),
            frame: Frame::default(),
            began: Tick(0),
            idempotency,
            ambient,
            paid: 0,
        }
    }

    /// Makes the first attempt.
    #[inline]
    pub(super) fn begins<F>(&mut self, call: impl FnOnce() -> F) -> F {
        let ambient = self.ambient;
        self.frame.enter(0, || deadline::with(ambient, call))
    }

    /// The first attempt was left pending. Only from here on there is a time to be measured: a call that is ready when
    /// it is first looked at reads no clock.
    #[inline]
    pub(super) fn first_is_pending(&mut self, shared: &Shared) {
        if self.began == Tick(0) {
            self.began = time::now();
            let ends = ambient_deadline();
            self.race.first_waits(self.began, shared.delay(), ends);
        }
    }

    /// An attempt has ended: whether that ends the call. Looks at the deadline: who fails at once has not.
    pub(super) fn ended(&mut self, end: End) -> bool {
        self.race.ends_by(ambient_deadline());
        self.race.ended(end, time::now)
    }

    /// A hedge has begun.
    pub(super) fn hedged(&mut self, shared: &Shared, now: Tick, paid: u32) {
        self.paid = paid;
        self.race.hedged(now, shared.delay());
        let after = match self.began {
            Tick(0) => Duration::ZERO,
            began => now.since(began),
        };
        shared.started(self.race.begun(), after);
    }

    /// A hedge has not begun.
    pub(super) fn not_hedged(&mut self, shared: &Shared, reason: NotHedged, now: Tick) {
        let why = match reason {
            NotHedged::Refused => NotBegun::Refused,
            NotHedged::NoBudget | NotHedged::NotRepeatable => NotBegun::ForGood,
        };
        self.race.not_hedged(why, now, shared.delay());
        shared.not_started(reason, now);
    }

    /// What the end of an attempt means, and what follows from it for the budget.
    pub(super) fn judge<Res, L: StdError + 'static, C: Classify<Res, L>>(
        &self,
        shared: &Shared,
        attempt: u32,
        result: &Result<Res, Error<L>>,
        classify: &C,
    ) -> (End, Outcome) {
        let verdict = match result {
            Ok(response) => classify.classify_attempt(attempt, Ok(response)),
            Err(Error::Inner(inner)) => match Found::look(inner) {
                Found::Rejection(_) => return (End::Refused, Outcome::Ignored),
                Found::TimedOut(late) if late.is_callers_own() => {
                    return (End::Final, Outcome::Ignored);
                }
                Found::TimedOut(_) => Verdict::failure(),
                // A retry below has done what there was to do.
                Found::Exhausted => return (End::Failed(Next::AsPlanned), Outcome::Failure),
                Found::Nothing => classify.classify_attempt(attempt, Err(inner)),
            },
            Err(error) if error.is_rejection() => return (End::Refused, Outcome::Ignored),
            Err(Error::TimedOut(late)) if late.is_callers_own() => {
                return (End::Final, Outcome::Ignored);
            }
            Err(Error::TimedOut(_)) => Verdict::failure(),
            Err(_) => return (End::Failed(Next::AsPlanned), Outcome::Failure),
        };
        let bad = verdict.is_failure() || verdict.is_overload();
        if let Some(budget) = &shared.budget {
            if bad && (verdict.retry_safety() != RetrySafety::Never || verdict.forbids_retry()) {
                budget.failed();
            } else if verdict.outcome() == Outcome::Success {
                budget.succeeded(self.paid);
            }
        }
        let end = match bad {
            true => self.failed(shared, &verdict),
            false => End::Final,
        };
        (end, verdict.outcome())
    }

    fn failed(&self, shared: &Shared, verdict: &Verdict) -> End {
        let hedges_failures = || shared.config.load().hedge_failures;
        if verdict.forbids_retry() {
            return End::Failed(Next::None);
        }
        if verdict.retry_safety() == RetrySafety::Never {
            return End::Final;
        }
        if !verdict.retry_safety().allows(self.idempotency) {
            return End::Failed(Next::None);
        }
        End::Failed(match (hedges_failures(), verdict.retry_delay()) {
            (true, Some(delay)) => Next::After(delay),
            // It has too much to do already.
            (_, None) if verdict.is_overload() => Next::None,
            (true, None) => Next::AtOnce,
            (false, Some(_)) => Next::None,
            (false, None) => Next::AsPlanned,
        })
    }

    /// The first attempt has succeeded, or another has answered before it: how long it has been at the service.
    pub(super) fn record(&self, shared: &Shared) {
        if self.began != Tick(0) && shared.records() {
            let now = time::now();
            shared.record(self.frame.spent(self.began, now), now);
        }
    }
}

/// Whether a layer of this crate refused the call.
pub(super) fn is_refusal<L: StdError + 'static>(error: &Error<L>) -> bool {
    match error {
        Error::Inner(inner) => matches!(Found::look(inner), Found::Rejection(_)),
        other => other.is_rejection(),
    }
}
