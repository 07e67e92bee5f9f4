use std::fmt;
use std::sync::Arc;

use super::config::{Budget, HedgeConfig, HedgeRules};
use super::shared::Shared;
use super::snapshot::HedgeSnapshot;
use crate::error::{ConfigChange, ConfigError};
use crate::event::Observer;
use crate::retry::RetryBudget;
use crate::util::sharded::ShardedArc;
#[cfg(feature = "metrics")]
use crate::util::{histogram::Histogram, time};

/// When a call that takes long is made a second time: a cheap clone of shared, named rules.
///
/// Clones share the latencies, the budget and the counts.
#[derive(Clone)]
pub struct Hedge {
    pub(super) shared: ShardedArc<Shared>,
}

impl Hedge {
    pub(super) fn from_parts(
        name: Arc<str>,
        config: HedgeConfig,
        budget: Budget,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Self {
        Self {
            shared: ShardedArc::new(Shared::new(name, config, budget, observers)),
        }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared.name()
    }

    /// What it goes by.
    #[must_use]
    pub fn config(&self) -> Arc<HedgeConfig> {
        self.shared.config.load_full()
    }

    pub(crate) fn rules(&self) -> HedgeRules {
        self.shared.rules()
    }

    /// What pays for the hedges, if anything does.
    #[must_use]
    pub fn budget(&self) -> Option<&RetryBudget> {
        self.shared.budget.as_ref()
    }

    /// Goes by this config, and says what changes. Of calls on their way only how many hedges they may have stays as it was,
    /// and the delay after an attempt that runs. Latencies, budget and counts stay.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for what cannot work: nothing changes then.
    pub fn update(&self, config: HedgeConfig) -> Result<ConfigChange, ConfigError> {
        self.shared.update(config)
    }

    /// Everything there is to know, at one moment.
    #[must_use]
    pub fn snapshot(&self) -> HedgeSnapshot {
        self.shared.snapshot()
    }

    /// How long calls were at the service, if the delay depends on that.
    #[cfg(feature = "metrics")]
    pub(crate) fn latencies(&self) -> Histogram {
        self.shared.latencies_at(time::now()).all()
    }

    /// Whether nobody else has a handle, no call is on its way, and there is nothing to remember.
    pub(crate) fn is_disused(&self) -> bool {
        self.has_one_handle() && self.remembers_nothing()
    }

    /// Whether one that is made anew would do the same.
    pub(crate) fn remembers_nothing(&self) -> bool {
        self.shared.remembers_nothing()
    }

    /// Whether nobody else has a handle, and no call is on its way.
    pub(crate) fn has_one_handle(&self) -> bool {
        self.shared.is_sole()
    }
}

impl fmt::Debug for Hedge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hedge")
            .field("name", &self.name())
            .field("config", &self.config())
            .finish_non_exhaustive()
    }
}
