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

/// The same of a cluster. A slot that is being moved is led to and fro: its keys are soon where the cluster says.
pub(super) fn of_cluster_call(error: &RedisError, what: &str) -> StoreError {
    match code(error) {
        Some("MOVED" | "ASK") => StoreError::Unavailable(format!("{what}: {error}")),
        _ => of_call(error, what),
    }
}

/// Whether the server takes nothing because it is apart from those that it replicates to, or from.
pub(super) fn is_cut_off(error: &RedisError) -> bool {
    matches!(code(error), Some("NOREPLICAS" | "MASTERDOWN"))
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
        ("NOREPLICAS", "NOREPLICAS "),
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

#[cfg(test)]
mod tests {
    use redis::ServerErrorKind;

    use super::*;

    fn script_says(sentence: &str) -> StoreError {
        let kind = ErrorKind::Server(ServerErrorKind::ResponseError);
        of_call(&RedisError::from((kind, "", sentence.to_owned())), "take")
    }

    #[test]
    fn what_an_old_server_says_in_the_sentence_of_a_script_is_the_same_error() {
        let inside = |sentence: &str| {
            script_says(&format!(
                "Error running script (call to f_0f): @user_script:1: {sentence}"
            ))
        };
        let readonly = inside("READONLY You can't write against a read only replica.");
        assert_eq!(readonly, StoreError::ReadOnly);
        for denied in [
            "OOM command not allowed when used memory > 'maxmemory'.",
            "The user executing the script can't run this command or subcommand",
            "ACL failure in script: User app has no permissions",
        ] {
            let error = inside(denied);
            assert!(matches!(error, StoreError::Denied(_)), "{error:?}");
        }
        let wrong = inside("WRONGTYPE Operation against a key holding the wrong kind of value");
        assert!(matches!(wrong, StoreError::Misused(_)), "{wrong:?}");
        assert!(wrong.may_have_been_done());
    }

    #[test]
    fn any_other_error_of_a_script_is_told_with_its_name() {
        let error = script_says("attempt to index a nil value");
        assert!(matches!(error, StoreError::Data(_)), "{error:?}");
        assert!(error.to_string().contains("take: "), "{error}");
    }

    #[test]
    fn a_timeout_of_the_system_is_a_deadline_and_a_reset_is_not() {
        let io =
            |kind: std::io::ErrorKind| of_call(&RedisError::from(std::io::Error::from(kind)), "x");
        assert_eq!(io(std::io::ErrorKind::TimedOut), StoreError::Deadline);
        let reset = io(std::io::ErrorKind::ConnectionReset);
        assert!(matches!(reset, StoreError::Disconnected(_)), "{reset:?}");
    }
}
