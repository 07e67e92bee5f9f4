//! What an error without a response means: what is in the chain of its causes.

use std::error::Error as StdError;
use std::time::Duration;

use http::HeaderMap;

use super::code::Code;
use super::pushback::Pushback;
use super::retry_info;
use crate::error::Rejection;
#[cfg(feature = "tonic")]
use crate::http::BodyError;
use crate::http::{ErrorKind, chain};

/// What a status says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    pub(super) code: Code,
    pub(super) pushback: Option<Pushback>,
    /// The wait in its details.
    pub(super) recommended: Option<Duration>,
}

impl Said {
    /// What headers or trailers say beside the code.
    pub(super) fn new(code: Code, headers: &HeaderMap) -> Self {
        Self {
            code,
            pushback: Pushback::from_headers(headers),
            recommended: match code {
                // The usual, which has no details.
                Code::Ok => None,
                _ => retry_info::in_headers(headers),
            },
        }
    }
}

impl From<Code> for Said {
    fn from(code: Code) -> Self {
        Self {
            code,
            pushback: None,
            recommended: None,
        }
    }
}

pub(super) enum Failure {
    /// A layer of this crate refused the call, or the request itself was wrong: nothing is known of the
    /// server.
    Refused,
    Status(Said),
    /// A status of this side, made of a cause that is not known: its code is what its maker says.
    #[cfg(feature = "tonic")]
    Caused(Code),
    /// The server certainly did nothing, and takes the next one.
    NotBegun,
    /// The server takes no more calls on this connection, and has not begun this one, as far as anybody can tell.
    GoAway,
    /// There was no connection to send anything over.
    NotConnected,
    /// There could be none, for want of something on this side.
    NoMeans,
    /// This side waited too long.
    TimedOut,
    /// The connection broke: the call may have been done.
    Broken,
}

/// A `tonic::Status` is what the server said only if nothing caused it: one that was made on this side says in its
/// cause what happened, and its code is whatever the way there made of it. Only where the cause is not known the code
/// counts.
pub(super) fn of(error: &(dyn StdError + 'static)) -> Failure {
    if Rejection::find(error).is_some() {
        return Failure::Refused;
    }
    #[cfg(feature = "tonic")]
    {
        let status = chain(error).find_map(|error| error.downcast_ref::<tonic::Status>());
        if let Some(status) = status
            && status.source().is_none()
        {
            return Failure::Status(Said {
                code: status.code().into(),
                pushback: Pushback::from_headers(status.metadata().as_ref()),
                recommended: retry_info::in_details(status.details()),
            });
        }
        if chain(error).any(|error| error.is::<tonic::TimeoutExpired>()) {
            return Failure::TimedOut;
        }
        if chain(error).any(|error| error.is::<tonic::ConnectError>()) {
            return match chain(error).any(ErrorKind::lacks_means) {
                true => Failure::NoMeans,
                false => Failure::NotConnected,
            };
        }
        // One that was made from what the body of an answer ended with.
        let after_head = status.and_then(|status| status.source());
        if after_head.is_some_and(is_of_a_body) {
            return Failure::Broken;
        }
    }
    let reset = chain(error).find_map(|error| error.downcast_ref::<h2::Error>());
    if let Some(known) = reset.and_then(h2_failure) {
        return known;
    }
    match ErrorKind::of(error) {
        ErrorKind::Unsent => Failure::NotBegun,
        ErrorKind::GoAway => Failure::GoAway,
        ErrorKind::Connect => Failure::NotConnected,
        ErrorKind::NoMeans => Failure::NoMeans,
        ErrorKind::Request | ErrorKind::Local => Failure::Refused,
        ErrorKind::TimedOut if chain(error).any(ErrorKind::is_elapsed) => Failure::TimedOut,
        #[cfg(feature = "tonic")]
        ErrorKind::Unknown => unknown_cause(error).map_or(Failure::Broken, Failure::Caused),
        _ => Failure::Broken,
    }
}

/// gRFC A6, "Transparent Retries": what the server has certainly not begun. Of a GOAWAY that is not quite certain:
/// see [`ErrorKind::GoAway`]. A stream that the other side resets for another reason is broken: a handler that panics
/// looks like a call that was cancelled.
fn h2_failure(error: &h2::Error) -> Option<Failure> {
    let reason = error.reason()?;
    if !error.is_remote() {
        // Reset on this side, and not by the library: the upload failed here.
        let own = error.is_reset() && !error.is_library();
        return Some(if own {
            Failure::Refused
        } else {
            Failure::Broken
        });
    }
    Some(match reason {
        h2::Reason::REFUSED_STREAM if error.is_reset() => Failure::NotBegun,
        h2::Reason::NO_ERROR if error.is_go_away() => Failure::GoAway,
        h2::Reason::ENHANCE_YOUR_CALM if error.is_reset() => {
            Failure::Status(Code::from_reset(reason.into()).into())
        }
        _ => Failure::Broken,
    })
}

/// The code of a status of this side whose cause nobody knows. `UNKNOWN` is what tonic makes of such a cause, and says
/// nothing.
#[cfg(feature = "tonic")]
fn unknown_cause(error: &(dyn StdError + 'static)) -> Option<Code> {
    let status = chain(error).find_map(|error| error.downcast_ref::<tonic::Status>())?;
    let code = Code::from(status.code());
    (code != Code::Unknown).then_some(code)
}

/// A status that comes instead of an answer has the client's own error between itself and these.
#[cfg(feature = "tonic")]
fn is_of_a_body(source: &(dyn StdError + 'static)) -> bool {
    if source.is::<BodyError>() {
        return true;
    }
    #[cfg(feature = "hyper")]
    if source.is::<hyper::Error>() {
        return true;
    }
    source.is::<h2::Error>()
}
