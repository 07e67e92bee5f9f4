use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::call::Holder;
use crate::util::time::Tick;

/// A call that one of this crate's layers refused: the service behind it was not called.
///
/// Found in any chain of errors, through tower's boxes and foreign wrappers, with [`Rejection::find`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Rejection {
    /// A circuit breaker refused.
    CircuitOpen(CircuitOpen),
    /// A resource was busy.
    Contended(Contended),
}

impl Rejection {
    /// The rejection in `error` or in what caused it, outermost first.
    ///
    /// ```
    /// use tower_bulwark::{BoxError, CircuitBreaker, Rejection};
    ///
    /// let breaker = CircuitBreaker::new("openai");
    /// breaker.force_open();
    /// let open = breaker.try_acquire().unwrap_err();
    ///
    /// let boxed: BoxError = std::io::Error::other(open).into();
    /// assert_eq!(Rejection::find(&*boxed).unwrap().name(), "openai");
    /// ```
    #[must_use]
    pub fn find(error: &(dyn StdError + 'static)) -> Option<Self> {
        // A chain is as long as the program's layering; a cyclic one is nobody's intention.
        const LONGEST_CHAIN: usize = 64;
        let mut next = Some(error);
        for _ in 0..LONGEST_CHAIN {
            let error = next?;
            if let Some(open) = error.downcast_ref::<CircuitOpen>() {
                return Some(Self::CircuitOpen(open.clone()));
            }
            if let Some(contended) = error.downcast_ref::<Contended>() {
                return Some(Self::Contended(contended.clone()));
            }
            if let Some(rejection) = error.downcast_ref::<Self>() {
                return Some(rejection.clone());
            }
            // `io::Error::source` skips the very error it was made from.
            next = match error
                .downcast_ref::<std::io::Error>()
                .and_then(|e| e.get_ref())
            {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        None
    }

    /// The name of the breaker or resource that refused.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::CircuitOpen(open) => open.name(),
            Self::Contended(contended) => contended.resource(),
        }
    }

    /// When another try has a chance, if that is known. A lock does not know; it can
    /// [guess](Contended::expected_wait).
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::CircuitOpen(open) => open.retry_after(),
            Self::Contended(_) => None,
        }
    }
}

impl From<CircuitOpen> for Rejection {
    fn from(open: CircuitOpen) -> Self {
        Self::CircuitOpen(open)
    }
}

impl From<Contended> for Rejection {
    fn from(contended: Contended) -> Self {
        Self::Contended(contended)
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CircuitOpen(open) => open.fmt(f),
            Self::Contended(contended) => contended.fmt(f),
        }
    }
}

impl StdError for Rejection {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(match self {
            Self::CircuitOpen(open) => open,
            Self::Contended(contended) => contended,
        })
    }
}

/// Why a circuit breaker refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum OpenReason {
    /// The circuit is open: the service failed too often a short while ago.
    Open,
    /// The circuit is half-open, and all probes are on their way.
    ProbesBusy,
    /// The circuit has closed and lets traffic in gradually; this call was not among the first.
    Ramping,
    /// An operator opened it, until further notice.
    ForcedOpen,
}

/// What is known of the moment a circuit opened. Shared by all rejections of that opening.
#[derive(Clone, Debug)]
pub(crate) struct Trip {
    pub(crate) name: Arc<str>,
    pub(crate) opened: Tick,
    pub(crate) failures: u64,
    pub(crate) last_failure: Option<Arc<str>>,
}

/// A circuit breaker refused the call; the service was neither called nor asked whether it is ready.
///
/// Cheap to clone, and made without an allocation.
#[derive(Clone, Debug)]
pub struct CircuitOpen {
    trip: Arc<Trip>,
    refusal: Refusal,
}

/// What a breaker found when it was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    pub(crate) at: Tick,
    /// When it is worth asking again; never, if nobody can say.
    pub(crate) until: Tick,
    pub(crate) reason: OpenReason,
}

impl Refusal {
    pub(crate) fn retry_after(self) -> Option<Duration> {
        (self.until != Tick::NEVER).then(|| self.until.since(self.at))
    }
}

impl CircuitOpen {
    #[inline]
    pub(crate) fn new(trip: Arc<Trip>, refusal: Refusal) -> Self {
        Self { trip, refusal }
    }

    /// The name of the breaker.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.trip.name
    }

    /// Why it refused.
    #[must_use]
    pub fn reason(&self) -> OpenReason {
        self.refusal.reason
    }

    /// How many failures the breaker had counted when it opened.
    #[must_use]
    pub fn failure_count(&self) -> u64 {
        self.trip.failures
    }

    /// How long the circuit had been open when it refused this call.
    #[must_use]
    pub fn open_for(&self) -> Duration {
        self.refusal.at.since(self.trip.opened)
    }

    /// When the circuit opened.
    #[must_use]
    pub fn opened_at(&self) -> tokio::time::Instant {
        self.trip.opened.to_instant()
    }

    /// How long after the refusal the breaker will let a probe through. `None` when nobody can say:
    /// an operator forced it open, or a probe is on its way.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal.retry_after()
    }

    /// The message of the failure that opened it, if a failure did.
    #[must_use]
    pub fn last_failure(&self) -> Option<&str> {
        self.trip.last_failure.as_deref()
    }
}

impl fmt::Display for CircuitOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        match self.reason() {
            OpenReason::Open => write!(f, "circuit breaker `{name}` is open")?,
            OpenReason::ProbesBusy => {
                write!(
                    f,
                    "circuit breaker `{name}` is half-open and its probes are busy"
                )?;
            }
            OpenReason::Ramping => {
                write!(f, "circuit breaker `{name}` lets traffic back in gradually")?;
            }
            OpenReason::ForcedOpen => {
                write!(f, "circuit breaker `{name}` was forced open by an operator")?;
            }
        }
        if self.reason() == OpenReason::Open {
            write!(f, " after {} failures", self.failure_count())?;
        }
        if let Some(delay) = self.retry_after() {
            write!(f, ", retry after {delay:.3?}")?;
        }
        if let Some(last) = self.last_failure() {
            write!(f, " (last failure: {last})")?;
        }
        Ok(())
    }
}

impl StdError for CircuitOpen {}

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
