//! A stack around each of two models, and a fallback from the first to the second.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tower::{Service, ServiceBuilder, service_fn};
use tower_bulwark::config::{Config, ConfigWatcher};
use tower_bulwark::event::ContentionEvent;
use tower_bulwark::observe::Feed;
use tower_bulwark::retry::AttemptOutcome;
use tower_bulwark::stack::StackBuilder;
use tower_bulwark::{
    BoxError, Error, Event, Fallback, Observer, Registry, RegistryError, Stack, Verdict,
};

use crate::client::{Endpoint, Prompt, Reply};

/// The handles behind the layers: what a program keeps to look at, and to command.
#[derive(Clone, Debug)]
pub struct Handles {
    /// Around the first model.
    pub first: Stack,
    /// Around the second, which is asked when the first does not answer.
    pub second: Stack,
    pub fallback: Fallback,
    /// The state changes of the first model's breaker, and changes of the config.
    pub changes: Feed,
    /// Warnings that somebody waits for a slot, given while it waits.
    pub warnings: Feed,
    pub retried: Arc<Retried>,
    pub registry: Registry,
    /// The file that they go by, if there is one.
    _config: Option<Arc<ConfigWatcher>>,
}

/// Why attempts were made again.
#[derive(Debug, Default)]
pub struct Retried {
    pub errors: AtomicU64,
    pub responses: AtomicU64,
    pub timeouts: AtomicU64,
}

impl Retried {
    fn count(&self, outcome: &AttemptOutcome<'_>) {
        let counter = match outcome {
            AttemptOutcome::Error(_) => &self.errors,
            AttemptOutcome::Response { .. } => &self.responses,
            AttemptOutcome::TimedOut => &self.timeouts,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Handles {
    /// By a file, which is applied again each time it changes.
    pub fn by_file(path: &Path, seed: u64) -> Result<Self, BoxError> {
        let config = Config::from_file(path)?;
        let (first, second) = (config.stack("llm-api")?, config.stack("second")?);
        // Made before it is watched: callbacks are given by code alone.
        let mut handles = Self::new(first, second, seed)?;
        let watcher = handles.registry.watch_config(path)?;
        handles._config = Some(Arc::new(watcher));
        Ok(handles)
    }

    /// For an API that takes its time: as the crate has it.
    pub fn patient(seed: u64) -> Result<Self, BoxError> {
        Ok(Self::new(
            Stack::llm("llm-api"),
            Stack::llm("second"),
            seed,
        )?)
    }

    fn new(first: StackBuilder, second: StackBuilder, seed: u64) -> Result<Self, RegistryError> {
        let (changes, warnings) = (Feed::default(), Feed::default());
        let retried = Arc::new(Retried::default());
        let count = Arc::clone(&retried);
        let heard = || only_warnings(warnings.clone());
        let registry = Registry::new();
        registry.observe(only_config(changes.clone()));
        let first = first
            .retry(|it| {
                it.seed(seed)
                    .on_retry(move |failed| count.count(&failed.outcome))
            })
            .circuit_breaker(|it| it.seed(seed).observer(changes.clone()))
            .lock(|it| it.observer(heard()))
            .build_in(&registry)?;
        let second = second
            .retry(|it| it.seed(seed))
            .lock(|it| it.observer(heard()))
            .build_in(&registry)?;
        Ok(Self {
            first,
            second,
            fallback: registry.fallback("models"),
            changes,
            warnings,
            retried,
            registry,
            _config: None,
        })
    }
}

fn only_config(feed: Feed) -> impl Observer {
    move |name: &str, event: &Event| {
        if let Event::Config(_) = event {
            feed.observe(name, event);
        }
    }
}

fn only_warnings(feed: Feed) -> impl Observer {
    move |name: &str, event: &Event| {
        if let Event::Contention(ContentionEvent::Contended { .. }) = event {
            feed.observe(name, event);
        }
    }
}

/// What a call says of the API. Throttling is worth a retry, when the API says, but no sign of an outage; nor does it say that
/// all is well.
fn judge(result: Result<&Reply, &reqwest::Error>) -> Verdict {
    match result {
        Ok(reply) if reply.is_throttled() => match reply.retry_after {
            Some(delay) => Verdict::overload().retry_after(delay),
            None => Verdict::overload(),
        },
        Ok(reply) if reply.is_server_error() => {
            Verdict::failure().because(reply.status.to_string())
        }
        Ok(_) => Verdict::success(),
        Err(error) if error.is_builder() => Verdict::ignored(),
        Err(error) => Verdict::failure().because(crate::report::root_cause(error)),
    }
}

/// A model as it is.
fn model(
    endpoint: &Arc<Endpoint>,
) -> impl Service<Prompt, Response = Reply, Error = reqwest::Error, Future: Send>
+ Clone
+ Send
+ Sync
+ use<> {
    let endpoint = Arc::clone(endpoint);
    service_fn(move |prompt| {
        let endpoint = Arc::clone(&endpoint);
        async move { endpoint.ask(prompt).await }
    })
}

/// A model behind all parts of a stack.
fn guarded(
    stack: &Stack,
    endpoint: &Arc<Endpoint>,
) -> impl Service<Prompt, Response = Reply, Error = Error<reqwest::Error>, Future: Send>
+ Clone
+ Send
+ Sync
+ use<> {
    let layer = stack
        .layer()
        .classify_with(judge)
        .cost(|prompt: &Prompt| [1, prompt.tokens()])
        .settle(|reply: &Reply| Some([1, reply.tokens()?]));
    ServiceBuilder::new().layer(layer).service(model(endpoint))
}

/// The first model behind its stack, and the second behind its own, if there is one.
pub fn layered(
    handles: &Handles,
    endpoint: &Arc<Endpoint>,
    second: Option<&Arc<Endpoint>>,
) -> impl Service<Prompt, Response = Reply, Error = Error<reqwest::Error>, Future: Send>
+ Clone
+ Send
+ use<> {
    let mut fallback = handles.fallback.layer().classify_with(judge);
    if let Some(second) = second {
        fallback = fallback.to("second", guarded(&handles.second, second));
    }
    let first = guarded(&handles.first, endpoint);
    ServiceBuilder::new().layer(fallback).service(first)
}

/// The first model as it is, with an error of the same type.
pub fn bare(
    endpoint: &Arc<Endpoint>,
) -> impl Service<Prompt, Response = Reply, Error = Error<reqwest::Error>, Future: Send>
+ Clone
+ Send
+ use<> {
    let service = ServiceBuilder::new().map_err(Error::Inner);
    service.service(model(endpoint))
}
