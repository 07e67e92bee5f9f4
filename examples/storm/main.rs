//! What becomes of a service in an outage and in a rush: without layers, with tower's retry, and with these.
//!
//! ```sh
//! cargo run --example storm
//! cargo run --example storm -- --seed 42 --hang --svg storm.svg
//! ```
//!
//! Six clients send a server 60 calls a second; it can do 100. For twenty seconds it is down, and later three
//! times as many calls come in for fifteen seconds. All of it is simulated in virtual time, and the same for the
//! same seed. The numbers are printed, and the course of each run is drawn into an SVG picture.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "a program has no outside, and this one uses a part of what it shares"
)]

#[path = "../../tests/support/storm.rs"]
mod storm;
mod svg;
#[path = "../support/table.rs"]
mod table;

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use storm::{CALLS_PER_SECOND, CAPACITY_PER_SECOND, CLIENTS, Outage, Report, Variant, Weather};
use table::Table;

/// Simulates an outage and a rush, with and without the layers.
#[derive(Debug, Parser)]
struct Args {
    /// Calls, service times and jitter are drawn from it
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// During the outage the server hangs, instead of failing at once
    #[arg(long)]
    hang: bool,
    /// Where the picture goes
    #[arg(long, default_value = "target/storm.svg")]
    svg: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let kind = match args.hang {
        true => Outage::Hangs,
        false => Outage::Refuses,
    };
    let weather = Weather::storm(kind);
    let reports = storm::run_all(&Variant::ALL, &weather, args.seed);

    println!(
        "{CLIENTS} clients, {CALLS_PER_SECOND} calls/s; the server can do {CAPACITY_PER_SECOND}. \
         Down from {} s to {} s, three times the calls from {} s to {} s. Seed {}.\n",
        weather.outage.start, weather.outage.end, weather.rush.start, weather.rush.end, args.seed
    );
    println!("{}", table(&weather, &reports));

    match write(&args.svg, &svg::draw(&weather, &reports)) {
        Ok(()) => {
            println!("Drawn in {}", args.svg.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}: {error}", args.svg.display());
            ExitCode::FAILURE
        }
    }
}

fn write(path: &std::path::Path, picture: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, picture)
}

fn table(weather: &Weather, reports: &[Report]) -> Table {
    let mut table = Table::new();
    let mut row = |what: &str, cell: &dyn Fn(&Report) -> String| {
        let cells = reports.iter().map(cell);
        table.row(std::iter::once(what.to_owned()).chain(cells));
    };
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let after = |it: &Report, range: Range<u64>| match it.recovers_in(range.clone()) {
        Some(seconds) => format!("{seconds} s"),
        None => format!("not in {} s", range.end - range.start),
    };
    let rush = (weather.rush.end - weather.rush.start) as f64;

    row("", &|it| it.variant.name().to_owned());
    row("requests for each call", &|it| {
        format!("{:.2}", it.amplification(weather.all()))
    });
    row("  in the outage", &|it| {
        format!("{:.2}", it.amplification(weather.outage.clone()))
    });
    row("requests at the dead server", &|it| {
        it.load(weather.outage.clone()).to_string()
    });
    row(
        "all circuits open after",
        &|it| match it.all_open_after(&weather.outage) {
            Some(time) => format!("{:.1} s", time.as_secs_f64()),
            None => "-".to_owned(),
        },
    );
    row("well after the outage in", &|it| {
        after(it, weather.between())
    });
    row("answered a second in the rush", &|it| {
        format!("{:.0}", it.good(weather.rush.clone()) as f64 / rush)
    });
    row("well after the rush in", &|it| after(it, weather.after()));
    row("work done for nobody", &|it| {
        it.wasted(weather.all()).to_string()
    });
    row("calls that succeeded", &|it| {
        percent(it.goodput(weather.all()))
    });
    row("  of them, with a stale answer", &|it| {
        let good = it.good(weather.all()).max(1) as f64;
        percent(it.stale(weather.all()) as f64 / good)
    });
    table
}
