//! One call on its way: the session, its clock, and what is told of it. Shared by the layer, by `run` and
//! by `run_blocking`, so that all three decide alike.

use std::error::Error as StdError;
use std::time::Duration;

use super::budget::{RetryBudget, Spend};
use super::event::RetryEvent;
use super::policy::{AttemptOutcome, RetryPolicy};
use super::state::{Ended, Next, Session};
use crate::deadline::{self, Deadline};
use crate::error::{
    AttemptEnd, Error, Exhausted, LastFailure, Rejection, Report, StopReason, TimedOut,
};
use crate::outcome::{
    Classify, Idempotency, Outcome, Repeat, RetryDelay, Verdict, words, words_of_chain,
};
use crate::time::{self, Tick};

#[derive(Debug)]
pub(super) struct Run {
    policy: RetryPolicy,
    session: Session,
    idempotency: Idempotency,
    started: Option<Tick>,
    /// When the running attempt is cut off by the attempt timeout.
    attempt_ends: Option<Tick>,
    attempt_began: Option<Tick>,
    /// When all of it is cut off: the total timeout, or the request's own deadline.
    ends: Option<Deadline>,
}

/// What a result asks for, as far as this request may have it.
#[derive(Clone, Copy)]
struct Wanted {
    delay: Option<RetryDelay>,
    at_once: bool,
    repeatable: bool,
    /// What the budget has to pay for, if anything.
    spend: Option<Spend>,
}

impl Wanted {
    fn by(verdict: &Verdict, request: Idempotency) -> Self {
        Self {
            delay: verdict.delay(),
            at_once: verdict.is_at_once(),
            repeatable: verdict.repeatable().allows(request),
            spend: Some(match verdict.is_overload() {
                true => Spend::Overload,
                false => Spend::Failure,
            }),
        }
    }
}

/// What follows an attempt.
#[must_use]
pub(super) enum Step<Res, L> {
    Done(Result<Res, Error<L>>),
    Again(Duration),
}

impl Run {
    pub(super) fn new(policy: RetryPolicy, limit: u32, ends: Option<Deadline>) -> Self {
        let mut run = Self {
            session: Session::new(limit),
            idempotency: Idempotency::Idempotent,
            started: None,
            attempt_ends: None,
            attempt_began: None,
            ends,
            policy,
        };
        if let Some(total) = run.policy.rules().total_timeout {
            let now = time::now();
            run.started = Some(now);
            run.ends = deadline::earlier(run.ends, Some(Deadline(now.after(total))));
        }
        run
    }

    /// Says what the request is.
    pub(super) fn of(mut self, idempotency: Idempotency) -> Self {
        self.idempotency = idempotency;
        self
    }

    /// The number of the running attempt as the service may know it, from 1.
    pub(super) fn attempt(&self) -> u32 {
        self.session.shown_attempt()
    }

    /// Another attempt begins.
    pub(super) fn begin_attempt(&mut self) {
        self.session.attempts = self.session.attempts.saturating_add(1);
        if let Some(timeout) = self.policy.rules().attempt_timeout {
            let now = time::now();
            self.started.get_or_insert(now);
            self.attempt_began = Some(now);
            self.attempt_ends = Some(now.after(timeout));
        }
    }

    /// Whether another attempt may follow the one that has begun: only then is a copy of the request needed.
    pub(super) fn may_retry(&self) -> bool {
        self.session.may_retry()
    }

    /// The attempt has to wait: from here on time matters.
    pub(super) fn waits(&mut self) {
        self.started.get_or_insert_with(time::now);
    }

    /// When the running attempt is to be dropped.
    pub(super) fn cut(&self) -> Option<Tick> {
        let ends = self.ends.map(|deadline| deadline.0);
        match (self.attempt_ends, ends) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        }
    }

    /// The deadline that the layers below shall see; `None` if this call adds none to the one around it.
    pub(super) fn ambient(&self) -> Option<Deadline> {
        let own = self.cut().map(Deadline);
        own?;
        deadline::earlier(own, deadline::current())
    }

    /// An attempt has ended with `result`.
    pub(super) fn settle<Res, L, C>(
        &mut self,
        result: Result<Res, Error<L>>,
        classify: &C,
        cloneable: bool,
    ) -> Step<Res, L>
    where
        L: StdError + 'static,
        C: Classify<Res, L>,
    {
        let rules = self.policy.rules();
        let verdict = match &result {
            Ok(response) => classify.classify(Ok(response)),
            Err(Error::Inner(error)) => classify.classify(Err(error)),
            // A retry below has tried already: nested retries must not multiply.
            Err(Error::Exhausted(_) | Error::__Never(..)) => return Step::Done(result),
            Err(error @ (Error::CircuitOpen(_) | Error::Contended(_))) => match error.rejection() {
                Some(rejection) if rules.retry_rejections && !is_deadlock(&rejection) => {
                    return self.settle_rejection(result, &rejection, cloneable);
                }
                _ => return Step::Done(result),
            },
        };
        let bad = verdict.is_failure() || verdict.is_overload();
        let wanted = Wanted::by(&verdict, self.idempotency);
        if let Some(budget) = &rules.budget {
            self.account(budget, &verdict, wanted.repeatable);
        }
        // What is no failure is not given up for a request's sake, and what may never be repeated is no loss.
        if verdict.repeatable() == Repeat::Never || !(bad || wanted.repeatable) {
            if result.is_ok() && !bad && self.session.attempts > 1 {
                let attempts = self.session.attempts;
                self.policy
                    .shared
                    .tell(RetryEvent::Recovered { attempts }, None);
            }
            return Step::Done(result);
        }
        let (end, outcome) = match &result {
            Err(Error::Inner(error)) => (
                AttemptEnd::Error(words_of_chain(error)),
                AttemptOutcome::Error(error),
            ),
            _ => {
                let reason = verdict.reason().map(ToOwned::to_owned);
                (AttemptEnd::Response(reason), AttemptOutcome::Response)
            }
        };
        match self.decide(wanted, cloneable) {
            Next::After(delay) => self.again(end, &outcome, delay),
            Next::AtOnce => self.again(end, &outcome, Duration::ZERO),
            Next::Stop(reason) => {
                let elapsed = self.give_up(end, reason);
                Step::Done(match result {
                    Err(Error::Inner(error)) => {
                        Err(self.exhausted(LastFailure::Inner(error), reason, elapsed))
                    }
                    other => other,
                })
            }
        }
    }

    fn settle_rejection<Res, L>(
        &mut self,
        result: Result<Res, Error<L>>,
        rejection: &Rejection,
        cloneable: bool,
    ) -> Step<Res, L> {
        let end = AttemptEnd::Rejected(words(rejection));
        let wanted = Wanted {
            delay: rejection.retry_after().map(RetryDelay::After),
            at_once: false,
            repeatable: true, // It was refused before it left.
            spend: None,
        };
        match self.decide(wanted, cloneable) {
            Next::After(delay) => self.again(end, &AttemptOutcome::Rejected(rejection), delay),
            Next::AtOnce => self.again(end, &AttemptOutcome::Rejected(rejection), Duration::ZERO),
            Next::Stop(reason) => {
                self.give_up(end, reason);
                Step::Done(result)
            }
        }
    }

    /// The running attempt was dropped because its time was over.
    pub(super) fn timed_out<Res, L>(&mut self, cloneable: bool) -> Step<Res, L> {
        let now = time::now();
        let began = self.attempt_began.or(self.started).unwrap_or(now);
        let last = TimedOut {
            after: now.since(began),
        };
        let verdict = Verdict::failure();
        let wanted = Wanted {
            spend: Some(Spend::TimedOut),
            ..Wanted::by(&verdict, self.idempotency)
        };
        if let Some(budget) = &self.policy.rules().budget {
            self.account(budget, &verdict, wanted.repeatable);
        }
        let next = match self.ends {
            Some(deadline) if now >= deadline.0 => Next::Stop(StopReason::Deadline),
            _ => self.decide(wanted, cloneable),
        };
        match next {
            Next::AtOnce => self.again(
                AttemptEnd::TimedOut,
                &AttemptOutcome::TimedOut,
                Duration::ZERO,
            ),
            Next::After(delay) => {
                self.again(AttemptEnd::TimedOut, &AttemptOutcome::TimedOut, delay)
            }
            Next::Stop(reason) => {
                let elapsed = self.give_up(AttemptEnd::TimedOut, reason);
                Step::Done(Err(self.exhausted(
                    LastFailure::TimedOut(last),
                    reason,
                    elapsed,
                )))
            }
        }
    }

    /// Tells the budget how an attempt ended.
    fn account(&self, budget: &RetryBudget, verdict: &Verdict, repeatable: bool) {
        if self.session.attempts == 1 {
            budget.deposit();
        }
        if verdict.is_failure() || verdict.is_overload() {
            if verdict.repeatable() != Repeat::Never || verdict.is_told_not_to_retry() {
                budget.failed();
            }
        } else if verdict.outcome() == Outcome::Success && !repeatable {
            budget.succeeded(self.session.paid);
        }
    }

    /// Asks the session, and then, if it costs something, the budget.
    fn decide(&mut self, wanted: Wanted, cloneable: bool) -> Next {
        let shared = &self.policy.shared;
        let rules = &shared.rules;
        let now = time::now();
        let deadline = deadline::earlier(self.ends, deadline::current());
        let ended = Ended {
            hint: wanted.delay,
            at_once: wanted.at_once,
            repeatable: wanted.repeatable,
            cloneable,
            deadline: deadline.map(|deadline| deadline.0),
            now,
            unit: if rules.jitter.is_random() {
                shared.random.unit()
            } else {
                0.0
            },
        };
        let next = self.session.next(rules, ended);
        if let (Next::After(_), Some(budget), Some(spend)) = (next, &rules.budget, wanted.spend) {
            match budget.withdraw(now, spend) {
                Some(paid) => self.session.paid = paid,
                None => return Next::Stop(StopReason::BudgetExhausted),
            }
        }
        next
    }

    fn again<Res, L>(
        &mut self,
        end: AttemptEnd,
        outcome: &AttemptOutcome<'_>,
        delay: Duration,
    ) -> Step<Res, L> {
        // From here on there is time to be measured, also if the attempt took none.
        self.waits();
        self.session.remember(end.clone(), Some(delay));
        let scheduled = RetryEvent::Scheduled {
            attempt: self.session.attempts,
            delay,
            end,
        };
        self.policy.shared.tell(scheduled, Some(outcome));
        self.attempt_ends = None;
        self.attempt_began = None;
        Step::Again(delay)
    }

    fn give_up(&mut self, end: AttemptEnd, reason: StopReason) -> Duration {
        self.session.remember(end.clone(), None);
        let elapsed = self
            .started
            .map_or(Duration::ZERO, |it| time::now().since(it));
        let gave_up = RetryEvent::GaveUp {
            attempts: self.session.attempts,
            elapsed,
            reason,
            end,
        };
        self.policy.shared.tell(gave_up, None);
        elapsed
    }

    fn exhausted<L>(
        &mut self,
        last: LastFailure<L>,
        reason: StopReason,
        elapsed: Duration,
    ) -> Error<L> {
        let report = Report {
            name: self.policy.shared.name().clone(),
            attempts: self.session.attempts,
            elapsed,
            reason,
            history: self.session.take_history(),
        };
        Error::Exhausted(Exhausted::new(last, report))
    }
}

fn is_deadlock(rejection: &Rejection) -> bool {
    matches!(rejection, Rejection::Contended(contended) if contended.is_deadlock())
}
