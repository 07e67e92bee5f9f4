//! Bodies that must not fall silent.

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::call::context::{Reason, drop_because};
use crate::call::deadline::{self, Deadline};
use crate::error::{BoxError, TimedOut};
use crate::util::time;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::{Sleep, sleep_until};

/// A body that ends with an error when it is silent for too long, or goes on past a deadline.
///
/// A timeout around a call ends with the head of the response. What follows can still hang for ever: a
/// stream whose sender has died, a proxy that keeps the connection open.
///
/// The silence is measured while somebody waits for a frame, from the moment they begin to: a reader that
/// takes its time is not the sender's fault. (A deadline ends the body whoever was slow.) With the error the body inside is dropped, and so its
/// connection. Permits that are held inside learn of a silence that the sender kept it; of a deadline that the
/// caller wanted no more, as of any body that is dropped.
#[pin_project]
pub struct IdleTimeoutBody<B> {
    #[pin]
    body: Option<B>,
    idle: Option<Duration>,
    deadline: Option<Deadline>,
    /// In a box of its own, made when a frame is first waited for: the body can be moved if the one inside can.
    timer: Option<Pin<Box<Sleep>>>,
    is_waiting: bool,
}

impl<B> IdleTimeoutBody<B> {
    /// A body that may be silent for `idle` at most.
    #[must_use]
    pub const fn new(body: B, idle: Duration) -> Self {
        Self::from_parts(body, Some(idle), None)
    }

    const fn from_parts(body: B, idle: Option<Duration>, deadline: Option<Deadline>) -> Self {
        Self {
            body: Some(body),
            idle,
            deadline,
            timer: None,
            is_waiting: false,
        }
    }

    /// Ends the body at `deadline`, also if it is not silent. Default: it may take as long as it likes.
    #[must_use]
    pub fn until(mut self, deadline: Deadline) -> Self {
        self.deadline = deadline::earlier(self.deadline, Some(deadline));
        self
    }
}

impl<B> IdleTimeoutBody<B> {
    /// A body that the timeouts of its call bound. The first frame has a limit of its own.
    pub(super) const fn within(
        body: B,
        first_frame: Option<Duration>,
        deadline: Option<Deadline>,
    ) -> Self {
        Self::from_parts(body, first_frame, deadline)
    }

    /// Whether this body has ended the one inside, and not that one itself.
    pub(super) fn has_given_up(&self) -> bool {
        self.body.is_none()
    }

    /// From the next wait on.
    pub(super) fn set_idle(self: Pin<&mut Self>, idle: Option<Duration>) {
        *self.project().idle = idle;
    }
}

impl<B> Body for IdleTimeoutBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BodyError>>> {
        let mut this = self.project();
        let Some(body) = this.body.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        // First, and before the body: one that always has another frame would never be late.
        let now = this.deadline.map(|_| time::now());
        let is_over = this
            .deadline
            .is_some_and(|deadline| Some(deadline.0) <= now);
        if !is_over {
            if let Poll::Ready(frame) = body.poll_frame(cx) {
                *this.is_waiting = false;
                return Poll::Ready(frame.map(|it| it.map_err(BodyError::of)));
            }
            if !std::mem::replace(this.is_waiting, true) {
                let ends = deadline::earlier(this.idle.map(Deadline::after), *this.deadline);
                match (&mut *this.timer, ends.map(|ends| ends.0.to_instant())) {
                    (Some(timer), Some(ends)) => timer.as_mut().reset(ends),
                    // Also the timer of the first frame, where those after it have no limit.
                    (timer, ends) => *timer = ends.map(|ends| Box::pin(sleep_until(ends))),
                }
            }
            match this.timer {
                Some(timer) => ready!(time::poll_timer(timer.as_mut(), cx)),
                None => return Poll::Pending,
            }
        }
        *this.timer = None;
        let (reason, error) = match *this.deadline {
            // The caller's own time: that says nothing about the sender.
            Some(deadline) if deadline.is_over() => (Reason::Deadline, BodyError::DeadlineExceeded),
            _ => {
                let idle = this.idle.unwrap_or_default();
                (Reason::TimedOut, BodyError::Idle(idle))
            }
        };
        drop_because(reason, || this.body.set(None));
        Poll::Ready(Some(Err(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(SizeHint::new, Body::size_hint)
    }
}

impl<B> fmt::Debug for IdleTimeoutBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdleTimeoutBody")
            .field("idle", &self.idle)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// Why a body broke off that this crate has wrapped ([`IdleTimeoutBody`], [`GuardedBody`](super::GuardedBody)).
#[derive(Debug)]
#[non_exhaustive]
pub enum BodyError {
    /// The body's own error.
    Inner(BoxError),
    /// No frame came for so long.
    Idle(Duration),
    /// The deadline passed before the body had ended.
    DeadlineExceeded,
    /// It took longer than the [`Timeouts`](crate::Timeouts) of its call allow.
    TimedOut(TimedOut),
}

impl BodyError {
    /// As it is if it is one already: bodies around bodies add nothing to it.
    pub(super) fn of(error: impl Into<BoxError>) -> Self {
        match error.into().downcast() {
            Ok(known) => *known,
            Err(other) => Self::Inner(other),
        }
    }

    /// The body's own error, or this one.
    pub(super) fn cause(&self) -> &(dyn StdError + 'static) {
        match self {
            Self::Inner(error) => &**error,
            Self::Idle(_) | Self::DeadlineExceeded | Self::TimedOut(_) => self,
        }
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inner(_) => f.write_str("the body failed"),
            Self::Idle(idle) => write!(f, "no frame of the body came for {idle:.3?}"),
            Self::DeadlineExceeded => f.write_str("the deadline came before the end of the body"),
            Self::TimedOut(late) => late.fmt(f),
        }
    }
}

impl StdError for BodyError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Inner(error) => Some(&**error),
            Self::TimedOut(late) => Some(late),
            Self::Idle(_) | Self::DeadlineExceeded => None,
        }
    }
}
