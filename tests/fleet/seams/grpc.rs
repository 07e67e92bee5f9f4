//! The same lock and limit around a tonic channel.

/// Made from `examples/support/completion.proto`.
#[path = "../../../examples/support/completion.rs"]
#[allow(unreachable_pub, dead_code, reason = "generated")]
mod completion;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use completion::completions_client::CompletionsClient;
use completion::completions_server::{Completions, CompletionsServer};
use completion::{CompleteReply, CompleteRequest};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status};
use tower::ServiceBuilder;
use tower_bulwark::fleet::{Fleet, SharedBreaker};
use tower_bulwark::grpc::GrpcClassify;
use tower_bulwark::rate_limit::Quota;
use tower_bulwark::{CircuitBreaker, CircuitState, ContendedReason, Error, Rejection, deadline};

use super::{HOUR, MS, SECOND};
use crate::support::server::Server as Store;
use crate::support::{now, since, until};

#[derive(Clone, Default)]
struct Model(Arc<AtomicU64>);

#[tonic::async_trait]
impl Completions for Model {
    async fn complete(
        &self,
        request: Request<CompleteRequest>,
    ) -> Result<Response<CompleteReply>, Status> {
        self.0.fetch_add(1, SeqCst);
        let text = request.into_inner().prompt;
        Ok(Response::new(CompleteReply { text }))
    }
}

async fn serve(model: Model, tasks: &mut JoinSet<()>) -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder()
        .add_service(CompletionsServer::new(model))
        .serve_with_incoming(TcpIncoming::from(listener));
    tasks.spawn(async move { server.await.unwrap() });
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.unwrap()
}

fn hello() -> CompleteRequest {
    CompleteRequest {
        prompt: "hello".to_owned(),
    }
}

/// Its code, when to come back, and the refusal that it was made of.
fn what(status: &Status) -> (Code, Option<i64>, Option<Rejection>) {
    let pushback = status.metadata().get("grpc-retry-pushback-ms");
    let pushback = pushback.map(|it| it.to_str().unwrap().parse().unwrap());
    (status.code(), pushback, Rejection::find(status))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_a_lock_or_a_limit_of_the_fleet_is_a_status_that_a_client_understands_and_no_failure()
 {
    let Some(mut store) = Store::start(&[]).await else {
        return;
    };
    let (model, mut tasks) = (Model::default(), JoinSet::new());
    let channel = serve(model.clone(), &mut tasks).await;
    let fleet = Fleet::builder(store.url()).call_timeout(500 * MS);
    let fleet = fleet.connect().await.unwrap();
    let breaker = CircuitBreaker::builder("model").consecutive_failures(1);
    let breaker = breaker.build().unwrap();
    let _share = fleet.share(&breaker, SharedBreaker::default()).unwrap();
    let lock = fleet.lock("model").timeout(200 * MS).build().unwrap();
    let limit = fleet.rate_limit("model");
    let limit = limit.quota("calls", Quota::per(1, HOUR).burst(50));
    let limit = limit.max_wait(Duration::ZERO).build().unwrap();
    let stack = ServiceBuilder::new()
        .map_err(|error: Error<tonic::transport::Error>| Status::from(error))
        .layer(breaker.layer().classify(GrpcClassify::new()))
        .layer(limit.layer())
        .layer(lock.layer().until_body_end())
        .service(channel);
    let mut client = CompletionsClient::new(stack);
    client.complete(hello()).await.unwrap();

    let held = async || {
        let held = lock.acquire("a holder").timeout(20 * SECOND);
        held.await.unwrap()
    };
    let holder = held().await;
    let busy = client.complete(hello()).await.unwrap_err();
    let (code, pushback, refusal) = what(&busy);
    assert_eq!(code, Code::ResourceExhausted);
    assert!(pushback.is_some_and(|it| it > 0), "{busy:?}");
    assert!(matches!(refusal, Some(Rejection::Contended(_))), "{busy:?}");
    assert!(!busy.message().contains("holder"), "{busy:?}");

    let ends = deadline::Deadline::after(50 * MS);
    let late = deadline::scope(ends, client.complete(hello())).await;
    assert_eq!(what(&late.unwrap_err()).0, Code::DeadlineExceeded);
    drop(holder);

    // What the lock refused is given back in the background.
    let began = now();
    let all = loop {
        match limit.try_acquire(49).await {
            Ok(all) => break all,
            Err(refused) => assert!(since(began) < 30 * SECOND, "{refused}"),
        }
    };
    let refused = client.complete(hello()).await.unwrap_err();
    let (code, pushback, refusal) = what(&refused);
    assert_eq!(code, Code::ResourceExhausted, "{refused:?}");
    assert!(pushback.is_some_and(|it| it > 1_000_000), "{refused:?}");
    assert!(matches!(refusal, Some(Rejection::RateLimited(_))));
    all.cancel();
    until("it is given back", || async {
        limit.snapshot().left == [49]
    })
    .await;

    store.kill();
    until("the store is known to be away", || async {
        lock.try_acquire("somebody").await.is_err() && lock.snapshot().away_for.is_some()
    })
    .await;
    let away = client.clone().complete(hello()).await.unwrap_err();
    let (code, pushback, refusal) = what(&away);
    assert_eq!((code, pushback), (Code::Unavailable, Some(100)), "{away:?}");
    let Some(Rejection::Contended(refusal)) = refusal else {
        panic!("{away:?}")
    };
    assert!(matches!(
        refusal.reason(),
        ContendedReason::Unavailable { .. }
    ));
    // Nothing of the store in words that go to a client.
    assert!(!away.message().contains("127.0.0.1"), "{away:?}");

    assert_eq!(model.0.load(SeqCst), 1);
    assert_eq!(breaker.state(), CircuitState::Closed);
    assert_eq!(breaker.snapshot().totals.failures, 0);
    store.restart().await;
    until("it is back", || async {
        client.clone().complete(hello()).await.is_ok()
    })
    .await;
}
