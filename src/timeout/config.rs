use std::time::Duration;

use crate::error::{ConfigChange, ConfigError, config_change};

/// What timeouts go by: plain data, checked when they are built or [updated](super::Timeouts::update) with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct TimeoutConfig {
    /// How long the service may take to be ready.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<crate::util::humane::Humane>")
    )]
    pub ready: Option<Duration>,
    /// How long the service may take to answer, or to send the head of a response whose body streams.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<crate::util::humane::Humane>")
    )]
    pub head: Option<Duration>,
    /// How long the first frame of a body may be waited for.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<crate::util::humane::Humane>")
    )]
    pub first_frame: Option<Duration>,
    /// How long each later frame of a body may be waited for.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<crate::util::humane::Humane>")
    )]
    pub idle: Option<Duration>,
    /// How long all of it may take.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<crate::util::humane::Humane>")
    )]
    pub total: Option<Duration>,
    /// Whether the ambient [deadline](crate::deadline) ends calls and bodies.
    pub end_at_deadline: bool,
}

impl TimeoutConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let phases = [
            ("ready", self.ready),
            ("head", self.head),
            ("first_frame", self.first_frame),
            ("idle", self.idle),
            ("total", self.total),
        ];
        for (setting, limit) in phases {
            if limit == Some(Duration::ZERO) {
                let advice = "nothing ends in no time: give a duration above zero, or leave it out";
                return Err(ConfigError::new(setting, Duration::ZERO, advice));
            }
        }
        if phases.iter().all(|(_, limit)| limit.is_none()) && !self.end_at_deadline {
            let advice = "nothing would be limited: give one phase, such as `head`";
            return Err(ConfigError::new("phases", "empty", advice));
        }
        Ok(())
    }

    /// What differs in `new`.
    pub(super) fn difference(&self, new: &Self) -> ConfigChange {
        config_change!(
            self,
            new,
            ready,
            head,
            first_frame,
            idle,
            total,
            end_at_deadline
        )
    }

    /// Only what a layer of this part is there for.
    pub(super) fn of(self, part: Part) -> Self {
        match part {
            Part::All => self,
            Part::Total => Self {
                total: self.total,
                end_at_deadline: self.end_at_deadline,
                ..Self::default()
            },
            Part::Attempt => Self {
                total: None,
                ..self
            },
        }
    }
}

/// Which phases a layer is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    All,
    /// `total` alone.
    Total,
    /// All but `total`.
    Attempt,
}
