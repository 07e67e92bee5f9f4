//! Hedges as a service config says: one hedge for each method.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use tower_layer::Layer;
use tower_service::Service;

use super::by_path::ByPath;
use super::classify::GrpcClassify;
use super::code::Codes;
use super::requests::GrpcRequests;
use super::retry::{GrpcRetry, throttle};
use super::service_config::{HedgingConfig, MethodConfig, ServiceConfig};
use crate::error::ConfigError;
use crate::hedge::{Hedge, HedgeLayer, HedgeService};
use crate::retry::RetryBudget;

/// Hedges of one server as a [`ServiceConfig`] says: a cheap clone of its hedges and their throttle.
///
/// ```
/// use tower_bulwark::grpc::{GrpcHedge, ServiceConfig};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = ServiceConfig::parse(r#"{"methodConfig": [{"name": [{}], "hedgingPolicy": {
///     "maxAttempts": 3, "hedgingDelay": "0.1s", "nonFatalStatusCodes": ["UNAVAILABLE"]
/// }}]}"#)?;
/// let hedge = GrpcHedge::new("model", &config)?;
/// let layer = hedge.layer::<std::io::Error>();
/// assert_eq!(hedge.hedge("/any/Method").config().max_extra, 2);
/// # Ok(())
/// # }
/// ```
///
/// As in [gRFC A6](https://github.com/grpc/proposal/blob/master/A6-client-retries.md#hedging-policy):
///
/// - Attempts begin `hedgingDelay` apart, `maxAttempts` of them, the first included. The first answer wins.
/// - A code of `nonFatalStatusCodes` starts the next attempt at once. Every other code ends the call.
/// - A pushback delays the next attempt, or stops all that have not begun. Those that run may still win.
/// - The throttle (`retryThrottling`) counts non-fatal codes and successes. While it stops retries, hedges do not begin.
/// - A method with a `hedgingPolicy` may be called twice: that is what the policy says. One request is kept from it by a
///   [`MarkedIdempotent`](crate::http::MarkedIdempotent)`(false)` among its extensions.
///
/// Two things differ. A hedge does not begin before the request of the first attempt has been read to its end (with
/// [`ReplayBody`](crate::http::ReplayBody)), nor where a layer below would refuse it or let it wait. A pushback that forbids
/// more attempts does not end the call, also with a fatal code.
///
/// A method of which the config says nothing, or that it retries, is called once. The `timeout` of a method is for
/// [`GrpcRetry`], around it.
#[derive(Clone)]
pub struct GrpcHedge {
    shared: Arc<Shared>,
}

struct Shared {
    name: Arc<str>,
    methods: ByPath<Arc<Rule>>,
    /// For methods that are not hedged.
    others: Rule,
}

struct Rule {
    hedge: Hedge,
    classify: GrpcClassify,
}

impl GrpcHedge {
    /// Hedges of the server `name`, as `config` says. They are called by the name and that of their entry:
    /// `model/completion.v1.Completions/Complete`.
    ///
    /// The throttle is one of their own. Where other methods of the server are retried: [`beside`](Self::beside).
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a throttle that cannot work.
    pub fn new(name: impl Into<Arc<str>>, config: &ServiceConfig) -> Result<Self, ConfigError> {
        let throttle = throttle(config)?;
        Self::with_throttle(name.into(), config, throttle.as_ref())
    }

    /// Hedges of the server that `retry` is for, as `config` says, with the throttle of its retries.
    ///
    /// ```
    /// # use tower_bulwark::grpc::{GrpcHedge, GrpcRetry, ServiceConfig};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = ServiceConfig::parse("{}")?;
    /// let retry = GrpcRetry::new("model", &config.clone().without_hedging())?;
    /// let hedge = GrpcHedge::beside(&retry, &config)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a setting that cannot work.
    pub fn beside(retry: &GrpcRetry, config: &ServiceConfig) -> Result<Self, ConfigError> {
        Self::with_throttle(retry.name().into(), config, retry.throttle())
    }

    fn with_throttle(
        name: Arc<str>,
        config: &ServiceConfig,
        throttle: Option<&RetryBudget>,
    ) -> Result<Self, ConfigError> {
        // One entry of the config is one hedge, by whatever names it goes.
        let mut made: HashMap<*const MethodConfig, Arc<Rule>> = HashMap::new();
        let mut methods = ByPath::new();
        for (entry, method) in config.entries() {
            let rule = match made.get(&Arc::as_ptr(method)) {
                Some(rule) => Arc::clone(rule),
                None => Arc::new(Rule::new(
                    format!("{name}{entry}"),
                    method.hedging.as_ref(),
                    throttle,
                )?),
            };
            made.insert(Arc::as_ptr(method), Arc::clone(&rule));
            // The names of a config are different.
            let _ = methods.insert(entry.to_owned(), rule);
        }
        let others = Rule::new(name.to_string(), None, None)?;
        Ok(Self {
            shared: Arc::new(Shared {
                name,
                methods,
                others,
            }),
        })
    }

    /// Every call is made once.
    #[cfg(feature = "tonic")]
    pub(super) fn none() -> Self {
        let hedge = Hedge::new("grpc");
        let mut config = crate::hedge::HedgeConfig::clone(&hedge.config());
        config.max_extra = 0;
        // What is off can work.
        let _ = hedge.update(config);
        let others = Rule {
            hedge,
            classify: GrpcClassify::new(),
        };
        Self {
            shared: Arc::new(Shared {
                name: "grpc".into(),
                methods: ByPath::new(),
                others,
            }),
        }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The hedge of the method with this path, `/service/method`. One that starts none, if the config has none.
    #[must_use]
    pub fn hedge(&self, path: &str) -> &Hedge {
        &self.shared.rule(path).hedge
    }

    /// A layer for services of `http` requests with bodies that are `Clone`. For tonic's:
    /// `requests(GrpcRequests::over(CopyReplay).idempotent())`, inside a [`ReplayLayer`](crate::http::ReplayLayer). `L` is the
    /// service's own error, and inferred.
    #[must_use]
    pub fn layer<L>(&self) -> GrpcHedgeLayer<L> {
        let Rule { hedge, classify } = &self.shared.others;
        let layer = hedge.layer().classify(*classify);
        GrpcHedgeLayer {
            hedge: self.clone(),
            layer: layer.requests(GrpcRequests::new().idempotent()),
        }
    }
}

impl Shared {
    fn rule(&self, path: &str) -> &Rule {
        self.methods.get(path).map_or(&self.others, |rule| rule)
    }
}

impl Rule {
    fn new(
        name: String,
        hedging: Option<&HedgingConfig>,
        throttle: Option<&RetryBudget>,
    ) -> Result<Self, ConfigError> {
        let mut hedge = Hedge::builder(name).max_extra(0).no_budget();
        if let Some(hedging) = hedging {
            hedge = hedge
                .after(hedging.delay)
                .max_extra(hedging.max_attempts.saturating_sub(1))
                .hedge_failures(true);
        }
        if let Some(throttle) = throttle {
            hedge = hedge.budget(throttle);
        }
        let codes = hedging.map_or(Codes::NONE, |it| it.non_fatal);
        Ok(Self {
            hedge: hedge.build()?,
            classify: GrpcClassify::new().retry_on(codes).for_throttle(),
        })
    }
}

impl fmt::Debug for GrpcHedge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcHedge")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

/// Hedges gRPC calls by the path of their request. Made by [`GrpcHedge::layer`].
///
/// `L` is the service's own error, and inferred. `R` copies requests.
pub struct GrpcHedgeLayer<L, R = GrpcRequests> {
    hedge: GrpcHedge,
    layer: HedgeLayer<L, GrpcClassify, R>,
}

impl<L, R> GrpcHedgeLayer<L, R> {
    /// Asks `requests` all there is to ask of a request, instead of [`GrpcRequests`]. What it says may not be called twice
    /// is not hedged: give `GrpcRequests::over(..).idempotent()`.
    #[must_use]
    pub fn requests<Q>(self, requests: Q) -> GrpcHedgeLayer<L, Q> {
        GrpcHedgeLayer {
            hedge: self.hedge,
            layer: self.layer.requests(requests),
        }
    }
}

impl<L, R: Clone> Clone for GrpcHedgeLayer<L, R> {
    fn clone(&self) -> Self {
        Self {
            hedge: self.hedge.clone(),
            layer: self.layer.clone(),
        }
    }
}

impl<L, R> fmt::Debug for GrpcHedgeLayer<L, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcHedgeLayer")
            .field("hedge", &self.hedge)
            .finish_non_exhaustive()
    }
}

impl<S, L, R: Clone> Layer<S> for GrpcHedgeLayer<L, R> {
    type Service = GrpcHedgeService<S, L, R>;

    fn layer(&self, inner: S) -> Self::Service {
        GrpcHedgeService {
            hedge: self.hedge.clone(),
            service: self.layer.layer(inner),
        }
    }
}

/// A service whose calls are hedged by the path of their request. Made by [`GrpcHedgeLayer`].
pub struct GrpcHedgeService<S, L, R = GrpcRequests> {
    hedge: GrpcHedge,
    /// Goes by the rule of one method at a time.
    service: HedgeService<S, L, GrpcClassify, R>,
}

impl<S, L, R> GrpcHedgeService<S, L, R> {
    /// The service that is hedged.
    pub fn get_ref(&self) -> &S {
        self.service.get_ref()
    }

    /// The service that is hedged.
    pub fn get_mut(&mut self) -> &mut S {
        self.service.get_mut()
    }

    /// The service that is hedged.
    pub fn into_inner(self) -> S {
        self.service.into_inner()
    }
}

impl<S: Clone, L, R: Clone> Clone for GrpcHedgeService<S, L, R> {
    fn clone(&self) -> Self {
        Self {
            hedge: self.hedge.clone(),
            service: self.service.clone(),
        }
    }
}

impl<S: fmt::Debug, L, R> fmt::Debug for GrpcHedgeService<S, L, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcHedgeService")
            .field("inner", self.get_ref())
            .field("hedge", &self.hedge)
            .finish_non_exhaustive()
    }
}

impl<S, L, R, B> Service<Request<B>> for GrpcHedgeService<S, L, R>
where
    HedgeService<S, L, GrpcClassify, R>: Service<Request<B>>,
{
    type Response = <HedgeService<S, L, GrpcClassify, R> as Service<Request<B>>>::Response;
    type Error = <HedgeService<S, L, GrpcClassify, R> as Service<Request<B>>>::Error;
    type Future = <HedgeService<S, L, GrpcClassify, R> as Service<Request<B>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let rule = self.hedge.shared.rule(request.uri().path());
        self.service.go_by(&rule.hedge, rule.classify);
        self.service.call(request)
    }
}
