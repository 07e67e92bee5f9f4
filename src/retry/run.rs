//! One call on its way: the session, its clock, and what is reported of it. Shared by the layer, by `run` and
//! by `run_blocking`, so that all three decide alike.

use std::error::Error as StdError;
use std::time::Duration;

use super::budget::{RetryBudget, Spend};
use super::config::RetryConfig;
use super::handle::{AttemptOutcome, Shared};
use super::state::{Ended, Next, Session};
use crate::call::context::{Frame, Reason};
use crate::call::deadline::{self, Deadline};
use crate::call::outcome::{
    Classify, Idempotency, Outcome, RetryDelay, RetrySafety, Verdict, message, message_of_chain,
};
use crate::error::{
    AttemptEnd, Error, Exhausted, Found, LastFailure, Rejection, Report, StopReason, TimedOut,
    TimeoutPhase,
};
use crate::event::RetryEvent;
use crate::util::time::{self, Tick};

#[derive(Debug)]
pub(super) struct Run {
    session: Session,
    clock: Clock,
    /// How long one attempt may take, as it was when the call began; [`Tick::NEVER`] for as long as it takes.
    attempt_limit: Tick,
    /// All that an attempt takes it gives back when it has failed.
    is_whole_job: bool,
}

/// What is known of a call's times. [`UNREAD`] where nobody has looked, [`Tick::NEVER`] where nothing ends.
#[derive(Debug)]
struct Clock {
    started: Tick,
    attempt_began: Tick,
    /// When the policy's own total timeout is over.
    total_ends: Tick,
    /// When the caller can use no answer any more: the request's own deadline.
    caller_ends: Tick,
}

const UNREAD: Tick = Tick(0);

impl Clock {
    #[inline]
    fn unread(caller_ends: Tick) -> Self {
        Self {
            started: UNREAD,
            attempt_began: UNREAD,
            total_ends: Tick::NEVER,
            caller_ends,
        }
    }

    /// The clock of a call that has a timeout, and whose first attempt begins.
    #[inline(never)]
    fn begun(rules: &RetryConfig, caller_ends: Tick) -> Self {
        let now = time::now();
        let total = rules.total_timeout;
        Self {
            started: now,
            attempt_began: now,
            total_ends: total.map_or(Tick::NEVER, |it| now.after(it)),
            caller_ends,
        }
    }

    fn starts(&mut self, now: impl FnOnce() -> Tick) {
        if self.started == UNREAD {
            self.started = now();
        }
    }

    /// When all of it ends.
    #[inline]
    fn ends(&self) -> Tick {
        self.total_ends.min(self.caller_ends)
    }

    fn total_timeout(&self) -> Option<Duration> {
        let is_limited = self.total_ends != Tick::NEVER;
        is_limited.then(|| self.total_ends.since(self.started))
    }

    fn deadline(&self) -> Option<Deadline> {
        let ends = self.ends();
        (ends != Tick::NEVER).then_some(Deadline(ends))
    }
}

/// How an attempt ended, and who says so.
pub(super) enum Ending {
    /// The service's own doing, as the classifier sees it.
    Judged(Verdict),
    /// A layer below refused it.
    Refused(Rejection),
    /// A retry below has given up: nested retries must not multiply.
    GivenUpBelow,
}

/// Whether there is a request for another attempt, and the claim on it.
pub(super) struct Copy<F> {
    pub(super) is_there: bool,
    /// Asked last: to say yes may mean to give the ended attempt up for good.
    pub(super) claim: F,
}

/// The last failure of the service itself.
pub(super) type Last<L> = Option<Box<LastFailure<L>>>;

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
    Again(Again),
}

/// When another attempt begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Again {
    After(Duration),
    /// Now, and without letting others run first.
    AtOnce,
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
        let rules = policy.config.load();
        Self {
            session: Session::begun(limit, idempotency),
            clock: match rules.is_timed() || ends != Tick::NEVER {
                false => Clock::unread(ends),
                true => Clock::begun(&rules, ends),
            },
            attempt_limit: rules
                .attempt_timeout
                .map_or(Tick::NEVER, |it| Tick(0).after(it)),
            is_whole_job: false,
        }
    }

    /// The first attempt of a closure begins, and not of a request on its way through layers.
    pub(super) fn of_job(policy: &Shared) -> Self {
        let limit = policy.config.load().max_retries;
        let run = Self::new(policy, limit, None, Idempotency::Idempotent);
        Self {
            is_whole_job: true,
            ..run
        }
    }

    /// The number of the running attempt as the service may know it, from 1.
    #[inline]
    pub(super) fn attempt(&self) -> u32 {
        self.session.shown_attempt()
    }

    /// Another attempt begins.
    pub(super) fn begin_attempt(&mut self) {
        self.session.begin_attempt();
        if self.can_be_cut() {
            let now = time::now();
            self.clock.starts(|| now);
            self.clock.attempt_began = now;
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

    /// Whether anything can cut the running attempt off.
    #[inline]
    pub(super) fn can_be_cut(&self) -> bool {
        self.clock.ends() != Tick::NEVER || self.attempt_limit != Tick::NEVER
    }

    fn attempt_timeout(&self) -> Option<Duration> {
        let is_limited = self.attempt_limit != Tick::NEVER;
        is_limited.then(|| self.attempt_limit.since(Tick(0)))
    }

    /// When the running attempt is to be looked at again, or why it is to be dropped now.
    ///
    /// An attempt timeout bounds the time at the service: while the attempt waits for something of this crate it stands
    /// still. Who waits is cut by the end of all of it only, and by the waits' own bounds.
    pub(super) fn cut(&self, frame: &Frame, now: Tick) -> Result<Tick, Reason> {
        let limit = self.attempt_timeout().unwrap_or(Duration::MAX);
        let spent = frame.spent(self.clock.attempt_began, now);
        let waits = frame.is_waiting();
        if spent >= limit && !waits {
            return Err(Reason::TimedOut);
        }
        if now >= self.clock.ends() {
            return Err(match waits {
                true => Reason::Deadline,
                // The policy's own time is over: this is what it grants.
                false if self.clock.total_ends <= self.clock.caller_ends => Reason::TimedOut,
                // The caller was in a hurry. It says something only if the service had an attempt's time.
                false => {
                    let total = self.clock.total_timeout().unwrap_or(Duration::MAX);
                    match spent >= limit.min(total) {
                        true => Reason::TimedOut,
                        false => Reason::Deadline,
                    }
                }
            });
        }
        // The end of a wait polls the attempt. One that was taken elsewhere is looked for ever more rarely.
        let left = match waits {
            true => limit.max(frame.waited(now)),
            false => limit - spent,
        };
        Ok(now.after(left).min(self.clock.ends()))
    }

    /// The service is ready, and the attempt is sent: from here on it is at the service.
    pub(super) fn sends(&mut self) {
        if self.clock.attempt_began != UNREAD {
            self.clock.attempt_began = time::now();
        }
    }

    /// The deadline that the layers below shall see; `None` if this call adds none to the one around it.
    #[inline]
    pub(super) fn ambient(&self) -> Option<Deadline> {
        self.clock.deadline()
    }

    /// Judges how an attempt ended.
    #[inline]
    pub(super) fn judge<Res, L: StdError + 'static, C: Classify<Res, L>>(
        &self,
        policy: &Shared,
        result: &Result<Res, Error<L>>,
        classify: &C,
    ) -> Ending {
        let attempt = self.session.attempts();
        match result {
            Ok(response) => Ending::Judged(classify.classify_attempt(attempt, Ok(response))),
            Err(error) => Self::judge_error(policy, attempt, error, classify),
        }
    }

    fn judge_error<Res, L: StdError + 'static, C: Classify<Res, L>>(
        policy: &Shared,
        attempt: u32,
        error: &Error<L>,
        classify: &C,
    ) -> Ending {
        if let Some(rejection) = error.rejection() {
            return Ending::Refused(rejection);
        }
        let inner = match error {
            Error::TimedOut(late) => return Ending::Judged(judge_timeout(late)),
            Error::Inner(inner) => match Found::look(inner) {
                Found::Rejection(rejection) => return Ending::Refused(rejection),
                Found::TimedOut(late) if late.is_callers_own() => {
                    return Ending::Judged(Verdict::ignored());
                }
                Found::Exhausted if !policy.config.load().retry_exhausted => {
                    return Ending::GivenUpBelow;
                }
                Found::TimedOut(_) | Found::Exhausted | Found::Nothing => inner,
            },
            _ if !policy.config.load().retry_exhausted => return Ending::GivenUpBelow,
            other => match other.as_inner() {
                Some(inner) => inner,
                None => return Ending::Judged(Verdict::failure()),
            },
        };
        Ending::Judged(classify.classify_attempt(attempt, Err(inner)))
    }

    /// Whether a result that was judged like this is the caller's, and nobody needs to be told of it but the counts and
    /// the budget, which are.
    #[inline]
    pub(super) fn is_plain(&self, policy: &Shared, ending: &Ending) -> bool {
        let Ending::Judged(verdict) = ending else {
            return false;
        };
        let plain = verdict.is_plain_success() && self.session.attempts() == 1;
        if plain {
            policy.count_plain();
        }
        plain
    }

    /// An attempt has ended with `result`, judged as `ending`.
    pub(super) fn settle<Res, L>(
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
    pub(super) fn never_ready<L: StdError>(&mut self, policy: &Shared, error: &Error<L>) {
        policy.count_ended(self.session.attempts(), false);
        let end = AttemptEnd::Error(message(error));
        self.give_up(policy, end, StopReason::NotWorthRetrying);
    }

    /// The running attempt was dropped because its time was over. `sent` is whether it ever left.
    pub(super) fn timed_out<Res, L>(
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

/// What a timeout of a layer below says: the service did not answer, or the caller's own time was over.
fn judge_timeout(late: &TimedOut) -> Verdict {
    match late.is_callers_own() {
        true => Verdict::ignored(),
        false => Verdict::failure(),
    }
}

fn is_deadlock(rejection: &Rejection) -> bool {
    matches!(rejection, Rejection::Contended(contended) if contended.is_deadlock())
}
