use std::fmt;
use std::sync::Arc;

use crate::error::ConfigError;

/// Why a handle could not be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistryError {
    /// A setting cannot work.
    Config(ConfigError),
    /// The name is taken by a handle with other rules.
    #[non_exhaustive]
    Conflict {
        /// What kind of handle it is: `circuit breaker`, `resource lock`, `rate limit`, `hedge`, `throttle`, `chaos`, `timeouts` or `retry policy`.
        kind: &'static str,
        /// The name.
        name: Arc<str>,
        /// The rules that the name stands for.
        existing: String,
        /// The rules that were asked for.
        requested: String,
    },
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Conflict {
                kind,
                name,
                existing,
                requested,
            } => write!(
                f,
                "the {kind} `{name}` exists with other rules: use another name, or ask for the same rules\n existing: {existing}\nrequested: {requested}"
            ),
        }
    }
}

impl std::error::Error for RegistryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config(error) => Some(error),
            Self::Conflict { .. } => None,
        }
    }
}

impl From<ConfigError> for RegistryError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}
