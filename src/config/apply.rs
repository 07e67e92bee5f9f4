//! Config -> handles of a registry, all or nothing.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use super::document::{Config, Entries};
use super::error::{ConfigErrors, Problem};
use super::reader::join;
use super::section::{
    CircuitBreakers, Drills, Hedges, RateLimits, ResourceLocks, Retries, Section, Throttles,
    TimeoutsOf,
};
use crate::error::ConfigChange;
use crate::event::ConfigEvent;
use crate::registry::{Configured, Named, Registry};
use crate::stack::StackConfig;
use crate::timeout::TimeoutConfig;

/// What applying a config has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Applied {
    /// The handles that are others now, by section and name. Those that go on as before are not among them.
    pub entries: Vec<EntryChange>,
}

/// What has become of one handle.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct EntryChange {
    /// What it is: `circuit breaker`, `resource lock`, `retry policy`, `rate limit`, `timeouts`, `hedge`, `throttle` or `chaos`.
    pub kind: &'static str,
    /// Its name.
    pub name: Arc<str>,
    /// What has become of it.
    pub change: EntryChangeKind,
}

/// What has become of a handle.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum EntryChangeKind {
    /// It was made.
    Created,
    /// It goes by other settings, and keeps its state.
    Updated(ConfigChange),
    /// It is in the config no more, nobody has a handle of it, and it had nothing to remember: it is forgotten.
    Removed,
    /// It is in the config no more, and is still in use, or has something to remember. It goes on with the settings that it
    /// has, and is forgotten by the first config that is applied once that is over.
    KeptInUse,
}

impl Applied {
    /// Whether nothing has changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing changed");
        }
        for (i, entry) in self.entries.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            entry.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for EntryChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, change } = self;
        write!(f, "{kind} `{name}`: ")?;
        match change {
            EntryChangeKind::Created => f.write_str("made"),
            EntryChangeKind::Updated(change) => change.fmt(f),
            EntryChangeKind::Removed => f.write_str("removed"),
            EntryChangeKind::KeptInUse => {
                f.write_str("no longer in the config, kept while it is in use")
            }
        }
    }
}

impl Registry {
    /// Goes by a config: updates the handles that exist, makes those that do not, forgets those that an earlier config had
    /// and that nobody uses. State is kept: windows, open circuits, permits, queues, buckets, keys, counts. Handles that the
    /// config does not name, and that no config has named, are not touched.
    ///
    /// A part that is added to a stack is made, and takes effect when the layers of the stack are built again; so does a
    /// part that is left out, whose handle goes on until then.
    ///
    /// The change is an [event](crate::event::ConfigEvent), and so is a refusal.
    ///
    /// # Errors
    ///
    /// [`ConfigErrors`] if a handle that exists cannot go by its entry: a rate limit keeps its quotas and their order, a retry
    /// policy keeps its kind of budget. Then nothing has changed. So it is if an observer that is told of a change applies
    /// another config from within. Should somebody else update a handle meanwhile so that its entry does not fit any more, those
    /// that were updated before it get their settings back; a window that had become another one is empty then.
    pub fn apply(&self, config: &Config) -> Result<Applied, ConfigErrors> {
        let Some(_entered) = Entered::into(self) else {
            return Err(ConfigErrors::entered_twice());
        };
        let applied = self.apply_quietly(config);
        self.tell(&applied);
        applied
    }

    /// Reports what came of a config, when no lock is held.
    pub(super) fn tell(&self, applied: &Result<Applied, ConfigErrors>) {
        match applied {
            Ok(applied) if applied.is_empty() => {}
            Ok(applied) => self.tell_config(ConfigEvent::Applied {
                entries: applied.entries.len(),
                changes: applied.to_string(),
            }),
            Err(errors) => self.tell_config(ConfigEvent::Refused {
                problems: errors.problems().len(),
                reason: errors.to_string(),
            }),
        }
    }

    pub(super) fn apply_quietly(&self, config: &Config) -> Result<Applied, ConfigErrors> {
        // One config at a time.
        let mut configured = self.configured();
        let wanted = Wanted::of(config);
        let mut problems = Vec::new();
        wanted.each(&mut Check {
            registry: self,
            config,
            problems: &mut problems,
        });
        if !problems.is_empty() {
            return Err(ConfigErrors::new(problems));
        }
        let mut apply = Apply {
            registry: self,
            config,
            entries: Vec::new(),
            undo: Vec::new(),
            failed: None,
        };
        wanted.each(&mut apply);
        if let Some(problem) = apply.failed {
            // Somebody else has changed a handle meanwhile: back, the last first.
            apply.undo.into_iter().rev().for_each(|undo| undo());
            return Err(ConfigErrors::new(vec![problem]));
        }
        drop(apply.undo);
        let mut entries = apply.entries;
        let mut forget = Forget {
            registry: self,
            configured: &mut configured,
            entries: &mut entries,
        };
        wanted.each(&mut forget);
        Ok(Applied { entries })
    }
}

thread_local! {
    /// The registries that this thread is applying a config to.
    static APPLYING: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// That this thread applies a config to a registry. What changes is told to observers meanwhile, and one of them may want to
/// apply another: it would wait for itself.
pub(super) struct Entered(usize);

impl Entered {
    pub(super) fn into(registry: &Registry) -> Option<Self> {
        let id = registry.id();
        APPLYING.with_borrow_mut(|applying| {
            let is_new = !applying.contains(&id);
            is_new.then(|| {
                applying.push(id);
                Self(id)
            })
        })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        APPLYING.with_borrow_mut(|applying| applying.retain(|it| *it != self.0));
    }
}

/// The entries of all sections, those of stacks among them.
struct Wanted<'a> {
    config: &'a Config,
}

/// What is done with each section.
trait Visit {
    fn section<S: Section>(&mut self, entries: &Entries<S::Config>);
}

impl<'a> Wanted<'a> {
    fn of(config: &'a Config) -> Self {
        Self { config }
    }

    fn each(&self, visit: &mut impl Visit) {
        let config = self.config;
        let of_timeouts = |it: &StackConfig| {
            let limits = it.timeouts;
            (limits != TimeoutConfig::default()).then_some(limits)
        };
        visit.section::<CircuitBreakers>(
            &self.with(&config.circuit_breakers, |it| it.circuit_breaker.clone()),
        );
        visit.section::<ResourceLocks>(&self.with(&config.resource_locks, |it| it.lock.clone()));
        visit.section::<Retries>(&self.with(&config.retries, |it| it.retry.clone()));
        visit.section::<RateLimits>(&self.with(&config.rate_limits, |it| it.rate_limit.clone()));
        visit.section::<TimeoutsOf>(&self.with(&config.timeouts, of_timeouts));
        visit.section::<Hedges>(&self.with(&config.hedges, |it| it.hedge.clone()));
        visit.section::<Throttles>(&config.throttles);
        visit.section::<Drills>(&config.chaos);
    }

    fn with<C: Clone>(
        &self,
        entries: &Entries<C>,
        part: impl Fn(&StackConfig) -> Option<C>,
    ) -> Entries<C> {
        let mut entries = entries.clone();
        let parts = self.config.stacks.iter();
        entries.extend(parts.filter_map(|(name, stack)| Some((Arc::clone(name), part(stack)?))));
        entries
    }
}

struct Check<'a> {
    registry: &'a Registry,
    config: &'a Config,
    problems: &'a mut Vec<Problem>,
}

impl Visit for Check<'_> {
    fn section<S: Section>(&mut self, entries: &Entries<S::Config>) {
        for (name, config) in entries {
            let handle = S::get(self.registry, name);
            let can = handle.map_or(Ok(()), |it| S::can_update(&it, config));
            if let Err(error) = can {
                self.problems.push(problem::<S>(self.config, name, &error));
            }
        }
    }
}

fn problem<S: Section>(config: &Config, name: &Arc<str>, error: &impl fmt::Display) -> Problem {
    Problem {
        place: config.place(S::MANY, name),
        key: join(S::MANY, name),
        message: error.to_string(),
    }
}

type Undo<'a> = Box<dyn FnOnce() + 'a>;

struct Apply<'a> {
    registry: &'a Registry,
    config: &'a Config,
    entries: Vec<EntryChange>,
    undo: Vec<Undo<'a>>,
    failed: Option<Problem>,
}

impl Apply<'_> {
    fn entry<S: Section>(
        &mut self,
        name: &Arc<str>,
        config: S::Config,
    ) -> Result<Option<EntryChangeKind>, String> {
        let registry = self.registry;
        let Some(handle) = S::get(registry, name) else {
            let made = S::make(registry, name, config);
            drop(made.map_err(|error| error.to_string())?);
            let name = Arc::clone(name);
            self.undo.push(Box::new(move || {
                S::forget(registry, &name);
            }));
            return Ok(Some(EntryChangeKind::Created));
        };
        let before = S::config(&handle);
        if before == config {
            return Ok(None);
        }
        let change = S::update(&handle, config).map_err(|error| error.to_string())?;
        if change.is_empty() {
            return Ok(None);
        }
        self.undo.push(Box::new(move || {
            let _ = S::update(&handle, before);
        }));
        Ok(Some(EntryChangeKind::Updated(change)))
    }
}

impl Visit for Apply<'_> {
    fn section<S: Section>(&mut self, entries: &Entries<S::Config>) {
        for (name, config) in entries {
            if self.failed.is_some() {
                return;
            }
            match self.entry::<S>(name, config.clone()) {
                Ok(change) => self.entries.extend(change.map(|change| EntryChange {
                    kind: S::KIND,
                    name: Arc::clone(name),
                    change,
                })),
                Err(error) => self.failed = Some(problem::<S>(self.config, name, &error)),
            }
        }
    }
}

struct Forget<'a> {
    registry: &'a Registry,
    configured: &'a mut Configured,
    entries: &'a mut Vec<EntryChange>,
}

impl Visit for Forget<'_> {
    fn section<S: Section>(&mut self, entries: &Entries<S::Config>) {
        let registry = self.registry;
        let found = &mut *self.entries;
        for name in entries.keys() {
            self.configured
                .insert((S::PATTERN, Arc::clone(name)), Named::InConfig);
        }
        self.configured.retain(|(pattern, name), named| {
            if *pattern != S::PATTERN || entries.contains_key(name) {
                return true;
            }
            let forgotten = S::forget(registry, name);
            let is_there = !forgotten && S::get(registry, name).is_some();
            let before = std::mem::replace(named, Named::Before);
            let change = match (is_there, before) {
                (true, Named::InConfig) => EntryChangeKind::KeptInUse,
                (true, Named::Before) => return true, // It has been said.
                (false, _) => EntryChangeKind::Removed,
            };
            found.push(EntryChange {
                kind: S::KIND,
                name: Arc::clone(name),
                change,
            });
            is_there
        });
    }
}
