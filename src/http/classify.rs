use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Extensions, HeaderMap, Response, StatusCode};

use super::error_kind::ErrorKind;
#[cfg(feature = "reqwest")]
use super::error_kind::chain;
use super::peek::BodyStart;
use super::reject::Refused;
use super::retry_after::DelayHeaders;
use crate::call::deadline;
use crate::call::outcome::{Classify, Outcome, RetrySafety, Verdict};

/// What HTTP's statuses, and the errors of its clients, say of a service.
///
/// | result | to a breaker | sent again |
/// |---|---|---|
/// | 1xx to 4xx but for those below | success | no |
/// | `408` | failure | idempotent requests |
/// | `409` | success | with an `Idempotency-Key` ("still in progress") |
/// | `413` | success | all, if it says when |
/// | `421`, `425` | success | all: it was not processed |
/// | `429` | overload | all: it was not processed |
/// | `500`, `502`, `504`, unknown 5xx and above | failure | idempotent requests |
/// | `503` | failure | idempotent requests; all, if it says when |
/// | `501`, `505` | success | no |
/// | `506`, `507`, `508`, `510`, `511` | failure | no |
///
/// A `408` or a `504`, or a timeout of the client, that comes when the caller's own [deadline](crate::deadline) has
/// passed is ignored: who obeys a deadline that was sent along answers like this.
///
/// A response that is a refusal of this side, by [`Refused`], is ignored. Errors are judged by their
/// [`ErrorKind`]. The waits that responses ask for are read from `Retry-After`, and from more headers if
/// [`delays_from`](Self::delays_from) says so.
///
/// Sources: RFC 9110 sections 9.2.2 and 15, RFC 6585 section 4, RFC 8470 section 5.2, RFC 4918 section 11.5,
/// the draft on `Idempotency-Key`. That `408` is a failure and `429` an overload is this crate's choice: a slow
/// handler behind a timeout answers `408`, and who is told to slow down is not talking to a dead service.
#[derive(Clone, Default)]
pub struct HttpClassify {
    delays: DelayHeaders,
    profile: Profile,
    strict: bool,
    no_internal_errors: bool,
    own: Option<Arc<[(StatusCode, Verdict)]>>,
    by_body: Option<Arc<ByBody>>,
}

type ByBody = dyn Fn(StatusCode, &[u8]) -> Option<Verdict> + Send + Sync;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Profile {
    #[default]
    Plain,
    Sdk,
    Envoy,
}

impl HttpClassify {
    /// By the table above.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// As the clients of OpenAI and Anthropic do: `408`, `409`, `429` and every 5xx are worth another attempt whatever
    /// the method, `x-should-retry` of such an answer decides where it is sent, and every header that is known to name
    /// a wait is believed. Not the default: a server that is not trusted must not make a `POST` repeat.
    ///
    /// [`strict`](Self::strict), [`retry_internal_errors(false)`](Self::retry_internal_errors) and the verdicts of
    /// [`status`](Self::status) keep their meaning beside it.
    #[must_use]
    pub fn sdk(mut self) -> Self {
        self.profile = Profile::Sdk;
        self.delays = DelayHeaders::all();
        self
    }

    /// Behind Envoy: what it says it has shed itself (`x-envoy-overloaded`) is not sent again and says nothing
    /// of the service; what it has limited (`x-envoy-ratelimited`) is not sent again.
    #[must_use]
    pub fn envoy(mut self) -> Self {
        if self.profile == Profile::Sdk {
            self.delays = DelayHeaders::default();
        }
        self.profile = Profile::Envoy;
        self
    }

    /// Sends a request that is not idempotent again only if it certainly was not processed: it never left, or the
    /// definition of the status says so (`421`, `425`). Without it a `429`, and a `503` that says when to come back,
    /// are taken at their word.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Whether a `500` is worth a retry. Default: `true`, as the clients of AWS, Google and Azure do; Envoy's
    /// `gateway-error` does not.
    #[must_use]
    pub fn retry_internal_errors(mut self, yes: bool) -> Self {
        self.no_internal_errors = !yes;
        self
    }

    /// Which headers are believed to say when to come back. Default: `Retry-After` alone.
    #[must_use]
    pub fn delays_from(mut self, headers: DelayHeaders) -> Self {
        self.delays = headers;
        self
    }

    /// Judges responses with `status` as `verdict`, whatever the table and the profile say. A wait that the response
    /// asks for is added if the verdict names none.
    #[must_use]
    pub fn status(mut self, status: StatusCode, verdict: Verdict) -> Self {
        let earlier = self.own.iter().flat_map(|own| own.iter().cloned());
        let others = earlier.filter(|(other, _)| *other != status);
        self.own = Some(others.chain([(status, verdict)]).collect());
        self
    }

    /// Asks `verdict` first of a response whose body a [`PeekBodyLayer`](super::PeekBodyLayer) has looked into: `None` leaves
    /// it to the head. It is given the status and the beginning of the body.
    #[must_use]
    pub fn by_body<F>(mut self, verdict: F) -> Self
    where
        F: Fn(StatusCode, &[u8]) -> Option<Verdict> + Send + Sync + 'static,
    {
        self.by_body = Some(Arc::new(verdict));
        self
    }

    /// Judges a response by its head, and by the beginning of its body if that is known.
    fn answer(&self, status: StatusCode, headers: &HeaderMap, more: &Extensions) -> Verdict {
        if more.get::<Refused>().is_some() {
            return Verdict::ignored();
        }
        let by_body = self.by_body.as_ref().zip(more.get::<BodyStart>());
        by_body
            .and_then(|(judge, BodyStart(start))| judge(status, start))
            .unwrap_or_else(|| self.head(status, headers))
    }

    /// Judges a response by its head.
    pub fn head(&self, status: StatusCode, headers: &HeaderMap) -> Verdict {
        let verdict = match self.own_verdict(status) {
            Some(own) => own,
            None => {
                let verdict = self.by_profile(self.by_status(status, headers), status, headers);
                match status.as_u16() {
                    408 | 504 => unless_late(verdict),
                    _ => verdict,
                }
            }
        };
        let asks = verdict.retry_safety() != RetrySafety::Never && verdict.retry_delay().is_none();
        match self.delay(headers).filter(|_| asks) {
            Some(delay) => verdict.retry_after(delay),
            None => verdict,
        }
    }

    /// Judges the error of a client.
    ///
    /// An error that stands for a status (of reqwest's `error_for_status`) is judged as the response with that status.
    pub fn error(&self, error: &(dyn StdError + 'static)) -> Verdict {
        match status_of(error) {
            Some(status) => self.head(status, &HeaderMap::new()),
            None => match ErrorKind::of(error) {
                ErrorKind::TimedOut => unless_late(ErrorKind::TimedOut.verdict()),
                kind => kind.verdict(),
            },
        }
    }

    fn delay(&self, headers: &HeaderMap) -> Option<Duration> {
        self.delays.read(headers)
    }

    fn own_verdict(&self, of: StatusCode) -> Option<Verdict> {
        let own = self.own.as_deref()?;
        own.iter()
            .find(|(status, _)| *status == of)
            .map(|(_, verdict)| verdict.clone())
    }

    fn by_status(&self, status: StatusCode, headers: &HeaderMap) -> Verdict {
        let verdict = match status.as_u16() {
            408 => Verdict::failure(),
            409 => Verdict::success().retry(RetrySafety::IfKeyed),
            413 if self.delay(headers).is_some() => Verdict::success().retry(self.not_processed()),
            421 | 425 => Verdict::success().retry(RetrySafety::Always),
            429 => Verdict::overload().retry(self.not_processed()),
            500 if self.no_internal_errors => Verdict::failure().retry(RetrySafety::Never),
            501 | 505 => Verdict::success(),
            503 if self.delay(headers).is_some() => Verdict::failure().retry(self.not_processed()),
            506 | 507 | 508 | 510 | 511 => Verdict::failure().retry(RetrySafety::Never),
            500.. => Verdict::failure(),
            _ => Verdict::success(),
        };
        match verdict.outcome() {
            Outcome::Failure | Outcome::Overload => verdict.because(format!("HTTP {status}")),
            _ => verdict,
        }
    }

    /// What may be sent again after a response that says, but does not prove, that nothing was done.
    fn not_processed(&self) -> RetrySafety {
        match self.strict {
            true => RetrySafety::IfIdempotent,
            false => RetrySafety::Always,
        }
    }

    fn by_profile(&self, verdict: Verdict, status: StatusCode, headers: &HeaderMap) -> Verdict {
        let says = |name: &str, value: &str| headers.get(name).is_some_and(|it| it == value);
        match self.profile {
            // An answer that is good is good, whatever it says of another try.
            Profile::Sdk if status.as_u16() < 400 => verdict,
            Profile::Sdk if says("x-should-retry", "false") => verdict.retry(RetrySafety::Never),
            Profile::Sdk if status.as_u16() == 500 && self.no_internal_errors => verdict,
            Profile::Sdk
                if says("x-should-retry", "true")
                    || matches!(status.as_u16(), 408 | 409 | 429 | 500..) =>
            {
                let asked = match self.strict {
                    true => RetrySafety::IfIdempotent,
                    false => RetrySafety::UnlessForbidden,
                };
                let safety = verdict.retry_safety().max(asked);
                verdict.retry(safety)
            }
            Profile::Envoy if headers.contains_key("x-envoy-overloaded") => Verdict::ignored(),
            Profile::Envoy if headers.contains_key("x-envoy-ratelimited") => {
                verdict.retry(RetrySafety::Never)
            }
            Profile::Plain | Profile::Sdk | Profile::Envoy => verdict,
        }
    }
}

/// A timeout once the caller's own time is over: who obeys a deadline that was sent along answers like this.
fn unless_late(verdict: Verdict) -> Verdict {
    match verdict.is_failure() && deadline::has_passed() {
        true => verdict.without_blame(),
        false => verdict,
    }
}

impl fmt::Debug for HttpClassify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClassify")
            .field("delays", &self.delays)
            .field("profile", &self.profile)
            .field("strict", &self.strict)
            .field("retry_internal_errors", &!self.no_internal_errors)
            .field("own", &self.own)
            .field("by_body", &self.by_body.is_some())
            .finish_non_exhaustive()
    }
}

/// The status that an error stands for.
fn status_of(error: &(dyn StdError + 'static)) -> Option<StatusCode> {
    #[cfg(feature = "reqwest")]
    {
        chain(error).find_map(|error| error.downcast_ref::<reqwest::Error>()?.status())
    }
    #[cfg(not(feature = "reqwest"))]
    {
        let _ = error;
        None
    }
}

impl<B, E: StdError + 'static> Classify<Response<B>, E> for HttpClassify {
    fn classify(&self, result: Result<&Response<B>, &E>) -> Verdict {
        match result {
            Ok(it) => self.answer(it.status(), it.headers(), it.extensions()),
            Err(error) => self.error(error),
        }
    }
}

#[cfg(feature = "reqwest")]
impl<E: StdError + 'static> Classify<reqwest::Response, E> for HttpClassify {
    fn classify(&self, result: Result<&reqwest::Response, &E>) -> Verdict {
        match result {
            Ok(it) => self.answer(it.status(), it.headers(), it.extensions()),
            Err(error) => self.error(error),
        }
    }
}
