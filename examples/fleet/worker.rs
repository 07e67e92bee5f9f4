//! What each process of the fleet does: calls to an upstream behind a shared breaker and a shared rate limit, and jobs behind a
//! shared lock. This is the part to copy.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::error::ConfigError;
use tower_bulwark::event::CircuitBreakerEvent;
use tower_bulwark::fleet::{ConnectError, Fleet, FleetLock, FleetRateLimit, SharedBreaker};
use tower_bulwark::rate_limit::Quota;
use tower_bulwark::{BoxError, CircuitBreaker, Error, Event};

use crate::support;
use crate::told::{Tell, What};

/// What the upstream allows all processes together: calls a second, and how many at once.
pub const LIMIT: u64 = 200;
pub const BURST: u64 = 40;
/// How many jobs may run at once in the fleet, and for how long a process that died keeps its permits.
pub const PERMITS: usize = 3;
pub const LEASE: Duration = Duration::from_secs(1);
/// So many failures in a row open a breaker by itself, for so long.
pub const FAILURES: u32 = 5;
pub const OPEN_FOR: Duration = Duration::from_secs(1);
/// A worker that has little to do pauses for so long between two calls.
pub const QUIET: Duration = Duration::from_millis(500);

/// A worker, as it is started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Worker {
    pub name: String,
    /// Where the upstream is.
    pub upstream: String,
    /// How many calls it makes at once, without a pause; 0: one now and then.
    pub callers: usize,
    /// How many jobs it has to do at once.
    pub jobs: usize,
}

/// Connects. All processes that share something give the same namespace.
pub async fn join(url: &str, name: &str) -> Result<Fleet, ConnectError> {
    Fleet::builder(url)
        .namespace("example")
        .node(name)
        .connect_timeout(Duration::from_secs(5))
        .connect()
        .await
}

/// The lock. Each process makes it with the same settings.
pub fn gpu(fleet: &Fleet) -> Result<FleetLock, ConfigError> {
    fleet
        .lock("gpu")
        .max_concurrent(PERMITS)
        .lease(LEASE)
        .build()
}

/// The rate limit: likewise.
pub fn limit(fleet: &Fleet) -> Result<FleetRateLimit, ConfigError> {
    let quota = Quota::per_second(LIMIT).burst(BURST);
    fleet.rate_limit("upstream").quota("calls", quota).build()
}

/// Works until it is dropped. `min_nodes` breakers have to open by themselves before all do.
pub async fn work(
    fleet: &Fleet,
    worker: &Worker,
    min_nodes: u32,
    tell: &Tell,
) -> Result<(), BoxError> {
    let told = tell.clone();
    let breaker = CircuitBreaker::builder("upstream")
        .consecutive_failures(FAILURES)
        .recovery_timeout(OPEN_FOR)
        .success_threshold(1)
        .observer(move |_: &str, event: &Event| {
            if let Event::CircuitBreaker(CircuitBreakerEvent::StateChanged { to, cause, .. }) =
                event
            {
                told(What::Breaker {
                    state: to.to_string(),
                    why: cause.to_string(),
                });
            }
        })
        .build()?;
    let settings = SharedBreaker {
        min_nodes,
        ..SharedBreaker::default()
    };
    // Shared for as long as this is kept.
    let _share = fleet.share(&breaker, settings)?;
    let (limit, gpu) = (limit(fleet)?, gpu(fleet)?);

    let http = support::http_client()?;
    // The upstream is told who calls, to count it.
    let url = format!("{}{}", worker.upstream, worker.name);
    let get = service_fn(move |()| {
        let request = http.get(&url);
        async move { request.send().await?.error_for_status() }
    });
    // The breaker first: a call that it refuses takes no turn at the rate limit.
    let upstream = ServiceBuilder::new()
        .layer(breaker.layer())
        .layer(limit.layer())
        .service(get);

    tell(What::Ready {
        node: fleet.node().to_owned(),
    });
    let jobs = (1..=worker.jobs).map(|n| jobs(&gpu, format!("{}-job-{n}", worker.name), tell));
    let pause = if worker.callers == 0 {
        QUIET
    } else {
        Duration::ZERO
    };
    let calls = (0..worker.callers.max(1)).map(|_| calls(upstream.clone(), pause));
    futures::future::join(
        futures::future::join_all(jobs),
        futures::future::join_all(calls),
    )
    .await;
    Ok(())
}

/// One call after the other.
async fn calls<S, T>(mut upstream: S, pause: Duration)
where
    S: Service<(), Response = T, Error = Error<reqwest::Error>>,
{
    loop {
        let answer = match upstream.ready().await {
            Ok(ready) => ready.call(()).await,
            Err(error) => Err(error),
        };
        // Somebody else would come with the next call then.
        let rest = match answer {
            Err(error) if error.is_rejection() => Duration::from_millis(20),
            Ok(_) | Err(_) => Duration::ZERO,
        };
        sleep(pause.max(rest)).await;
    }
}

/// One job after the other, each with a permit.
async fn jobs(gpu: &FleetLock, name: String, tell: &Tell) {
    loop {
        let Ok(guard) = gpu.acquire(&*name).await else {
            // The store is away, or the wait was too long: the job comes again.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        if let Some(fence) = guard.fence() {
            tell(What::Took {
                job: name.clone(),
                slot: fence.slot,
                token: fence.token,
            });
        }
        tokio::select! {
            () = sleep(Duration::from_millis(300)) => {}
            // Somebody else may have the permit by now: stop.
            reason = guard.lost() => tell(What::Lost { job: name.clone(), why: reason.to_string() }),
        }
        // Before it is given back: nobody can have taken it yet.
        tell(What::Gave { job: name.clone() });
    }
}
