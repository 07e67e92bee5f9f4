//! All of it on one screen: redrawn on a terminal, a line each second everywhere else.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tower_bulwark::fleet::FleetLock;

use crate::story::Story;
use crate::support::clock::{self, Stopwatch};
use crate::upstream::Upstream;
use crate::worker::LIMIT;

/// Prints a text and ends the line. A reader that has gone away is not an error.
pub fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// In whole milliseconds.
pub fn ms(micros: u64) -> String {
    format!("{} ms", micros.div_ceil(1_000))
}

/// What is drawn on. A cheap clone.
#[derive(Clone)]
pub struct Screen(Option<Terminal>);

#[derive(Clone)]
struct Terminal {
    all: MultiProgress,
    lines: Vec<ProgressBar>,
}

impl Screen {
    /// With so many lines at the bottom.
    pub fn new(lines: usize) -> Self {
        if !io::stdout().is_terminal() {
            return Self(None);
        }
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let style = ProgressStyle::with_template("{msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
        let lines = (0..lines).map(|_| {
            let line = all.add(ProgressBar::new_spinner());
            line.set_style(style.clone());
            line
        });
        let lines = lines.collect();
        Self(Some(Terminal { all, lines }))
    }

    /// Above what is redrawn, to stay.
    pub fn tell(&self, text: &str) {
        match &self.0 {
            Some(terminal) => {
                let _ = terminal.all.println(text);
            }
            None => say(text),
        }
    }

    /// Lets go of the terminal.
    pub fn leave(&self) {
        let lines = self.0.iter().flat_map(|it| &it.lines);
        lines.for_each(ProgressBar::finish_and_clear);
    }
}

/// What is shown.
pub struct View {
    pub story: Story,
    pub upstream: Upstream,
    pub workers: Vec<String>,
    /// The lock, as any process of the fleet may look at it.
    pub lock: FleetLock,
}

impl View {
    /// Looks ten times a second, and shows what it sees, until it is dropped.
    pub async fn show(self, screen: Screen) {
        let watch = Stopwatch::start();
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        for tick in 0_u64.. {
            ticks.tick().await;
            if let Ok(lock) = self.lock.fetch().await {
                self.story.saw(lock);
            }
            match &screen.0 {
                Some(terminal) => {
                    for (line, text) in terminal.lines.iter().zip(self.lines()) {
                        line.set_message(text);
                    }
                }
                None if tick % 10 == 0 => {
                    let at = watch.elapsed().as_secs_f64();
                    say(&format!("{at:>5.1}s  {}", self.brief()));
                }
                None => {}
            }
        }
    }

    /// How many lines [`lines`](Self::lines) are.
    pub fn height(&self) -> usize {
        self.workers.len() + 3
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for worker in &self.workers {
            let (state, why) = self.story.breaker(worker);
            let node = self.story.node(worker).unwrap_or_default();
            let why = match &*why {
                "" => String::new(),
                why => format!("  ({why})"),
            };
            lines.push(format!("  {node:<16}  circuit {state}{why}"));
        }
        let (mut held, mut queue) = (Vec::new(), Vec::new());
        if let Some(lock) = self.story.lock() {
            for it in &lock.holders {
                let held_for = it.held_for.as_millis();
                held.push(format!("{} at {} for {held_for} ms", it.holder, it.node));
            }
            queue.extend(lock.waiters.iter().map(|it| it.holder.clone()));
        }
        lines.push(format!("  gpu       {}", held.join(", ")));
        lines.push(format!("  queue     {}", queue.join(", ")));
        lines.push(format!("  upstream  {}", self.rate()));
        lines
    }

    fn brief(&self) -> String {
        let workers = self.workers.iter();
        let states = workers.map(|it| format!("{it} {}", self.story.breaker(it).0));
        let mut line = states.collect::<Vec<_>>().join(", ");
        if let Some(lock) = self.story.lock() {
            let held = lock.holders.iter().map(|it| &*it.holder);
            let held = held.collect::<Vec<_>>().join(" ");
            line += &format!("  |  gpu [{held}], {} wait", lock.waiting);
        }
        line + "  |  upstream " + &self.rate()
    }

    fn rate(&self) -> String {
        let now = clock::micros();
        let calls = self
            .upstream
            .calls(now.saturating_sub(1_000_000), now, None);
        let state = if self.upstream.is_dead() {
            "dead"
        } else {
            "well"
        };
        format!("{state}, {calls} calls in a second (limit {LIMIT})")
    }
}
