//! How a call ended, and who says so.
//!
//! A result means different things to different users: a `404` is an answer, a `503` is a failure,
//! a validation error says nothing about the service at all. [`Classify`] decides that once per
//! layer, from a reference to the response or to *the service's own error*.
//!
//! Refusals of this crate (an open circuit, a busy lock) are never shown to a classifier: they say
//! nothing about the service behind them, so they can neither open a breaker nor be mistaken for
//! an error worth retrying.
//!
//! You rarely implement [`Classify`] by hand. The layers have methods that take closures
//! (`failure_if`, `retry_if`, `retry_response_if`, ...), and those build the classifiers below.

use std::borrow::Cow;
use std::time::Duration;

/// How an admitted call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Outcome {
    /// The service did its work.
    Success,
    /// The service failed.
    Failure,
    /// The service is well, and has more to do than it can: a `429`, say. A failure to the failure rate of
    /// a breaker, and neither failure nor success to its count of consecutive failures.
    Overload,
    /// The result says nothing about the health of the service.
    Ignored,
    /// The caller went away before there was a result.
    Cancelled,
}

/// What a [`Classify`] says of one result, with an optional hint and an optional reason.
///
/// ```
/// use std::time::Duration;
/// use tower_bulwark::Verdict;
///
/// let verdict = Verdict::failure()
///     .retry_after(Duration::from_secs(2))
///     .because("HTTP 429");
/// assert!(verdict.is_failure());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Verdict {
    kind: Kind,
    safety: RetrySafety,
    delay: Option<RetryDelay>,
    immediately: bool,
    forbidden: bool,
    reason: Option<Cow<'static, str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Success,
    Failure,
    Overload,
    Ignored,
}

/// Which requests may be sent again after a result. What a request is, [`Idempotency`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RetrySafety {
    /// None.
    Never,
    /// Those that carry a key by which the service knows them again.
    IfKeyed,
    /// Those that do no harm when they are done twice.
    IfIdempotent,
    /// All but those of which the caller has said that they may not be done twice: the service asks for another try,
    /// and is taken at its word.
    UnlessForbidden,
    /// All: the service has certainly not done this one.
    Always,
}

/// Whether a request may be done twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Idempotency {
    /// The caller has said that done twice it does harm: it is sent again only when it was certainly not done.
    Forbidden,
    /// Done twice, it may do harm, for all that is known: it is sent again only when it was not done, or the service
    /// asks for it.
    NotIdempotent,
    /// Done twice, it does what it does once. The default: who puts a retry around a service without
    /// saying more means it.
    #[default]
    Idempotent,
    /// It carries a key by which the service knows it again.
    Keyed,
}

impl RetrySafety {
    /// Whether a request of this kind may be sent again.
    #[must_use]
    pub const fn allows(self, request: Idempotency) -> bool {
        match self {
            Self::Never => false,
            Self::IfKeyed => matches!(request, Idempotency::Keyed),
            Self::IfIdempotent => {
                matches!(request, Idempotency::Idempotent | Idempotency::Keyed)
            }
            Self::UnlessForbidden => !matches!(request, Idempotency::Forbidden),
            Self::Always => true,
        }
    }
}

/// The wait that a service asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryDelay {
    /// Instead of the backoff, unless it is zero.
    After(Duration),
    /// Zero too; and the backoff starts anew behind it.
    ExactlyAfter(Duration),
}

impl Verdict {
    const fn new(kind: Kind) -> Self {
        Self {
            kind,
            safety: match kind {
                Kind::Failure | Kind::Overload => RetrySafety::IfIdempotent,
                Kind::Success | Kind::Ignored => RetrySafety::Never,
            },
            delay: None,
            immediately: false,
            forbidden: false,
            reason: None,
        }
    }

    /// The service did its work: heals a breaker, ends a retry.
    pub const fn success() -> Self {
        Self::new(Kind::Success)
    }

    /// The service failed: counts against a breaker, is worth a retry.
    pub const fn failure() -> Self {
        Self::new(Kind::Failure)
    }

    /// The service is well, and has more to do than it can: worth a retry after a while. To a breaker it is a
    /// failure where rates are watched, and no consecutive failures; see
    /// [`overload_is_failure`](crate::circuit_breaker::CircuitBreakerBuilder::overload_is_failure).
    pub const fn overload() -> Self {
        Self::new(Kind::Overload)
    }

    /// The result says nothing about the service: it neither heals nor hurts a breaker, and is
    /// handed to the caller without a retry.
    pub const fn ignored() -> Self {
        Self::new(Kind::Ignored)
    }

    /// Adds when to come back, as the service said it (a `Retry-After`, say).
    ///
    /// [`RetryLayer`](crate::RetryLayer) waits that long instead of its backoff, within its cap.
    pub const fn retry_after(mut self, delay: Duration) -> Self {
        self.delay = Some(RetryDelay::After(delay));
        self
    }

    /// Like [`retry_after`](Self::retry_after), to the letter: zero means at once, and the backoff starts
    /// anew behind it. What gRPC calls pushback.
    pub const fn retry_exactly_after(mut self, delay: Duration) -> Self {
        self.delay = Some(RetryDelay::ExactlyAfter(delay));
        self
    }

    /// Says which requests may be sent again after this result, whatever else it says of the service.
    /// Without it: idempotent ones after a failure or an overload, none after anything else.
    pub const fn retry(mut self, safety: RetrySafety) -> Self {
        self.safety = safety;
        self
    }

    /// The request never reached the service's work: after the first attempt of a call it is sent again at once, at
    /// no cost to the budget and to the number of attempts. Later it is a retry like any other.
    pub const fn retry_immediately(mut self) -> Self {
        self.safety = RetrySafety::Always;
        self.immediately = true;
        self
    }

    /// The service itself asks not to be tried again. A retry throttle counts it as a failure.
    pub const fn do_not_retry(mut self) -> Self {
        self.safety = RetrySafety::Never;
        self.forbidden = true;
        self
    }

    /// The same of the request, and nothing of the service.
    #[cfg(feature = "http")]
    pub(crate) const fn without_blame(mut self) -> Self {
        self.kind = Kind::Ignored;
        self
    }

    /// Adds why, in a few words: it appears in events, snapshots and rejections.
    pub fn because(mut self, reason: impl Into<Cow<'static, str>>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Whether the service failed.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        matches!(self.kind, Kind::Failure)
    }

    /// Whether the service has more to do than it can.
    #[must_use]
    pub const fn is_overload(&self) -> bool {
        matches!(self.kind, Kind::Overload)
    }

    /// A success, and nothing more to say.
    #[inline]
    pub(crate) fn is_plain_success(&self) -> bool {
        matches!(self.kind, Kind::Success) && matches!(self.safety, RetrySafety::Never)
    }

    /// Which requests may be sent again.
    #[must_use]
    pub const fn retry_safety(&self) -> RetrySafety {
        self.safety
    }

    /// Whether the first retry follows at once.
    #[must_use]
    pub const fn retries_immediately(&self) -> bool {
        self.immediately
    }

    /// Whether the service asked not to be tried again.
    #[must_use]
    pub const fn forbids_retry(&self) -> bool {
        self.forbidden
    }

    /// When the service asked to come back.
    #[must_use]
    pub const fn retry_delay(&self) -> Option<Duration> {
        match self.delay {
            Some(RetryDelay::After(delay) | RetryDelay::ExactlyAfter(delay)) => Some(delay),
            None => None,
        }
    }

    pub(crate) const fn delay(&self) -> Option<RetryDelay> {
        self.delay
    }

    /// Why, if the classifier said so.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// The outcome that a permit is settled with.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self.kind {
            Kind::Success => Outcome::Success,
            Kind::Failure => Outcome::Failure,
            Kind::Overload => Outcome::Overload,
            Kind::Ignored => Outcome::Ignored,
        }
    }
}

/// Decides what one result of the service says about the service.
///
/// `E` is the leaf service's own error, whatever layers of this crate lie between: rejections and
/// timeouts of those layers are handled before a classifier is asked.
pub trait Classify<Res, E> {
    /// Judges one result. Called once for each result, on the task that polls the call.
    fn classify(&self, result: Result<&Res, &E>) -> Verdict;

    /// The same for the result of attempt number `attempt` of a retry; the first is 1. What a retry asks. By default
    /// the number does not matter.
    fn classify_attempt(&self, _attempt: u32, result: Result<&Res, &E>) -> Verdict {
        self.classify(result)
    }
}

/// The default classifier: `Ok` is a success, `Err` is a failure.
#[derive(Clone, Copy, Debug, Default)]
pub struct ErrorsAreFailures;

impl<Res, E> Classify<Res, E> for ErrorsAreFailures {
    #[inline]
    fn classify(&self, result: Result<&Res, &E>) -> Verdict {
        match result {
            Ok(_) => Verdict::success(),
            Err(_) => Verdict::failure(),
        }
    }
}

/// A classifier that is a function of the whole result. See `classify_with` on the layers.
#[derive(Clone, Copy)]
pub struct ClassifyFn<F>(pub(crate) F);

impl<Res, E, F: Fn(Result<&Res, &E>) -> Verdict> Classify<Res, E> for ClassifyFn<F> {
    #[inline]
    fn classify(&self, result: Result<&Res, &E>) -> Verdict {
        (self.0)(result)
    }
}

/// Errors that match are failures, other errors are successes: the service has answered. Responses go to the
/// classifier inside.
#[derive(Clone, Copy)]
pub struct FailureIf<F, C> {
    pub(crate) matches: F,
    pub(crate) inner: C,
}

impl<Res, E, F: Fn(&E) -> bool, C: Classify<Res, E>> Classify<Res, E> for FailureIf<F, C> {
    #[inline]
    fn classify(&self, result: Result<&Res, &E>) -> Verdict {
        match result {
            Ok(_) => self.inner.classify(result),
            Err(error) if (self.matches)(error) => Verdict::failure(),
            Err(_) => Verdict::success(),
        }
    }
}

/// Errors that match are ignored; everything else goes to the classifier inside.
#[derive(Clone, Copy)]
pub struct IgnoreIf<F, C> {
    pub(crate) matches: F,
    pub(crate) inner: C,
}

impl<Res, E, F: Fn(&E) -> bool, C: Classify<Res, E>> Classify<Res, E> for IgnoreIf<F, C> {
    #[inline]
    fn classify(&self, result: Result<&Res, &E>) -> Verdict {
        match result {
            Err(error) if (self.matches)(error) => Verdict::ignored(),
            Ok(_) | Err(_) => self.inner.classify(result),
        }
    }
}

/// Responses that match are failures; everything else goes to the classifier inside.
#[derive(Clone, Copy)]
pub struct ResponseFailureIf<F, C> {
    pub(crate) matches: F,
    pub(crate) inner: C,
}

impl<Res, E, F, C> Classify<Res, E> for ResponseFailureIf<F, C>
where
    F: Fn(&Res) -> bool,
    C: Classify<Res, E>,
{
    #[inline]
    fn classify(&self, result: Result<&Res, &E>) -> Verdict {
        match result {
            Ok(response) if (self.matches)(response) => Verdict::failure(),
            Ok(_) | Err(_) => self.inner.classify(result),
        }
    }
}

/// Takes the delay of a failure from the result itself; the verdict is that of the classifier inside.
#[derive(Clone, Copy)]
pub struct DelayFrom<F, C> {
    pub(crate) delay: F,
    pub(crate) inner: C,
}

impl<Res, E, F, C> Classify<Res, E> for DelayFrom<F, C>
where
    F: Fn(Result<&Res, &E>) -> Option<Duration>,
    C: Classify<Res, E>,
{
    #[inline]
    fn classify(&self, result: Result<&Res, &E>) -> Verdict {
        let verdict = self.inner.classify(result);
        if verdict.retry_safety() == RetrySafety::Never {
            return verdict;
        }
        match (self.delay)(result) {
            Some(delay) => verdict.retry_after(delay),
            None => verdict,
        }
    }
}

/// Which attempt a result is of; see `retry_if_with`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttemptContext {
    /// The number of the attempt that ended; the first is 1.
    pub attempt: u32,
}

/// What the function says yes to is a failure, everything else a success. See `retry_if_with` on the retry.
#[derive(Clone, Copy)]
pub struct RetryIfWith<F>(pub(crate) F);

impl<Res, E, F> Classify<Res, E> for RetryIfWith<F>
where
    F: Fn(&AttemptContext, Result<&Res, &E>) -> bool,
{
    fn classify(&self, result: Result<&Res, &E>) -> Verdict {
        self.classify_attempt(1, result)
    }

    fn classify_attempt(&self, attempt: u32, result: Result<&Res, &E>) -> Verdict {
        match (self.0)(&AttemptContext { attempt }, result) {
            true => Verdict::failure(),
            false => Verdict::success(),
        }
    }
}

macro_rules! debug_without_bounds {
    ($($name:ident<$($p:ident),*>),* $(,)?) => {$(
        impl<$($p),*> std::fmt::Debug for $name<$($p),*> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}

debug_without_bounds!(
    ClassifyFn<F>,
    FailureIf<F, C>,
    IgnoreIf<F, C>,
    ResponseFailureIf<F, C>,
    DelayFrom<F, C>,
    RetryIfWith<F>,
);

/// The message of an error and of what caused it, as far as they say something new: "error sending request:
/// connection refused". Bounded like [`message`].
pub(crate) fn message_of_chain(error: &dyn std::error::Error) -> String {
    // A chain is as long as the program's layering; a cyclic one is nobody's intention.
    const LONGEST_CHAIN: usize = 16;
    let mut text = message(error);
    let causes = std::iter::successors(error.source(), |error| error.source());
    for cause in causes.take(LONGEST_CHAIN) {
        let cause = message(cause);
        if !text.contains(&cause) {
            text = message(&format_args!("{text}: {cause}"));
        }
    }
    text
}

/// The message of an error for events and snapshots: bounded, because an error may carry a whole
/// response body.
pub(crate) fn message(error: &dyn std::fmt::Display) -> String {
    use std::fmt::Write;

    struct Bounded(String);
    impl Write for Bounded {
        fn write_str(&mut self, s: &str) -> std::fmt::Result {
            const LIMIT: usize = 256;
            let room = LIMIT.saturating_sub(self.0.len());
            if s.len() <= room {
                self.0.push_str(s);
                return Ok(());
            }
            let cut = (0..=room).rev().find(|&i| s.is_char_boundary(i));
            self.0.push_str(&s[..cut.unwrap_or(0)]);
            self.0.push('…');
            Err(std::fmt::Error)
        }
    }

    let mut text = Bounded(String::new());
    // An error here only says that the limit was reached.
    let _ = write!(text, "{error}");
    text.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge<C: Classify<u16, &'static str>>(c: &C, r: Result<u16, &'static str>) -> Outcome {
        c.classify(r.as_ref()).outcome()
    }

    #[test]
    fn an_error_that_failure_if_does_not_match_is_a_success() {
        let c = FailureIf {
            matches: |e: &&str| *e == "down",
            inner: ErrorsAreFailures,
        };
        assert_eq!(judge(&c, Err("down")), Outcome::Failure);
        assert_eq!(judge(&c, Err("bad input")), Outcome::Success);
        assert_eq!(judge(&c, Ok(200)), Outcome::Success);
    }

    #[test]
    fn error_and_response_predicates_hold_at_once() {
        let c = ResponseFailureIf {
            matches: |r: &u16| *r >= 500,
            inner: IgnoreIf {
                matches: |e: &&str| *e == "bad input",
                inner: ErrorsAreFailures,
            },
        };
        assert_eq!(judge(&c, Ok(503)), Outcome::Failure);
        assert_eq!(judge(&c, Ok(404)), Outcome::Success);
        assert_eq!(judge(&c, Err("down")), Outcome::Failure);
        assert_eq!(judge(&c, Err("bad input")), Outcome::Ignored);
    }

    #[test]
    fn a_delay_is_taken_from_failures_only() {
        let c = DelayFrom {
            delay: |_: Result<&u16, &&str>| Some(Duration::from_secs(9)),
            inner: ErrorsAreFailures,
        };
        let failure: Verdict = Classify::<u16, &str>::classify(&c, Err(&"down"));
        assert_eq!(failure.retry_delay(), Some(Duration::from_secs(9)));
        let success: Verdict = Classify::<u16, &str>::classify(&c, Ok(&200));
        assert_eq!(success.retry_delay(), None);
    }

    #[test]
    fn the_words_of_an_error_go_on_with_its_causes_without_repeating_them() {
        #[derive(Debug)]
        struct Chain(&'static str, Option<Box<Self>>);
        impl std::fmt::Display for Chain {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.0)
            }
        }
        impl std::error::Error for Chain {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                self.1.as_deref().map(|it| it as _)
            }
        }
        let refused = || Some(Box::new(Chain("connection refused", None)));
        let error = Chain("sending failed", refused());
        assert_eq!(
            message_of_chain(&error),
            "sending failed: connection refused"
        );
        let error = Chain("sending failed: connection refused", refused());
        assert_eq!(
            message_of_chain(&error),
            "sending failed: connection refused"
        );
    }

    #[test]
    fn words_of_an_endless_error_are_cut_at_a_character() {
        let text = message(&"é".repeat(1_000));
        assert!(text.len() <= 256 + '…'.len_utf8(), "{}", text.len());
        assert!(text.ends_with('…'));
        assert_eq!(message(&"short"), "short");
    }
}
