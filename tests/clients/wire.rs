//! Servers that fail on purpose, byte by byte, and what they saw.
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

#[derive(Clone, Debug, Default)]
pub struct SeenState {
    pub conns: usize,
    pub bytes: usize,
    /// Bytes lay in the kernel, and the server never read them.
    pub kernel: bool,
    pub heads: usize,
    pub body: usize,
    pub complete: usize,
    pub responded: Option<&'static str>,
    pub handshakes: usize,
}

#[derive(Debug, Default)]
pub struct Seen(Mutex<SeenState>);

impl Seen {
    pub fn with<T>(&self, f: impl FnOnce(&mut SeenState) -> T) -> T {
        f(&mut self.0.lock().unwrap())
    }
    pub fn get(&self) -> SeenState {
        self.0.lock().unwrap().clone()
    }
    /// The warm-up is over: what counts comes now.
    pub fn reset(&self) {
        self.with(|s| {
            *s = SeenState {
                conns: s.conns,
                handshakes: s.handshakes,
                ..SeenState::default()
            }
        });
    }
}

impl SeenState {
    pub fn received(&self) -> String {
        let what = if self.complete > 0 {
            "all"
        } else if self.body > 0 {
            "part"
        } else if self.heads > 0 {
            "head"
        } else if self.bytes > 0 {
            "bytes, no head"
        } else if self.kernel {
            "none (in kernel)"
        } else {
            "none"
        };
        match self.heads {
            0 | 1 => what.into(),
            n => format!("{what} ×{n}"),
        }
    }
}

pub enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(s) => s,
            Self::Tls(s) => s.get_ref().0,
        }
    }
    pub fn linger0(&self) {
        socket2::SockRef::from(self.tcp())
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(&mut **s).poll_read(cx, buf),
        }
    }
}
impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(&mut **s).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(&mut **s).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(&mut **s).poll_shutdown(cx),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Len {
    None,
    Exact(usize),
    Chunked,
}

/// One connection that speaks HTTP/1.
pub struct H1 {
    pub s: Stream,
    buf: Vec<u8>,
    pub seen: Arc<Seen>,
    len: Len,
    got: usize,
    done: bool,
}

impl H1 {
    pub fn new(s: Stream, seen: Arc<Seen>) -> Self {
        Self {
            s,
            buf: Vec::new(),
            seen,
            len: Len::None,
            got: 0,
            done: false,
        }
    }

    async fn fill(&mut self) -> bool {
        let mut chunk = [0u8; 16 * 1024];
        match self.s.read(&mut chunk).await {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.seen.with(|s| s.bytes += n);
                self.buf.extend_from_slice(&chunk[..n]);
                true
            }
        }
    }

    /// Reads one request head.
    pub async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buf.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.buf[..at]).to_string();
                self.buf.drain(..at + 4);
                let low = head.to_ascii_lowercase();
                self.len = match low.lines().find_map(|l| l.strip_prefix("content-length: ")) {
                    Some(n) => Len::Exact(n.trim().parse().unwrap_or(0)),
                    None if low.contains("transfer-encoding: chunked") => Len::Chunked,
                    None => Len::None,
                };
                self.got = 0;
                self.done = false;
                self.seen.with(|s| s.heads += 1);
                self.take_body();
                return Some(head);
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    fn take_body(&mut self) {
        let n = self.buf.len();
        if self.len != Len::None {
            self.got += n;
            self.seen.with(|s| s.body += n);
        }
        let done = match self.len {
            Len::None => true,
            Len::Exact(len) => self.got >= len,
            Len::Chunked => self.buf.ends_with(b"0\r\n\r\n"),
        };
        if self.len != Len::None {
            self.buf.clear();
        }
        if done && !self.done {
            self.done = true;
            self.seen.with(|s| s.complete += 1);
        }
    }

    /// Reads at least one byte of the body.
    pub async fn some(&mut self) {
        while self.got == 0 && !self.done {
            if !self.fill().await {
                return;
            }
            self.take_body();
        }
    }

    /// Reads the whole request.
    pub async fn all(&mut self) {
        while !self.done {
            if !self.fill().await {
                return;
            }
            self.take_body();
        }
    }

    pub async fn request(&mut self) -> Option<String> {
        let head = self.head().await?;
        self.all().await;
        Some(head)
    }

    pub async fn send(&mut self, text: impl AsRef<[u8]>) {
        let _ = self.s.write_all(text.as_ref()).await;
        let _ = self.s.flush().await;
    }

    pub async fn respond(&mut self, how: &'static str, text: impl AsRef<[u8]>) {
        self.seen.with(|s| s.responded = Some(how));
        self.send(text).await;
    }

    /// A first exchange that goes well.
    pub async fn warm(&mut self) {
        self.request().await;
        self.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await;
        self.seen.reset();
    }

    /// Reads on, only to see what comes.
    pub async fn watch(&mut self, for_ms: u64) {
        let _ = tokio::time::timeout(Duration::from_millis(for_ms), async {
            loop {
                if self.seen.get().heads == 0 {
                    if self.head().await.is_none() {
                        return;
                    }
                } else {
                    if !self.fill().await {
                        return;
                    }
                    self.take_body();
                }
            }
        })
        .await;
    }

    /// Ends its side politely, and reads on for a while so that no reset follows.
    pub async fn fin(mut self) {
        let _ = self.s.shutdown().await;
        self.watch(400).await;
    }

    /// FIN of the socket, and no close_notify before it.
    pub async fn fin_raw(mut self) {
        let _ = socket2::SockRef::from(self.s.tcp()).shutdown(std::net::Shutdown::Write);
        self.watch(400).await;
    }

    pub fn rst(self) {
        self.s.linger0();
    }

    /// Waits until something lies unread in the kernel.
    pub async fn peek(&mut self) {
        let mut b = [0u8; 1];
        if self.s.tcp().peek(&mut b).await.is_ok_and(|n| n > 0) {
            self.seen.with(|s| s.kernel = true);
        }
    }
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;

#[derive(Debug)]
pub struct Frame {
    pub ty: u8,
    pub flags: u8,
    pub sid: u32,
    pub payload: Vec<u8>,
}

/// One connection that speaks HTTP/2, as far as failing needs it.
pub struct H2 {
    pub s: Stream,
    buf: Vec<u8>,
    pub seen: Arc<Seen>,
    pub pong: bool,
}

impl H2 {
    pub async fn open(s: Stream, seen: Arc<Seen>, settings: &[(u16, u32)]) -> Option<Self> {
        let mut it = Self {
            s,
            buf: Vec::new(),
            seen,
            pong: true,
        };
        let mut preface = [0u8; 24];
        it.s.read_exact(&mut preface).await.ok()?;
        let mut p = Vec::new();
        for (id, v) in settings {
            p.extend_from_slice(&id.to_be_bytes());
            p.extend_from_slice(&v.to_be_bytes());
        }
        it.frame_out(SETTINGS, 0, 0, &p).await;
        Some(it)
    }

    pub async fn frame_out(&mut self, ty: u8, flags: u8, sid: u32, payload: &[u8]) {
        self.raw_frame(payload.len() as u32, ty, flags, sid, payload)
            .await;
    }

    pub async fn raw_frame(&mut self, len: u32, ty: u8, flags: u8, sid: u32, payload: &[u8]) {
        let mut f = Vec::with_capacity(9 + payload.len());
        f.extend_from_slice(&len.to_be_bytes()[1..]);
        f.push(ty);
        f.push(flags);
        f.extend_from_slice(&sid.to_be_bytes());
        f.extend_from_slice(payload);
        let _ = self.s.write_all(&f).await;
        let _ = self.s.flush().await;
    }

    /// The next frame; settings and pings are answered.
    pub async fn frame(&mut self) -> Option<Frame> {
        loop {
            if self.buf.len() >= 9 {
                let len = u32::from_be_bytes([0, self.buf[0], self.buf[1], self.buf[2]]) as usize;
                if self.buf.len() >= 9 + len {
                    let f = Frame {
                        ty: self.buf[3],
                        flags: self.buf[4],
                        sid: u32::from_be_bytes(self.buf[5..9].try_into().unwrap()) & 0x7fff_ffff,
                        payload: self.buf[9..9 + len].to_vec(),
                    };
                    self.buf.drain(..9 + len);
                    match f.ty {
                        SETTINGS if f.flags & 1 == 0 => self.frame_out(SETTINGS, 1, 0, &[]).await,
                        PING if f.flags & 1 == 0 && self.pong => {
                            let p = f.payload.clone();
                            self.frame_out(PING, 1, 0, &p).await;
                        }
                        HEADERS => self.seen.with(|s| {
                            s.heads += 1;
                            s.complete += usize::from(f.flags & 1 == 1);
                        }),
                        DATA => self.seen.with(|s| {
                            s.body += f.payload.len();
                            s.complete += usize::from(f.flags & 1 == 1);
                        }),
                        _ => {}
                    }
                    return Some(f);
                }
            }
            let mut chunk = [0u8; 16 * 1024];
            match self.s.read(&mut chunk).await {
                Ok(0) | Err(_) => return None,
                Ok(n) => {
                    self.seen.with(|s| s.bytes += n);
                    self.buf.extend_from_slice(&chunk[..n]);
                }
            }
        }
    }

    /// Until a request's head: its stream, and whether it was all.
    pub async fn head(&mut self) -> Option<(u32, bool)> {
        loop {
            let f = self.frame().await?;
            if f.ty == HEADERS {
                return Some((f.sid, f.flags & 1 == 1));
            }
        }
    }

    pub async fn some(&mut self) {
        while let Some(f) = self.frame().await {
            if f.ty == DATA && !f.payload.is_empty() {
                return;
            }
        }
    }

    /// A whole request.
    pub async fn request(&mut self) -> Option<u32> {
        let (sid, done) = self.head().await?;
        if done {
            return Some(sid);
        }
        loop {
            let f = self.frame().await?;
            if f.ty == DATA && f.flags & 1 == 1 && f.sid == sid {
                return Some(sid);
            }
        }
    }

    pub async fn respond(&mut self, how: &'static str, sid: u32, block: &[u8], end: bool) {
        self.seen.with(|s| s.responded = Some(how));
        self.frame_out(HEADERS, 4 | u8::from(end), sid, block).await;
    }

    pub async fn reset(&mut self, sid: u32, code: u32) {
        self.frame_out(RST, 0, sid, &code.to_be_bytes()).await;
    }

    pub async fn goaway(&mut self, last: u32, code: u32, debug: &str) {
        let mut p = last.to_be_bytes().to_vec();
        p.extend_from_slice(&code.to_be_bytes());
        p.extend_from_slice(debug.as_bytes());
        self.frame_out(GOAWAY, 0, 0, &p).await;
    }

    pub async fn warm(&mut self, grpc: bool) -> u32 {
        let sid = self.request().await.unwrap_or(1);
        if grpc {
            self.frame_out(HEADERS, 4, sid, &grpc_head()).await;
            self.frame_out(DATA, 0, sid, &[0, 0, 0, 0, 0]).await;
            self.frame_out(HEADERS, 5, sid, &grpc_trailers(0, "")).await;
        } else {
            self.frame_out(HEADERS, 5, sid, &[0x88]).await;
        }
        self.seen.reset();
        sid
    }

    pub async fn watch(&mut self, for_ms: u64) {
        let _ = tokio::time::timeout(Duration::from_millis(for_ms), async {
            while self.frame().await.is_some() {}
        })
        .await;
    }

    pub async fn fin(mut self) {
        let _ = self.s.shutdown().await;
        self.watch(400).await;
    }

    pub fn rst_conn(self) {
        self.s.linger0();
    }
}

pub fn hpack(name: &str, value: &str) -> Vec<u8> {
    let mut b = vec![0x00, name.len() as u8];
    b.extend_from_slice(name.as_bytes());
    b.push(value.len() as u8);
    b.extend_from_slice(value.as_bytes());
    b
}

pub fn status_block(status: &str) -> Vec<u8> {
    let mut b = vec![0x08, 3];
    b.extend_from_slice(status.as_bytes());
    b
}

pub fn grpc_head() -> Vec<u8> {
    let mut b = vec![0x88];
    b.extend(hpack("content-type", "application/grpc"));
    b
}

pub fn grpc_trailers(code: u32, message: &str) -> Vec<u8> {
    let mut b = hpack("grpc-status", &code.to_string());
    if !message.is_empty() {
        b.extend(hpack("grpc-message", message));
    }
    b
}

pub fn grpc_only(code: u32, message: &str) -> Vec<u8> {
    let mut b = grpc_head();
    b.extend(grpc_trailers(code, message));
    b
}

/// How an injected I/O error is made.
#[derive(Clone, Copy, Debug)]
pub enum Bad {
    Kind(io::ErrorKind),
    Os(i32),
    Eof,
}

impl Bad {
    pub fn error(self) -> io::Error {
        match self {
            Self::Kind(k) => io::Error::from(k),
            Self::Os(n) => io::Error::from_raw_os_error(n),
            Self::Eof => io::ErrorKind::UnexpectedEof.into(),
        }
    }
    pub fn name(self) -> String {
        match self {
            Self::Kind(k) => format!("{k:?}"),
            Self::Os(n) => format!("{:?} os={n}", io::Error::from_raw_os_error(n).kind()),
            Self::Eof => "Ok(0)".into(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// The first write of the request fails: not a byte left.
    FirstWrite,
    /// The request's first bytes are written, the next write fails.
    NextWrite,
    /// The request was written; reading the answer fails.
    Read,
    /// Reading fails as soon as it is tried, before the request is written.
    ReadFirst,
}

#[derive(Debug)]
pub struct Fault {
    pub bad: Bad,
    pub when: When,
    pub armed: std::sync::atomic::AtomicBool,
}

/// An I/O that fails when it is told to.
pub struct FaultIo {
    inner: TcpStream,
    fault: Option<Arc<Fault>>,
    written: usize,
    reader: Option<std::task::Waker>,
}

impl FaultIo {
    pub fn new(inner: TcpStream, fault: Option<Arc<Fault>>) -> Self {
        Self {
            inner,
            fault,
            written: 0,
            reader: None,
        }
    }
    fn armed(&self) -> Option<&Fault> {
        self.fault
            .as_deref()
            .filter(|f| f.armed.load(std::sync::atomic::Ordering::SeqCst))
    }
}

impl AsyncRead for FaultIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(f) = self.armed()
            && (f.when == When::ReadFirst || f.when == When::Read && self.written > 0)
        {
            return Poll::Ready(match f.bad {
                Bad::Eof => Ok(()),
                bad => Err(bad.error()),
            });
        }
        self.reader = Some(cx.waker().clone());
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for FaultIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(f) = self.armed() {
            let (when, bad) = (f.when, f.bad);
            match when {
                When::FirstWrite => return Poll::Ready(Err(bad.error())),
                When::NextWrite if self.written > 0 => return Poll::Ready(Err(bad.error())),
                When::NextWrite | When::Read | When::ReadFirst => {}
            }
            let n = std::task::ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
            self.written += n;
            if when == When::Read
                && let Some(w) = self.reader.take()
            {
                w.wake();
            }
            return Poll::Ready(Ok(n));
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
