//! Bodies that report how they ended.

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use super::idle::BodyError;
use crate::error::BoxError;

/// What is held as long as a body goes on, and told once how the body ended. Dropped without having been
/// told, it learns that nobody wanted the rest.
pub trait BodyGuard {
    /// Runs one poll of the body. A guard that is dropped meanwhile is dropped by a panic.
    fn polls<T>(&mut self, poll: impl FnOnce() -> Poll<T>) -> Poll<T> {
        poll()
    }

    /// The body has to wait.
    fn waits(&mut self, _cx: &mut Context<'_>) {}

    /// The body had a frame, and goes on.
    fn continues(&mut self) {}

    /// The body has ended as it should, with these trailers if there were any.
    fn ended(self, trailers: Option<&HeaderMap>);

    /// The body broke off with an error.
    fn failed(self, error: &(dyn StdError + 'static));
}

/// A body with something that is held until it ends: the permit of the call that it answers.
///
/// A body ends in five ways, and each is the end here: no more frames, trailers, an error, being dropped, and
/// saying after its last frame (or before its first) that there is no other, because who hears that need not
/// ask again.
#[pin_project]
pub struct GuardedBody<B, G> {
    // Before the guard: when that goes, the body has gone.
    #[pin]
    body: B,
    guard: Option<G>,
}

impl<B: Body, G: BodyGuard> GuardedBody<B, G> {
    /// Holds `guard` until `body` ends: not at all, if it has no frames.
    pub fn new(body: B, guard: G) -> Self {
        let mut guarded = Self {
            body,
            guard: Some(guard),
        };
        if guarded.body.is_end_stream()
            && let Some(guard) = guarded.guard.take()
        {
            guard.ended(None);
        }
        guarded
    }
}

impl<B, G> GuardedBody<B, G> {
    /// The body of the same type for which nothing is held.
    pub const fn unguarded(body: B) -> Self {
        Self { body, guard: None }
    }

    /// What is held, until the body has ended.
    pub const fn guard(&self) -> Option<&G> {
        self.guard.as_ref()
    }

    /// The body.
    pub const fn get_ref(&self) -> &B {
        &self.body
    }
}

impl<B, G> Body for GuardedBody<B, G>
where
    B: Body,
    B::Error: Into<BoxError>,
    G: BodyGuard,
{
    type Data = B::Data;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BodyError>>> {
        let mut this = self.project();
        let Some(guard) = this.guard else {
            return this.body.poll_frame(cx).map_err(BodyError::of);
        };
        let polled = guard.polls(|| this.body.as_mut().poll_frame(cx));
        let polled = polled.map_err(BodyError::of);
        match &polled {
            Poll::Pending => guard.waits(cx),
            Poll::Ready(Some(Err(error))) => {
                if let Some(guard) = this.guard.take() {
                    guard.failed(error.cause());
                }
            }
            Poll::Ready(last) => {
                let trailers = match last {
                    Some(Ok(frame)) => frame.trailers_ref(),
                    _ => None,
                };
                let is_last = last.is_none() || trailers.is_some() || this.body.is_end_stream();
                match is_last {
                    true => {
                        if let Some(guard) = this.guard.take() {
                            guard.ended(trailers);
                        }
                    }
                    false => guard.continues(),
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body of our own making, for which nothing is held: what a layer that refuses answers with.
impl<B: From<String>, G> From<String> for GuardedBody<B, G> {
    fn from(text: String) -> Self {
        Self::unguarded(B::from(text))
    }
}

/// An empty body, for which nothing is held.
impl<B: Default, G> Default for GuardedBody<B, G> {
    fn default() -> Self {
        Self::unguarded(B::default())
    }
}

impl<B, G> fmt::Debug for GuardedBody<B, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedBody")
            .field("held", &self.guard.is_some())
            .finish_non_exhaustive()
    }
}

/// A response whose body can hold something until it ends.
#[diagnostic::on_unimplemented(
    message = "nothing can be held until the body of `{Self}` ends",
    note = "`until_body_end` is for `http::Response<B>` where `B: http_body::Body` has errors that become a boxed error (`Into<Box<dyn Error + Send + Sync>>`), and, with the feature `reqwest`, for `reqwest::Response`"
)]
pub trait GuardResponse<G> {
    /// The response with such a body.
    type Guarded;

    /// The status and the headers.
    fn head(&self) -> (StatusCode, &HeaderMap);

    /// Holds `guard` until the body ends.
    fn guard_body(self, guard: Option<G>) -> Self::Guarded;
}

impl<B, G> GuardResponse<G> for Response<B>
where
    B: Body,
    B::Error: Into<BoxError>,
    G: BodyGuard,
{
    type Guarded = Response<GuardedBody<B, G>>;

    fn head(&self) -> (StatusCode, &HeaderMap) {
        (self.status(), self.headers())
    }

    fn guard_body(self, guard: Option<G>) -> Self::Guarded {
        self.map(|body| match guard {
            Some(guard) => GuardedBody::new(body, guard),
            None => GuardedBody::unguarded(body),
        })
    }
}

#[cfg(feature = "reqwest")]
#[cfg_attr(docsrs, doc(cfg(feature = "reqwest")))]
impl<G> GuardResponse<G> for reqwest::Response
where
    G: BodyGuard + Send + Sync + 'static,
{
    type Guarded = Self;

    fn head(&self) -> (StatusCode, &HeaderMap) {
        (self.status(), self.headers())
    }

    fn guard_body(self, guard: Option<G>) -> Self {
        let Some(guard) = guard else {
            return self;
        };
        let (parts, body) = into_http(self).into_parts();
        let body = reqwest::Body::wrap(GuardedBody::new(body, guard));
        Self::from(Response::from_parts(parts, body))
    }
}

/// A response of reqwest's as one of `http`, which can become one of reqwest's again and has lost nothing.
#[cfg(feature = "reqwest")]
pub(super) fn into_http(response: reqwest::Response) -> Response<reqwest::Body> {
    use reqwest::ResponseBuilderExt as _;
    // The URL is not among what a response turns into, and comes back as an extension.
    let url = http::response::Builder::new()
        .url(response.url().clone())
        .body(());
    let mut response = Response::<reqwest::Body>::from(response);
    if let Ok(url) = url {
        response
            .extensions_mut()
            .extend(url.into_parts().0.extensions);
    }
    response
}
