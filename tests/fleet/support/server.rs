//! A server of its own for a test: on a free port, in a folder that is deleted with it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, RedisResult};
use tokio::time::sleep;

/// `REDIS_SERVER_BIN`, or else what is in the path.
fn binary() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("REDIS_SERVER_BIN") {
        let named = PathBuf::from(named);
        assert!(named.is_file(), "REDIS_SERVER_BIN names no file: {named:?}");
        return Some(named);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path);
    folders.find_map(|folder| {
        let names = ["valkey-server", "redis-server"];
        let mut programs = names.into_iter().map(|name| folder.join(name));
        programs.find(|program| program.is_file())
    })
}

/// Whether there is a program. If not, that is said loudly, and is a failure where it is required.
fn is_there() -> bool {
    if binary().is_some() {
        return true;
    }
    assert!(
        std::env::var_os("REQUIRE_REDIS").is_none_or(|it| it != "1"),
        "REQUIRE_REDIS=1, and there is no valkey-server or redis-server in the path, nor named by REDIS_SERVER_BIN"
    );
    static ONCE: Once = Once::new();
    // Past the test harness, which shows what a test prints only if it fails.
    ONCE.call_once(|| {
        let _ = std::io::stderr().lock().write_all(
            b"\nNOT RUN: the tests against real servers. `apt-get install redis-server`, or set REDIS_SERVER_BIN\n\n",
        );
    });
    false
}

/// Whether it takes commands: also one that asks for a password is there.
fn answers(port: u16) -> bool {
    let mut said = [0; 256];
    let mut ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        stream.read(&mut said)
    };
    ask().is_ok_and(|read| read > 0 && !said.starts_with(b"-LOADING"))
}

/// A running server. Killed when it is dropped, and also when this process is.
pub(crate) struct Server {
    pub(crate) port: u16,
    folder: PathBuf,
    args: Vec<String>,
    process: Option<Process>,
}

/// A shell that starts the server, and kills it when its own input ends: that happens however this process ends.
struct Process {
    shell: Child,
    pid: u32,
}

/// How it looks while a server starts.
enum Start {
    Answers,
    NotYet,
    /// Another program has the port.
    NoPort,
}

/// So often it is looked at, every few milliseconds.
const LOOKS: usize = 4_000;
const PAUSE: Duration = Duration::from_millis(5);

impl Server {
    /// Starts a server, or says loudly that there is none on this machine.
    pub(crate) async fn start(args: &[&str]) -> Option<Self> {
        if !is_there() {
            return None;
        }
        for _ in 0..20 {
            let mut server = Self::new(args);
            // Another program may take the port first.
            if server.launch().await {
                return Some(server);
            }
        }
        panic!("no server has started");
    }

    /// The same for a test whose clock is paused, or that does not await.
    pub(crate) fn start_blocking(args: &[&str]) -> Option<Self> {
        if !is_there() {
            return None;
        }
        for _ in 0..20 {
            let mut server = Self::new(args);
            server.spawn();
            if server.answers_blocking() {
                return Some(server);
            }
        }
        panic!("no server has started");
    }

    fn new(args: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Relaxed);
        let name = format!("bulwark-fleet-{}-{number}", std::process::id());
        // Nodes of clusters and sentinels wait until what they know is on the disk: seconds, on a machine that builds something.
        let memory = Path::new("/dev/shm");
        let place = memory.is_dir().then(|| memory.to_owned());
        let folder = place.unwrap_or_else(std::env::temp_dir).join(name);
        fs::create_dir_all(&folder).unwrap();
        Self {
            port: free_port(),
            folder,
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            process: None,
        }
    }

    async fn launch(&mut self) -> bool {
        self.spawn();
        for _ in 0..LOOKS {
            match self.look() {
                Start::Answers => return true,
                Start::NoPort => return false,
                Start::NotYet => sleep(PAUSE).await,
            }
        }
        panic!("it does not answer: {}", self.log());
    }

    fn answers_blocking(&self) -> bool {
        for _ in 0..LOOKS {
            match self.look() {
                Start::Answers => return true,
                Start::NoPort => return false,
                Start::NotYet => std::thread::park_timeout(PAUSE),
            }
        }
        panic!("it does not answer: {}", self.log());
    }

    fn spawn(&mut self) {
        let port = self.port.to_string();
        let mut arguments: Vec<&str> = Vec::new();
        let file = self.folder.join("server.conf");
        if self.args.first().is_some_and(|it| it == "--sentinel") {
            let text = format!("port {port}\n{}\n", self.args[1..].join("\n"));
            fs::write(&file, text).unwrap();
            arguments.extend([file.to_str().unwrap(), "--sentinel"]);
        } else {
            arguments.extend(["--port", &port, "--save", "", "--appendonly", "no"]);
            arguments.extend(self.args.iter().map(String::as_str));
        }
        self.process = Some(Process::start(&self.folder, &arguments));
    }

    fn look(&self) -> Start {
        // The log first: whoever answers may be the other program.
        let log = self.log();
        assert!(!log.contains("FATAL"), "{log}");
        if log.contains("Address already in use") {
            return Start::NoPort;
        }
        if log.is_empty() || !answers(self.port) {
            return Start::NotYet;
        }
        Start::Answers
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    pub(crate) async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let patient = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(20)))
            .set_response_timeout(Some(Duration::from_secs(20)));
        Client::open(self.url())?
            .get_multiplexed_async_connection_with_config(&patient)
            .await
    }

    /// Asks the server, as its operator.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &str) -> RedisResult<T> {
        let mut connection = self.connect().await?;
        let mut question = Cmd::new();
        for word in command.split_whitespace() {
            question.arg(word);
        }
        question.query_async(&mut connection).await
    }

    /// A server whose role changes hangs up on those who ask meanwhile.
    pub(crate) async fn is_primary(&self) -> bool {
        let role: RedisResult<Vec<redis::Value>> = self.ask("ROLE").await;
        role.is_ok_and(|it| it[0] == redis::Value::BulkString(b"master".to_vec()))
    }

    pub(crate) async fn tell(&self, command: &str) {
        let _: redis::Value = self.ask(command).await.unwrap();
    }

    /// As if the machine were frozen: connections stand, nothing is answered.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    /// Without a word.
    pub(crate) fn kill(&mut self) {
        self.signal("-KILL");
        self.process = None;
    }

    /// On the same port, with nothing in it.
    pub(crate) async fn restart(&mut self) {
        self.process = None;
        let _ = fs::remove_file(self.folder.join("log"));
        assert!(self.launch().await, "the port is taken");
    }

    fn signal(&self, signal: &str) {
        let process = self.process.as_ref().expect("the server runs");
        let pid = process.pid.to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process = None;
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Process {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let script = r#""$@" >log 2>&1 & p=$!; echo $p; read -r _; kill -9 $p 2>/dev/null; wait"#;
        let mut shell = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(binary().expect("looked for before"))
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut says = BufReader::new(shell.stdout.take().unwrap());
        says.read_line(&mut line).unwrap();
        Self {
            shell,
            pid: line.trim().parse().unwrap(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

pub(crate) fn free_port() -> u16 {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // The nodes of a cluster talk to each other 10,000 ports further on.
        if port <= u16::MAX - 10_000 {
            return port;
        }
    }
}
