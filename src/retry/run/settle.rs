//! What follows an attempt that has ended: another one, or the end of the call.

use std::error::Error as StdError;
use std::time::Duration;

use super::super::budget::{RetryBudget, Spend};
use super::super::config::RetryConfig;
use super::super::handle::{AttemptOutcome, Shared};
use super::super::state::{Ended, Next};
use super::Run;
use super::clock::UNREAD;
use super::judge::Ending;
use crate::call::deadline;
use crate::call::outcome::{
    Idempotency, Outcome, RetryDelay, RetrySafety, Verdict, message, message_of_chain,
};
use crate::error::{
    AttemptEnd, Error, Exhausted, LastFailure, Rejection, Report, StopReason, TimedOut,
    TimeoutPhase,
};
use crate::event::RetryEvent;
use crate::util::time;

/// Whether there is a request for another attempt, and the claim on it.
pub(in crate::retry) struct Copy<F> {
    pub(in crate::retry) is_there: bool,
    /// Asked last: to say yes may mean to give the ended attempt up for good.
    pub(in crate::retry) claim: F,
}

/// The last failure of the service itself.
pub(in crate::retry) type Last<L> = Option<Box<LastFailure<L>>>;

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
            at_once: verdict.retries_immediately(),
            repeatable: verdict.retry_safety().allows(request),
            spend: Some(match verdict.is_overload() {
                true => Spend::Overload,
                false => Spend::Failure,
            }),
        }
    }
}

/// What follows an attempt.
#[must_use]
pub(in crate::retry) enum Step<Res, L> {
    Done(Result<Res, Error<L>>),
    Again(Again),
}

/// When another attempt begins.
#[derive(Clone, Copy, Debug)]
pub(in crate::retry) enum Again {
    After(Duration),
    /// Now, and without letting others run first.
    AtOnce,
}

impl Run {
    /// An attempt has ended with `result`, judged as `ending`.
    pub(in crate::retry) fn settle<Res, L>(
        &mut self,
        policy: &Shared,
        result: Result<Res, Error<L>>,
        ending: &Ending,
        last: &mut Last<L>,
        copy: Copy<impl FnOnce() -> bool>,
    ) -> Step<Res, L>
    where
        L: StdError + 'static,
    {
        match ending {
            Ending::Judged(verdict) => self.settle_judged(policy, result, verdict, last, copy),
            Ending::Refused(rejection) => {
                self.settle_rejection(policy, result, rejection, last, copy)
            }
            Ending::GivenUpBelow => {
                policy.count_ended(self.session.attempts(), false);
                if self.session.attempts() > 1 {
                    let end = AttemptEnd::Error("a retry below gave up".to_owned());
                    self.give_up(policy, end, StopReason::NotWorthRetrying);
                }
                Step::Done(result)
            }
        }
    }

    fn settle_judged<Res, L>(
        &mut self,
        policy: &Shared,
        result: Result<Res, Error<L>>,
        verdict: &Verdict,
        last: &mut Last<L>,
        copy: Copy<impl FnOnce() -> bool>,
    ) -> Step<Res, L>
    where
        L: StdError + 'static,
    {
        let bad = verdict.is_failure() || verdict.is_overload();
        let mut wanted = Wanted::by(verdict, self.session.idempotency());
        if matches!(result, Err(Error::TimedOut(_))) {
            wanted.spend = Some(Spend::TimedOut);
        }
        if let Some(budget) = &policy.budget {
            self.account(policy, budget, verdict, wanted.repeatable);
        }
        // What is no failure is not given up for a request's sake, and what may never be repeated is no loss.
        if verdict.retry_safety() == RetrySafety::Never || !(bad || wanted.repeatable) {
            self.end_unwanted(policy, result.is_ok() && !bad, || end_of(&result, verdict));
            return Step::Done(result);
        }
        let end = end_of(&result, verdict);
        let has_copy = copy.is_there;
        let next = {
            let outcome = match &result {
                Err(Error::Inner(error)) => AttemptOutcome::Error(error),
                Err(Error::TimedOut(_)) => AttemptOutcome::TimedOut,
                Err(error) => AttemptOutcome::Error(error),
                Ok(_) => AttemptOutcome::Response {
                    reason: verdict.reason(),
                },
            };
            match self.decide(policy, wanted, &outcome, copy) {
                Next::After(delay) => self.again(policy, end, &outcome, Again::After(delay)),
                Next::AtOnce => self.again(policy, end, &outcome, Again::AtOnce),
                Next::Stop(reason) => {
                    let elapsed = self.give_up(policy, end, reason);
                    policy.count_ended(self.session.attempts(), false);
                    return Step::Done(match result {
                        Err(error) if !self.never_allowed(reason, has_copy) => {
                            Err(match own_failure(error) {
                                Ok(last) => self.exhausted(policy, last, reason, None, elapsed),
                                Err(other) => other,
                            })
                        }
                        other => other,
                    });
                }
            }
        };
        *last = Some(Box::new(match result {
            Err(Error::Exhausted(exhausted)) => exhausted.into_last(),
            Err(error) => own_failure(error).unwrap_or_else(|_| reason_of(verdict)),
            Ok(_) => reason_of(verdict),
        }));
        Step::Again(next)
    }

    /// No retry was ever possible for this call, so none was given up.
    fn never_allowed(&self, reason: StopReason, has_copy: bool) -> bool {
        let first = self.session.attempts() == 1;
        match reason {
            StopReason::MaxRetries => first,
            StopReason::NotCloneable => first && !has_copy,
            _ => false,
        }
    }

    /// A result that asks for no other attempt: a call that was retried has come to its end.
    fn end_unwanted(&mut self, policy: &Shared, good: bool, end: impl FnOnce() -> AttemptEnd) {
        let attempts = self.session.attempts();
        policy.count_ended(attempts, good);
        if attempts == 1 {
            return;
        }
        match good {
            true => policy.tell(RetryEvent::Recovered { attempts }, None),
            false => {
                self.give_up(policy, end(), StopReason::NotWorthRetrying);
            }
        }
    }

    fn retries_refusal(&mut self, rules: &RetryConfig, rejection: &Rejection) -> bool {
        match is_deadlock(rejection) {
            // Once: what the attempt held is gone with it, and the others may go on meanwhile.
            true => {
                rules.retry_deadlocks.unwrap_or(self.is_whole_job) && self.session.take_deadlock()
            }
            false => rules.retry_rejections,
        }
    }

    fn settle_rejection<Res, L>(
        &mut self,
        policy: &Shared,
        result: Result<Res, Error<L>>,
        rejection: &Rejection,
        last: &mut Last<L>,
        copy: Copy<impl FnOnce() -> bool>,
    ) -> Step<Res, L> {
        let rules = policy.config.load();
        let reason = if self.retries_refusal(&rules, rejection) {
            // A time that is not worth waiting for, or does not fit, is no reason not to try: then it backs off.
            let deadline = deadline::earlier(self.clock.deadline(), deadline::current());
            let left = deadline.map_or(Duration::MAX, |it| it.0.since(time::now()));
            let longest = rules.max_retry_after.min(left);
            let delay = rejection.retry_after().filter(|it| *it < longest);
            let wanted = Wanted {
                delay: delay.map(RetryDelay::After),
                at_once: false,
                repeatable: true, // It was refused before it left.
                spend: None,
            };
            let outcome = AttemptOutcome::Rejected(rejection);
            let again = match self.decide(policy, wanted, &outcome, copy) {
                Next::After(delay) => Ok(Again::After(delay)),
                Next::AtOnce => Ok(Again::AtOnce),
                Next::Stop(reason) => Err(reason),
            };
            match again {
                Ok(again) => {
                    let end = AttemptEnd::Rejected(message(rejection));
                    return Step::Again(self.again(policy, end, &outcome, again));
                }
                Err(reason) => reason,
            }
        } else {
            StopReason::Refused
        };
        policy.count_ended(self.session.attempts(), false);
        let end = || AttemptEnd::Rejected(message(rejection));
        match last.take() {
            // The service was never reached: the refusal is the answer.
            None => {
                if self.session.attempts() > 1 || policy.hears_details() {
                    self.give_up(policy, end(), reason);
                } else {
                    policy.count_gave_up();
                }
                Step::Done(result)
            }
            Some(last) => {
                let elapsed = self.give_up(policy, end(), reason);
                let refusal = Some(rejection.clone());
                Step::Done(Err(self.exhausted(policy, *last, reason, refusal, elapsed)))
            }
        }
    }

    /// The service cannot be made ready for the attempt, and never will be: that ends the call.
    pub(in crate::retry) fn never_ready<L: StdError>(&mut self, policy: &Shared, error: &Error<L>) {
        policy.count_ended(self.session.attempts(), false);
        let end = AttemptEnd::Error(message(error));
        self.give_up(policy, end, StopReason::NotWorthRetrying);
    }

    /// The running attempt was dropped because its time was over. `sent` is whether it ever left.
    pub(in crate::retry) fn timed_out<Res, L>(
        &mut self,
        policy: &Shared,
        sent: bool,
        last: &mut Last<L>,
        copy: Copy<impl FnOnce() -> bool>,
    ) -> Step<Res, L> {
        let now = time::now();
        let read = [self.clock.attempt_began, self.clock.started];
        let began = read.into_iter().find(|it| *it != UNREAD).unwrap_or(now);
        let after = now.since(began);
        let limit = self.attempt_timeout();
        let timed_out = TimedOut {
            name: policy.name().clone(),
            phase: TimeoutPhase::Attempt,
            limit: limit.filter(|limit| after >= *limit),
            after,
        };
        let verdict = Verdict::failure();
        let mut wanted = Wanted {
            spend: Some(Spend::TimedOut),
            ..Wanted::by(&verdict, self.session.idempotency())
        };
        wanted.repeatable |= !sent;
        if let Some(budget) = &policy.budget {
            self.account(policy, budget, &verdict, wanted.repeatable);
        }
        let next = match now >= self.clock.ends() {
            true => Next::Stop(StopReason::Deadline),
            false => self.decide(policy, wanted, &AttemptOutcome::TimedOut, copy),
        };
        let again = match next {
            Next::AtOnce => Again::AtOnce,
            Next::After(delay) => Again::After(delay),
            Next::Stop(reason) => {
                policy.count_ended(self.session.attempts(), false);
                let elapsed = self.give_up(policy, AttemptEnd::TimedOut, reason);
                // An attempt that was never sent says nothing of the service: the one before it does.
                let last = match last.take().filter(|_| !sent) {
                    Some(last) => *last,
                    None => LastFailure::TimedOut(timed_out),
                };
                return Step::Done(Err(self.exhausted(policy, last, reason, None, elapsed)));
            }
        };
        if sent {
            *last = Some(Box::new(LastFailure::TimedOut(timed_out)));
        }
        let end = AttemptEnd::TimedOut;
        Step::Again(self.again(policy, end, &AttemptOutcome::TimedOut, again))
    }

    /// Tells the budget how an attempt ended.
    fn account(&self, policy: &Shared, budget: &RetryBudget, verdict: &Verdict, repeatable: bool) {
        if self.session.attempts() == 1 {
            policy.first_attempt(budget);
        }
        if verdict.is_failure() || verdict.is_overload() {
            // What will be sent again at once and for nothing was no attempt.
            let free =
                verdict.retries_immediately() && self.session.has_free_retry(&policy.config.load());
            if !free && verdict.retry_safety() != RetrySafety::Never || verdict.forbids_retry() {
                budget.failed();
            }
        } else if verdict.outcome() == Outcome::Success && !repeatable {
            budget.succeeded(self.session.paid());
        }
    }

    /// Asks the session, then, if it costs something, the budget, and last for the request.
    fn decide(
        &mut self,
        policy: &Shared,
        wanted: Wanted,
        outcome: &AttemptOutcome<'_>,
        copy: Copy<impl FnOnce() -> bool>,
    ) -> Next {
        let rules = policy.config.load();
        let now = time::now();
        let deadline = deadline::earlier(self.clock.deadline(), deadline::current());
        let is_random = rules.jitter.is_random();
        let ended = Ended {
            hint: wanted.delay,
            at_once: wanted.at_once,
            repeatable: wanted.repeatable,
            cloneable: wanted.repeatable && copy.is_there,
            deadline: deadline.map(|deadline| deadline.0),
            now,
            unit: if is_random { policy.random.unit() } else { 0.0 },
        };
        let attempt = self.session.attempts();
        let next = self.session.next_with(&rules, ended, |planned| {
            policy.delay(attempt, planned, outcome)
        });
        let mut paid = None;
        if let (Next::After(_), Some(budget), Some(spend)) = (next, &policy.budget, wanted.spend) {
            match budget.withdraw(now, spend) {
                Some(cost) => paid = Some((budget, cost)),
                None => return Next::Stop(StopReason::BudgetExhausted),
            }
        }
        if !matches!(next, Next::Stop(_)) && !(copy.claim)() {
            if let Some((budget, cost)) = paid {
                budget.give_back(cost);
            }
            return Next::Stop(StopReason::NotCloneable);
        }
        if let Some((_, cost)) = paid {
            self.session.pay(cost);
        }
        next
    }

    fn again(
        &mut self,
        policy: &Shared,
        end: AttemptEnd,
        outcome: &AttemptOutcome<'_>,
        again: Again,
    ) -> Again {
        // From here on there is time to be measured, also if the attempt took none.
        self.waits();
        let delay = match again {
            Again::After(delay) => delay,
            Again::AtOnce => Duration::ZERO,
        };
        self.session.remember(end.clone(), Some(delay));
        let scheduled = RetryEvent::Scheduled {
            attempt: self.session.attempts(),
            delay,
            end,
        };
        policy.tell(scheduled, Some(outcome));
        self.clock.attempt_began = UNREAD;
        again
    }

    fn give_up(&mut self, policy: &Shared, end: AttemptEnd, reason: StopReason) -> Duration {
        self.session.remember(end.clone(), None);
        let elapsed = match self.clock.started {
            UNREAD => Duration::ZERO,
            started => time::now().since(started),
        };
        let gave_up = RetryEvent::GaveUp {
            attempts: self.session.attempts(),
            elapsed,
            reason,
            end,
        };
        policy.tell(gave_up, None);
        elapsed
    }

    fn exhausted<L>(
        &mut self,
        policy: &Shared,
        last: LastFailure<L>,
        reason: StopReason,
        refusal: Option<Rejection>,
        elapsed: Duration,
    ) -> Error<L> {
        let report = Report {
            name: policy.name().clone(),
            attempts: self.session.attempts(),
            elapsed,
            reason,
            refusal,
            history: self.session.take_history(),
        };
        Error::Exhausted(Exhausted::new(last, report))
    }
}

/// What an attempt ended with, in words.
fn end_of<Res, L: StdError>(result: &Result<Res, Error<L>>, verdict: &Verdict) -> AttemptEnd {
    match result {
        Err(Error::TimedOut(_)) => AttemptEnd::TimedOut,
        Err(error) => AttemptEnd::Error(match error {
            Error::Inner(error) => message_of_chain(error),
            other => message(other),
        }),
        Ok(_) => AttemptEnd::Response(verdict.reason().map(ToOwned::to_owned)),
    }
}

fn reason_of<L>(verdict: &Verdict) -> LastFailure<L> {
    LastFailure::Response(verdict.reason().map(ToOwned::to_owned))
}

/// The failure of a service, if it is one.
fn own_failure<L>(error: Error<L>) -> Result<LastFailure<L>, Error<L>> {
    match error {
        Error::Inner(error) => Ok(LastFailure::Inner(error)),
        Error::TimedOut(late) => Ok(LastFailure::TimedOut(late)),
        other => Err(other),
    }
}

fn is_deadlock(rejection: &Rejection) -> bool {
    matches!(rejection, Rejection::Contended(contended) if contended.is_deadlock())
}
