use std::fmt;
use std::time::Duration;

/// What a drill reports to observers.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ChaosEvent {
    /// From here on there are faults. (`WARN`)
    #[non_exhaustive]
    Armed {
        /// For so long; `Duration::MAX` until it is disarmed.
        length: Duration,
    },
    /// From here on there are none. (`INFO`)
    Disarmed,
    /// A call met a fault. (`INFO`, at most one a second)
    #[non_exhaustive]
    Injected {
        /// Which.
        fault: ChaosFault,
        /// The number of the call.
        call: u64,
    },
}

/// A fault on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ChaosFault {
    /// The answer is late.
    Latency,
    /// The call fails.
    Error,
    /// The call never ends.
    Hang,
    /// The call panics.
    Panic,
    /// The body of the response breaks off.
    CutBody,
}

impl fmt::Display for ChaosFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Latency => "latency",
            Self::Error => "error",
            Self::Hang => "hang",
            Self::Panic => "panic",
            Self::CutBody => "cut body",
        })
    }
}

impl ChaosEvent {
    /// A short name of what happened.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Armed { .. } => "armed",
            Self::Disarmed => "disarmed",
            Self::Injected { .. } => "injected",
        }
    }
}

impl fmt::Display for ChaosEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Armed { length } if *length == Duration::MAX => {
                f.write_str("armed: calls meet faults on purpose")
            }
            Self::Armed { length } => {
                write!(f, "armed for {length:.0?}: calls meet faults on purpose")
            }
            Self::Disarmed => f.write_str("disarmed"),
            Self::Injected { fault, call } => write!(f, "call {call} meets a fault: {fault}"),
        }
    }
}
