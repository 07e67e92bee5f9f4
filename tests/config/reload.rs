use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use tower_bulwark::config::WatchError;
use tower_bulwark::event::ConfigEvent;
use tower_bulwark::{CircuitState, Event, Registry};

/// A folder that is gone when the test is over.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("bulwark-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub(crate) fn file(&self, text: &str) -> PathBuf {
        let path = self.0.join("bulwark.toml");
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a registry tells of its config.
fn config_events(registry: &Registry) -> Receiver<ConfigEvent> {
    let (tell, told) = channel();
    registry.observe(move |_: &str, event: &Event| {
        if let Event::Config(event) = event {
            let _ = tell.send(event.clone());
        }
    });
    told
}

fn next(events: &Receiver<ConfigEvent>) -> ConfigEvent {
    let long = Duration::from_secs(20);
    events.recv_timeout(long).expect("the change was not seen")
}

/// As editors do it: a new file takes the place of the old.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

#[test]
fn a_change_is_applied_a_bad_file_is_an_event_and_changes_nothing_and_the_next_good_one_is_applied()
{
    let folder = Folder::new("watch");
    let path = folder.file("[circuit_breakers.api]\nmax_probes = 1\n");
    let registry = Registry::new();
    let config = registry.watch_config(&path).unwrap();
    let breaker = registry.circuit_breaker("api");
    let events = config_events(&registry);

    fs::write(&path, "[circuit_breakers.api]\nmax_probes = 2\n").unwrap();
    let applied = next(&events);
    assert!(
        matches!(applied, ConfigEvent::Applied { entries: 1, .. }),
        "{applied}"
    );
    assert_eq!(breaker.config().max_probes, 2);

    replace(
        &path,
        "[circuit_breakers.api]\nmax_probes = 0\nmax_prob = 3\n",
    );
    let refused = next(&events);
    assert!(
        matches!(refused, ConfigEvent::Refused { problems: 2, .. }),
        "{refused}"
    );
    assert!(
        refused.to_string().contains("bulwark.toml:2:1"),
        "{refused}"
    );
    assert_eq!(breaker.config().max_probes, 2);
    assert_eq!(config.current().circuit_breakers()["api"].max_probes, 2);

    fs::remove_file(&path).unwrap();
    let refused = next(&events);
    assert!(refused.to_string().contains("cannot be read"), "{refused}");

    replace(&path, "[circuit_breakers.api]\nmax_probes = 3\n");
    let applied = next(&events);
    assert!(matches!(applied, ConfigEvent::Applied { .. }), "{applied}");
    assert_eq!(breaker.config().max_probes, 3);
    assert_eq!(config.current().circuit_breakers()["api"].max_probes, 3);
}

#[cfg(unix)]
#[test]
fn a_volume_that_is_switched_by_a_link_is_seen() {
    use std::os::unix::fs::symlink;

    let folder = Folder::new("link");
    for (version, probes) in [("v1", 1), ("v2", 2)] {
        fs::create_dir(folder.0.join(version)).unwrap();
        let text = format!("[circuit_breakers.api]\nmax_probes = {probes}\n");
        fs::write(folder.0.join(version).join("bulwark.toml"), text).unwrap();
    }
    symlink("v1", folder.0.join("..data")).unwrap();
    let path = folder.0.join("bulwark.toml");
    symlink("..data/bulwark.toml", &path).unwrap();
    let registry = Registry::new();
    let _config = registry.watch_config(&path).unwrap();
    let events = config_events(&registry);
    symlink("v2", folder.0.join("..new")).unwrap();
    fs::rename(folder.0.join("..new"), folder.0.join("..data")).unwrap();
    next(&events);
    assert_eq!(registry.circuit_breaker("api").config().max_probes, 2);
}

#[test]
fn a_file_that_is_wrong_at_the_start_is_an_error_of_the_start() {
    let folder = Folder::new("start");
    let path = folder.file("[circuit_breakers.api]\nmax_probes = 0\n");
    let registry = Registry::new();
    let error = registry.watch_config(&path).unwrap_err();
    assert!(matches!(error, WatchError::Config(_)), "{error}");
    assert!(registry.circuit_breakers().is_empty());
    let missing = registry
        .watch_config(folder.0.join("none.toml"))
        .unwrap_err();
    assert!(missing.to_string().contains("cannot be read"), "{missing}");
}

#[test]
fn once_it_is_dropped_nothing_is_applied_any_more() {
    let folder = Folder::new("drop");
    let path = folder.file("[circuit_breakers.api]\nmax_probes = 1\n");
    let registry = Registry::new();
    let watcher = registry.watch_config(&path).unwrap();
    drop(watcher);
    let events = config_events(&registry);
    fs::write(&path, "[circuit_breakers.api]\nmax_probes = 2\n").unwrap();
    // A second registry that watches the same file has seen the change when it is told of it.
    let other = Registry::new();
    let others = config_events(&other);
    let _watcher = other.watch_config(&path).unwrap();
    next(&others);
    replace(&path, "[circuit_breakers.api]\nmax_probes = 3\n");
    next(&others);
    assert!(events.try_recv().is_err());
    assert_eq!(registry.circuit_breaker("api").config().max_probes, 1);
}

/// Two configs that differ in everything a reload can change.
fn version(n: u64) -> String {
    let (permits, window, max_wait) = match n % 2 {
        0 => (2, "calls = 50", "10s"),
        _ => (5, "time = \"10s\"", "20s"),
    };
    format!(
        r#"
        [circuit_breakers.api]
        failure_rate = 0.9
        window.{window}
        [resource_locks.db]
        max_concurrent = {permits}
        timeout = "{max_wait}"
        [retries.calls]
        max_retries = {permits}
        backoff = {{ fixed = {{ delay = "0s" }} }}
        [rate_limits.api]
        quotas = [{{ name = "calls", amount = {permits}000000, period = "1s" }}]
        max_wait = "{max_wait}"
        [throttles.api]
        k = {permits}.0
        window = "{max_wait}"
        "#
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_reloads_under_load_lose_no_permit_no_call_and_no_count() {
    let folder = Folder::new("load");
    let path = folder.file(&version(0));
    let registry = Registry::new();
    let config = registry.watch_config(&path).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (made, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (registry, stop) = (registry.clone(), Arc::clone(&stop));
            let (made, failed) = (Arc::clone(&made), Arc::clone(&failed));
            tokio::spawn(async move {
                let breaker = registry.circuit_breaker("api");
                let lock = registry.resource_lock("db");
                let retry = registry.retry("calls");
                let limit = registry.get_rate_limit("api").unwrap();
                let throttle = registry.throttle("api");
                while !stop.load(Ordering::Relaxed) {
                    let n = made.fetch_add(1, Ordering::Relaxed);
                    limit.acquire(1).await.unwrap();
                    throttle.try_acquire().unwrap().success();
                    let permit = lock.acquire("job").await.unwrap();
                    let mut attempt = 0;
                    retry
                        .run(|| {
                            attempt += 1;
                            let admitted = breaker.try_acquire().expect("never that many failures");
                            // One first attempt in ten fails.
                            let good = attempt > 1 || n % 10 != 0;
                            match good {
                                true => admitted.success(),
                                false => {
                                    failed.fetch_add(1, Ordering::Relaxed);
                                    admitted.failure();
                                }
                            }
                            async move { if good { Ok(()) } else { Err("down") } }
                        })
                        .await
                        .unwrap();
                    drop(permit);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    // Without blocking a worker of the runtime.
    let reloads = tokio::task::spawn_blocking(move || {
        for n in 1..=1_000 {
            replace(config.path(), &version(n));
            config.reload().unwrap();
        }
        config
    });
    let config = reloads.await.unwrap();
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    let made = made.load(Ordering::Relaxed);
    let failed = failed.load(Ordering::Relaxed);
    assert!(made > 1_000, "{made}");
    let lock = registry.resource_lock("db").snapshot();
    assert_eq!((lock.in_use, lock.waiting, lock.capacity), (0, 0, 2));
    assert_eq!(lock.stats.acquisitions, made);
    let breaker = registry.circuit_breaker("api").snapshot();
    assert_eq!(breaker.state, CircuitState::Closed);
    assert_eq!(
        (breaker.totals.successes, breaker.totals.failures),
        (made, failed)
    );
    let retry = registry.retry("calls").snapshot();
    assert_eq!(
        (retry.calls, retry.successes, retry.retries),
        (made, made, failed)
    );
    let throttle = registry.throttle("api").snapshot();
    assert_eq!(throttle.totals.accepted, made);
    let limit = registry.get_rate_limit("api").unwrap().snapshot();
    assert_eq!(limit.totals.passed + limit.totals.waited, made);
    assert_eq!(config.current().resource_locks()["db"].max_concurrent, 2);
}

/// What an observer may want: to see the config that it is told of, and to apply another.
#[test]
fn an_observer_of_a_change_sees_the_config_that_it_is_told_of_and_cannot_wait_for_itself() {
    let folder = Folder::new("observer");
    let path = folder.file("[resource_locks.db]\nmax_concurrent = 1\n");
    let registry = Registry::new();
    let watcher = Arc::new(registry.watch_config(&path).unwrap());
    let (tell, told) = channel();
    let (inner, weak) = (registry.clone(), Arc::downgrade(&watcher));
    registry.observe(move |name: &str, event: &Event| {
        let Some(watcher) = weak.upgrade() else {
            return;
        };
        let permits = watcher.current().resource_locks()["db"].max_concurrent;
        let again = inner.apply(&watcher.current()).is_err() && watcher.reload().is_err();
        let _ = tell.send((format!("{name} {}", event.kind()), permits, again));
    });
    fs::write(&path, "[resource_locks.db]\nmax_concurrent = 2\n").unwrap();
    let long = Duration::from_secs(20);
    let seen: Vec<_> = (0..2).map(|_| told.recv_timeout(long).unwrap()).collect();
    // The lock tells of its new capacity in the middle of the change; that all is changed is told after it.
    assert_eq!(seen[0], ("db capacity_changed".to_owned(), 1, true));
    assert_eq!(seen[1], ("config applied".to_owned(), 2, true));
    assert_eq!(registry.resource_lock("db").snapshot().capacity, 2);
}

/// Each way on which a file may become another one.
#[cfg(unix)]
#[test]
fn a_change_is_seen_behind_links_to_files_and_folders_and_in_a_folder_that_was_replaced() {
    use std::os::unix::fs::symlink;

    let text = |probes: u32| format!("[circuit_breakers.api]\nmax_probes = {probes}\n");
    let switch = |folder: &Folder, target: &str, link: &str| {
        symlink(target, folder.0.join("new")).unwrap();
        fs::rename(folder.0.join("new"), folder.0.join(link)).unwrap();
    };
    let setup = |name: &str| {
        let folder = Folder::new(name);
        for (version, probes) in [("v1", 1), ("v2", 2), ("mid", 9)] {
            fs::create_dir_all(folder.0.join(version)).unwrap();
            fs::write(folder.0.join(version).join("bulwark.toml"), text(probes)).unwrap();
        }
        folder
    };
    let watched = |path: PathBuf| {
        let registry = Registry::new();
        let watcher = registry.watch_config(path).unwrap();
        let events = config_events(&registry);
        (registry, watcher, events)
    };
    let probes = |registry: &Registry| registry.circuit_breaker("api").config().max_probes;

    // A link to a file in another folder, and then an edit where it leads now.
    let folder = setup("link-file");
    symlink("v1/bulwark.toml", folder.0.join("bulwark.toml")).unwrap();
    let (registry, _watcher, events) = watched(folder.0.join("bulwark.toml"));
    switch(&folder, "v2/bulwark.toml", "bulwark.toml");
    next(&events);
    assert_eq!(probes(&registry), 2);
    replace(&folder.0.join("v2/bulwark.toml"), &text(3));
    next(&events);
    assert_eq!(probes(&registry), 3);

    // The folder itself is a link.
    let folder = setup("link-folder");
    symlink("v1", folder.0.join("current")).unwrap();
    let (registry, _watcher, events) = watched(folder.0.join("current/bulwark.toml"));
    switch(&folder, "v2", "current");
    next(&events);
    assert_eq!(probes(&registry), 2);

    // A link to a link, of which the second is switched.
    let folder = setup("link-chain");
    fs::remove_file(folder.0.join("mid/bulwark.toml")).unwrap();
    symlink("../v1/bulwark.toml", folder.0.join("mid/bulwark.toml")).unwrap();
    symlink("mid/bulwark.toml", folder.0.join("bulwark.toml")).unwrap();
    let (registry, _watcher, events) = watched(folder.0.join("bulwark.toml"));
    switch(&folder, "../v2/bulwark.toml", "mid/bulwark.toml");
    next(&events);
    assert_eq!(probes(&registry), 2);
}
