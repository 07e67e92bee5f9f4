use std::fmt;
use std::sync::Arc;

use super::config::StackConfig;
use super::kind::StackKind;
use crate::circuit_breaker::CircuitBreaker;
use crate::contention::ResourceLock;
use crate::hedge::Hedge;
use crate::rate_limit::RateLimit;
use crate::registry::explain::{Describe, Explanation, Layers};
use crate::retry::RetryPolicy;
use crate::timeout::{TimeoutConfig, Timeouts};

/// The handles of a whole stack. A cheap clone.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_bulwark::Stack;
/// use tower_bulwark::rate_limit::Quota;
///
/// let model = service_fn(|prompt: String| async move { Ok::<_, std::io::Error>(prompt.len()) });
///
/// let stack = Stack::llm("openai")
///     .quota("requests", Quota::per_second(10))
///     .retry(|it| it.max_retries(4))
///     .build()?;
/// let service = ServiceBuilder::new().layer(stack.layer()).service(model);
/// assert_eq!(service.oneshot("hello".to_owned()).await?, 5);
///
/// println!("{}", stack.explain());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Stack {
    pub(super) name: Arc<str>,
    pub(super) kind: StackKind,
    pub(super) timeouts: Option<Timeouts>,
    pub(super) retry: Option<RetryPolicy>,
    pub(super) hedge: Option<Hedge>,
    pub(super) circuit_breaker: Option<CircuitBreaker>,
    pub(super) rate_limit: Option<RateLimit>,
    pub(super) lock: Option<ResourceLock>,
}

impl Stack {
    #[cfg(feature = "http")]
    pub(crate) fn kind(&self) -> StackKind {
        self.kind
    }

    /// What the parts go by now.
    #[must_use]
    pub fn config(&self) -> StackConfig {
        StackConfig {
            kind: self.kind,
            timeouts: self
                .timeouts
                .as_ref()
                .map(|it| *it.config())
                .unwrap_or_default(),
            retry: self.retry.as_ref().map(|it| (*it.config()).clone()),
            hedge: self.hedge.as_ref().map(|it| (*it.config()).clone()),
            circuit_breaker: self
                .circuit_breaker
                .as_ref()
                .map(|it| (*it.config()).clone()),
            rate_limit: self.rate_limit.as_ref().map(|it| (*it.config()).clone()),
            lock: self.lock.as_ref().map(|it| (*it.config()).clone()),
        }
    }

    /// The name, which is that of every part too.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long all of it, and each attempt, may take.
    #[must_use]
    pub fn timeouts(&self) -> Option<&Timeouts> {
        self.timeouts.as_ref()
    }

    /// By what it calls again.
    #[must_use]
    pub fn retry(&self) -> Option<&RetryPolicy> {
        self.retry.as_ref()
    }

    /// By what it calls once more beside the call that takes long.
    #[must_use]
    pub fn hedge(&self) -> Option<&Hedge> {
        self.hedge.as_ref()
    }

    /// What refuses while the service is down.
    #[must_use]
    pub fn circuit_breaker(&self) -> Option<&CircuitBreaker> {
        self.circuit_breaker.as_ref()
    }

    /// At what calls wait for their turn.
    #[must_use]
    pub fn rate_limit(&self) -> Option<&RateLimit> {
        self.rate_limit.as_ref()
    }

    /// For what calls wait.
    #[must_use]
    pub fn lock(&self) -> Option<&ResourceLock> {
        self.lock.as_ref()
    }

    /// What the stack does in the worst case.
    #[must_use]
    pub fn explain(&self) -> Explanation {
        let limits = self
            .timeouts
            .as_ref()
            .map(|it| (it.layer::<()>(), it.config()));
        let total = limits.as_ref().filter(|(_, limits)| limits.total.is_some());
        let attempt = limits.as_ref().filter(|(_, limits)| has_attempt(limits));
        let mut layers = Layers::new();
        let mut add = |part: Option<&dyn Describe>| {
            if let Some(part) = part {
                layers = std::mem::take(&mut layers).layer(part.describe());
            }
        };
        add(total
            .map(|(it, _)| it.clone().only_total())
            .as_ref()
            .map(|it| it as _));
        add(self.retry.as_ref().map(|it| it as _));
        add(self.hedge.as_ref().map(|it| it as _));
        add(self.circuit_breaker.as_ref().map(|it| it as _));
        add(self.rate_limit.as_ref().map(|it| it as _));
        add(self.lock.as_ref().map(|it| it as _));
        add(attempt
            .map(|(it, _)| it.clone().without_total())
            .as_ref()
            .map(|it| it as _));
        layers.explain()
    }
}

/// Whether an attempt, or a phase of it, is limited.
fn has_attempt(limits: &TimeoutConfig) -> bool {
    let of_attempt = [limits.ready, limits.head, limits.first_frame, limits.idle];
    of_attempt.iter().any(Option::is_some)
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
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
