//! An HTTP/2 server that takes no more requests on its first connection, and answers on those that follow.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub(crate) struct GoesAway {
    pub(crate) uri: String,
    /// How many requests came.
    pub(crate) seen: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

/// The type of a frame, and nine bytes of head before what it carries (RFC 9113, section 4.1).
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const PREFACE: usize = 24;

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 0];
    frame.extend(payload);
    frame
}

/// Reads until a request has come; then the connection ends with a `GOAWAY` that names the last stream that was
/// looked at. The first stream of a client has the number 1.
async fn refuse(mut stream: TcpStream, last_stream: u32) -> std::io::Result<()> {
    stream.write_all(&frame(SETTINGS, &[])).await?;
    let mut preface = [0; PREFACE];
    stream.read_exact(&mut preface).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await?;
        if head[3] == HEADERS {
            break;
        }
    }
    let mut payload = last_stream.to_be_bytes().to_vec();
    payload.extend(0_u32.to_be_bytes()); // NO_ERROR
    stream.write_all(&frame(GOAWAY, &payload)).await?;
    stream.shutdown().await?;
    // Until the client has gone, lest the end of the connection overtakes the `GOAWAY`.
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.map(drop)
}

impl GoesAway {
    /// Answers `200`, and `grpc-status: 0` for those who look at that.
    pub(crate) async fn start(last_stream: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/svc/Method", listener.local_addr().unwrap());
        let seen = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&seen);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (first, _) = listener.accept().await.unwrap();
            let mut connections = JoinSet::new();
            let counted = Arc::clone(&count);
            connections.spawn(async move {
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = refuse(first, last_stream).await;
            });
            while let Ok((stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                connections.spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        count.fetch_add(1, Ordering::SeqCst);
                        let response = http::Response::builder().header("grpc-status", 0);
                        let response = response.body(()).unwrap();
                        respond.send_response(response, true).unwrap();
                    }
                });
            }
        });
        Self {
            uri,
            seen,
            _tasks: tasks,
        }
    }

    pub(crate) fn requests(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }
}
