//! What the errors of a server mean.

use redis::{ErrorKind, RedisError};

use super::super::error::{ConnectError, StoreError};

/// What a call has to be told. `what` names the command, or the script.
pub(super) fn of_call(error: &RedisError, what: &str) -> StoreError {
    if error.is_timeout() {
        return StoreError::Deadline;
    }
    let text = || format!("{what}: {error}");
    match code(error) {
        Some("READONLY") => StoreError::ReadOnly,
        Some("NOAUTH" | "WRONGPASS" | "NOPERM" | "OOM" | "MISCONF" | "NOREPLICAS") => {
            StoreError::Denied(text())
        }
        Some("WRONGTYPE" | "CROSSSLOT" | "MOVED" | "ASK") => StoreError::Misused(text()),
        Some("LOADING" | "BUSY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN") => {
            StoreError::Unavailable(text())
        }
        Some(_) => StoreError::Data(text()),
        None => match error.kind() {
            ErrorKind::Io => StoreError::Disconnected(error.to_string()),
            ErrorKind::AuthenticationFailed => StoreError::Denied(text()),
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => StoreError::Data(text()),
            _ => StoreError::Unavailable(text()),
        },
    }
}

/// Why there is no connection.
pub(super) fn of_connect(error: &RedisError) -> ConnectError {
    match (code(error), error.kind()) {
        (Some("NOAUTH" | "WRONGPASS"), _) | (_, ErrorKind::AuthenticationFailed) => {
            ConnectError::Credentials(error.to_string())
        }
        (Some("NOPERM"), _) => ConnectError::Forbidden(error.to_string()),
        (_, ErrorKind::RESP3NotSupported) => ConnectError::TooOld(String::new()),
        (_, ErrorKind::InvalidClientConfig) => ConnectError::Url(error.to_string()),
        (Some(_), _) => of_check(error),
        (None, _) => ConnectError::Unreachable(error.to_string()),
    }
}

/// Why a check has failed on a connection that stands.
pub(super) fn of_check(error: &RedisError) -> ConnectError {
    match of_call(error, "check") {
        StoreError::ReadOnly => ConnectError::Replica,
        StoreError::Denied(_) if matches!(code(error), Some("NOAUTH" | "WRONGPASS")) => {
            ConnectError::Credentials(error.to_string())
        }
        StoreError::Denied(_) if code(error) == Some("NOPERM") => {
            ConnectError::Forbidden(error.to_string())
        }
        // A server from before HELLO with a script it does not understand says ERR as well.
        other => ConnectError::Store(other),
    }
}

/// The word in capitals that an error of a server begins with. Inside of scripts, old servers put it into a sentence.
fn code(error: &RedisError) -> Option<&str> {
    let code = error.code()?;
    if code != "ERR" {
        return Some(code);
    }
    let detail = error.detail().unwrap_or_default();
    let inner = [
        ("READONLY", "READONLY "),
        ("OOM", "OOM command not allowed"),
        ("WRONGTYPE", "WRONGTYPE "),
        ("NOPERM", "NOPERM "),
        ("NOPERM", "ACL failure in script"),
        ("NOPERM", "executing the script can't "),
        (
            "CROSSSLOT",
            "Script attempted to access keys that do not hash to the same slot",
        ),
        ("CROSSSLOT", "Script attempted to access a non local key"),
    ];
    inner
        .iter()
        .find(|(_, words)| detail.contains(words))
        .map_or(Some(code), |(code, _)| Some(code))
}
