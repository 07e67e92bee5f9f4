//! The layers between a generated tonic client and its channel; server and client in one process.
//!
//! ```sh
//! cargo run --example tonic_client --features tonic
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
use completion::streams_client::StreamsClient;
use completion::streams_server::{Streams, StreamsServer};
use completion::{CompleteReply, CompleteRequest};
use futures::stream::{self, BoxStream, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};
use tower_bulwark::grpc::Resilient;
use tower_bulwark::{Backoff, BoxError, CircuitBreaker, Rejection, ResourceLock, RetryPolicy};

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

type Replies = BoxStream<'static, Result<CompleteReply, Status>>;

#[tonic::async_trait]
impl Streams for Model {
    type TellStream = Replies;
    type TalkStream = Replies;

    async fn tell(&self, request: Request<CompleteRequest>) -> Result<Response<Replies>, Status> {
        let prompt = request.into_inner().prompt;
        let words: Vec<_> = prompt.split(' ').map(str::to_owned).collect();
        let pieces = words.into_iter().map(|text| Ok(CompleteReply { text }));
        Ok(Response::new(stream::iter(pieces).boxed()))
    }

    async fn listen(
        &self,
        _: Request<Streaming<CompleteRequest>>,
    ) -> Result<Response<CompleteReply>, Status> {
        Err(Status::unimplemented("it only tells"))
    }

    async fn talk(
        &self,
        _: Request<Streaming<CompleteRequest>>,
    ) -> Result<Response<Replies>, Status> {
        Err(Status::unimplemented("it only tells"))
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let model = Model::default();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let server = Server::builder()
        .add_service(CompletionsServer::new(model.clone()))
        .add_service(StreamsServer::new(model.clone()))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), async {
            let _ = stopped.await;
        });
    let server = tokio::spawn(server);

    let retry = RetryPolicy::builder()
        .backoff(Backoff::fixed(Duration::from_millis(20)))
        .on_retry(|failed| {
            println!(
                "  attempt {} failed, again in {:.0?}",
                failed.attempt, failed.delay
            )
        })
        .build()?;
    let breaker = CircuitBreaker::new("model");
    let slots = ResourceLock::builder("model-slots")
        .max_concurrent(4)
        .build()?;
    let channel = Channel::from_shared(format!("http://{address}"))?
        .connect()
        .await?;
    let channel = Resilient::new(channel)
        .retry(&retry)
        .breaker(&breaker)
        .lock(&slots);
    let client = CompletionsClient::new(channel.clone());
    let mut streams = StreamsClient::new(channel);
    let complete = async |prompt: &str| {
        let prompt = prompt.to_owned();
        client.clone().complete(CompleteRequest { prompt }).await
    };

    println!("unavailable twice, then well:");
    model.failures_left.store(2, Ordering::Relaxed);
    let reply = complete("Once upon a time").await?;
    println!("  {}", reply.get_ref().text);
    assert_eq!(model.calls.swap(0, Ordering::Relaxed), 3);

    println!("the caller's own fault, so sent once, and no failure of the model:");
    let status = complete("").await.err().ok_or("it should be refused")?;
    println!("  {:?}: {}", status.code(), status.message());
    assert_eq!(model.calls.swap(0, Ordering::Relaxed), 1);

    println!("an answer in pieces, whose permit is held to the last of them:");
    let prompt = "Once upon a time".to_owned();
    let mut pieces = streams.tell(CompleteRequest { prompt }).await?.into_inner();
    while let Some(piece) = pieces.message().await? {
        println!(
            "  {} (slots in use: {})",
            piece.text,
            slots.snapshot().in_use
        );
        assert_eq!(slots.snapshot().in_use, 1);
    }
    assert_eq!(slots.snapshot().in_use, 0);

    println!("down for good: the fifth consecutive failures opens the circuit");
    model.failures_left.store(u32::MAX, Ordering::Relaxed);
    for _ in 0..2 {
        let status = complete("Hello?").await.err().ok_or("it should be down")?;
        println!("  {:?}: {}", status.code(), status.message());
    }
    assert_eq!(model.calls.load(Ordering::Relaxed), 5);
    let refused = complete("Hello?").await.err().ok_or("it should be open")?;
    println!("  {:?}: {}", refused.code(), refused.message());
    // For clients that know nothing of this crate: when to come back is in the metadata.
    let pushback = refused.metadata().get("grpc-retry-pushback-ms");
    println!("  come back in {:?} ms", pushback.ok_or("no pushback")?);
    // For those that do: the refusal itself is what caused the status.
    let rejection = Rejection::find(&refused).ok_or("no refusal in the chain")?;
    assert_eq!(rejection.name(), "model");
    assert_eq!(model.calls.load(Ordering::Relaxed), 5);

    println!("{:?}", slots.snapshot().stats.hold);
    drop((client, streams));
    let _ = stop.send(());
    server.await??;
    Ok(())
}
