use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::call::Holder;

/// Why a resource could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ContendedReason {
    /// No permit was free, and the caller did not want to wait.
    Busy,
    /// No permit became free in the time the caller was ready to wait.
    TimedOut,
    /// No permit became free before the ambient deadline of the request.
    DeadlineExceeded,
    /// As many callers as `max_waiting` allows were waiting already.
    QueueFull,
    /// The holder waits, directly or through others, for itself: no release could ever end the wait.
    /// The steps lead from the refused caller round to it. One step: it holds this very resource.
    Deadlock(Vec<CycleStep>),
}

/// One step of a deadlock: `holder` waits for `waits_for`, which is held by the next step's holder.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CycleStep {
    /// Who waits.
    pub holder: Holder,
    /// The resource it waits for.
    pub waits_for: Arc<str>,
}

impl CycleStep {
    pub(crate) fn new(holder: Holder, waits_for: Arc<str>) -> Self {
        Self { holder, waits_for }
    }
}

/// Somebody who has a permit of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HolderInfo {
    /// Who it is.
    pub holder: Holder,
    /// For how long it has had the permit.
    pub held_for: Duration,
    /// `false` while the permit was handed to a waiter that has not run since. A waiter that stays
    /// here is a future that nobody polls: it starves everybody behind it.
    pub claimed: bool,
}

impl HolderInfo {
    /// How many are named in a refusal or an event; a snapshot names all.
    pub(crate) const MOST_NAMED: usize = 16;

    pub(crate) fn new(holder: Holder, held_for: Duration, claimed: bool) -> Self {
        Self {
            holder,
            held_for,
            claimed,
        }
    }
}

/// What follows the names of the first three of `named` holders.
pub(crate) fn write_more(f: &mut fmt::Formatter<'_>, named: usize) -> fmt::Result {
    match named {
        0..=3 => Ok(()),
        HolderInfo::MOST_NAMED.. => write!(f, " and at least {} more", named - 3),
        _ => write!(f, " and {} more", named - 3),
    }
}

impl fmt::Display for HolderInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:.3?}", self.holder, self.held_for)?;
        if !self.claimed {
            f.write_str(" (not polled since it was granted)")?;
        }
        Ok(())
    }
}

/// What was seen when a resource could not be had.
#[derive(Debug)]
pub(crate) struct ContentionFacts {
    pub(crate) resource: Arc<str>,
    pub(crate) holder: Holder,
    pub(crate) reason: ContendedReason,
    pub(crate) waited: Duration,
    pub(crate) holders: Vec<HolderInfo>,
    pub(crate) queue_length: usize,
    pub(crate) capacity: usize,
    pub(crate) mean_hold: Option<Duration>,
}

/// A resource was busy; the service behind it was not called. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Contended(Arc<ContentionFacts>);

impl Contended {
    pub(crate) fn new(facts: ContentionFacts) -> Self {
        Self(Arc::new(facts))
    }

    /// The name of the resource.
    #[must_use]
    pub fn resource(&self) -> &str {
        &self.0.resource
    }

    /// Who asked for it.
    #[must_use]
    pub fn holder(&self) -> &Holder {
        &self.0.holder
    }

    /// Why it could not be had.
    #[must_use]
    pub fn reason(&self) -> &ContendedReason {
        &self.0.reason
    }

    /// How long the caller had waited.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.0.waited
    }

    /// Who had the permits at that moment, the longest holder first, and no more than 16 of them: a
    /// refusal has to be cheap. A snapshot of the lock has them all.
    #[must_use]
    pub fn holders(&self) -> &[HolderInfo] {
        &self.0.holders
    }

    /// How many others were waiting at that moment.
    #[must_use]
    pub fn queue_length(&self) -> usize {
        self.0.queue_length
    }

    /// How many permits the resource had at that moment.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.0.capacity
    }

    /// How long somebody who asked now would have waited, as far as the lock can tell: the mean time that permits
    /// were held so far, once for each of those who wait and once more, divided among the permits.
    ///
    /// An estimate, for callers to whom any time is better than none. `None` before the first permit has come
    /// back, and after a deadlock.
    #[must_use]
    pub fn expected_wait(&self) -> Option<Duration> {
        if self.is_deadlock() {
            return None;
        }
        let turns = u32::try_from(self.0.queue_length)
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        let permits = u32::try_from(self.0.capacity).unwrap_or(u32::MAX).max(1);
        self.0
            .mean_hold
            .map(|hold| hold.saturating_mul(turns) / permits)
    }

    /// Whether waiting could never have ended.
    #[must_use]
    pub fn is_deadlock(&self) -> bool {
        matches!(self.0.reason, ContendedReason::Deadlock(_))
    }
}

impl fmt::Display for Contended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ContentionFacts {
            resource,
            holder,
            waited,
            queue_length,
            ..
        } = &*self.0;
        write!(f, "`{holder}` could not get resource `{resource}`: ")?;
        let why: Cow<'static, str> = match &self.0.reason {
            ContendedReason::Busy => "it is busy".into(),
            ContendedReason::TimedOut => format!("still busy after {waited:.3?}").into(),
            ContendedReason::DeadlineExceeded => {
                format!("the deadline came after {waited:.3?} of waiting").into()
            }
            ContendedReason::QueueFull => format!("{queue_length} are waiting already").into(),
            ContendedReason::Deadlock(cycle) => {
                f.write_str("deadlock: ")?;
                for (i, step) in cycle.iter().enumerate() {
                    let then = if i == 0 { "" } else { ", held by " };
                    write!(
                        f,
                        "{then}`{}` which waits for `{}`",
                        step.holder, step.waits_for
                    )?;
                }
                return write!(f, ", held by `{holder}`");
            }
        };
        f.write_str(&why)?;
        for (i, info) in self.0.holders.iter().take(3).enumerate() {
            let then = if i == 0 { ", held by" } else { "," };
            write!(f, "{then} {info}")?;
        }
        write_more(f, self.0.holders.len())
    }
}

impl StdError for Contended {}
