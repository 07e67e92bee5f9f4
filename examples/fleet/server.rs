//! A Redis or Valkey server for the time of the example, on loopback, with nothing on disk.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tower_bulwark::BoxError;
use tower_bulwark::fleet::Fleet;

use crate::support::clock::Stopwatch;
use crate::worker;

/// Ends with this process, however that ends.
#[derive(Debug)]
pub struct Server {
    shell: Child,
    pub url: String,
}

/// Kills the server when its own input ends.
const KEEPER: &str =
    r#""$@" >/dev/null 2>&1 & server=$!; read -r _; kill -9 $server 2>/dev/null; wait"#;

/// `REDIS_SERVER_BIN`, or else what is in the path.
pub fn find() -> Result<Option<PathBuf>, BoxError> {
    if let Some(named) = std::env::var_os("REDIS_SERVER_BIN").map(PathBuf::from) {
        return match named.is_file() {
            true => Ok(Some(named)),
            false => Err(format!("REDIS_SERVER_BIN names no file: {}", named.display()).into()),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::split_paths(&path).find_map(|folder| {
        let names = ["valkey-server", "redis-server"];
        let mut programs = names.into_iter().map(|name| folder.join(name));
        programs.find(|program| program.is_file())
    }))
}

impl Server {
    /// Starts it, and connects.
    pub async fn start(program: &Path) -> Result<(Self, Fleet), BoxError> {
        let mut error = None;
        for _ in 0..3 {
            // Another program may take the port first.
            let server = Self::launch(program)?;
            match server.connect().await {
                Ok(fleet) => return Ok((server, fleet)),
                Err(why) => error = Some(why),
            }
        }
        let why = error.map_or_else(String::new, |it| it.to_string());
        Err(format!("{} does not answer: {why}", program.display()).into())
    }

    fn launch(program: &Path) -> Result<Self, BoxError> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let shell = Command::new("sh")
            .args(["-c", KEEPER, "sh"])
            .arg(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::piped())
            .spawn()?;
        let url = format!("redis://127.0.0.1:{port}");
        Ok(Self { shell, url })
    }

    async fn connect(&self) -> Result<Fleet, BoxError> {
        let watch = Stopwatch::start();
        loop {
            match worker::join(&self.url, "screen").await {
                Ok(fleet) => return Ok(fleet),
                Err(error) if watch.elapsed() > Duration::from_secs(3) => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
