//! A proxy that swallows, resets, delays and refuses.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Stands before a server.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    faults: Arc<Faults>,
    listens: Option<JoinHandle<()>>,
    to: Arc<Mutex<String>>,
}

struct Faults {
    /// Connections with a lower number are half open: what they are sent is lost, in both directions.
    swallow_below: AtomicU64,
    next: AtomicU64,
    delay_ms: AtomicU64,
    /// Connections with a lower number are reset.
    reset_below: watch::Sender<u64>,
}

impl Proxy {
    pub(crate) async fn before(to: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut proxy = Self {
            port: listener.local_addr().unwrap().port(),
            faults: Arc::new(Faults {
                swallow_below: AtomicU64::new(0),
                next: AtomicU64::new(0),
                delay_ms: AtomicU64::new(0),
                reset_below: watch::Sender::new(0),
            }),
            listens: None,
            to: Arc::new(Mutex::new(to)),
        };
        proxy.listen(listener);
        proxy
    }

    fn listen(&mut self, listener: TcpListener) {
        let (faults, to) = (Arc::clone(&self.faults), Arc::clone(&self.to));
        self.listens = Some(tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = faults.next.fetch_add(1, SeqCst);
                let to = to.lock().unwrap().clone();
                let Ok(server) = TcpStream::connect(to).await else {
                    continue;
                };
                tokio::spawn(Arc::clone(&faults).carry(number, client, server));
            }
        }));
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Connections so far are half open; new ones are well.
    pub(crate) fn swallow_what_stands(&self) {
        let next = self.faults.next.load(SeqCst);
        self.faults.swallow_below.store(next, SeqCst);
    }

    /// Connections are taken, and nothing comes through.
    pub(crate) fn swallow_all(&self) {
        self.faults.swallow_below.store(u64::MAX, SeqCst);
    }

    /// Connections so far are reset; new ones are well.
    pub(crate) fn reset(&self) {
        let next = self.faults.next.load(SeqCst);
        self.faults.reset_below.send_replace(next);
    }

    /// New connections lead to another server, and those so far are reset.
    pub(crate) fn lead_to(&self, server: String) {
        *self.to.lock().unwrap() = server;
        self.reset();
    }

    /// In each direction.
    pub(crate) fn delay(&self, by: Duration) {
        let millis = by.as_millis() as u64;
        self.faults.delay_ms.store(millis, SeqCst);
    }

    /// No port is there any more, and no connection.
    pub(crate) async fn refuse(&mut self) {
        if let Some(listens) = self.listens.take() {
            listens.abort();
            let _ = listens.await;
        }
        self.reset();
    }

    /// All is well from here on, for new connections.
    pub(crate) async fn heal(&mut self) {
        self.delay(Duration::ZERO);
        self.swallow_what_stands();
        self.reset();
        if self.listens.is_none() {
            let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
            self.listen(listener);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.faults.reset_below.send_replace(u64::MAX);
        if let Some(listens) = &self.listens {
            listens.abort();
        }
    }
}

impl Faults {
    async fn carry(self: Arc<Self>, number: u64, client: TcpStream, server: TcpStream) {
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let no_linger = socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO));
        no_linger.unwrap();
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let mut resets = self.reset_below.subscribe();
        tokio::select! {
            () = self.copy(number, from_client, to_server) => {}
            () = self.copy(number, from_server, to_client) => {}
            _ = resets.wait_for(|&below| number < below) => {}
        }
    }

    async fn copy(&self, number: u64, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut buffer = [0; 16 * 1024];
        loop {
            let Ok(read) = from.read(&mut buffer).await else {
                return;
            };
            let swallowed = || number < self.swallow_below.load(SeqCst);
            if read == 0 {
                // A half-open connection does not tell the other side that this one has gone.
                if swallowed() {
                    std::future::pending::<()>().await;
                }
                return;
            }
            let delay = self.delay_ms.load(SeqCst);
            if delay > 0 {
                sleep(Duration::from_millis(delay)).await;
            }
            if !swallowed() && to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    }
}
