//! What is asked, and what goes wrong: all of it from one seed.

use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

const SEED: u64 = 0x5eed_ca05;

/// More than a `ReplayLayer` keeps.
const TOO_LARGE: usize = 80 * 1024;

pub(crate) fn dice(id: u64, what: u64) -> StdRng {
    let mut hasher = DefaultHasher::new();
    for number in [SEED, id, what] {
        hasher.write_u64(number);
    }
    StdRng::seed_from_u64(hasher.finish())
}

pub(crate) fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// One request of a caller.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) id: u64,
    pub(crate) method: Method,
    pub(crate) keyed: bool,
    pub(crate) body: Bytes,
    /// The body is sent in pieces of this size.
    pub(crate) piece: usize,
    pub(crate) caller: Caller,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Reads the answer to its end.
    Patient,
    /// Goes away while it waits.
    GoesAway,
    /// Wants no more than the head.
    HeadOnly,
    /// Has a deadline that is over before most answers come.
    Hasty,
    /// Breaks off in the middle of its own body.
    BreaksOff,
}

impl Call {
    pub(crate) fn new(id: u64) -> Self {
        let mut dice = dice(id, u64::MAX);
        let (method, keyed) = match dice.random_range(0..10) {
            0..3 => (Method::GET, false),
            3..5 => (Method::PUT, false),
            5..9 => (Method::POST, false),
            _ => (Method::POST, true),
        };
        let size = match dice.random_range(0..20) {
            _ if method == Method::GET => 0,
            0..2 => 0,
            2..14 => dice.random_range(1..2_000),
            14..19 => dice.random_range(2_000..40_000),
            _ => TOO_LARGE,
        };
        let mut body = vec![0; size];
        dice.fill_bytes(&mut body);
        let caller = match dice.random_range(0..100) {
            0..3 => Caller::GoesAway,
            3..6 => Caller::HeadOnly,
            6..9 => Caller::Hasty,
            9..12 if size > 0 => Caller::BreaksOff,
            _ => Caller::Patient,
        };
        Self {
            id,
            method,
            keyed,
            body: body.into(),
            piece: dice.random_range(500..20_000),
            caller,
        }
    }

    pub(crate) fn may_be_done_twice(&self) -> bool {
        self.keyed || self.method != Method::POST
    }

    pub(crate) fn is_too_large(&self) -> bool {
        self.body.len() >= TOO_LARGE
    }

    /// The pieces of the body, as far as the caller sends them.
    pub(crate) fn stream(&self) -> impl Iterator<Item = Result<Bytes, Scripted>> + use<> {
        let mut pieces = self.pieces();
        let end = (self.caller == Caller::BreaksOff).then(|| {
            pieces.truncate(pieces.len() / 2);
            Err(Scripted)
        });
        pieces.into_iter().map(Ok).chain(end)
    }

    pub(crate) fn pieces(&self) -> Vec<Bytes> {
        let pieces = self.body.chunks(self.piece);
        pieces.map(|piece| self.body.slice_ref(piece)).collect()
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Scripted;

impl std::fmt::Display for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("as the script says")
    }
}

impl std::error::Error for Scripted {}

/// What a server does with one arrival of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    None,
    Slow(Duration),
    /// Answers with this status and `Retry-After`, before it has looked at the body or after.
    Status(u16, Option<&'static str>, Look),
    /// Ends the request without a head.
    NoHead(Look),
    /// Ends the connection, with everything on it.
    Kill,
    /// A good head, half of the body, and the end.
    HalfABody,
    /// Never answers.
    Hang,
    /// Answers, and wants no more requests on this connection.
    GoAway,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    AtTheHead,
    AtAllOfIt,
}

/// Where an attempt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Server,
    /// Nobody listens there.
    Nobody,
    /// Connects, and never reads a byte.
    Silence,
}

/// Ids in here meet little else than faults.
const OUTAGE: std::ops::Range<u64> = 1_000..1_150;

impl Fault {
    /// What the arrival number `nth` of a request meets.
    pub(crate) fn of(id: u64, nth: u32) -> Self {
        let mut dice = dice(id, u64::from(nth));
        let look = match dice.random_bool(0.5) {
            true => Look::AtTheHead,
            false => Look::AtAllOfIt,
        };
        let range = if OUTAGE.contains(&id) {
            0..300
        } else {
            0..1_000
        };
        match dice.random_range(range) {
            0..40 => Self::Status(503, None, look),
            40..70 => Self::Status(503, Some("0"), look),
            70..85 => Self::Status(503, Some("Sun, 06 Nov 1994 08:49:37 GMT"), look),
            85..100 => Self::Status(503, Some("soon"), look),
            100..140 => Self::Status(429, Some("0"), look),
            140..160 => Self::Status(429, None, look),
            160..200 => Self::Status(500, None, look),
            200..215 => Self::Status(502, Some("0"), look),
            215..245 => Self::NoHead(look),
            245..255 => Self::Kill,
            255..280 => Self::HalfABody,
            280..285 => Self::Hang,
            285..330 => Self::GoAway,
            330..400 => Self::Slow(Duration::from_millis(dice.random_range(1..4))),
            _ => Self::None,
        }
    }

    /// The server says that it has done nothing, in words that a client can believe.
    pub(crate) fn is_word_that_nothing_was_done(self) -> bool {
        match self {
            Self::Status(429, ..) => true,
            Self::Status(503, Some(when), _) => when != "soon",
            _ => false,
        }
    }
}

impl Route {
    /// Where attempt number `attempt` of a request goes.
    pub(crate) fn of(id: u64, attempt: u32) -> Self {
        match dice(id, u64::from(attempt) << 32).random_range(0..1_000) {
            0..30 => Self::Nobody,
            30..35 => Self::Silence,
            _ => Self::Server,
        }
    }
}
