//! A bad afternoon of a service, for the pictures of its dashboard.

use std::time::Duration;

use tokio::task::JoinHandle;
use tower_bulwark::circuit_breaker::Recovery;
use tower_bulwark::contention::OnDeadlock;
use tower_bulwark::keyed::Keyed;
use tower_bulwark::rate_limit::Quota;
use tower_bulwark::{CircuitBreaker, Hedge, RateLimit, Registry, ResourceLock, RetryPolicy};

const SECOND: Duration = Duration::from_secs(1);

/// A bad afternoon, in which a bit of everything happens.
pub(crate) struct Scene {
    pub(crate) registry: Registry,
    pub(crate) hosts: Keyed<String, CircuitBreaker>,
    pub(crate) tasks: Vec<JoinHandle<()>>,
}

impl Scene {
    pub(crate) fn begin() -> Self {
        let registry = Registry::new();
        let hosts = Keyed::new("hosts", 1_000, |host: &String| {
            CircuitBreaker::builder(host.clone())
                .recovery(Recovery::fixed(90 * SECOND))
                .build()
                .unwrap_or_else(|_| CircuitBreaker::new(host.clone()))
        })
        .unwrap();
        for n in 0..400 {
            hosts.get(&format!("cache-{n:03}.internal")).unwrap();
        }
        Self {
            registry,
            hosts,
            tasks: Vec::new(),
        }
    }

    fn spawn(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(tokio::spawn(work));
    }

    /// Calls that retry, fail now and then, and wait for a slot.
    pub(crate) fn traffic(&mut self) {
        let model = Model::of(&self.registry);
        for worker in 0..9_u64 {
            let model = model.clone();
            self.spawn(async move {
                for n in 0.. {
                    model.ask(worker, n).await;
                }
            });
        }
    }

    /// Two transfers that want each other's account, and a queue behind one of them.
    pub(crate) async fn deadlock(&mut self) {
        let account = |name: &str| {
            ResourceLock::builder(name)
                .on_deadlock(OnDeadlock::Report)
                .timeout(120 * SECOND)
                .build_in(&self.registry)
                .unwrap()
        };
        let (left, right) = (account("account-17"), account("account-42"));
        let pairs = [
            ("transfer-801", &left, &right),
            ("transfer-802", &right, &left),
        ];
        let both = std::sync::Arc::new(tokio::sync::Barrier::new(2));
        let works = pairs.map(|(who, first, second)| {
            let (first, second, both) = (first.clone(), second.clone(), both.clone());
            async move {
                let _first = first.acquire(who).await;
                both.wait().await;
                let _second = second.acquire(who).await;
            }
        });
        works.into_iter().for_each(|it| self.spawn(it));
        for n in 0..3 {
            let left = left.clone();
            self.spawn(async move { drop(left.acquire(format!("report-{n}")).owned().await) });
        }
    }
}

/// A model behind a lock, a circuit and retries, and a search before it.
#[derive(Clone)]
struct Model {
    breaker: CircuitBreaker,
    search: CircuitBreaker,
    retry: RetryPolicy,
    hedge: Hedge,
    slots: ResourceLock,
    tokens: RateLimit,
}

impl Model {
    fn of(registry: &Registry) -> Self {
        let slots = ResourceLock::builder("openai-slot")
            .max_concurrent(4)
            .timeout(2 * SECOND)
            .contention_threshold(Duration::from_millis(400))
            .build_in(registry)
            .unwrap();
        let mut narrower = (*slots.config()).clone();
        narrower.max_concurrent = 3;
        slots.shadow(narrower).unwrap();
        Self {
            breaker: CircuitBreaker::builder("openai")
                .recovery(Recovery::fixed(60 * SECOND))
                .build_in(registry)
                .unwrap(),
            search: registry.circuit_breaker("search"),
            retry: RetryPolicy::builder()
                .name("openai")
                .max_retries(1)
                .build_in(registry)
                .unwrap(),
            hedge: Hedge::builder("search")
                .after_percentile(0.9)
                .build_in(registry)
                .unwrap(),
            slots,
            tokens: RateLimit::builder("openai-tokens")
                .quota("requests", Quota::per_second(8))
                .quota("tokens", Quota::per_minute(30_000))
                .build_in(registry)
                .unwrap(),
        }
    }

    /// It fails now and then, and soon always.
    async fn ask(&self, worker: u64, n: u64) {
        let wait = Duration::from_millis(60 + 37 * ((worker * 7 + n) % 9));
        let found = async || {
            tokio::time::sleep(wait / 2).await;
            Ok::<_, std::io::Error>(())
        };
        let search = |_| async { self.search.call(found).await };
        let _ = self.hedge.run(search).await;
        let _ = self.tokens.try_acquire([1, 90]);
        let failing = n > 12 || n % 11 == 3;
        let answer = async || {
            tokio::time::sleep(wait).await;
            match failing {
                true => Err(std::io::Error::other("status 503")),
                false => Ok(()),
            }
        };
        let prompt = || self.slots.run(format!("prompt-{worker}{n:02}"), answer);
        let _ = self.retry.run(|| self.breaker.call(prompt)).await;
    }
}
