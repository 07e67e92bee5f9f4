//! What is done to the fleet, one after the other, and what came of it. Every figure is measured.

use std::time::Duration;

use tokio::time::sleep;
use tower_bulwark::BoxError;
use tower_bulwark::fleet::FleetLock;
use tower_bulwark::fleet::lock::FleetHolder;

use crate::crew::Crew;
use crate::screen::{Screen, ms};
use crate::story::Story;
use crate::support::clock::{self, Stopwatch};
use crate::told::{What, teller};
use crate::upstream::Upstream;
use crate::worker::{BURST, FAILURES, LEASE, LIMIT, PERMITS, QUIET};

/// How long the workers are watched before anything happens to them, and how long the upstream is dead.
const WATCHED: Duration = Duration::from_secs(4);
const DEAD: Duration = Duration::from_secs(2);

/// What was measured, in words, and whether it is as promised: with room for a machine that is busy.
pub type Found = (String, bool);

pub struct Stage {
    pub story: Story,
    pub upstream: Upstream,
    pub lock: FleetLock,
    pub crew: Crew,
    pub screen: Screen,
}

impl Stage {
    pub async fn all_work(&self) -> Result<(), BoxError> {
        let names = self.crew.names();
        let ready = || names.iter().map(|it| self.story.node(it)).collect();
        let _: Vec<_> = until("all workers have begun", ready).await?;
        Ok(())
    }

    /// The upstream counts what it gets from all of them.
    pub async fn rate(&self) -> Found {
        // The burst is used up by then.
        sleep(Duration::from_secs(1)).await;
        let from = clock::micros();
        sleep(WATCHED).await;
        let until = clock::micros();
        let calls = self.upstream.calls(from, until, None) as f64;
        let seconds = (until - from) as f64 / 1e6;
        let rate = calls / seconds;
        let text = format!(
            "{rate:.0} calls a second counted by the upstream for {seconds:.1} s; the limit of the fleet is {LIMIT}"
        );
        // A few calls come later than they were let through. Much less would be a limit that is not used.
        let most = LIMIT as f64 * seconds * 1.05 + BURST as f64;
        (text, calls <= most && rate >= LIMIT as f64 / 2.0)
    }

    /// The upstream dies. The busy workers find out; the others are told.
    pub async fn trip(&self) -> Result<Found, BoxError> {
        let names = self.crew.names();
        self.screen.tell("the upstream dies");
        let died = self.upstream.set_dead(true);
        let open = || {
            let came = |it: &String| self.story.came_to(it, "open", died);
            names.iter().map(came).collect::<Option<Vec<_>>>()
        };
        let open = until("all breakers are open", open).await?;
        let took = spread(&open);
        let whys = names.iter().zip(&open);
        let whys: Vec<_> = whys.map(|(it, (_, why))| format!("{it}: {why}")).collect();
        let text = format!(
            "all {} breakers are open {} after the first ({}); a quiet worker alone needs {FAILURES} calls, one each {QUIET:?}",
            names.len(),
            ms(took),
            whys.join(", ")
        );
        Ok((text, took < 1_000_000))
    }

    /// The upstream comes back, and counts who tries it.
    pub async fn probe(&self) -> Result<Found, BoxError> {
        sleep(DEAD).await;
        let names = self.crew.names();
        self.screen.tell("the upstream comes back");
        let back = self.upstream.set_dead(false);
        let closed = || {
            let came = |it: &String| self.story.came_to(it, "closed", back);
            names.iter().map(came).collect::<Option<Vec<_>>>()
        };
        let closed = until("all breakers are closed", closed).await?;
        // What comes from a worker before its breaker has closed is a probe.
        let probes = names.iter().zip(&closed);
        let probes = probes.map(|(name, (at, _))| self.upstream.calls(back, *at, Some(name)));
        let probes: usize = probes.sum();
        let text = format!(
            "{probes} counted by the upstream, for {} processes; all breakers are closed {} after the first",
            names.len(),
            ms(spread(&closed))
        );
        Ok((text, probes == 1))
    }

    /// A worker that holds a permit is killed. `None` if it is no process.
    pub async fn kill(&mut self) -> Result<Option<Found>, BoxError> {
        for _ in 0..3 {
            // The youngest permit: it is still held when the worker is killed.
            let seen = self.lock.fetch().await?;
            let Some(youngest) = seen.holders.last() else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let names = self.crew.names();
            let holds = |it: &&String| self.story.node(it).as_ref() == Some(&youngest.node);
            let name = names.iter().find(holds).ok_or("no worker holds it")?;
            let killed = clock::micros();
            if !self.crew.kill(name).await? {
                return Ok(None);
            }
            let story = self.story.clone();
            teller(name, move |told| story.add(told))(What::Killed);
            self.screen.tell(&format!("worker {name} is killed"));
            let left = self.lock.fetch().await?.holders;
            if let Some(held) = left.iter().rev().find(|it| it.node == youngest.node) {
                return self.back(killed, held).await.map(Some);
            }
            // It had given the permit back just before.
        }
        Err("no worker could be killed while it held a permit".into())
    }

    /// When somebody has the permit of a worker that was `killed`.
    async fn back(&self, killed: u64, held: &FleetHolder) -> Result<Found, BoxError> {
        let ends = clock::micros() + held.expires_in.as_micros() as u64;
        let next = || {
            self.story.first(killed, |told| match &told.what {
                What::Took { job, slot, token }
                    if *slot == held.fence.slot && *token > held.fence.token =>
                {
                    Some((told.at, job.clone()))
                }
                _ => None,
            })
        };
        let (at, job) = until("the permit is back", next).await?;
        let took = at - killed;
        let text = format!(
            "{} died with a permit, and {job} had it {} later; the lease of {LEASE:?} had {} to go",
            held.holder,
            ms(took),
            ms(ends.saturating_sub(killed))
        );
        // Not before the lease has ended, less what an answer may take. Long after it if it was handed to the other job of
        // the worker that died: that one has 2 s to take it.
        let longest = LEASE.as_micros() as u64 + 3_000_000;
        Ok((text, at + 100_000 >= ends && took < longest))
    }

    /// What was seen of the lock all the time.
    pub fn lock(&self) -> Found {
        let (looks, at_once) = (self.story.looks(), self.story.most_at_once());
        let text = format!(
            "up to {at_once} jobs say that they had one of {PERMITS} permits at once; in {} looks up to {} were held, by up to {} processes, and up to {} jobs waited",
            looks.count, looks.most_held, looks.most_nodes, looks.most_waiting
        );
        let shared = looks.most_nodes >= self.crew.names().len().min(2);
        let is_full = looks.most_held == PERMITS && looks.most_waiting > 0;
        (text, shared && is_full && at_once == PERMITS)
    }
}

/// From the first to the last, in microseconds.
fn spread(events: &[(u64, String)]) -> u64 {
    let times = || events.iter().map(|(at, _)| *at);
    times().max().unwrap_or(0) - times().min().unwrap_or(0)
}

/// Waits until something is so: at most 10 s.
async fn until<T>(what: &str, so: impl Fn() -> Option<T>) -> Result<T, BoxError> {
    let (watch, longest) = (Stopwatch::start(), Duration::from_secs(10));
    loop {
        if let Some(it) = so() {
            return Ok(it);
        }
        if watch.elapsed() > longest {
            return Err(format!("not within {longest:?}: {what}").into());
        }
        sleep(Duration::from_millis(10)).await;
    }
}
