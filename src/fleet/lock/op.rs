//! What is asked of a shared lock, and what comes back: the same for the core in memory and for the scripts.

use std::sync::Arc;
use std::time::Duration;

/// Microseconds since 1970 by the clock of the store, or a span of them.
pub(crate) type Micros = i64;

/// How long somebody who waits may be silent before it loses its place.
pub(crate) const WAIT_TTL: Micros = 4_000_000;

/// The first lease of somebody who was handed a slot, at most: it may be gone by then.
pub(crate) const CONFIRM: Micros = 2_000_000;

/// How many who wait are named.
pub(crate) const MOST_LISTED: usize = 100;

/// How many leases are named: a list is asked for each second, and the server does nothing else meanwhile.
pub(crate) const MOST_HELD: usize = 1_000;

/// One attempt to get a slot, as the store keeps it: `id|lease|inbox|node|workflow`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Member(Arc<str>);

impl Member {
    /// Only the workflow may have a `|` in it.
    pub(crate) fn new(id: &str, lease: Micros, inbox: &str, node: &str, workflow: &str) -> Self {
        Self(format!("{id}|{lease}|{inbox}|{node}|{workflow}").into())
    }

    /// As it came from a store.
    pub(crate) fn read(text: &str) -> Self {
        Self(text.into())
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    fn part(&self, n: usize) -> &str {
        self.0.splitn(5, '|').nth(n).unwrap_or_default()
    }

    pub(crate) fn id(&self) -> &str {
        self.part(0)
    }

    pub(crate) fn lease(&self) -> Micros {
        self.part(1).parse().unwrap_or(0)
    }

    pub(crate) fn inbox(&self) -> &str {
        self.part(2)
    }

    pub(crate) fn node(&self) -> &str {
        self.part(3)
    }

    pub(crate) fn workflow(&self) -> &str {
        self.part(4)
    }
}

/// A lease, as its holder knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) slot: u32,
    pub(crate) token: u64,
    /// As the store said last.
    pub(crate) expiry: Micros,
    pub(crate) member: Member,
}

/// Each is one step of the store: all of it is done, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Acquire {
        member: Member,
        /// How many may wait, at most; 0: this one does not want to.
        may_wait: i64,
        max: i64,
        version: i64,
        /// After a loss nobody new is admitted for this long; 0: at once.
        grace: Micros,
        /// Whether an earlier call for this member may have been done.
        retry: bool,
    },
    Release(Vec<(u32, u64)>),
    Cancel(Vec<Member>),
    Renew(Vec<Held>),
    Beat(Vec<Member>),
    Resize {
        max: i64,
        /// `None`: the one after what is in force.
        version: Option<i64>,
    },
    List,
}

/// What every answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) now: Micros,
    /// -1 if the store knows of none.
    pub(crate) max: i64,
    pub(crate) version: i64,
    pub(crate) reply: Reply,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Granted {
        slot: u32,
        token: u64,
        expiry: Micros,
    },
    Waits {
        rank: i64,
        /// When the next lease ends; 0: not known.
        next: Micros,
    },
    Refused {
        waiting: i64,
    },
    /// For each whether it was held.
    Released(Vec<bool>),
    Cancelled(Vec<Cancelled>),
    /// For each the new expiry; 0: lost.
    Renewed(Vec<Micros>),
    Beaten {
        next: Micros,
        waiting: i64,
        /// Of each; -1: it does not wait.
        ranks: Vec<i64>,
    },
    Resized,
    Listed(Listed),
}

impl Listed {
    /// So long after it was heard: whether those who waited then may still do so.
    pub(crate) fn is_fresh(&self, age: Duration) -> bool {
        age.as_micros() <= WAIT_TTL as u128
    }

    /// Who waits still, as far as is known.
    pub(crate) fn still_waiting(&self, age: Duration) -> &[(Member, Micros)] {
        if self.is_fresh(age) { &self.queue } else { &[] }
    }

    /// Whose lease, of those heard `then`, has not ended since, as far as is known.
    pub(crate) fn still_held(&self, then: Micros, age: Duration) -> impl Iterator<Item = &Held> {
        let age = Micros::try_from(age.as_micros()).unwrap_or(Micros::MAX);
        let now = then.saturating_add(age);
        self.held.iter().filter(move |it| it.expiry > now)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cancelled {
    Unknown,
    LeftTheQueue,
    GaveBack,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) waiting: i64,
    /// How many are held.
    pub(crate) live: i64,
    /// The first thousand of them to end.
    pub(crate) held: Vec<Held>,
    /// The first hundred, each with its ticket: the time since when it waits, if no clock went back.
    pub(crate) queue: Vec<(Member, Micros)>,
}

/// A slot was handed to somebody who waited: told to its process. The message may be lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Handoff {
    pub(crate) inbox: String,
    pub(crate) id: String,
    pub(crate) slot: u32,
    pub(crate) token: u64,
    pub(crate) expiry: Micros,
    pub(crate) now: Micros,
}
