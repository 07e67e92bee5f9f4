use std::error::Error as StdError;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::call::Holder;

/// Why there was no permit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ContendedReason {
    /// No permit was free, and the caller did not want to wait.
    Busy,
    /// No permit became free in the time the caller was ready to wait.
    TimedOut,
    /// No permit became free before the ambient deadline of the request.
    DeadlineExceeded,
    /// As many callers as `max_waiting` allows were waiting already; or this one waited, and somebody more important took
    /// its place.
    QueueFull,
    /// The holder waits, directly or through others, for itself: no release could ever end the wait.
    /// The steps lead from the refused caller round to it. One step: it holds this very resource.
    Deadlock(Vec<CycleStep>),
    /// It waited for too long in a queue that is overloaded: see
    /// [`Queue`](crate::contention::Queue).
    Overloaded,
    /// The lock was [closed](crate::ResourceLock::close).
    Closed,
    /// The store that keeps the permits of a [fleet](crate::fleet) cannot be asked: nobody is admitted before it can.
    #[cfg(feature = "redis")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    Unavailable {
        /// What the store said, or did not say.
        why: Arc<str>,
    },
    /// More permits were asked for at once than the resource has.
    ExceedsCapacity {
        /// How many were asked for.
        permits: usize,
    },
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
    /// `false` while the permit was granted to a waiter that has not run since. A waiter for which it stays `false` is
    /// a future that nobody polls: it keeps everybody behind it waiting.
    pub claimed: bool,
    /// How many permits it has with this acquisition.
    pub permits: usize,
}

impl HolderInfo {
    /// How many are named in a refusal or an event.
    pub(crate) const MOST_NAMED: usize = 16;

    pub(crate) fn new(holder: Holder, held_for: Duration, claimed: bool, permits: u32) -> Self {
        Self {
            holder,
            held_for,
            claimed,
            permits: permits as usize,
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

/// What is seen of a lock at one moment.
#[derive(Clone, Debug)]
pub(crate) struct LockView {
    pub(crate) holders: Vec<HolderInfo>,
    pub(crate) queue_length: usize,
    pub(crate) mean_hold: Option<Duration>,
}

/// A lock that can be looked at.
pub(crate) trait Look: Send + Sync {
    fn name(&self) -> &Arc<str>;
    fn look(&self) -> LockView;
}

/// There was no permit of a resource; the service behind it was not called. Cheap to clone.
#[derive(Clone)]
pub struct Contended {
    holder: Holder,
    capacity: u32,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    /// Nobody waited: nothing is collected, nor allocated, before somebody asks for it.
    AtOnce {
        lock: Arc<dyn Look>,
        reason: ContendedReason,
        seen: OnceLock<Arc<LockView>>,
    },
    Waited(Arc<Waited>),
}

struct Waited {
    resource: Arc<str>,
    reason: ContendedReason,
    waited: Duration,
    seen: LockView,
}

impl Contended {
    pub(crate) fn at_once(
        lock: Arc<dyn Look>,
        holder: Holder,
        reason: ContendedReason,
        capacity: u32,
    ) -> Self {
        let seen = OnceLock::new();
        Self {
            holder,
            capacity,
            kind: Kind::AtOnce { lock, reason, seen },
        }
    }

    pub(crate) fn after(
        waited: Duration,
        lock: &dyn Look,
        holder: Holder,
        reason: ContendedReason,
        capacity: u32,
    ) -> Self {
        Self {
            holder,
            capacity,
            kind: Kind::Waited(Arc::new(Waited {
                resource: Arc::clone(lock.name()),
                reason,
                waited,
                seen: lock.look(),
            })),
        }
    }

    fn seen(&self) -> &LockView {
        match &self.kind {
            Kind::AtOnce { lock, seen, .. } => seen.get_or_init(|| Arc::new(lock.look())),
            Kind::Waited(waited) => &waited.seen,
        }
    }

    /// The name of the resource.
    #[must_use]
    pub fn resource(&self) -> &str {
        match &self.kind {
            Kind::AtOnce { lock, .. } => lock.name(),
            Kind::Waited(waited) => &waited.resource,
        }
    }

    /// Who asked for it.
    #[must_use]
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// Why there was no permit.
    #[must_use]
    pub fn reason(&self) -> &ContendedReason {
        match &self.kind {
            Kind::AtOnce { reason, .. } => reason,
            Kind::Waited(waited) => &waited.reason,
        }
    }

    /// How long the caller had waited.
    #[must_use]
    pub fn waited(&self) -> Duration {
        match &self.kind {
            Kind::AtOnce { .. } => Duration::ZERO,
            Kind::Waited(waited) => waited.waited,
        }
    }

    /// Who has the permits: the longest holder first, and at most 16 of them. A
    /// [snapshot](crate::ResourceLock::snapshot) of the lock has more.
    ///
    /// After a wait these are the holders of the moment at which it ended. A refusal without a wait
    /// ([`Busy`](ContendedReason::Busy), [`QueueFull`](ContendedReason::QueueFull),
    /// [`ExceedsCapacity`](ContendedReason::ExceedsCapacity), or a lock that was closed already) has to be cheap: it
    /// collects nothing. Then these are the holders of the moment at which this, [`queue_length`](Self::queue_length),
    /// [`expected_wait`](Self::expected_wait) or the text of the error is first asked for. For that the error keeps the
    /// lock alive.
    #[must_use]
    pub fn holders(&self) -> &[HolderInfo] {
        &self.seen().holders
    }

    /// How many others wait, at the same moment as [`holders`](Self::holders).
    #[must_use]
    pub fn queue_length(&self) -> usize {
        self.seen().queue_length
    }

    /// How many permits the resource had when this was refused.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// How long somebody who asks now would wait, as far as the lock can tell: the mean time for which permits were held
    /// in the last minute, once for each of those who wait and once more, divided among the permits.
    ///
    /// An estimate, for callers to whom any time is better than none. `None` before the first permit has come back,
    /// after a deadlock, and where waiting is of no use: the lock is closed, or has too few permits.
    #[must_use]
    pub fn expected_wait(&self) -> Option<Duration> {
        match self.reason() {
            ContendedReason::Deadlock(_)
            | ContendedReason::Closed
            | ContendedReason::ExceedsCapacity { .. } => return None,
            // So often the store is asked whether it is back.
            #[cfg(feature = "redis")]
            ContendedReason::Unavailable { .. } => return Some(Duration::from_millis(100)),
            ContendedReason::Busy
            | ContendedReason::TimedOut
            | ContendedReason::DeadlineExceeded
            | ContendedReason::QueueFull
            | ContendedReason::Overloaded => {}
        }
        let seen = self.seen();
        let turns = u32::try_from(seen.queue_length)
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        let permits = self.capacity.max(1);
        seen.mean_hold
            .map(|hold| hold.saturating_mul(turns) / permits)
    }

    /// Whether waiting could never have ended.
    #[must_use]
    pub fn is_deadlock(&self) -> bool {
        matches!(self.reason(), ContendedReason::Deadlock(_))
    }
}

/// "deadlock: `a` waits for `x`, held by `b` which waits for `y`, held by `a`".
fn write_cycle(f: &mut fmt::Formatter<'_>, cycle: &[CycleStep], holder: &Holder) -> fmt::Result {
    f.write_str("deadlock: ")?;
    for (i, CycleStep { holder, waits_for }) in cycle.iter().enumerate() {
        let then = if i == 0 { "" } else { ", held by " };
        write!(f, "{then}`{holder}` which waits for `{waits_for}`")?;
    }
    write!(f, ", held by `{holder}`")
}

impl fmt::Display for Contended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (holder, waited) = (&self.holder, self.waited());
        write!(
            f,
            "`{holder}` could not get resource `{}`: ",
            self.resource()
        )?;
        match self.reason() {
            ContendedReason::Busy => f.write_str("it is busy")?,
            ContendedReason::TimedOut => write!(f, "still busy after {waited:.3?}")?,
            ContendedReason::DeadlineExceeded => {
                write!(f, "the deadline came after {waited:.3?} of waiting")?;
            }
            ContendedReason::QueueFull => {
                write!(f, "{} are waiting already", self.queue_length())?;
            }
            ContendedReason::Overloaded => {
                write!(f, "refused after {waited:.3?} in an overloaded queue")?;
            }
            ContendedReason::Deadlock(cycle) => return write_cycle(f, cycle, holder),
            ContendedReason::Closed => return f.write_str("it was closed"),
            #[cfg(feature = "redis")]
            ContendedReason::Unavailable { why } => return f.write_str(why),
            ContendedReason::ExceedsCapacity { permits } => {
                let capacity = self.capacity;
                return write!(
                    f,
                    "{permits} permits were asked for, and nobody can have more than {capacity}"
                );
            }
        }
        for (i, info) in self.holders().iter().take(3).enumerate() {
            let then = if i == 0 { ", held by" } else { "," };
            write!(f, "{then} {info}")?;
        }
        write_more(f, self.holders().len())
    }
}

impl fmt::Debug for Contended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contended")
            .field("resource", &self.resource())
            .field("holder", &self.holder)
            .field("reason", self.reason())
            .field("waited", &self.waited())
            .field("holders", &self.holders())
            .field("queue_length", &self.queue_length())
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

impl StdError for Contended {}
