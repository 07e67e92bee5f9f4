//! A bad day in the life of an API, and a program that gets through it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::circuit_breaker::Recovery;
use tower_bulwark::contention::OnDeadlock;
use tower_bulwark::keyed::Keyed;
use tower_bulwark::rate_limit::Quota;
use tower_bulwark::stack::StackBuilder;
use tower_bulwark::{
    Backoff, BoxError, CircuitBreaker, Error, Fallback, Part, RateLimit, Registry, ResourceLock,
    Stack, Verdict,
};

use crate::client::{Endpoint, Prompt, Reply};
use crate::support::fake_llm::FakeLlm;
use crate::support::scenario::Scenario;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const PROMPTS: u64 = 300;
const WORKERS: usize = 20;

/// The handles of the program.
#[derive(Clone)]
pub struct Day {
    seed: u64,
    first: Stack,
    second: Stack,
    fallback: Fallback,
    /// One at a time may write to it.
    index: ResourceLock,
    /// What a careless client may send.
    batch: RateLimit,
    /// Two accounts, which transfers take in any order.
    accounts: [ResourceLock; 2],
    shards: Keyed<String, CircuitBreaker>,
}

/// For an API that answers within a fraction of a second, with numbers of `llm_pipeline`.
fn fast(stack: StackBuilder) -> StackBuilder {
    stack
        .without(Part::AttemptTimeout)
        .attempt_timeout(SECOND)
        .total_timeout(30 * SECOND)
        .quota("requests", Quota::per_second(110).burst(10))
        .quota("tokens", Quota::per_minute(600_000))
        .hedge(|it| it.after(300 * MS))
        .retry(|it| it.backoff(Backoff::exponential(50 * MS, 2.0)))
        .circuit_breaker(|it| it.recovery(Recovery::exponential(400 * MS, 1.5, 1_200 * MS)))
        .lock(|it| it.timeout(750 * MS).contention_threshold(150 * MS))
}

impl Day {
    pub fn new(registry: &Registry, seed: u64) -> Result<Self, BoxError> {
        let account = |name: &str| {
            ResourceLock::builder(name)
                .on_deadlock(OnDeadlock::Report)
                .timeout(4 * SECOND)
                .build_in(registry)
        };
        let batch = RateLimit::builder("batch")
            .quota("requests", Quota::per_second(4))
            .build_in(registry)?;
        // Would twice as much be enough? The page tells what that would have changed.
        let mut twice = (*batch.config()).clone();
        twice.quotas = vec![("requests".into(), Quota::per_second(8))];
        batch.shadow(twice)?;
        Ok(Self {
            seed,
            first: fast(Stack::llm("llm-api"))
                .lock(|it| it.max_concurrent(22))
                .build_in(registry)?,
            second: fast(Stack::llm("second"))
                .lock(|it| it.max_concurrent(8))
                .build_in(registry)?,
            fallback: registry.fallback("models"),
            index: ResourceLock::builder("search-index")
                .timeout(5 * SECOND)
                .contention_threshold(300 * MS)
                .hold_threshold(SECOND)
                .build_in(registry)?,
            batch,
            accounts: [account("account-17")?, account("account-42")?],
            shards: Keyed::new("shards", 100, |shard: &String| {
                CircuitBreaker::new(format!("shard {shard}"))
            })?,
        })
    }

    pub fn shards(&self) -> &Keyed<String, CircuitBreaker> {
        &self.shards
    }

    /// One day after the other, each with other faults.
    pub async fn play_for_ever(mut self) -> Result<(), BoxError> {
        loop {
            self.clone().play().await?;
            self.seed += 1;
            tokio::time::sleep(2 * SECOND).await;
        }
    }

    /// Some ten seconds.
    pub async fn play(self) -> Result<(), BoxError> {
        let server = FakeLlm::start(Scenario::bad_day(self.seed, PROMPTS)).await?;
        let second = Scenario::healthy(self.seed).latency_ms(120..=240);
        let second = FakeLlm::start(second).await?;
        let first_model = guarded(&self.first, Endpoint::fake(server.base_url())?);
        let second_model = guarded(&self.second, Endpoint::fake(second.base_url())?);
        let fallback = self.fallback.layer().classify_with(judge);
        let service = ServiceBuilder::new()
            .layer(fallback.to("second", second_model))
            .service(first_model);

        let next = Arc::new(AtomicU64::new(0));
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS {
            let (day, next, service) = (self.clone(), Arc::clone(&next), service.clone());
            workers.spawn(async move {
                loop {
                    let prompt = next.fetch_add(1, Ordering::Relaxed);
                    if prompt >= PROMPTS {
                        return;
                    }
                    let asked = Prompt(prompt);
                    // What became of it shows on the page.
                    let _ = asked.named(service.clone().oneshot(asked)).await;
                    day.index_answer(prompt).await;
                }
            });
        }
        // It dies with the workers, whatever it holds then.
        let mut others = JoinSet::new();
        others.spawn(self.clone().reindexes());
        others.spawn(self.clone().sends_too_much());
        let [left, right] = self.accounts.clone();
        others.spawn(transfers("transfer-801", [left.clone(), right.clone()]));
        others.spawn(transfers("transfer-802", [right, left]));
        while let Some(ended) = workers.join_next().await {
            ended?;
        }
        others.shutdown().await;
        server.shutdown().await;
        second.shutdown().await;
        Ok(())
    }

    /// Some answers go into the index, and some of its shards are not well.
    async fn index_answer(&self, prompt: u64) {
        let shard = format!("{:02}", prompt % 40);
        if let Ok(breaker) = self.shards.get(&shard) {
            let written = async {
                match shard.as_str() {
                    "13" => Err(std::io::Error::other("disk full")),
                    _ => Ok(()),
                }
            };
            let _ = breaker.call(|| written).await;
        }
        if prompt.is_multiple_of(6) {
            let write = async {
                tokio::time::sleep(5 * MS).await;
                Ok::<_, std::io::Error>(())
            };
            let _ = self.index.run(format!("prompt-{prompt}"), || write).await;
        }
    }

    /// Takes the index for itself, for longer than is good for the others.
    async fn reindexes(self) {
        loop {
            tokio::time::sleep(2 * SECOND).await;
            let work = async {
                tokio::time::sleep(3 * SECOND).await;
                Ok::<_, std::io::Error>(())
            };
            let _ = self.index.run("nightly-reindex", || work).await;
        }
    }

    /// Asks for more than its quota.
    async fn sends_too_much(self) {
        loop {
            let _ = self.batch.try_acquire(1);
            tokio::time::sleep(100 * MS).await;
        }
    }
}

/// Takes both accounts, one after the other. Who takes them in the other order meanwhile waits for this, and this for it.
async fn transfers(who: &'static str, [first, second]: [ResourceLock; 2]) {
    loop {
        if let Ok(_first) = first.acquire(who).await {
            tokio::time::sleep(100 * MS).await;
            let _both = second.acquire(who).await;
        }
        tokio::time::sleep(SECOND).await;
    }
}

/// What a call says of the API. Throttling is no sign of an outage, nor that all is well.
fn judge(result: Result<&Reply, &reqwest::Error>) -> Verdict {
    match result {
        Ok(reply) if reply.is_throttled() => match reply.retry_after {
            Some(delay) => Verdict::overload().retry_after(delay),
            None => Verdict::overload(),
        },
        Ok(reply) if reply.is_server_error() => {
            Verdict::failure().because(format!("status {}", reply.status))
        }
        Ok(_) => Verdict::success(),
        Err(error) if error.is_timeout() => Verdict::failure().because("timeout"),
        Err(_) => Verdict::failure().because("connection broken"),
    }
}

/// A model behind all parts of a stack.
fn guarded(
    stack: &Stack,
    endpoint: Endpoint,
) -> impl Service<Prompt, Response = Reply, Error = Error<reqwest::Error>, Future: Send>
+ Clone
+ Send
+ Sync
+ use<> {
    let endpoint = Arc::new(endpoint);
    let model = service_fn(move |prompt| {
        let endpoint = Arc::clone(&endpoint);
        async move { endpoint.ask(prompt).await }
    });
    let layer = stack
        .layer()
        .classify_with(judge)
        .cost(|prompt: &Prompt| [1, prompt.tokens()])
        .settle(|reply: &Reply| Some([1, reply.tokens()?]));
    ServiceBuilder::new().layer(layer).service(model)
}
