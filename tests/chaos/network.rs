//! What goes wrong on the client's side of the wire: routes that are lost under a connection, and connections whose
//! tasks die.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Executor, Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rand::RngExt;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tower::Service;

use crate::script::dice;

/// Connects; one connection in six loses its route after some bytes were written.
#[derive(Clone, Default)]
pub(crate) struct LossyConnector {
    connections: Arc<AtomicU64>,
    pub(crate) lost: Arc<AtomicU64>,
}

impl Service<Uri> for LossyConnector {
    type Response = Lossy;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Lossy>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let mut dice = dice(self.connections.fetch_add(1, SeqCst), u64::MAX - 1);
        let left = dice.random_bool(0.17).then(|| dice.random_range(1..40_000));
        let lost = Arc::clone(&self.lost);
        Box::pin(async move {
            let address = (uri.host().unwrap(), uri.port_u16().unwrap());
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Lossy {
                io: TokioIo::new(stream),
                left,
                lost,
            })
        })
    }
}

pub(crate) struct Lossy {
    io: TokioIo<TcpStream>,
    /// How many bytes can still be written before the route is lost.
    left: Option<usize>,
    lost: Arc<AtomicU64>,
}

impl Lossy {
    /// The number of an error proves nothing: what was written may have arrived.
    fn check(&mut self) -> io::Result<()> {
        match self.left {
            Some(0) => {
                self.lost.fetch_add(1, SeqCst);
                Err(io::ErrorKind::HostUnreachable.into())
            }
            _ => Ok(()),
        }
    }
}

impl Connection for Lossy {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Lossy {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Lossy {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let most = self.left.unwrap_or(buf.len()).min(buf.len());
        let written = Pin::new(&mut self.io).poll_write(cx, &buf[..most]);
        if let (Poll::Ready(Ok(n)), Some(left)) = (&written, &mut self.left) {
            *left -= n;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Runs the tasks of connections, and now and then ends one of them.
#[derive(Clone, Default)]
pub(crate) struct MortalTasks {
    running: Arc<Mutex<(u64, Vec<AbortHandle>)>>,
}

impl<F> Executor<F> for MortalTasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        let handle = tokio::spawn(task).abort_handle();
        let mut running = self.running.lock().unwrap();
        let (count, tasks) = &mut *running;
        *count += 1;
        tasks.retain(|task| !task.is_finished());
        if count.is_multiple_of(23) && !tasks.is_empty() {
            let n = dice(*count, u64::MAX - 2).random_range(0..tasks.len());
            tasks[n].abort();
        }
        tasks.push(handle);
    }
}
