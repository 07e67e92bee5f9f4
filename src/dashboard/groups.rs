//! Groups of keyed handles: of a million the worst are shown, and nobody waits for it.

use std::fmt::Display;
use std::hash::Hash;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::command::{Action, CommandError, Done, ErrorCode};
use super::pattern::Pattern;
use super::settings::Setting;
use super::shown::Shown;
use super::table::{Column, Row, Table};
use super::words::{clipped, counted, grouped, humane};
use crate::keyed::{Instance, Keyed, Worst};
use crate::util::time::{self, Tick};

/// A group of any keys and handles.
pub(super) trait Group: Send + Sync {
    fn pattern(&self) -> Pattern;
    fn columns(&self) -> &'static [Column];
    fn keys(&self) -> usize;
    /// The worst rows, and how many keys are in trouble.
    fn worst(&self, most: usize) -> (Vec<(Row, Vec<Setting>)>, u64);
    fn command(&self, key: &str, action: &Action) -> Result<Done, CommandError>;
}

impl<K, T> Group for Keyed<K, T>
where
    K: Hash + Eq + Clone + Display + Send + Sync + 'static,
    T: Instance + Shown,
{
    fn pattern(&self) -> Pattern {
        T::PATTERN
    }

    fn columns(&self) -> &'static [Column] {
        T::COLUMNS
    }

    fn keys(&self) -> usize {
        self.len()
    }

    fn worst(&self, most: usize) -> (Vec<(Row, Vec<Setting>)>, u64) {
        let mut worst = Worst::new(most);
        let mut in_trouble = 0;
        self.look_through(|key, handle| {
            let trouble = T::trouble(&Instance::snapshot(handle));
            // What is well is not looked at twice.
            in_trouble += u64::from(trouble > 0.0 && handle.is_in_trouble());
            worst.offer(trouble, || key.clone());
            ControlFlow::Continue(())
        });
        let known = worst.into_sorted().into_iter().filter_map(|key| {
            let handle = self.get_known(&key)?;
            let row = Row {
                name: clipped(&key.to_string()),
                ..handle.row()
            };
            Some((row, handle.settings()))
        });
        (known.collect(), in_trouble)
    }

    fn command(&self, key: &str, action: &Action) -> Result<Done, CommandError> {
        let mut found = None;
        self.look_through(|known, handle| match known.to_string() == key {
            true => {
                found = Some(handle.clone());
                ControlFlow::Break(())
            }
            false => ControlFlow::Continue(()),
        });
        match found {
            Some(handle) => handle.command(action),
            None => {
                let message = format!("there is no key `{}`", clipped(key));
                Err(CommandError::new(ErrorCode::UnknownName, message))
            }
        }
    }
}

/// A group with a name, and what was seen of it last.
pub(super) struct Named {
    pub(super) name: String,
    pub(super) group: Box<dyn Group>,
    seen: Mutex<Option<Arc<Seen>>>,
    is_looking: AtomicBool,
}

/// What was seen of a group.
pub(super) struct Seen {
    at: Tick,
    /// How long it took to look.
    took: Duration,
    rows: Vec<(Row, Vec<Setting>)>,
    in_trouble: u64,
}

/// After a look there is a pause of so many times its length: at most a tenth of one core is spent on looking.
pub(super) const PAUSE: u32 = 9;

impl Named {
    pub(super) fn new(name: String, group: impl Group + 'static) -> Self {
        Self {
            name,
            group: Box::new(group),
            seen: Mutex::new(None),
            is_looking: AtomicBool::new(false),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Option<Arc<Seen>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it should be looked at; who is told so has to [`look`](Self::look).
    pub(super) fn wants_a_look(&self, interval: Duration) -> bool {
        let now = time::now();
        let is_old = match &*self.seen() {
            Some(seen) => now.since(seen.at) >= interval.max(seen.took * PAUSE),
            None => true,
        };
        is_old && !self.is_looking.swap(true, Ordering::Acquire)
    }

    /// Looks at every key. Takes a second or so for a million of them.
    pub(super) fn look(&self, most: usize) {
        /// Also if a handle panics.
        struct Looking<'a>(&'a AtomicBool);
        impl Drop for Looking<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Release);
            }
        }
        let _looking = Looking(&self.is_looking);
        let clock = time::RealClock::from_now();
        let start = clock.now();
        let (rows, in_trouble) = self.group.worst(most);
        let seen = Seen {
            at: time::now(),
            took: clock.now().since(start),
            rows,
            in_trouble,
        };
        *self.seen() = Some(Arc::new(seen));
    }

    /// The table of what was seen last, and the settings of its rows.
    pub(super) fn table(&self, id: usize) -> (Table, Vec<Vec<Setting>>) {
        let seen = self.seen().clone();
        let keys = self.group.keys() as u64;
        let all = counted(keys, "key", "keys");
        let note = match &seen {
            None => format!("looking through {all}"),
            Some(seen) => {
                let age = time::now().since(seen.at);
                let mut note = match self.group.pattern() {
                    // That some calls took too long is nothing that lasts.
                    Pattern::Timeouts => all,
                    _ => format!("{} of {all} in trouble", grouped(seen.in_trouble)),
                };
                if age > Duration::from_secs(1) {
                    note += &format!("; looked at {} ago", humane(age));
                }
                note
            }
        };
        let rows = seen.as_deref().map_or(&[][..], |it| &it.rows);
        let (mut rows, settings): (Vec<Row>, _) = rows.iter().cloned().unzip();
        for (place, row) in rows.iter_mut().enumerate() {
            row.place = place;
        }
        let table = Table {
            id: format!("group-{id}"),
            pattern: self.group.pattern(),
            group: Some(self.name.clone()),
            title: format!(
                "{}: {}",
                clipped(&self.name),
                self.group.pattern().title().to_lowercase()
            ),
            note: Some(note),
            columns: self.group.columns(),
            rows,
            total: keys,
            problems: seen.as_deref().map_or(0, |it| it.in_trouble),
            commands: Action::names_for(self.group.pattern()),
        };
        (table, settings)
    }
}
