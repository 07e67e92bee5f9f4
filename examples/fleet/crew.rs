//! The workers: this program again, four times; or a task, if there is no server to share by.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tower_bulwark::BoxError;
use tower_bulwark::fleet::Fleet;

use crate::story::Story;
use crate::told::{Told, teller};
use crate::worker::{self, Worker};

/// The first argument of a process that is a worker.
pub const ROLE: &str = "worker";

pub struct Crew {
    members: Vec<Member>,
}

struct Member {
    worker: Worker,
    child: Option<Child>,
}

impl Crew {
    /// Two that are busy, and two that call now and then; each has two jobs.
    pub fn processes(url: &str, upstream: &str, story: &Story) -> Result<Self, BoxError> {
        let mut members = Vec::new();
        for (name, callers) in [("a", 6), ("b", 6), ("c", 0), ("d", 0)] {
            let worker = Worker {
                name: name.to_owned(),
                upstream: upstream.to_owned(),
                callers,
                jobs: 2,
            };
            let mut child = Command::new(std::env::current_exe()?)
                .args([ROLE, url, &serde_json::to_string(&worker)?])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            if let Some(stdout) = child.stdout.take() {
                let story = story.clone();
                let mut lines = BufReader::new(stdout).lines();
                tokio::spawn(async move {
                    while let Ok(Some(line)) = lines.next_line().await {
                        if let Ok(told) = serde_json::from_str::<Told>(&line) {
                            story.add(told);
                        }
                    }
                });
            }
            let child = Some(child);
            members.push(Member { worker, child });
        }
        Ok(Self { members })
    }

    /// One worker, in this process.
    pub fn in_process(fleet: &Fleet, upstream: &str, story: &Story) -> Self {
        let worker = Worker {
            name: "a".to_owned(),
            upstream: upstream.to_owned(),
            callers: 12,
            jobs: 8,
        };
        let (fleet, given, story) = (fleet.clone(), worker.clone(), story.clone());
        tokio::spawn(async move {
            let tell = teller(&given.name, move |told| story.add(told));
            if let Err(error) = worker::work(&fleet, &given, 1, &tell).await {
                eprintln!("the worker has ended: {error}");
            }
        });
        let child = None;
        let members = vec![Member { worker, child }];
        Self { members }
    }

    pub fn names(&self) -> Vec<String> {
        self.members
            .iter()
            .map(|it| it.worker.name.clone())
            .collect()
    }

    /// Kills a worker as `kill -9` does. `false` if it is no process.
    pub async fn kill(&mut self, name: &str) -> Result<bool, BoxError> {
        let member = self.members.iter_mut().find(|it| it.worker.name == name);
        let Some(child) = member.and_then(|it| it.child.as_mut()) else {
            return Ok(false);
        };
        child.kill().await?;
        Ok(true)
    }
}

/// What a process does that was started as a worker: it works until its input ends, as it does however its parent ends.
pub async fn be_a_worker(url: &str, worker: &str) -> Result<(), BoxError> {
    let worker: Worker = serde_json::from_str(worker)?;
    let work = async {
        let fleet = worker::join(url, &worker.name).await?;
        let tell = teller(&worker.name, |told| {
            if let Ok(line) = serde_json::to_string(&told) {
                crate::screen::say(&line);
            }
        });
        worker::work(&fleet, &worker, 2, &tell).await
    };
    let mut input = tokio::io::stdin();
    let mut nothing = [0];
    tokio::select! {
        done = work => done,
        _ = input.read(&mut nothing) => Ok(()),
    }
}
