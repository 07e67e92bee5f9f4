//! Retries as a service config says: one policy for each method.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use tower_layer::Layer;
use tower_service::Service;

use super::by_path::ByPath;
use super::classify::GrpcClassify;
use super::code::Codes;
use super::requests::GrpcRequests;
use super::service_config::{MethodConfig, RetryConfig, ServiceConfig};
use crate::error::ConfigError;
use crate::retry::{Backoff, Jitter, RetryBudget, RetryLayer, RetryPolicy, RetryService};

/// Retries of one server as a [`ServiceConfig`] says: a cheap clone of its policies and its throttle.
///
/// ```
/// use tower_bulwark::grpc::{GrpcRetry, ServiceConfig};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = ServiceConfig::parse(r#"{"methodConfig": [{"name": [{}], "retryPolicy": {
///     "maxAttempts": 3, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
///     "retryableStatusCodes": ["UNAVAILABLE"]
/// }}]}"#)?;
/// let retry = GrpcRetry::new("model", &config)?;
/// let layer = retry.layer::<std::io::Error>();
/// assert_eq!(retry.policy("/any/Method").config().max_retries(), 2);
/// # Ok(())
/// # }
/// ```
///
/// As in [gRFC A6](https://github.com/grpc/proposal/blob/master/A6-client-retries.md):
///
/// - The wait before retry *n* is `min(initialBackoff * backoffMultiplier^(n-1), maxBackoff)`, give or take
///   20 %: it may be longer than `maxBackoff`.
/// - A pushback of the server is waited to the letter, however long it is; only the deadline ends it.
/// - The throttle is one for all methods, whatever their policies. It counts a success when the head of the
///   response is good, not at the end of its body.
/// - `timeout` is for the whole call. One in the request, or the ambient deadline, may be shorter.
/// - A request of which the server has certainly seen nothing is sent once more at once, if the method is
///   retried at all; such an attempt is none of `maxAttempts`.
///
/// A method that the config does not speak of is called once.
#[derive(Clone)]
pub struct GrpcRetry {
    shared: Arc<Shared>,
}

struct Shared {
    name: Arc<str>,
    methods: ByPath<Arc<Rule>>,
    /// For methods that the config does not speak of.
    others: Rule,
    throttle: Option<RetryBudget>,
}

struct Rule {
    policy: RetryPolicy,
    classify: GrpcClassify,
}

impl GrpcRetry {
    /// Retries of the server `name`, as `config` says. The policies are called by the name and that of their
    /// entry: `model/completion.v1.Completions/Complete`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a `timeout` of zero, and for a `hedgingPolicy`, which is for a [`GrpcHedge`](super::GrpcHedge). A
    /// config that has one goes through [`ServiceConfig::without_hedging`]: to the retry its methods are called once.
    pub fn new(name: impl Into<Arc<str>>, config: &ServiceConfig) -> Result<Self, ConfigError> {
        let name = name.into();
        if let Some(entry) = config.not_supported().into_iter().next() {
            return Err(ConfigError::new(
                "hedgingPolicy",
                format!("of `{entry}`"),
                "a retry does not hedge: give it `ServiceConfig::without_hedging`, and take `GrpcHedge::beside` for these methods",
            ));
        }
        let throttle = throttle(config)?;
        let rule = |entry: &str, method: &MethodConfig| {
            Rule::new(format!("{name}{entry}"), method, throttle.as_ref())
        };
        // One entry of the config is one policy, by whatever names it goes.
        let mut made: HashMap<*const MethodConfig, Arc<Rule>> = HashMap::new();
        let mut methods = ByPath::new();
        for (entry, method) in config.entries() {
            let known = made.get(&Arc::as_ptr(method)).cloned();
            let rule = match known {
                Some(rule) => rule,
                None => Arc::new(rule(entry, method)?),
            };
            made.insert(Arc::as_ptr(method), Arc::clone(&rule));
            // The names of a config are different.
            let _ = methods.insert(entry.to_owned(), rule);
        }
        let others = rule("", &MethodConfig::default())?;
        Ok(Self {
            shared: Arc::new(Shared {
                methods,
                others,
                throttle,
                name,
            }),
        })
    }

    /// One policy for all methods.
    #[cfg(feature = "tonic")]
    pub(super) fn one_for_all(policy: RetryPolicy, classify: GrpcClassify) -> Self {
        Self {
            shared: Arc::new(Shared {
                name: policy.name().into(),
                methods: ByPath::new(),
                others: Rule { policy, classify },
                throttle: None,
            }),
        }
    }

    /// Every call is made once.
    #[cfg(feature = "tonic")]
    pub(super) fn none() -> Self {
        let classify = GrpcClassify::new().retry_on(Codes::NONE);
        Self::one_for_all(RetryPolicy::none(), classify)
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The policy of the method with this path, `/service/method`. One that allows no retries, if the config
    /// allows none.
    #[must_use]
    pub fn policy(&self, path: &str) -> &RetryPolicy {
        &self.shared.rule(path).policy
    }

    /// The throttle that all methods share, if there is one.
    #[must_use]
    pub fn throttle(&self) -> Option<&RetryBudget> {
        self.shared.throttle.as_ref()
    }

    /// A layer for services of `http` requests. `L` is the service's own error, and inferred.
    #[must_use]
    pub fn layer<L>(&self) -> GrpcRetryLayer<L> {
        GrpcRetryLayer {
            retry: self.clone(),
            layer: self.shared.others.layer().requests(GrpcRequests::new()),
        }
    }
}

/// The throttle that a config asks for.
pub(super) fn throttle(config: &ServiceConfig) -> Result<Option<RetryBudget>, ConfigError> {
    let throttling = config.throttling();
    let throttle = throttling.map(|rules| {
        // More than all of them cannot be put back.
        let ratio = rules.token_ratio.min(f64::from(rules.max_tokens));
        RetryBudget::throttle(rules.max_tokens, ratio)
    });
    throttle.transpose()
}

impl Shared {
    fn rule(&self, path: &str) -> &Rule {
        self.methods.get(path).map_or(&self.others, |rule| rule)
    }
}

impl Rule {
    fn new(
        name: String,
        method: &MethodConfig,
        throttle: Option<&RetryBudget>,
    ) -> Result<Self, ConfigError> {
        let codes = method.retry.as_ref().map_or(Codes::NONE, |it| it.codes);
        let mut policy = RetryPolicy::builder()
            .name(name)
            .max_retries(0)
            .free_retry()
            .max_retry_after(Duration::MAX);
        if let Some(retry) = &method.retry {
            policy = policy
                .max_retries(retry.max_attempts.saturating_sub(1))
                .backoff(backoff(retry))
                .jitter(Jitter::Proportional(0.2))
                .max_delay(retry.max_backoff.saturating_mul(6) / 5);
        }
        if let Some(throttle) = throttle {
            policy = policy.budget(throttle.clone());
        }
        if let Some(timeout) = method.timeout {
            policy = policy.total_timeout(timeout);
        }
        Ok(Self {
            policy: policy.build()?,
            classify: GrpcClassify::new().retry_on(codes).for_throttle(),
        })
    }

    fn layer<L>(&self) -> RetryLayer<L, GrpcClassify> {
        self.policy.layer().classify(self.classify)
    }
}

/// What is capped here is the wait before its jitter; the policy's own cap is for the wait with it.
fn backoff(retry: &RetryConfig) -> Backoff {
    let growing = Backoff::exponential(retry.initial_backoff, retry.multiplier);
    let longest = retry.max_backoff;
    Backoff::custom(move |n| growing.raw(n).min(longest))
}

impl fmt::Debug for GrpcRetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcRetry")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

/// Retries gRPC calls by the path of their request. Made by [`GrpcRetry::layer`].
///
/// `L` is the service's own error, and inferred. `R` copies requests.
pub struct GrpcRetryLayer<L, R = GrpcRequests> {
    retry: GrpcRetry,
    layer: RetryLayer<L, GrpcClassify, R>,
}

impl<L, R> GrpcRetryLayer<L, R> {
    /// Asks `requests` all there is to ask of a request, instead of [`GrpcRequests`]; mind that deadlines and
    /// headers are its part: give `GrpcRequests::over(..)`.
    #[must_use]
    pub fn requests<Q>(self, requests: Q) -> GrpcRetryLayer<L, Q> {
        GrpcRetryLayer {
            retry: self.retry,
            layer: self.layer.requests(requests),
        }
    }
}

impl<L, R: Clone> Clone for GrpcRetryLayer<L, R> {
    fn clone(&self) -> Self {
        Self {
            retry: self.retry.clone(),
            layer: self.layer.clone(),
        }
    }
}

impl<L, R> fmt::Debug for GrpcRetryLayer<L, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcRetryLayer")
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

impl<S, L, R: Clone> Layer<S> for GrpcRetryLayer<L, R> {
    type Service = GrpcRetryService<S, L, R>;

    fn layer(&self, inner: S) -> Self::Service {
        GrpcRetryService {
            retry: self.retry.clone(),
            service: self.layer.layer(inner),
        }
    }
}

/// A service whose calls are retried by the path of their request. Made by [`GrpcRetryLayer`].
pub struct GrpcRetryService<S, L, R = GrpcRequests> {
    retry: GrpcRetry,
    /// Goes by the rule of one method at a time.
    service: RetryService<S, L, GrpcClassify, R>,
}

impl<S, L, R> GrpcRetryService<S, L, R> {
    /// The service that is retried.
    pub fn get_ref(&self) -> &S {
        self.service.get_ref()
    }

    /// The service that is retried.
    pub fn get_mut(&mut self) -> &mut S {
        self.service.get_mut()
    }

    /// The service that is retried.
    pub fn into_inner(self) -> S {
        self.service.into_inner()
    }
}

impl<S: Clone, L, R: Clone> Clone for GrpcRetryService<S, L, R> {
    fn clone(&self) -> Self {
        Self {
            retry: self.retry.clone(),
            service: self.service.clone(),
        }
    }
}

impl<S: fmt::Debug, L, R> fmt::Debug for GrpcRetryService<S, L, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcRetryService")
            .field("inner", self.get_ref())
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

impl<S, L, R, B> Service<Request<B>> for GrpcRetryService<S, L, R>
where
    RetryService<S, L, GrpcClassify, R>: Service<Request<B>>,
{
    type Response = <RetryService<S, L, GrpcClassify, R> as Service<Request<B>>>::Response;
    type Error = <RetryService<S, L, GrpcClassify, R> as Service<Request<B>>>::Error;
    type Future = <RetryService<S, L, GrpcClassify, R> as Service<Request<B>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let rule = self.retry.shared.rule(request.uri().path());
        self.service.go_by(&rule.policy, rule.classify);
        self.service.call(request)
    }
}
