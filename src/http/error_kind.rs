use std::error::Error as StdError;
use std::io;

use super::idle::BodyError;
use super::replay_body::ReplayError;
use crate::call::outcome::{RetrySafety, Verdict};
use crate::error::{Rejection, TimedOut};

/// What the error of an HTTP client says of the request: whether it can have reached the server's work.
///
/// # What the errors do not tell
///
/// Each of these is made by a real client in the tests (`tests/clients`), and judged by what its error says:
///
/// - *Sent again though it may have been done*: a `POST` that reqwest follows to another host, which refuses the
///   connection: reqwest says of the second host what it says of the first. Switch redirects off for such requests.
///   An `UNAVAILABLE` in the trailers after a message, seen through a generated tonic client: the status does not say
///   that a message came.
/// - *The service is not blamed*: a `grpc-encoding` that the client does not speak is `UNIMPLEMENTED` to tonic.
/// - *The service is blamed without fault*: the runtime of a connection ends while a request is in flight; an upload
///   panics; tonic's `UNKNOWN` without a cause (a worker that is gone, a request head that is too large); a server that
///   wants a client certificate; `https` over a connector without TLS; a proxy's `407`; `http_body_util::Limited` over
///   a response; a `user_agent` that `Endpoint` does not take; errors of the caller's own layers.
/// - *Not sent again though it could be*: whatever came with `ENHANCE_YOUR_CALM`, because the server asks to be left
///   alone.
///
/// A classifier of your own around this one knows more of your own errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No connection, as the client itself says: refused, not found, timed out. Nothing was sent.
    Connect,
    /// No connection could be made for want of something on this side: ports, file descriptors, permission. Nothing was
    /// sent, and nothing is known of the server.
    NoMeans,
    /// The handshake was refused as invalid, by a certificate that is not trusted, say: another attempt meets the same.
    Certificate,
    /// The request was certainly not processed: it was handed back before it started, or its stream was refused. (What
    /// the pool of `hyper-util` or `reqwest` hands back is [`Connect`](Self::Connect): it sends a request again itself
    /// if an idle connection was closed, so the connection was new and died. Not so with `retry_canceled_requests(false)`.)
    Unsent,
    /// The server takes no more requests on this connection (HTTP/2's `GOAWAY` with `NO_ERROR`), as it does before
    /// it stops. It has not begun this one, as a rule; but `hyper` says the same of a request that was on its way
    /// when the `GOAWAY` came, so it is no proof.
    GoAway,
    /// The server asked to be left alone (HTTP/2's `ENHANCE_YOUR_CALM`, from the other side).
    EnhanceYourCalm,
    /// The connection ended before there was a whole answer: the request may have been processed.
    Broken,
    /// The client waited too long: the request may have been processed.
    TimedOut,
    /// There was an answer, which could not be read.
    Response,
    /// The request itself was wrong, or its body failed: nothing is known of the server.
    Request,
    /// A refusal of this side: a breaker, a limit, the caller's own deadline. Nothing is known of the server.
    Local,
    /// Nothing is known.
    Unknown,
}

impl ErrorKind {
    /// Looks through an error and everything that caused it. Of several findings the one that proves most
    /// counts: a connection that is reset while it is made was never there.
    ///
    /// That nothing was sent is believed only if the client itself says so: an error number such as "host
    /// unreachable" proves nothing, because a route can be lost after the request. No text is looked at.
    ///
    /// Errors of `hyper`, `hyper-util` and `h2` are known with the feature `hyper`, those of `reqwest` and `tower`
    /// (`timeout`, `load_shed`, `buffer`) with the features of those names, [`std::io::Error`] always.
    #[must_use]
    pub fn of(error: &(dyn StdError + 'static)) -> Self {
        if Rejection::find(error).is_some() {
            return Self::Local;
        }
        let found = chain(error).map(Self::of_one);
        let kind = found
            .min_by_key(|kind| kind.doubt())
            .unwrap_or(Self::Unknown);
        match kind {
            // A handshake that went wrong, not a connection that was refused: another attempt meets the same.
            Self::Connect if chain(error).any(is_bad_handshake) => Self::Certificate,
            Self::Connect if chain(error).any(Self::lacks_means) => Self::NoMeans,
            // The answer had begun: what its stream ends with proves nothing any more.
            Self::Unsent | Self::GoAway if chain(error).any(has_answer) => Self::Broken,
            Self::Unsent if died_new(error) => Self::Connect,
            kind => kind,
        }
    }

    /// How little a finding proves.
    fn doubt(self) -> u8 {
        match self {
            Self::Local => 0,
            Self::Certificate => 1,
            Self::Unsent => 2,
            Self::Request => 3,
            Self::GoAway => 4,
            Self::EnhanceYourCalm => 5,
            Self::Connect | Self::NoMeans => 6,
            Self::TimedOut => 7,
            Self::Broken => 8,
            Self::Response => 9,
            Self::Unknown => 10,
        }
    }

    fn of_one(error: &(dyn StdError + 'static)) -> Self {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Self::of_io(error.kind());
        }
        if error.is::<tokio::time::error::Elapsed>() {
            return Self::TimedOut;
        }
        if let Some(late) = error.downcast_ref::<TimedOut>() {
            return Self::of_late(late);
        }
        // The upload failed here.
        if error.is::<ReplayError>() {
            return Self::Request;
        }
        match error.downcast_ref() {
            Some(BodyError::Idle(_)) => return Self::TimedOut,
            Some(BodyError::DeadlineExceeded) => return Self::Local,
            Some(BodyError::TimedOut(late)) => return Self::of_late(late),
            Some(BodyError::Inner(_)) | None => {}
        }
        if error.is::<::http::Error>() || error.is::<::http::uri::InvalidUri>() {
            return Self::Request;
        }
        #[cfg(feature = "tower")]
        if let Some(kind) = of_tower(error) {
            return kind;
        }
        #[cfg(feature = "hyper")]
        if let Some(kind) = of_hyper(error) {
            return kind;
        }
        #[cfg(feature = "reqwest")]
        if let Some(kind) = of_reqwest(error) {
            return kind;
        }
        Self::Unknown
    }

    /// Whether this side lacks what it takes to make a connection, as the operating system says. Of a connection that
    /// was made it would prove nothing.
    pub(crate) fn lacks_means(error: &(dyn StdError + 'static)) -> bool {
        // std has no kind for them.
        const ENFILE: i32 = 23;
        const EMFILE: i32 = 24;
        let error = error.downcast_ref::<io::Error>();
        error.is_some_and(|error| match error.raw_os_error() {
            Some(ENFILE | EMFILE) => cfg!(unix),
            Some(_) => matches!(
                error.kind(),
                io::ErrorKind::AddrNotAvailable | io::ErrorKind::PermissionDenied
            ),
            None => false,
        })
    }

    /// A time that somebody on this side has set is over: a timeout of the connection is none.
    #[cfg(feature = "grpc")]
    pub(crate) fn is_elapsed(error: &(dyn StdError + 'static)) -> bool {
        #[cfg(feature = "tower")]
        if error.is::<tower::timeout::error::Elapsed>() {
            return true;
        }
        error.is::<tokio::time::error::Elapsed>() || error.is::<TimedOut>()
    }

    fn of_late(late: &TimedOut) -> Self {
        match late.is_callers_own() {
            true => Self::Local,
            false => Self::TimedOut,
        }
    }

    fn of_io(kind: io::ErrorKind) -> Self {
        use io::ErrorKind as Io;
        match kind {
            Io::ConnectionRefused
            | Io::HostUnreachable
            | Io::NetworkUnreachable
            | Io::NetworkDown
            | Io::AddrNotAvailable
            | Io::ConnectionReset
            | Io::ConnectionAborted
            | Io::BrokenPipe
            | Io::NotConnected
            | Io::UnexpectedEof => Self::Broken,
            Io::TimedOut => Self::TimedOut,
            _ => Self::Unknown,
        }
    }

    /// What it means to a breaker, and which requests may be sent again.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Connect => Verdict::failure().retry(RetrySafety::Always),
            Self::NoMeans => Verdict::ignored().retry(RetrySafety::Always),
            Self::Unsent => Verdict::ignored().retry_immediately(),
            Self::GoAway => Verdict::ignored()
                .retry_immediately()
                .retry(RetrySafety::IfIdempotent),
            Self::EnhanceYourCalm => Verdict::overload().retry(RetrySafety::Never),
            Self::Broken | Self::TimedOut => Verdict::failure().retry(RetrySafety::IfIdempotent),
            Self::Certificate | Self::Response | Self::Unknown => {
                Verdict::failure().retry(RetrySafety::Never)
            }
            Self::Request | Self::Local => Verdict::ignored(),
        }
    }
}

/// An error and what caused it. Chains are short; one that is not is somebody's mistake.
pub(crate) fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    const LONGEST_CHAIN: usize = 32;
    std::iter::successors(Some(error), |error| causes(*error)).take(LONGEST_CHAIN)
}

/// What caused an error. An [`io::Error`] hides the error that it was made from: its `source` is that
/// error's source.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    let inside = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    if let Some(inside) = inside {
        return Some(inside);
    }
    // What an HTTP/2 stream ended with is kept where `source` does not lead.
    #[cfg(feature = "hyper")]
    if let Some(inside) = error
        .downcast_ref::<h2::Error>()
        .and_then(h2::Error::get_io)
    {
        return Some(inside);
    }
    error.source()
}

/// TLS libraries are many, and none is named here: what they refuse they call invalid data.
fn is_bad_handshake(error: &(dyn StdError + 'static)) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::InvalidData)
}

/// Whether a pooled client gave up a request because its connection ended before it was sent. The pool makes up for idle
/// connections that the server closed, so this one was new: a server that accepts and closes is not well.
fn died_new(error: &(dyn StdError + 'static)) -> bool {
    #[cfg(feature = "hyper")]
    {
        let is_canceled = |it: &(dyn StdError + 'static)| {
            it.downcast_ref().is_some_and(hyper::Error::is_canceled)
        };
        chain(error).any(|it| it.is::<hyper_util::client::legacy::Error>())
            && chain(error).any(is_canceled)
    }
    #[cfg(not(feature = "hyper"))]
    {
        let _ = error;
        false
    }
}

/// Whether an error came while the body of an answer was read.
fn has_answer(error: &(dyn StdError + 'static)) -> bool {
    // hyper has no predicate for it, and these words for nothing else.
    #[cfg(feature = "hyper")]
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        return error.to_string() == "error reading a body from connection";
    }
    #[cfg(feature = "reqwest")]
    if let Some(error) = error.downcast_ref::<reqwest::Error>() {
        return error.is_body() || error.is_decode();
    }
    let _ = error;
    false
}

#[cfg(feature = "tower")]
fn of_tower(error: &(dyn StdError + 'static)) -> Option<ErrorKind> {
    if error.is::<tower::timeout::error::Elapsed>() {
        return Some(ErrorKind::TimedOut);
    }
    if error.is::<tower::buffer::error::ServiceError>() {
        return Some(ErrorKind::Connect);
    }
    let is_local = error.is::<tower::load_shed::error::Overloaded>()
        || error.is::<tower::buffer::error::Closed>();
    is_local.then_some(ErrorKind::Local)
}

#[cfg(feature = "hyper")]
fn of_hyper(error: &(dyn StdError + 'static)) -> Option<ErrorKind> {
    if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
        return Some(match error {
            error if error.is_connect() => ErrorKind::Connect,
            // The connection was gone before anything was sent on it.
            error if error.connect_info().is_none() && error.source().is_some() => {
                ErrorKind::Connect
            }
            error if error.source().is_none() => ErrorKind::Request,
            _ => ErrorKind::Unknown,
        });
    }
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        return Some(match error {
            error if error.is_canceled() || error.is_closed() => ErrorKind::Unsent,
            error if error.is_body_write_aborted() => ErrorKind::Request,
            error if error.is_user() => of_user(error),
            error if error.is_parse() => ErrorKind::Response,
            error if error.is_timeout() => ErrorKind::TimedOut,
            // What hyper has no predicate for is that reading or writing failed.
            _ => ErrorKind::Broken,
        });
    }
    let error = error.downcast_ref::<h2::Error>()?;
    Some(match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) if error.is_remote() && error.is_reset() => {
            ErrorKind::Unsent
        }
        // h2 fails with this only those streams that the server has not seen. But hyper asks the connection once
        // more after it has sent a request, and gives that one the connection's error if it has one by then.
        Some(h2::Reason::NO_ERROR) if error.is_remote() && error.is_go_away() => ErrorKind::GoAway,
        Some(h2::Reason::ENHANCE_YOUR_CALM) if error.is_remote() => ErrorKind::EnhanceYourCalm,
        // Reset by this side, and not by the library: the upload failed here.
        Some(_) if error.is_reset() && !error.is_remote() && !error.is_library() => {
            ErrorKind::Request
        }
        None if error.get_io().is_none() => ErrorKind::Request,
        Some(_) | None => ErrorKind::Broken,
    })
}

/// The caller's fault; or the task of the connection is gone, of which hyper says the same, and which only its message
/// tells apart.
#[cfg(feature = "hyper")]
fn of_user(error: &hyper::Error) -> ErrorKind {
    let message = error.to_string();
    match message.contains("dispatch task is gone") && !message.contains("user code panicked") {
        true => ErrorKind::Broken,
        false => ErrorKind::Request,
    }
}

#[cfg(feature = "reqwest")]
fn of_reqwest(error: &(dyn StdError + 'static)) -> Option<ErrorKind> {
    let error = error.downcast_ref::<reqwest::Error>()?;
    Some(match error {
        error if error.is_builder() || error.is_redirect() => ErrorKind::Request,
        error if error.is_connect() => ErrorKind::Connect,
        error if error.is_timeout() => ErrorKind::TimedOut,
        error if error.is_body() || error.is_decode() => ErrorKind::Response,
        _ => ErrorKind::Unknown,
    })
}
