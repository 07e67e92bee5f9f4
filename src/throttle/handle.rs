use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use super::config::ThrottleConfig;
use super::future::ThrottleFuture;
use super::permit::ThrottlePermit;
use super::shared::Shared;
use super::snapshot::ThrottleSnapshot;
use crate::call::outcome::{Classify, ErrorsAreFailures};
use crate::error::{AsError, ConfigChange, ConfigError, Error, IntoError, Throttled};
use crate::event::Observer;
use crate::util::sharded::ShardedArc;

/// Refuses a share of the calls to a service that does not accept all of them: a cheap clone of shared, named counts.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), tower_bulwark::ConfigError> {
/// use tower_bulwark::Throttle;
///
/// let throttle = Throttle::builder("search").seed(1).build()?;
/// for _ in 0..20 {
///     if let Ok(permit) = throttle.try_acquire() {
///         permit.overload();
///     }
/// }
/// let probability = throttle.snapshot().probability;
/// assert!((probability - 0.9).abs() < 1e-9, "{probability}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Throttle {
    pub(super) shared: ShardedArc<Shared>,
}

impl Throttle {
    pub(super) fn from_parts(
        name: Arc<str>,
        config: ThrottleConfig,
        seed: Option<u64>,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Self {
        Self {
            shared: ShardedArc::new(Shared::new(name, config, seed, observers)),
        }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared.name()
    }

    /// What it goes by.
    #[must_use]
    pub fn config(&self) -> Arc<ThrottleConfig> {
        self.shared.config.load_full()
    }

    /// Goes by this config from now on, and says what changes. The counts stay, unless the window has another length: then
    /// it begins anew.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for what cannot work: nothing changes then.
    pub fn update(&self, config: ThrottleConfig) -> Result<ConfigChange, ConfigError> {
        self.shared.update(config)
    }

    /// Forgets what is in the window: the next calls go through. The totals stay.
    pub fn reset(&self) {
        self.shared.reset();
    }

    /// Everything there is to know, at one moment.
    #[must_use]
    pub fn snapshot(&self) -> ThrottleSnapshot {
        self.shared.snapshot()
    }

    /// A permit for a call that is made by hand.
    ///
    /// # Errors
    ///
    /// [`Throttled`] if the call is refused.
    #[inline]
    pub fn try_acquire(&self) -> Result<ThrottlePermit, Throttled> {
        self.admit(true)
    }

    /// Makes a call, or refuses it. An `Err` is not accepted; use [`run_with`](Self::run_with) to say otherwise.
    ///
    /// Dropping the future drops the call, which is not counted then.
    ///
    /// # Errors
    ///
    /// [`Error::Throttled`] when it was refused, [`Error::Inner`] with the operation's own error; an operation that already
    /// fails with [`Error`] keeps it as it is.
    pub async fn run<T, E, L, Fut>(&self, operation: impl FnOnce() -> Fut) -> Result<T, Error<L>>
    where
        Fut: Future<Output = Result<T, E>>,
        E: IntoError<L>,
        L: StdError + 'static,
    {
        self.run_with(ErrorsAreFailures, operation).await
    }

    /// Like [`run`](Self::run), with a classifier.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub async fn run_with<T, E, L, C, Fut>(
        &self,
        classify: C,
        operation: impl FnOnce() -> Fut,
    ) -> Result<T, Error<L>>
    where
        Fut: Future<Output = Result<T, E>>,
        E: IntoError<L>,
        L: StdError + 'static,
        C: Classify<T, L>,
    {
        let mut permit = self.admit(false).map_err(Error::Throttled)?;
        let call = permit.running(operation);
        ThrottleFuture::admitted(call, permit, classify, AsError).await
    }

    #[inline]
    pub(super) fn admit(&self, is_by_hand: bool) -> Result<ThrottlePermit, Throttled> {
        match self.shared.admit() {
            Ok(()) => Ok(ThrottlePermit::new(self.shared.mine(), is_by_hand)),
            Err(drawn) => {
                let throttle = self.shared.mine().into_arc();
                Err(self.shared.refused(throttle, drawn))
            }
        }
    }

    /// Whether nobody else has a handle, no call is on its way, and there is nothing to remember.
    pub(crate) fn is_disused(&self) -> bool {
        self.has_one_handle() && self.remembers_nothing()
    }

    pub(crate) fn has_one_handle(&self) -> bool {
        self.shared.is_sole()
    }

    pub(crate) fn remembers_nothing(&self) -> bool {
        self.shared.remembers_nothing()
    }
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttle")
            .field("name", &self.name())
            .field("config", &self.config())
            .finish()
    }
}
