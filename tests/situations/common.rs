//! What several of them need: a quick retry, and a server that answers by script.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower_bulwark::retry::RetryPolicyBuilder;
use tower_bulwark::{Backoff, Jitter, RetryPolicy};

/// A builder of reqwest's client, with the TLS that the tests use.
pub(crate) fn reqwest_builder() -> reqwest::ClientBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
}

/// Retries after 5 ms, without jitter.
pub(crate) fn quick() -> RetryPolicyBuilder {
    RetryPolicy::builder()
        .backoff(Backoff::fixed(Duration::from_millis(5)))
        .jitter(Jitter::None)
}

/// Reads one HTTP/1 request (head, and a body by content-length); `None` when the peer is gone.
pub(crate) async fn read_request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut one = [0_u8; 4096];
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        let n = stream.read(&mut one).await.ok()?;
        if n == 0 {
            return None;
        }
        bytes.extend_from_slice(&one[..n]);
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .map_or(0, |n| n.trim().parse().unwrap());
    let mut body = bytes[head_end..].to_vec();
    while body.len() < length {
        let n = stream.read(&mut one).await.ok()?;
        if n == 0 {
            return None;
        }
        body.extend_from_slice(&one[..n]);
    }
    Some((head, body))
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Then {
    Keep,
    Close,
}

pub(crate) struct Scripted {
    pub(crate) url: String,
    pub(crate) requests: Arc<AtomicUsize>,
    pub(crate) open: Arc<AtomicUsize>,
    _task: tokio::task::JoinSet<()>,
}

impl Scripted {
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// A raw HTTP/1 server: what it writes to request number n (from 0), and what it does to the connection then.
pub(crate) async fn scripted(
    answer: impl Fn(usize, &str) -> (String, Then) + Send + Sync + 'static,
) -> Scripted {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (requests, open) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let answer = Arc::new(answer);
    let mut tasks = tokio::task::JoinSet::new();
    let (r, o) = (requests.clone(), open.clone());
    tasks.spawn(async move {
        let mut inner = tokio::task::JoinSet::new();
        loop {
            let Ok((mut stream, _)) = listener.accept().await else {
                return;
            };
            o.fetch_add(1, Ordering::SeqCst);
            let (answer, r, o) = (answer.clone(), r.clone(), o.clone());
            inner.spawn(async move {
                while let Some((head, _)) = read_request(&mut stream).await {
                    let n = r.fetch_add(1, Ordering::SeqCst);
                    let (text, then) = answer(n, &head);
                    if stream.write_all(text.as_bytes()).await.is_err() {
                        break;
                    }
                    let _ = stream.flush().await;
                    match then {
                        Then::Keep => {}
                        Then::Close => break,
                    }
                }
                o.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    Scripted {
        url,
        requests,
        open,
        _task: tasks,
    }
}

pub(crate) fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}
