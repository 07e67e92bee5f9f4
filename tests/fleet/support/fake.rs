//! A server that answers what a test tells it to.

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Answers each command with what `answer` gives for it, as it goes over the wire.
pub(crate) struct Fake {
    pub(crate) port: u16,
    _tasks: JoinSet<()>,
}

impl Fake {
    pub(crate) async fn start(answer: fn(&[String]) -> String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, answer));
            }
        });
        let _tasks = tasks;
        Self { port, _tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

async fn serve(stream: TcpStream, answer: fn(&[String]) -> String) {
    let mut stream = BufReader::new(stream);
    while let Some(command) = command(&mut stream).await {
        let answer = answer(&command);
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn command(stream: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let words = number(stream).await?;
    let mut command = Vec::new();
    for _ in 0..words {
        let mut word = vec![0; number(stream).await? + 2];
        stream.read_exact(&mut word).await.ok()?;
        command.push(String::from_utf8_lossy(&word).trim_end().to_owned());
    }
    Some(command)
}

/// Of a line like `*3` or `$5`.
async fn number(stream: &mut BufReader<TcpStream>) -> Option<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    line.trim().get(1..)?.parse().ok()
}
