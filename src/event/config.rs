use std::fmt;

/// What happens to the config of a registry.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ConfigEvent {
    /// A config was applied, and has changed something. (`INFO`)
    #[non_exhaustive]
    Applied {
        /// How many entries are others now.
        entries: usize,
        /// What has changed, line by line.
        changes: String,
    },
    /// A config was refused as a whole: what was there before goes on. (`ERROR`)
    #[non_exhaustive]
    Refused {
        /// How many problems it has.
        problems: usize,
        /// What is wrong with it, line by line.
        reason: String,
    },
}

impl ConfigEvent {
    /// A short name of what happened.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Applied { .. } => "applied",
            Self::Refused { .. } => "refused",
        }
    }
}

impl fmt::Display for ConfigEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Applied { changes, .. } => write!(f, "applied: {}", OneLine(changes)),
            Self::Refused { reason, .. } => {
                write!(f, "refused, the config before goes on: {}", OneLine(reason))
            }
        }
    }
}

/// Lines, in one.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, line) in self.0.lines().enumerate() {
            let then = if i == 0 { "" } else { "; " };
            write!(f, "{then}{line}")?;
        }
        Ok(())
    }
}
