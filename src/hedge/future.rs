use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project::pin_project;
use tokio::task::{coop, unconstrained};
use tokio::time::{Sleep, sleep_until};
use tower_service::Service;

use super::mark::{MarkAnswer, NoMark};
use super::run::{Run, is_refusal};
use super::shared::Shared;
use super::state::{End, NotBegun, Turn};
use crate::call::context::{Frame, Wait};
use crate::call::deadline;
use crate::call::outcome::{Classify, ErrorsAreFailures, Outcome};
use crate::error::{Error, IntoError};
use crate::event::NotHedged;
use crate::retry::{Beside, CopyByClone, CopyRequest, RequestConfig};
use crate::util::kit::Spare;
use crate::util::time::{self, Tick};

/// The response of a service whose calls are hedged. Dropping it drops all attempts that run.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct HedgeFuture<S: Service<Req>, Req, L, C = ErrorsAreFailures, R = CopyByClone, M = NoMark>
{
    #[pin]
    pub(super) first: First<S, S::Future>,
    /// The hedges that run. Each is pinned in an allocation of its own: a call that is not hedged is not to carry the
    /// room for a second one.
    pub(super) hedges: Vec<Pin<Box<Attempt<S::Future>>>>,
    /// The request of the next hedge, while there may be one.
    pub(super) request: Option<Req>,
    /// What has failed while others run: the caller's if they fail too.
    pub(super) kept: Kept<S::Response, L>,
    pub(super) classify: C,
    pub(super) requests: R,
    pub(super) mark: M,
    pub(super) _leaf: PhantomData<fn() -> L>,
}

type Kept<Res, L> = Option<Box<Result<Res, Error<L>>>>;

/// The first attempt, and what decides on the others.
#[pin_project(project = FirstProj)]
pub(super) struct First<S, F> {
    #[pin]
    call: Option<F>,
    /// When the next hedge starts.
    #[pin]
    timer: Option<Sleep>,
    timer_at: Tick,
    /// Between a failure and a hedge that the service wants later, with nothing on its way.
    wait: Wait,
    /// Whether the newest attempt is polled first.
    backwards: bool,
    spare: Spare<S, Shared>,
    /// `None` if the call is made once, whatever happens.
    run: Option<Run>,
}

/// A hedge that runs.
#[pin_project]
pub(super) struct Attempt<F> {
    #[pin]
    call: F,
    frame: Frame,
    number: u32,
}

impl<S, F> First<S, F> {
    #[inline]
    fn new(spare: Spare<S, Shared>, run: Option<Run>, call: F) -> Self {
        Self {
            call: Some(call),
            timer: None,
            timer_at: Tick(0),
            wait: Wait::new(0),
            backwards: false,
            spare,
            run,
        }
    }

    /// A call that is never hedged.
    #[inline]
    pub(super) fn once(spare: Spare<S, Shared>, call: F) -> Self {
        Self::new(spare, None, call)
    }

    /// A call that may be hedged.
    #[inline]
    pub(super) fn of_race(spare: Spare<S, Shared>, run: Run, call: F) -> Self {
        Self::new(spare, Some(run), call)
    }
}

impl<S, Req, L, C, R, M> Future for HedgeFuture<S, Req, L, C, R, M>
where
    S: Service<Req>,
    S::Error: IntoError<L>,
    L: StdError + 'static,
    C: Classify<S::Response, L>,
    R: CopyRequest<Req> + RequestConfig<Req>,
    M: MarkAnswer<S::Response>,
{
    type Output = Result<S::Response, Error<L>>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut first = self.as_mut().project().first.project();
        if let Some(run) = first.run {
            let ambient = run.ambient;
            return deadline::with(ambient, || self.poll_race(cx));
        }
        let Some(call) = first.call.as_mut().as_pin_mut() else {
            polled_too_often()
        };
        let result = ready!(call.poll(cx)).map_err(IntoError::into_error);
        first.call.set(None);
        Poll::Ready(result)
    }
}

#[cold]
fn polled_too_often() -> ! {
    panic!("`HedgeFuture` polled after completion")
}

impl<S, Req, L, C, R, M> HedgeFuture<S, Req, L, C, R, M>
where
    S: Service<Req>,
    S::Error: IntoError<L>,
    L: StdError + 'static,
    C: Classify<S::Response, L>,
    R: CopyRequest<Req> + RequestConfig<Req>,
    M: MarkAnswer<S::Response>,
{
    fn poll_race(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Response, Error<L>>> {
        if let Some(result) = self.as_mut().poll_attempts(cx) {
            return Poll::Ready(result);
        }
        loop {
            let (turn, live) = self.as_mut().turn();
            match turn {
                Turn::Never if live == 0 => return Poll::Ready(self.gave_up()),
                Turn::Never | Turn::AfterTheWait => return Poll::Pending,
                Turn::At(at) => ready!(self.as_mut().poll_timer(at, live == 0, cx)),
                Turn::AtOnce => {}
            }
            if let Some(result) = self.as_mut().start(cx) {
                return Poll::Ready(result);
            }
        }
    }

    /// Polls all attempts; a result, if one ends the call. In the order in which they began; but after a poll that has used
    /// up the task's budget backwards, for whoever does that at each poll leaves none for those behind it.
    fn poll_attempts(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Option<Result<S::Response, Error<L>>> {
        let backwards = *self.as_mut().project().first.project().backwards;
        let ended = match backwards {
            false => {
                let ended = self.as_mut().poll_first(cx);
                ended.or_else(|| self.as_mut().poll_hedges(false, cx))
            }
            true => {
                let ended = self.as_mut().poll_hedges(true, cx);
                ended.or_else(|| self.as_mut().poll_first(cx))
            }
        };
        let this = self.project();
        *this.first.project().backwards =
            !backwards && !this.hedges.is_empty() && !coop::has_budget_remaining();
        ended
    }

    /// Polls the first attempt; a result, if it ends the call.
    fn poll_first(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Option<Result<S::Response, Error<L>>> {
        let mut first = self.as_mut().project().first.project();
        let (call, run) = (first.call.as_mut().as_pin_mut()?, first.run.as_mut()?);
        match run.frame.poll(0, || call.poll(cx)) {
            Poll::Pending => {
                run.first_is_pending(first.spare.rules());
                None
            }
            Poll::Ready(result) => {
                first.call.set(None);
                self.ended(1, result.map_err(IntoError::into_error))
            }
        }
    }

    /// Polls the hedges; a result, if one ends the call.
    fn poll_hedges(
        mut self: Pin<&mut Self>,
        backwards: bool,
        cx: &mut Context<'_>,
    ) -> Option<Result<S::Response, Error<L>>> {
        let mut left = self.hedges.len();
        let mut pending = 0;
        loop {
            left = left.checked_sub(1)?;
            let hedges = self.as_mut().project().hedges;
            let at = match backwards {
                false => pending,
                true => left,
            };
            let hedge = hedges.get_mut(at)?.as_mut().project();
            let (frame, number) = (hedge.frame, *hedge.number);
            match frame.poll(0, || hedge.call.poll(cx)) {
                Poll::Pending => pending += 1,
                Poll::Ready(result) => {
                    // Before anything is decided: with it goes all that it holds.
                    drop(hedges.remove(at));
                    let result = result.map_err(IntoError::into_error);
                    if let Some(result) = self.as_mut().ended(number, result) {
                        return Some(result);
                    }
                }
            }
        }
    }

    /// What follows while no attempt ends, and how many run.
    fn turn(self: Pin<&mut Self>) -> (Turn, u32) {
        let this = self.project();
        let first = this.first.project();
        let Some(run) = first.run else {
            return (Turn::Never, 0);
        };
        let begun = run.race.begun();
        let newest = match this.hedges.last() {
            Some(hedge) if hedge.number == begun => Some(&hedge.frame),
            _ if begun == 1 && first.call.is_some() => Some(&run.frame),
            _ => None,
        };
        let (waits, waited) = newest.map_or((false, Duration::ZERO), |frame| {
            // A wait that is still open is not looked at: the end of it polls this call.
            let waits = frame.is_waiting();
            let waited = match waits {
                true => Duration::ZERO,
                false => frame.waited(Tick(0)),
            };
            (waits, waited)
        });
        let turn = run.race.turn(waits, waited);
        (turn, run.race.live())
    }

    /// Ready when the turn of the next hedge has come. While an attempt runs this is no wait of the call: it is at the
    /// service.
    fn poll_timer(
        self: Pin<&mut Self>,
        at: Tick,
        nothing_runs: bool,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let mut first = self.project().first.project();
        if *first.timer_at != at {
            *first.timer_at = at;
            match first.timer.as_mut().as_pin_mut() {
                Some(timer) => timer.reset(at.to_instant()),
                None => first.timer.set(Some(sleep_until(at.to_instant()))),
            }
        }
        let Some(timer) = first.timer.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        let polled = time::poll_timer(timer, cx);
        ready!(match nothing_runs {
            true => first.wait.poll(cx.waker(), || polled),
            false => polled,
        });
        // What comes next has a timer of its own.
        *first.timer_at = Tick(0);
        Poll::Ready(())
    }

    /// The turn of a hedge has come; a result, if it ends the call at once.
    fn start(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Option<Result<S::Response, Error<L>>> {
        let now = time::now();
        let (request, paid) = self.as_mut().prepare(now)?;
        let Some(mut hedge) = self.as_mut().send(request, cx) else {
            self.not_started(NotHedged::Refused, paid, now);
            return None;
        };
        let polled = {
            let hedge = hedge.as_mut().project();
            let (call, frame) = (hedge.call, hedge.frame);
            frame.poll(0, || call.poll(cx))
        };
        match polled.map_err(IntoError::into_error) {
            // It queues, perhaps for what the call itself holds.
            Poll::Pending if hedge.frame.is_waiting() => {
                drop(hedge);
                self.as_mut()
                    .project()
                    .first
                    .project()
                    .spare
                    .forget_unready();
                self.not_started(NotHedged::Refused, paid, now);
                None
            }
            Poll::Pending => {
                self.as_mut().begun(now, paid);
                self.project().hedges.push(hedge);
                None
            }
            Poll::Ready(Err(error)) if is_refusal(&error) => {
                drop(hedge);
                self.not_started(NotHedged::Refused, paid, now);
                None
            }
            Poll::Ready(result) => {
                let number = hedge.number;
                drop(hedge);
                self.as_mut().begun(now, paid);
                self.ended(number, result)
            }
        }
    }

    /// The request of a hedge, and what was paid for it; `None` if there is to be none.
    fn prepare(self: Pin<&mut Self>, now: Tick) -> Option<(Req, Option<u32>)> {
        let this = self.project();
        let first = this.first.project();
        let (run, shared) = (first.run.as_mut()?, first.spare.rules());
        if run.race.is_late(now) {
            run.race.stop();
            return None;
        }
        let beside = match (this.request.as_ref(), run.race.live()) {
            (None, _) => Beside::Never,
            (Some(copy), 0) if this.requests.claim(copy) => Beside::Yes,
            (Some(_), 0) => Beside::Never,
            (Some(copy), _) => this.requests.claim_beside(copy),
        };
        if beside == Beside::NotYet {
            run.race.not_hedged(NotBegun::Later, now, shared.delay());
            return None;
        }
        let Some(request) = this.request.take().filter(|_| beside == Beside::Yes) else {
            run.not_hedged(shared, NotHedged::NotRepeatable, now);
            return None;
        };
        let paid = match &shared.budget {
            None => None,
            Some(budget) => match budget.withdraw_for_hedge(now) {
                Some(paid) => Some(paid),
                None => {
                    run.not_hedged(shared, NotHedged::NoBudget, now);
                    return None;
                }
            },
        };
        Some((request, paid))
    }

    /// Sends a hedge, if the service below is ready for one right now. Nobody waits for it to be.
    fn send(
        self: Pin<&mut Self>,
        mut request: Req,
        cx: &mut Context<'_>,
    ) -> Option<Pin<Box<Attempt<S::Future>>>> {
        let this = self.project();
        let first = this.first.project();
        let (run, spare) = (first.run.as_mut()?, first.spare);
        let service = spare.service()?;
        let ready = pin!(unconstrained(poll_fn(|cx| service.poll_ready(cx)))).poll(cx);
        if !matches!(ready, Poll::Ready(Ok(()))) {
            spare.forget_unready();
            *this.request = Some(request);
            return None;
        }
        if run.race.has_more_than_one_left() {
            *this.request = this.requests.copy(&request);
        }
        let (requests, number) = (this.requests, run.race.begun() + 1);
        let mut frame = Frame::default();
        let call = frame.enter(0, || {
            requests.before_attempt(&mut request, number);
            service.call(request)
        });
        let hedge = Attempt {
            call,
            frame,
            number,
        };
        Some(Box::pin(hedge))
    }

    fn begun(self: Pin<&mut Self>, now: Tick, paid: Option<u32>) {
        let first = self.project().first.project();
        if let Some(run) = first.run {
            run.hedged(first.spare.rules(), now, paid.unwrap_or(0));
        }
    }

    fn not_started(self: Pin<&mut Self>, reason: NotHedged, paid: Option<u32>, now: Tick) {
        let first = self.project().first.project();
        let shared = first.spare.rules();
        if let (Some(budget), Some(paid)) = (&shared.budget, paid) {
            budget.give_back(paid);
        }
        if let Some(run) = first.run {
            run.not_hedged(shared, reason, now);
        }
    }

    /// An attempt has ended; a result, if that ends the call.
    fn ended(
        mut self: Pin<&mut Self>,
        number: u32,
        mut result: Result<S::Response, Error<L>>,
    ) -> Option<Result<S::Response, Error<L>>> {
        let this = self.as_mut().project();
        let first = this.first.project();
        let (run, shared) = (first.run.as_mut()?, first.spare.rules());
        let (end, outcome) = run.judge(shared, number, &result, this.classify);
        // Whether or not it wins: if all fail it may be the caller's too.
        if let (2.., Ok(response)) = (number, &mut result) {
            this.mark.mark(response, number);
        }
        if number == 1 && outcome == Outcome::Success {
            run.record(shared);
        }
        if run.ended(end) {
            return Some(self.won(number, result));
        }
        let result = match (end, this.kept.take()) {
            // A refusal says less than any failure of the service.
            (End::Refused, Some(kept)) => *kept,
            _ => result,
        };
        if run.race.is_over() {
            self.over();
            return Some(result);
        }
        *this.kept = Some(Box::new(result));
        None
    }

    /// An attempt has given what the caller gets: all others are dropped.
    fn won(
        mut self: Pin<&mut Self>,
        number: u32,
        result: Result<S::Response, Error<L>>,
    ) -> Result<S::Response, Error<L>> {
        if number > 1 {
            let this = self.as_mut().project();
            let first = this.first.project();
            let shared = first.spare.rules();
            if let (Some(run), Some(_)) = (&first.run, &*first.call) {
                // It has taken at least so long.
                run.record(shared);
            }
            shared.won(number);
        }
        self.over();
        result
    }

    /// No hedge can start any more, and nothing runs.
    fn gave_up(mut self: Pin<&mut Self>) -> Result<S::Response, Error<L>> {
        let kept = self.as_mut().project().kept.take();
        self.over();
        match kept {
            Some(kept) => *kept,
            None => polled_too_often(),
        }
    }

    /// The call is over: everything that runs is dropped, and with it what it holds.
    fn over(self: Pin<&mut Self>) {
        let this = self.project();
        let mut first = this.first.project();
        first.call.set(None);
        this.hedges.clear();
        first.timer.set(None);
        first.wait.end();
        *first.run = None;
        *this.request = None;
        // A failure that has not won holds things too: the connection of its body.
        *this.kept = None;
    }
}

impl<S: Service<Req>, Req, L, C, R, M> fmt::Debug for HedgeFuture<S, Req, L, C, R, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HedgeFuture")
            .field("hedges", &self.hedges.len())
            .finish_non_exhaustive()
    }
}
