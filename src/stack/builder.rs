use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::config::StackConfig;
use super::handle::Stack;
use super::kind::StackKind;
use super::place::{Alone, Place};
use crate::circuit_breaker::{CircuitBreaker, CircuitBreakerBuilder, Recovery, Window};
use crate::contention::{ResourceLock, ResourceLockBuilder};
use crate::error::ConfigError;
use crate::hedge::{Hedge, HedgeBuilder};
use crate::rate_limit::{Quota, RateLimit, RateLimitBuilder};
use crate::registry::{Registry, RegistryError};
use crate::retry::{Backoff, Jitter, RetryPolicy, RetryPolicyBuilder};
use crate::timeout::{TimeoutConfig, Timeouts, TimeoutsBuilder};

/// A part of a [`Stack`], from the outside in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// How long all of it may take.
    TotalTimeout,
    /// Calls again.
    Retry,
    /// Calls once more, beside the call that takes long.
    Hedge,
    /// Refuses while the service is down.
    CircuitBreaker,
    /// Waits for its turn.
    RateLimit,
    /// Waits for a permit.
    Lock,
    /// How long one attempt, and each phase of it, may take.
    AttemptTimeout,
}

/// Sets up a [`Stack`]. Nothing is checked before [`build`](Self::build).
#[derive(Clone)]
#[must_use = "nothing is made before `build`"]
pub struct StackBuilder {
    pub(super) name: Arc<str>,
    pub(super) kind: StackKind,
    timeouts: TimeoutsBuilder,
    retry: Option<RetryPolicyBuilder>,
    hedge: Option<HedgeBuilder>,
    circuit_breaker: Option<CircuitBreakerBuilder>,
    rate_limit: Option<RateLimitBuilder>,
    lock: Option<ResourceLockBuilder>,
}

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

impl Stack {
    /// For an API that answers within seconds. See [the table](super#defaults) for its numbers.
    pub fn http(name: impl Into<Arc<str>>) -> StackBuilder {
        StackBuilder::new(name.into(), StackKind::Http)
    }

    /// For a model that thinks for up to a minute and streams for minutes. See [the table](super#defaults) for its numbers.
    pub fn llm(name: impl Into<Arc<str>>) -> StackBuilder {
        StackBuilder::new(name.into(), StackKind::Llm)
    }

    /// For a gRPC service: the numbers of [`http`](Self::http).
    pub fn grpc(name: impl Into<Arc<str>>) -> StackBuilder {
        StackBuilder::new(name.into(), StackKind::Grpc)
    }

    /// For reads with a slow tail: the numbers of [`http`](Self::http), and a hedge instead of the retry. An attempt that
    /// fails starts the hedge at once.
    pub fn hedged(name: impl Into<Arc<str>>) -> StackBuilder {
        StackBuilder::new(name.into(), StackKind::Hedged)
    }
}

impl StackBuilder {
    pub(crate) fn new(name: Arc<str>, kind: StackKind) -> Self {
        let limits = limits(kind);
        let timeouts = Timeouts::builder(Arc::clone(&name)).config(limits);
        let builder = Self {
            timeouts,
            retry: None,
            hedge: None,
            circuit_breaker: None,
            rate_limit: None,
            lock: None,
            kind,
            name,
        };
        let builder = builder.circuit_breaker(|it| it).lock(|it| it);
        match kind {
            StackKind::Hedged => builder.hedge(|it| it.hedge_failures(true)),
            StackKind::Http | StackKind::Llm | StackKind::Grpc => builder.retry(|it| it),
        }
    }

    /// Leaves a part out. Adjusting it later adds it again.
    pub fn without(mut self, part: Part) -> Self {
        match part {
            Part::TotalTimeout => return self.limits(|it| it.total = None),
            Part::AttemptTimeout => {
                return self.limits(|it| {
                    *it = TimeoutConfig {
                        total: it.total,
                        end_at_deadline: it.end_at_deadline,
                        ..TimeoutConfig::default()
                    }
                });
            }
            Part::Retry => self.retry = None,
            Part::Hedge => self.hedge = None,
            Part::CircuitBreaker => self.circuit_breaker = None,
            Part::RateLimit => self.rate_limit = None,
            Part::Lock => self.lock = None,
        }
        self
    }

    fn limits(mut self, change: impl FnOnce(&mut TimeoutConfig)) -> Self {
        change(self.timeouts.config_mut());
        self
    }

    /// How long all of it may take, all attempts and waits together; for HTTP to the end of the body.
    pub fn total_timeout(self, limit: Duration) -> Self {
        self.limits(|it| it.total = Some(limit))
    }

    /// How long an attempt may be at the service before it answers: [`head`](TimeoutsBuilder::head).
    pub fn attempt_timeout(self, limit: Duration) -> Self {
        self.limits(|it| it.head = Some(limit))
    }

    /// Adjusts all phases: `|it| it.first_frame(..).idle(..)`.
    pub fn timeouts(mut self, adjust: impl FnOnce(TimeoutsBuilder) -> TimeoutsBuilder) -> Self {
        self.timeouts = adjust(self.timeouts);
        self
    }

    /// Adjusts the retry: `|it| it.max_retries(2)`. Its own timeouts are better left to those of the stack.
    pub fn retry(mut self, adjust: impl FnOnce(RetryPolicyBuilder) -> RetryPolicyBuilder) -> Self {
        let retry = self.retry.take().unwrap_or_else(|| {
            let (retries, first, longest) = match self.kind {
                StackKind::Llm => (2, 500 * MS, 8 * SECOND),
                _ => (3, 200 * MS, 5 * SECOND),
            };
            RetryPolicy::builder()
                .name(Arc::clone(&self.name))
                .max_retries(retries)
                .backoff(Backoff::exponential(first, 2.0))
                .max_delay(longest)
                .jitter(Jitter::Full)
        });
        self.retry = Some(adjust(retry));
        self
    }

    /// Adjusts the hedge, and adds it if there is none: `|it| it.after(..)`.
    pub fn hedge(mut self, adjust: impl FnOnce(HedgeBuilder) -> HedgeBuilder) -> Self {
        let hedge = self.hedge.take();
        let hedge = hedge.unwrap_or_else(|| Hedge::builder(Arc::clone(&self.name)));
        self.hedge = Some(adjust(hedge));
        self
    }

    /// Adjusts the circuit breaker: `|it| it.recovery_timeout(..)`.
    pub fn circuit_breaker(
        mut self,
        adjust: impl FnOnce(CircuitBreakerBuilder) -> CircuitBreakerBuilder,
    ) -> Self {
        let breaker = self.circuit_breaker.take().unwrap_or_else(|| {
            let (window, first) = match self.kind {
                StackKind::Llm => (120 * SECOND, 15 * SECOND),
                _ => (30 * SECOND, 5 * SECOND),
            };
            CircuitBreaker::builder(Arc::clone(&self.name))
                .failure_rate(0.5, Window::time(window))
                .recovery(Recovery::exponential(first, 2.0, 60 * SECOND))
        });
        self.circuit_breaker = Some(adjust(breaker));
        self
    }

    /// Adjusts the rate limit, and adds it if there is none: `|it| it.max_wait(..)`. It needs a [quota](Self::quota).
    pub fn rate_limit(mut self, adjust: impl FnOnce(RateLimitBuilder) -> RateLimitBuilder) -> Self {
        let limit = self.rate_limit.take();
        let limit = limit.unwrap_or_else(|| RateLimit::builder(Arc::clone(&self.name)));
        self.rate_limit = Some(adjust(limit));
        self
    }

    /// Adds a quota to the rate limit: `.quota("requests", Quota::per_minute(500))`. A call takes one of each, unless the
    /// layer says what it [costs](super::StackLayer::cost).
    pub fn quota(self, name: impl Into<Arc<str>>, quota: Quota) -> Self {
        self.rate_limit(|it| it.quota(name, quota))
    }

    /// Adjusts the lock: `|it| it.max_concurrent(10)`.
    pub fn lock(mut self, adjust: impl FnOnce(ResourceLockBuilder) -> ResourceLockBuilder) -> Self {
        let lock = self.lock.take().unwrap_or_else(|| {
            let (permits, longest) = match self.kind {
                StackKind::Llm => (16, 60 * SECOND),
                _ => (64, 10 * SECOND),
            };
            ResourceLock::builder(Arc::clone(&self.name))
                .max_concurrent(permits)
                .timeout(longest)
        });
        self.lock = Some(adjust(lock));
        self
    }

    /// Goes by a config: one that was read from a file, or that another stack has. Callbacks of parts that were adjusted
    /// before, and that the config has, stay.
    pub fn config(mut self, config: StackConfig) -> Self {
        self.kind = config.kind;
        self.timeouts = self.timeouts.config(config.timeouts);
        let name = || Arc::clone(&self.name);
        self.retry = config.retry.map(|it| {
            let retry = self.retry.take();
            let retry = retry.unwrap_or_else(|| RetryPolicy::builder().name(name()));
            retry.config(it)
        });
        self.hedge = config.hedge.map(|it| {
            let hedge = self.hedge.take();
            hedge.unwrap_or_else(|| Hedge::builder(name())).config(it)
        });
        self.circuit_breaker = config.circuit_breaker.map(|it| {
            let breaker = self.circuit_breaker.take();
            let breaker = breaker.unwrap_or_else(|| CircuitBreaker::builder(name()));
            breaker.config(it)
        });
        self.rate_limit = config.rate_limit.map(|it| {
            let limit = self.rate_limit.take();
            limit
                .unwrap_or_else(|| RateLimit::builder(name()))
                .config(it)
        });
        self.lock = config.lock.map(|it| {
            let lock = self.lock.take();
            lock.unwrap_or_else(|| ResourceLock::builder(name()))
                .config(it)
        });
        self
    }

    /// What the parts would go by, each right by itself.
    pub(crate) fn rules(&self) -> Result<StackConfig, ConfigError> {
        Ok(StackConfig {
            kind: self.kind,
            timeouts: *self.timeouts.config_ref(),
            retry: checked(&self.retry, RetryPolicyBuilder::checked_config)?,
            hedge: checked(&self.hedge, HedgeBuilder::checked_config)?.map(|it| it.config),
            circuit_breaker: checked(&self.circuit_breaker, CircuitBreakerBuilder::checked_config)?,
            rate_limit: checked(&self.rate_limit, RateLimitBuilder::checked_config)?,
            lock: checked(&self.lock, ResourceLockBuilder::checked_config)?,
        })
    }

    /// Makes the handles of all parts.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a setting of a part that cannot work, and for those that do not fit together:
    ///
    /// - `attempt_timeout`, `first_frame` or `idle` is not below `total_timeout`: it would never end anything,
    /// - an attempt timeout, or a total timeout, of the retry's own is above that of the stack,
    /// - the `window` of the breaker is a time, and shorter than two attempts: a service that hangs would not fill it,
    /// - the delays of all hedges together are not below `total_timeout`, or that of one not below `attempt_timeout`,
    /// - all parts have been left out.
    pub fn build(self) -> Result<Stack, ConfigError> {
        self.build_with(&Alone)
    }

    /// Makes the handles of all parts, and registers each under the name of the stack, or takes the one that is registered
    /// with the same rules.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build), and [`RegistryError::Conflict`] if the name stands for other rules. The parts before that
    /// one, from the outside in, are registered then.
    pub fn build_in(self, registry: &Registry) -> Result<Stack, RegistryError> {
        self.build_with(registry)
    }

    fn build_with<P: Place>(self, place: &P) -> Result<Stack, P::Error> {
        self.rules()?.check()?;
        let has_limits = *self.timeouts.config_ref() != TimeoutConfig::default();
        Ok(Stack {
            timeouts: match has_limits {
                true => Some(place.timeouts(self.timeouts)?),
                false => None,
            },
            retry: self.retry.map(|it| place.retry(it)).transpose()?,
            hedge: self.hedge.map(|it| place.hedge(it)).transpose()?,
            circuit_breaker: self
                .circuit_breaker
                .map(|it| place.circuit_breaker(it))
                .transpose()?,
            rate_limit: self.rate_limit.map(|it| place.rate_limit(it)).transpose()?,
            lock: self.lock.map(|it| place.lock(it)).transpose()?,
            kind: self.kind,
            name: self.name,
        })
    }
}

fn checked<B, R>(
    builder: &Option<B>,
    check: impl FnOnce(&B) -> Result<R, ConfigError>,
) -> Result<Option<R>, ConfigError> {
    builder.as_ref().map(check).transpose()
}

fn limits(kind: StackKind) -> TimeoutConfig {
    let (total, head, first_frame, idle) = match kind {
        StackKind::Llm => (300, 60, 60, 30),
        StackKind::Http | StackKind::Grpc | StackKind::Hedged => (30, 10, 10, 10),
    };
    let of = |seconds: u32| Some(seconds * SECOND);
    TimeoutConfig {
        total: of(total),
        head: of(head),
        first_frame: of(first_frame),
        idle: of(idle),
        ..TimeoutConfig::default()
    }
}

impl fmt::Debug for StackBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StackBuilder")
            .field("name", &self.name)
            .field("timeouts", &self.timeouts)
            .field("retry", &self.retry)
            .field("hedge", &self.hedge)
            .field("circuit_breaker", &self.circuit_breaker)
            .field("rate_limit", &self.rate_limit)
            .field("lock", &self.lock)
            .finish_non_exhaustive()
    }
}
