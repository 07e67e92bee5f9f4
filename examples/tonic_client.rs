//! The layers around a tonic channel, and retry around a typed call; server and client in one process.
//!
//! ```sh
//! cargo run --example tonic_client
//! ```

/// Made from `support/completion.proto`.
#[path = "support/completion.rs"]
#[allow(unreachable_pub, reason = "generated")]
mod completion;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use completion::completions_client::CompletionsClient;
use completion::completions_server::{Completions, CompletionsServer};
use completion::{CompleteReply, CompleteRequest};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status};
use tower::ServiceBuilder;
use tower_bulwark::{
    Backoff, BoxError, CircuitBreaker, Error, Rejection, ResourceLock, RetryPolicy,
};

/// Fails as often as it is told to.
#[derive(Clone, Default)]
struct Model {
    failures_left: Arc<AtomicU32>,
    calls: Arc<AtomicU32>,
}

#[tonic::async_trait]
impl Completions for Model {
    async fn complete(
        &self,
        request: Request<CompleteRequest>,
    ) -> Result<Response<CompleteReply>, Status> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let fewer = |left: u32| left.checked_sub(1);
        if self
            .failures_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer)
            .is_ok()
        {
            return Err(Status::unavailable("the model is loading"));
        }
        let prompt = request.into_inner().prompt;
        if prompt.is_empty() {
            return Err(Status::invalid_argument("an empty prompt"));
        }
        Ok(Response::new(CompleteReply {
            text: format!("{prompt} .. and so on"),
        }))
    }
}

/// To HTTP every gRPC call is a `200`; what became of it is in a header, or, after a message, in trailers.
fn is_unavailable<B>(response: &http::Response<B>) -> bool {
    let status = Status::from_header_map(response.headers());
    status.is_some_and(|status| matches!(status.code(), Code::Unavailable | Code::Internal))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let model = Model::default();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let server = Server::builder()
        .add_service(CompletionsServer::new(model.clone()))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), async {
            let _ = stopped.await;
        });
    let server = tokio::spawn(server);

    // Around the channel: what sees every call of every client of it.
    let breaker = CircuitBreaker::new("model");
    let slots = ResourceLock::builder("model-slots")
        .max_concurrent(4)
        .build()?;
    let channel = Channel::from_shared(format!("http://{address}"))?
        .connect()
        .await?;
    let channel = ServiceBuilder::new()
        .layer(breaker.layer().response_failure_if(is_unavailable))
        .layer(slots.layer())
        .service(channel);
    let client = CompletionsClient::new(channel);

    // Around the typed call: a message can be sent again, the body of an HTTP request cannot.
    let retry = RetryPolicy::builder()
        .backoff(Backoff::fixed(Duration::from_millis(20)))
        .build()?;
    let complete = async |prompt: &str| {
        retry
            .retry_if(|status: &Status| status.code() == Code::Unavailable)
            .run(|| {
                let mut client = client.clone();
                let request = CompleteRequest {
                    prompt: prompt.into(),
                };
                async move { client.complete(request).await }
            })
            .await
    };

    println!("unavailable twice, then well:");
    model.failures_left.store(2, Ordering::Relaxed);
    let reply = complete("Once upon a time").await?;
    println!("  {}", reply.get_ref().text);
    assert_eq!(model.calls.swap(0, Ordering::Relaxed), 3);

    println!("at fault itself, so sent once:");
    match complete("").await {
        Err(Error::Inner(status)) => println!("  {:?}: {}", status.code(), status.message()),
        other => return Err(format!("expected a status, got {other:?}").into()),
    }
    assert_eq!(model.calls.swap(0, Ordering::Relaxed), 1);

    println!("down for good: the fifth failure opens the circuit");
    model.failures_left.store(u32::MAX, Ordering::Relaxed);
    let gave_up = complete("Hello?").await.err().ok_or("it should be down")?;
    println!("  {gave_up}");
    let refused = complete("Hello?")
        .await
        .err()
        .ok_or("it should be refused")?;
    // tonic makes a status of it, and the refusal is found in what caused the status.
    let rejection = Rejection::find(&refused).ok_or("no refusal in the chain")?;
    println!("  {rejection}");
    assert_eq!(
        (rejection.name(), model.calls.load(Ordering::Relaxed)),
        ("model", 5)
    );

    println!("{:?}", slots.snapshot().stats.hold);
    drop(client);
    let _ = stop.send(());
    server.await??;
    Ok(())
}
