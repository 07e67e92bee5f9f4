//! What a call costs: ours and the peers', over the same inner service, in interleaved rounds of one run.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml [part of a name]`
//!
//! Time is the wall time of a round: from the moment at which all threads start to the one at which the last has ended.
//! A round has as many calls as take at least 50 ms. Prints a table of medians, and writes `target/bench/overhead.json`.
//! Figures of different machines, or of different runs, are not comparable; the rows of one run are.
//!
//! The last table is about no time: it says which retries call a service that they have not made ready.

mod alloc;
mod contract;
mod fleet;
mod snapshot;
mod subjects;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use subjects::Subject;

const ROUNDS: usize = 7;
const THREADS: [usize; 3] = [1, 2, 4];

/// No round is shorter than this.
const ROUND: Duration = Duration::from_millis(50);

/// Nanoseconds of wall time that all threads together need for a call, and allocations a call.
fn round(subject: &Subject, threads: usize, calls: u64) -> (f64, f64) {
    let mut workers: Vec<_> = (0..threads).map(|_| (subject.make)()).collect();
    let ready = Barrier::new(threads + 1);
    let (elapsed, allocs) = thread::scope(|scope| {
        let handles: Vec<_> = workers
            .iter_mut()
            .map(|worker| {
                let ready = &ready;
                scope.spawn(move || {
                    // A shared instance is warm, and every thread has its own clone of the service.
                    worker(calls / 10 + 1);
                    ready.wait();
                    worker(calls);
                })
            })
            .collect();
        ready.wait();
        let (start, before) = (Instant::now(), alloc::count());
        for handle in handles {
            handle.join().expect("a worker ends");
        }
        (start.elapsed().as_secs_f64(), alloc::count() - before)
    });
    let total = (calls * threads as u64) as f64;
    (elapsed * 1e9 / total, allocs as f64 / total)
}

/// How many calls of each thread take at least as long as a round.
fn calls_per_round(subject: &Subject, threads: usize) -> u64 {
    let mut calls = 64;
    loop {
        let (ns, _) = round(subject, threads, calls);
        let took = ns * (calls * threads as u64) as f64;
        let wanted = ROUND.as_nanos() as f64;
        if took >= wanted || calls > 1 << 34 {
            return calls;
        }
        let factor = (wanted * 1.2 / took.max(1.0)).clamp(1.5, 16.0);
        calls = (calls as f64 * factor) as u64;
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let handle = runtime.handle().clone();
    let fleet = fleet::Running::start()?;
    let mut subjects = {
        let _runtime = handle.enter();
        subjects::all(&handle, &fleet)
    };
    if let Some(wanted) = std::env::args().nth(1) {
        let is_wanted = |it: &Subject| it.case.contains(&wanted) || it.name.contains(&wanted);
        let bare = subjects.remove(0);
        subjects.retain(is_wanted);
        subjects.insert(0, bare);
    }

    let mut times: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    let mut allocs: BTreeMap<usize, f64> = BTreeMap::new();
    let mut calls: BTreeMap<(usize, usize), u64> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for threads in THREADS {
            for (i, subject) in subjects.iter().enumerate() {
                if threads > 1 && subject.alone {
                    continue;
                }
                let key = (threads, i);
                let calls = *calls
                    .entry(key)
                    .or_insert_with(|| calls_per_round(subject, threads));
                let (ns, allocations) = round(subject, threads, calls);
                times.entry(key).or_default().push(ns);
                if threads == 1 {
                    allocs.insert(i, allocations);
                }
            }
        }
    }

    let mut medians: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    for (key, values) in &mut times {
        medians.insert(*key, median(values));
    }
    let mut rows = Vec::new();
    println!(
        "{:<28} {:<34} {:>8} {:>9} {:>7}   {:>24}",
        "case", "subject", "ns", "overhead", "allocs", "Mops on 1 / 2 / 4 threads"
    );
    for (i, subject) in subjects.iter().enumerate() {
        let mut mops = Vec::new();
        for threads in THREADS {
            let Some(ns) = medians.get(&(threads, i)) else {
                continue;
            };
            let overhead = ns - medians[&(threads, 0)];
            let total = 1e3 / ns;
            mops.push(format!("{total:.1}"));
            rows.push(serde_json::json!({
                "case": subject.case,
                "subject": subject.name,
                "threads": threads,
                "ns_per_call": ns,
                "overhead_ns": overhead,
                "allocs_per_call": if threads == 1 { Some(allocs[&i]) } else { None },
                "mops": total,
            }));
        }
        let ns = medians[&(1, i)];
        println!(
            "{:<28} {:<34} {:>8.1} {:>9.1} {:>7.2}   {:>24}",
            subject.case,
            subject.name,
            ns,
            ns - medians[&(1, 0)],
            allocs[&i],
            mops.join(" / ")
        );
    }
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../target/bench/overhead.json"
    );
    std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bench"))?;
    let mut file = std::fs::File::create(file)?;
    writeln!(file, "{}", serde_json::Value::from(rows))?;
    println!(
        "the store of the fleet: {}; its breaker has asked it {} times",
        fleet.store,
        fleet.commands()
    );
    println!("written to target/bench/overhead.json");
    runtime.block_on(contract::print());
    let _runtime = handle.enter();
    snapshot::print();
    Ok(())
}
