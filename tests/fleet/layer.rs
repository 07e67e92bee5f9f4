//! `ContentionLayer` takes a lock of the fleet in place of a lock of one process.

use std::error::Error;

use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::explain::{Describe, LayerDescription};
use tower_bulwark::fleet::Fleet;
use tower_bulwark::{CircuitBreaker, ContentionLayer, ResourceLock, RetryPolicy};

type Failure = Box<dyn Error + Send + Sync>;

async fn calls<S>(service: S) -> Result<u32, Failure>
where
    S: Service<u32, Response = u32>,
    S::Error: Into<Failure>,
{
    service.oneshot(1).await.map_err(Into::into)
}

#[tokio::test(start_paused = true)]
async fn the_three_patterns_take_a_shared_lock_where_a_local_one_was() {
    let double = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(2 * n) });
    let shared = Fleet::in_process().lock("gpu").max_concurrent(2);
    let shared = shared.build().unwrap();
    let local = ResourceLock::builder("gpu").max_concurrent(2);
    let local = local.build().unwrap();

    let retry = RetryPolicy::new();
    let breaker = CircuitBreaker::new("api");
    let holder = |n: &u32| format!("job-{n}");
    let one = ServiceBuilder::new()
        .layer(retry.layer())
        .layer(breaker.layer())
        .layer(ContentionLayer::new(local.clone()).holder(holder))
        .service(double);
    let fleet = ServiceBuilder::new()
        .layer(retry.layer())
        .layer(breaker.layer())
        .layer(ContentionLayer::new(shared.clone()).holder(holder))
        .service(double);
    assert_eq!(calls(one).await.unwrap(), 2);
    assert_eq!(calls(fleet).await.unwrap(), 2);

    let of = |described: LayerDescription| match described {
        LayerDescription::Contention {
            name,
            capacity,
            timeout,
            ..
        } => (name, capacity, timeout),
        other => panic!("{other:?}"),
    };
    let shared: ContentionLayer<std::io::Error, _, _, _> = ContentionLayer::new(shared);
    let local: ContentionLayer<std::io::Error> = ContentionLayer::new(local);
    assert_eq!(of(shared.describe()).0, of(local.describe()).0);
    assert_eq!(of(shared.describe()).1, 2);
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn a_permit_of_the_fleet_is_held_until_the_body_has_ended() {
    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::{BodyExt, Full};

    let gpu = Fleet::in_process().lock("gpu").build().unwrap();
    let layer = gpu.layer().until_body_end();
    assert_eq!(layer.resource().name(), "gpu");
    let answers = layer.layer(service_fn(|_: Request<Full<Bytes>>| async {
        Ok::<_, std::io::Error>(Response::new(Full::new(Bytes::from("token by token"))))
    }));

    let request = || Request::new(Full::default());
    let response = answers.clone().oneshot(request()).await.unwrap();
    // The store is told of what is given back: not at once.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(gpu.fetch().await.unwrap().holders.len(), 1);
    let refused = gpu.try_acquire("another").await.unwrap_err();
    assert_eq!(refused.holders().len(), 1, "{refused}");
    response.into_body().collect().await.unwrap();
    drop(gpu.acquire("after the end").await.unwrap());

    // Also of a body that nobody reads.
    drop(answers.clone().oneshot(request()).await.unwrap());
    drop(gpu.acquire("after the drop").await.unwrap());

    // While it waits for the permit, and is dropped, nothing is held.
    let held = gpu.acquire("me").await.unwrap();
    let mut waits = tokio_test::task::spawn(answers.oneshot(request()));
    assert!(waits.poll().is_pending());
    drop(waits);
    drop(held);
    drop(gpu.acquire("after the wait").await.unwrap());
}

#[cfg(feature = "http")]
mod bodies {
    use std::time::Duration;

    use bytes::Bytes;
    use http::Response;
    use http_body_util::{BodyExt, Full};
    use tokio::runtime::{Builder, Runtime};
    use tower::{Layer, ServiceExt, service_fn};
    use tower_bulwark::fleet::lock::LostReason;
    use tower_bulwark::fleet::{Fleet, FleetLock};
    use tower_bulwark::http::GuardedBody;

    use super::super::support::server::Server;

    type Answer = Response<GuardedBody<Full<Bytes>, tower_bulwark::fleet::lock::FleetGuard>>;

    async fn answer(gpu: &FleetLock) -> Answer {
        let service = gpu.layer().until_body_end().layer(service_fn(|()| async {
            let body = Full::new(Bytes::from("token by token"));
            Ok::<_, std::io::Error>(Response::new(body))
        }));
        service.oneshot(()).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_says_that_its_permit_is_lost_and_goes_on() {
        let gpu = Fleet::in_process().lock("gpu").build().unwrap();
        let answer = answer(&gpu).await;
        let guard = answer.body().guard().unwrap();
        assert!(tokio_test::task::spawn(guard.lost()).poll().is_pending());
        // The process stands still for longer than the lease.
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(guard.lost().await, LostReason::Expired);
        let next = gpu.acquire("another").await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "token by token");
        // What was lost is not taken from whoever has it now.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let held = gpu.fetch().await.unwrap().holders;
        assert_eq!(held[0].fence, next.fence().unwrap());
    }

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn a_body_that_outlives_its_runtime_is_dropped_like_any_other_and_its_lease_ends_by_itself() {
        let Some(server) = Server::start_blocking(&[]) else {
            return;
        };
        let lock = |fleet: &Fleet| {
            let lock = fleet.lock("gpu").lease(Duration::from_millis(300));
            lock.build().unwrap()
        };
        let first = runtime();
        let answer = first.block_on(async {
            let fleet = Fleet::connect(server.url()).await.unwrap();
            answer(&lock(&fleet)).await
        });
        drop(first);
        // Here is no runtime, and that of the fleet is gone.
        drop(answer);
        runtime().block_on(async {
            let fleet = Fleet::connect(server.url()).await.unwrap();
            drop(lock(&fleet).acquire("another").await.unwrap());
        });
    }
}
