use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::core::{HIGHEST, Pace};
use super::handle::FleetRateLimit;
use super::pool::Leasing;
use super::shared::{Named, Parts, Shared, share};
use super::store::{Limit, RateStore};
use crate::error::ConfigError;
use crate::event::{Funnel, Observer};
use crate::fleet::Fleet;
use crate::fleet::names::Names;
use crate::fleet::reporter::Reporter;
use crate::rate_limit::{Quota, RateLimit};

/// Sets up a [`FleetRateLimit`]. Nothing is checked before [`build`](Self::build).
#[must_use = "nothing is made before `build`"]
pub struct FleetRateLimitBuilder {
    store: Arc<dyn RateStore>,
    names: Names,
    name: Arc<str>,
    quotas: Vec<(Arc<str>, Quota)>,
    observers: Vec<Arc<dyn Observer>>,
    reporter: Arc<Reporter>,
    leases: Option<bool>,
    max_wait: Duration,
    max_pause: Duration,
    expected_nodes: u64,
    store_timeout: Duration,
}

impl Fleet {
    /// A rate limit that all processes of the fleet share by its name; see [`FleetRateLimitBuilder`].
    ///
    /// Give it the same quotas in every process. While they differ, as during a deploy, each process goes by its own, on
    /// the same count: no more passes at once than the largest allows. Who waits for a turn by a smaller one passes besides.
    /// After a change to a smaller quota its processes may be refused until what was counted by the larger one is earned: for as long as
    /// that took to be full.
    pub fn rate_limit(&self, name: impl Into<Arc<str>>) -> FleetRateLimitBuilder {
        let names = self.shared.names.clone();
        let store: Arc<dyn RateStore> = self.shared.clone();
        let reporter = Arc::clone(&self.shared.reporter);
        FleetRateLimitBuilder::new(name.into(), store, names, reporter)
    }
}

impl FleetRateLimitBuilder {
    pub(super) fn new(
        name: Arc<str>,
        store: Arc<dyn RateStore>,
        names: Names,
        reporter: Arc<Reporter>,
    ) -> Self {
        Self {
            observers: vec![reporter.observer()],
            reporter,
            store,
            names,
            name,
            quotas: Vec::new(),
            leases: None,
            max_wait: Duration::from_secs(30),
            max_pause: Duration::from_secs(60),
            expected_nodes: 10,
            store_timeout: Duration::from_millis(100),
        }
    }

    /// Adds a quota, up to four. A call takes from all quotas, or from none.
    pub fn quota(mut self, name: impl Into<Arc<str>>, quota: Quota) -> Self {
        self.quotas.push((name.into(), quota));
        self
    }

    /// Every call asks the store: one command each, no call more than the quota allows, and first come, first served in
    /// the whole fleet. Of a process 128 ask at once, and the others after them. Default for what is below 100 a second.
    pub fn exact(mut self) -> Self {
        self.leases = Some(false);
        self
    }

    /// This process takes tokens in batches and spends them without asking. Default where each quota is of 100 a second or
    /// more, and its burst lasts 80 ms or longer at that rate.
    ///
    /// A batch is at most what the whole quota earns in half a lease, and at most the share of one process of the burst.
    /// A lease is 100 ms, or a quarter of the time in which the burst is earned if that is shorter. What is not spent by
    /// then is lost. What is earned in one lease is kept back of the burst, so that in no stretch of time does more pass
    /// than the burst and what that time earns. A burst of one cannot be leased, nor one
    /// that is earned in less than 80 ms.
    ///
    /// If some processes are `exact` and others lease, what is kept back may pass besides: at most a quarter of the burst.
    pub fn leased(mut self) -> Self {
        self.leases = Some(true);
        self
    }

    /// How long a call may wait for its turn. Default: 30 s. One that would wait longer is refused at once if that is known.
    /// Zero: nobody waits.
    pub fn max_wait(mut self, longest: Duration) -> Self {
        self.max_wait = longest;
        self
    }

    /// The longest [pause](FleetRateLimit::pause) that a service can ask of this process. Default: 60 s, as for a local limit:
    /// a service that is not well must not stop its callers for a day.
    pub fn max_pause(mut self, longest: Duration) -> Self {
        self.max_pause = longest;
        self
    }

    /// How many processes there are, as far as this one can know when it begins. Until it has heard for 15 s how many there
    /// are, its share is of no fewer than that: in a deploy, the first would believe that they are alone. Default: 10: a
    /// guess that is too high lets too little pass in an outage that begins in that time, one that is too low would let too
    /// much.
    pub fn expected_nodes(mut self, nodes: u32) -> Self {
        self.expected_nodes = u64::from(nodes.max(1));
        self
    }

    /// How long the store may take to answer a question. Then it counts as away, and this process goes by its share. Default:
    /// 100 ms, hundreds of times what a store nearby takes. A call may ask a few times, if others take what it was answered for.
    pub fn store_timeout(mut self, longest: Duration) -> Self {
        self.store_timeout = longest;
        self
    }

    /// Receives the events of this limit: those of a local one.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Makes the handle, and starts the task that tells the store about this process every 5 s, until the last clone of
    /// the handle is gone. If the runtime ends before, the next call that asks the store starts it anew, on that of the caller.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a setting that cannot work, and outside a tokio runtime.
    pub fn build(self) -> Result<FleetRateLimit, ConfigError> {
        Handle::try_current().map_err(|_| {
            let advice = "a shared limit has a task: build it inside a tokio runtime";
            ConfigError::new("runtime", "none", advice)
        })?;
        if self.store_timeout.is_zero() {
            let advice = "no store answers in no time: give at least some milliseconds";
            return Err(ConfigError::new(
                "store_timeout",
                self.store_timeout,
                advice,
            ));
        }
        let local = self.local()?;
        let paces = self.quotas.iter().map(|(_, quota)| pace(*quota));
        let paces = paces.collect::<Result<Vec<_>, _>>()?;
        let leasing = Leasing::of(&paces);
        let leases = self.leases.unwrap_or_else(|| leasing.is_worth_it(&paces));
        if leases && !leasing.can_work(&paces) {
            let advice = "a lease would be over before it has come: use `exact`, or give a burst that lasts 80 ms and is above 1";
            let least = paces.iter().map(|it| it.burst).min();
            return Err(ConfigError::new("burst", least.unwrap_or_default(), advice));
        }
        let leasing = leases.then_some(leasing);
        let kept_back = |pace: &Pace| leasing.map_or(*pace, |it| it.kept_back(*pace));
        let quotas = self.quotas.iter().map(|(name, _)| &**name);
        let parts = Parts {
            limit: Limit::new(&self.names, &self.name, quotas, self.store_timeout),
            paces: paces.iter().map(kept_back).collect(),
            leasing,
            max_wait: self.max_wait,
            max_pause: self.max_pause.min(LONGEST_PAUSE),
            store: self.store,
            expected_nodes: self.expected_nodes,
            reporter: Arc::clone(&self.reporter),
            quotas: self
                .quotas
                .into_iter()
                .map(|(name, quota)| Named::new(name, quota))
                .collect(),
        };
        let funnel = Funnel::new(Arc::from(&*self.name), self.observers);
        let shared = Arc::new(Shared::new(parts, funnel, local));
        self.reporter.parts.add(&shared);
        shared.keep_beating();
        Ok(FleetRateLimit { shared })
    }

    /// The share of this process. Building it checks the quotas.
    fn local(&self) -> Result<RateLimit, ConfigError> {
        let mut checked = RateLimit::builder(Arc::clone(&self.name));
        let mut local = RateLimit::builder(Arc::clone(&self.name)).max_wait(self.max_wait);
        // A pause of another process may be longer than one that this process may ask for.
        local = local.max_pause(LONGEST_PAUSE);
        for (name, quota) in &self.quotas {
            checked = checked.quota(Arc::clone(name), *quota);
            local = local.quota(Arc::clone(name), share(*quota, self.expected_nodes));
        }
        checked.checked_config()?;
        for observer in &self.observers {
            local = local.observer(Told(Arc::clone(observer)));
        }
        local.build()
    }
}

/// What is counted stays exact.
const LONGEST_PAUSE: Duration = Duration::from_secs(86_400 * 365);

/// An observer of both.
struct Told(Arc<dyn Observer>);

impl Observer for Told {
    fn observe(&self, name: &str, event: &crate::event::Event) {
        self.0.observe(name, event);
    }
}

/// In microseconds, and in the smallest numbers that say the same.
pub(super) fn pace(quota: Quota) -> Result<Pace, ConfigError> {
    let cannot = |advice| Err(ConfigError::new("period", quota.period, advice));
    let Ok(period) = u64::try_from(quota.period.as_nanos().div_ceil(1_000)) else {
        return cannot("the store counts microseconds: give a shorter period");
    };
    let common = common_divisor(quota.amount, period);
    let pace = Pace {
        amount: quota.amount / common,
        period: period / common,
        burst: quota.burst,
    };
    if !pace.is_exact() || pace.amount > HIGHEST {
        return cannot(
            "burst and period are too large to count exactly: give a shorter period, a smaller burst, or an amount that divides the period",
        );
    }
    Ok(pace)
}

fn common_divisor(a: u64, b: u64) -> u64 {
    match b {
        0 => a.max(1),
        _ => common_divisor(b, a % b),
    }
}

impl fmt::Debug for FleetRateLimitBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetRateLimitBuilder")
            .field("name", &self.name)
            .field("quotas", &self.quotas)
            .finish_non_exhaustive()
    }
}
