//! What an error without a response means: what is in the chain of its causes.

use std::error::Error as StdError;

use super::code::Code;
use super::pushback::Pushback;
use crate::error::Rejection;
use crate::http::ErrorKind;

pub(super) enum Failure {
    /// A layer of this crate refused the call, or the request itself was wrong: nothing is known of the
    /// server.
    Refused,
    Status(Code, Option<Pushback>),
    /// The server certainly did nothing, and takes the next one.
    NotBegun,
    /// The server takes no more calls on this connection, and has not begun this one, as far as anybody can tell.
    GoAway,
    /// There was no connection to send anything over.
    NotConnected,
    Unknown,
}

pub(super) fn of(error: &(dyn StdError + 'static)) -> Failure {
    // A chain is as long as the program's layering; a cyclic one is nobody's intention.
    const LONGEST_CHAIN: usize = 64;
    if Rejection::find(error).is_some() {
        return Failure::Refused;
    }
    let mut next = Some(error);
    for _ in 0..LONGEST_CHAIN {
        let Some(error) = next else { break };
        if let Some(known) = link(error) {
            return known;
        }
        // `io::Error::source` skips the very error it was made from.
        let io = error.downcast_ref::<std::io::Error>();
        next = match io.and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    match ErrorKind::of(error) {
        ErrorKind::Unsent => Failure::NotBegun,
        ErrorKind::GoAway => Failure::GoAway,
        ErrorKind::Connect => Failure::NotConnected,
        ErrorKind::Request | ErrorKind::Local => Failure::Refused,
        _ => Failure::Unknown,
    }
}

fn link(error: &(dyn StdError + 'static)) -> Option<Failure> {
    #[cfg(feature = "tonic")]
    if let Some(known) = tonic_link(error) {
        return Some(known);
    }
    if let Some(error) = error.downcast_ref::<h2::Error>() {
        return Some(h2_failure(error));
    }
    error
        .is::<tokio::time::error::Elapsed>()
        .then_some(Failure::Status(Code::DeadlineExceeded, None))
}

/// gRFC A6, "Transparent Retries": what the server has certainly not begun. Of a GOAWAY that is not quite certain:
/// see [`ErrorKind::GoAway`].
fn h2_failure(error: &h2::Error) -> Failure {
    let Some(reason) = error.reason() else {
        return Failure::Unknown;
    };
    let refused = error.is_reset() && reason == h2::Reason::REFUSED_STREAM;
    let goodbye = error.is_go_away() && reason == h2::Reason::NO_ERROR;
    if error.is_remote() && refused {
        return Failure::NotBegun;
    }
    if error.is_remote() && goodbye {
        return Failure::GoAway;
    }
    match error.is_reset() {
        true => Failure::Status(Code::from_reset(reason.into()), None),
        false => Failure::Unknown,
    }
}

#[cfg(feature = "tonic")]
fn tonic_link(error: &(dyn StdError + 'static)) -> Option<Failure> {
    if let Some(status) = error.downcast_ref::<tonic::Status>() {
        let pushback = Pushback::from_headers(status.metadata().as_ref());
        return Some(Failure::Status(status.code().into(), pushback));
    }
    if error.is::<tonic::TimeoutExpired>() {
        return Some(Failure::Status(Code::DeadlineExceeded, None));
    }
    error
        .is::<tonic::ConnectError>()
        .then_some(Failure::NotConnected)
}
