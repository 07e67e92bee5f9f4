//! Bodies that must not fall silent.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::{Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

use crate::call::context::{Reason, drop_because};
use crate::call::deadline::{self, Deadline};
use crate::error::BoxError;
use crate::util::accessors::inner_service;
use crate::util::time;

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
            let ends = match *this.is_waiting {
                true => None,
                false => deadline::earlier(this.idle.map(Deadline::after), *this.deadline),
            };
            match (&mut *this.timer, ends.map(|ends| ends.0.to_instant())) {
                (Some(timer), Some(ends)) => timer.as_mut().reset(ends),
                (none, Some(ends)) => *none = Some(Box::pin(sleep_until(ends))),
                (_, None) => {}
            }
            *this.is_waiting = true;
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
            Self::Idle(_) | Self::DeadlineExceeded => self,
        }
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inner(_) => f.write_str("the body failed"),
            Self::Idle(idle) => write!(f, "no frame of the body came for {idle:.3?}"),
            Self::DeadlineExceeded => f.write_str("the deadline came before the end of the body"),
        }
    }
}

impl StdError for BodyError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Inner(error) => Some(&**error),
            Self::Idle(_) | Self::DeadlineExceeded => None,
        }
    }
}

/// Puts an [`IdleTimeoutBody`] around the body of each response.
///
/// Around it, a breaker that goes [`until_body_end`](crate::CircuitBreakerLayer::until_body_end) counts a
/// body that falls silent as a failure.
#[derive(Clone, Copy, Debug)]
pub struct IdleTimeoutLayer {
    idle: Option<Duration>,
    until_deadline: bool,
}

impl IdleTimeoutLayer {
    /// Bodies may be silent for `idle` at most. Longer than the heartbeat of the streams that are expected:
    /// servers commonly send one every 15 to 30 seconds.
    #[must_use]
    pub const fn new(idle: Duration) -> Self {
        Self {
            idle: Some(idle),
            until_deadline: false,
        }
    }

    /// Bodies may be silent for as long as the [deadline](crate::deadline) around their call allows, and end
    /// there.
    #[must_use]
    pub const fn deadline_only() -> Self {
        Self {
            idle: None,
            until_deadline: true,
        }
    }

    /// Bodies end at the [deadline](crate::deadline) that is ambient when their call is made, also if they are
    /// not silent. Default: a body may go on past it.
    ///
    /// A breaker does not blame the service for that, on whichever side it stands: the call is what its head was.
    #[must_use]
    pub const fn until_deadline(mut self) -> Self {
        self.until_deadline = true;
        self
    }
}

impl<S> Layer<S> for IdleTimeoutLayer {
    type Service = IdleTimeoutService<S>;

    fn layer(&self, inner: S) -> IdleTimeoutService<S> {
        IdleTimeoutService {
            inner,
            timeouts: *self,
        }
    }
}

/// A service whose responses have an [`IdleTimeoutBody`]. Made by [`IdleTimeoutLayer`].
#[derive(Clone, Debug)]
pub struct IdleTimeoutService<S> {
    inner: S,
    timeouts: IdleTimeoutLayer,
}

impl<S> IdleTimeoutService<S> {
    inner_service!("kept from falling silent");
}

impl<S, B, Req> Service<Req> for IdleTimeoutService<S>
where
    S: Service<Req, Response = Response<B>>,
{
    type Response = Response<IdleTimeoutBody<B>>;
    type Error = S::Error;
    type Future = IdleTimeoutFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let IdleTimeoutLayer {
            idle,
            until_deadline,
        } = self.timeouts;
        IdleTimeoutFuture {
            deadline: until_deadline.then(deadline::current).flatten(),
            call: self.inner.call(request),
            idle,
        }
    }
}

/// The response of a service whose bodies must not fall silent.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct IdleTimeoutFuture<F> {
    #[pin]
    call: F,
    idle: Option<Duration>,
    deadline: Option<Deadline>,
}

impl<F, B, E> Future for IdleTimeoutFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<IdleTimeoutBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.call.poll(cx))?;
        let (idle, deadline) = (*this.idle, *this.deadline);
        Poll::Ready(Ok(
            response.map(|body| IdleTimeoutBody::from_parts(body, idle, deadline))
        ))
    }
}

impl<F> fmt::Debug for IdleTimeoutFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdleTimeoutFuture").finish_non_exhaustive()
    }
}
