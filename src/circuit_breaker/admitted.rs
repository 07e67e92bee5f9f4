use std::fmt;

use super::in_flight::Entry;
use super::state::Ticket;
use crate::util::time::Tick;

/// What an admitted call is known by, in three words: it is moved with every call, and words that are
/// written whole are read whole.
pub(super) struct Admitted {
    /// The lease of a probe, or the entry of a call that is timed: a call has one of them at most.
    place: u64,
    /// When it started; [`UNTIMED`] if nobody wants to know.
    started: Tick,
    /// The epoch, the kind and the stage; and which call it is to a config that is tried.
    bits: u64,
}

const UNTIMED: Tick = Tick(0);
const BY_HAND: u64 = 1 << 36;
const SHADOW_SHIFT: u32 = 37;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counted,
    /// A call of a half-open circuit.
    Probe,
    /// The breaker is disabled: how it ends interests nobody.
    Uncounted,
    /// Metrics only: the breaker would have refused it.
    Anyway,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The call is on its way, and was left in a wait of this crate.
    Waiting,
    /// The call is on its way.
    Started,
    /// User code is running right now: a permit that is dropped in this stage is dropped by a panic.
    Running,
    Settled,
}

impl Kind {
    const SHIFT: u32 = 32;
    const ALL: [Self; 4] = [Self::Counted, Self::Probe, Self::Uncounted, Self::Anyway];
}

impl Stage {
    const SHIFT: u32 = 34;
    const ALL: [Self; 4] = [Self::Waiting, Self::Started, Self::Running, Self::Settled];
}

impl Admitted {
    /// A call of a closed circuit that is not timed.
    #[inline]
    pub(super) const fn plain(epoch: u32) -> Self {
        Self {
            place: 0,
            started: UNTIMED,
            bits: epoch as u64
                | (Kind::Counted as u64) << Kind::SHIFT
                | (Stage::Started as u64) << Stage::SHIFT,
        }
    }

    pub(super) fn new(ticket: Ticket, kind: Kind) -> Self {
        let kind = match (kind, ticket.lease) {
            (Kind::Counted, 1..) => Kind::Probe,
            (kind, _) => kind,
        };
        let plain = Self::plain(ticket.epoch);
        Self {
            place: ticket.lease,
            bits: plain.bits & !(3 << Kind::SHIFT) | (kind as u64) << Kind::SHIFT,
            ..plain
        }
    }

    #[inline]
    pub(super) fn epoch(&self) -> u32 {
        self.bits as u32
    }

    #[inline]
    pub(super) fn kind(&self) -> Kind {
        Kind::ALL[(self.bits >> Kind::SHIFT & 3) as usize]
    }

    #[inline]
    pub(super) fn stage(&self) -> Stage {
        Stage::ALL[(self.bits >> Stage::SHIFT & 3) as usize]
    }

    #[inline]
    pub(super) fn set_stage(&mut self, stage: Stage) {
        self.bits = self.bits & !(3 << Stage::SHIFT) | (stage as u64) << Stage::SHIFT;
    }

    /// Whether it keeps a probe's place from others.
    pub(super) fn is_probe(&self) -> bool {
        self.kind() == Kind::Probe
    }

    pub(super) fn ticket(&self) -> Ticket {
        Ticket {
            epoch: self.epoch(),
            lease: if self.is_probe() { self.place } else { 0 },
        }
    }

    pub(super) fn started(&self) -> Option<Tick> {
        (self.started != UNTIMED).then_some(self.started)
    }

    pub(super) fn start(&mut self, now: Tick) {
        self.started = now;
    }

    /// From here on it is not timed.
    #[cfg(feature = "http")]
    pub(super) fn stop(&mut self) {
        self.started = UNTIMED;
    }

    /// Counted among the calls in flight; a probe has its lease instead.
    pub(super) fn enter(&mut self, entry: Option<Entry>) {
        if !self.is_probe() {
            self.place = entry.map_or(0, Entry::to_word);
        }
    }

    /// Where it is counted among the calls in flight.
    pub(super) fn entry(&self) -> Option<Entry> {
        match self.is_probe() {
            true => None,
            false => Entry::from_word(self.place),
        }
    }

    /// Gives up its entry, if it has one.
    pub(super) fn leave(&mut self) -> Option<Entry> {
        let entry = self.entry();
        if entry.is_some() {
            self.place = 0;
        }
        entry
    }

    /// Which call it is to a config that is tried, from 1.
    pub(super) const MOST_SHADOWS: u64 = (1 << (u64::BITS - SHADOW_SHIFT)) - 1;

    pub(super) fn set_shadow(&mut self, id: u64) {
        self.bits |= id << SHADOW_SHIFT;
    }

    /// Whether a config is tried on it too.
    #[inline]
    pub(super) fn has_shadow(&self) -> bool {
        self.bits >> SHADOW_SHIFT != 0
    }

    pub(super) fn shadow(&self) -> u64 {
        self.bits >> SHADOW_SHIFT
    }

    pub(super) fn take_shadow(&mut self) -> u64 {
        let id = self.shadow();
        self.bits &= (1 << SHADOW_SHIFT) - 1;
        id
    }

    /// The permit is held by the user's own code.
    pub(super) fn hold_by_hand(&mut self) {
        self.bits |= BY_HAND;
    }

    pub(super) fn is_held_by_hand(&self) -> bool {
        self.bits & BY_HAND != 0
    }
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted")
            .field("ticket", &self.ticket())
            .field("kind", &self.kind())
            .field("stage", &self.stage())
            .field("started", &self.started())
            .finish()
    }
}
