use std::error::Error;
use std::fmt;
use std::time::Duration;

/// Why the shared store did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum StoreError {
    /// There is no connection, or the server is not ready. Nothing has been done.
    Unavailable(String),
    /// The connection broke before the answer came. What was asked may have been done.
    Disconnected(String),
    /// It has not answered in time. What was asked may have been done, or may be done yet.
    Deadline,
    /// It takes no writes: it is no primary any more.
    ReadOnly,
    /// It refuses: a password, a permission, no memory.
    Denied(String),
    /// A key has another type, or keys are in different slots. A part of what was asked may have been done.
    Misused(String),
    /// An answer that makes no sense. What was asked may have been done.
    Data(String),
}

impl StoreError {
    /// Whether what was asked may have been done all the same, or may be done yet.
    ///
    /// A server that was frozen goes on with the commands that it has received, also with those whose callers gave up, and a
    /// script that fails is not rolled back. So what is asked again must be something that can be done twice.
    #[must_use]
    pub fn may_have_been_done(&self) -> bool {
        match self {
            Self::Disconnected(_) | Self::Deadline | Self::Misused(_) | Self::Data(_) => true,
            Self::Unavailable(_) | Self::ReadOnly | Self::Denied(_) => false,
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(why) => write!(f, "the shared store cannot be reached: {why}"),
            Self::Disconnected(why) => {
                write!(f, "the connection to the shared store broke: {why}")
            }
            Self::Deadline => f.write_str("the shared store has not answered in time"),
            Self::ReadOnly => {
                f.write_str("the shared store takes no writes: it is no primary any more")
            }
            Self::Denied(why) => write!(f, "the shared store refuses: {why}"),
            Self::Misused(why) => {
                write!(f, "the shared store is used for something else: {why}")
            }
            Self::Data(why) => write!(f, "the shared store has answered something else: {why}"),
        }
    }
}

impl Error for StoreError {}

/// Why a [`Fleet`](super::Fleet) could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL is not understood, or asks for what is not built in.
    Url(String),
    /// The namespace, the name of the node or a timeout cannot be used.
    Settings(String),
    /// The certificates cannot be read, or there is nothing to encrypt with.
    Tls(String),
    /// There is no tokio runtime.
    NoRuntime,
    /// No server answers at that address.
    Unreachable(String),
    /// Nothing has answered within the time for a connection.
    TimedOut(Duration),
    /// The user name or the password is missing or wrong.
    Credentials(String),
    /// The server is older than 6.2. This is the version it names, or empty if it names none.
    TooOld(String),
    /// The server may evict keys. Limits would be forgotten, and locks given twice. This is its `maxmemory-policy`.
    Evicts(String),
    /// The user may not do what a fleet does: run scripts, read `INFO`, use the keys or the channels of the namespace.
    Forbidden(String),
    /// The server is a replica.
    Replica,
    /// The server was reached, and failed a check in another way.
    Store(StoreError),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(why) => write!(f, "the URL of the shared store cannot be used: {why}"),
            Self::Settings(why) => f.write_str(why),
            Self::Tls(why) => write!(f, "no TLS to the shared store: {why}"),
            Self::NoRuntime => f.write_str(
                "a fleet needs a tokio runtime with its timer and its IO: connect inside of one",
            ),
            Self::Unreachable(why) => write!(f, "the shared store cannot be reached: {why}"),
            Self::TimedOut(after) => write!(
                f,
                "the shared store has not answered within {after:?}; a longer `connect_timeout` helps if it is far away"
            ),
            Self::Credentials(why) => write!(
                f,
                "the shared store refuses the user or the password, which stand in the URL as `redis://user:password@host`: {why}"
            ),
            Self::TooOld(version) if version.is_empty() => f.write_str(
                "the shared store is too old: Redis 6.2 or Valkey is needed, and it does not know HELLO",
            ),
            Self::TooOld(version) => write!(
                f,
                "the shared store is too old: Redis 6.2 or Valkey is needed, and it is {version}"
            ),
            Self::Evicts(policy) => write!(
                f,
                "the shared store may evict keys (maxmemory-policy {policy}), and locks would be given twice: \
                 set `maxmemory-policy noeviction`, or accept it with `allow_eviction()`"
            ),
            Self::Forbidden(why) => write!(
                f,
                "the user of the shared store lacks a permission; it needs \
                 `ACL SETUSER .. ~NAMESPACE:* &NAMESPACE:* +@all -@dangerous +info`: {why}"
            ),
            Self::Replica => {
                f.write_str("the shared store is a replica: give the address of the primary")
            }
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            Self::Url(_)
            | Self::Settings(_)
            | Self::Tls(_)
            | Self::NoRuntime
            | Self::Unreachable(_)
            | Self::TimedOut(_)
            | Self::Credentials(_)
            | Self::TooOld(_)
            | Self::Evicts(_)
            | Self::Forbidden(_)
            | Self::Replica => None,
        }
    }
}

/// What calls are told while a later connection fails for this reason. Nothing has been sent.
impl From<ConnectError> for StoreError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Replica => Self::ReadOnly,
            ConnectError::Credentials(_)
            | ConnectError::Forbidden(_)
            | ConnectError::Evicts(_)
            | ConnectError::TooOld(_) => Self::Denied(error.to_string()),
            ConnectError::Store(error) if !error.may_have_been_done() => error,
            ConnectError::Unreachable(why) => Self::Unavailable(why),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}
