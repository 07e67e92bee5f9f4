//! One call on its way: the session, its clock, and what is told of it. Shared by the layer, by `run` and
//! by `run_blocking`, so that all three decide alike.

use std::error::Error as StdError;
use std::time::Duration;

use super::budget::{RetryBudget, Spend};
use super::config::RetryConfig;
use super::handle::{AttemptOutcome, Shared};
use super::state::{Ended, Next, Session};
use crate::call::deadline::{self, Deadline};
use crate::call::outcome::{
    Classify, Idempotency, Outcome, RetryDelay, RetrySafety, Verdict, message, message_of_chain,
};
use crate::error::{
    AttemptEnd, Error, Exhausted, LastFailure, Rejection, Report, StopReason, TimedOut,
};
use crate::event::RetryEvent;
use crate::util::time::{self, Tick};

#[derive(Debug)]
pub(super) struct Run {
    session: Session,
    clock: Clock,
}

/// What is known of a call's times. [`UNREAD`] where nobody has looked, [`Tick::NEVER`] where nothing ends.
#[derive(Debug)]
struct Clock {
    started: Tick,
    attempt_began: Tick,
    /// When the running attempt is cut off by the attempt timeout.
    attempt_ends: Tick,
    /// When all of it is cut off: the total timeout, or the request's own deadline.
    ends: Tick,
}

const UNREAD: Tick = Tick(0);

impl Clock {
    #[inline]
    fn unread(ends: Tick) -> Self {
        Self {
            started: UNREAD,
            attempt_began: UNREAD,
            attempt_ends: Tick::NEVER,
            ends,
        }
    }

    /// The clock of a call that has a timeout, and whose first attempt begins.
    #[inline(never)]
    fn begun(rules: &RetryConfig, ends: Tick) -> Self {
        let now = time::now();
        let after = |timeout: Option<Duration>| timeout.map_or(Tick::NEVER, |it| now.after(it));
        Self {
            started: now,
            attempt_began: now,
            attempt_ends: after(rules.attempt_timeout),
            ends: after(rules.total_timeout).min(ends),
        }
    }

    fn starts(&mut self, now: impl FnOnce() -> Tick) {
        if self.started == UNREAD {
            self.started = now();
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        (self.ends != Tick::NEVER).then_some(Deadline(self.ends))
    }
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
pub(super) enum Step<Res, L> {
    Done(Result<Res, Error<L>>),
    Again(Duration),
}

impl Run {
    /// The first attempt of a call begins.
    #[inline]
    pub(super) fn new(
        policy: &Shared,
        limit: u32,
        ends: Option<Deadline>,
        idempotency: Idempotency,
    ) -> Self {
        let ends = ends.map_or(Tick::NEVER, |deadline| deadline.0);
        Self {
            session: Session::begun(limit, idempotency),
            clock: match policy.config.is_timed() {
                false => Clock::unread(ends),
                true => Clock::begun(&policy.config, ends),
            },
        }
    }

    /// The number of the running attempt as the service may know it, from 1.
    #[inline]
    pub(super) fn attempt(&self) -> u32 {
        self.session.shown_attempt()
    }

    /// Another attempt begins.
    pub(super) fn begin_attempt(&mut self, policy: &Shared) {
        self.session.begin_attempt();
        if let Some(timeout) = policy.config.attempt_timeout {
            let now = time::now();
            self.clock.starts(|| now);
            self.clock.attempt_began = now;
            self.clock.attempt_ends = now.after(timeout);
        }
    }

    /// Whether another attempt may follow the one that has begun: only then is a copy of the request needed.
    pub(super) fn may_retry(&self) -> bool {
        self.session.may_retry()
    }

    /// The attempt has to wait: from here on time matters.
    pub(super) fn waits(&mut self) {
        self.clock.starts(time::now);
    }

    /// When the running attempt is to be dropped.
    #[inline]
    pub(super) fn cut(&self) -> Option<Tick> {
        let cut = self.clock.attempt_ends.min(self.clock.ends);
        (cut != Tick::NEVER).then_some(cut)
    }

    /// The deadline that the layers below shall see; `None` if this call adds none to the one around it.
    #[inline]
    pub(super) fn ambient(&self) -> Option<Deadline> {
        let own = self.cut().map(Deadline);
        own?;
        deadline::earlier(own, deadline::current())
    }

    /// Judges how an attempt ended; `None` if it is not the service's own doing.
    #[inline]
    pub(super) fn judge<Res, L, C: Classify<Res, L>>(
        result: &Result<Res, Error<L>>,
        classify: &C,
    ) -> Option<Verdict> {
        match result {
            Ok(response) => Some(classify.classify(Ok(response))),
            Err(Error::Inner(error)) => Some(classify.classify(Err(error))),
            Err(_) => None,
        }
    }

    /// Whether a result that was judged like this is the caller's, and nobody needs to be told of it but
    /// the budget, which is.
    #[inline]
    pub(super) fn is_plain(&self, policy: &Shared, verdict: Option<&Verdict>) -> bool {
        let plain = verdict.is_some_and(Verdict::is_plain_success) && self.session.attempts() == 1;
        if plain && let Some(budget) = &policy.config.budget {
            budget.deposit();
            budget.succeeded(0);
        }
        plain
    }

    /// An attempt has ended with `result`, judged as `verdict`.
    pub(super) fn settle<Res, L>(
        &mut self,
        policy: &Shared,
        result: Result<Res, Error<L>>,
        verdict: Option<&Verdict>,
        cloneable: impl FnOnce() -> bool,
    ) -> Step<Res, L>
    where
        L: StdError + 'static,
    {
        let rules = &policy.config;
        let Some(verdict) = verdict else {
            return match &result {
                Err(error @ (Error::CircuitOpen(_) | Error::Contended(_))) => {
                    match error.rejection() {
                        Some(rejection) if rules.retry_rejections && !is_deadlock(&rejection) => {
                            self.settle_rejection(policy, result, &rejection, cloneable)
                        }
                        _ => Step::Done(result),
                    }
                }
                // A retry below has tried already: nested retries must not multiply.
                _ => Step::Done(result),
            };
        };
        let bad = verdict.is_failure() || verdict.is_overload();
        let wanted = Wanted::by(verdict, self.session.idempotency());
        if let Some(budget) = &rules.budget {
            self.account(policy, budget, verdict, wanted.repeatable);
        }
        // What is no failure is not given up for a request's sake, and what may never be repeated is no loss.
        if verdict.retry_safety() == RetrySafety::Never || !(bad || wanted.repeatable) {
            if result.is_ok() && !bad && self.session.attempts() > 1 {
                let attempts = self.session.attempts();
                policy.tell(RetryEvent::Recovered { attempts }, None);
            }
            return Step::Done(result);
        }
        let (end, outcome) = match &result {
            Err(Error::Inner(error)) => (
                AttemptEnd::Error(message_of_chain(error)),
                AttemptOutcome::Error(error),
            ),
            _ => {
                let reason = verdict.reason().map(ToOwned::to_owned);
                (AttemptEnd::Response(reason), AttemptOutcome::Response)
            }
        };
        match self.decide(policy, wanted, cloneable) {
            Next::After(delay) => self.again(policy, end, &outcome, delay),
            Next::AtOnce => self.again(policy, end, &outcome, Duration::ZERO),
            Next::Stop(reason) => {
                let elapsed = self.give_up(policy, end, reason);
                Step::Done(match result {
                    Err(Error::Inner(error)) => {
                        Err(self.exhausted(policy, LastFailure::Inner(error), reason, elapsed))
                    }
                    other => other,
                })
            }
        }
    }

    fn settle_rejection<Res, L>(
        &mut self,
        policy: &Shared,
        result: Result<Res, Error<L>>,
        rejection: &Rejection,
        cloneable: impl FnOnce() -> bool,
    ) -> Step<Res, L> {
        let end = AttemptEnd::Rejected(message(rejection));
        let wanted = Wanted {
            delay: rejection.retry_after().map(RetryDelay::After),
            at_once: false,
            repeatable: true, // It was refused before it left.
            spend: None,
        };
        match self.decide(policy, wanted, cloneable) {
            Next::After(delay) => {
                self.again(policy, end, &AttemptOutcome::Rejected(rejection), delay)
            }
            Next::AtOnce => self.again(
                policy,
                end,
                &AttemptOutcome::Rejected(rejection),
                Duration::ZERO,
            ),
            Next::Stop(reason) => {
                self.give_up(policy, end, reason);
                Step::Done(result)
            }
        }
    }

    /// The running attempt was dropped because its time was over.
    pub(super) fn timed_out<Res, L>(
        &mut self,
        policy: &Shared,
        cloneable: impl FnOnce() -> bool,
    ) -> Step<Res, L> {
        let now = time::now();
        let read = [self.clock.attempt_began, self.clock.started];
        let began = read.into_iter().find(|it| *it != UNREAD).unwrap_or(now);
        let last = TimedOut {
            after: now.since(began),
        };
        let verdict = Verdict::failure();
        let wanted = Wanted {
            spend: Some(Spend::TimedOut),
            ..Wanted::by(&verdict, self.session.idempotency())
        };
        if let Some(budget) = &policy.config.budget {
            self.account(policy, budget, &verdict, wanted.repeatable);
        }
        let next = match now >= self.clock.ends {
            true => Next::Stop(StopReason::Deadline),
            false => self.decide(policy, wanted, cloneable),
        };
        match next {
            Next::AtOnce => self.again(
                policy,
                AttemptEnd::TimedOut,
                &AttemptOutcome::TimedOut,
                Duration::ZERO,
            ),
            Next::After(delay) => self.again(
                policy,
                AttemptEnd::TimedOut,
                &AttemptOutcome::TimedOut,
                delay,
            ),
            Next::Stop(reason) => {
                let elapsed = self.give_up(policy, AttemptEnd::TimedOut, reason);
                Step::Done(Err(self.exhausted(
                    policy,
                    LastFailure::TimedOut(last),
                    reason,
                    elapsed,
                )))
            }
        }
    }

    /// Tells the budget how an attempt ended.
    fn account(&self, policy: &Shared, budget: &RetryBudget, verdict: &Verdict, repeatable: bool) {
        if self.session.attempts() == 1 {
            budget.deposit();
        }
        if verdict.is_failure() || verdict.is_overload() {
            // What will be sent again at once and for nothing was no attempt.
            let free = verdict.retries_immediately() && self.session.has_free_retry(&policy.config);
            if !free && verdict.retry_safety() != RetrySafety::Never || verdict.forbids_retry() {
                budget.failed();
            }
        } else if verdict.outcome() == Outcome::Success && !repeatable {
            budget.succeeded(self.session.paid());
        }
    }

    /// Asks the session, and then, if it costs something, the budget.
    fn decide(
        &mut self,
        policy: &Shared,
        wanted: Wanted,
        cloneable: impl FnOnce() -> bool,
    ) -> Next {
        let shared = policy;
        let rules = &shared.config;
        let now = time::now();
        let deadline = deadline::earlier(self.clock.deadline(), deadline::current());
        let ended = Ended {
            hint: wanted.delay,
            at_once: wanted.at_once,
            repeatable: wanted.repeatable,
            // Asked last: to say yes may mean to give the ended attempt up for good.
            cloneable: wanted.repeatable && cloneable(),
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
                Some(paid) => self.session.pay(paid),
                None => return Next::Stop(StopReason::BudgetExhausted),
            }
        }
        next
    }

    fn again<Res, L>(
        &mut self,
        policy: &Shared,
        end: AttemptEnd,
        outcome: &AttemptOutcome<'_>,
        delay: Duration,
    ) -> Step<Res, L> {
        // From here on there is time to be measured, also if the attempt took none.
        self.waits();
        self.session.remember(end.clone(), Some(delay));
        let scheduled = RetryEvent::Scheduled {
            attempt: self.session.attempts(),
            delay,
            end,
        };
        policy.tell(scheduled, Some(outcome));
        self.clock.attempt_ends = Tick::NEVER;
        self.clock.attempt_began = UNREAD;
        Step::Again(delay)
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
        elapsed: Duration,
    ) -> Error<L> {
        let report = Report {
            name: policy.name().clone(),
            attempts: self.session.attempts(),
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
