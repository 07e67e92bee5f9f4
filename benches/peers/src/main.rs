//! What a call costs: ours and the peers', over the same inner service, in interleaved rounds of one run.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml [calls per round [part of a name]]`
//!
//! Prints a table of medians, and writes `target/bench/overhead.json`. Figures of different machines, or of
//! different runs, are not comparable; the rows of one run are.

mod alloc;
mod subjects;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use subjects::Subject;

const ROUNDS: usize = 7;
const THREADS: [usize; 3] = [1, 2, 4];

/// One round: nanoseconds a call and thread, and allocations a call.
fn round(subject: &Subject, threads: usize, calls: u64) -> (f64, f64) {
    // A shared instance is warm, and every thread has its own clone of the service.
    let mut workers: Vec<_> = (0..threads).map(|_| (subject.make)()).collect();
    let ready = Barrier::new(threads + 1);
    let before = alloc::count();
    let mut elapsed = 0.0;
    thread::scope(|scope| {
        let handles: Vec<_> = workers
            .iter_mut()
            .map(|worker| {
                let ready = &ready;
                scope.spawn(move || {
                    worker(calls / 10);
                    ready.wait();
                    let start = Instant::now();
                    worker(calls);
                    start.elapsed().as_secs_f64()
                })
            })
            .collect();
        ready.wait();
        for handle in handles {
            elapsed += handle.join().expect("a worker ends");
        }
    });
    let total = (calls + calls / 10) * threads as u64;
    let allocs = (alloc::count() - before) as f64 / total as f64;
    (elapsed / threads as f64 * 1e9 / calls as f64, allocs)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> std::io::Result<()> {
    let calls: u64 = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(200_000);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let handle = runtime.handle().clone();
    let mut subjects = subjects::all(&handle);
    if let Some(wanted) = std::env::args().nth(2) {
        let is_wanted = |it: &Subject| it.case.contains(&wanted) || it.name.contains(&wanted);
        let bare = subjects.remove(0);
        subjects.retain(is_wanted);
        subjects.insert(0, bare);
    }

    let mut times: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    let mut allocs: BTreeMap<usize, f64> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for threads in THREADS {
            for (i, subject) in subjects.iter().enumerate() {
                if threads > 1 && subject.alone {
                    continue;
                }
                let calls = calls / subject.slower_by;
                let (ns, allocations) = round(subject, threads, calls);
                times.entry((threads, i)).or_default().push(ns);
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
            let total = threads as f64 * 1e3 / ns;
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
    println!("written to target/bench/overhead.json");
    Ok(())
}
