//! The processes, from outside.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use super::super::support::until;
use super::worker::{HOLD, PARTS, URL};

/// What a process has said.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Word {
    Ready,
    Refused,
    Hold {
        slot: u32,
        token: u64,
        at: u64,
        valid: u64,
    },
    Drop {
        token: u64,
        at: u64,
    },
    Pass {
        limit: String,
        is_local: bool,
        asked: u64,
        answered: u64,
    },
    State {
        state: String,
        at: u64,
    },
    Probe {
        at: u64,
    },
    Asked {
        commands: u64,
        from: u64,
        to: u64,
    },
    Late {
        what: String,
        from: u64,
        to: u64,
    },
    Gap {
        from: u64,
        to: u64,
    },
}

impl Word {
    fn read(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.strip_prefix("@ ")?.split(' ').collect();
        let number = |n: usize| words.get(n)?.parse::<u64>().ok();
        let text = |n: usize| words.get(n).map(|&it| it.to_owned());
        // A line of a process that was killed may have no end.
        Some(match words[0] {
            "ready" => Self::Ready,
            "refused" => Self::Refused,
            "hold" => Self::Hold {
                slot: u32::try_from(number(1)?).ok()?,
                token: number(2)?,
                at: number(3)?,
                valid: number(4)?,
            },
            "drop" => Self::Drop {
                token: number(1)?,
                at: number(2)?,
            },
            "pass" => Self::Pass {
                limit: text(1)?,
                is_local: text(2)? == "local",
                asked: number(3)?,
                answered: number(4)?,
            },
            "state" => Self::State {
                state: text(1)?,
                at: number(2)?,
            },
            "probe" => Self::Probe { at: number(1)? },
            "asked" => Self::Asked {
                commands: number(1)?,
                from: number(2)?,
                to: number(3)?,
            },
            "late" => Self::Late {
                what: text(1)?,
                from: number(2)?,
                to: number(3)?,
            },
            "gap" => Self::Gap {
                from: number(1)?,
                to: number(2)?,
            },
            _ => return None,
        })
    }
}

#[derive(Clone, Debug)]
pub(super) struct Said {
    /// No two processes have the same.
    pub(super) worker: usize,
    pub(super) word: Word,
}

struct Worker {
    child: Child,
    orders: Option<ChildStdin>,
    number: usize,
    /// What it says is read to its end, also after it was killed.
    reader: Option<thread::JoinHandle<()>>,
}

/// Killed when dropped, and they end by themselves when this process ends.
pub(super) struct Crew {
    url: String,
    parts: &'static str,
    hold_ms: u64,
    workers: Vec<Worker>,
    gone: Vec<Worker>,
    started: usize,
    said: Arc<Mutex<Vec<Said>>>,
}

impl Crew {
    pub(super) async fn start(n: usize, url: String, parts: &'static str, hold_ms: u64) -> Self {
        let mut crew = Self {
            url,
            parts,
            hold_ms,
            workers: Vec::new(),
            gone: Vec::new(),
            started: 0,
            said: Arc::default(),
        };
        for _ in 0..n {
            let worker = crew.launch();
            crew.workers.push(worker);
        }
        until("all processes are ready", async || {
            let said = crew.said.lock().unwrap();
            said.iter().filter(|it| it.word == Word::Ready).count() == n
        })
        .await;
        crew
    }

    fn launch(&mut self) -> Worker {
        let number = self.started;
        self.started += 1;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "chaos::worker::a_process_of_the_chaos_does_as_it_is_told",
                "--exact",
                "--nocapture",
            ])
            .env(URL, &self.url)
            .env(PARTS, self.parts)
            .env(HOLD, self.hold_ms.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = Arc::clone(&self.said);
        let reader = thread::spawn(move || {
            for word in lines.map_while(Result::ok).filter_map(|it| Word::read(&it)) {
                said.lock().unwrap().push(Said {
                    worker: number,
                    word,
                });
            }
        });
        Worker {
            orders: child.stdin.take(),
            child,
            number,
            reader: Some(reader),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.workers.len()
    }

    /// Says it to the nth, and which process that is.
    pub(super) fn tell(&mut self, n: usize, order: &str) -> usize {
        let worker = &mut self.workers[n];
        let orders = worker.orders.as_mut().unwrap();
        writeln!(orders, "{order}").unwrap();
        worker.number
    }

    pub(super) fn tell_all(&mut self, order: &str) {
        for n in 0..self.len() {
            self.tell(n, order);
        }
    }

    pub(super) fn stop(&self, n: usize) {
        self.workers[n].signal("-STOP");
    }

    pub(super) fn go_on(&self, n: usize) {
        self.workers[n].signal("-CONT");
    }

    /// Kills the nth, and starts another one in its place.
    pub(super) fn replace(&mut self, n: usize) {
        let mut worker = self.launch();
        std::mem::swap(&mut worker, &mut self.workers[n]);
        worker.kill();
        self.gone.push(worker);
    }

    /// What was said so far.
    pub(super) fn so_far(&self) -> Vec<Said> {
        self.said.lock().unwrap().clone()
    }

    /// Kills all, and gives what all have said.
    pub(super) fn end(mut self) -> Vec<Said> {
        for worker in self.workers.iter_mut().chain(&mut self.gone) {
            worker.kill();
            worker.reader.take().unwrap().join().unwrap();
        }
        self.so_far()
    }
}

impl Worker {
    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.unwrap().success());
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}
