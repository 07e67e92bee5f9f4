use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::config::ChaosConfig;
use super::future::ChaosFuture;
use super::shared::Shared;
use super::snapshot::ChaosSnapshot;
use crate::error::{ConfigChange, ConfigError};
use crate::event::Observer;

/// Faults on purpose: a cheap clone of shared, named rates.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), tower_bulwark::ConfigError> {
/// use std::io;
/// use tower_bulwark::Chaos;
///
/// let chaos = Chaos::builder("drill").error(1.0).build()?;
/// chaos.arm();
/// let fails = || Err(io::Error::other("a drill"));
/// let call = chaos.run(fails, || async { Ok::<_, io::Error>(7) });
/// assert_eq!(call.await.unwrap_err().to_string(), "a drill");
/// chaos.disarm();
/// assert_eq!(chaos.snapshot().injected.error, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Chaos {
    pub(super) shared: Arc<Shared>,
}

impl Chaos {
    pub(super) fn from_parts(
        name: Arc<str>,
        config: ChaosConfig,
        seed: u64,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared::new(name, config, seed, observers)),
        }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared.name()
    }

    /// What it goes by.
    #[must_use]
    pub fn config(&self) -> Arc<ChaosConfig> {
        self.shared.config.load_full()
    }

    /// From the next call on there are faults, until [`disarm`](Self::disarm).
    pub fn arm(&self) {
        self.arm_for(Duration::MAX);
    }

    /// From the next call on there are faults, for so long: a drill that nobody has to remember to end.
    pub fn arm_for(&self, length: Duration) {
        self.shared.arm_for(length);
    }

    /// From the next call on there are none. Calls that hang go on to hang.
    pub fn disarm(&self) {
        self.shared.disarm();
    }

    /// Whether there are faults now.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.shared.is_armed()
    }

    /// Goes by these rates from the next call on, and says what changes.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for what cannot work: nothing changes then.
    pub fn update(&self, config: ChaosConfig) -> Result<ConfigChange, ConfigError> {
        self.shared.update(config)
    }

    /// Everything there is to know, at one moment.
    #[must_use]
    pub fn snapshot(&self) -> ChaosSnapshot {
        self.shared.snapshot()
    }

    /// Makes a call, with what this drill adds to it. `fault` gives what a call that is to fail ends with.
    ///
    /// Dropping the future drops the call.
    ///
    /// # Errors
    ///
    /// Those of the operation, and of `fault`.
    ///
    /// # Panics
    ///
    /// If it is to.
    pub async fn run<T, E, Fut>(
        &self,
        fault: impl FnOnce() -> Result<T, E>,
        operation: impl FnOnce() -> Fut,
    ) -> Result<T, E>
    where
        Fut: Future<Output = Result<T, E>>,
    {
        ChaosFuture::begin(&self.shared, fault, operation).await
    }

    pub(crate) fn is_disused(&self) -> bool {
        self.has_one_handle() && !self.is_armed()
    }

    pub(crate) fn has_one_handle(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }
}

impl fmt::Debug for Chaos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chaos")
            .field("name", &self.name())
            .field("armed", &self.is_armed())
            .field("config", &self.config())
            .finish()
    }
}
