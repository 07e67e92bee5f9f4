//! What a stack of layers does in the worst case, and which orders do harm.
//!
//! Every layer is right by itself; what goes wrong is the order. [`Layers`] takes the handles of a stack,
//! outermost first, and [`explain`](Layers::explain) says how often the service can be called for one
//! request, how long that can take, and what to change.
//!
//! ```
//! use std::time::Duration;
//! use tower_bulwark::explain::{Layers, Warning};
//! use tower_bulwark::{CircuitBreaker, ResourceLock, RetryPolicy};
//!
//! let (retry, breaker, lock) =
//!     (RetryPolicy::new(), CircuitBreaker::new("openai"), ResourceLock::new("gpu"));
//!
//! let good = Layers::new()
//!     .layer(&retry)
//!     .layer(&breaker)
//!     .layer(&lock)
//!     .service("client", Some(Duration::from_secs(10)))
//!     .explain();
//! assert_eq!(good.worst_case_calls(), 4);
//! println!("{good}");
//!
//! // The lock outside the retry is held while the retry sleeps.
//! let bad = Layers::new().layer(&lock).layer(&retry).explain();
//! assert!(bad.warnings().iter().any(|w| matches!(w, Warning::LockHeldAcrossBackoff { .. })));
//! ```

use std::fmt;
use std::time::Duration;

mod check;
mod describe;
mod warning;

pub use check::check_service;
pub use describe::{Describe, LayerDescription};
pub use warning::Warning;

/// The layers of a stack, outermost first: the order of `ServiceBuilder`.
#[derive(Clone, Debug, Default)]
#[must_use = "a description does nothing before `explain`"]
pub struct Layers {
    layers: Vec<LayerDescription>,
    service: Option<(String, Option<Duration>)>,
}

impl Layers {
    /// A stack without layers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next layer inwards.
    pub fn layer(mut self, layer: impl Describe) -> Self {
        self.layers.push(layer.describe());
        self
    }

    /// Names the service, and says how long one call of it can take, if anything bounds that.
    pub fn service(mut self, name: impl Into<String>, longest_call: Option<Duration>) -> Self {
        self.service = Some((name.into(), longest_call));
        self
    }

    /// Adds it all up.
    #[must_use]
    pub fn explain(&self) -> Explanation {
        let (service, call) = match &self.service {
            Some((name, call)) => (name.clone(), *call),
            None => ("service".to_owned(), None),
        };
        // From the inside out: how often, and how long, for one call from above.
        let nothing = WorstTime {
            at_service: call,
            waits: Some(Duration::ZERO),
            total: None,
        };
        let start = (1_u64, nothing);
        let (calls, time) = self
            .layers
            .iter()
            .rev()
            .fold(start, |(calls, time), layer| {
                worst_case_above(layer, calls, time)
            });
        Explanation {
            layers: self.layers.clone(),
            service,
            calls,
            time: time.sum(),
            warnings: warning::find(&self.layers, time.sum()),
        }
    }
}

/// How long a request can take. `None` is without bound.
#[derive(Clone, Copy)]
struct WorstTime {
    /// At the service.
    at_service: Option<Duration>,
    /// In waits of this crate: queues and backoffs. No attempt timeout bounds them.
    waits: Option<Duration>,
    /// Both together, if something bounds that.
    total: Option<Duration>,
}

impl WorstTime {
    fn sum(self) -> Option<Duration> {
        shorter(add(self.at_service, self.waits), self.total)
    }
}

/// The worst case of a layer, from that of what it calls.
fn worst_case_above(layer: &LayerDescription, calls: u64, time: WorstTime) -> (u64, WorstTime) {
    match layer {
        LayerDescription::Retry {
            max_retries,
            worst_case_delay,
            attempt_timeout,
            total_timeout,
            ..
        } => {
            let attempts = max_retries.saturating_add(1);
            let all = |time: Option<Duration>| time.map(|it| it.saturating_mul(attempts));
            let at_service = all(shorter(time.at_service, *attempt_timeout));
            let waits = add(all(time.waits), Some(*worst_case_delay));
            let below = add(all(time.total), Some(*worst_case_delay));
            let total = shorter(below, *total_timeout);
            let time = WorstTime {
                at_service,
                waits,
                total,
            };
            (calls.saturating_mul(attempts.into()), time)
        }
        LayerDescription::CircuitBreaker { .. }
        | LayerDescription::Fallback { .. }
        | LayerDescription::Chaos { .. }
        | LayerDescription::Throttle { .. } => (calls, time),
        LayerDescription::Contention { timeout, .. } => {
            let time = WorstTime {
                at_service: time.at_service,
                waits: add(time.waits, *timeout),
                total: add(time.total, *timeout),
            };
            (calls, time)
        }
        LayerDescription::Hedge {
            max_extra, delay, ..
        } => worst_case_hedged((calls, time), *max_extra, *delay),
        LayerDescription::Timeout { limits, .. } => {
            let time = WorstTime {
                at_service: shorter(time.at_service, limits.head),
                waits: time.waits,
                total: shorter(time.total, limits.total),
            };
            (calls, time)
        }
        LayerDescription::RateLimit { max_wait, .. } => {
            let time = WorstTime {
                at_service: time.at_service,
                waits: add(time.waits, Some(*max_wait)),
                total: add(time.total, Some(*max_wait)),
            };
            (calls, time)
        }
    }
}

/// In the worst case each attempt starts when the one before it is about to end, or a fixed delay after it.
fn worst_case_hedged(
    (calls, time): (u64, WorstTime),
    max_extra: u32,
    delay: Option<Duration>,
) -> (u64, WorstTime) {
    let attempts = max_extra.saturating_add(1);
    let all = |time: Option<Duration>| {
        let late = delay.map(|delay| delay.saturating_mul(max_extra));
        let one_by_one = time.map(|it| it.saturating_mul(attempts));
        shorter(one_by_one, add(time, late).filter(|_| time.is_some()))
    };
    let time = WorstTime {
        at_service: all(time.at_service),
        waits: time.waits.map(|it| it.saturating_mul(attempts)),
        total: all(time.total),
    };
    (calls.saturating_mul(attempts.into()), time)
}

fn shorter(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

fn add(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    a.zip(b).map(|(a, b)| a.saturating_add(b))
}

/// What is known of a stack. Prints as a short report.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Explanation {
    layers: Vec<LayerDescription>,
    service: String,
    calls: u64,
    time: Option<Duration>,
    warnings: Vec<Warning>,
}

impl Explanation {
    /// The layers, outermost first.
    #[must_use]
    pub fn layers(&self) -> &[LayerDescription] {
        &self.layers
    }

    /// How often the service can be called for one request.
    #[must_use]
    pub fn worst_case_calls(&self) -> u64 {
        self.calls
    }

    /// How long one request can take; `None` if nothing bounds it.
    #[must_use]
    pub fn worst_case_time(&self) -> Option<Duration> {
        self.time
    }

    /// What to change.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, layer) in self.layers.iter().enumerate() {
            writeln!(f, "{:indent$}{layer}", "", indent = depth * 2)?;
        }
        writeln!(
            f,
            "{:indent$}{}",
            "",
            self.service,
            indent = self.layers.len() * 2
        )?;
        write!(f, "worst case for one request: {} calls, ", self.calls)?;
        match self.time {
            Some(time) => writeln!(f, "{time:.1?}")?,
            None => writeln!(f, "no bound in time")?,
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeout::TimeoutConfig;

    fn retry(retries: u32) -> LayerDescription {
        LayerDescription::Retry {
            name: "r".into(),
            max_retries: retries,
            worst_case_delay: Duration::from_secs(7),
            attempt_timeout: None,
            total_timeout: None,
            has_budget: true,
        }
    }

    fn lock(wait: u64) -> LayerDescription {
        LayerDescription::Contention {
            name: "l".into(),
            capacity: 1,
            timeout: Some(Duration::from_secs(wait)),
        }
    }

    fn limit(wait: u64) -> LayerDescription {
        LayerDescription::RateLimit {
            name: "t".into(),
            max_wait: Duration::from_secs(wait),
        }
    }

    fn hedge(max_extra: u32) -> LayerDescription {
        LayerDescription::Hedge {
            name: "h".into(),
            max_extra,
            delay: Some(Duration::from_secs(1)),
            has_budget: true,
        }
    }

    fn timeouts(head: Option<u64>, total: Option<u64>) -> LayerDescription {
        let limits = TimeoutConfig {
            head: head.map(Duration::from_secs),
            total: total.map(Duration::from_secs),
            ..TimeoutConfig::default()
        };
        LayerDescription::Timeout {
            name: "o".into(),
            limits,
        }
    }

    fn breaker() -> LayerDescription {
        LayerDescription::CircuitBreaker { name: "b".into() }
    }

    fn explain(layers: &[LayerDescription]) -> Explanation {
        let stack = layers.iter().fold(Layers::new(), Layers::layer);
        stack.service("s", Some(Duration::from_secs(10))).explain()
    }

    #[test]
    fn the_documented_order_has_no_warning_and_a_time_that_adds_up() {
        let it = explain(&[retry(3), breaker(), lock(30)]);
        assert_eq!(it.warnings(), []);
        assert_eq!(it.worst_case_calls(), 4);
        assert_eq!(
            it.worst_case_time(),
            Some(Duration::from_secs(4 * (30 + 10) + 7))
        );
        let it = explain(&[retry(3), breaker(), limit(20), lock(30)]);
        assert_eq!(it.warnings(), []);
        assert_eq!(
            it.worst_case_time(),
            Some(Duration::from_secs(4 * (20 + 30 + 10) + 7))
        );
    }

    #[test]
    fn an_attempt_timeout_bounds_the_time_at_the_service_and_no_wait() {
        let bounded = |total_timeout| LayerDescription::Retry {
            name: "r".into(),
            max_retries: 3,
            worst_case_delay: Duration::from_secs(7),
            attempt_timeout: Some(Duration::from_secs(2)),
            total_timeout,
            has_budget: true,
        };
        let it = explain(&[bounded(None), lock(30)]);
        assert_eq!(
            it.worst_case_time(),
            Some(Duration::from_secs(4 * (30 + 2) + 7))
        );
        let it = explain(&[bounded(Some(Duration::from_secs(60))), lock(30)]);
        assert_eq!(it.worst_case_time(), Some(Duration::from_secs(60)));
    }

    #[test]
    fn timeouts_around_and_below_a_retry_bound_all_of_it_and_each_attempt() {
        let (outer, inner) = (timeouts(None, Some(300)), timeouts(Some(2), None));
        let it = explain(&[retry(3), inner.clone(), lock(30)]);
        assert_eq!(it.warnings(), []);
        assert_eq!(
            it.worst_case_time(),
            Some(Duration::from_secs(4 * (30 + 2) + 7))
        );
        let it = explain(&[timeouts(None, Some(60)), retry(3), inner.clone(), lock(30)]);
        assert_eq!(it.worst_case_time(), Some(Duration::from_secs(60)));
        assert_eq!(it.warnings(), []);
        let text = it.to_string();
        assert!(text.starts_with("timeouts `o`: total 60.0s\n"), "{text}");

        let kinds = |layers: &[LayerDescription]| format!("{:?}", explain(layers).warnings());
        assert!(kinds(&[inner.clone(), retry(3)]).starts_with("[HeadOutsideRetry"));
        assert!(kinds(&[retry(3), outer]).starts_with("[TotalInsideRetry"));
        assert!(kinds(&[timeouts(Some(9), Some(9))]).starts_with("[HeadNeverEnds"));
        assert!(kinds(&[timeouts(None, Some(2)), retry(3), inner]).starts_with("[HeadNeverEnds"));
        assert_eq!(kinds(&[timeouts(Some(8), Some(9))]), "[]");
    }

    #[test]
    fn every_harmful_order_is_named() {
        let kinds = |layers: &[LayerDescription]| -> Vec<String> {
            explain(layers)
                .warnings()
                .iter()
                .map(|w| format!("{w:?}"))
                .collect()
        };
        assert!(kinds(&[lock(1), retry(3)])[0].starts_with("LockHeldAcrossBackoff"));
        assert!(kinds(&[breaker(), retry(3)])[0].starts_with("BreakerOutsideRetry"));
        assert!(kinds(&[lock(1), breaker()])[0].starts_with("WaitsToBeRefused"));
        assert!(kinds(&[lock(1), lock(1)])[0].starts_with("SameLockTwice"));
        assert!(kinds(&[limit(1), retry(3)])[0].starts_with("LimitOutsideRetry"));
        assert!(kinds(&[limit(1), breaker()])[0].starts_with("LimitOutsideBreaker"));
        assert!(kinds(&[lock(1), limit(1)])[0].starts_with("LockHeldAcrossTurn"));
        assert!(kinds(&[breaker(), breaker()])[0].starts_with("SameBreakerTwice"));
        assert!(kinds(&[hedge(1), retry(3)])[0].starts_with("HedgeOutsideRetry"));
        assert!(kinds(&[hedge(1), hedge(1)])[0].starts_with("HedgeInsideHedge"));
        assert!(kinds(&[breaker(), hedge(1)])[0].starts_with("BreakerOutsideHedge"));
        assert!(kinds(&[limit(1), hedge(1)])[0].starts_with("LimitOutsideHedge"));
        assert!(kinds(&[lock(1), hedge(1)])[0].starts_with("LockOutsideHedge"));
        let nested = explain(&[retry(3), breaker(), retry(2)]);
        assert_eq!(nested.worst_case_calls(), 12);
        assert!(matches!(
            nested.warnings()[0],
            Warning::RetryInsideRetry { calls: 12, .. }
        ));
    }

    #[test]
    fn hedges_multiply_the_calls_and_add_their_delays() {
        let it = explain(&[retry(3), hedge(2), breaker()]);
        assert_eq!(it.warnings(), []);
        assert_eq!(it.worst_case_calls(), 12);
        assert_eq!(
            it.worst_case_time(),
            Some(Duration::from_secs(4 * (10 + 2) + 7))
        );
    }

    #[test]
    fn what_nothing_bounds_is_said_to_be_unbounded() {
        let it = Layers::new().layer(retry(3)).explain();
        assert_eq!(it.worst_case_time(), None);
        assert_eq!(it.warnings(), [Warning::Unbounded]);
    }

    #[test]
    fn absurd_retries_saturate() {
        let it = explain(&[retry(u32::MAX), retry(u32::MAX), retry(u32::MAX)]);
        assert_eq!(it.worst_case_calls(), u64::MAX);
    }
}
