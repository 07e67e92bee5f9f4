//! Deadlines that travel in a header: read by servers, sent on by clients.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::http::header::{HeaderName, HeaderValue};
use ::http::{HeaderMap, Request, Response, StatusCode};
use pin_project::pin_project;
use tokio::time::{Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

use super::reject::problem_of;
use crate::call::deadline::{self, Deadline};
use crate::util::accessors::inner_service;
use crate::util::time;

/// For servers: makes the time that a request says is left for it the ambient [deadline](crate::deadline) of its
/// call, and puts it into its extensions as a [`Deadline`].
///
/// The header holds milliseconds, as Envoy sends them in `x-envoy-expected-rq-timeout-ms` (the default). What
/// cannot be read is no deadline; zero is one that is over. Every layer of this crate below stops *waiting* when it
/// comes. The work itself is not cancelled, unless [`answer_with`](Self::answer_with) says so. Put it outermost, so that
/// no waiting goes uncounted.
///
/// The header is the caller's word, and a caller may be wrong or hostile: [`at_most`](Self::at_most) bounds what it can
/// ask of this server, [`at_least`](Self::at_least) what it can refuse it. A call that ends by its caller's deadline is
/// a cancelled call to a breaker below, and no failure unless that is told otherwise (`cancelled_is_failure_after`).
///
/// ```
/// use std::time::Duration;
/// use tower::ServiceBuilder;
/// use tower_bulwark::{ResourceLock, http::ReceiveDeadlineLayer};
///
/// let stack = ServiceBuilder::new()
///     .layer(ReceiveDeadlineLayer::new().at_most(Duration::from_secs(30)))
///     .layer(ResourceLock::new("gpu").layer::<std::io::Error>());
/// ```
#[derive(Clone)]
pub struct ReceiveDeadlineLayer<A = NoAnswer> {
    header: HeaderName,
    read: fn(&[u8]) -> Option<Duration>,
    at_least: Duration,
    at_most: Option<Duration>,
    answer: A,
}

/// What becomes of a call whose deadline passes. Sealed; see [`NoAnswer`] and [`AnswerWith`].
pub trait LateAnswer<Res>: sealed::Sealed {
    /// Whether the call is to be ended.
    #[doc(hidden)]
    const ENDS: bool;

    /// What it is answered with, if it is ended.
    #[doc(hidden)]
    fn answer(&self) -> Option<Res>;
}

/// Nothing becomes of it: only its waits end. The default.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoAnswer;

/// It is dropped, and answered by the closure of [`ReceiveDeadlineLayer::answer_with`].
#[derive(Clone, Copy)]
pub struct AnswerWith<F>(F);

impl<F> fmt::Debug for AnswerWith<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnswerWith")
    }
}

impl<Res> LateAnswer<Res> for NoAnswer {
    const ENDS: bool = false;

    fn answer(&self) -> Option<Res> {
        None
    }
}

impl<Res, F: Fn() -> Res> LateAnswer<Res> for AnswerWith<F> {
    const ENDS: bool = true;

    fn answer(&self) -> Option<Res> {
        Some((self.0)())
    }
}

mod sealed {
    #[expect(unnameable_types, reason = "that is how a trait is sealed")]
    pub trait Sealed {}
    impl Sealed for super::NoAnswer {}
    impl<F> Sealed for super::AnswerWith<F> {}
}

impl<A> fmt::Debug for ReceiveDeadlineLayer<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiveDeadlineLayer")
            .field("header", &self.header)
            .field("at_least", &self.at_least)
            .field("at_most", &self.at_most)
            .finish_non_exhaustive()
    }
}

/// For clients: sends on how much is left of the ambient [deadline](crate::deadline), in milliseconds rounded down. Below a
/// retry each attempt says what is left for it.
///
/// A header that the request has already is kept if it leaves less.
#[derive(Clone, Debug)]
pub struct SendDeadlineLayer {
    header: HeaderName,
}

/// What Envoy sends to the services behind it.
const EXPECTED: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

impl ReceiveDeadlineLayer {
    /// Reads `x-envoy-expected-rq-timeout-ms`, as long as it says.
    #[must_use]
    pub fn new() -> Self {
        Self::reading(EXPECTED, millis)
    }

    /// Reads a header of another format.
    pub(crate) fn reading(header: HeaderName, read: fn(&[u8]) -> Option<Duration>) -> Self {
        Self {
            header,
            read,
            at_least: Duration::ZERO,
            at_most: None,
            answer: NoAnswer,
        }
    }
}

impl<A> ReceiveDeadlineLayer<A> {
    /// Reads another header.
    #[must_use]
    pub fn header(mut self, header: HeaderName) -> Self {
        self.header = header;
        self
    }

    /// No longer than this, whatever the caller says, and if it says nothing. Default: no such bound. It goes before
    /// [`at_least`](Self::at_least).
    #[must_use]
    pub fn at_most(mut self, longest: Duration) -> Self {
        self.at_most = Some(longest);
        self
    }

    /// No shorter than this, whatever the caller says: below a server's usual time each call would be begun in vain.
    /// Default: zero, the caller's word.
    #[must_use]
    pub fn at_least(mut self, shortest: Duration) -> Self {
        self.at_least = shortest;
        self
    }

    /// Ends a call when its deadline passes before there is a response: the call is dropped, and `answer` is what the
    /// caller gets. To a breaker below it is a cancelled call, and no failure. Default: nothing is ended.
    ///
    /// [`deadline_exceeded`] makes the answer of HTTP, a `504`, and with the feature `grpc`
    /// [`grpc::deadline_exceeded`](crate::grpc::deadline_exceeded) that of gRPC. A response that has begun is not ended:
    /// see [`end_at_deadline`](crate::timeout::TimeoutsBuilder::end_at_deadline).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_bulwark::http::{ReceiveDeadlineLayer, deadline_exceeded};
    ///
    /// let layer = ReceiveDeadlineLayer::new()
    ///     .at_most(Duration::from_secs(30))
    ///     .answer_with(deadline_exceeded::<String>);
    /// ```
    #[must_use]
    pub fn answer_with<Res, F: Fn() -> Res>(
        self,
        answer: F,
    ) -> ReceiveDeadlineLayer<AnswerWith<F>> {
        ReceiveDeadlineLayer {
            header: self.header,
            read: self.read,
            at_least: self.at_least,
            at_most: self.at_most,
            answer: AnswerWith(answer),
        }
    }
}

impl SendDeadlineLayer {
    /// Sends `x-envoy-expected-rq-timeout-ms`.
    #[must_use]
    pub fn new() -> Self {
        Self { header: EXPECTED }
    }

    /// Sends another header.
    #[must_use]
    pub fn header(mut self, header: HeaderName) -> Self {
        self.header = header;
        self
    }
}

impl Default for ReceiveDeadlineLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for SendDeadlineLayer {
    fn default() -> Self {
        Self::new()
    }
}

fn millis_in(headers: &HeaderMap, header: &HeaderName) -> Option<Duration> {
    millis(headers.get(header)?.as_bytes())
}

fn millis(value: &[u8]) -> Option<Duration> {
    let text = value.trim_ascii();
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| digits)?;
    // Too many digits are too much time to matter.
    Some(Duration::from_millis(text.parse().unwrap_or(u64::MAX)))
}

impl<S, A: Clone> Layer<S> for ReceiveDeadlineLayer<A> {
    type Service = ReceiveDeadlineService<S, A>;

    fn layer(&self, inner: S) -> Self::Service {
        ReceiveDeadlineService {
            inner,
            layer: self.clone(),
        }
    }
}

impl<S> Layer<S> for SendDeadlineLayer {
    type Service = SendDeadlineService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SendDeadlineService {
            inner,
            header: self.header.clone(),
        }
    }
}

/// A service whose calls have the deadlines of their callers. Made by [`ReceiveDeadlineLayer`].
#[derive(Clone, Debug)]
pub struct ReceiveDeadlineService<S, A = NoAnswer> {
    inner: S,
    layer: ReceiveDeadlineLayer<A>,
}

/// A service whose requests say how much time is left. Made by [`SendDeadlineLayer`].
#[derive(Clone, Debug)]
pub struct SendDeadlineService<S> {
    inner: S,
    header: HeaderName,
}

impl<S, A> ReceiveDeadlineService<S, A> {
    inner_service!("given deadlines");
}

impl<S> SendDeadlineService<S> {
    inner_service!("told of deadlines");
}

impl<S, B, A> Service<Request<B>> for ReceiveDeadlineService<S, A>
where
    S: Service<Request<B>>,
    A: LateAnswer<S::Response> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ReceiveDeadlineFuture<S::Future, A>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let asked = request.headers().get(&self.layer.header);
        let asked = asked.and_then(|value| (self.layer.read)(value.as_bytes()));
        let asked = asked.map(|left| left.max(self.layer.at_least));
        let left = asked.into_iter().chain(self.layer.at_most).min();
        let known = request.extensions().get::<Deadline>().copied();
        let known = deadline::earlier(known, deadline::current());
        let deadline = deadline::earlier(left.map(Deadline::after), known);
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(deadline);
        }
        ReceiveDeadlineFuture {
            call: Some(deadline::with(deadline, || self.inner.call(request))),
            deadline,
            timer: None,
            answer: self.layer.answer.clone(),
        }
    }
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for SendDeadlineService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let of_request = request.extensions().get::<Deadline>().copied();
        if let Some(deadline) = deadline::earlier(of_request, deadline::current()) {
            let own = millis_in(request.headers(), &self.header);
            let left = own.into_iter().fold(deadline.remaining(), Duration::min);
            let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            let value = HeaderValue::from(millis);
            request.headers_mut().insert(self.header.clone(), value);
        }
        self.inner.call(request)
    }
}

/// The response of a service whose calls have the deadlines of their callers.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ReceiveDeadlineFuture<F, A = NoAnswer> {
    /// Gone when it has been ended.
    #[pin]
    call: Option<F>,
    deadline: Option<Deadline>,
    /// Set when the call does not end at once, and only if it is to be ended.
    timer: Option<Pin<Box<Sleep>>>,
    answer: A,
}

impl<F, A, Res, E> Future for ReceiveDeadlineFuture<F, A>
where
    F: Future<Output = Result<Res, E>>,
    A: LateAnswer<Res>,
{
    type Output = Result<Res, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let deadline = *this.deadline;
        if let Some(call) = this.call.as_mut().as_pin_mut() {
            let polled = deadline::with(deadline, || call.poll(cx));
            if polled.is_ready() {
                return polled;
            }
        }
        let Some(deadline) = deadline.filter(|_| A::ENDS) else {
            return Poll::Pending;
        };
        let timer = this
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline.0.to_instant())));
        ready!(time::poll_timer(timer.as_mut(), cx));
        this.call.set(None);
        match this.answer.answer() {
            Some(answer) => Poll::Ready(Ok(answer)),
            None => Poll::Pending,
        }
    }
}

impl<F, A> fmt::Debug for ReceiveDeadlineFuture<F, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiveDeadlineFuture")
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// The answer to a request whose deadline has passed: a `504` with a problem of RFC 9457 whose `code` is `deadline`.
/// For [`ReceiveDeadlineLayer::answer_with`].
#[must_use]
pub fn deadline_exceeded<B: From<String>>() -> Response<B> {
    problem_of(
        StatusCode::GATEWAY_TIMEOUT,
        "the deadline of the request has passed",
        "deadline",
        (None, None),
    )
}
