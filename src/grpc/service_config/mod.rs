//! The service config of gRPC: the JSON by which all its clients learn how to retry.

mod json;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::by_path::ByPath;
use super::code::Codes;

/// A gRPC [service config](https://github.com/grpc/grpc/blob/master/doc/service_config.md), as far as it
/// concerns this crate: timeouts, retries and their throttle, by method.
///
/// ```
/// use tower_bulwark::grpc::{Code, ServiceConfig};
///
/// let config = ServiceConfig::parse(r#"{
///     "methodConfig": [{
///         "name": [{"service": "completion.v1.Completions"}],
///         "timeout": "30s",
///         "retryPolicy": {
///             "maxAttempts": 4,
///             "initialBackoff": "0.1s",
///             "maxBackoff": "1s",
///             "backoffMultiplier": 2,
///             "retryableStatusCodes": ["UNAVAILABLE"]
///         }
///     }],
///     "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}
/// }"#)?;
/// let method = config.method("/completion.v1.Completions/Complete").unwrap();
/// assert!(method.retry.as_ref().unwrap().codes.contains(Code::Unavailable));
/// # Ok::<(), tower_bulwark::grpc::ServiceConfigError>(())
/// ```
///
/// [`GrpcRetry`](super::GrpcRetry) and [`GrpcHedge`](super::GrpcHedge) go by one.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceConfig {
    methods: ByPath<Arc<MethodConfig>>,
    throttling: Option<RetryThrottling>,
}

impl ServiceConfig {
    /// Reads the JSON.
    ///
    /// Fields of which nothing is known are ignored, as the standard has it. `maxAttempts` above 5 is 5, and
    /// digits of `tokenRatio` behind the third are cut off.
    ///
    /// # Errors
    ///
    /// [`ServiceConfigError`] for the first thing that is wrong. One policy that is wrong makes the whole
    /// config wrong: a client then keeps the config it had.
    pub fn parse(json: &str) -> Result<Self, ServiceConfigError> {
        json::read(json)
    }

    /// What is said of the method with this path (`/service/method`, as in the URI of its requests): of
    /// itself, of its service, or of all methods.
    #[must_use]
    pub fn method(&self, path: &str) -> Option<&MethodConfig> {
        self.methods.get(path).map(|method| &**method)
    }

    /// The throttle that all methods share, if there is one.
    #[must_use]
    pub fn throttling(&self) -> Option<RetryThrottling> {
        self.throttling
    }

    /// The names of the entries that ask for what a retry does not do, which is hedging: with one of them
    /// [`GrpcRetry::new`](super::GrpcRetry::new) fails. [`GrpcHedge`](super::GrpcHedge) goes by them. `/service/method`, `/service/`, or empty for the default of all
    /// methods; sorted.
    #[must_use]
    pub fn not_supported(&self) -> Vec<String> {
        let hedged = self
            .methods
            .iter()
            .filter(|(_, method)| method.hedging.is_some());
        let mut names: Vec<_> = hedged.map(|(name, _)| name.to_owned()).collect();
        names.sort();
        names
    }

    /// The same without what it says of hedging: to a retry those methods are called once.
    #[must_use]
    pub fn without_hedging(self) -> Self {
        let mut methods = ByPath::new();
        for (name, method) in self.methods.iter() {
            let method = match method.hedging {
                None => Arc::clone(method),
                Some(_) => Arc::new(MethodConfig {
                    hedging: None,
                    ..MethodConfig::clone(method)
                }),
            };
            // The names of a config are different.
            let _ = methods.insert(name.to_owned(), method);
        }
        Self { methods, ..self }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &Arc<MethodConfig>)> {
        self.methods.iter()
    }
}

/// What a [`ServiceConfig`] says of a method.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct MethodConfig {
    /// How long a call may take, with all its attempts.
    pub timeout: Option<Duration>,
    /// How it is retried. Without: not at all.
    pub retry: Option<RetryConfig>,
    /// How it is hedged. Without: not at all.
    pub hedging: Option<HedgingConfig>,
}

/// A `retryPolicy`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RetryConfig {
    /// How many attempts there may be, with the first: from 2 to 5.
    pub max_attempts: u32,
    /// The wait before the first retry, give or take 20 %.
    pub initial_backoff: Duration,
    /// The longest wait, give or take 20 %.
    pub max_backoff: Duration,
    /// How many times longer each wait is than the one before. Above 0.
    pub multiplier: f64,
    /// After which codes there is a retry. Never none.
    pub codes: Codes,
}

/// A `hedgingPolicy`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct HedgingConfig {
    /// How many attempts there may be, with the first: from 2 to 5.
    pub max_attempts: u32,
    /// How long after one attempt the next begins; zero for all at once.
    pub delay: Duration,
    /// After which codes the other attempts go on.
    pub non_fatal: Codes,
}

/// The `retryThrottling`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct RetryThrottling {
    /// How many tokens there are at first, from 1 to 1000. A failure takes one, and there are no retries
    /// while no more than half of them are left.
    pub max_tokens: u32,
    /// What a success puts back, in tokens: at least 0.001, and no more than three decimals.
    pub token_ratio: f64,
}

/// What is wrong with a service config, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceConfigError {
    field: String,
    problem: String,
}

impl ServiceConfigError {
    #[cfg(feature = "tonic")]
    pub(super) fn new(field: String, problem: String) -> Self {
        Self { field, problem }
    }

    /// Which field it is: `methodConfig[0].retryPolicy.maxAttempts`. Empty for the whole.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What is wrong with it.
    #[must_use]
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

impl fmt::Display for ServiceConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.field {
            "" => write!(f, "service config: {}", self.problem),
            field => write!(f, "service config: `{field}` {}", self.problem),
        }
    }
}

impl std::error::Error for ServiceConfigError {}
