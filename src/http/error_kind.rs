use std::error::Error as StdError;
use std::io;

use crate::call::outcome::{RetrySafety, Verdict};
use crate::error::Rejection;

/// What the error of an HTTP client says of the request: whether it can have reached the server's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No connection: refused, not found, timed out, or the handshake failed. Nothing was sent.
    Connect,
    /// The server's certificate was refused: another attempt meets the same one.
    Certificate,
    /// The request was certainly not processed: it was handed back before it started, or its stream was refused.
    Unsent,
    /// The server takes no more requests on this connection (HTTP/2's `GOAWAY` with `NO_ERROR`), as it does before
    /// it stops. It has not begun this one, as a rule; but `hyper` says the same of a request that was on its way
    /// when the `GOAWAY` came, so it is no proof.
    GoAway,
    /// The server asked to be left alone (HTTP/2's `ENHANCE_YOUR_CALM`).
    EnhanceYourCalm,
    /// The connection ended before there was an answer: the request may have been processed.
    Broken,
    /// The client waited too long: the request may have been processed.
    TimedOut,
    /// There was an answer, which could not be read.
    Response,
    /// The request itself was wrong, or its body failed: nothing is known of the server.
    Request,
    /// A refusal of this side: a breaker, a limit. Nothing is known of the server.
    Local,
    /// Nothing is known.
    Unknown,
}

impl ErrorKind {
    /// Looks through an error and everything that caused it. Of several findings the one that proves most
    /// counts: a connection that is reset while it is made was never there.
    ///
    /// Errors of `hyper`, `hyper-util` and `h2` are known with the feature `hyper`, those of `reqwest` with the
    /// feature of that name, [`std::io::Error`] always.
    #[must_use]
    pub fn of(error: &(dyn StdError + 'static)) -> Self {
        // Chains are short; one that is not is somebody's mistake.
        const LONGEST_CHAIN: usize = 32;
        if Rejection::find(error).is_some() {
            return Self::Local;
        }
        let chain = std::iter::successors(Some(error), |error| causes(*error));
        let found = chain.take(LONGEST_CHAIN).map(Self::of_one);
        let kind = found
            .min_by_key(|kind| kind.doubt())
            .unwrap_or(Self::Unknown);
        match kind {
            Self::Connect if speaks_of_a_certificate(error) => Self::Certificate,
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
            Self::Connect => 6,
            Self::Response => 7,
            Self::TimedOut => 8,
            Self::Broken => 9,
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

    fn of_io(kind: io::ErrorKind) -> Self {
        use io::ErrorKind as Io;
        match kind {
            Io::ConnectionRefused
            | Io::HostUnreachable
            | Io::NetworkUnreachable
            | Io::NetworkDown
            | Io::AddrNotAvailable => Self::Connect,
            Io::ConnectionReset
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

/// What caused an error. An [`io::Error`] hides the error that it was made from: its `source` is that
/// error's source.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    if let Some(inner) = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        return Some(inner);
    }
    error.source()
}

/// TLS libraries are many, and none is named here: all of them speak of the certificate.
fn speaks_of_a_certificate(error: &(dyn StdError + 'static)) -> bool {
    let chain = std::iter::successors(Some(error), |error| causes(*error));
    let mut message = chain.take(32).map(ToString::to_string);
    message.any(|message| message.to_ascii_lowercase().contains("certificate"))
}

#[cfg(feature = "hyper")]
fn of_hyper(error: &(dyn StdError + 'static)) -> Option<ErrorKind> {
    if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
        return Some(match error.is_connect() {
            true => ErrorKind::Connect,
            false => ErrorKind::Unknown,
        });
    }
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        return Some(match error {
            error if error.is_canceled() => ErrorKind::Unsent,
            error if error.is_user() || error.is_body_write_aborted() => ErrorKind::Request,
            error if error.is_parse() => ErrorKind::Response,
            error if error.is_timeout() => ErrorKind::TimedOut,
            error if error.is_incomplete_message() || error.is_closed() => ErrorKind::Broken,
            _ => ErrorKind::Unknown,
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
        Some(h2::Reason::ENHANCE_YOUR_CALM) => ErrorKind::EnhanceYourCalm,
        Some(_) => ErrorKind::Broken,
        None => ErrorKind::Unknown,
    })
}

#[cfg(feature = "reqwest")]
fn of_reqwest(error: &(dyn StdError + 'static)) -> Option<ErrorKind> {
    let error = error.downcast_ref::<reqwest::Error>()?;
    Some(match error {
        error if error.is_builder() || error.is_redirect() => ErrorKind::Request,
        error if error.is_connect() => ErrorKind::Connect,
        error if error.is_body() || error.is_decode() => ErrorKind::Response,
        error if error.is_timeout() => ErrorKind::TimedOut,
        _ => ErrorKind::Unknown,
    })
}
