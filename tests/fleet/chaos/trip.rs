//! Eight processes that share a breaker: how soon all are open, who probes, and how often they ask.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::super::support::server::Server;
use super::super::support::{now, until};
use super::crew::{Crew, Said, Word};
use super::ledger::Ledger;
use super::{clock, goes_on, length, ms};

const PROCESSES: usize = 8;

fn opened(said: &[Said], since: u64) -> Vec<(usize, u64)> {
    let opened = said.iter().filter_map(|it| match &it.word {
        Word::State { state, at } if state == "Open" && *at >= since => Some((it.worker, *at)),
        _ => None,
    });
    opened.collect()
}

/// How many have closed since, as the last thing that they did.
fn closed(said: &[Said], since: u64) -> usize {
    let mut last = vec![false; PROCESSES];
    for it in said {
        if let Word::State { state, at } = &it.word
            && *at >= since
        {
            last[it.worker] = state == "Closed";
        }
    }
    last.into_iter().filter(|it| *it).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_processes_are_open_a_tenth_of_a_second_after_one_has_tripped_and_one_probes() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let pulse = Pulse::of(&server).await;
    let mut crew = Crew::start(PROCESSES, server.url(), "breaker", 0).await;
    let rounds = length(ms(6_000)).as_secs();
    let (mut lags, mut probes) = (Vec::new(), Vec::new());
    for round in 0..rounds as usize {
        // Each has asked and hears, and what it sent before is no reason to wait: ten commands a second are its all.
        sleep(ms(1_000)).await;
        let began = clock();
        let first = crew.tell(round % PROCESSES, "trip");
        until("all have opened and closed", async || {
            let said = crew.so_far();
            opened(&said, began).len() >= PROCESSES && closed(&said, began) == PROCESSES
        })
        .await;
        let said = crew.so_far();
        let all = opened(&said, began);
        let tripped = all.iter().find(|it| it.0 == first).unwrap().1;
        lags.extend(all.iter().filter(|it| it.0 != first).map(|it| {
            let lag = it.1.saturating_sub(tripped);
            // A process that stands still hears nothing, and a server that does says nothing.
            let still = stood_still(&said, &[first, it.0], tripped, it.1);
            let still = still + pulse.stood_still(tripped, it.1);
            Duration::from_micros(lag.saturating_sub(still))
        }));
        let since = |it: &&Said| matches!(it.word, Word::Probe { at } if at >= began);
        probes.push(said.iter().filter(since).count());
    }
    lags.sort();
    let (p50, max) = (lags[lags.len() / 2], lags[lags.len() - 1]);
    eprintln!("all others open after p50 {p50:?}, max {max:?}; probes {probes:?}");
    assert_eq!(lags.len(), rounds as usize * (PROCESSES - 1), "{lags:?}");
    assert!(p50 < ms(50) && max < ms(100), "p50 {p50:?}, max {max:?}");
    assert!(probes.iter().all(|&it| it == 1), "{probes:?}");
    let ledger = Ledger(crew.end());
    ledger.breaker_commands("trip");
}

/// When the server has not answered at once: the machine had no time for it, or for this process.
struct Pulse {
    gaps: Arc<Mutex<Vec<(u64, u64)>>>,
    task: JoinHandle<()>,
}

impl Pulse {
    async fn of(server: &Server) -> Self {
        let gaps = Arc::<Mutex<Vec<_>>>::default();
        let mut connection = server.connect().await.unwrap();
        let task = tokio::spawn({
            let gaps = Arc::clone(&gaps);
            async move {
                loop {
                    let asked = clock();
                    let _: String = redis::cmd("PING")
                        .query_async(&mut connection)
                        .await
                        .unwrap();
                    if clock() - asked > 3_000 {
                        gaps.lock().unwrap().push((asked, clock()));
                    }
                    sleep(ms(1)).await;
                }
            }
        });
        Self { gaps, task }
    }

    fn stood_still(&self, from: u64, to: u64) -> u64 {
        let gaps = self.gaps.lock().unwrap();
        let inside = |it: &(u64, u64)| it.1.min(to).saturating_sub(it.0.max(from));
        gaps.iter().map(inside).sum()
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// For how long one of these processes stood still in that time.
fn stood_still(said: &[Said], workers: &[usize], from: u64, to: u64) -> u64 {
    let gaps = said.iter().filter_map(|it| match it.word {
        Word::Gap { from: a, to: b } if workers.contains(&it.worker) => {
            Some(b.min(to).saturating_sub(a.max(from)))
        }
        _ => None,
    });
    gaps.sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_stays_bad_is_probed_by_one_process_at_a_time() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let mut crew = Crew::start(PROCESSES, server.url(), "breaker", 0).await;
    sleep(ms(300)).await;
    crew.tell_all("bad");
    let began = now();
    let is_probe = |it: &Word| matches!(it, Word::Probe { .. });
    while goes_on(began, length(ms(4_000)), || {
        Ledger(crew.so_far()).count(is_probe) > 4
    }) {
        sleep(ms(100)).await;
    }
    crew.tell_all("good");
    let began = clock();
    until("all have closed", async || {
        closed(&crew.so_far(), began) == PROCESSES
    })
    .await;
    let ledger = Ledger(crew.end());
    let mut probes: Vec<u64> = Vec::new();
    for it in &ledger.0 {
        if let Word::Probe { at } = it.word {
            probes.push(at);
        }
    }
    probes.sort_unstable();
    assert!(probes.len() > 4, "{probes:?}");
    for pair in probes.windows(2) {
        // Each takes 30 ms, and the next comes after the time for which it is open.
        assert!(pair[1] - pair[0] > 300_000, "{probes:?}");
    }
    ledger.breaker_commands("bad");
}
