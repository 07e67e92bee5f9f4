//! `Retry(CircuitBreaker(Contention(reqwest client)))`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::Request;
use tower::{Service, ServiceBuilder};
use tower_bulwark::circuit_breaker::Recovery;
use tower_bulwark::event::ContentionEvent;
use tower_bulwark::explain::{Explanation, Layers};
use tower_bulwark::observe::Feed;
use tower_bulwark::retry::AttemptOutcome;
use tower_bulwark::{
    Backoff, CircuitBreaker, ConfigError, Error, Event, Jitter, Observer, ResourceLock,
    RetryBudget, RetryPolicy, Verdict,
};

use crate::client::{self, Reply};

/// What depends on how fast the API is.
#[derive(Debug)]
pub struct Settings {
    seed: u64,
    /// How many calls at once the API is good for.
    slots: usize,
    attempt: Duration,
    total: Duration,
    first_backoff: Duration,
    recovery: Duration,
    contended: Duration,
}

impl Settings {
    /// For an API that answers within a fraction of a second.
    pub fn fast(seed: u64) -> Self {
        Self {
            seed,
            slots: 16,
            attempt: Duration::from_secs(1),
            total: Duration::from_secs(60),
            first_backoff: Duration::from_millis(50),
            recovery: Duration::from_millis(400),
            contended: Duration::from_millis(150),
        }
    }

    /// For an API that takes its time.
    pub fn patient(seed: u64) -> Self {
        Self {
            seed,
            slots: 4,
            attempt: Duration::from_secs(60),
            total: Duration::from_secs(120),
            first_backoff: Duration::from_secs(1),
            recovery: Duration::from_secs(15),
            contended: Duration::from_secs(5),
        }
    }
}

/// The handles behind the layers: what a program keeps to look at, and to command.
#[derive(Clone, Debug)]
pub struct Handles {
    pub retry: RetryPolicy,
    pub breaker: CircuitBreaker,
    pub slots: ResourceLock,
    /// The state changes of the breaker.
    pub changes: Feed,
    /// Warnings that somebody waits for a slot, given while it waits.
    pub warnings: Feed,
    pub retried: Arc<Retried>,
}

/// Why attempts were made again.
#[derive(Debug, Default)]
pub struct Retried {
    pub errors: AtomicU64,
    pub responses: AtomicU64,
    pub timeouts: AtomicU64,
    pub refusals: AtomicU64,
}

impl Retried {
    fn count(&self, outcome: &AttemptOutcome<'_>) {
        let counter = match outcome {
            AttemptOutcome::Error(_) => &self.errors,
            AttemptOutcome::Response { .. } => &self.responses,
            AttemptOutcome::TimedOut => &self.timeouts,
            AttemptOutcome::Rejected(_) => &self.refusals,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Handles {
    pub fn new(settings: &Settings) -> Result<Self, ConfigError> {
        let (changes, warnings) = (Feed::default(), Feed::default());
        let retried = Arc::new(Retried::default());
        let count = Arc::clone(&retried);
        // Retries may double the traffic, and no more: enough for bad days, too few to keep a service down.
        let budget = RetryBudget::builder().ratio(1.0).build()?;
        let retry = RetryPolicy::builder()
            .name("llm-retry")
            // Being refused costs a prompt a retry, too. What ends the attempts is the time.
            .max_retries(200)
            .backoff(Backoff::exponential(settings.first_backoff, 2.0))
            .max_delay(20 * settings.first_backoff)
            .jitter(Jitter::Full)
            .attempt_timeout(settings.attempt)
            .total_timeout(settings.total)
            .budget(budget)
            // A prompt can wait for the breaker, at no cost to the service.
            .retry_rejections(true)
            .on_retry(move |failed| count.count(&failed.outcome))
            .seed(settings.seed)
            .build()?;
        let breaker = CircuitBreaker::builder("llm-api")
            .consecutive_failures(5)
            // The longer it is down, the less often it is asked whether it is up.
            .recovery(Recovery::exponential(
                settings.recovery,
                1.5,
                settings.recovery * 3,
            ))
            .success_threshold(2)
            .max_probes(1)
            .probe_timeout(2 * settings.attempt)
            .observer(changes.clone())
            .seed(settings.seed)
            .build()?;
        let slots = ResourceLock::builder("llm-slots")
            .max_concurrent(settings.slots)
            // Less than an attempt may take, or a wait would look like a call that hangs.
            .timeout(settings.attempt * 3 / 4)
            .contention_threshold(settings.contended)
            // Whoever waits was let in by the breaker, and goes on when it has opened meanwhile: let few wait.
            .max_waiting(settings.slots)
            .observer(only_warnings(warnings.clone()))
            .build()?;
        Ok(Self {
            retry,
            breaker,
            slots,
            changes,
            warnings,
            retried,
        })
    }

    /// What the stack can do at worst.
    pub fn explain(&self) -> Explanation {
        let attempt = self.retry.config().attempt_timeout();
        Layers::new()
            .layer(&self.retry)
            .layer(&self.breaker)
            .layer(&self.slots)
            .service("reqwest client", attempt)
            .explain()
    }
}

fn only_warnings(feed: Feed) -> impl Observer {
    move |name: &str, event: &Event| {
        if let Event::Contention(ContentionEvent::Contended { .. }) = event {
            feed.observe(name, event);
        }
    }
}

/// What a call says of the API. Throttling is worth a retry, but no sign of an outage; nor does it say that
/// all is well.
fn health(result: Result<&Reply, &reqwest::Error>) -> Verdict {
    match result {
        Ok(reply) if reply.is_throttled() => Verdict::ignored(),
        Ok(reply) if reply.is_server_error() => {
            Verdict::failure().because(reply.status.to_string())
        }
        Ok(_) => Verdict::success(),
        Err(error) => Verdict::failure().because(crate::report::root_cause(error)),
    }
}

/// The three layers around the client.
pub fn layered(
    handles: &Handles,
    http: reqwest::Client,
) -> impl Service<Request, Response = Reply, Error = Error<reqwest::Error>, Future: Send>
+ Clone
+ Send
+ use<> {
    let retry = handles
        .retry
        .layer()
        .copy_request(Request::try_clone)
        .retry_if(|error: &reqwest::Error| !error.is_builder())
        .retry_response_if(|reply: &Reply| reply.is_throttled() || reply.is_server_error())
        .delay_from(|result: Result<&Reply, &reqwest::Error>| result.ok()?.retry_after);
    let breaker = handles.breaker.layer().classify_with(health);
    let slots = handles.slots.layer().holder(client::holder);
    ServiceBuilder::new()
        .layer(retry)
        .layer(breaker)
        .layer(slots)
        .and_then(Reply::read)
        .service(http)
}

/// The client as it is, with an error of the same type.
pub fn bare(
    http: reqwest::Client,
) -> impl Service<Request, Response = Reply, Error = Error<reqwest::Error>, Future: Send>
+ Clone
+ Send
+ use<> {
    ServiceBuilder::new()
        .map_err(Error::Inner)
        .and_then(Reply::read)
        .service(http)
}
