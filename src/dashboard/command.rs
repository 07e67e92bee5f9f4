//! What an operator may command, and who says whether.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::registry::Registry;

/// Something that an operator wants done to a handle of the registry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Command {
    /// What it is: `circuit_breaker`, `resource_lock`, `rate_limit`, `retry`, `timeouts`, `hedge`, `throttle` or `chaos`.
    pub pattern: String,
    /// Its name.
    pub name: String,
    /// What is to be done.
    pub action: Action,
}

/// What is to be done to a handle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Action {
    /// [`CircuitBreaker::force_open`](crate::CircuitBreaker::force_open).
    ForceOpen,
    /// [`CircuitBreaker::force_close`](crate::CircuitBreaker::force_close).
    ForceClose,
    /// [`CircuitBreaker::disable`](crate::CircuitBreaker::disable).
    Disable,
    /// [`CircuitBreaker::metrics_only`](crate::CircuitBreaker::metrics_only).
    MetricsOnly,
    /// `reset` of a circuit breaker, a rate limit or a throttle; `reset_stats` of a resource lock.
    Reset,
    /// [`ResourceLock::set_max_concurrent`](crate::ResourceLock::set_max_concurrent).
    Capacity(usize),
    /// Other settings, as data: those that are not named stay. See [`Config`](Self::Config).
    Config(Value),
    /// [`Chaos::arm_for`](crate::Chaos::arm_for), for so many seconds, at most an hour.
    Arm(u64),
    /// [`Chaos::disarm`](crate::Chaos::disarm).
    Disarm,
}

/// Who has said that a command may be carried out: it is written to the log with the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator(String);

impl Operator {
    /// By name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// A command that may not be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied(String);

impl Denied {
    /// With a reason, which the operator is shown.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Denied {}

/// Says for each command who gives it, or that it is denied.
pub(super) type Authorize = Arc<dyn Fn(&Parts, &Command) -> Result<Operator, Denied> + Send + Sync>;

/// Why a command was not carried out.
#[derive(Debug)]
pub(super) enum Refused {
    /// There is no handle of that kind and name.
    Unknown,
    /// That cannot be done to a handle of this kind.
    NotForThis,
    /// A value that cannot work.
    Wrong(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("there is nothing of that kind and name"),
            Self::NotForThis => f.write_str("that cannot be done to it"),
            Self::Wrong(why) => f.write_str(why),
        }
    }
}

impl Command {
    /// Carries it out; says what has changed.
    pub(super) fn carry_out(&self, registry: &Registry) -> Result<String, Refused> {
        let name = &*self.name;
        match &*self.pattern {
            "circuit_breaker" => {
                let handle = registry.get_circuit_breaker(name).ok_or(Refused::Unknown)?;
                let from = handle.state();
                match &self.action {
                    Action::ForceOpen => handle.force_open(),
                    Action::ForceClose => handle.force_close(),
                    Action::Disable => handle.disable(),
                    Action::MetricsOnly => handle.metrics_only(),
                    Action::Reset => handle.reset(),
                    Action::Config(new) => {
                        return change(&*handle.config(), new, |it| handle.update(it));
                    }
                    Action::Capacity(_) | Action::Arm(_) | Action::Disarm => {
                        return Err(Refused::NotForThis);
                    }
                }
                Ok(format!("{from} -> {}", handle.state()))
            }
            "resource_lock" => {
                let handle = registry.get_resource_lock(name).ok_or(Refused::Unknown)?;
                match &self.action {
                    Action::Capacity(n) => {
                        let from = handle.snapshot().capacity;
                        let done = handle.set_max_concurrent(*n);
                        done.map_err(|error| Refused::Wrong(error.to_string()))?;
                        Ok(format!("{from} -> {} permits", handle.snapshot().capacity))
                    }
                    Action::Reset => {
                        handle.reset_stats();
                        Ok("its statistics begin again".to_owned())
                    }
                    Action::Config(new) => change(&*handle.config(), new, |it| handle.update(it)),
                    _ => Err(Refused::NotForThis),
                }
            }
            "rate_limit" => {
                let handle = registry.get_rate_limit(name).ok_or(Refused::Unknown)?;
                match &self.action {
                    Action::Reset => {
                        handle.reset();
                        Ok("all quotas are full".to_owned())
                    }
                    Action::Config(new) => change(&*handle.config(), new, |it| handle.update(it)),
                    _ => Err(Refused::NotForThis),
                }
            }
            "throttle" => {
                let handle = registry.get_throttle(name).ok_or(Refused::Unknown)?;
                match &self.action {
                    Action::Reset => {
                        handle.reset();
                        Ok("what was counted is forgotten".to_owned())
                    }
                    Action::Config(new) => change(&*handle.config(), new, |it| handle.update(it)),
                    _ => Err(Refused::NotForThis),
                }
            }
            "chaos" => {
                let handle = registry.get_chaos(name).ok_or(Refused::Unknown)?;
                match &self.action {
                    Action::Arm(seconds @ 1..=3_600) => {
                        handle.arm_for(Duration::from_secs(*seconds));
                        Ok(format!("armed for {seconds} s"))
                    }
                    Action::Arm(_) => Err(Refused::Wrong("give 1 to 3600 seconds".to_owned())),
                    Action::Disarm => {
                        handle.disarm();
                        Ok("disarmed".to_owned())
                    }
                    Action::Config(new) => change(&*handle.config(), new, |it| handle.update(it)),
                    _ => Err(Refused::NotForThis),
                }
            }
            "retry" | "timeouts" | "hedge" => self.only_config(registry),
            _ => Err(Refused::Unknown),
        }
    }

    fn only_config(&self, registry: &Registry) -> Result<String, Refused> {
        let Action::Config(new) = &self.action else {
            return Err(Refused::NotForThis);
        };
        let name = &*self.name;
        match &*self.pattern {
            "retry" => {
                let handle = registry.get_retry(name).ok_or(Refused::Unknown)?;
                change(&*handle.config(), new, |it| handle.update(it))
            }
            "timeouts" => {
                let handle = registry.get_timeouts(name).ok_or(Refused::Unknown)?;
                change(&*handle.config(), new, |it| handle.update(it))
            }
            _ => {
                let handle = registry.get_hedge(name).ok_or(Refused::Unknown)?;
                change(&*handle.config(), new, |it| handle.update(it))
            }
        }
    }
}

/// Puts settings over those there are.
fn change<C: Serialize + serde::de::DeserializeOwned>(
    now: &C,
    new: &Value,
    update: impl FnOnce(C) -> Result<crate::error::ConfigChange, crate::error::ConfigError>,
) -> Result<String, Refused> {
    let wrong = |error: &dyn fmt::Display| Refused::Wrong(error.to_string());
    let mut whole = serde_json::to_value(now).map_err(|error| wrong(&error))?;
    let (Value::Object(whole), Value::Object(new)) = (&mut whole, new) else {
        return Err(Refused::Wrong(
            "a config is an object of settings".to_owned(),
        ));
    };
    whole.extend(new.clone());
    // A budget that code has given is no data: it stays if nothing else is said.
    if whole.get("budget").is_some_and(|it| it == "shared") {
        whole.remove("budget");
    }
    let config =
        C::deserialize(Value::Object(std::mem::take(whole))).map_err(|error| wrong(&error))?;
    let change = update(config).map_err(|error| wrong(&error))?;
    Ok(change.to_string())
}
