//! A server for the tests of the rate limit and the breaker, on a port of its own.
//!
//! `REDIS_SERVER_BIN`, else `valkey-server` or `redis-server` in the path; else `None`, said loudly, and a failure if
//! `REQUIRE_REDIS=1`.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
}

impl Server {
    pub(crate) fn start() -> Option<Self> {
        let named = std::env::var("REDIS_SERVER_BIN").ok();
        let names = named.iter().map(String::as_str);
        for binary in names.chain(["valkey-server", "redis-server"]) {
            for _ in 0..5 {
                let Some(mut server) = Self::spawn(binary) else {
                    break;
                };
                if server.answers() {
                    return Some(server);
                }
            }
        }
        let required = std::env::var("REQUIRE_REDIS").is_ok_and(|it| it == "1");
        assert!(
            !required,
            "REQUIRE_REDIS=1, and there is no server that starts"
        );
        eprintln!(
            "NOT RUN: there is no redis-server and no valkey-server (REDIS_SERVER_BIN names one)"
        );
        None
    }

    fn spawn(binary: &str) -> Option<Self> {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let child = Command::new(binary)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(std::env::temp_dir())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        Some(Self { child, port })
    }

    fn answers(&mut self) -> bool {
        for _ in 0..200 {
            if self.child.try_wait().unwrap().is_some() {
                return false; // Somebody else has the port.
            }
            if redis::Client::open(self.url()).is_ok_and(|it| it.get_connection().is_ok()) {
                return true;
            }
            std::thread::park_timeout(Duration::from_millis(25));
        }
        false
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub(crate) async fn connect(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
