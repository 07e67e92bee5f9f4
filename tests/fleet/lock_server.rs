//! A server of one test: on a port of its own, without persistence, gone when the test is.

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

pub(super) struct Server {
    /// Watches the server: it kills it when its own input ends, also if this process is killed.
    watch: Child,
    port: u16,
    folder: PathBuf,
}

/// `REDIS_SERVER_BIN`, or what is in the path.
fn program() -> Option<String> {
    let named = std::env::var("REDIS_SERVER_BIN").ok();
    let known = ["valkey-server", "redis-server"].map(str::to_owned);
    named.into_iter().chain(known).find(|program| {
        let version = Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        version.is_ok_and(|it| it.success())
    })
}

impl Server {
    /// None, loudly, where no server is installed; a failure there if `REQUIRE_REDIS` is 1.
    pub(super) fn start(options: &[&str]) -> Option<Self> {
        let Some(program) = program() else {
            let required = std::env::var("REQUIRE_REDIS").is_ok_and(|it| it == "1");
            assert!(!required, "REQUIRE_REDIS is 1, and there is no server");
            let _ = writeln!(
                std::io::stderr(),
                "\nNOT RUN: there is no `valkey-server` and no `redis-server`; install one, or set REDIS_SERVER_BIN\n"
            );
            return None;
        };
        // Another process may take the port in between.
        (0..5)
            .find_map(|_| Self::try_start(&program, options))
            .or_else(|| panic!("{program} does not start"))
    }

    fn try_start(program: &str, options: &[&str]) -> Option<Self> {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let folder = std::env::temp_dir().join(format!("fleet-lock-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let watch = Command::new("sh")
            .args([
                "-c",
                r#""$@" & server=$!; read -r _; kill -9 "$server""#,
                "sh",
                program,
            ])
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(&folder)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self {
            watch,
            port,
            folder,
        };
        for _ in 0..500 {
            if let Ok(mut connection) = server.try_connect()
                && redis::cmd("PING").query::<String>(&mut connection).is_ok()
            {
                return Some(server);
            }
            thread::park_timeout(Duration::from_millis(10));
        }
        None
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    fn try_connect(&self) -> redis::RedisResult<redis::Connection> {
        redis::Client::open(self.url())?.get_connection()
    }

    pub(super) fn connect(&self) -> redis::Connection {
        self.try_connect().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.watch.stdin.take());
        let _ = self.watch.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
