//! Processes of their own that are stopped and killed while they hold and wait. Each writes to a resource with its fence.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tower_bulwark::fleet::{Fleet, FleetLock};

use super::support::server::Server;
use super::support::{now, since, until};
use super::world::Rng;

const URL: &str = "FLEET_LOCK_CHAOS_URL";
const MAX: usize = 3;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn lock(fleet: &Fleet) -> FleetLock {
    let lock = fleet.lock("gpu").max_concurrent(MAX).lease(ms(600));
    lock.build().unwrap()
}

/// What such a process does. In an ordinary run it has nothing to do.
#[tokio::test]
async fn a_process_of_the_chaos_writes_for_as_long_as_it_may() {
    let Ok(url) = std::env::var(URL) else { return };
    let fleet = Fleet::connect(url).await.unwrap();
    let lock = lock(&fleet);
    let mut rng = Rng::new(u64::from(std::process::id()));
    // Until it is killed, or its parent is gone.
    loop {
        let wait = ms(rng.below(2_000) as u64);
        let asked = timeout(wait, lock.acquire("worker").into_future());
        let Ok(Ok(guard)) = asked.await else { continue };
        let fence = guard.fence().unwrap();
        for _ in 0..rng.below(60) {
            if guard.valid_for().is_none_or(|it| it.is_zero()) {
                break;
            }
            if writeln!(std::io::stdout(), "\nwrite {} {}", fence.slot, fence.token).is_err() {
                return;
            }
            sleep(ms(5)).await;
        }
    }
}

/// A write, as the resource sees it.
struct Written {
    slot: u32,
    token: u64,
}

struct Worker {
    child: Child,
}

impl Worker {
    fn start(url: &str, to: Sender<Written>) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "lock::chaos::a_process_of_the_chaos_writes_for_as_long_as_it_may",
                "--exact",
                "--nocapture",
            ])
            .env(URL, url)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                let mut words = line.split(' ');
                if words.next() == Some("write") {
                    let mut word = || words.next().and_then(|it| it.parse::<u64>().ok());
                    let (Some(slot), Some(token)) = (word(), word()) else {
                        break;
                    };
                    let slot = u32::try_from(slot).unwrap();
                    let _ = to.send(Written { slot, token });
                }
            }
        });
        Self { child }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn processes_that_are_stopped_and_killed_never_hold_one_too_many_and_leave_nothing() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let fleet = Fleet::connect(server.url()).await.unwrap();
    let watch = lock(&fleet);
    let (to, writes) = channel();
    let mut workers: Vec<Worker> = (0..6)
        .map(|_| Worker::start(&server.url(), to.clone()))
        .collect();
    let mut rng = Rng::new(7);
    let began = now();
    let (mut polls, mut most, mut stopped) = (0, 0, None);
    let mut next = ms(1_000);
    while since(began) < ms(12_000) {
        if let Ok(seen) = watch.fetch().await {
            polls += 1;
            most = most.max(seen.holders.len());
            assert!(seen.holders.len() <= MAX, "{:?}", seen.holders);
        }
        if since(began) >= next {
            next = since(began) + ms(rng.between(100, 400).unsigned_abs());
            if let Some(n) = stopped.take() {
                let worker: &Worker = &workers[n];
                worker.signal("-CONT");
                next += ms(rng.between(0, 300).unsigned_abs());
            } else {
                let n = rng.below(workers.len());
                if rng.one_in(3) {
                    workers[n] = Worker::start(&server.url(), to.clone());
                } else {
                    workers[n].signal("-STOP");
                    stopped = Some(n);
                    next += ms(rng.between(0, 1_500).unsigned_abs());
                }
            }
        }
        sleep(ms(3)).await;
    }
    drop(workers);
    let killed = now();
    until("every lease has ended", async || {
        let seen = watch.fetch().await;
        // Beats of others clear the queue.
        let _ = watch.acquire("watch").timeout(ms(50)).await;
        seen.is_ok_and(|it| it.holders.is_empty() && it.waiting == 0)
    })
    .await;
    assert!(since(killed) < ms(6_000), "{:?}", since(killed));
    assert!(
        polls > 500 && most == MAX,
        "{polls} polls, at most {most} live"
    );

    // The fence of the resource: the highest token of each slot. How many writes it refuses depends on when processes are
    // stopped; that a slot goes from one to another does not.
    drop(to);
    let (mut highest, mut grants, mut zombies) = (BTreeMap::<u32, u64>::new(), 0, 0);
    for Written { slot, token } in writes.try_iter() {
        let last = highest.entry(slot).or_default();
        grants += usize::from(token > *last);
        zombies += usize::from(token < *last);
        *last = token.max(*last);
    }
    assert!(grants > 50, "{grants}");
    // Whoever looks at its guard before it writes is late by one write, at most.
    assert!(
        zombies <= 12,
        "{zombies} writes with an old fence, {grants} grants"
    );
}
