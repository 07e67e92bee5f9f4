use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::request::Parts;

use super::authorize::{Authorize, AuthorizeWith, Denied, Operator};
use super::command::Command;
use super::groups::Named;
use super::hub::{self, Hub};
use super::router::router;
use super::shown::Shown;
use crate::error::ConfigError;
use crate::keyed::{Instance, Keyed};
use crate::registry::Registry;

/// One page over a registry. A cheap clone of shared state.
///
/// See [the module](super) for what it shows.
#[derive(Clone)]
pub struct Dashboard {
    hub: Arc<Hub>,
}

/// Makes a [`Dashboard`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct DashboardBuilder {
    parts: hub::Parts,
}

impl Dashboard {
    /// A dashboard of everything that is in `registry`, now or later, without commands.
    pub fn builder(registry: &Registry) -> DashboardBuilder {
        DashboardBuilder {
            parts: hub::Parts {
                registry: registry.clone(),
                title: "tower-bulwark".into(),
                groups: Vec::new(),
                rows: 50,
                readers: 32,
                interval: Duration::from_millis(250),
                authorize: None,
            },
        }
    }

    /// The routes: nest them at any path, `Router::new().nest_service("/ops", dashboard.router())`, or serve them as they
    /// are. (`nest` works too, but then axum answers one of `/ops` and `/ops/` with `404`.) Whoever reaches them may read; put
    /// a layer around them that knows who may.
    pub fn router(&self) -> Router {
        router(Arc::clone(&self.hub))
    }

    /// Ends the streams of all readers, and of whoever comes later. A graceful shutdown of the server waits for responses
    /// to end, and these last for an hour: call it when the shutdown begins.
    pub fn close(&self) {
        self.hub.closed.send_replace(true);
    }
}

impl fmt::Debug for Dashboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dashboard")
            .field("title", &self.hub.title)
            .field("registry", &self.hub.registry)
            .finish_non_exhaustive()
    }
}

impl DashboardBuilder {
    /// What stands on top of the page: the name of the service, say. Default: `tower-bulwark`.
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.parts.title = title.into();
        self
    }

    /// Shows the worst of a group of keyed handles, too, under this name.
    ///
    /// All keys are looked at, on a thread for what blocks, and afterwards there is a pause of nine times as long: a million
    /// keys take about a second, and at most a tenth of one core. The memory that it takes grows with
    /// [`rows`](Self::rows), not with the number of keys. The keys are shown as their `Display` has it.
    pub fn keyed<K, T>(mut self, name: impl Into<String>, keyed: &Keyed<K, T>) -> Self
    where
        K: Hash + Eq + Clone + fmt::Display + Send + Sync + 'static,
        T: Instance + Shown,
    {
        let named = Named::new(name.into(), keyed.clone());
        self.parts.groups.push(Arc::new(named));
        self
    }

    /// Takes commands, if this closure allows them: it is asked for each, and says who gave it. Default: there are no
    /// commands, and no route for them.
    ///
    /// It sees the head of the request. Decide by something that only a person who may command has: a session, a token, a
    /// header that a proxy sets once somebody has logged in. Requests of other sites never come here. But who reaches the
    /// port without a browser can send anything, and a site whose name is made to resolve to this address (DNS rebinding) is an
    /// origin of its own: that somebody is on this machine, or in this network, is no reason to allow a command.
    ///
    /// ```
    /// use http::request::Parts;
    /// use tower_bulwark::Registry;
    /// use tower_bulwark::dashboard::{Command, Dashboard, Denied, Operator};
    ///
    /// let dashboard = Dashboard::builder(Registry::global())
    ///     .commands(|request: &Parts, _: &Command| {
    ///         let user = request.headers.get("x-authenticated-user");
    ///         match user.and_then(|it| it.to_str().ok()) {
    ///             Some(user) => Ok(Operator::new(user)),
    ///             None => Err(Denied::because("log in first")),
    ///         }
    ///     })
    ///     .build()?;
    /// # Ok::<(), tower_bulwark::ConfigError>(())
    /// ```
    pub fn commands<F>(self, hook: F) -> Self
    where
        F: Fn(&Parts, &Command) -> Result<Operator, Denied> + Send + Sync + 'static,
    {
        self.commands_by(AuthorizeWith(hook))
    }

    /// The same, for a decision that has to wait for something.
    pub fn commands_by(mut self, authorize: impl Authorize) -> Self {
        self.parts.authorize = Some(Box::new(authorize));
        self
    }

    /// How many rows a table has at most: the worst of them; the page says how many more there are. Default: 50, more than
    /// anybody reads.
    pub fn rows(mut self, most: usize) -> Self {
        self.parts.rows = most;
        self
    }

    /// How many may read at once; more are refused with `503`, unless one of the others has taken nothing for half a
    /// minute. Each has one connection, and a state of some ten to hundred kilobytes on its way. Default: 32.
    pub fn readers(mut self, most: usize) -> Self {
        self.parts.readers = most;
        self
    }

    /// How long a state is shown before the next is made, for all readers together, and only while there are any.
    /// Default: 250 ms, which looks live.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.parts.interval = interval;
        self
    }

    /// Makes it.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for no rows, no readers, an interval below 10 ms or above a minute, and for two groups of one name
    /// and pattern.
    pub fn build(self) -> Result<Dashboard, ConfigError> {
        let parts = self.parts;
        for (setting, most) in [("rows", parts.rows), ("readers", parts.readers)] {
            if most == 0 {
                let advice = "nobody would see anything: give a number above zero";
                return Err(ConfigError::new(setting, most, advice));
            }
        }
        let sensible = Duration::from_millis(10)..=Duration::from_secs(60);
        if !sensible.contains(&parts.interval) {
            let advice =
                "give a time from 10 ms, which costs much, to a minute, which shows little";
            return Err(ConfigError::new("interval", parts.interval, advice));
        }
        for (at, group) in parts.groups.iter().enumerate() {
            let same = |it: &&Arc<Named>| {
                it.name == group.name && it.group.pattern() == group.group.pattern()
            };
            if parts.groups[..at].iter().any(|it| same(&it)) {
                let advice = "a command could not tell them apart: give each a name of its own";
                return Err(ConfigError::new("keyed", &group.name, advice));
            }
        }
        Ok(Dashboard {
            hub: Arc::new(Hub::new(parts)),
        })
    }
}

impl fmt::Debug for DashboardBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DashboardBuilder")
            .field("title", &self.parts.title)
            .finish_non_exhaustive()
    }
}
