//! What is going on, while it goes on: a live view on a terminal, plain lines everywhere else.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tower_bulwark::circuit_breaker::CircuitBreakerSnapshot;
use tower_bulwark::contention::ResourceSnapshot;

use crate::stack::Handles;
use crate::support::clock::Stopwatch;
use crate::traffic::Traffic;

/// Prints a text and ends the line. A reader that has gone away is not an error.
pub fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// The view of one run.
#[derive(Debug)]
pub struct Live {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Live {
    pub fn start(traffic: Arc<Traffic>, handles: Option<Handles>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let view = View {
            watch: Stopwatch::start(),
            screen: Screen::new(&traffic, handles.is_some()),
            traffic,
            handles,
            told: 0,
        };
        let task = tokio::spawn(view.run(stopped));
        Self { stop, task }
    }

    /// Shows the end, and lets go of the terminal.
    pub async fn stop(self) {
        // A view that has ended needs not be told.
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

struct View {
    watch: Stopwatch,
    traffic: Arc<Traffic>,
    handles: Option<Handles>,
    screen: Screen,
    /// How many state changes have been printed.
    told: usize,
}

impl View {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut ticks = tokio::time::interval(self.screen.period());
        ticks.tick().await;
        loop {
            tokio::select! {
                _ = ticks.tick() => self.show(),
                _ = &mut stopped => break,
            }
        }
        self.show();
        self.screen.leave();
    }

    fn show(&mut self) {
        let elapsed = self.watch.elapsed();
        self.tell_changes(elapsed);
        let tally = self.traffic.tally();
        let counts = format!("answered {}, lost {}", tally.answered, tally.lost());
        let state = self.handles.as_ref().map(|handles| {
            let mut lines = Vec::new();
            if let Some(breaker) = handles.first.circuit_breaker() {
                lines.push(breaker_line(&breaker.snapshot()));
            }
            if let Some(slots) = handles.first.lock() {
                let slots = slots.snapshot();
                lines.extend([holders_line(&slots), waits_line(&slots)]);
            }
            let mut second = format!("{} to the second", handles.fallback.snapshot().fell_back);
            if let Some(slots) = handles.second.lock() {
                let slots = slots.snapshot();
                second += &format!(", slots {}/{}", slots.in_use, slots.capacity);
                second += &format!(", {} waiting", slots.waiting);
            }
            lines.push(second);
            lines
        });
        match &self.screen {
            Screen::Terminal { bar, lines, .. } => {
                bar.set_position(tally.ended());
                bar.set_message(counts);
                for (line, text) in lines.iter().zip(state.into_iter().flatten()) {
                    line.set_message(text);
                }
            }
            Screen::Plain => {
                let (ended, all) = (tally.ended(), self.traffic.prompts);
                let mut line = format!(
                    "{:>5.1}s  {ended:>3}/{all}  {counts}",
                    elapsed.as_secs_f64()
                );
                for text in state.iter().flatten() {
                    line = line + "  |  " + text;
                }
                say(&line);
            }
        }
    }

    fn tell_changes(&mut self, elapsed: Duration) {
        let Some(handles) = &self.handles else { return };
        for entry in handles.changes.recent().iter().skip(self.told) {
            self.told += 1;
            let at = elapsed.saturating_sub(entry.age).as_secs_f64();
            self.screen
                .tell(&format!("{at:>6.2}s  {}: {}", entry.name, entry.event));
        }
    }
}

fn breaker_line(breaker: &CircuitBreakerSnapshot) -> String {
    let mut line = format!("breaker {}", breaker.state);
    if let Some(left) = breaker.remaining_open {
        line += &format!(" for {}", ms(left));
    }
    line + &format!(", {} refused", breaker.totals.rejected)
}

fn holders_line(slots: &ResourceSnapshot) -> String {
    let mut line = format!("slots {}/{}", slots.in_use, slots.capacity);
    if let Some(longest) = slots.holders.first() {
        line += &format!(", {} for {}", longest.holder, ms(longest.held_for));
    }
    line
}

fn waits_line(slots: &ResourceSnapshot) -> String {
    let waits = &slots.stats.wait;
    let mut line = format!("{} waiting", slots.waiting);
    if let Some(next) = slots.waiters.first() {
        line += &format!(", {} for {}", next.holder, ms(next.waiting_for));
    }
    line + &format!(" (p50 {}, p99 {})", ms(waits.p50), ms(waits.p99))
}

/// In whole milliseconds.
pub fn ms(duration: Duration) -> String {
    format!("{:.0} ms", duration.as_secs_f64() * 1e3)
}

enum Screen {
    Terminal {
        all: MultiProgress,
        bar: ProgressBar,
        lines: Vec<ProgressBar>,
    },
    Plain,
}

impl Screen {
    fn new(traffic: &Traffic, with_layers: bool) -> Self {
        if !io::stdout().is_terminal() {
            return Self::Plain;
        }
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let style = |template| {
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
        };
        let bar = all.add(ProgressBar::new(traffic.prompts));
        bar.set_style(style("{elapsed:>5} [{bar:40}] {pos}/{len}  {msg}").progress_chars("=> "));
        let line = || {
            let line = all.add(ProgressBar::new_spinner());
            line.set_style(style("      {msg}"));
            line
        };
        let lines = (0..if with_layers { 4 } else { 0 })
            .map(|_| line())
            .collect();
        Self::Terminal { all, bar, lines }
    }

    fn period(&self) -> Duration {
        Duration::from_millis(match self {
            Self::Terminal { .. } => 80,
            Self::Plain => 1_000,
        })
    }

    fn tell(&self, line: &str) {
        match self {
            Self::Terminal { all, .. } => {
                let _ = all.println(line);
            }
            Self::Plain => say(line),
        }
    }

    fn leave(&self) {
        if let Self::Terminal { bar, lines, .. } = self {
            lines.iter().for_each(ProgressBar::finish_and_clear);
            bar.abandon();
        }
    }
}
