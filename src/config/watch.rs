//! A file that is applied again when it changes.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::apply::{Applied, Entered};
use super::document::Config;
use super::error::ConfigErrors;
use crate::registry::Registry;
use crate::util::time;

/// A file is looked at when it has been quiet for so long: an editor writes it in several steps.
const QUIET: Duration = Duration::from_millis(100);
/// And after so long at the latest.
const LONGEST: Duration = Duration::from_secs(1);
/// No more links are followed on the way to a file.
const MOST_LINKS: u32 = 32;

/// Applies a file to a registry each time the file changes, until it is dropped.
///
/// A file that is wrong changes nothing: what was applied before goes on, and the refusal is an
/// [event](crate::event::ConfigEvent::Refused) of the registry. So is each change that was applied.
///
/// ```no_run
/// use tower_bulwark::Registry;
///
/// let config = Registry::global().watch_config("bulwark.toml")?;
/// let openai = config.current().stack("openai")?.build_in(Registry::global())?;
/// # drop(openai);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the file is no longer watched once this is dropped"]
pub struct ConfigWatcher {
    shared: Arc<Shared>,
}

struct Shared {
    registry: Registry,
    path: PathBuf,
    /// What was applied last.
    current: ArcSwap<Config>,
    /// What stood in the file when it was last looked at, right or wrong; `None` if it could not be read. Held while the file
    /// is read and applied.
    text: Mutex<Option<String>>,
    watching: Mutex<Watching>,
}

#[derive(Default)]
struct Watching {
    /// Its end ends the thread.
    watcher: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
}

/// Why a file cannot be watched.
#[derive(Debug)]
#[non_exhaustive]
pub enum WatchError {
    /// It cannot be applied.
    Config(ConfigErrors),
    /// The system does not tell of its changes.
    #[non_exhaustive]
    Watch {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl fmt::Display for WatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(errors) => errors.fmt(f),
            Self::Watch { path, reason } => write!(
                f,
                "{} cannot be watched: {reason}; apply it by `Registry::apply` and call that again for each change",
                path.display()
            ),
        }
    }
}

impl std::error::Error for WatchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config(errors) => Some(errors),
            Self::Watch { reason, .. } => Some(&**reason),
        }
    }
}

impl From<ConfigErrors> for WatchError {
    fn from(errors: ConfigErrors) -> Self {
        Self::Config(errors)
    }
}

impl Registry {
    /// Applies a file, as [`apply`](Self::apply) does, and applies it again each time it changes. A change is seen when the
    /// file has been quiet for 100 ms, or after a second. One thread waits for changes; it reads the file, and computes
    /// nothing while there are none.
    ///
    /// The folder of the file is watched, and those of the links on the way to it: an editor that replaces the file is seen, and
    /// so is a volume of Kubernetes that is switched by a link. A file that is written for longer than a second may be seen
    /// half, and half a file may be right by itself: replace it as a whole. Where the system tells of no changes (some network file
    /// systems), [`reload`](ConfigWatcher::reload) is the way.
    ///
    /// # Errors
    ///
    /// [`WatchError::Config`] if the file cannot be read or applied now, [`WatchError::Watch`] if it cannot be watched. In
    /// the latter case it has been applied.
    pub fn watch_config(&self, path: impl Into<PathBuf>) -> Result<ConfigWatcher, WatchError> {
        let path = path.into();
        let text = std::fs::read_to_string(&path)
            .map_err(|error| ConfigErrors::unreadable(&path, &error))?;
        let config = Config::from_text(&path, &text)?;
        self.apply(&config)?;
        let shared = Arc::new(Shared {
            registry: self.clone(),
            path,
            current: ArcSwap::from_pointee(config),
            text: Mutex::new(Some(text)),
            watching: Mutex::default(),
        });
        let begun = shared.watch();
        let watcher = ConfigWatcher { shared };
        begun.map_err(|reason| WatchError::Watch {
            path: watcher.path().to_owned(),
            reason,
        })?;
        // What was written before it was watched.
        watcher.shared.look();
        Ok(watcher)
    }
}

impl ConfigWatcher {
    /// Reads the file and applies it now, whether it has changed or not.
    ///
    /// # Errors
    ///
    /// [`ConfigErrors`] if it cannot be read or applied: then what was applied before goes on. So it does if this is called
    /// by an observer, out of the middle of another change.
    pub fn reload(&self) -> Result<Applied, ConfigErrors> {
        self.shared.reload(true)
    }

    /// What was applied last.
    #[must_use]
    pub fn current(&self) -> Arc<Config> {
        self.shared.current.load_full()
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }
}

impl Shared {
    fn watching(&self) -> MutexGuard<'_, Watching> {
        self.watching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(self: &Arc<Self>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let (changes, changed) = channel();
        let mut watcher = notify::recommended_watcher(move |event| tell(&changes, event))?;
        let folders = folders(&self.path);
        for folder in &folders {
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
        }
        *self.watching() = Watching {
            watcher: Some(watcher),
            folders,
        };
        let shared = Arc::clone(self);
        thread::Builder::new()
            .name("bulwark-config".to_owned())
            .spawn(move || shared.wait(&changed))?;
        Ok(())
    }

    /// Watches the folders that the file is in now: a link may lead elsewhere, and a folder may be another one of its name. One
    /// that cannot be watched is tried again with the next change.
    fn follow(&self) {
        let folders = folders(&self.path);
        let mut watching = self.watching();
        let Watching {
            watcher: Some(watcher),
            folders: before,
        } = &mut *watching
        else {
            return;
        };
        for folder in before.iter() {
            let _ = watcher.unwatch(folder);
        }
        for folder in &folders {
            let _ = watcher.watch(folder, RecursiveMode::NonRecursive);
        }
        *before = folders;
    }

    /// Looks at the file after each change, until there are no more.
    fn wait(&self, changed: &Receiver<()>) {
        while changed.recv().is_ok() {
            let latest = time::now().after(LONGEST);
            loop {
                match changed.recv_timeout(QUIET) {
                    Ok(()) if time::now() < latest => {}
                    Ok(()) | Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            self.follow();
            self.look();
        }
    }

    /// Applies the file if it is another one. The registry tells what comes of it.
    fn look(&self) {
        let _ = self.reload(false);
    }

    /// Applies the file; if not `always`, then only if it is another one.
    fn reload(&self, always: bool) -> Result<Applied, ConfigErrors> {
        let Some(_entered) = Entered::into(&self.registry) else {
            return Err(ConfigErrors::entered_twice());
        };
        let mut known = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        let read = std::fs::read_to_string(&self.path);
        if !always && read.as_ref().ok() == known.as_ref() {
            return Ok(Applied::default());
        }
        known.clone_from(&read.as_ref().ok().cloned());
        let applied = read
            .map_err(|error| ConfigErrors::unreadable(&self.path, &error))
            .and_then(|text| Config::from_text(&self.path, &text))
            .and_then(|config| {
                let applied = self.registry.apply_quietly(&config)?;
                self.current.store(Arc::new(config));
                Ok(applied)
            });
        drop(known);
        self.registry.tell(&applied);
        applied
    }
}

/// The folders in which something may change what the file is: that of the file, and those of each link on the way to it.
fn folders(path: &Path) -> BTreeSet<PathBuf> {
    fn parent(path: &Path) -> PathBuf {
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        }
    }
    let mut found = BTreeSet::from([parent(path)]);
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let is_link = |it: &&Path| std::fs::symlink_metadata(it).is_ok_and(|it| it.is_symlink());
        let Some(link) = path.ancestors().find(is_link).map(Path::to_owned) else {
            break;
        };
        let Ok(target) = std::fs::read_link(&link) else {
            break;
        };
        found.insert(parent(&link));
        let rest = path.strip_prefix(&link).unwrap_or_else(|_| Path::new(""));
        let next = parent(&link).join(target);
        // Joining nothing would add a slash.
        path = match rest.as_os_str().is_empty() {
            true => next,
            false => next.join(rest),
        };
        found.insert(parent(&path));
    }
    found
}

impl Drop for ConfigWatcher {
    fn drop(&mut self) {
        // The end of the watcher is the end of the channel, and so of the thread.
        drop(self.shared.watching().watcher.take());
    }
}

/// Something has changed in the folder. That the file was read is no change: this crate reads it too.
fn tell(changes: &Sender<()>, event: notify::Result<notify::Event>) {
    let is_read = event.is_ok_and(|it| matches!(it.kind, EventKind::Access(_)));
    if !is_read {
        // Nobody waits any more once the end has begun.
        let _ = changes.send(());
    }
}

impl fmt::Debug for ConfigWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigWatcher")
            .field("path", &self.shared.path)
            .finish_non_exhaustive()
    }
}
