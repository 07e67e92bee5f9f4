//! A tonic channel whose requests are sent again, and whose calls end with their trailers. The body of a tonic
//! request is a stream that nobody can clone.

#![cfg(feature = "http")]

/// Made from `examples/support/completion.proto`.
#[path = "../examples/support/completion.rs"]
#[allow(unreachable_pub, dead_code, reason = "generated")]
mod completion;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use completion::completions_client::CompletionsClient;
use completion::completions_server::{Completions, CompletionsServer};
use completion::{CompleteReply, CompleteRequest};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status};
use tower::ServiceBuilder;
use tower_bulwark::http::{CopyReplay, ReplayBody, ReplayLayer};
use tower_bulwark::{Backoff, CircuitBreaker, Jitter, ResourceLock, RetryPolicy};

/// Fails as often as it is told to, and keeps what it was sent.
#[derive(Clone, Default)]
struct Model {
    failures_left: Arc<Mutex<u32>>,
    prompts: Arc<Mutex<Vec<String>>>,
}

#[tonic::async_trait]
impl Completions for Model {
    async fn complete(
        &self,
        request: Request<CompleteRequest>,
    ) -> Result<Response<CompleteReply>, Status> {
        let prompt = request.into_inner().prompt;
        self.prompts.lock().unwrap().push(prompt.clone());
        let mut left = self.failures_left.lock().unwrap();
        if *left > 0 {
            *left -= 1;
            return Err(Status::unavailable("the model is loading"));
        }
        Ok(Response::new(CompleteReply { text: prompt }))
    }
}

impl Model {
    async fn serve(&self, tasks: &mut JoinSet<()>) -> Channel {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder()
            .add_service(CompletionsServer::new(self.clone()))
            .serve_with_incoming(TcpIncoming::from(listener));
        tasks.spawn(async move { server.await.unwrap() });
        let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
        endpoint.connect().await.unwrap()
    }
}

fn is_unavailable<B>(response: &http::Response<B>) -> bool {
    let status = Status::from_header_map(response.headers());
    status.is_some_and(|status| status.code() == Code::Unavailable)
}

fn retry() -> RetryPolicy {
    RetryPolicy::builder()
        .backoff(Backoff::fixed(Duration::from_millis(1)))
        .jitter(Jitter::None)
        .build()
        .unwrap()
}

#[tokio::test]
async fn a_message_that_the_first_server_did_not_want_reaches_the_second_unchanged() {
    let (model, mut tasks) = (Model::default(), JoinSet::new());
    let channel = model.serve(&mut tasks).await;
    let (breaker, lock) = (CircuitBreaker::new("b"), ResourceLock::new("l"));
    let channel = ServiceBuilder::new()
        .layer(ReplayLayer::new())
        .layer(
            retry()
                .layer()
                .requests(CopyReplay)
                .idempotency_from(|_: &http::Request<_>| tower_bulwark::Idempotency::Idempotent)
                .retry_response_if(is_unavailable),
        )
        .layer(
            breaker
                .layer()
                .response_failure_if(is_unavailable)
                .until_body_end(),
        )
        .layer(lock.layer().until_body_end())
        .map_request(|request: http::Request<ReplayBody<Body>>| request.map(Body::new))
        .service(channel);
    let mut client = CompletionsClient::new(channel);

    *model.failures_left.lock().unwrap() = 1;
    let prompt = "Once upon a time ".repeat(2_000);
    let request = CompleteRequest {
        prompt: prompt.clone(),
    };
    let reply = client.complete(request).await.unwrap();
    assert_eq!(reply.get_ref().text, prompt);
    assert_eq!(*model.prompts.lock().unwrap(), [prompt.clone(), prompt]);

    let totals = breaker.snapshot().totals;
    assert_eq!(
        (totals.successes, totals.failures, totals.cancelled),
        (1, 1, 0)
    );
    assert_eq!(lock.snapshot().in_use, 0);
    assert_eq!(lock.snapshot().stats.acquisitions, 2);
}

#[tokio::test]
async fn a_message_that_is_too_large_to_keep_is_sent_once() {
    let (model, mut tasks) = (Model::default(), JoinSet::new());
    let channel = model.serve(&mut tasks).await;
    let channel = ServiceBuilder::new()
        .layer(ReplayLayer::new().max_bytes(1_000))
        .layer(
            retry()
                .layer()
                .requests(CopyReplay)
                .idempotency_from(|_: &http::Request<_>| tower_bulwark::Idempotency::Idempotent)
                .retry_response_if(is_unavailable),
        )
        .map_request(|request: http::Request<ReplayBody<Body>>| request.map(Body::new))
        .service(channel);
    let mut client = CompletionsClient::new(channel);

    *model.failures_left.lock().unwrap() = 1;
    let request = CompleteRequest {
        prompt: "x".repeat(2_000),
    };
    let status = client.complete(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(model.prompts.lock().unwrap().len(), 1);
}
