use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::LayerDescription;

/// Something about a stack that does harm, or may.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(tag = "warning", rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Warning {
    /// Retries multiply.
    #[non_exhaustive]
    RetryInsideRetry {
        /// The outer policy.
        outer: Arc<str>,
        /// The inner policy.
        inner: Arc<str>,
        /// How many calls the two can make of one.
        calls: u64,
    },
    /// A permit is held while a retry inside sleeps.
    #[non_exhaustive]
    LockHeldAcrossBackoff {
        /// The resource.
        lock: Arc<str>,
        /// The policy that sleeps.
        retry: Arc<str>,
        /// How long it can sleep in all.
        backoff: Duration,
    },
    /// The breaker sees one result of many attempts, and cannot stop the attempts.
    #[non_exhaustive]
    BreakerOutsideRetry {
        /// The breaker.
        breaker: Arc<str>,
        /// The policy inside.
        retry: Arc<str>,
    },
    /// Calls wait for a permit, only to be refused by an open circuit.
    #[non_exhaustive]
    WaitsToBeRefused {
        /// The resource.
        lock: Arc<str>,
        /// The breaker inside.
        breaker: Arc<str>,
    },
    /// The retry inside sends calls that the rate limit does not count.
    #[non_exhaustive]
    LimitOutsideRetry {
        /// The rate limit.
        limit: Arc<str>,
        /// The policy inside.
        retry: Arc<str>,
    },
    /// Calls wait for their turn, only to be refused by an open circuit.
    #[non_exhaustive]
    LimitOutsideBreaker {
        /// The rate limit.
        limit: Arc<str>,
        /// The breaker inside.
        breaker: Arc<str>,
    },
    /// A permit is held while a call waits for its turn.
    #[non_exhaustive]
    LockHeldAcrossTurn {
        /// The resource.
        lock: Arc<str>,
        /// The rate limit inside.
        limit: Arc<str>,
    },
    /// All attempts of the retry inside share the time that is meant for one.
    #[non_exhaustive]
    HeadOutsideRetry {
        /// The timeouts.
        timeouts: Arc<str>,
        /// The policy inside.
        retry: Arc<str>,
    },
    /// Each attempt has the time that is meant for all of them.
    #[non_exhaustive]
    TotalInsideRetry {
        /// The timeouts.
        timeouts: Arc<str>,
        /// The policy around them.
        retry: Arc<str>,
    },
    /// The time for all of it is over before a service could have been late.
    #[non_exhaustive]
    HeadNeverEnds {
        /// The timeouts whose `head` it is.
        timeouts: Arc<str>,
        /// Their `head`.
        head: Duration,
        /// The `total` that is no longer.
        total: Duration,
    },
    /// One resource twice: a call waits for itself.
    #[non_exhaustive]
    SameLockTwice {
        /// The resource.
        lock: Arc<str>,
    },
    /// One breaker twice: each call counts twice, and a probe is refused by the very breaker that let
    /// it through.
    #[non_exhaustive]
    SameBreakerTwice {
        /// The breaker.
        breaker: Arc<str>,
    },
    /// Calls meet faults on purpose.
    #[non_exhaustive]
    ChaosArmed {
        /// The drill.
        chaos: Arc<str>,
    },
    /// The throttle sees one result of many attempts, and cannot stop them.
    #[non_exhaustive]
    ThrottleOutsideRetry {
        /// The throttle.
        throttle: Arc<str>,
        /// The policy inside.
        retry: Arc<str>,
    },
    /// The throttle sees one result of several attempts, and refuses no hedge.
    #[non_exhaustive]
    ThrottleOutsideHedge {
        /// The throttle.
        throttle: Arc<str>,
        /// The hedge inside.
        hedge: Arc<str>,
    },
    /// Calls wait for a permit, or for their turn, only to be refused.
    #[non_exhaustive]
    WaitsToBeThrottled {
        /// The lock, or the rate limit.
        lock: Arc<str>,
        /// The throttle inside.
        throttle: Arc<str>,
    },
    /// Each hedge is retried: hedges and retries multiply.
    #[non_exhaustive]
    HedgeOutsideRetry {
        /// The hedge.
        hedge: Arc<str>,
        /// The policy inside.
        retry: Arc<str>,
        /// How many calls the two can make of one.
        calls: u64,
    },
    /// Hedges multiply.
    #[non_exhaustive]
    HedgeInsideHedge {
        /// The outer hedge.
        outer: Arc<str>,
        /// The inner hedge.
        inner: Arc<str>,
        /// How many calls the two can make of one.
        calls: u64,
    },
    /// The breaker sees one result of several attempts, and refuses no hedge.
    #[non_exhaustive]
    BreakerOutsideHedge {
        /// The breaker.
        breaker: Arc<str>,
        /// The hedge inside.
        hedge: Arc<str>,
    },
    /// The hedge inside sends calls that the rate limit does not count.
    #[non_exhaustive]
    LimitOutsideHedge {
        /// The rate limit.
        limit: Arc<str>,
        /// The hedge inside.
        hedge: Arc<str>,
    },
    /// The hedge inside makes calls for which there is no permit.
    #[non_exhaustive]
    LockOutsideHedge {
        /// The resource.
        lock: Arc<str>,
        /// The hedge inside.
        hedge: Arc<str>,
    },
    /// When the service gets slow every call is hedged, and nothing bounds the sum.
    #[non_exhaustive]
    HedgesWithoutBudget {
        /// The hedge.
        hedge: Arc<str>,
    },
    /// In an outage every caller retries, and nothing bounds the sum.
    #[non_exhaustive]
    NoBudget {
        /// The policy.
        retry: Arc<str>,
    },
    /// Nothing bounds how long a request can take.
    Unbounded,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RetryInsideRetry {
                outer,
                inner,
                calls,
            } => write!(
                f,
                "retry `{inner}` is inside retry `{outer}`: together up to {calls} calls for one request (`{outer}` does not repeat what `{inner}` gave up, unless `retry_exhausted` is set); keep one of them"
            ),
            Self::LockHeldAcrossBackoff {
                lock,
                retry,
                backoff,
            } => write!(
                f,
                "a permit of `{lock}` is held while retry `{retry}` sleeps, up to {backoff:.1?}; put the retry outside"
            ),
            Self::BreakerOutsideRetry { breaker, retry } => write!(
                f,
                "breaker `{breaker}` is outside retry `{retry}`: it sees one result of many attempts and cannot stop them; put the retry outside"
            ),
            Self::WaitsToBeRefused { lock, breaker } => write!(
                f,
                "calls wait for `{lock}` only to be refused by breaker `{breaker}`; put the breaker outside"
            ),
            Self::SameLockTwice { lock } => {
                write!(f, "resource `{lock}` is taken twice: a call would wait for itself")
            }
            Self::SameBreakerTwice { breaker } => write!(
                f,
                "breaker `{breaker}` is there twice: calls count double, and it refuses its own probes"
            ),
            Self::LimitOutsideRetry { .. }
            | Self::LimitOutsideBreaker { .. }
            | Self::LockHeldAcrossTurn { .. } => self.fmt_limits(f),
            Self::ChaosArmed { .. }
            | Self::ThrottleOutsideRetry { .. }
            | Self::WaitsToBeThrottled { .. } => self.fmt_refusals(f),
            Self::HedgeOutsideRetry { .. }
            | Self::ThrottleOutsideHedge { .. }
            | Self::HedgeInsideHedge { .. }
            | Self::BreakerOutsideHedge { .. }
            | Self::LimitOutsideHedge { .. }
            | Self::LockOutsideHedge { .. }
            | Self::HedgesWithoutBudget { .. } => self.fmt_hedges(f),
            Self::HeadOutsideRetry { .. }
            | Self::TotalInsideRetry { .. }
            | Self::HeadNeverEnds { .. } => self.fmt_timeouts(f),
            Self::NoBudget { retry } => write!(
                f,
                "retry `{retry}` has no budget: in an outage all callers retry; remove `no_budget()`, or give it a `RetryBudget`"
            ),
            Self::Unbounded => f.write_str(
                "nothing bounds how long a request can take; set `attempt_timeout` or `total_timeout`",
            ),
        }
    }
}

impl Warning {
    /// What is said of rate limits.
    fn fmt_limits(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LimitOutsideRetry { limit, retry } => write!(
                f,
                "rate limit `{limit}` is outside retry `{retry}`: it counts a call once, however often it is sent; put it inside"
            ),
            Self::LimitOutsideBreaker { limit, breaker } => write!(
                f,
                "rate limit `{limit}` is outside circuit breaker `{breaker}`: calls wait for their turn, only to be refused; put it inside"
            ),
            Self::LockHeldAcrossTurn { lock, limit } => write!(
                f,
                "a permit of `{lock}` is held while a call waits for its turn at rate limit `{limit}`: put the lock inside"
            ),
            _ => Ok(()),
        }
    }

    /// What is said of what refuses, or fails, a share of the calls.
    fn fmt_refusals(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChaosArmed { chaos } => write!(
                f,
                "chaos `{chaos}` is armed: calls meet faults on purpose; `disarm()` it when the drill is over"
            ),
            Self::ThrottleOutsideRetry { throttle, retry } => write!(
                f,
                "throttle `{throttle}` is outside retry `{retry}`: it sees one result of many attempts, and cannot stop them; put it inside"
            ),
            Self::WaitsToBeThrottled { lock, throttle } => write!(
                f,
                "calls wait at `{lock}` only to be refused by throttle `{throttle}`; put the throttle outside"
            ),
            _ => Ok(()),
        }
    }

    /// What is said of hedges.
    fn fmt_hedges(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HedgeOutsideRetry {
                hedge,
                retry,
                calls,
            } => write!(
                f,
                "hedge `{hedge}` is outside retry `{retry}`: together up to {calls} calls for one request, many of them at once; put the hedge inside"
            ),
            Self::HedgeInsideHedge {
                outer,
                inner,
                calls,
            } => write!(
                f,
                "hedge `{inner}` is inside hedge `{outer}`: together up to {calls} calls for one request; keep one of them"
            ),
            Self::BreakerOutsideHedge { breaker, hedge } => write!(
                f,
                "breaker `{breaker}` is outside hedge `{hedge}`: it sees one result of several attempts and refuses no hedge; put the hedge outside"
            ),
            Self::ThrottleOutsideHedge { throttle, hedge } => write!(
                f,
                "throttle `{throttle}` is outside hedge `{hedge}`: it sees one result of several attempts and refuses no hedge; put it inside"
            ),
            Self::LimitOutsideHedge { limit, hedge } => write!(
                f,
                "rate limit `{limit}` is outside hedge `{hedge}`: it does not count the hedges; put it inside"
            ),
            Self::LockOutsideHedge { lock, hedge } => write!(
                f,
                "resource `{lock}` is outside hedge `{hedge}`: one permit pays for several calls at once; put the lock inside"
            ),
            Self::HedgesWithoutBudget { hedge } => write!(
                f,
                "hedge `{hedge}` has no budget: when the service gets slow, every call is made twice; remove `no_budget()`, or give it a `RetryBudget`"
            ),
            _ => Ok(()),
        }
    }

    fn fmt_timeouts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeadOutsideRetry { timeouts, retry } => write!(
                f,
                "`head` of timeouts `{timeouts}` is outside retry `{retry}`: it ends all attempts together; put it inside (`without_total()`), and only `total` outside (`only_total()`)"
            ),
            Self::TotalInsideRetry { timeouts, retry } => write!(
                f,
                "`total` of timeouts `{timeouts}` is inside retry `{retry}`: each attempt has all of it, and what it ends is not tried again; put it outside (`only_total()`)"
            ),
            Self::HeadNeverEnds {
                timeouts,
                head,
                total,
            } => write!(
                f,
                "`head` of timeouts `{timeouts}` ({head:.1?}) is not below the `total` of {total:.1?}: a service that hangs is never blamed; make it shorter"
            ),
            _ => Ok(()),
        }
    }
}

/// What is harmful about these layers, outermost first.
pub(super) fn find(layers: &[LayerDescription], time: Option<Duration>) -> Vec<Warning> {
    let mut found = Vec::new();
    for (i, outer) in layers.iter().enumerate() {
        found.extend(
            layers[i + 1..]
                .iter()
                .filter_map(|inner| of_two(outer, inner)),
        );
        if let LayerDescription::Chaos { name, armed: true } = outer {
            found.push(Warning::ChaosArmed {
                chaos: Arc::clone(name),
            });
        }
        if let LayerDescription::Timeout { limits, .. } = outer {
            found.extend(head_never_ends(outer, limits.total));
        }
        if let LayerDescription::Retry {
            name,
            max_retries: 1..,
            has_budget: false,
            ..
        } = outer
        {
            found.push(Warning::NoBudget {
                retry: Arc::clone(name),
            });
        }
        if let LayerDescription::Hedge {
            name,
            max_extra: 1..,
            has_budget: false,
            ..
        } = outer
        {
            found.push(Warning::HedgesWithoutBudget {
                hedge: Arc::clone(name),
            });
        }
    }
    if time.is_none() {
        found.push(Warning::Unbounded);
    }
    found
}

/// What is harmful about a hedge inside or outside of another layer.
fn of_hedge(outer: &LayerDescription, inner: &LayerDescription) -> Option<Warning> {
    use LayerDescription::{CircuitBreaker, Contention, Hedge, RateLimit, Retry, Throttle};

    let (out, within) = (Arc::clone(outer.name()), Arc::clone(inner.name()));
    let product = |a: u32, b: u32| (u64::from(a) + 1).saturating_mul(u64::from(b) + 1);
    Some(match (outer, inner) {
        (Hedge { max_extra: a, .. }, Retry { max_retries: b, .. }) if *a > 0 && *b > 0 => {
            Warning::HedgeOutsideRetry {
                hedge: out,
                retry: within,
                calls: product(*a, *b),
            }
        }
        (Hedge { max_extra: a, .. }, Hedge { max_extra: b, .. }) if *a > 0 && *b > 0 => {
            Warning::HedgeInsideHedge {
                outer: out,
                inner: within,
                calls: product(*a, *b),
            }
        }
        (CircuitBreaker { .. }, Hedge { max_extra: 1.., .. }) => Warning::BreakerOutsideHedge {
            breaker: out,
            hedge: within,
        },
        (Throttle { .. }, Hedge { max_extra: 1.., .. }) => Warning::ThrottleOutsideHedge {
            throttle: out,
            hedge: within,
        },
        (RateLimit { .. }, Hedge { max_extra: 1.., .. }) => Warning::LimitOutsideHedge {
            limit: out,
            hedge: within,
        },
        (Contention { .. }, Hedge { max_extra: 1.., .. }) => Warning::LockOutsideHedge {
            lock: out,
            hedge: within,
        },
        _ => return None,
    })
}

/// Whether the head phase of `timeouts` is no shorter than `total`.
fn head_never_ends(timeouts: &LayerDescription, total: Option<Duration>) -> Option<Warning> {
    let LayerDescription::Timeout { name, limits } = timeouts else {
        return None;
    };
    let (head, total) = limits.head.zip(total)?;
    (head >= total).then(|| Warning::HeadNeverEnds {
        timeouts: Arc::clone(name),
        head,
        total,
    })
}

/// What is harmful about one layer inside another.
fn of_two(outer: &LayerDescription, inner: &LayerDescription) -> Option<Warning> {
    use LayerDescription::{CircuitBreaker, Contention, RateLimit, Retry, Throttle, Timeout};

    let (out, within) = (Arc::clone(outer.name()), Arc::clone(inner.name()));
    let warning = match (outer, inner) {
        (Retry { max_retries: a, .. }, Retry { max_retries: b, .. }) => Warning::RetryInsideRetry {
            outer: out,
            inner: within,
            calls: (u64::from(*a) + 1).saturating_mul(u64::from(*b) + 1),
        },
        (
            Contention { .. },
            Retry {
                worst_case_delay, ..
            },
        ) => Warning::LockHeldAcrossBackoff {
            lock: out,
            retry: within,
            backoff: *worst_case_delay,
        },
        (CircuitBreaker { .. }, Retry { .. }) => Warning::BreakerOutsideRetry {
            breaker: out,
            retry: within,
        },
        (Contention { .. }, CircuitBreaker { .. }) => Warning::WaitsToBeRefused {
            lock: out,
            breaker: within,
        },
        (Contention { .. }, Contention { .. }) if out == within => {
            Warning::SameLockTwice { lock: out }
        }
        (CircuitBreaker { .. }, CircuitBreaker { .. }) if out == within => {
            Warning::SameBreakerTwice { breaker: out }
        }
        (
            RateLimit { .. },
            Retry {
                max_retries: 1.., ..
            },
        ) => Warning::LimitOutsideRetry {
            limit: out,
            retry: within,
        },
        (RateLimit { .. }, CircuitBreaker { .. }) => Warning::LimitOutsideBreaker {
            limit: out,
            breaker: within,
        },
        (Throttle { .. }, Retry { .. }) | (_, Throttle { .. }) => {
            return of_throttle(outer, inner);
        }
        (Timeout { .. }, _) | (_, Timeout { .. }) => return of_timeouts(outer, inner),
        (Contention { .. }, RateLimit { .. }) => Warning::LockHeldAcrossTurn {
            lock: out,
            limit: within,
        },
        _ => return of_hedge(outer, inner),
    };
    Some(warning)
}

/// What is harmful about a throttle around a retry, or inside of what waits.
fn of_throttle(outer: &LayerDescription, inner: &LayerDescription) -> Option<Warning> {
    use LayerDescription::{Contention, RateLimit, Retry, Throttle};

    let (out, within) = (Arc::clone(outer.name()), Arc::clone(inner.name()));
    match (outer, inner) {
        (
            Throttle { .. },
            Retry {
                max_retries: 1.., ..
            },
        ) => Some(Warning::ThrottleOutsideRetry {
            throttle: out,
            retry: within,
        }),
        (Contention { .. } | RateLimit { .. }, Throttle { .. }) => {
            Some(Warning::WaitsToBeThrottled {
                lock: out,
                throttle: within,
            })
        }
        _ => None,
    }
}

/// What is harmful about timeouts inside of a layer, or around one.
fn of_timeouts(outer: &LayerDescription, inner: &LayerDescription) -> Option<Warning> {
    use LayerDescription::{Retry, Timeout};

    let (out, within) = (Arc::clone(outer.name()), Arc::clone(inner.name()));
    match (outer, inner) {
        (
            Timeout { limits, .. },
            Retry {
                max_retries: 1.., ..
            },
        ) if limits.head.is_some() => Some(Warning::HeadOutsideRetry {
            timeouts: out,
            retry: within,
        }),
        (
            Retry {
                max_retries: 1.., ..
            },
            Timeout { limits, .. },
        ) if limits.total.is_some() => Some(Warning::TotalInsideRetry {
            timeouts: within,
            retry: out,
        }),
        (Timeout { limits, .. }, Timeout { .. }) => head_never_ends(inner, limits.total),
        _ => None,
    }
}
