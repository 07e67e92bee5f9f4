//! The breaker that users hold, and what they can do with it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::admitted::Admitted;
use super::config::CircuitBreakerConfig;
use super::group::Group;
use super::permit::Permit;
use super::shadow::CircuitBreakerShadow;
use super::shared::{Callbacks, Shared, Trial};
use super::snapshot::CircuitBreakerSnapshot;
use super::state::{Command, Effects, State};
use super::{CircuitBreakerEvent, CircuitState};
use crate::error::{CircuitOpen, ConfigChange, ConfigError};
use crate::event::Event;
use crate::util::sharded::ShardedArc;
use crate::util::time;

/// A named circuit breaker: a cheap clone of shared state.
///
/// Everything that shares a clone shares its state: the layers made from it, the calls made through
/// it, and whoever looks at it or commands it.
#[derive(Clone)]
pub struct CircuitBreaker {
    pub(super) shared: ShardedArc<Shared>,
}

impl CircuitBreaker {
    /// A breaker with the default policy: opens after 5 consecutive failures, probes after 60 s, one
    /// probe at a time, and closes after 2 good ones.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self::from_parts(
            name.into(),
            CircuitBreakerConfig::default(),
            Callbacks::default(),
        )
    }

    /// What stands for a breaker that was left out: it lets every call through, and reports nothing.
    pub(crate) fn none(name: impl Into<Arc<str>>) -> Self {
        let (breaker, now) = (Self::new(name), time::now());
        breaker.shared.with_core(now, |state, config| {
            let _ = state.command(config, Command::Disable, now);
            ((), Effects::default())
        });
        breaker
    }

    pub(super) fn from_parts(
        name: Arc<str>,
        config: CircuitBreakerConfig,
        callbacks: Callbacks,
    ) -> Self {
        Self {
            shared: ShardedArc::new(Shared::new(name, config, callbacks)),
        }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared.name()
    }

    /// What it goes by.
    #[must_use]
    pub fn config(&self) -> Arc<CircuitBreakerConfig> {
        self.shared.config()
    }

    /// Goes by another config from now on, and returns what that changes.
    ///
    /// The state, the permits in use and the totals are kept. The window is kept if it stays the same; another one
    /// starts empty. A circuit that is open stays open for the time it was opened for. When the rule of slow calls
    /// changes, calls of a closed circuit that are on their way are counted in the totals only.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a setting that cannot work; nothing is changed then.
    pub fn update(&self, config: CircuitBreakerConfig) -> Result<ConfigChange, ConfigError> {
        self.shared.update(config)
    }

    /// Asks for admission. The permit must be settled with how the call ended; a permit that is
    /// dropped counts as cancelled.
    ///
    /// ```
    /// # use tower_bulwark::CircuitBreaker;
    /// # fn read_sensor() -> Result<u32, std::io::Error> { Ok(7) }
    /// let breaker = CircuitBreaker::new("sensor");
    /// let permit = breaker.try_acquire()?;
    /// match read_sensor() {
    ///     Ok(_) => permit.success(),
    ///     Err(error) => permit.failure_because(&error),
    /// }
    /// # Ok::<(), tower_bulwark::CircuitOpen>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`CircuitOpen`] when the call must not be made. Takes no lock and allocates nothing while the
    /// circuit is plainly open.
    #[inline]
    pub fn try_acquire(&self) -> Result<Permit, CircuitOpen> {
        match self.try_acquire_plain() {
            Some(permit) => Ok(permit.by_hand()),
            None => self.acquire().map(Permit::by_hand),
        }
    }

    /// The same, for a call that this crate makes itself.
    #[inline]
    pub(super) fn admit(&self) -> Result<Permit, CircuitOpen> {
        match self.try_acquire_plain() {
            Some(permit) => Ok(permit),
            None => self.acquire(),
        }
    }

    /// Admits the call if that takes no more than a look.
    #[inline(always)]
    pub(super) fn try_acquire_plain(&self) -> Option<Permit> {
        let epoch = self.shared.acquire_plain()?;
        let share = self.shared.mine_if(self.shared.is_crowded());
        Some(Permit::new(share, Admitted::plain(epoch)))
    }

    #[inline(never)]
    fn acquire(&self) -> Result<Permit, CircuitOpen> {
        let trial = self.shared.trial();
        match self.shared.acquire() {
            Ok(admitted) => Ok(Permit::new(self.shared.mine(), admitted).beside(trial)),
            Err(refusal) => {
                if let Some(trial) = trial {
                    trial.refused_in_force();
                }
                Err(self.shared.rejected(refusal))
            }
        }
    }

    /// The state as a call would meet it now: an open circuit whose time is over is half-open, and calls that have
    /// become overdue meanwhile are counted.
    #[must_use]
    pub fn state(&self) -> CircuitState {
        let now = time::now();
        let look = |state: &mut State, _: &_| (state.effective(now), Effects::default());
        self.shared.with_core(now, look)
    }

    /// Everything there is to know, at one moment.
    #[must_use]
    pub fn snapshot(&self) -> CircuitBreakerSnapshot {
        let now = time::now();
        let name = self.shared.name();
        let snapshot = self.shared.with_core(now, |state, config| {
            let snapshot = CircuitBreakerSnapshot::new(name, config, state, now);
            (snapshot, Effects::default())
        });
        CircuitBreakerSnapshot {
            shadow: self.shadow_snapshot(),
            ..snapshot.with_rejected(self.shared.rejections())
        }
    }

    /// Whether nobody else has a handle or a permit, and there is nothing to remember.
    pub(crate) fn is_disused(&self) -> bool {
        self.has_one_handle() && self.remembers_nothing() && self.shared.trial().is_none()
    }

    /// Whether nobody else has a handle, and no call is on its way.
    pub(crate) fn has_one_handle(&self) -> bool {
        self.shared.is_sole()
    }

    /// Whether one that is made anew would do the same.
    pub(crate) fn remembers_nothing(&self) -> bool {
        let now = time::now();
        self.shared.with_core(now, |state, _| {
            (state.remembers_nothing(now), Effects::default())
        })
    }

    /// Closes the circuit and forgets everything: windows, counts, the last failure, and an operator's
    /// earlier command.
    pub fn reset(&self) {
        self.command(Command::Reset);
        self.shared.forget_rejections();
        let reset = Event::CircuitBreaker(CircuitBreakerEvent::Reset);
        self.shared.publish(&reset);
        // What is tried begins anew too.
        if let Some(trial) = self.shared.trial() {
            let config = CircuitBreakerConfig::clone(&trial.breaker.config());
            let trial = Trial::new(self.name(), config);
            self.shared.set_trial(Some(Arc::new(trial)));
        }
    }

    /// Refuses all calls until [`reset`](Self::reset) or [`force_close`](Self::force_close).
    pub fn force_open(&self) {
        self.command(Command::ForceOpen);
    }

    /// Closes the circuit now and works on from there, with empty windows. Ends every other command.
    /// The counts since the last [`reset`](Self::reset) are kept.
    pub fn force_close(&self) {
        self.command(Command::ForceClose);
    }

    /// Lets all calls through and counts nothing, until [`force_close`](Self::force_close) or
    /// [`reset`](Self::reset).
    pub fn disable(&self) {
        self.command(Command::Disable);
    }

    /// Only a share of this group may be open.
    pub(crate) fn join(&self, group: &Arc<Group>) {
        self.shared.join(group);
    }

    /// Lets all calls through, and counts and reports what the breaker *would* do, until
    /// [`force_close`](Self::force_close) or [`reset`](Self::reset). The way to try a breaker out.
    pub fn metrics_only(&self) {
        self.command(Command::MetricsOnly);
    }

    /// Tries another config on the same calls: it decides as if it were in force, and nothing comes of it. What it would have
    /// done otherwise stands in the [snapshot](Self::snapshot), as `shadow`. It begins closed and with empty windows, and
    /// replaces one that is tried already. A [`reset`](Self::reset) of the breaker begins it anew.
    ///
    /// It sees the calls that are made. While the breaker refuses calls it learns nothing of the service, so it cannot close
    /// before the breaker does.
    ///
    /// While a config is tried each call takes the lock of the breaker twice, and allocates once.
    ///
    /// ```
    /// use tower_bulwark::CircuitBreaker;
    ///
    /// let breaker = CircuitBreaker::new("openai"); // opens after 5 failures in a row
    /// let mut stricter = (*breaker.config()).clone();
    /// stricter.consecutive_failures = Some(2);
    /// breaker.shadow(stricter)?;
    /// for _ in 0..2 {
    ///     breaker.try_acquire().unwrap().failure();
    /// }
    /// breaker.try_acquire().unwrap().success();
    ///
    /// let shadow = breaker.end_shadow().unwrap();
    /// assert_eq!((shadow.would_refuse, shadow.would_refuse_succeeded), (1, 1));
    /// # Ok::<(), tower_bulwark::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a setting that cannot work; what was tried before goes on then.
    pub fn shadow(&self, config: CircuitBreakerConfig) -> Result<(), ConfigError> {
        config.check()?;
        let trial = Trial::new(self.name(), config);
        self.shared.set_trial(Some(Arc::new(trial)));
        Ok(())
    }

    /// Tries no other config any more; what the one that was tried would have done otherwise.
    #[expect(clippy::must_use_candidate, reason = "to end it is the point")]
    pub fn end_shadow(&self) -> Option<CircuitBreakerShadow> {
        self.shared.set_trial(None).map(|it| it.snapshot())
    }

    fn shadow_snapshot(&self) -> Option<CircuitBreakerShadow> {
        self.shared.trial().map(|it| it.snapshot())
    }

    /// Opens the circuit for `delay`; then it is probed as after any opening. For a service that says
    /// itself when it will be back. A circuit that is open already stays open until `delay` from now.
    ///
    /// A state that an operator has set stays: nothing happens while the breaker is forced open or disabled, and
    /// in metrics-only mode it only *would* be open.
    pub fn open_for(&self, delay: Duration) {
        self.command(Command::OpenFor(delay));
    }

    /// Opens the circuit as a rule of the config would: for the time that the config gives, growing from opening to
    /// opening. Nothing happens while it is open, forced open or disabled.
    pub fn trip(&self) {
        self.command(Command::Trip(self.shared.unit()));
    }

    /// Opens a closed circuit for `delay`, because others of its kind do much better. `false` if it is not closed, or under
    /// an operator's command.
    pub(crate) fn eject(&self, delay: Duration, failures: u64, calls: u64) -> bool {
        self.command(Command::Eject {
            delay,
            failures,
            calls,
        })
    }

    /// Whether that changed anything.
    pub(super) fn command(&self, command: Command) -> bool {
        let now = time::now();
        self.shared.with_core(now, |state, config| {
            let change = state.command(config, command, now);
            (change.is_some(), change.into())
        })
    }
}

impl fmt::Debug for CircuitBreaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreaker")
            .field("name", &self.name())
            .field("state", &self.shared.core().effective(time::now()))
            .field("config", &self.config())
            .finish_non_exhaustive()
    }
}
