//! What an operator may say, and what came of it.

use std::fmt;

use http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::pattern::Pattern;
use super::settings::differences;
use super::words::clipped;
use crate::error::{ConfigChange, ConfigError};

/// A command to one handle: `{"pattern": "circuit_breaker", "name": "openai", "command": "force_open"}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Command {
    /// The kind of the handle.
    pub pattern: Pattern,
    /// Its name; in a group its key.
    pub name: String,
    /// The group of keys that it is in, if it is in one: the name that
    /// [`DashboardBuilder::keyed`](super::DashboardBuilder::keyed) was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// What to do with it.
    #[serde(flatten)]
    pub action: Action,
}

/// What to do with a handle. In JSON the field `command` has its name in snake case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Action {
    /// Circuit breakers: refuse all calls until it is closed or reset.
    ForceOpen,
    /// Circuit breakers: close now, and work on from there.
    ForceClose,
    /// Circuit breakers: let all calls through and count nothing.
    Disable,
    /// Circuit breakers: let all calls through, and count.
    MetricsOnly,
    /// Circuit breakers forget everything and are closed, rate limits and throttles forget what was used, locks their
    /// statistics.
    Reset,
    /// Locks: how many permits there are.
    #[non_exhaustive]
    Capacity {
        /// So many.
        permits: usize,
    },
    /// Whatever has a config: these settings are others from now on, and all others stay as they are. They are written as
    /// in a file: a time is `"250ms"`, `"30s"` or `"1m30s"`, and what is off is `"none"`.
    #[non_exhaustive]
    Config {
        /// The settings, by the names that the config has.
        config: Map<String, Value>,
    },
    /// Drills: there are faults from now on, for so long.
    #[non_exhaustive]
    Arm {
        /// From 1 to 3600: nobody has to remember to end it.
        seconds: u64,
    },
    /// Drills: there are none.
    Disarm,
}

impl Command {
    /// Reads what the page has sent. A field that a command does not have is an error: it was meant to do something.
    pub(super) fn read(json: &[u8]) -> Result<Self, String> {
        let given: Map<String, Value> =
            serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let command = Self::deserialize(Value::Object(given.clone()));
        let command = command.map_err(|error| error.to_string())?;
        let known = serde_json::to_value(&command).unwrap_or_default();
        let is_known = |name: &str| name == "group" || known.get(name).is_some();
        match given.keys().find(|name| !is_known(name)) {
            None => Ok(command),
            Some(name) => Err(format!(
                "`{}` has no `{}`",
                command.action.name(),
                clipped(name)
            )),
        }
    }
}

impl Action {
    /// Its name, as it stands in JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::ForceOpen => "force_open",
            Self::ForceClose => "force_close",
            Self::Disable => "disable",
            Self::MetricsOnly => "metrics_only",
            Self::Reset => "reset",
            Self::Capacity { .. } => "capacity",
            Self::Config { .. } => "config",
            Self::Arm { .. } => "arm",
            Self::Disarm => "disarm",
        }
    }

    /// The names of all commands that handles of a pattern take.
    pub(super) fn names_for(pattern: Pattern) -> &'static [&'static str] {
        match pattern {
            Pattern::CircuitBreaker => &[
                "force_open",
                "force_close",
                "disable",
                "metrics_only",
                "reset",
                "config",
            ],
            Pattern::ResourceLock => &["capacity", "reset", "config"],
            Pattern::RateLimit | Pattern::Throttle => &["reset", "config"],
            Pattern::Retry | Pattern::Hedge | Pattern::Timeouts => &["config"],
            Pattern::Chaos => &["arm", "disarm", "config"],
            Pattern::Fallback
            | Pattern::Fleet
            | Pattern::FleetCircuitBreaker
            | Pattern::FleetLock
            | Pattern::FleetRateLimit => &[],
        }
    }

    pub(super) fn does_not_fit(&self, pattern: Pattern) -> CommandError {
        let has = match Self::names_for(pattern) {
            [] => "none".to_owned(),
            names => names.join(", "),
        };
        let message = format!(
            "a {pattern} has no command `{}`; it has: {has}",
            self.name()
        );
        CommandError::new(ErrorCode::NotApplicable, message)
    }

    /// Updates a config by some of its settings.
    pub(super) fn update<C: Serialize + DeserializeOwned>(
        &self,
        now: &C,
        settings: &Map<String, Value>,
        update: impl FnOnce(C) -> Result<ConfigChange, ConfigError>,
    ) -> Result<Done, CommandError> {
        let config = merged(now, settings).map_err(|error| {
            // The error does not say where it is.
            let alone =
                |(name, value): (&String, &Value)| Map::from_iter([(name.clone(), value.clone())]);
            let wrong = settings.iter().find(|it| merged(now, &alone(*it)).is_err());
            match wrong {
                Some((name, _)) => CommandError::nonsense(format!("`{}`: {error}", clipped(name))),
                None => CommandError::nonsense(error),
            }
        })?;
        let words = differences(now, &config);
        update(config).map_err(CommandError::nonsense)?;
        Ok(Done::changed(&words))
    }
}

/// A config with some settings of another value.
pub(super) fn merged<C: Serialize + DeserializeOwned>(
    now: &C,
    settings: &Map<String, Value>,
) -> Result<C, serde_json::Error> {
    let mut all = serde_json::to_value(now)?;
    if let Value::Object(all) = &mut all {
        all.extend(settings.clone());
        // A budget that code has given is no data: it stays if nothing else is said.
        if all.get("budget").is_some_and(|it| it == "shared") {
            all.remove("budget");
        }
    }
    serde_json::from_value(all)
}

/// What a command has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Done {
    pub(super) from: String,
    pub(super) to: String,
}

impl Done {
    pub(super) fn between(from: impl fmt::Display, to: impl fmt::Display) -> Self {
        Self {
            from: clipped(&from.to_string()),
            to: clipped(&to.to_string()),
        }
    }

    /// By these settings.
    fn changed(settings: &[[String; 2]]) -> Self {
        let side = |of: usize| {
            let words: Vec<&str> = settings.iter().map(|it| &*it[of]).collect();
            words.join(", ")
        };
        match settings.is_empty() {
            true => Self::between("as it was", "as it was"),
            false => Self::between(side(0), side(1)),
        }
    }
}

/// Why there was no command, or why it has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CommandError {
    pub(super) code: ErrorCode,
    pub(super) message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ErrorCode {
    /// The request may come from another site.
    NotSameOrigin,
    /// The hook says no.
    Denied,
    /// No command can be read from it.
    Unreadable,
    /// There is no such handle, or no such group.
    UnknownName,
    /// Such a handle has no such command.
    NotApplicable,
    /// It would not work with this value.
    Nonsense,
    /// Somebody else is in the way.
    Busy,
}

impl CommandError {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message }
    }

    pub(super) fn nonsense(error: impl fmt::Display) -> Self {
        Self::new(ErrorCode::Nonsense, error.to_string())
    }

    pub(super) fn status(&self) -> StatusCode {
        match self.code {
            ErrorCode::NotSameOrigin | ErrorCode::Denied => StatusCode::FORBIDDEN,
            ErrorCode::Unreadable => StatusCode::BAD_REQUEST,
            ErrorCode::UnknownName => StatusCode::NOT_FOUND,
            ErrorCode::NotApplicable | ErrorCode::Nonsense => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorCode::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::contention::ContentionConfig;

    fn read(json: &str) -> Result<Command, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn a_command_is_read_with_its_value() {
        let capacity =
            r#"{"pattern":"resource_lock","name":"gpu","command":"capacity","permits":3}"#;
        let command = read(capacity).unwrap();
        assert_eq!(command.action, Action::Capacity { permits: 3 });
        assert_eq!(
            (command.pattern, &*command.name, command.group),
            (Pattern::ResourceLock, "gpu", None)
        );
        // It is data for tools, too.
        let command = read(capacity).unwrap();
        assert_eq!(serde_json::to_string(&command).unwrap(), capacity);
        for wrong in [
            r#"{"pattern":"resource_lock","name":"gpu","command":"capacity"}"#,
            r#"{"pattern":"resource_lock","name":"gpu","command":"capacity","permits":-1}"#,
            r#"{"pattern":"resource_lock","name":"gpu","command":"explode"}"#,
            r#"{"pattern":"teapot","name":"gpu","command":"reset"}"#,
            r#"{"name":"gpu","command":"reset"}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn settings_that_are_not_named_stay_and_a_time_is_words() {
        let now = ContentionConfig {
            max_concurrent: 7,
            ..ContentionConfig::default()
        };
        let settings = |json| serde_json::from_value::<Map<String, Value>>(json).unwrap();
        let new = merged(&now, &settings(json!({"timeout": "1s500ms"}))).unwrap();
        assert_eq!(new.timeout, Some(Duration::from_millis(1_500)));
        assert_eq!(new.max_concurrent, 7);
        let none = merged(&now, &settings(json!({"timeout": "none"}))).unwrap();
        assert_eq!(none.timeout, None);
        let wrong = merged(&now, &settings(json!({"max_concurent": 2}))).unwrap_err();
        assert!(wrong.to_string().contains("max_concurent"), "{wrong}");
        assert!(merged(&now, &settings(json!({"timeout": "soon"}))).is_err());
    }
}
