use ::http::{HeaderMap, Method, Request};

use crate::call::deadline::Deadline;
use crate::call::outcome::Idempotency;
use crate::retry::{Beside, CopyByClone, CopyRequest, RequestConfig};

/// What HTTP requests say of their own retries.
///
/// - Whether they may be done twice: by their method, or because they carry a non-empty `Idempotency-Key`; a
///   [`MarkedIdempotent`] among their extensions overrules both.
/// - How often they may be tried, by [`MaxRetries`] among their extensions.
/// - Until when their answer is of use, by a [`Deadline`] among their extensions.
///
/// `C` copies them: [`CopyByClone`] where the body is `Clone`, and
/// [`CopyReplay`](super::CopyReplay) for bodies that stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpRequests<C = CopyByClone> {
    copy: C,
}

/// Whether a request may be done twice, by the caller's own knowledge: an extension of a request.
///
/// ```
/// use http::Request;
/// use tower_bulwark::http::MarkedIdempotent;
///
/// let search = Request::post("/search").extension(MarkedIdempotent(true)).body(())?;
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkedIdempotent(pub bool);

/// How often a request may be tried again, instead of what the policy says: an extension of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxRetries(pub u32);

impl HttpRequests {
    /// For requests whose bodies are `Clone`.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl<C> HttpRequests<C> {
    /// Copies requests with `copy`.
    pub fn copied_by<D>(self, copy: D) -> HttpRequests<D> {
        HttpRequests { copy }
    }
}

/// Whether a request may be done twice, by its method and its headers (RFC 9110, 9.2.2). Methods are
/// case-sensitive, and one that is not known may do anything.
#[must_use]
pub fn idempotency(method: &Method, headers: &HeaderMap) -> Idempotency {
    const IDEMPOTENT: [&str; 7] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY"];
    let key = headers.get("idempotency-key").map(|key| key.as_bytes());
    // The draft has it in quotes; real services do without. Only that there is one counts.
    let keyed = key.is_some_and(|key| !matches!(key.trim_ascii(), b"" | b"\"\""));
    match keyed {
        true => Idempotency::Keyed,
        false if IDEMPOTENT.contains(&method.as_str()) => Idempotency::Idempotent,
        false => Idempotency::NotIdempotent,
    }
}

/// What the caller knows goes before what the request says by itself.
pub(super) fn marked(mark: Option<bool>, by_itself: Idempotency) -> Idempotency {
    match (mark, by_itself) {
        (Some(false), _) => Idempotency::Forbidden,
        (Some(true), Idempotency::NotIdempotent) => Idempotency::Idempotent,
        (_, by_itself) => by_itself,
    }
}

impl<B, C: CopyRequest<Request<B>>> CopyRequest<Request<B>> for HttpRequests<C> {
    fn copy(&self, request: &Request<B>) -> Option<Request<B>> {
        self.copy.copy(request)
    }

    fn claim(&self, copy: &Request<B>) -> bool {
        self.copy.claim(copy)
    }

    fn claim_beside(&self, copy: &Request<B>) -> Beside {
        self.copy.claim_beside(copy)
    }
}

impl<B, C> RequestConfig<Request<B>> for HttpRequests<C> {
    fn max_retries(&self, request: &Request<B>) -> Option<u32> {
        request.extensions().get().map(|MaxRetries(n)| *n)
    }

    fn deadline(&self, request: &Request<B>) -> Option<Deadline> {
        request.extensions().get().copied()
    }

    fn idempotency(&self, request: &Request<B>) -> Idempotency {
        let mark = request.extensions().get().map(|MarkedIdempotent(yes)| *yes);
        marked(mark, idempotency(request.method(), request.headers()))
    }
}
