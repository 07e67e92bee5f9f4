use std::fmt;
use std::time::Duration;

use crate::call::Holder;
use crate::error::{CycleStep, HolderInfo, write_more};

/// What a resource lock reports to observers.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ContentionEvent {
    /// Somebody has been waiting for longer than `contention_threshold`, and *still waits*. (`WARN`)
    #[non_exhaustive]
    Contended {
        /// Who waits.
        holder: Holder,
        /// For how long.
        waited: Duration,
        /// Whom it waits for, the longest holder first; at most 16.
        holders: Vec<HolderInfo>,
        /// How many wait, this one included.
        queue_length: usize,
    },
    /// A wait ended with a permit. (`DEBUG`)
    #[non_exhaustive]
    Acquired {
        /// Who waited.
        holder: Holder,
        /// For how long.
        waited: Duration,
    },
    /// A wait ended without a permit because it took too long. (`WARN`)
    #[non_exhaustive]
    TimedOut {
        /// Who waited.
        holder: Holder,
        /// For how long.
        waited: Duration,
        /// Who had the permits, the longest holder first; at most 16.
        holders: Vec<HolderInfo>,
        /// Whether it was the request's deadline that came, not the lock's own timeout.
        deadline: bool,
    },
    /// A waiter went away. (`DEBUG`)
    #[non_exhaustive]
    Abandoned {
        /// Who waited.
        holder: Holder,
        /// For how long.
        waited: Duration,
    },
    /// Nobody more may wait. (`INFO`, at most one refusal a second)
    #[non_exhaustive]
    QueueFull {
        /// Who was refused.
        holder: Holder,
        /// How many wait.
        queue_length: usize,
    },
    /// There was no free permit, and the caller did not want to wait. (`INFO`, at most one refusal a second)
    #[non_exhaustive]
    Busy {
        /// Who was refused.
        holder: Holder,
    },
    /// A waiter was refused because the queue is overloaded, or full and somebody more important came. (`INFO`, at most
    /// one a second)
    #[non_exhaustive]
    Shed {
        /// Who waited.
        holder: Holder,
        /// For how long.
        waited: Duration,
    },
    /// A cycle of waits that no release can break. The wait that would have given up first is refused, unless
    /// deadlocks are only reported. (`ERROR`)
    #[non_exhaustive]
    Deadlock {
        /// Whose wait gives way.
        holder: Holder,
        /// From the refused caller round to itself.
        cycle: Vec<CycleStep>,
    },
    /// Somebody has held a permit for longer than `hold_threshold`. (`WARN`)
    #[non_exhaustive]
    LongHold {
        /// Who.
        holder: Holder,
        /// For how long.
        held_for: Duration,
        /// Whether it has given the permit back by now.
        released: bool,
    },
    /// A waiter was granted a permit and has not run since, for `contention_threshold`: its future is not polled, and
    /// everybody behind it waits. (`WARN`)
    #[non_exhaustive]
    NotPolled {
        /// Whose wait it is.
        holder: Holder,
        /// For how long it has had the permit.
        granted_for: Duration,
    },
    /// The lock was closed. (`INFO`)
    #[non_exhaustive]
    Closed {
        /// How many permits were still in use.
        in_use: usize,
    },
    /// The number of permits was changed. (`INFO`)
    #[non_exhaustive]
    CapacityChanged {
        /// The number before.
        from: usize,
        /// The number now.
        to: usize,
    },
}

impl ContentionEvent {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Contended { .. } => "contended",
            Self::Acquired { .. } => "acquired",
            Self::TimedOut { .. } => "timed_out",
            Self::Abandoned { .. } => "abandoned",
            Self::QueueFull { .. } => "queue_full",
            Self::Busy { .. } => "busy",
            Self::Shed { .. } => "shed",
            Self::Deadlock { .. } => "deadlock",
            Self::LongHold { .. } => "long_hold",
            Self::NotPolled { .. } => "not_polled",
            Self::Closed { .. } => "closed",
            Self::CapacityChanged { .. } => "capacity_changed",
        }
    }
}

/// "held by a for 3s, b for 2s and 4 more".
fn write_holders(f: &mut fmt::Formatter<'_>, holders: &[HolderInfo]) -> fmt::Result {
    for (i, info) in holders.iter().take(3).enumerate() {
        write!(f, "{}{info}", if i == 0 { ", held by " } else { ", " })?;
    }
    write_more(f, holders.len())
}

fn write_cycle(f: &mut fmt::Formatter<'_>, holder: &Holder, cycle: &[CycleStep]) -> fmt::Result {
    write!(f, "deadlock:")?;
    for CycleStep { holder, waits_for } in cycle {
        write!(f, " `{holder}` waits for `{waits_for}`, held by")?;
    }
    write!(f, " `{holder}`")
}

impl fmt::Display for ContentionEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Contended {
                holder,
                waited,
                holders,
                queue_length,
            } => {
                write!(
                    f,
                    "`{holder}` has waited {waited:.3?} ({queue_length} in the queue)"
                )?;
                write_holders(f, holders)
            }
            Self::Acquired { holder, waited } => write!(f, "`{holder}` got it after {waited:.3?}"),
            Self::TimedOut {
                holder,
                waited,
                holders,
                deadline,
            } => {
                let why = if *deadline { "deadline" } else { "timeout" };
                write!(f, "`{holder}` gave up after {waited:.3?} ({why})")?;
                write_holders(f, holders)
            }
            Self::Abandoned { holder, waited } => {
                write!(f, "`{holder}` went away after {waited:.3?}")
            }
            Self::QueueFull {
                holder,
                queue_length,
            } => write!(f, "`{holder}` was refused: {queue_length} are waiting"),
            Self::Busy { holder } => write!(f, "`{holder}` was refused: it is busy"),
            Self::Shed { holder, waited } => {
                write!(
                    f,
                    "`{holder}` was refused after {waited:.3?}: too many wait"
                )
            }
            Self::Deadlock { holder, cycle } => write_cycle(f, holder, cycle),
            Self::LongHold {
                holder,
                held_for,
                released,
            } => {
                let tense = if *released { "held" } else { "has held" };
                write!(f, "`{holder}` {tense} it for {held_for:.3?}")
            }
            Self::NotPolled {
                holder,
                granted_for,
            } => write!(
                f,
                "`{holder}` was granted it {granted_for:.3?} ago and has not been polled since"
            ),
            Self::Closed { in_use } => write!(f, "closed, {in_use} in use"),
            Self::CapacityChanged { from, to } => write!(f, "capacity {from} -> {to}"),
        }
    }
}
