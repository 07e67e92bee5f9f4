use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tokio::time::{Sleep, sleep_until};

#[cfg(feature = "http")]
use super::body::BodyTimeouts;
use super::config::Part;
use super::handle::Timeouts;
use super::shared::Shared;
use super::state::{Bounds, Seen};
use crate::call::context::{Frame, Reason, ambient_deadline, drop_because, with_deadline};
use crate::error::{Answer, AsError, Error, IntoError, TimedOut, TimeoutPhase};
use crate::util::sharded::ArcShard;
use crate::util::time::{self, Tick};

impl Timeouts {
    /// Runs `operation` for no longer than `head` and `total` allow; the other phases are those of a service.
    ///
    /// Dropping the future drops the operation.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] if it took too long, [`Error::Inner`] with the operation's own error; an operation that already
    /// fails with [`Error`] keeps it as it is.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with its timer, if the operation is not ready at once.
    pub async fn run<T, E, L, Fut>(&self, operation: impl FnOnce() -> Fut) -> Result<T, Error<L>>
    where
        Fut: Future<Output = Result<T, E>>,
        E: IntoError<L>,
        L: StdError + 'static,
    {
        TimeoutFuture::begin(self.shared.mine(), Part::All, operation, AsError).await
    }
}

/// The response of a service whose calls may take only so long. Dropping it drops the call.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct TimeoutFuture<F, L, A = AsError> {
    #[pin]
    state: State<F>,
    /// Where the call is.
    frame: Frame,
    clock: Clock,
    shared: ArcShard<Shared>,
    part: Part,
    answer: A,
    _leaf: PhantomData<fn() -> L>,
}

#[pin_project(project = StateProj)]
enum State<F> {
    Calling(#[pin] F),
    Refused(Option<TimedOut>),
}

/// What is known of the times of a call.
struct Clock {
    bounds: Bounds,
    /// [`UNREAD`] until the call first has to wait; from the start, if something bounds all of it.
    started: Tick,
    /// When a poll first left the call pending: from there on it is at the service. [`UNREAD`] before.
    pending_since: Tick,
    /// In a box of its own, made when the call first has to wait.
    timer: Option<Pin<Box<Sleep>>>,
}

const UNREAD: Tick = Tick(0);

impl<F, L, A> TimeoutFuture<F, L, A> {
    #[inline]
    pub(super) fn begin(
        shared: ArcShard<Shared>,
        part: Part,
        call: impl FnOnce() -> F,
        answer: A,
    ) -> Self {
        let (bounds, started) = shared.begins(part);
        let mut frame = Frame::default();
        let call = with_total(&bounds, || frame.enter(0, call));
        Self {
            state: State::Calling(call),
            frame,
            clock: Clock {
                bounds,
                started,
                pending_since: UNREAD,
                timer: None,
            },
            shared,
            part,
            answer,
            _leaf: PhantomData,
        }
    }

    pub(super) fn refused(shared: ArcShard<Shared>, part: Part, late: TimedOut, answer: A) -> Self {
        Self {
            state: State::Refused(Some(late)),
            frame: Frame::default(),
            clock: Clock {
                bounds: Bounds {
                    head: None,
                    total_ends: Tick::NEVER,
                    at_deadline: false,
                },
                started: UNREAD,
                pending_since: UNREAD,
                timer: None,
            },
            shared,
            part,
            answer,
            _leaf: PhantomData,
        }
    }
}

#[cfg(feature = "http")]
impl<F, L, A> TimeoutFuture<F, L, A> {
    /// What is left for the body of the response that has just come. `None` if nothing bounds it, or if it is no response of
    /// the service's.
    pub(crate) fn left_for_body(&self) -> Option<BodyTimeouts> {
        if matches!(self.state, State::Refused(_)) {
            return None;
        }
        let config = self.shared.config.load().of(self.part);
        let bounds = self.clock.bounds;
        let deadline = match bounds.at_deadline {
            true => ambient_deadline(),
            false => Tick::NEVER,
        };
        let silent = config.first_frame.or(config.idle).is_some();
        let is_bounded = silent || bounds.total_ends.min(deadline) != Tick::NEVER;
        is_bounded.then(|| BodyTimeouts {
            shared: self.shared.clone(),
            first_frame: config.first_frame,
            idle: config.idle,
            started: match self.clock.started {
                UNREAD if deadline != Tick::NEVER => time::now(),
                started => started,
            },
            total_ends: bounds.total_ends,
            deadline,
        })
    }
}

/// Runs a part of the call, which sees the end of all of it as its deadline.
#[inline]
fn with_total<T>(bounds: &Bounds, part: impl FnOnce() -> T) -> T {
    match bounds.total_ends {
        Tick::NEVER => part(),
        ends => with_deadline(ends, part),
    }
}

impl<F, Res, E, L, A> Future for TimeoutFuture<F, L, A>
where
    F: Future<Output = Result<Res, E>>,
    L: StdError + 'static,
    A: Answer<Res, E, L>,
{
    type Output = Result<Res, A::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let call = match this.state.as_mut().project() {
            StateProj::Calling(call) => call,
            StateProj::Refused(late) => match late.take() {
                Some(late) => return Poll::Ready(this.answer.refuse(late.into())),
                None => panic!("`TimeoutFuture` polled after completion"),
            },
        };
        let waited = this.frame.is_waiting();
        let frame = &mut *this.frame;
        let polled = with_total(&this.clock.bounds, || frame.poll(0, || call.poll(cx)));
        if let Poll::Ready(result) = polled {
            this.clock.answered(this.shared);
            return Poll::Ready(result.map_err(|error| this.answer.error(error)));
        }
        let goes_on = waited && !this.frame.is_waiting();
        let phase = ready!(this.clock.poll_end(this.frame, goes_on, cx));
        let late = this.clock.ended(phase, this.frame, this.shared);
        // With the call goes everything that it holds, before anybody hears of it.
        let reason = match phase {
            TimeoutPhase::Head => Reason::TimedOut,
            _ => Reason::Deadline,
        };
        drop_because(reason, || this.state.set(State::Refused(None)));
        // Nor is it at the service any more, to the calls around it.
        *this.frame = Frame::default();
        Poll::Ready(this.answer.refuse(late().into()))
    }
}

impl Clock {
    /// Ready when the call has had its time. The timer is made when the call first has to wait, and set anew when a wait of
    /// the call is over (`goes_on`), or when it fires too early.
    fn poll_end(
        &mut self,
        frame: &Frame,
        goes_on: bool,
        cx: &mut Context<'_>,
    ) -> Poll<TimeoutPhase> {
        if !self.bounds.is_bounded() {
            return Poll::Pending;
        }
        let mut look = goes_on || self.timer.is_none();
        loop {
            if look {
                let at = match self.look(frame) {
                    Ok(at) => at.to_instant(),
                    Err(phase) => return Poll::Ready(phase),
                };
                match &mut self.timer {
                    Some(timer) => timer.as_mut().reset(at),
                    None => self.timer = Some(Box::pin(sleep_until(at))),
                }
            }
            let Some(timer) = &mut self.timer else {
                return Poll::Pending;
            };
            ready!(time::poll_timer(timer.as_mut(), cx));
            look = true;
        }
    }

    fn look(&mut self, frame: &Frame) -> Result<Tick, TimeoutPhase> {
        let now = time::now();
        if self.pending_since == UNREAD {
            self.pending_since = now;
        }
        if self.started == UNREAD {
            self.started = now;
        }
        self.bounds.look(Seen {
            now,
            spent: frame.spent(self.pending_since, now),
            waits: frame.is_waiting(),
            waited: frame.waited(now),
            deadline: ambient_deadline(),
        })
    }

    /// The call has ended by itself. Nobody looks at the clock for that alone, unless all of the call is bounded: that it
    /// began was looked at then.
    #[inline]
    fn answered(&self, shared: &Shared) {
        if self.bounds.total_ends != Tick::NEVER {
            shared.ended(self.started, time::now());
        }
    }

    /// The call is over; to be counted and told when it has been dropped.
    fn ended<'a>(
        &self,
        phase: TimeoutPhase,
        frame: &Frame,
        shared: &'a Shared,
    ) -> impl FnOnce() -> TimedOut + use<'a> {
        let now = time::now();
        let all = now.since(self.started);
        if self.bounds.total_ends != Tick::NEVER {
            shared.ended(self.started, now);
        }
        let (limit, after) = match phase {
            TimeoutPhase::Head => (self.bounds.head, frame.spent(self.pending_since, now)),
            TimeoutPhase::Total => (Some(self.bounds.total_ends.since(self.started)), all),
            _ => (None, all),
        };
        move || shared.timed_out(phase, limit, after)
    }
}

impl<F, L, A> fmt::Debug for TimeoutFuture<F, L, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Calling(_) => "calling",
            State::Refused(_) => "refused",
        };
        f.debug_struct("TimeoutFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
