//! What the clones of a handle share.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::config::ChaosConfig;
use super::snapshot::{ChaosSnapshot, ChaosTotals};
use super::state::{Plan, Then};
use crate::error::{ConfigChange, ConfigError};
use crate::event::{ChaosEvent, ChaosFault, Event, Funnel, Observer};
use crate::util::time::{self, Tick};

pub(super) struct Shared {
    funnel: Funnel,
    pub(super) config: ArcSwap<ChaosConfig>,
    seed: u64,
    /// Until when it is armed: 0 while it is not.
    armed_until: AtomicU64,
    calls: AtomicU64,
    injected: Counts,
}

#[derive(Default)]
struct Counts {
    latency: AtomicU64,
    error: AtomicU64,
    hang: AtomicU64,
    panic: AtomicU64,
    cut_body: AtomicU64,
}

impl Counts {
    fn of(&self, fault: ChaosFault) -> &AtomicU64 {
        match fault {
            ChaosFault::Latency => &self.latency,
            ChaosFault::Error => &self.error,
            ChaosFault::Hang => &self.hang,
            ChaosFault::Panic => &self.panic,
            ChaosFault::CutBody => &self.cut_body,
        }
    }

    fn totals(&self) -> ChaosTotals {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ChaosTotals {
            latency: of(&self.latency),
            error: of(&self.error),
            hang: of(&self.hang),
            panic: of(&self.panic),
            cut_body: of(&self.cut_body),
        }
    }
}

impl Shared {
    /// The config has been checked.
    pub(super) fn new(
        name: Arc<str>,
        config: ChaosConfig,
        seed: u64,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Self {
        Self {
            funnel: Funnel::new(name, observers),
            config: ArcSwap::from_pointee(config),
            seed,
            armed_until: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            injected: Counts::default(),
        }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        self.funnel.name()
    }

    pub(super) fn arm_for(&self, length: Duration) {
        let until = time::now().after(length);
        self.armed_until.store(until.0, Ordering::Relaxed);
        let armed = ChaosEvent::Armed { length };
        self.funnel.publish(&Event::Chaos(armed));
    }

    pub(super) fn disarm(&self) {
        if self.armed_until.swap(0, Ordering::Relaxed) != 0 {
            self.funnel.publish(&Event::Chaos(ChaosEvent::Disarmed));
        }
    }

    #[inline]
    pub(super) fn is_armed(&self) -> bool {
        match self.armed_until.load(Ordering::Relaxed) {
            0 => false,
            until => self.is_in_time(Tick(until)),
        }
    }

    #[cold]
    fn is_in_time(&self, until: Tick) -> bool {
        if time::now() < until {
            return true;
        }
        // Its time is over. Whoever sees that first says so.
        let ended =
            self.armed_until
                .compare_exchange(until.0, 0, Ordering::Relaxed, Ordering::Relaxed);
        if ended.is_ok() {
            self.funnel.publish(&Event::Chaos(ChaosEvent::Disarmed));
        }
        false
    }

    /// What happens to the call that begins. `None`: it is made as it is.
    #[inline]
    pub(super) fn plan(&self) -> Option<Plan> {
        match self.is_armed() {
            false => None,
            true => Some(self.draw()),
        }
    }

    #[cold]
    fn draw(&self) -> Plan {
        let n = self.calls.fetch_add(1, Ordering::Relaxed);
        let plan = self.config.load().plan(self.seed, n);
        if plan.late_by.is_some() {
            self.injects(ChaosFault::Latency, n);
        }
        match plan.then {
            Then::Call => {}
            Then::Error => self.injects(ChaosFault::Error, n),
            Then::Hang => self.injects(ChaosFault::Hang, n),
            Then::Panic => self.injects(ChaosFault::Panic, n),
        }
        plan
    }

    /// Counts and tells a fault.
    pub(super) fn injects(&self, fault: ChaosFault, call: u64) {
        self.injected.of(fault).fetch_add(1, Ordering::Relaxed);
        let event = || Event::Chaos(ChaosEvent::Injected { fault, call });
        let total = || self.injected.totals().sum();
        self.funnel.refused(time::now(), total, event);
    }

    pub(super) fn update(&self, new: ChaosConfig) -> Result<ConfigChange, ConfigError> {
        new.check()?;
        let new = Arc::new(new);
        let old = self.config.swap(Arc::clone(&new));
        Ok(old.difference(&new))
    }

    pub(super) fn snapshot(&self) -> ChaosSnapshot {
        ChaosSnapshot {
            name: Arc::clone(self.name()),
            armed: self.is_armed(),
            calls: self.calls.load(Ordering::Relaxed),
            injected: self.injected.totals(),
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name().fmt(f)
    }
}
