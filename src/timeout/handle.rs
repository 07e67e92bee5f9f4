use std::fmt;
use std::sync::Arc;

use super::config::TimeoutConfig;
use super::shared::Shared;
use super::snapshot::TimeoutsSnapshot;
use crate::error::{ConfigChange, ConfigError};
use crate::event::Observer;
#[cfg(feature = "metrics")]
use crate::util::histogram::Histogram;
use crate::util::sharded::ShardedArc;

/// How long each part of a call may take: a cheap clone of shared, named limits.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), tower_bulwark::ConfigError> {
/// use std::time::Duration;
/// use tower_bulwark::{Error, TimeoutPhase, Timeouts};
///
/// let timeouts = Timeouts::builder("openai").head(Duration::from_secs(20)).build()?;
/// let late = timeouts.run(std::future::pending::<Result<(), std::io::Error>>).await;
/// assert!(matches!(late, Err(Error::TimedOut(late)) if late.phase() == TimeoutPhase::Head));
/// assert_eq!(timeouts.snapshot().timed_out.head, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Timeouts {
    pub(super) shared: ShardedArc<Shared>,
}

impl Timeouts {
    pub(super) fn from_parts(
        name: Arc<str>,
        config: TimeoutConfig,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Self {
        Self {
            shared: ShardedArc::new(Shared::new(name, config, observers)),
        }
    }

    /// Nothing ends.
    pub(crate) fn unlimited(name: impl Into<Arc<str>>) -> Self {
        Self::from_parts(name.into(), TimeoutConfig::default(), Vec::new())
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared.name()
    }

    /// What they go by.
    #[must_use]
    pub fn config(&self) -> Arc<TimeoutConfig> {
        self.shared.config.load_full()
    }

    /// Goes by this config from the next call on, and says what changes. A call on its way ends as it would have; the body
    /// of its response goes by the config that holds when its head comes.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for what cannot work: nothing changes then.
    pub fn update(&self, config: TimeoutConfig) -> Result<ConfigChange, ConfigError> {
        self.shared.update(config)
    }

    /// Everything there is to know, at one moment.
    #[must_use]
    pub fn snapshot(&self) -> TimeoutsSnapshot {
        self.shared.snapshot()
    }

    /// How long calls with a `total` took.
    #[cfg(feature = "metrics")]
    pub(crate) fn call_times(&self) -> Histogram {
        self.shared.times().all()
    }

    /// Whether nobody else has a handle, and no call is on its way. There is nothing to remember.
    pub(crate) fn is_disused(&self) -> bool {
        self.shared.is_sole()
    }
}

impl fmt::Debug for Timeouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timeouts")
            .field("name", &self.name())
            .field("config", &self.config())
            .finish()
    }
}
